//! An exact log, with which the algorithms are compared: it remembers every admitted request for exactly one
//! window.

use std::collections::VecDeque;

use edge_limiter::quota::Quota;
use edge_limiter::time::Timestamp;

use crate::rule::Rule;

/// The admitted units of one caller in the last window. A unit that is admitted at `t` counts until `t` + window.
#[derive(Debug, Default)]
pub(crate) struct ExactLog {
    admitted: VecDeque<(Timestamp, u32)>,
    units: u64,
}

impl ExactLog {
    /// The units admitted in the window that ends at `now`.
    pub(crate) fn units(&mut self, quota: &Quota, now: Timestamp) -> u64 {
        while let Some((at, units)) = self.admitted.front().copied() {
            if at + quota.window() > now {
                break;
            }
            self.admitted.pop_front();
            self.units -= u64::from(units);
        }
        self.units
    }

    /// Whether `cost` more units are within the limit.
    pub(crate) fn has_room(&mut self, quota: &Quota, cost: u32, now: Timestamp) -> bool {
        self.units(quota, now) + u64::from(cost) <= u64::from(quota.limit())
    }

    pub(crate) fn add(&mut self, units: u32, now: Timestamp) {
        self.admitted.push_back((now, units));
        self.units += u64::from(units);
    }
}

impl Rule for ExactLog {
    /// Like the limiter, the log uses the latest time that it has seen.
    fn admits(&mut self, quota: &Quota, cost: u32, now: Timestamp) -> bool {
        let now = self.admitted.back().map_or(now, |(at, _)| now.max(*at));
        let fits = self.has_room(quota, cost, now);
        if fits {
            self.add(cost, now);
        }
        fits
    }
}
