//! What becomes of a request when the shared store does not decide it.
//!
//! Each quota says for itself ([`OnFailure`]), and the strictest rules: one that says `deny` turns
//! the request away, else those that say `memory` are decided in this isolate, and those that say
//! `allow` count what is admitted and deny nobody but the callers that they are known to block.
//!
//! # The bound
//!
//! While the store is out, one isolate holds a caller to the limit times the fallback factor, from
//! where the store's last answers left the caller. Isolates do not know of each other: across a fleet
//! the bound is *isolates x factor x limit*, in any window's length, however often the store fails in
//! it. Once the store is back, what was admitted meanwhile is counted in it once, up to the limit:
//! with the next decision about the caller, or by [`settle_up`](Fallback::settle_up). What the store
//! may have counted although its answer was lost is not sent again: a caller within its limit is
//! never denied for a request that was counted twice.

use std::cell::Cell;
use std::rc::Rc;

use super::backoff::{Dice, Pause, Retries};
use super::memory::Memory;
use super::{Charge, Check, OnFailure, Store, StoreError, Verdict};
use crate::quota::Quota;
use crate::time::{Clock, Millis, Timestamp};

/// Keys that are settled up in one call, and calls in one go.
const AT_ONCE: usize = 8;
const CALLS: usize = 16;

/// How long one settling keeps others from beginning, should it never report.
const SETTLING: Millis = Millis::new(10_000);

/// A shared store, and this isolate's memory where it does not decide.
pub struct Fallback<S> {
    shared: S,
    memory: Rc<Memory>,
    factor: u32,
    /// Whether `shared` decided the latest request.
    answers: Cell<bool>,
    settling_until: Cell<Timestamp>,
}

impl<S> Fallback<S> {
    /// `memory` decides by limits of `factor` thousandths of their size what `shared` does not. It
    /// must be the memory that `shared` keeps current.
    pub fn new(shared: S, memory: Rc<Memory>, factor: u32) -> Self {
        Self {
            shared,
            memory,
            factor,
            answers: Cell::new(true),
            settling_until: Cell::default(),
        }
    }

    /// The shared store.
    pub const fn shared(&self) -> &S {
        &self.shared
    }

    fn stand_in(&self, charge: &Charge, rule: OnFailure) -> Quota {
        match rule {
            OnFailure::Allow => charge.quota.boundless(),
            OnFailure::Memory | OnFailure::Deny => charge.quota.scaled(self.factor),
        }
    }
}

impl<S: Store> Fallback<S> {
    /// Whether there is something to settle up with a store that answers, and nobody at it. If so,
    /// the one who asked is: call [`settle_up`](Self::settle_up).
    #[must_use]
    pub fn should_settle_up(&self, now: Timestamp) -> bool {
        let free = self.settling_until.get() <= now && self.answers.get() && self.memory.owes();
        if free {
            self.settling_until.set(now + SETTLING);
        }
        free
    }

    /// Has the shared store count what memory admitted in its place, of callers that have not come
    /// back since as well: a part of it, in calls that are repeated as `retries` says. In the
    /// background, once the store answers again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it fails again; nothing is lost by it.
    pub async fn settle_up(
        &self,
        retries: Retries,
        pause: &impl Pause,
        dice: Dice,
        clock: &impl Clock,
    ) -> Result<(), StoreError> {
        for _ in 0..CALLS {
            let Some(debts) = self.memory.debts(AT_ONCE, clock.now()) else {
                break;
            };
            let call = async || self.shared.decide(&debts, clock.now()).await;
            let settled = retries.run(pause, dice, call).await;
            if settled == Err(StoreError::OverCap) {
                // There is more to spend in a second.
                self.settling_until.set(clock.now() + Millis::from_secs(1));
            }
            settled?;
        }
        self.settling_until.set(Timestamp::default());
        Ok(())
    }
}

impl<S: Store> Store for Fallback<S> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let decided = self.shared.decide(check, now).await;
        self.answers.set(decided.is_ok());
        let error = match decided {
            Ok(verdict) => return Ok(verdict),
            Err(error) => error,
        };
        // The cap is no failure, and a flood reaches it: it must neither lift the limits that it runs
        // into nor turn everybody else away.
        let rule = |charge: &Charge| match error {
            StoreError::OverCap => OnFailure::Memory,
            _ => charge.on_failure,
        };
        let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
        if enforced.any(|charge| rule(charge) == OnFailure::Deny) {
            return Err(error);
        }
        let stand_in = |charge: &Charge| self.stand_in(charge, rule(charge));
        Ok(self
            .memory
            .stand_in(check, error.may_have_run(), now, stand_in))
    }
}

#[cfg(test)]
mod tests;
