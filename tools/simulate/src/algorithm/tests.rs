use edge_limiter::quota::{Algorithm, Quota};

use super::Contestant;
use crate::accuracy::{Accuracy, judge};
use crate::testing::{one_caller, quota, random};
use crate::trace::Trace;

fn judged(contestant: Contestant, trace: &Trace, quota: &Quota) -> Accuracy {
    judge(trace, quota, &contestant.outcomes(trace, quota).unwrap())
}

/// A whole limit half a second before the window's edge, then ten requests a second. This is the trace behind the
/// number 197 in docs/policies-and-routes.md.
fn around_an_edge() -> Trace {
    let burst = std::iter::repeat_n(59_500, 100);
    let drip = (60..=118).flat_map(|second| std::iter::repeat_n(second * 1000 + 499, 10));
    one_caller(burst.chain(drip))
}

#[test]
fn the_two_counter_estimate_admits_197_of_100_within_59_seconds() {
    let (trace, quota) = (
        around_an_edge(),
        quota(Algorithm::SlidingWindow, 100, 60_000),
    );
    assert_eq!(judged(Contestant::TwoCounter, &trace, &quota).worst, 197);
    let ours = Contestant::Library(Algorithm::SlidingWindow);
    assert_eq!(judged(ours, &trace, &quota).worst, 100);
    assert_eq!(judged(Contestant::IdealLog, &trace, &quota).worst, 100);
}

#[test]
fn neither_the_exact_log_nor_the_sliding_window_ever_admits_more_than_the_limit() {
    for seed in 0..15 {
        let quota = quota(Algorithm::SlidingWindow, 12, 6000);
        let trace = random(seed, 2000, 6000);
        let log = judged(Contestant::IdealLog, &trace, &quota);
        assert!(log.worst <= 12 && log.excess == 0);
        assert_eq!(
            log.denied_with_room, 0,
            "the exact log denies only requests over the limit"
        );
        assert!(log.denied() > 0, "the trace asks for too much");
        let ours = judged(
            Contestant::Library(Algorithm::SlidingWindow),
            &trace,
            &quota,
        );
        assert!(ours.worst <= 12 && ours.excess == 0);
        assert!(ours.admitted > 0);
    }
}

/// Shows that the measure finds the excess of the other algorithms.
#[test]
fn the_fixed_window_and_the_token_bucket_admit_more_than_the_limit_in_a_window() {
    let quota = quota(Algorithm::SlidingWindow, 100, 60_000);
    let twice = |at: u64| std::iter::repeat_n(at, 100);
    let trace = one_caller(twice(59_990).chain(twice(60_010)));
    let fixed = judged(Contestant::Library(Algorithm::FixedWindow), &trace, &quota);
    assert_eq!((fixed.worst, fixed.excess), (200, 100));
    let drained = one_caller(twice(0).chain((1..100).map(|unit| unit * 600)));
    let bucket = judged(
        Contestant::Library(Algorithm::TokenBucket),
        &drained,
        &quota,
    );
    assert_eq!((bucket.worst, bucket.excess), (199, 99));
}
