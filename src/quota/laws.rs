//! The laws of a decision, as property tests. Comments and documents cite them by these numbers:
//!
//! 1. A quota never admits more than its algorithm's bound, for any interleaving of isolates. Sliding window: no
//!    interval of the window's length, less the greatest difference between the isolates' clocks, holds more than
//!    the limit.
//! 2. A denied request consumes nothing in any enforced quota. A quota in shadow mode denies nothing and blocks
//!    nobody.
//! 3. The retry time is exact: the same request is denied before it, and admitted at it if nobody else consumed.
//! 4. Time does not run backwards in a state. An isolate whose clock is a little behind reopens no window. A
//!    state's clock that is more than [`CLOCK_TOLERANCE`] ahead is ignored, so that one faulty clock does not lock
//!    callers out.
//! 5. A request whose cost is above the capacity is denied, consumes nothing, and sets no block. The answer says
//!    that waiting does not help.
//! 6. A state expires once it no longer matters, and not before.
//! 7. A cost of 0 reads without consuming. A refund gives back what one admission took and no more, and nothing
//!    once that has left the window. Law 1 holds for what remains consumed.
//! 8. States of policy versions with other algorithms or windows share a key. Each version limits as if it were
//!    alone, so together they admit at most the sum of their limits. A malformed state counts as absent.
//! 9. Only a denial by a caller's own quota counts against that caller (blocks, escalation, suspicion).
//!
//! Laws 1 to 8 hold for a single quota here. Tests of the stores (`store::conformance`) show law 2 across the
//! quotas of a request, and tests of the limiter (`limiter::tests::events`) show law 9.

use std::num::NonZeroU32;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    Algorithm, CLOCK_TOLERANCE, MAX_WINDOW, Quota, QuotaOutcome, QuotaState, sliding_window,
};
use crate::time::{Millis, Timestamp};

mod absorb;
pub(crate) mod bounds;
mod lease;
mod versions;

/// A time like today's, at no boundary of a second, minute, hour or day.
const START: u64 = 1_764_000_123_456;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(START + ms)
}

fn quota(algorithm: Algorithm, limit: u32, window: u64, burst: u32) -> Quota {
    Quota::new(
        algorithm,
        NonZeroU32::new(limit).unwrap(),
        Millis::new(window),
    )
    .and_then(|quota| quota.with_burst(NonZeroU32::new(burst).unwrap()))
    .unwrap()
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::SlidingWindow),
        Just(Algorithm::TokenBucket),
        Just(Algorithm::FixedWindow),
    ]
}

/// Windows in ms, from odd little ones, whose sub-windows are a few milliseconds, to a day.
fn windows() -> impl Strategy<Value = u64> {
    prop_oneof![1..200u64, 1_000..100_000u64, Just(60_000), Just(86_400_000)]
}

fn quotas() -> impl Strategy<Value = Quota> {
    (algorithms(), 1..40u32, windows(), 1..40u32)
        .prop_map(|(algorithm, limit, window, burst)| quota(algorithm, limit, window, burst))
}

/// A request.
#[derive(Clone, Copy, Debug)]
struct LawStep {
    /// The time since the request before, in 64ths of the window.
    after: u64,
    cost: u32,
    /// How far the isolate's clock is ahead, in 16ths of the greatest skew.
    ahead: u64,
}

fn steps() -> impl Strategy<Value = Vec<LawStep>> {
    let step = (0..40u64, 0..6u32, 0..=16u64).prop_map(|(after, cost, ahead)| LawStep {
        // Mostly bursts, sometimes a long pause.
        after: if after < 24 { after / 8 } else { after },
        cost,
        ahead,
    });
    proptest::collection::vec(step, 1..120)
}

struct Admission {
    /// The real time, in ms after [`START`].
    real: u64,
    /// The time at which the request was decided.
    decided: Timestamp,
    units: u32,
}

fn real(admissions: &[Admission]) -> Vec<bounds::AdmittedUnits> {
    let real = |one: &Admission| (one.real, one.units);
    admissions.iter().map(real).collect()
}

