//! What was admitted to one quota while the shared store was out, until the store has counted it.

use crate::quota::{CLOCK_TOLERANCE, Quota, QuotaState};
use crate::store::shared::Backlog;
use crate::time::Timestamp;

/// All of it goes to the store with every decision, under one name, until an answer says that it has
/// been counted: what the store knows under that name already, it counts no second time. So it does
/// not matter which answers are lost, nor what is admitted while a call is under way.
pub(super) struct Unreconciled {
    pub(super) quota: Quota,
    pub(super) enforced: bool,
    backlog: Option<Backlog>,
}

impl Unreconciled {
    pub(super) const fn new(quota: Quota, enforced: bool) -> Self {
        Self {
            quota,
            enforced,
            backlog: None,
        }
    }

    /// Adds `cost` units admitted at `at`, up to the quota's limit.
    pub(super) fn add(&mut self, cost: u32, at: Timestamp, namer: impl FnOnce() -> String) {
        let Some(taken) = self.quota.decide(None, cost, at).admitted else {
            return;
        };
        match &mut self.backlog {
            Some(backlog) => {
                if let Some(sum) = self.quota.absorb(Some(&backlog.state), &taken, at) {
                    backlog.state = sum;
                }
            }
            None => {
                self.backlog = Some(Backlog {
                    name: namer(),
                    state: taken,
                });
            }
        }
    }

    /// When nothing of it counts any more, by any clock within the tolerance.
    pub(super) fn until(&self, now: Timestamp) -> Timestamp {
        let state = self.backlog.as_ref().map(|backlog| &backlog.state);
        self.quota.decide(state, 0, now).decision.reset_at + CLOCK_TOLERANCE
    }

    pub(super) fn backlog(&self) -> Option<Backlog> {
        self.backlog.clone()
    }

    /// The store holds `state`, with what was `sent` to it counted. What it comes to with the rest;
    /// and whether there is no rest.
    pub(super) fn counted(
        &self,
        state: Option<QuotaState>,
        sent: Option<&Backlog>,
        now: Timestamp,
    ) -> (Option<QuotaState>, bool) {
        let Some(backlog) = &self.backlog else {
            return (state, true);
        };
        let sent = sent.filter(|sent| sent.name == backlog.name);
        let rest = match sent {
            Some(sent) => self.quota.newer(&backlog.state, &sent.state),
            None => Some(backlog.state.clone()),
        };
        match rest {
            Some(rest) => (
                self.quota.absorb(state.as_ref(), &rest, now).or(state),
                false,
            ),
            None => (state, true),
        }
    }
}
