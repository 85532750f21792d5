//! The backlog of one quota: the units that memory admitted while the shared store was out, and that the store has yet to
//! count.

use crate::quota::{CLOCK_TOLERANCE, Quota, QuotaState};
use crate::store::shared::Backlog;
use crate::time::Timestamp;

/// The backlog of one quota.
///
/// Every decision about the quota sends the whole backlog to the store under one name, until an answer shows that the store
/// has counted it. The store does not count again what it has counted under that name. So it does
/// not matter which answers are lost, nor how many units memory admits while a call is under way.
pub(super) struct QuotaBacklog {
    pub(super) quota: Quota,
    pub(super) enforced: bool,
    /// `None` before the first unit.
    backlog: Option<Backlog>,
}

impl QuotaBacklog {
    pub(super) const fn new(quota: Quota, enforced: bool) -> Self {
        Self {
            quota,
            enforced,
            backlog: None,
        }
    }

    /// Adds `cost` units admitted at `at`, up to the quota's limit.
    pub(super) fn add(&mut self, cost: u32, at: Timestamp, namer: impl FnOnce() -> String) {
        let Some(admitted) = self.quota.decide(None, cost, at).admitted else {
            return;
        };
        match &mut self.backlog {
            Some(backlog) => {
                if let Some(sum) = self.quota.absorb(Some(&backlog.state), &admitted, at) {
                    backlog.state = sum;
                }
            }
            None => {
                self.backlog = Some(Backlog {
                    name: namer(),
                    state: admitted,
                });
            }
        }
    }

    /// When its units no longer count, by any clock within the tolerance.
    pub(super) fn expires_at(&self, now: Timestamp) -> Timestamp {
        let state = self.backlog.as_ref().map(|backlog| &backlog.state);
        self.quota.decide(state, 0, now).decision.reset_at + CLOCK_TOLERANCE
    }

    /// What to send to the store.
    pub(super) fn to_send(&self) -> Option<Backlog> {
        self.backlog.clone()
    }

    /// Takes the store's `state`, in which the backlog that was `sent` is counted. Returns that state with the units that
    /// were not sent, and whether there are no such units.
    pub(super) fn merge(
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
