//! Quotas in this isolate's memory: without configuration, and while the shared store is out.
//!
//! Bounded: when it is full, what has expired goes first, then the callers that have used the least
//! share of their limit (the longest untouched first), and callers that are limited or blocked right
//! now only when nobody else is left. Forgetting a caller hands it a fresh quota, so with `n`
//! entries for more than `n` active callers the bound on a caller is its limit per stay in the map.

use std::cell::{Cell, RefCell};

use self::map::Map;
use super::decide::Record;
use super::shared::{Question, SharedStore, StoreReply, StoredCharge};
use super::{Charge, Check, Source, StoreError, Verdict};
use crate::seed::Seed;
use crate::time::Timestamp;

/// Entries that an isolate keeps unless told otherwise. One is about 300 bytes, and 1.3 KB at the
/// most (a sliding window with every sub-window in use), of an isolate's 128 MB.
pub const DEFAULT_ENTRIES: usize = 50_000;

/// The store in memory.
pub struct Memory {
    map: RefCell<Map>,
    seed: Seed,
    /// Names given so far to backlogs.
    named: Cell<u64>,
}

impl Memory {
    /// An empty store that holds at most `entries` (at least one).
    #[must_use]
    pub fn new(entries: usize, seed: Seed) -> Self {
        Self {
            map: RefCell::new(Map::new(entries, seed.clone())),
            seed,
            named: Cell::new(0),
        }
    }

    /// Entries held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.borrow().len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When `check` would be admitted, if not at `now`, by what is held: nothing is consumed.
    #[must_use]
    pub fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        let rulings = self.map.borrow().decide(&Question::new(check), now);
        let answers = rulings.iter().filter_map(|ruling| ruling.answer.retry_at());
        answers.max()
    }

    /// Forgets what is held under `key`.
    pub fn forget(&self, key: &str) {
        self.map.borrow_mut().forget(key);
    }
}

impl Memory {
    /// Decides by what is held.
    pub fn decide_here(&self, check: &Check, now: Timestamp) -> Verdict {
        let mut map = self.map.borrow_mut();
        let ruled = map.decide(&Question::new(check), now);
        let mut answers = Vec::with_capacity(ruled.len());
        for (charge, ruled) in check.charges.iter().zip(ruled) {
            answers.push(Some(ruled.answer));
            map.keep(charge, ruled.record, &ruled.answer, now);
        }
        Verdict {
            answers,
            source: Source::Memory,
            ..Verdict::default()
        }
    }
}

/// As a shared store, whose replies say what it holds.
impl SharedStore for Memory {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let mut map = self.map.borrow_mut();
        let ruled = map.decide(question, now);
        let mut reply = StoreReply::default();
        for (charge, ruled) in question.check.charges.iter().zip(ruled) {
            reply.verdict.answers.push(Some(ruled.answer));
            reply.holdings.push(StoredCharge {
                leased: ruled.leased,
                state: ruled.record.state.clone(),
            });
            map.keep(charge, ruled.record, &ruled.answer, now);
        }
        Ok(reply)
    }

    fn remembered_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        let map = self.map.borrow();
        // A denial that would set a block is not known yet: it has to be decided.
        let sets_no_block = |charge: &Charge| {
            let stands = |record: &Record| record.blocked_until.is_some_and(|until| until > now);
            charge.block.is_none() || map.held(&charge.key, now).is_some_and(stands)
        };
        if check.charges.is_empty() || !check.charges.iter().all(sets_no_block) {
            return None;
        }
        let rulings = map.decide(&Question::new(check), now);
        let answers = rulings.into_iter().map(|ruling| Some(ruling.answer));
        let verdict = Verdict {
            answers: answers.collect(),
            ..Verdict::default()
        };
        (!verdict.allows(check)).then_some(verdict)
    }
}

mod backlog;
mod map;
mod outage;

#[cfg(test)]
mod tests;
