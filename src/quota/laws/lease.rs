//! The laws of what is leased: they are those of what is admitted, with units spent at any time
//! until the lease ends, by an isolate that asks nobody then.

use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{Admission, Step, at, bounds, quota, quotas, real, steps, windows};
use crate::quota::{Algorithm, Quota, QuotaState, sliding_window};
use crate::time::{Millis, Timestamp};

/// What an isolate takes in advance at a step, and in how many 64ths of the lease's time it spends
/// that.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    most: u32,
    within: u64,
}

fn ahead() -> impl Strategy<Value = Vec<Ahead>> {
    let within = prop_oneof![Just(0), Just(64), 0..=64u64];
    let most = prop_oneof![2 => Just(0), 5 => 1..12u32, 1 => Just(1000)];
    let ahead = (most, within).prop_map(|(most, within)| Ahead { most, within });
    proptest::collection::vec(ahead, 120)
}

/// Limits of which a quarter is more than nothing.
fn larger_quotas() -> impl Strategy<Value = Quota> {
    quotas().prop_map(|one| {
        quota(
            one.algorithm(),
            one.limit() * 7,
            one.window().get(),
            one.capacity() * 7,
        )
    })
}

/// Plays `steps`, each with a lease that is spent later, by clocks up to `skew` ms apart. Returns
/// what was spent, in order, what is held in the end, and when that is.
fn play(
    quota: &Quota,
    steps: &[Step],
    ahead: &[Ahead],
    skew: u64,
) -> (Vec<Admission>, Option<QuotaState>, u64) {
    let mut state: Option<QuotaState> = None;
    let mut real = 0;
    let mut spent = Vec::new();
    for (step, ahead) in steps.iter().zip(ahead) {
        real += step.after * quota.window().get() / 64;
        let now = at(real + step.ahead * skew / 16);
        let decided = quota.decide(state.as_ref(), step.cost, now);
        if !decided.decision.allowed() {
            state = decided.repaired.or(state);
            continue;
        }
        let decision = decided.decision;
        spent.push(Admission {
            real,
            decided: decision.at,
            units: step.cost,
        });
        state = decided.admitted.or(decided.repaired).or(state);
        if let Some(lease) = quota.lease(state.as_ref(), ahead.most, now) {
            let time = quota.lease_ends(decision.at, now).since(now).get();
            let later = (time * ahead.within / 64).min(time - 1);
            spent.push(Admission {
                real: real + later,
                decided: decision.at + Millis::new(later),
                units: lease.units,
            });
            state = Some(lease.state);
        }
    }
    spent.sort_by_key(|spent| spent.real);
    (spent, state, real)
}

