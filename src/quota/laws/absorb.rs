//! The laws of what is absorbed.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{START, Step, at, play, quota, quotas, steps};
use crate::quota::clock::decided_at;
use crate::quota::{Algorithm, Quota, QuotaOutcome, QuotaState, sliding_window};
use crate::time::{Millis, Timestamp};

/// The most a quota can hold: units, or a bucket's level.
fn full(quota: &Quota) -> u64 {
    let unit = match quota.algorithm() {
        Algorithm::TokenBucket => quota.window().get(),
        Algorithm::SlidingWindow | Algorithm::FixedWindow => 1,
    };
    u64::from(quota.capacity()) * unit
}

/// What `state` weighs in a decision at `at`; what is later than that counts as taken then.
fn weighs(quota: &Quota, state: &QuotaState, at: Timestamp) -> u64 {
    if !quota.fits(state) {
        return 0;
    }
    let window = quota.window().get();
    match state {
        QuotaState::SlidingWindow(state) => {
            let width = sliding_window::width(quota.window()).get();
            let here = at.as_millis() / width;
            let counts = |index: u64| (index.min(here) + 1) * width + window > at.as_millis();
            let counting = state.counts.iter().filter(|sub| counts(sub.index));
            counting.map(|sub| u64::from(sub.count)).sum()
        }
        QuotaState::TokenBucket(state) => {
            let back = at.since(state.clock).get() * u64::from(quota.limit());
            state.level.saturating_sub(back)
        }
        QuotaState::FixedWindow(state) => {
            let clock = state.clock.min(at).as_millis();
            let same = clock / window == at.as_millis() / window;
            if same { u64::from(state.count) } else { 0 }
        }
    }
}

fn clock(state: Option<&QuotaState>) -> Timestamp {
    state.map_or_else(Timestamp::default, QuotaState::clock)
}

/// A quota, what the shared store holds of it, what an isolate with up to three times the limit
/// admitted beside it, and a time: around and after both, or one by which the store's clock is far
/// ahead.
#[derive(Clone, Debug)]
struct Apart {
    quota: Quota,
    shared: Option<QuotaState>,
    backlog: Option<QuotaState>,
    now: Timestamp,
}

fn apart() -> impl Strategy<Value = Apart> {
    let shift = prop_oneof![
        4 => Just(0i64),
        4 => 0..80i64,
        2 => -80..0i64,
    ];
    let skew = prop_oneof![3 => Just(0i64), 3 => -2000..2000i64, 1 => -10_000_000..0i64];
    (quotas(), 1..4u32, steps(), steps(), shift, skew).prop_map(
        |(quota, factor, shared, backlog, shift, skew)| {
            let (_, shared, real) = play(&quota, &shared, 0);
            let (_, backlog, backlog_real) = play(&times(&quota, factor), &backlog, 0);
            let window = i64::try_from(quota.window().get()).unwrap();
            let now = START + real.max(backlog_real);
            let now = now.saturating_add_signed(shift * window / 64 + skew);
            Apart {
                quota,
                shared,
                backlog,
                now: Timestamp::from_millis(now),
            }
        },
    )
}

/// The quota of `factor` times the size.
fn times(one: &Quota, factor: u32) -> Quota {
    let (limit, window) = (one.limit() * factor, one.window().get());
    quota(one.algorithm(), limit, window, one.capacity() * factor)
}

/// Half of a backlog, rounded down, and the rest.
fn halves(state: &QuotaState) -> (QuotaState, QuotaState) {
    let (mut one, mut other) = (state.clone(), state.clone());
    match (&mut one, &mut other) {
        (QuotaState::SlidingWindow(one), QuotaState::SlidingWindow(other)) => {
            for (one, other) in one.counts.iter_mut().zip(&mut other.counts) {
                one.count /= 2;
                other.count -= one.count;
            }
            one.counts.retain(|sub| sub.count > 0);
        }
        (QuotaState::TokenBucket(one), QuotaState::TokenBucket(other)) => {
            one.level /= 2;
            other.level -= one.level;
        }
        (QuotaState::FixedWindow(one), QuotaState::FixedWindow(other)) => {
            one.count /= 2;
            other.count -= one.count;
        }
        _ => unreachable!("copies of one state"),
    }
    (one, other)
}

