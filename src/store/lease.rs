//! Leases: units that an isolate takes beforehand and spends without asking.
//!
//! A quota whose policy has a `lease` may be drawn on for some of the units that its caller is about
//! to ask for: what it has asked for lately tells how many. They are counted as taken, at the end of
//! the time for which they are held ([`Quota::lease`](crate::quota::Quota::lease)), so the quota's bound holds whoever spends
//! them when. Requests that find enough of them, in every quota they meet, cost no I/O; the first of
//! those to find few leaves a [wish](Leases::wish) for more, to be
//! [fetched](Leases::fetch_ahead) in the background.
//!
//! The price: what is held and not spent in time is lost to the caller until it leaves the window,
//! and up to a lease of requests go ahead after a block or a reset made elsewhere. A quota whose denial
//! sets a block is not leased: nobody is to be blocked for units that were never spent.

use std::cell::RefCell;

use self::held::Held;
use super::{Check, Store, StoreError, Verdict};
use crate::seed::Seed;
use crate::time::Timestamp;

mod held;

/// Callers whose leases an isolate keeps unless told otherwise, times their policies.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// Wishes that nobody has fetched yet.
const WISHES: usize = 64;

/// A store of whose quotas some units are held beforehand.
pub struct Leases<S> {
    inner: S,
    held: RefCell<Held>,
    wishes: RefCell<Vec<Check>>,
}

impl<S> Leases<S> {
    /// Keeps the leases of up to `entries` quotas of `inner`.
    #[must_use]
    pub fn new(inner: S, entries: usize, seed: Seed) -> Self {
        Self {
            inner,
            held: RefCell::new(Held::new(entries, &seed)),
            wishes: RefCell::default(),
        }
    }

    /// The store that is asked.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Forgets the lease of a quota: its units are lost until they leave the window.
    pub fn forget(&self, key: &str) {
        self.held.borrow_mut().forget(key);
    }

    /// What is held has become little: the check that takes more of it, for the background. Each
    /// wish is told once.
    pub fn wish(&self) -> Option<Check> {
        self.wishes.borrow_mut().pop()
    }
}

impl<S: Store> Leases<S> {
    /// Takes what was [wished](Self::wish) for.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the store that is asked. Nothing is lost by it: a request that finds nothing
    /// held asks for itself.
    pub async fn fetch_ahead(&self, wish: &Check, now: Timestamp) -> Result<(), StoreError> {
        self.ask(wish, now).await.map(drop)
    }

    async fn ask(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let mut decided = self.inner.decide(check, now).await;
        let mut held = self.held.borrow_mut();
        match &mut decided {
            Ok(verdict) => held.learn(check, verdict, now),
            Err(error) => held.learn_failure(check, error, now),
        }
        decided
    }
}

impl<S: Store> Store for Leases<S> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        if check.cost == 0 || !may_lease(check) {
            return self.inner.decide(check, now).await;
        }
        let found = self.held.borrow_mut().spend(check, now);
        if let Some((verdict, wish)) = found {
            let mut wishes = self.wishes.borrow_mut();
            if wishes.len() < WISHES {
                wishes.extend(wish);
            }
            return Ok(verdict);
        }
        let check = self.held.borrow_mut().asking(check, now);
        self.ask(&check, now).await
    }
}

/// Whether every quota that can deny has a lease, and none of them blocks.
fn may_lease(check: &Check) -> bool {
    let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
    enforced.clone().next().is_some() && enforced.all(|charge| charge.lease > 1 && !charge.blocks())
}

#[cfg(test)]
mod tests;