/// Plays `steps` with clocks up to `skew` ms apart. Returns the admissions, the last state, and the real
/// time at the end.
fn play(quota: &Quota, steps: &[LawStep], skew: u64) -> (Vec<Admission>, Option<QuotaState>, u64) {
    let mut state = None;
    let mut real = 0;
    let mut admissions = Vec::new();
    for step in steps {
        real += step.after * quota.window().get() / 64;
        let decided = quota.decide(state.as_ref(), step.cost, at(real + step.ahead * skew / 16));
        if decided.decision.allowed() && step.cost > 0 {
            admissions.push(Admission {
                real,
                decided: decided.decision.at,
                units: step.cost,
            });
            state = decided.admitted;
            assert!(state.is_some(), "an admission returns a state to keep");
        } else {
            assert_eq!(
                decided.admitted, None,
                "a denial or a cost of 0 returns no state to keep"
            );
            state = decided.repaired.or(state);
        }
    }
    (admissions, state, real)
}

proptest! {
    /// Law 1, sliding window: no interval of the window's length, less the clocks' difference, holds
    /// more than the limit.
    #[test]
    fn no_window_holds_more_than_the_limit(
        limit in 1..40u32, window in windows(), steps in steps(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (admissions, _, _) = play(&quota, &steps, skew);
        bounds::of_a_window(&real(&admissions), limit, window, skew)?;
    }

    /// The price of law 1: nobody waits more than one sub-window longer than under an ideal log.
    #[test]
    fn a_sliding_window_denies_only_what_a_log_one_sub_window_longer_would(
        limit in 1..40u32, window in windows(), steps in steps(),
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let width = sliding_window::width(quota.window()).get();
        let mut state = None;
        let mut real = 0;
        let mut log: Vec<(u64, u32)> = Vec::new();
        for step in steps {
            real += step.after * window / 64;
            let decided = quota.decide(state.as_ref(), step.cost, at(real));
            if decided.decision.allowed() {
                log.push((real, step.cost));
                state = decided.admitted.or(state);
            } else {
                let logged: u32 = log
                    .iter()
                    .filter(|(time, _)| time + window + width > real)
                    .map(|(_, units)| units)
                    .sum();
                prop_assert!(logged + step.cost > limit);
            }
        }
    }

    /// Law 1, token bucket: any interval holds at most the burst and what comes back in its length.
    #[test]
    fn a_bucket_admits_at_most_its_burst_and_its_rate(
        limit in 1..40u32, window in windows(), burst in 1..40u32, steps in steps(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::TokenBucket, limit, window, burst);
        let (admissions, _, _) = play(&quota, &steps, skew);
        bounds::of_a_bucket(&real(&admissions), &quota, skew)?;
    }

    /// Law 1, fixed window: no window of the grid holds more than the limit. The times at which requests
    /// were decided count, and they never go back.
    #[test]
    fn no_fixed_window_holds_more_than_the_limit(
        limit in 1..40u32, window in windows(), steps in steps(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::FixedWindow, limit, window, 1);
        let (admissions, _, _) = play(&quota, &steps, skew);
        for start in &admissions {
            let index = start.decided.as_millis() / window;
            let admitted: u32 = admissions
                .iter()
                .filter(|other| other.decided.as_millis() / window == index)
                .map(|other| other.units)
                .sum();
            prop_assert!(admitted <= limit);
        }
        prop_assert!(admissions.windows(2).all(|pair| pair[0].decided <= pair[1].decided));
    }

    /// Law 3: the same request is denied strictly before the announced time, and allowed at it. This also
    /// holds on a clock behind or ahead of the state's, and on one by which the state's clock is faulty.
    #[test]
    fn the_retry_time_is_exact(
        quota in quotas(), steps in steps(), skew in 0..=2000u64, cost in 1..6u32,
        shift in prop_oneof![Just(0i64), -2000..2000i64, -10_000_000..10_000_000i64],
    ) {
        let (_, state, real) = play(&quota, &steps, skew);
        let now = Timestamp::from_millis((START + real).checked_add_signed(shift).unwrap());
        bounds::of_the_retry_time(&quota, state, cost, now)?;
    }

    /// Law 4: a clock that is behind by no more than the tolerance decides like the clock ahead.
    #[test]
    fn a_clock_behind_reopens_nothing(
        quota in quotas(), steps in steps(), cost in 1..6u32, behind in 0..=2000u64,
    ) {
        let (admissions, state, _) = play(&quota, &steps, 0);
        if let Some(last) = admissions.last() {
            let ahead = quota.decide(state.as_ref(), cost, last.decided).decision;
            let slow = quota.decide(state.as_ref(), cost, last.decided - Millis::new(behind)).decision;
            prop_assert_eq!(slow.outcome, ahead.outcome);
            prop_assert_eq!(slow.remaining, ahead.remaining);
        }
    }

    /// Law 4: a clock far ahead costs a caller at most one window and a sub-window (with a token bucket:
    /// its refill time), and admits nothing more.
    #[test]
    fn a_clock_far_ahead_costs_a_caller_one_window_at_most(
        quota in quotas(), steps in steps(), ahead in 2001..10_000_000_000u64,
    ) {
        let (admissions, state, _) = play(&quota, &steps, 0);
        let Some(last) = admissions.last() else { return Ok(()) };
        let now = last.decided - Millis::new(ahead.min(START));
        let seen = quota.decide(state.as_ref(), 0, now).decision;
        let then = quota.decide(state.as_ref(), 0, last.decided).decision;
        prop_assert!(seen.remaining <= then.remaining);
        let decided = quota.decide(state.as_ref(), 1, now);
        if let QuotaOutcome::Denied { retry_at } = decided.decision.outcome {
            let most = quota.refill().get() + quota.window().get().div_ceil(60);
            prop_assert!(retry_at.since(now).get() <= most);
            prop_assert!(decided.repaired.is_some(), "the faulty clock is repaired");
        }
    }

    /// Law 5: a cost above the capacity is impossible however long the caller waits, and consumes nothing.
    #[test]
    fn a_cost_above_the_capacity_is_impossible(
        quota in quotas(), steps in steps(), more in 1..1000u32,
    ) {
        let (_, state, real) = play(&quota, &steps, 0);
        let decided = quota.decide(state.as_ref(), quota.capacity() + more, at(real));
        prop_assert_eq!(decided.decision.outcome, QuotaOutcome::Impossible);
        prop_assert_eq!(decided.admitted, None);
        let most = quota.decide(None, quota.capacity(), at(real)).decision;
        prop_assert!(most.allowed());
        prop_assert_eq!(most.remaining, 0);
    }

    /// Law 6: a state no longer matters once all units are available again, and matters until then.
    #[test]
    fn a_state_matters_until_the_reset_and_no_longer(
        quota in quotas(), steps in steps(), skew in 0..=2000u64, cost in 0..6u32,
    ) {
        let (_, state, real) = play(&quota, &steps, skew);
        let now = at(real);
        let reset_at = bounds::of_the_reset(&quota, state.as_ref(), cost, now)?;
        let longest = quota.refill().get() + quota.window().get().div_ceil(60) + CLOCK_TOLERANCE.get();
        prop_assert!(reset_at.since(now).get() <= longest);
    }

    /// Laws 2 and 7: a denial and a read consume nothing, and a read returns how many units are left.
    #[test]
    fn a_read_consumes_nothing(quota in quotas(), steps in steps()) {
        let (_, state, real) = play(&quota, &steps, 0);
        let read = quota.decide(state.as_ref(), 0, at(real));
        prop_assert_eq!(&read.admitted, &None);
        prop_assert!(read.decision.allowed());
        let left = read.decision.remaining;
        if left > 0 {
            let all = quota.decide(state.as_ref(), left, at(real)).decision;
            prop_assert!(all.allowed());
            prop_assert_eq!(all.remaining, 0);
        }
        let more = quota.decide(state.as_ref(), left + 1, at(real)).decision;
        prop_assert!(!more.allowed());
    }

    /// Law 7: a refund gives back no more than it took, and law 1 holds for what remains consumed.
    #[test]
    fn refunds_keep_the_bound(
        quota in quotas(), steps in steps(), refunded in any::<u64>(), later in 0..80u64,
    ) {
        let (mut admissions, state, real) = play(&quota, &steps, 0);
        let Some(state) = state else { return Ok(()) };
        let chosen = usize::try_from(refunded).unwrap_or(usize::MAX) % admissions.len();
        let now = at(real + later * quota.window().get() / 64);
        let units = admissions[chosen].units;
        let before = quota.decide(Some(&state), 0, now).decision.remaining;
        let after = quota.refund(&state, units, admissions[chosen].decided, now);
        let after = after.unwrap_or(state);
        let left = quota.decide(Some(&after), 0, now).decision.remaining;
        prop_assert!(left >= before && left <= before + units);

        // With all units that are left admitted now, what remains consumed is within the bound.
        admissions[chosen].units = 0;
        let limit = u64::from(quota.limit());
        let window = quota.window().get();
        match quota.algorithm() {
            Algorithm::SlidingWindow => {
                let used: u32 = admissions.iter()
                    .filter(|one| one.decided + quota.window() > now)
                    .map(|one| one.units).sum();
                prop_assert!(used + left <= quota.limit());
            }
            Algorithm::FixedWindow => {
                let index = now.as_millis() / window;
                let used: u32 = admissions.iter()
                    .filter(|one| one.decided.as_millis() / window == index)
                    .map(|one| one.units).sum();
                prop_assert!(used + left <= quota.limit());
            }
            Algorithm::TokenBucket => {
                let mut units = u64::from(left);
                for one in admissions.iter().rev() {
                    units += u64::from(one.units);
                    let time = now.since(one.decided).get();
                    prop_assert!(units * window <= u64::from(quota.capacity()) * window + time * limit);
                }
            }
        }
    }

    /// Law 7: units that have left the window are not given back.
    #[test]
    fn a_refund_that_comes_too_late_is_ignored(quota in quotas(), steps in steps()) {
        let (admissions, state, real) = play(&quota, &steps, 0);
        let (Some(state), Some(first)) = (state, admissions.first()) else { return Ok(()) };
        let now = first.decided + quota.refill() + Millis::new(quota.window().get().div_ceil(60));
        if now > at(real) {
            let fresh = quota.decide(Some(&state), 0, now).decision;
            let kept = quota.refund(&state, first.units, first.decided, now).unwrap_or(state);
            prop_assert_eq!(quota.decide(Some(&kept), 0, now).decision.remaining, fresh.remaining);
        }
    }

    /// Law 8: a state of another shape counts as absent, and every state parses back from its text.
    #[test]
    fn a_state_of_another_shape_counts_as_absent(
        one in quotas(), other in quotas(), steps in steps(), cost in 0..6u32,
    ) {
        let (_, state, real) = play(&one, &steps, 0);
        let Some(state) = state else { return Ok(()) };
        prop_assert_eq!(QuotaState::parse(&state.to_string()), Some(state.clone()));
        if !other.fits(&state) {
            prop_assert_eq!(
                other.decide(Some(&state), cost, at(real)),
                other.decide(None, cost, at(real))
            );
        }
    }

    /// A text with any numbers in a state's form is decided without a panic.
    #[test]
    fn hostile_states_cause_no_panic(
        quota in quotas(), tag in "sw|tb|fw", width in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
        clock in any::<u64>(), third in any::<u64>(), list in "[0-9=,]{0,40}", cost in any::<u32>(),
        now in 0..(1u64 << 45),
    ) {
        let own = match quota.algorithm() {
            Algorithm::SlidingWindow => sliding_window::width(quota.window()).get(),
            Algorithm::TokenBucket | Algorithm::FixedWindow => quota.window().get(),
        };
        let width = width.unwrap_or(own);
        let shift = clock % 53;
        let (clock, third) = (clock >> shift, third >> shift);
        for text in [
            format!("{tag}:{width}:{clock}:{third}"),
            format!("{tag}:{width}:{clock}:{third}:{list}"),
            format!("{tag}:{width}:{clock}:{third}:0={cost}"),
        ] {
            let state = QuotaState::parse(&text);
            let decided = quota.decide(state.as_ref(), cost, Timestamp::from_millis(now));
            if let Some(state) = decided.admitted {
                prop_assert_eq!(QuotaState::parse(&state.to_string()), Some(state));
            }
        }
    }
}

/// The two-counter estimate admits 197 here. The sliding window must admit 100.
#[test]
fn the_burst_that_fools_the_two_counter_estimate_does_not_pass() {
    let quota = quota(Algorithm::SlidingWindow, 100, 60_000, 1);
    let mut state = None;
    let mut admitted = 0;
    let mut ask = |ms: u64, times: u32| {
        for _ in 0..times {
            let decided = quota.decide(state.as_ref(), 1, Timestamp::from_millis(ms));
            if decided.decision.allowed() {
                admitted += 1;
                state = decided.admitted;
            }
        }
    };
    let minute = START / 60_000 * 60_000;
    ask(minute + 500, 100);
    for second in 1..59 {
        ask(minute + second * 1000 + 500, 10);
    }
    assert_eq!(admitted, 100);
}

#[test]
fn a_bucket_too_large_for_exact_integers_is_refused() {
    let limit = NonZeroU32::new(u32::MAX).unwrap();
    let day = Millis::from_secs(86_400);
    assert!(Quota::new(Algorithm::TokenBucket, limit, day).is_err());
    assert!(Quota::new(Algorithm::SlidingWindow, limit, day).is_ok());
    assert!(Quota::new(Algorithm::TokenBucket, limit, Millis::from_secs(525)).is_err());
    assert!(Quota::new(Algorithm::TokenBucket, limit, Millis::from_secs(524)).is_ok());
}

#[test]
fn a_rate_above_one_unit_per_millisecond_is_still_limited() {
    let quota = quota(Algorithm::TokenBucket, 7000, 1000, 7000);
    let mut state = None;
    let mut admitted = 0;
    for ms in 0..1000 {
        for _ in 0..20 {
            let decided = quota.decide(state.as_ref(), 1, at(ms));
            if decided.decision.allowed() {
                admitted += 1;
                state = decided.admitted;
            }
        }
    }
    assert_eq!(
        admitted,
        7000 + 6993,
        "the burst and 999 ms of the rate are admitted"
    );
}

#[test]
fn the_largest_cost_does_not_overflow_in_the_longest_window() {
    for algorithm in [
        Algorithm::SlidingWindow,
        Algorithm::TokenBucket,
        Algorithm::FixedWindow,
    ] {
        let quota = quota(algorithm, 10, MAX_WINDOW.get(), 10);
        let impossible = quota.decide(None, u32::MAX, at(0));
        assert_eq!(impossible.decision.outcome, QuotaOutcome::Impossible);
        let stored = quota.decide(None, 10, at(0)).admitted.unwrap();
        let after = quota.refund(&stored, u32::MAX, at(0), at(0)).unwrap();
        let left = quota.decide(Some(&after), 0, at(0)).decision.remaining;
        assert_eq!(
            left, 10,
            "a refund of more than was taken gives back all that was taken"
        );
    }
}

/// The second admission's units are above the first one's in the bucket. The first ones are given back at
/// once, and a late refund of the second ones must not give back more because of them.
#[test]
fn refunds_to_a_bucket_that_come_at_different_times_keep_the_bound() {
    let quota = quota(Algorithm::TokenBucket, 10, 1000, 40);
    let first = quota.decide(None, 10, at(0)).admitted.unwrap();
    let both = quota.decide(Some(&first), 10, at(0)).admitted.unwrap();
    let second = quota.refund(&both, 10, at(0), at(0)).unwrap();
    let kept = quota.decide(Some(&second), 10, at(1500)).admitted.unwrap();
    let after = quota.refund(&kept, 10, at(0), at(1500)).unwrap_or(kept);
    let left = quota.decide(Some(&after), 0, at(1500)).decision.remaining;
    assert_eq!(left, 30, "ten units have just been admitted");
}

/// After the burst is made smaller, a level can be above the bucket's size. It counts as full.
#[test]
fn a_refund_to_an_overfull_bucket_frees_no_units() {
    let larger = quota(Algorithm::TokenBucket, 10, 60_000, 40);
    let smaller = quota(Algorithm::TokenBucket, 10, 60_000, 10);
    let stored = larger.decide(None, 40, at(0)).admitted.unwrap();
    let before = smaller.decide(Some(&stored), 0, at(30_000)).decision;
    assert_eq!(before.remaining, 5);
    let after = smaller.refund(&stored, 6, at(0), at(30_000)).unwrap();
    let after = smaller.decide(Some(&after), 0, at(30_000)).decision;
    assert_eq!(
        after.remaining, 5,
        "the 34 units that remain are more than a full bucket"
    );
}
