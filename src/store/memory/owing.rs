//! What was admitted to one quota while the shared store was out, until the store has counted it.

use crate::quota::{CLOCK_TOLERANCE, Quota, State};
use crate::store::Owed;
use crate::time::Timestamp;

/// All of it goes to the store with every decision, under one name, until an answer says that it has
/// been counted: what the store knows under that name already, it counts no second time. So it does
/// not matter which answers are lost, nor what is admitted while a call is under way.
pub(super) struct Owing {
    pub(super) quota: Quota,
    pub(super) enforced: bool,
    owed: Option<Owed>,
}

impl Owing {
    pub(super) const fn new(quota: Quota, enforced: bool) -> Self {
        Self {
            quota,
            enforced,
            owed: None,
        }
    }

    /// Adds `cost` units admitted at `at`, up to the quota's limit.
    pub(super) fn add(&mut self, cost: u32, at: Timestamp, namer: impl FnOnce() -> String) {
        let Some(taken) = self.quota.decide(None, cost, at).admitted else {
            return;
        };
        match &mut self.owed {
            Some(owed) => {
                if let Some(sum) = self.quota.absorb(Some(&owed.state), &taken, at) {
                    owed.state = sum;
                }
            }
            None => {
                self.owed = Some(Owed {
                    name: namer(),
                    state: taken,
                });
            }
        }
    }

    /// When nothing of it counts any more, by any clock within the tolerance.
    pub(super) fn until(&self, now: Timestamp) -> Timestamp {
        let state = self.owed.as_ref().map(|owed| &owed.state);
        self.quota.decide(state, 0, now).decision.reset_at + CLOCK_TOLERANCE
    }

    pub(super) fn owed(&self) -> Option<Owed> {
        self.owed.clone()
    }

    /// The store holds `state`, with what was `sent` to it counted. What it comes to with the rest;
    /// and whether there is no rest.
    pub(super) fn counted(
        &self,
        state: Option<State>,
        sent: Option<&Owed>,
        now: Timestamp,
    ) -> (Option<State>, bool) {
        let Some(owed) = &self.owed else {
            return (state, true);
        };
        let sent = sent.filter(|sent| sent.name == owed.name);
        let rest = match sent {
            Some(sent) => self.quota.newer(&owed.state, &sent.state),
            None => Some(owed.state.clone()),
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
