//! This isolate's memory, and the shared store where there is one: what becomes of a request that the
//! shared store does not decide, and continuity between the two.
//!
//! Each quota says for itself ([`OnFailure`]), and the strictest rules: one that says `deny` turns
//! the request away, else those that say `memory` are decided in this isolate, and those that say
//! `allow` count what is admitted and deny nobody but the callers that they are known to block.
//!
//! # Continuity
//!
//! The shared store's answers keep the memory current, so that it goes on from where the store
//! stopped. What it admits alone is its backlog: it goes to the store with the next decision about the
//! caller, or by [`reconcile`](Fallback::reconcile), and is counted once.
//!
//! # The bound
//!
//! While the store is out, one isolate holds a caller to the limit times the fallback factor, from
//! where the store's last answers left the caller. Isolates do not know of each other: across a fleet
//! the bound is *isolates x factor x limit*, in any window's length, however often the store fails in
//! it. Once the store is back, what was admitted meanwhile is counted in it once, up to the limit.
//! What the store may have counted although its answer was lost is not sent again: a caller within its
//! limit is never denied for a request that was counted twice.

use std::cell::Cell;

use super::leases::Prefetch;
use super::memory::Memory;
use super::retries::Retries;
use super::shared::{MaybeCounted, Question, SharedStore, StoreReply};
use super::{Charge, Check, OnFailure, Source, StoreError, Verdict};
use crate::effects::Effects;
use crate::quota::Quota;
use crate::time::{Deadline, Millis, Timestamp};

/// Quotas that are reconciled in one call, and calls in one go.
pub(super) const QUOTAS_PER_CALL: usize = 8;
const CALLS: usize = 16;

/// Calls of one go that may fail: what one is about may be out alone, or refused for good. Few, since the breaker counts them.
const FAILURES: usize = 2;

/// How long one reconciliation keeps others from beginning, should it never report.
const RECONCILING: Millis = Millis::new(10_000);

/// A shared store, if there is one, and this isolate's memory where it does not decide.
pub struct Fallback<S> {
    shared: Option<S>,
    memory: Memory,
    factor: u32,
    /// Whether the shared store decided the latest request, or answered since.
    answers: Cell<bool>,
    reconciling: Cell<Deadline>,
}

impl<S> Fallback<S> {
    /// `memory` decides by limits of `factor` thousandths of their size what `shared` does not.
    pub const fn new(shared: S, memory: Memory, factor: u32) -> Self {
        Self {
            shared: Some(shared),
            memory,
            factor,
            answers: Cell::new(true),
            reconciling: Cell::new(Deadline::OVER),
        }
    }

    /// `memory` decides everything: there is no shared store.
    pub const fn in_memory(memory: Memory) -> Self {
        Self {
            shared: None,
            memory,
            factor: 1000,
            answers: Cell::new(true),
            reconciling: Cell::new(Deadline::OVER),
        }
    }

    /// The shared store.
    pub const fn shared(&self) -> Option<&S> {
        self.shared.as_ref()
    }

    /// This isolate's memory.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The shared store has been found to answer again.
    pub fn answers_again(&self) {
        self.answers.set(true);
    }

    fn substitute(&self, charge: &Charge, rule: OnFailure) -> Quota {
        match rule {
            OnFailure::Allow => charge.quota.boundless(),
            OnFailure::Memory | OnFailure::Deny => charge.quota.scaled(self.factor),
        }
    }

    /// Decides in memory a check that the shared store did not decide because of `error`.
    fn decide_alone(
        &self,
        check: &Check,
        error: StoreError,
        maybe_counted: &MaybeCounted,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
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
        let substitute = |charge: &Charge| self.substitute(charge, rule(charge));
        let may_be_counted = |place| error.may_have_run() && maybe_counted.includes(place);
        Ok(self
            .memory
            .decide_alone(check, may_be_counted, now, substitute))
    }
}