proptest! {
    /// All of it as far as there is room, and no more; and then it is a state like any other.
    #[test]
    fn a_backlog_is_added_up_to_the_limit(apart in apart()) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        let (at, _) = decided_at(clock(shared.as_ref()), now);
        let before = shared.as_ref().map_or(0, |shared| weighs(&quota, shared, at));
        let expected = (before + weighs(&quota, &backlog, at)).min(full(&quota));
        let before_decided = quota.decide(shared.as_ref(), 0, now);
        let Some(after) = quota.absorb(shared.as_ref(), &backlog, now) else {
            prop_assert_eq!(before, expected, "something was to be added");
            return Ok(());
        };
        prop_assert!(expected > before, "nothing was to be added");
        prop_assert_eq!(weighs(&quota, &after, at), expected);
        prop_assert_eq!(clock(Some(&after)), at);
        prop_assert_eq!(QuotaState::parse(&after.to_string()), Some(after.clone()));

        let decided = quota.decide(Some(&after), 0, now);
        prop_assert_eq!(decided.repaired, None, "a bad clock has been taken out");
        prop_assert!(decided.decision.reset_at >= before_decided.decision.reset_at);
        prop_assert!(decided.decision.remaining <= before_decided.decision.remaining);
        let left = decided.decision.remaining;
        prop_assert!(quota.decide(Some(&after), left, now).decision.allowed());
        prop_assert!(!quota.decide(Some(&after), left + 1, now).decision.allowed());
    }

    /// Nor is there more room later on than there was without it.
    #[test]
    fn absorbing_never_makes_room(apart in apart(), later in 0..80u64) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        let Some(after) = quota.absorb(shared.as_ref(), &backlog, now) else { return Ok(()) };
        let shared = quota.decide(shared.as_ref(), 0, now).repaired.or(shared);
        let then = now + Millis::new(later * quota.window().get() / 64);
        let before = quota.decide(shared.as_ref(), 0, then).decision;
        let after = quota.decide(Some(&after), 0, then).decision;
        prop_assert!(after.remaining <= before.remaining);
        prop_assert!(after.reset_at >= before.reset_at);
    }

    /// Law 1, windows: where there was room for what the isolate admitted, no window holds more than
    /// the limit, counting what was admitted on both sides and afterwards.
    #[test]
    fn law_1_holds_over_both_sides(
        limit in 1..40u32, window in super::windows(), sliding in any::<bool>(),
        shared in steps(), backlog in steps(), later in steps(),
    ) {
        let algorithm = if sliding { Algorithm::SlidingWindow } else { Algorithm::FixedWindow };
        let quota = quota(algorithm, limit, window, 1);
        let (mut admissions, state, real) = play(&quota, &shared, 0);
        let (others, backlog, backlog_real) = play(&quota, &backlog, 0);
        let Some(backlog) = backlog else { return Ok(()) };
        let mut real = real.max(backlog_real);
        let both = [state.as_ref(), Some(&backlog)].into_iter().flatten();
        if both.map(|one| weighs(&quota, one, at(real))).sum::<u64>() > full(&quota) {
            return Ok(());
        }
        let mut state = quota.absorb(state.as_ref(), &backlog, at(real)).or(state);
        admissions.extend(others);
        for Step { after, cost, .. } in later {
            real += after * window / 64;
            let decided = quota.decide(state.as_ref(), cost, at(real));
            state = decided.admitted.or(state);
            if !decided.decision.allowed() || cost == 0 {
                continue;
            }
            let counts = |then: Timestamp| match algorithm {
                Algorithm::FixedWindow => then.as_millis() / window == at(real).as_millis() / window,
                _ => then + quota.window() > at(real),
            };
            let held: u32 = admissions.iter().filter(|one| counts(one.decided)).map(|one| one.units).sum();
            prop_assert!(held + cost <= limit, "{held} and {cost} of {limit}");
            admissions.push(super::Admission { real, decided: at(real), units: cost });
        }
    }

    /// Law 1, buckets: from the absorbing on, what was left and the rate.
    #[test]
    fn a_bucket_admits_what_is_left_and_its_rate(apart in apart(), later in steps()) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        if quota.algorithm() != Algorithm::TokenBucket {
            return Ok(());
        }
        let Some(mut state) = quota.absorb(shared.as_ref(), &backlog, now) else { return Ok(()) };
        let absorbed_at = clock(Some(&state));
        let left = full(&quota) - weighs(&quota, &state, absorbed_at);
        let (mut then, mut admitted) = (now, 0);
        for Step { after, cost, .. } in later {
            then = then + Millis::new(after * quota.window().get() / 64);
            if let Some(admitted_state) = quota.decide(Some(&state), cost, then).admitted {
                admitted += u64::from(cost) * quota.window().get();
                state = admitted_state;
            }
            let back = then.since(absorbed_at).get() * u64::from(quota.limit());
            prop_assert!(admitted <= left + back);
        }
    }

    /// Law 3 over an absorbed state.
    #[test]
    fn a_retry_time_after_absorbing_is_exact(apart in apart(), cost in 1..6u32) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        let state = quota.absorb(shared.as_ref(), &backlog, now);
        let Some(state) = state else { return Ok(()) };
        if let QuotaOutcome::Denied { retry_at } = quota.decide(Some(&state), cost, now).decision.outcome {
            let wait = retry_at.since(now).get();
            prop_assert!(wait > 0);
            for early in [0, wait / 2, wait - 1] {
                let again = quota.decide(Some(&state), cost, now + Millis::new(early)).decision;
                prop_assert_eq!(again.outcome, QuotaOutcome::Denied { retry_at }, "{} ms in", early);
            }
            prop_assert!(quota.decide(Some(&state), cost, retry_at).decision.allowed());
        }
    }

    /// In two halves, in either order, as in one: where there is room, and for a bucket whose level is
    /// of now, since two buckets drain at twice the rate of one.
    #[test]
    fn two_halves_are_the_whole(apart in apart()) {
        let Apart { quota, shared, backlog: Some(mut backlog), now } = apart else { return Ok(()) };
        let (at, _) = decided_at(clock(shared.as_ref()), now);
        if let QuotaState::TokenBucket(backlog) = &mut backlog {
            backlog.clock = at;
        }
        let before = shared.as_ref().map_or(0, |shared| weighs(&quota, shared, at));
        if before + weighs(&quota, &backlog, at) > full(&quota) {
            return Ok(());
        }
        let whole = quota.absorb(shared.as_ref(), &backlog, now);
        let (one, other) = halves(&backlog);
        for (first, second) in [(&one, &other), (&other, &one)] {
            let half = quota.absorb(shared.as_ref(), first, now);
            let both = quota.absorb(half.as_ref().or(shared.as_ref()), second, now);
            prop_assert_eq!(both.or(half), whole.clone());
        }
    }

    /// Added to nothing it is itself, up to the limit.
    #[test]
    fn a_backlog_is_gathered_from_nothing(quota in quotas(), steps in steps(), later in 0..80u64, cost in 0..6u32) {
        let (_, backlog, real) = play(&quota, &steps, 0);
        let Some(backlog) = backlog else { return Ok(()) };
        let gathered = quota.absorb(None, &backlog, at(real));
        let then = at(real + later * quota.window().get() / 64);
        prop_assert_eq!(
            quota.decide(gathered.as_ref(), cost, then),
            quota.decide(Some(&backlog), cost, then)
        );
    }

    /// What no longer counts is nothing, however much it was.
    #[test]
    fn what_is_past_is_nothing(apart in apart(), later in 0..10_000_000u64) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        let backlog_clock = clock(Some(&backlog));
        let roomy = quota.with_burst(120.try_into().unwrap()).unwrap();
        let whole = roomy.decide(Some(&backlog), 0, now.max(backlog_clock)).decision.reset_at;
        prop_assert_eq!(quota.absorb(shared.as_ref(), &backlog, whole + Millis::new(later)), None);
    }

    /// Law 8.
    #[test]
    fn a_backlog_of_another_shape_is_nothing(one in quotas(), apart in apart()) {
        let Apart { quota, shared, backlog: Some(backlog), now } = apart else { return Ok(()) };
        if !one.fits(&backlog) {
            prop_assert_eq!(one.absorb(None, &backlog, now), None);
        }
        if shared.as_ref().is_some_and(|shared| !one.fits(shared)) {
            let over = one.absorb(shared.as_ref(), &backlog, now);
            prop_assert_eq!(over, one.absorb(None, &backlog, now));
        }
        prop_assert!(quota.fits(&backlog));
    }

    /// Any numbers in a state's shape are absorbed into any others without a panic.
    #[test]
    fn hostile_states_are_absorbed(
        quota in quotas(), numbers in proptest::array::uniform4(0..=1u64 << 52), shift in 0..52u32,
        counts in proptest::array::uniform2(1..=u32::MAX), now in 0..1u64 << 45,
    ) {
        let [clock, third, backlog_clock, backlog_third] = numbers.map(|number| number >> shift);
        let width = sliding_window::width(quota.window()).get();
        let window = quota.window().get();
        let text = |clock: u64, third: u64, count: u32| match quota.algorithm() {
            Algorithm::SlidingWindow => {
                let last = clock / width;
                let first = last.saturating_sub(third % 70);
                let more = if last > first { format!(",{}={count}", last - first) } else { String::new() };
                format!("sw:{width}:{clock}:{first}:0={count}{more}")
            }
            Algorithm::TokenBucket => format!("tb:{window}:{clock}:{third}:1"),
            Algorithm::FixedWindow => format!("fw:{window}:{clock}:{count}"),
        };
        let shared = QuotaState::parse(&text(clock, third, counts[0]));
        let backlog = QuotaState::parse(&text(backlog_clock, backlog_third, counts[1]));
        prop_assert!(shared.is_some() && backlog.is_some());
        if let Some(after) = quota.absorb(shared.as_ref(), &backlog.unwrap(), Timestamp::from_millis(now)) {
            prop_assert_eq!(QuotaState::parse(&after.to_string()), Some(after));
        }
    }

    /// What has been added once is added no second time, and nothing of the rest is lost.
    #[test]
    fn an_earlier_form_and_what_is_newer_are_the_whole(
        quota in quotas(), steps in steps(), earlier in 0..30usize,
    ) {
        let (_, earlier, _) = play(&quota, &steps[..earlier.min(steps.len())], 0);
        let (_, whole, _) = play(&quota, &steps, 0);
        let (Some(earlier), Some(whole)) = (earlier, whole) else { return Ok(()) };
        let now = clock(Some(&whole));
        let newer = quota.newer(&whole, &earlier);
        let sum = newer.as_ref().and_then(|newer| quota.absorb(Some(&earlier), newer, now));
        prop_assert_eq!(
            weighs(&quota, &sum.unwrap_or_else(|| earlier.clone()), now),
            weighs(&quota, &whole, now)
        );
        prop_assert_eq!(quota.newer(&earlier, &earlier), None);
        prop_assert_eq!(newer.is_none(), earlier == whole);
    }
}
