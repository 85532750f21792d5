//! Duties: background work of the limiter, in tasks that a disconnecting client does not end.

use super::Limiter;
use crate::effects::{Effects, LogLevel};
use crate::error::StoreError;
use crate::store::breaker::circuit::Permit;
use crate::store::leases::Prefetch;
use crate::store::shared::Refund;

/// The most folds in one run of the schedule.
const MAX_FOLDS_PER_RUN: usize = 5;

/// Work that the host runs in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Ask a store that has failed whether it answers again.
    Probe(Permit),
    /// Lease units for coming requests.
    Prefetch(Prefetch),
    /// Give back the units that a denied request took from quotas of a cluster.
    Refund(Refund),
    /// In a cluster, read the version of the blocks, and load the blocks that have changed.
    ReadBlocksVersion,
    /// Fetch the identity provider's key set again.
    FetchKeySet,
    /// Write the gathered events, [`FLUSH_AFTER`](crate::events::FLUSH_AFTER) from now.
    WriteEvents,
    /// Send the counts of requests, a few seconds from now.
    SendCounts,
    /// Fold counts, remove expired entries from lists, and gather gauges. The platform's schedule begins this duty, no
    /// request does.
    RunSchedule,
    /// Send to the shared store what this isolate admitted alone.
    Reconcile,
}

impl<E: Effects + Clone> Limiter<E> {
    /// Returns a duty that is due, for the host to [run](Self::run) in the background. Each duty is returned once. The host
    /// calls this after each request, until it returns `None`.
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
        (self.stack.is_database_available() && has_counts()).then_some(Duty::SendCounts)
    }

    /// Runs the schedule once. Its work is bounded: the next run does the rest. Two runs at once do no harm.
    async fn run_schedule(&self) {
        if let Err(error) = self.try_run_schedule().await {
            let line = format!("schedule: a run failed: {error}; the next run continues");
            self.effects.log(LogLevel::Error, &line);
        }
    }

    async fn try_run_schedule(&self) -> Result<(), StoreError> {
        let records = self.journal.records();
        let now = self.effects.now();
        if !self.metrics.is_on() {
            return records.tidy(now).await;
        }
        for _ in 0..MAX_FOLDS_PER_RUN {
            if records.fold_counts(now).await? == 0 {
                break;
            }
        }
        records.gather_gauges(now).await?;
        // The counts of this run are sent now, since this isolate may get no request after which they would be sent.
        let store = self.store_counts();
        self.metrics.send(records, &store, self.effects.now()).await;
        Ok(())
    }

    /// Runs a duty to its end. A failure is logged, and the duty is due again later.
    pub async fn run(&self, duty: Duty) {
        match duty {
            Duty::Probe(permit) => self.stack.probe(permit).await,
            Duty::Prefetch(prefetch) => self.stack.prefetch(&prefetch).await,
            Duty::Refund(refund) => self.stack.refund(&refund).await,
            Duty::ReadBlocksVersion => self.stack.read_blocks_version().await,
            Duty::FetchKeySet => self.users.fetch(self.effects.now()).await,
            Duty::WriteEvents => self.journal.write_later(&self.stack, &self.effects).await,
            Duty::SendCounts => {
                let counts = || {
                    self.stack
                        .is_database_available()
                        .then(|| self.store_counts())
                };
                let records = self.journal.records();
                (self.metrics.send_later(records, &self.effects, counts)).await;
            }
            Duty::RunSchedule => self.run_schedule().await,
            Duty::Reconcile => self.stack.reconcile().await,
        }
    }
}
