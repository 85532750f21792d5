//! How much a caller asks for: what tells how many units are worth leasing.

use crate::time::{Millis, Timestamp};

/// Units admitted in the current period, as long as a lease, and in the one before.
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

    /// Units that are asked for in a period, if it goes on like this.
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