impl<S: SharedStore> Fallback<S> {
    /// Asks the shared store, with the backlog, and keeps the memory current.
    async fn ask_shared(
        &self,
        shared: &S,
        mut question: Question<'_>,
        now: Timestamp,
    ) -> Result<StoreReply, StoreError> {
        self.memory.add_backlog(&mut question);
        let mut reply = shared.ask(&question, now).await?;
        let holdings = std::mem::take(&mut reply.holdings);
        self.memory.learn(&question, &reply.verdict, holdings, now);
        Ok(reply)
    }

    /// Leases units in the background.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the shared store fails. Nothing is lost by it.
    pub async fn prefetch(&self, prefetch: &Prefetch, now: Timestamp) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        let extras = prefetch.extras();
        let question = Question::with(&prefetch.check, &extras);
        self.ask_shared(shared, question, now).await.map(drop)
    }

    /// Whether there is a backlog, a store that answers, and nobody at it. If so, the one who asked is:
    /// call [`reconcile`](Self::reconcile).
    #[must_use]
    pub fn should_reconcile(&self, now: Timestamp) -> bool {
        let free = !self.reconciling.get().is_pending(now);
        let due = free && self.answers.get() && self.memory.has_backlog();
        if due {
            self.reconciling.set(Deadline::after(RECONCILING, now));
        }
        due
    }

    /// Has the shared store count what memory admitted in its place, of callers that have not come
    /// back since as well: a part of it, in calls of `quotas_per_call`. The first that fails is repeated as `retries` says.
    /// Where that does not help, the other quotas have their turn first, now and the next time. In the background, once the
    /// store answers again.
    ///
    /// # Errors
    ///
    /// The latest [`StoreError`] when it fails again; nothing is lost by it.
    pub async fn reconcile(
        &self,
        retries: Retries,
        quotas_per_call: usize,
        effects: &impl Effects,
    ) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        let (mut reconciled, mut failures) = (0, 0);
        let mut failed: Option<(StoreError, Check)> = None;
        for _ in 0..CALLS {
            let Some(check) = (self.memory).check_to_reconcile(quotas_per_call, effects.now())
            else {
                break;
            };
            let retries = match &failed {
                // All the others have had their turn.
                Some((_, failed)) if *failed == check => break,
                Some(_) => Retries::NONE,
                None => retries,
            };
            let call =
                async || (self.ask_shared(shared, Question::new(&check), effects.now())).await;
            let Err(error) = retries.run(effects, call).await else {
                reconciled += 1;
                continue;
            };
            let is_asked = !matches!(error, StoreError::OverCap | StoreError::Open { .. });
            if is_asked {
                self.memory.reconcile_behind(&check);
                failures += 1;
            }
            failed = Some((error, check));
            if !is_asked || failures == FAILURES {
                break;
            }
        }
        let Some((error, _)) = failed else {
            self.reconciling.set(Deadline::OVER);
            return Ok(());
        };
        if error == StoreError::OverCap || reconciled > failures {
            // There is more to spend in a second, or most of the store answers.
            let second = Millis::from_secs(1);
            self.reconciling.set(Deadline::after(second, effects.now()));
        }
        Err(error)
    }
}

impl<S: SharedStore> SharedStore for Fallback<S> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(self.memory.decide_here(question.check, now).into());
        };
        let maybe_counted = MaybeCounted::all();
        let reply = self
            .ask_shared(shared, question.with_maybe_counted(&maybe_counted), now)
            .await;
        self.answers.set(reply.is_ok());
        match reply {
            Ok(reply) => Ok(reply),
            Err(error) => Ok(self
                .decide_alone(question.check, error, &maybe_counted, now)?
                .into()),
        }
    }

    fn remembers_denial(&self, check: &Check, now: Timestamp) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.remembers_denial(check, now))
    }

    fn remembered_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        match &self.shared {
            Some(shared) => shared.remembered_denial(check, now),
            None => {
                let known = self.memory.remembered_denial(check, now)?;
                Some(Verdict {
                    source: Source::Memory,
                    ..known
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
