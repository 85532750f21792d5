//! A wrapper that lets this isolate's memory decide if the shared store does not, and keeps the two in step.
//!
//! Each quota has a rule ([`OnFailure`]), and the strictest one applies. If any quota says `deny`, the request is answered
//! with a 503. Otherwise memory decides the quotas that say `memory`. The quotas that say `allow` count the requests that
//! are admitted, and deny only callers that they are known to block.
//!
//! # Continuity
//!
//! The shared store's answers keep the memory current, so that memory goes on from where the store
//! stopped. The units that memory admits alone are its backlog. The backlog goes to the store with the next decision about
//! the caller, or by [`reconcile`](Fallback::reconcile), and is counted once.
//!
//! # The bound
//!
//! While the store is out, one isolate limits a caller to the limit times the fallback factor, beginning
//! where the store's last answers left the caller. Isolates do not know of each other. Across all isolates
//! the bound is *isolates x factor x limit* in any interval of a window's length, however often the store fails in
//! it. Once the store is back, it counts once what was admitted meanwhile, up to the limit.
//! Units that the store may have counted although its answer was lost are not sent again. So a caller within its
//! limit is never denied because a request was counted twice.

use std::cell::Cell;

use super::leases::Prefetch;
use super::memory::Memory;
use super::retries::Retries;
use super::shared::{MaybeCounted, Question, SharedStore, StoreReply};
use super::{Charge, Check, OnFailure, Source, StoreError, Verdict};
use crate::effects::Effects;
use crate::quota::Quota;
use crate::time::{Deadline, Millis, Timestamp};

/// The most quotas that one call reconciles.
pub(super) const QUOTAS_PER_CALL: usize = 8;

/// The most calls of one reconciliation.
const MAX_CALLS: usize = 16;

/// The failed calls after which a reconciliation ends. More than one, since a call can fail for its callers alone. Few,
/// since the breaker counts them.
const MAX_FAILURES: usize = 2;

/// How long one reconciliation keeps others from beginning, if it never reports its end.
const RECONCILING_FOR: Millis = Millis::new(10_000);

/// A shared store, if there is one, and this isolate's memory, which decides if the shared store does not.
pub struct Fallback<S> {
    shared: Option<S>,
    memory: Memory,
    /// Thousandths of a limit that memory admits in place of the shared store.
    factor: u32,
    /// Whether the shared store decided the latest request, or has answered since.
    answers: Cell<bool>,
    reconciling_until: Cell<Deadline>,
}

impl<S> Fallback<S> {
    /// Lets `memory` decide if `shared` does not, with limits of `factor` thousandths of their size.
    pub const fn new(shared: S, memory: Memory, factor: u32) -> Self {
        Self {
            shared: Some(shared),
            memory,
            factor,
            answers: Cell::new(true),
            reconciling_until: Cell::new(Deadline::OVER),
        }
    }

    /// Lets `memory` decide everything, without a shared store.
    pub const fn in_memory(memory: Memory) -> Self {
        Self {
            shared: None,
            memory,
            factor: 1000,
            answers: Cell::new(true),
            reconciling_until: Cell::new(Deadline::OVER),
        }
    }

    /// The shared store, if there is one.
    pub const fn shared(&self) -> Option<&S> {
        self.shared.as_ref()
    }

    /// This isolate's memory.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Records that the shared store answers again.
    pub fn answers_again(&self) {
        self.answers.set(true);
    }

    /// The quota by which memory decides in place of the charge's own.
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
        // Reaching the cap is no failure of the store, and a flood can reach it. That must neither lift the limits that
        // the flood meets nor deny everybody else.
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
    /// Asks the shared store, sends the backlog along, and keeps the memory current.
    async fn ask_shared(
        &self,
        shared: &S,
        mut question: Question<'_>,
        now: Timestamp,
    ) -> Result<StoreReply, StoreError> {
        self.memory.add_backlog(&mut question);
        let mut reply = shared.ask(&question, now).await?;
        let stored_charges = std::mem::take(&mut reply.stored_charges);
        self.memory
            .learn(&question, &reply.verdict, stored_charges, now);
        Ok(reply)
    }

    /// Leases units in the background.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the shared store does not answer. Requests ask for units themselves then.
    pub async fn prefetch(&self, prefetch: &Prefetch, now: Timestamp) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        let extras = prefetch.extras();
        let question = Question::with(&prefetch.check, &extras);
        self.ask_shared(shared, question, now).await.map(drop)
    }

    /// Whether there is a backlog, the store answers, and no reconciliation is under way. If it returns `true`,
    /// one counts as under way from now on, and the caller must call [`reconcile`](Self::reconcile).
    #[must_use]
    pub fn should_reconcile(&self, now: Timestamp) -> bool {
        let is_free = !self.reconciling_until.get().is_pending(now);
        let is_due = is_free && self.answers.get() && self.memory.has_backlog();
        if is_due {
            self.reconciling_until
                .set(Deadline::after(RECONCILING_FOR, now));
        }
        is_due
    }

    /// Sends a part of the backlog to the shared store in the background, in calls of `quotas_per_call` quotas. This also
    /// reconciles callers that have not come back since. The first call that fails is repeated as `retries` says.
    /// If it still fails, the other quotas come first, now and in the next reconciliation.
    ///
    /// # Errors
    ///
    /// The [`StoreError`] of the latest call that failed. The backlog of that call is kept.
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
        for _ in 0..MAX_CALLS {
            let Some(check) = (self.memory).check_to_reconcile(quotas_per_call, effects.now())
            else {
                break;
            };
            let retries = match &failed {
                // The same quotas again: all others have had their turn.
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
            let was_sent = !matches!(error, StoreError::OverCap | StoreError::Open { .. });
            if was_sent {
                self.memory.reconcile_behind(&check);
                failures += 1;
            }
            failed = Some((error, check));
            if !was_sent || failures == MAX_FAILURES {
                break;
            }
        }
        let Some((error, _)) = failed else {
            self.reconciling_until.set(Deadline::OVER);
            return Ok(());
        };
        if error == StoreError::OverCap || reconciled > failures {
            // Go on soon: the cap allows more commands in a second, or most of the store answers.
            let second = Millis::from_secs(1);
            self.reconciling_until
                .set(Deadline::after(second, effects.now()));
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
