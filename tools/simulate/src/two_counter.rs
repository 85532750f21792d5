//! The usual estimate of a sliding window from two counters. Cloudflare's blog describes it ("How we built
//! rate limiting capable of scaling to millions of domains", 2017), and `@upstash/ratelimit` implements it.
//!
//! The estimate is the count of this window, plus the part of the window before that the sliding window
//! still overlaps, as if its requests had been spread evenly. It is computed exactly here.
//! `@upstash/ratelimit` rounds the earlier count down, and so admits up to one unit more.

use std::collections::BTreeMap;

use edge_limiter::quota::Quota;
use edge_limiter::time::Timestamp;

use crate::rule::Rule;

/// The counts of one caller, by the number of the window since the epoch.
#[derive(Debug, Default)]
pub(crate) struct TwoCounter {
    counts: BTreeMap<u64, u64>,
}

impl Rule for TwoCounter {
    fn admits(&mut self, quota: &Quota, cost: u32, now: Timestamp) -> bool {
        let window = quota.window().get();
        let (index, passed) = (now.as_millis() / window, now.as_millis() % window);
        let count = |index: Option<u64>| {
            let found = index.and_then(|index| self.counts.get(&index));
            found.copied().unwrap_or_default()
        };
        let (before, this) = (count(index.checked_sub(1)), count(Some(index)));
        let wanted = before * (window - passed) + (this + u64::from(cost)) * window;
        let fits = wanted <= u64::from(quota.limit()) * window;
        if fits {
            *self.counts.entry(index).or_default() += u64::from(cost);
            // A request that arrives late, by a slow message or clock, may still need the window before.
            self.counts = self.counts.split_off(&index.saturating_sub(2));
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use edge_limiter::quota::Algorithm;

    use super::TwoCounter;
    use crate::rule::Rule;
    use crate::testing::{START, quota};

    #[test]
    fn the_window_before_counts_by_the_part_that_overlaps() {
        let quota = quota(Algorithm::SlidingWindow, 10, 60_000);
        let mut counter = TwoCounter::default();
        let mut ask = |ms: u64| counter.admits(&quota, 1, START + ms_of(ms));
        for _ in 0..10 {
            assert!(ask(59_999));
        }
        assert!(!ask(60_000), "all of it overlaps");
        assert!(!ask(65_999), "a little more than nine tenths overlap");
        assert!(ask(66_000), "nine tenths overlap");
        assert!(!ask(66_000));
    }

    fn ms_of(ms: u64) -> edge_limiter::time::Millis {
        edge_limiter::time::Millis::new(ms)
    }
}
