//! Leases: units that an isolate takes before requests need them.
//!
//! An isolate takes some units of a quota at once, and spends them without asking the store for a time
//! `S` ([`lease_time`](Quota::lease_time)). The state records them as taken at the *end* of that time, so
//! that the bound holds whenever they are spent. If it recorded them at the start, units spent late would
//! count for less than a window after their use.
//!
//! A sliding window records them in the sub-window in which `S` ends. A token bucket first raises its level
//! to at least what drains in `S`, and adds them to that (in GCRA's terms
//! `TAT' = max(TAT, t + S) + n T`). The recorded time lies in the future, and does not change the state's
//! clock.

use super::algorithm::Algorithm;
use super::definition::Quota;
use super::state::QuotaState;
use super::{fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

/// A lease takes at most the remaining units divided by this number, rounded down. So other isolates
/// keep most of the units, and leases shrink to nothing as the quota runs low. With fewer units
/// remaining than this number, nothing can be leased.
pub const LEASE_DIVISOR: u32 = 4;

/// Units taken in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How many units; not zero.
    pub units: u32,
    /// The state to keep.
    pub state: QuotaState,
}

impl Quota {
    /// Takes up to `most` units in advance, at `now`. They may be spent until
    /// [`lease_ends`](Self::lease_ends). `None` if too few units remain, or if the lease's time is zero.
    #[must_use]
    pub fn lease(&self, state: Option<&QuotaState>, most: u32, now: Timestamp) -> Option<Lease> {
        let decision = self.decide(state, 0, now).decision;
        let units = most.min(decision.remaining / LEASE_DIVISOR);
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

    /// When leased units can no longer be spent, on the isolate's own clock. The lease was taken when
    /// that clock was `now`, by a request that was decided at `at`.
    #[must_use]
    pub fn lease_ends(&self, at: Timestamp, now: Timestamp) -> Timestamp {
        let time = self.lease_time();
        now + match self.algorithm() {
            Algorithm::SlidingWindow | Algorithm::TokenBucket => time,
            Algorithm::FixedWindow => time.min(fixed_window::ends(at, self.window()).since(at)),
        }
    }
}
