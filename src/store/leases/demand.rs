//! The demand of a caller, by which the number of units to lease is estimated.

use crate::time::{Millis, Timestamp};

/// The units admitted in the current period and in the one before. A period is as long as a lease.
#[derive(Default)]
pub(super) struct Demand {
    since: Timestamp,
    current: u32,
    before: u32,
}

impl Demand {
    /// Counts units admitted at `now`.
    pub(super) fn add(&mut self, units: u32, period: Millis, now: Timestamp) {
        let age = now.since(self.since);
        if age >= period || self.since > now {
            let adjoins = self.since <= now && age.get() < 2 * period.get();
            self.before = if adjoins { self.current } else { 0 };
            self.current = 0;
            self.since = if adjoins { self.since + period } else { now };
        }
        self.current = self.current.saturating_add(units);
    }

    /// The units to expect in a period, if demand stays the same.
    pub(super) fn expected(&self, period: Millis, now: Timestamp) -> u32 {
        let age = now.since(self.since).get();
        if age < period.get() {
            self.current.max(self.before)
        } else if age < 2 * period.get() {
            self.current
        } else {
            0
        }
    }
}
