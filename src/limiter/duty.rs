//! Duties: what the limiter does apart from any request, in tasks that no client can end.

use super::Limiter;
use crate::effects::{Effects, LogLevel};
use crate::error::StoreError;
use crate::store::breaker::circuit::Permit;
use crate::store::leases::Prefetch;
use crate::store::shared::Refund;

/// Folds of a run of the schedule, at most.
const FOLDS: usize = 5;

/// Something to do in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Ask a store that has failed whether it answers again.
    Probe(Permit),
    /// Lease units for requests to come.
    Prefetch(Prefetch),
    /// Give back what a denied request took of a cluster.
    Refund(Refund),
    /// In a cluster, read the version of the blocks, and load what has changed.
    ReadBlocksVersion,
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
        if let Some(refund) = self.stack.next_refund() {
            return Some(Duty::Refund(refund));
        }
        if let Some(prefetch) = self.stack.next_prefetch() {
            return Some(Duty::Prefetch(prefetch));
        }
        if self.stack.should_read_blocks_version() {
            return Some(Duty::ReadBlocksVersion);
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
        let has_counts = || self.metrics.should_send(self.commands(), now);
        (self.stack.answers() && has_counts()).then_some(Duty::SendCounts)
    }

    /// Bounded work: what is left is done the next time, and two at once harm nothing.
    async fn tend(&self) {
        if let Err(error) = self.try_tend().await {
            let line = format!("schedule: {error}; the next run goes on");
            self.effects.log(LogLevel::Error, &line);
        }
    }

    async fn try_tend(&self) -> Result<(), StoreError> {
        let records = self.journal.records();
        let now = self.effects.now();
        if !self.metrics.is_on() {
            return records.tidy(now).await;
        }
        for _ in 0..FOLDS {
            if records.fold_counts(now).await? == 0 {
                break;
            }
        }
        records.gather_gauges(now).await?;
        // No request may come to this isolate to send what this has cost.
        let store = self.store_counts();
        self.metrics.send(records, &store, self.effects.now()).await;
        Ok(())
    }

    /// Runs a duty to its end. What fails is logged, and due again later.
    pub async fn run(&self, duty: Duty) {
        match duty {
            Duty::Probe(permit) => self.stack.probe(permit).await,
            Duty::Prefetch(prefetch) => self.stack.prefetch(&prefetch).await,
            Duty::Refund(refund) => self.stack.refund(&refund).await,
            Duty::ReadBlocksVersion => self.stack.read_blocks_version().await,
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