proptest! {
    /// Law 1, sliding window.
    #[test]
    fn no_window_holds_more_than_the_limit(
        limit in 1..300u32, window in windows(), steps in steps(), ahead in ahead(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (spent, _, _) = play(&quota, &steps, &ahead, skew);
        bounds::of_a_window(&real(&spent), limit, window, skew)?;
    }

    /// Law 1, token bucket.
    #[test]
    fn a_bucket_admits_its_burst_and_its_rate(
        limit in 1..300u32, window in windows(), burst in 1..300u32, steps in steps(), ahead in ahead(),
        skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::TokenBucket, limit, window, burst);
        let (spent, _, _) = play(&quota, &steps, &ahead, skew);
        bounds::of_a_bucket(&real(&spent), &quota, skew)?;
    }

    /// Law 1, fixed window: no window of the grid holds more than the limit.
    #[test]
    fn no_fixed_window_holds_more_than_the_limit(
        limit in 1..300u32, window in windows(), steps in steps(), ahead in ahead(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::FixedWindow, limit, window, 1);
        let (spent, _, _) = play(&quota, &steps, &ahead, skew);
        for start in &spent {
            let index = start.decided.as_millis() / window;
            let held: u32 = spent
                .iter()
                .filter(|other| other.decided.as_millis() / window == index)
                .map(|other| other.units)
                .sum();
            prop_assert!(held <= limit, "{held} of {limit}");
        }
    }

    /// A clock that ran ahead by any time, and leased: whenever its units are spent, those and what
    /// a clock that is right admits after it are within the limit.
    #[test]
    fn a_faulty_clocks_lease_is_counted_until_its_end(
        limit in 8..300u32, window in windows(), ahead in 2001..10_000_000_000u64, most in 1..40u32,
        after in 0..64u64, within in 0..=64u64,
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (faulty, real) = (at(ahead), at(0));
        let Some(lease) = quota.lease(None, most, faulty) else { return Ok(()) };
        let ends = quota.lease_ends(faulty, faulty).since(faulty).get();
        // Decided somewhat later, before the lease is spent or after.
        let now = real + Millis::new(ends * after / 64);
        let spent_at = real + Millis::new(ends * within / 64);
        let seen = quota.decide(Some(&lease.state), 1, now);
        prop_assert!(seen.decision.remaining + lease.units < limit);
        // As soon as all of the limit is to be had again, the units are a window old.
        let whole = seen.decision.reset_at;
        prop_assert!(whole >= spent_at + quota.window());
        let kept = seen.admitted.unwrap();
        let before = quota.decide(Some(&kept), 0, spent_at.max(now) + quota.window() - Millis::new(1));
        prop_assert!(before.decision.remaining + lease.units <= limit);
    }

    /// Law 3, with units that others hold: no more is announced than is true.
    #[test]
    fn the_retry_time_is_exact(
        quota in larger_quotas(), steps in steps(), ahead in ahead(), skew in 0..=2000u64, cost in 1..40u32,
        shift in prop_oneof![Just(0i64), -2000..2000i64, -10_000_000..10_000_000i64],
    ) {
        let (_, state, real) = play(&quota, &steps, &ahead, skew);
        let now = Timestamp::from_millis(at(real).as_millis().checked_add_signed(shift).unwrap());
        if let Some(wait) = bounds::of_the_retry_time(&quota, state, cost, now)? {
            // The window, a sub-window, and a lease.
            let most = quota.refill() + quota.lease_time() + Millis::new(quota.window().get().div_ceil(60));
            prop_assert!(wait <= most.get() + 2000);
        }
    }

    /// At most a quarter of what is left, never more than was asked for, and the rest stays; and the
    /// state is one like any other.
    #[test]
    fn a_lease_leaves_the_others_room(
        quota in larger_quotas(), steps in steps(), ahead in ahead(), most in 1..2000u32,
        shift in prop_oneof![3 => Just(0i64), 1 => -2000..2000i64, 1 => -10_000_000..0i64],
    ) {
        let (_, state, real) = play(&quota, &steps, &ahead, 0);
        let now = Timestamp::from_millis(at(real).as_millis().checked_add_signed(shift).unwrap());
        let before = quota.decide(state.as_ref(), 0, now).decision;
        let Some(lease) = quota.lease(state.as_ref(), most, now) else {
            prop_assert!(before.remaining < 4 || quota.window().get() < 10 || quota.refill().get() < 10);
            return Ok(());
        };
        prop_assert!(lease.units >= 1 && lease.units <= most && lease.units <= before.remaining / 4);
        let after = quota.decide(Some(&lease.state), 0, now).decision;
        prop_assert!(after.remaining + lease.units <= before.remaining);
        if quota.algorithm() != Algorithm::TokenBucket {
            prop_assert_eq!(after.remaining + lease.units, before.remaining);
        }
        prop_assert!(quota.fits(&lease.state));
        prop_assert_eq!(QuotaState::parse(&lease.state.to_string()), Some(lease.state.clone()));
        prop_assert_eq!(lease.state.clock(), before.at, "a lease is no clock");
    }

    /// Law 6: a state with leased units matters until the reset, and no longer.
    #[test]
    fn a_state_matters_until_the_reset_and_no_longer(
        quota in larger_quotas(), steps in steps(), ahead in ahead(), cost in 0..6u32,
    ) {
        let (_, state, real) = play(&quota, &steps, &ahead, 0);
        bounds::of_the_reset(&quota, state.as_ref(), cost, at(real))?;
    }
}

#[test]
fn units_are_held_for_five_seconds_at_the_most() {
    let held =
        |algorithm, limit, window, burst| quota(algorithm, limit, window, burst).lease_time();
    let sliding = |window| held(Algorithm::SlidingWindow, 100, window, 1).get();
    assert_eq!(
        [sliding(1000), sliding(60_000), sliding(3_600_000)],
        [100, 5000, 5000]
    );
    // Ten of sixty a minute fill in ten seconds.
    assert_eq!(held(Algorithm::TokenBucket, 60, 60_000, 10).get(), 1000);

    let fixed = quota(Algorithm::FixedWindow, 100, 60_000, 1);
    let minute = Timestamp::from_millis(1_764_000_000_000);
    let late = minute + Millis::new(58_000);
    assert_eq!(fixed.lease_ends(late, late), minute + Millis::new(60_000));
    assert_eq!(fixed.lease_ends(minute, minute), minute + Millis::new(5000));
}

/// The width of a sub-window bounds how far ahead a state may count, whatever its window.
#[test]
fn no_lease_ends_later_than_a_state_may_say() {
    for window in (1..4000).chain([59_999, 60_000, 60_001, 3_600_000, 86_400_000]) {
        let quota = quota(Algorithm::SlidingWindow, 1000, window, 1);
        let width = sliding_window::width(quota.window());
        for offset in [0, 1, width.get() / 2, width.get() - 1] {
            let lease = quota.lease(None, 10, at(offset));
            if let Some(lease) = lease {
                let text = lease.state.to_string();
                assert_eq!(QuotaState::parse(&text), Some(lease.state), "{text}");
            }
        }
    }
}
