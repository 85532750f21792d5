//! Duties: what the limiter does apart from any request, in tasks that no client can end.

use super::Limiter;
use crate::effects::Effects;
use crate::store::breaker::circuit::Permit;
use crate::store::leases::Prefetch;

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
        self.stack.should_reconcile().then_some(Duty::Reconcile)
    }

    /// Runs a duty to its end. What fails is logged, and due again later.
    pub async fn run(&self, duty: Duty) {
        match duty {
            Duty::Probe(permit) => self.stack.probe(permit).await,
            Duty::Prefetch(prefetch) => self.stack.prefetch(&prefetch).await,
            Duty::FetchKeySet => self.users.fetch(self.effects.now()).await,
            Duty::WriteEvents => self.journal.write_later(&self.stack, &self.effects).await,
            Duty::Reconcile => self.stack.reconcile().await,
        }
    }
}
