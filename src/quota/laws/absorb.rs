//! The laws of absorbing a backlog.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{LawStep, START, at, play, quota, quotas, steps};
use crate::quota::clock::decided_at;
use crate::quota::{Algorithm, Quota, QuotaOutcome, QuotaState, sliding_window};
use crate::time::{Millis, Timestamp};

/// The capacity of a quota: in units, or for a token bucket as a level.
fn full(quota: &Quota) -> u64 {
    let unit = match quota.algorithm() {
        Algorithm::TokenBucket => quota.window().get(),
        Algorithm::SlidingWindow | Algorithm::FixedWindow => 1,
    };
    u64::from(quota.capacity()) * unit
}

/// What a decision at `at` counts of `state`, in units or as a level. Units later than `at` count as taken
/// then.
fn used_at(quota: &Quota, state: &QuotaState, at: Timestamp) -> u64 {
    if !quota.fits(state) {
        return 0;
    }
    let window = quota.window().get();
    match state {
        QuotaState::SlidingWindow(state) => {
            let width = sliding_window::width(quota.window()).get();
            let current_index = at.as_millis() / width;
            let counts =
                |index: u64| (index.min(current_index) + 1) * width + window > at.as_millis();
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

/// A backlog to absorb into a state.
#[derive(Clone, Debug)]
struct Absorption {
    quota: Quota,
    /// The state in the shared store.
    shared: Option<QuotaState>,
    /// The units that an isolate admitted alone, with up to three times the limit.
    backlog: Option<QuotaState>,
    /// A time around or after both, or one by which the store's clock is far ahead.
    now: Timestamp,
}

fn absorptions() -> impl Strategy<Value = Absorption> {
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
            Absorption {
                quota,
                shared,
                backlog,
                now: Timestamp::from_millis(now),
            }
        },
    )
}

/// The quota with limit and burst times `factor`.
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
    /// The whole backlog is added if there is room, else as much as there is room for. The result is a state
    /// like any other.
    #[test]
    fn a_backlog_is_added_up_to_the_limit(case in absorptions()) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        let (at, _) = decided_at(clock(shared.as_ref()), now);
        let before = shared.as_ref().map_or(0, |shared| used_at(&quota, shared, at));
        let expected = (before + used_at(&quota, &backlog, at)).min(full(&quota));
        let before_decided = quota.decide(shared.as_ref(), 0, now);
        let Some(after) = quota.absorb(shared.as_ref(), &backlog, now) else {
            prop_assert_eq!(before, expected, "there was room, but nothing was added");
            return Ok(());
        };
        prop_assert!(expected > before, "units were added beyond the limit");
        prop_assert_eq!(used_at(&quota, &after, at), expected);
        prop_assert_eq!(clock(Some(&after)), at);
        prop_assert_eq!(QuotaState::parse(&after.to_string()), Some(after.clone()));

        let decided = quota.decide(Some(&after), 0, now);
        prop_assert_eq!(decided.repaired, None, "a faulty clock has been repaired");
        prop_assert!(decided.decision.reset_at >= before_decided.decision.reset_at);
        prop_assert!(decided.decision.remaining <= before_decided.decision.remaining);
        let left = decided.decision.remaining;
        prop_assert!(quota.decide(Some(&after), left, now).decision.allowed());
        prop_assert!(!quota.decide(Some(&after), left + 1, now).decision.allowed());
    }

    /// At no later time is there more room than without the backlog.
    #[test]
    fn absorbing_never_makes_room(case in absorptions(), later in 0..80u64) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        let Some(after) = quota.absorb(shared.as_ref(), &backlog, now) else { return Ok(()) };
        let shared = quota.decide(shared.as_ref(), 0, now).repaired.or(shared);
        let then = now + Millis::new(later * quota.window().get() / 64);
        let before = quota.decide(shared.as_ref(), 0, then).decision;
        let after = quota.decide(Some(&after), 0, then).decision;
        prop_assert!(after.remaining <= before.remaining);
        prop_assert!(after.reset_at >= before.reset_at);
    }

    /// Law 1, windows: if there was room for the whole backlog, no window holds more than the limit. Units
    /// of the store, of the isolate and of later requests count.
    #[test]
    fn no_window_holds_more_than_the_limit_after_absorbing(
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
        if both.map(|one| used_at(&quota, one, at(real))).sum::<u64>() > full(&quota) {
            return Ok(());
        }
        let mut state = quota.absorb(state.as_ref(), &backlog, at(real)).or(state);
        admissions.extend(others);
        for LawStep { after, cost, .. } in later {
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
            let used: u32 = admissions.iter().filter(|one| counts(one.decided)).map(|one| one.units).sum();
            prop_assert!(used + cost <= limit, "{used} + {cost} units with a limit of {limit}");
            admissions.push(super::Admission { real, decided: at(real), units: cost });
        }
    }

    /// Law 1, token buckets.
    #[test]
    fn after_absorbing_a_bucket_admits_at_most_what_is_left_and_its_rate(case in absorptions(), later in steps()) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        if quota.algorithm() != Algorithm::TokenBucket {
            return Ok(());
        }
        let Some(mut state) = quota.absorb(shared.as_ref(), &backlog, now) else { return Ok(()) };
        let absorbed_at = clock(Some(&state));
        let left = full(&quota) - used_at(&quota, &state, absorbed_at);
        let (mut then, mut admitted) = (now, 0);
        for LawStep { after, cost, .. } in later {
            then = then + Millis::new(after * quota.window().get() / 64);
            if let Some(admitted_state) = quota.decide(Some(&state), cost, then).admitted {
                admitted += u64::from(cost) * quota.window().get();
                state = admitted_state;
            }
            let back = then.since(absorbed_at).get() * u64::from(quota.limit());
            prop_assert!(admitted <= left + back);
        }
    }

    /// Law 3 after absorbing.
    #[test]
    fn a_retry_time_after_absorbing_is_exact(case in absorptions(), cost in 1..6u32) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        let state = quota.absorb(shared.as_ref(), &backlog, now);
        let Some(state) = state else { return Ok(()) };
        if let QuotaOutcome::Denied { retry_at } = quota.decide(Some(&state), cost, now).decision.outcome {
            let wait = retry_at.since(now).get();
            prop_assert!(wait > 0);
            for early in [0, wait / 2, wait - 1] {
                let again = quota.decide(Some(&state), cost, now + Millis::new(early)).decision;
                prop_assert_eq!(again.outcome, QuotaOutcome::Denied { retry_at }, "after {} ms", early);
            }
            prop_assert!(quota.decide(Some(&state), cost, retry_at).decision.allowed());
        }
    }

    /// The order of the halves does not matter. This holds if there is room. A token bucket's backlog must
    /// also be of the present, because two buckets drain at twice the rate of one.
    #[test]
    fn absorbing_two_halves_equals_absorbing_the_whole(case in absorptions()) {
        let Absorption { quota, shared, backlog: Some(mut backlog), now } = case else { return Ok(()) };
        let (at, _) = decided_at(clock(shared.as_ref()), now);
        if let QuotaState::TokenBucket(backlog) = &mut backlog {
            backlog.clock = at;
        }
        let before = shared.as_ref().map_or(0, |shared| used_at(&quota, shared, at));
        if before + used_at(&quota, &backlog, at) > full(&quota) {
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

    /// The result is the backlog, up to the limit.
    #[test]
    fn absorbing_into_no_state_gives_the_backlog(quota in quotas(), steps in steps(), later in 0..80u64, cost in 0..6u32) {
        let (_, backlog, real) = play(&quota, &steps, 0);
        let Some(backlog) = backlog else { return Ok(()) };
        let absorbed = quota.absorb(None, &backlog, at(real));
        let then = at(real + later * quota.window().get() / 64);
        prop_assert_eq!(
            quota.decide(absorbed.as_ref(), cost, then),
            quota.decide(Some(&backlog), cost, then)
        );
    }

    /// Their number does not matter.
    #[test]
    fn units_that_no_longer_count_are_not_absorbed(case in absorptions(), later in 0..10_000_000u64) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        let backlog_clock = clock(Some(&backlog));
        let roomy = quota.with_burst(120.try_into().unwrap()).unwrap();
        let whole = roomy.decide(Some(&backlog), 0, now.max(backlog_clock)).decision.reset_at;
        prop_assert_eq!(quota.absorb(shared.as_ref(), &backlog, whole + Millis::new(later)), None);
    }

    /// Law 8.
    #[test]
    fn a_backlog_of_another_shape_is_ignored(one in quotas(), case in absorptions()) {
        let Absorption { quota, shared, backlog: Some(backlog), now } = case else { return Ok(()) };
        if !one.fits(&backlog) {
            prop_assert_eq!(one.absorb(None, &backlog, now), None);
        }
        if shared.as_ref().is_some_and(|shared| !one.fits(shared)) {
            let absorbed = one.absorb(shared.as_ref(), &backlog, now);
            prop_assert_eq!(absorbed, one.absorb(None, &backlog, now));
        }
        prop_assert!(quota.fits(&backlog));
    }

    /// A state with any numbers is absorbed into a state with any others.
    #[test]
    fn hostile_states_are_absorbed_without_a_panic(
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

    /// Units that were added once are not added again, and the rest is not lost.
    #[test]
    fn an_earlier_backlog_and_the_newer_units_make_the_whole(
        quota in quotas(), steps in steps(), earlier in 0..30usize,
    ) {
        let (_, earlier, _) = play(&quota, &steps[..earlier.min(steps.len())], 0);
        let (_, whole, _) = play(&quota, &steps, 0);
        let (Some(earlier), Some(whole)) = (earlier, whole) else { return Ok(()) };
        let now = clock(Some(&whole));
        let newer = quota.newer(&whole, &earlier);
        let sum = newer.as_ref().and_then(|newer| quota.absorb(Some(&earlier), newer, now));
        prop_assert_eq!(
            used_at(&quota, &sum.unwrap_or_else(|| earlier.clone()), now),
            used_at(&quota, &whole, now)
        );
        prop_assert_eq!(quota.newer(&earlier, &earlier), None);
        prop_assert_eq!(newer.is_none(), earlier == whole);
    }
}
