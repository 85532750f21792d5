//! Leases: units that an isolate takes beforehand and spends without asking.
//!
//! A quota whose policy has a `lease` may be drawn on for some of the units that its caller is about
//! to ask for: what it has asked for lately tells how many. They are counted as taken, at the end of
//! the time for which they are held ([`Quota::lease`](crate::quota::Quota::lease)), so the quota's bound holds whoever spends
//! them when. Requests that find enough of them, in every quota they meet, cost no I/O; the first of
//! those to find few leaves a [`Prefetch`] for the background.
//!
//! The price: what is held and not spent in time is lost to the caller until it leaves the window,
//! and up to a lease of requests go ahead after a block or a reset made elsewhere. A quota whose denial
//! sets a block is not leased: nobody is to be blocked for units that were never spent.

use std::cell::RefCell;

use self::map::LeaseMap;
use super::shared::{ChargeExtra, Question, SharedStore, StoreReply};
use super::{Check, StoreError};
use crate::seed::Seed;
use crate::time::Timestamp;

mod demand;
mod map;
mod quota;

/// Callers whose leases an isolate keeps unless told otherwise, times their policies.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// Prefetches that nobody has made yet.
const MAX_PREFETCHES: usize = 64;

/// Units to lease in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// It costs nothing.
    pub check: Check,
    /// Units to lease of each of its charges.
    leases: Vec<u32>,
}

impl Prefetch {
    /// What to ask for each charge beside the check.
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

/// A store of whose quotas some units are held beforehand.
pub struct Leases<S> {
    inner: S,
    leased: RefCell<LeaseMap>,
    prefetches: RefCell<Vec<Prefetch>>,
    /// Whether nothing is leased for a check of several callers.
    of_one_caller: bool,
}

impl<S> Leases<S> {
    /// Keeps the leases of up to `entries` quotas of `inner`.
    #[must_use]
    pub fn new(inner: S, entries: usize, seed: &Seed) -> Self {
        Self {
            inner,
            leased: RefCell::new(LeaseMap::new(entries, seed)),
            prefetches: RefCell::default(),
            of_one_caller: false,
        }
    }

    /// Leases nothing for a check of several callers, if so: where each caller's quotas decide for themselves
    /// ([`super::cluster`]), a lease taken of one would be of no use once another denies.
    #[must_use]
    pub fn of_one_caller(mut self, of_one_caller: bool) -> Self {
        self.of_one_caller = of_one_caller;
        self
    }

    /// The store that is asked.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Forgets the lease of a quota: its units are lost until they leave the window.
    pub fn forget(&self, key: &str) {
        self.leased.borrow_mut().forget(key);
    }

    /// Units have become few: what to [ask](SharedStore::ask) for in the background. Each is returned
    /// once. If it fails nothing is lost: a request that finds nothing held asks for itself.
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
        if !may_lease(check) || (self.of_one_caller && !check.is_of_one_caller()) {
            return self.inner.ask(question, now).await;
        }
        if check.cost == 0 {
            // A prefetch, or a read, which takes nothing over.
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
