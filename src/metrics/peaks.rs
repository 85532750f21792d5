//! Counts how much of their limits callers use. An operator sees from it how many callers a lower limit would deny.

use std::hash::{BuildHasher, Hash};

use super::CounterSet;
use crate::quota::Quota;
use crate::seed::Seed;
use crate::time::{Millis, Timestamp};

/// The first word of these counters' names.
pub(super) const USAGE: &str = "usage";

/// The number of steps, each a tenth of a limit, in which use is counted.
pub const TENTHS: usize = 10;

/// The most callers of a policy that are followed in a window. They are the first callers of the window.
const MAX_CALLERS: usize = 200;

/// Counts callers of one policy by the largest share of the limit that each used in a window, in tenths.
pub(super) struct Peaks {
    window: Millis,
    /// The number of the current window, counted from the epoch.
    number: u64,
    seed: Seed,
    /// Hashes of callers, sorted, each with the largest tenth it has reached in this window.
    callers: Vec<(u64, usize)>,
    /// For each tenth, how many callers reached it in a window that has ended.
    ended: [u64; TENTHS],
}

impl Peaks {
    pub(super) fn new(quota: &Quota, seed: Seed) -> Self {
        Self {
            window: quota.window(),
            number: 0,
            callers: Vec::new(),
            seed,
            ended: [0; TENTHS],
        }
    }

    /// Records how many units of its limit a caller has used.
    pub(super) fn record(&mut self, caller: impl Hash, used: u32, limit: u32, now: Timestamp) {
        self.end_window(now);
        if used == 0 || limit == 0 {
            return;
        }
        let tenths = (u64::from(used) * TENTHS as u64).div_ceil(u64::from(limit));
        let tenth = usize::try_from(tenths - 1).map_or(TENTHS - 1, |it| it.min(TENTHS - 1));
        let key = self.seed.hash_one(caller);
        let has_room = self.callers.len() < MAX_CALLERS;
        match self.callers.binary_search_by_key(&key, |(known, _)| *known) {
            Ok(place) => {
                if let Some((_, known)) = self.callers.get_mut(place) {
                    *known = tenth.max(*known);
                }
            }
            Err(place) if has_room => self.callers.insert(place, (key, tenth)),
            Err(_) => {}
        }
    }

    /// Counts the callers of the current window, if that has ended.
    pub(super) fn end_window(&mut self, now: Timestamp) {
        let number = now.as_millis() / self.window.get().max(1);
        if number == self.number {
            return;
        }
        self.number = number;
        for (_, tenth) in self.callers.drain(..) {
            if let Some(count) = self.ended.get_mut(tenth) {
                *count += 1;
            }
        }
    }

    /// Adds the counts of ended windows to `series`, named `usage {policy} {tenth}`.
    pub(super) fn add_to(&self, series: &mut CounterSet, policy: &str) {
        for (tenth, count) in self.ended.iter().enumerate() {
            series.add(&[USAGE, policy, &tenth.to_string()], *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_CALLERS, Peaks, USAGE};
    use crate::metrics::CounterSet;
    use crate::quota::{Algorithm, Quota};
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    fn peaks() -> Peaks {
        let limit = std::num::NonZeroU32::new(20).unwrap();
        let quota = Quota::new(Algorithm::SlidingWindow, limit, Millis::from_secs(60)).unwrap();
        Peaks::new(&quota, Seed::fixed())
    }

    fn ended(peaks: &Peaks) -> Vec<(String, u64)> {
        let mut series = CounterSet::default();
        peaks.add_to(&mut series, "auth");
        let all = series
            .of(USAGE)
            .map(|(name, count)| (name.to_owned(), count));
        all.collect()
    }

    #[test]
    fn a_caller_counts_once_a_window_by_its_largest_use() {
        let mut peaks = peaks();
        // 2 of 20 are exactly one tenth. 3 of 20 are more, so they are in the second tenth.
        for (caller, used) in [("a", 1), ("a", 2), ("b", 3), ("b", 2), ("c", 20), ("d", 0)] {
            peaks.record(caller, used, 20, START);
        }
        assert_eq!(ended(&peaks), [], "the window has not ended");
        let next = START + Millis::from_secs(60);
        peaks.record("a", 19, 20, next);
        let expected = [("auth 0", 1), ("auth 1", 1), ("auth 9", 1)];
        assert_eq!(
            ended(&peaks),
            expected.map(|(name, count)| (name.to_owned(), count))
        );
        peaks.record("a", 1, 20, next + Millis::from_secs(60));
        assert_eq!(ended(&peaks).last(), Some(&("auth 9".to_owned(), 2)));
    }

    #[test]
    fn at_most_200_callers_of_a_window_are_followed() {
        let mut peaks = peaks();
        for caller in 0..10_000 {
            peaks.record(caller, 1, 20, START);
        }
        peaks.record(0, 1, 20, START + Millis::from_secs(60));
        assert_eq!(ended(&peaks), [("auth 0".to_owned(), MAX_CALLERS as u64)]);
    }
}
