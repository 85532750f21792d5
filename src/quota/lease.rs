//! Leases: units taken before they are asked for.
//!
//! An isolate takes some units of a quota at once and spends them alone for a time `S`
//! ([`lease_time`](Quota::lease_time)). They are recorded as taken at the *end* of that time, so the
//! bound holds whenever they are spent: recorded when they were handed out, units spent late would
//! count for less than a window after their use. A sliding window records them in the sub-window in
//! which `S` ends, a token bucket on top of no less than the level that `S` drains (in GCRA's terms
//! `TAT' = max(TAT, t + S) + n T`). That record lies in the future and is no clock.

use super::algorithm::Algorithm;
use super::definition::Quota;
use super::state::QuotaState;
use super::{fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

/// Of what a quota has left, a lease takes at most the part that this divides it into: the others that
/// draw on it are left room, and what is held shrinks to nothing as the quota runs low. With fewer
/// units left there is none to be had.
pub const LEAST_LEASED: u32 = 4;

/// Units handed out beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How many; not zero.
    pub units: u32,
    /// The state to keep.
    pub state: QuotaState,
}

impl Quota {
    /// Takes up to `most` units in advance, at `now`. They may be spent until
    /// [`lease_ends`](Self::lease_ends). `None`: there are none to be had.
    #[must_use]
    pub fn lease(&self, state: Option<&QuotaState>, most: u32, now: Timestamp) -> Option<Lease> {
        let decision = self.decide(state, 0, now).decision;
        let units = most.min(decision.remaining / LEAST_LEASED);
        let ends = decision.at + self.lease_time();
        if units == 0 || ends == decision.at {
            return None;
        }
        let state = match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::lease(self, state, units, ends, now),
            Algorithm::TokenBucket => token_bucket::lease(self, state, units, ends, now),
            Algorithm::FixedWindow => fixed_window::lease(self, state, units, now),
        };
        Some(Lease { units, state })
    }

    /// When units that were taken in advance by a request decided at `at` can no longer be spent, on
    /// the clock that was `now` then.
    #[must_use]
    pub fn lease_ends(&self, at: Timestamp, now: Timestamp) -> Timestamp {
        let time = self.lease_time();
        now + match self.algorithm() {
            Algorithm::SlidingWindow | Algorithm::TokenBucket => time,
            Algorithm::FixedWindow => time.min(fixed_window::ends(at, self.window()).since(at)),
        }
    }
}
