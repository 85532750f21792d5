//! The laws with leases. The isolate spends leased units at any time until the lease ends, without asking
//! the store. The same laws hold for these units as for others.

use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{Admission, LawStep, at, bounds, quota, quotas, real, steps, windows};
use crate::quota::{Algorithm, Quota, QuotaState, sliding_window};
use crate::time::{Millis, Timestamp};

/// A lease that an isolate takes at a step.
#[derive(Clone, Copy, Debug)]
struct LeasePlan {
    most: u32,
    /// When the isolate spends the units, in 64ths of the lease's time.
    within: u64,
}

fn lease_plans() -> impl Strategy<Value = Vec<LeasePlan>> {
    let within = prop_oneof![Just(0), Just(64), 0..=64u64];
    let most = prop_oneof![2 => Just(0), 5 => 1..12u32, 1 => Just(1000)];
    let plan = (most, within).prop_map(|(most, within)| LeasePlan { most, within });
    proptest::collection::vec(plan, 120)
}

/// Quotas whose limit is at least 7, so that a quarter of it is at least one unit.
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

/// Plays `steps` with clocks up to `skew` ms apart, and takes a lease at each step that is spent later.
/// Returns what was spent, in order, the last state, and the real time at the end.
fn play(
    quota: &Quota,
    steps: &[LawStep],
    plans: &[LeasePlan],
    skew: u64,
) -> (Vec<Admission>, Option<QuotaState>, u64) {
    let mut state: Option<QuotaState> = None;
    let mut real = 0;
    let mut spent = Vec::new();
    for (step, plan) in steps.iter().zip(plans) {
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
        if let Some(lease) = quota.lease(state.as_ref(), plan.most, now) {
            let time = quota.lease_ends(decision.at, now).since(now).get();
            let later = (time * plan.within / 64).min(time - 1);
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
        limit in 1..300u32, window in windows(), steps in steps(), plans in lease_plans(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (spent, _, _) = play(&quota, &steps, &plans, skew);
        bounds::of_a_window(&real(&spent), limit, window, skew)?;
    }

    /// Law 1, token bucket.
    #[test]
    fn a_bucket_admits_at_most_its_burst_and_its_rate(
        limit in 1..300u32, window in windows(), burst in 1..300u32, steps in steps(), plans in lease_plans(),
        skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::TokenBucket, limit, window, burst);
        let (spent, _, _) = play(&quota, &steps, &plans, skew);
        bounds::of_a_bucket(&real(&spent), &quota, skew)?;
    }

    /// Law 1, fixed window: no window of the grid holds more than the limit.
    #[test]
    fn no_fixed_window_holds_more_than_the_limit(
        limit in 1..300u32, window in windows(), steps in steps(), plans in lease_plans(), skew in 0..=2000u64,
    ) {
        let quota = quota(Algorithm::FixedWindow, limit, window, 1);
        let (spent, _, _) = play(&quota, &steps, &plans, skew);
        for start in &spent {
            let index = start.decided.as_millis() / window;
            let admitted: u32 = spent
                .iter()
                .filter(|other| other.decided.as_millis() / window == index)
                .map(|other| other.units)
                .sum();
            prop_assert!(admitted <= limit, "{admitted} units admitted with a limit of {limit}");
        }
    }

    /// An isolate takes a lease while its clock is ahead by any time. Whenever it spends the units, these
    /// and what an isolate with a right clock admits afterwards are within the limit.
    #[test]
    fn a_faulty_clocks_lease_is_counted_until_its_end(
        limit in 8..300u32, window in windows(), ahead in 2001..10_000_000_000u64, most in 1..40u32,
        after in 0..64u64, within in 0..=64u64,
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (faulty, real) = (at(ahead), at(0));
        let Some(lease) = quota.lease(None, most, faulty) else { return Ok(()) };
        let ends = quota.lease_ends(faulty, faulty).since(faulty).get();
        // The other isolate decides somewhat later, before or after the lease is spent.
        let now = real + Millis::new(ends * after / 64);
        let spent_at = real + Millis::new(ends * within / 64);
        let seen = quota.decide(Some(&lease.state), 1, now);
        prop_assert!(seen.decision.remaining + lease.units < limit);
        // When the whole limit is available again, the leased units are a window old.
        let whole = seen.decision.reset_at;
        prop_assert!(whole >= spent_at + quota.window());
        let kept = seen.admitted.unwrap();
        let before = quota.decide(Some(&kept), 0, spent_at.max(now) + quota.window() - Millis::new(1));
        prop_assert!(before.decision.remaining + lease.units <= limit);
    }

    /// Law 3, while other isolates hold leased units.
    #[test]
    fn the_retry_time_is_exact(
        quota in larger_quotas(), steps in steps(), plans in lease_plans(), skew in 0..=2000u64, cost in 1..40u32,
        shift in prop_oneof![Just(0i64), -2000..2000i64, -10_000_000..10_000_000i64],
    ) {
        let (_, state, real) = play(&quota, &steps, &plans, skew);
        let now = Timestamp::from_millis(at(real).as_millis().checked_add_signed(shift).unwrap());
        if let Some(wait) = bounds::of_the_retry_time(&quota, state, cost, now)? {
            // The wait is at most the window, a sub-window, a lease and the clocks' difference.
            let most = quota.refill() + quota.lease_time() + Millis::new(quota.window().get().div_ceil(60));
            prop_assert!(wait <= most.get() + 2000);
        }
    }

    /// A lease also takes no more than was asked for, and leaves the rest. Its state is like any other.
    #[test]
    fn a_lease_takes_at_most_a_quarter_of_what_is_left(
        quota in larger_quotas(), steps in steps(), plans in lease_plans(), most in 1..2000u32,
        shift in prop_oneof![3 => Just(0i64), 1 => -2000..2000i64, 1 => -10_000_000..0i64],
    ) {
        let (_, state, real) = play(&quota, &steps, &plans, 0);
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
        prop_assert_eq!(lease.state.clock(), before.at, "a lease does not change the state's clock");
    }

    /// Law 6 for a state with leased units.
    #[test]
    fn a_state_matters_until_the_reset_and_no_longer(
        quota in larger_quotas(), steps in steps(), plans in lease_plans(), cost in 0..6u32,
    ) {
        let (_, state, real) = play(&quota, &steps, &plans, 0);
        bounds::of_the_reset(&quota, state.as_ref(), cost, at(real))?;
    }
}

#[test]
fn a_lease_lasts_five_seconds_at_most() {
    let lease_time =
        |algorithm, limit, window, burst| quota(algorithm, limit, window, burst).lease_time();
    let sliding = |window| lease_time(Algorithm::SlidingWindow, 100, window, 1).get();
    assert_eq!(
        [sliding(1000), sliding(60_000), sliding(3_600_000)],
        [100, 5000, 5000]
    );
    // A burst of 10 at 60 a minute refills in 10 s.
    assert_eq!(
        lease_time(Algorithm::TokenBucket, 60, 60_000, 10).get(),
        1000
    );

    let fixed = quota(Algorithm::FixedWindow, 100, 60_000, 1);
    let minute = Timestamp::from_millis(1_764_000_000_000);
    let late = minute + Millis::new(58_000);
    assert_eq!(fixed.lease_ends(late, late), minute + Millis::new(60_000));
    assert_eq!(fixed.lease_ends(minute, minute), minute + Millis::new(5000));
}

/// The width of its sub-windows alone bounds how far ahead of its clock a state may count.
#[test]
fn no_lease_ends_later_than_its_state_can_record() {
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
