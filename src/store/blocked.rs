//! Blocked ranges, and blocked addresses while the shared store does not say: from this isolate's
//! copy of them ([`crate::blocklist`]).
//!
//! In a shared database the address's own block is part of every decision, and so is the version of
//! the rest, at no command of its own. A request that finds another version than the copy's has the
//! copy loaded before it goes on: one call more, by one request, when something has changed. A range
//! that denies is asked about again every few seconds, so that one lifted elsewhere is soon forgotten.
//! While the store is out, the last copy rules, for ranges and addresses alike.

use std::cell::RefCell;
use std::rc::Rc;

use super::shared::{Question, Reply, SharedStore};
use super::{Check, StoreError, Verdict};
use crate::blocklist::copy::BlocklistCopy;
use crate::blocklist::records::COPY_COMMANDS;
use crate::blocklist::{AddressBlock, Target};
use crate::budget::Purpose;
use crate::effects::Effects;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::time::Timestamp;

/// A store that answers callers in blocked ranges itself.
pub struct Blocked<S, D, E> {
    inner: S,
    effects: E,
    records: Rc<Records<D>>,
    copy: RefCell<BlocklistCopy>,
}

impl<S, D: Database, E: Effects> Blocked<S, D, E> {
    /// `records` are in the database that `inner` decides in.
    pub fn new(inner: S, records: Rc<Records<D>>, effects: E) -> Self {
        Self {
            inner,
            effects,
            records,
            copy: RefCell::default(),
        }
    }

    /// The store that is asked.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Loads the copy anew.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy stays as it was.
    pub async fn reload(&self, now: Timestamp) -> Result<(), StoreError> {
        (self.records).prepay(COPY_COMMANDS, Purpose::Decision, now)?;
        let loaded = self.records.blocklist_copy(now).await?;
        self.copy.borrow_mut().replace(loaded, now);
        Ok(())
    }

    /// Puts a block in force here that could not be written to the database.
    pub fn add(&self, target: &Target, block: AddressBlock) {
        self.copy.borrow_mut().add(target, block);
    }

    async fn compare(&self, version: Option<&str>, now: Timestamp) {
        let load = self.copy.borrow_mut().compare(version, now);
        if load {
            // Others count on the copy. The last one stays if this fails, and another request tries again.
            self.effects.outlive_client();
            let _ = self.reload(now).await;
        }
    }

    fn in_range(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        let found = self.copy.borrow().range(address, now);
        found.map(|(_, block)| block)
    }

    fn any(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        self.copy.borrow().any(address, now)
    }
}

fn denied(block: AddressBlock, check: &Check) -> Reply {
    Reply::from(Verdict {
        address_block: Some(block),
        answers: vec![None; check.charges.len()],
        ..Verdict::default()
    })
}

impl<S: SharedStore, D: Database, E: Effects> Blocked<S, D, E> {
    /// Whether the range that denies a caller still stands, by the store's word.
    async fn ask_again(&self, check: &Check, now: Timestamp) {
        let question = Check {
            address: check.address.clone(),
            charges: Vec::new(),
            cost: check.cost,
        };
        if let Ok(reply) = self.inner.ask(&Question::new(&question), now).await
            && !reply.verdict.degraded
        {
            self.compare(reply.ranges_version.as_deref(), now).await;
        }
    }
}

impl<S: SharedStore, D: Database, E: Effects> SharedStore for Blocked<S, D, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Reply, StoreError> {
        let check = question.check;
        let Some(address) = &check.address else {
            return self.inner.ask(question, now).await;
        };
        if !self.records.is_shared() {
            return match self.any(address, now) {
                Some(block) => Ok(denied(block, check)),
                None => self.inner.ask(question, now).await,
            };
        }
        if self.in_range(address, now).is_some() {
            let should_ask = self.copy.borrow_mut().should_ask(now);
            if should_ask {
                self.effects.outlive_client();
                self.ask_again(check, now).await;
            }
            if self.in_range(address, now).is_some()
                && let Some(block) = self.any(address, now)
            {
                return Ok(denied(block, check));
            }
        }
        let mut reply = self.inner.ask(question, now).await;
        match &mut reply {
            Ok(decided) if !decided.verdict.degraded => {
                // What memory answers says nothing of the version.
                if decided.ranges_version.is_some() {
                    self.compare(decided.ranges_version.as_deref(), now).await;
                }
                let range = self.in_range(address, now);
                let verdict = &mut decided.verdict;
                verdict.address_block = AddressBlock::longer(verdict.address_block, range);
                reply
            }
            _ => match self.any(address, now) {
                Some(block) => Ok(denied(block, check)),
                None => reply,
            },
        }
    }
}

#[cfg(test)]
mod tests;
