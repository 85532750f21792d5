//! Duties: what the limiter does apart from any request, in tasks that no client can end.

use super::Limiter;
use crate::effects::{Effects, Level};
use crate::store::breaker::circuit::Permit;
use crate::store::leases::Prefetch;

/// Folds of a run of the schedule, at most.
const FOLDS: usize = 5;

/// Something to do in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Ask a store that has failed whether it answers again.
    Probe(Permit),
    /// Lease units for requests to come.
    Prefetch(Prefetch),
    /// Fetch the identity provider's key set anew.
    FetchKeySet,
    /// Write the events that are gathered, some seconds from now.
    WriteEvents,
    /// Send what has been counted, some seconds from now.
    SendCounts,
    /// What the platform's schedule begins, and no request: fold what was counted, take out of lists what has expired,
    /// and gather gauges.
    Tend,
    /// Have the shared store count what this isolate admitted alone.
    Reconcile,
}

impl<E: Effects + Clone> Limiter<E> {
    /// A duty that is due, each returned once: to be [run](Self::run) in the background. Asked after each request
    /// until there is none.
    #[must_use]
    pub fn next_duty(&self) -> Option<Duty> {
        if let Some(permit) = self.stack.begin_probe() {
            return Some(Duty::Probe(permit));
        }
        if let Some(prefetch) = self.stack.next_prefetch() {
            return Some(Duty::Prefetch(prefetch));
        }
        let now = self.effects.now();
        if self.users.should_fetch(now) {
            return Some(Duty::FetchKeySet);
        }
        if self.journal.recorder().should_write(now) {
            return Some(Duty::WriteEvents);
        }
        if self.stack.should_reconcile() {
            return Some(Duty::Reconcile);
        }
        (self.stack.answers() && self.metrics.should_send(now)).then_some(Duty::SendCounts)
    }

    /// Bounded work: what is left is done the next time, and two at once harm nothing.
    async fn tend(&self) {
        let records = self.journal.records();
        let mut result = Ok(());
        if self.metrics.is_on() {
            for _ in 0..FOLDS {
                match records.fold_counts(self.effects.now()).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => result = Err(error),
                }
            }
        }
        result = result.and(records.gather_gauges(self.effects.now()).await);
        if let Err(error) = result {
            let line = format!("schedule: {error}; the next run goes on");
            self.effects.log(Level::Error, &line);
        }
    }

    /// Runs a duty to its end. What fails is logged, and due again later.
    pub async fn run(&self, duty: Duty) {
        match duty {
            Duty::Probe(permit) => self.stack.probe(permit).await,
            Duty::Prefetch(prefetch) => self.stack.prefetch(&prefetch).await,
            Duty::FetchKeySet => self.users.fetch(self.effects.now()).await,
            Duty::WriteEvents => self.journal.write_later(&self.stack, &self.effects).await,
            Duty::SendCounts => {
                let counts = || self.stack.answers().then(|| self.store_counts());
                let records = self.journal.records();
                (self.metrics.send_later(records, &self.effects, counts)).await;
            }
            Duty::Tend => self.tend().await,
            Duty::Reconcile => self.stack.reconcile().await,
        }
    }
}
