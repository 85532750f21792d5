//! A wrapper that leases units: an isolate takes them beforehand and spends them without asking the store.
//!
//! If a policy has a `lease`, the isolate takes some of the units that its caller is likely to
//! ask for. How many depends on what the caller asked for lately. The store counts them as taken at the end of
//! the time for which they are leased ([`Quota::lease`](crate::quota::Quota::lease)), so the quota's bound holds whichever
//! isolate spends them, and whenever. A request that finds enough leased units in every quota it meets costs no I/O. If few
//! are left, it leaves a [`Prefetch`] for the background.
//!
//! The price: leased units that are not spent in time are lost to the caller until they leave the window.
//! And after a block or a reset made elsewhere, an isolate still admits up to a lease of units. A quota whose denial
//! sets a block is not leased: nobody may be blocked because of units that were never spent.

use std::cell::RefCell;

use self::map::LeaseMap;
use super::shared::{ChargeExtra, Question, SharedStore, StoreReply};
use super::{Check, StoreError};
use crate::seed::Seed;
use crate::time::Timestamp;

mod demand;
mod map;
mod quota;

/// The default for the most quotas whose leases an isolate keeps, over all callers and policies.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// The most prefetches that wait to be made.
const MAX_PREFETCHES: usize = 64;

/// Units to lease in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// The check to ask, at a cost of 0.
    pub check: Check,
    /// Units to lease from each of its charges.
    leases: Vec<u32>,
}

impl Prefetch {
    /// The extra to ask with each charge of the check.
    #[must_use]
    pub fn extras(&self) -> Vec<ChargeExtra> {
        let leases = self.leases.iter();
        let extra = |lease: &u32| ChargeExtra {
            lease: *lease,
            backlog: None,
        };
        leases.map(extra).collect()
    }
}

/// A store from whose quotas units are leased.
pub struct Leases<S> {
    inner: S,
    leased: RefCell<LeaseMap>,
    prefetches: RefCell<Vec<Prefetch>>,
    /// Whether to lease nothing for a check of several callers.
    one_caller_only: bool,
}

impl<S> Leases<S> {
    /// Keeps the leases of up to `entries` quotas of `inner`.
    #[must_use]
    pub fn new(inner: S, entries: usize, seed: &Seed) -> Self {
        Self {
            inner,
            leased: RefCell::new(LeaseMap::new(entries, seed)),
            prefetches: RefCell::default(),
            one_caller_only: false,
        }
    }

    /// Sets whether to lease nothing for a check of several callers. In a cluster each caller's quotas are decided
    /// separately ([`super::cluster`]), so a lease of one caller would be wasted if another caller's quotas deny.
    #[must_use]
    pub fn one_caller_only(mut self, one_caller_only: bool) -> Self {
        self.one_caller_only = one_caller_only;
        self
    }

    /// The wrapped store.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Forgets the lease of a quota. Its units stay taken until they leave the window.
    pub fn forget(&self, key: &str) {
        self.leased.borrow_mut().forget(key);
    }

    /// The next prefetch to [ask](SharedStore::ask) in the background, after leased units have become few. Each is returned
    /// once. If it fails, nothing is lost: a request that finds no leased units asks for its own.
    pub fn next_prefetch(&self) -> Option<Prefetch> {
        self.prefetches.borrow_mut().pop()
    }
}

impl<S: SharedStore> Leases<S> {
    async fn ask_inner(
        &self,
        question: &Question<'_>,
        now: Timestamp,
    ) -> Result<StoreReply, StoreError> {
        let mut reply = self.inner.ask(question, now).await;
        let mut leased = self.leased.borrow_mut();
        match &mut reply {
            Ok(reply) => leased.learn(question, reply, now),
            Err(error) => leased.learn_failure(question, error, now),
        }
        reply
    }
}

impl<S: SharedStore> SharedStore for Leases<S> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let check = question.check;
        if !may_lease(check) || (self.one_caller_only && !check.is_of_one_caller()) {
            return self.inner.ask(question, now).await;
        }
        if check.cost == 0 {
            // A prefetch, or a read. A read changes nothing here.
            let prefetches = (0..check.charges.len()).any(|place| question.extra(place).lease > 0);
            return match prefetches {
                true => self.ask_inner(question, now).await,
                false => self.inner.ask(question, now).await,
            };
        }
        let spent = self.leased.borrow_mut().spend(check, now);
        if let Some((verdict, prefetch)) = spent {
            let mut prefetches = self.prefetches.borrow_mut();
            if prefetches.len() < MAX_PREFETCHES {
                prefetches.extend(prefetch);
            }
            return Ok(verdict.into());
        }
        let leases = self.leased.borrow_mut().ask(check, now);
        match leases {
            None => self.ask_inner(question, now).await,
            Some(leases) => {
                let mut question = question.clone();
                for (extra, lease) in question.extras_mut().iter_mut().zip(leases) {
                    extra.lease = lease;
                }
                self.ask_inner(&question, now).await
            }
        }
    }
}

/// Whether every quota that can deny has a lease, and none of them blocks.
fn may_lease(check: &Check) -> bool {
    let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
    enforced.clone().next().is_some() && enforced.all(|charge| charge.lease > 1 && !charge.blocks())
}

#[cfg(test)]
mod tests;
