//! Law 8: versions of a policy whose shapes differ share a key, and each limits as if it were alone.

use proptest::prelude::{
    Strategy, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{LawStep, START, at, bounds, quota, quotas, steps};
use crate::quota::{
    Algorithm, CLOCK_TOLERANCE, MAX_OTHERS, Quota, QuotaState, States, sliding_window,
};
use crate::time::{Millis, Timestamp};

/// Quotas of different shapes, at most as many as a key keeps.
fn versions() -> impl Strategy<Value = Vec<Quota>> {
    proptest::collection::vec(quotas(), 2..10).prop_map(|drawn| {
        let mut versions: Vec<Quota> = Vec::new();
        for quota in drawn {
            let state = quota.decide(None, 1, at(0)).admitted.unwrap();
            if versions.len() <= MAX_OTHERS && !versions.iter().any(|one| one.fits(&state)) {
                versions.push(quota);
            }
        }
        versions
    })
}

/// What a version does with its state.
#[derive(Clone, Copy, Debug)]
enum Action {
    Request,
    Lease(u32),
    Absorb(u32),
    /// Gives back a unit of the last admission.
    Refund,
}

/// Which version acts, in 256ths of the list, and how.
fn actions() -> impl Strategy<Value = Vec<(u8, Action)>> {
    let action = prop_oneof![
        6 => proptest::strategy::Just(Action::Request),
        1 => (1..20u32).prop_map(Action::Lease),
        1 => (1..20u32).prop_map(Action::Absorb),
        1 => proptest::strategy::Just(Action::Refund),
    ];
    proptest::collection::vec((any::<u8>(), action), 120)
}

/// Applies an action to a state. Returns the state to keep, if any, and what a caller sees of it.
fn apply(
    quota: &Quota,
    state: Option<&QuotaState>,
    (action, cost): (Action, u32),
    last: Timestamp,
    now: Timestamp,
) -> (Option<QuotaState>, impl PartialEq + std::fmt::Debug) {
    let decided = quota.decide(state, cost, now);
    let kept = match action {
        Action::Request => decided.admitted.or(decided.repaired),
        Action::Lease(most) => quota.lease(state, most, now).map(|lease| lease.state),
        Action::Absorb(units) => {
            let backlog = quota.decide(None, units.min(quota.capacity()), now);
            quota.absorb(state, &backlog.admitted.unwrap(), now)
        }
        // A refund after which nothing is used is skipped. Other versions may or may not have dropped such
        // a state by now. That changes no outcome, only the state's clock.
        Action::Refund => state
            .and_then(|state| quota.refund(state, 1, last, now))
            .filter(|refunded| {
                let left = quota.decide(Some(refunded), 0, now).decision.remaining;
                left < quota.capacity()
            }),
    };
    let left = quota.decide(kept.as_ref().or(state), 0, now).decision;
    (kept, (decided.decision, left))
}

fn pick<T>(list: &[T], share: u8) -> usize {
    usize::from(share) * list.len() / 256
}

/// Admitted units: the ms of real time, the time of the decision, and how many.
type VersionAdmission = (u64, Timestamp, u32);

/// Law 1 for one version.
fn keeps_its_bound(quota: &Quota, admitted: &[VersionAdmission]) -> Result<(), TestCaseError> {
    let real: Vec<_> = admitted
        .iter()
        .map(|(real, _, units)| (*real, *units))
        .collect();
    let window = quota.window().get();
    match quota.algorithm() {
        Algorithm::SlidingWindow => bounds::of_a_window(&real, quota.limit(), window, 0),
        Algorithm::TokenBucket => bounds::of_a_bucket(&real, quota, 0),
        Algorithm::FixedWindow => {
            for (_, start, _) in admitted {
                let index = |at: &Timestamp| at.as_millis() / window;
                let same = admitted
                    .iter()
                    .filter(|(_, at, _)| index(at) == index(start));
                let units: u32 = same.map(|(_, _, units)| units).sum();
                prop_assert!(
                    units <= quota.limit(),
                    "{units} units with a limit of {}",
                    quota.limit()
                );
            }
            Ok(())
        }
    }
}

proptest! {
    /// Clocks are up to the tolerance apart. Each version decides as it would with a key of its own,
    /// whatever the others do. So it keeps every law that it keeps alone, and together they admit at most
    /// the sum of their limits.
    #[test]
    fn each_version_decides_as_if_it_were_alone(
        versions in versions(), steps in steps(), actions in actions(), skew in 0..=2000u64,
    ) {
        let mut shared = String::new();
        let mut alone: Vec<Option<QuotaState>> = vec![None; versions.len()];
        let mut last = vec![at(0); versions.len()];
        let mut real = 0;
        for (step, (share, action)) in steps.iter().zip(actions) {
            let version = pick(&versions, share);
            let quota = &versions[version];
            real += step.after * quota.window().get() / 64;
            let now = at(real + step.ahead * skew / 16);
            let states = States::parse(&shared, quota);
            let (kept, seen) = apply(quota, states.own(), (action, step.cost), last[version], now);
            let (kept_alone, seen_alone) =
                apply(quota, alone[version].as_ref(), (action, step.cost), last[version], now);
            prop_assert_eq!(seen, seen_alone);
            if let Some(kept) = kept {
                last[version] = kept.clock();
                shared = states.text_with(&kept, now);
            }
            if let Some(kept) = kept_alone {
                // A state that a refund left empty may have no text.
                alone[version] = QuotaState::parse(&kept.to_string());
            }
        }
    }

    /// Each version keeps its own bound also if clocks of any versions ran far ahead before. The repair by
    /// other versions admits nobody twice.
    #[test]
    fn each_version_keeps_its_bound_also_after_a_clock_far_ahead(
        versions in versions(), steps in steps(), actions in actions(),
        ahead in CLOCK_TOLERANCE.get() + 1..10_000_000_000u64, first in 0..20usize,
    ) {
        let mut shared = String::new();
        let mut admitted: Vec<Vec<VersionAdmission>> = vec![Vec::new(); versions.len()];
        let mut real = 0;
        for (place, (step, (share, _))) in steps.iter().zip(actions).enumerate() {
            let version = pick(&versions, share);
            let quota = &versions[version];
            let mut now = at(real);
            if place < first {
                now = now + Millis::new(ahead);
            } else {
                real += step.after * quota.window().get() / 64;
                now = at(real);
            }
            let states = States::parse(&shared, quota);
            let decided = quota.decide(states.own(), step.cost, now);
            if decided.decision.allowed() && step.cost > 0 {
                admitted[version].push((real, at(real), step.cost));
            }
            if let Some(kept) = decided.admitted.or(decided.repaired) {
                shared = states.text_with(&kept, now);
            }
        }
        for (quota, admitted) in versions.iter().zip(admitted) {
            keeps_its_bound(quota, &admitted)?;
        }
    }

    /// The state stays while it matters and for the tolerance after that, no longer. A state with a faulty
    /// clock counts as written now.
    #[test]
    fn a_state_of_another_shape_stays_while_it_matters(
        versions in versions(), steps in steps(), fault in prop_oneof![proptest::strategy::Just(0u64), 2001..10_000_000_000u64],
    ) {
        let [one, other, ..] = &versions[..] else { return Ok(()) };
        let mut state = None;
        let mut real = 0;
        for LawStep { after, cost, .. } in steps {
            real += after * one.window().get() / 64;
            state = one.decide(state.as_ref(), cost, at(real + fault)).admitted.or(state);
        }
        let Some(state) = state else { return Ok(()) };
        let own = |now| other.decide(None, 1, now).admitted.unwrap();
        let text = |now| States::parse(&state.to_string(), other).text_with(&own(now), now);
        let now = at(real);
        let kept = text(now);
        let seen = States::parse(&kept, one);
        let (seen, expected) = (seen.own(), Some(&state));
        prop_assert_eq!(one.decide(seen, 1, now).decision, one.decide(expected, 1, now).decision);
        let reset_at = one.decide(Some(&state), 0, now).decision.reset_at;
        if fault == 0 && reset_at > now {
            // If the window is no multiple of 60 ms, the state stays up to 60 ms longer.
            let over = reset_at + CLOCK_TOLERANCE;
            let late = text(over - Millis::new(1));
            let seen = States::parse(&late, one);
            prop_assert_eq!(seen.own(), Some(&state));
            let gone = text(over + Millis::new(60));
            prop_assert_eq!(gone, own(over + Millis::new(60)).to_string());
        }
    }

    /// Whatever was written to a key, a version writes its own state and at most three others, none with a
    /// faulty clock. Written again, the text does not grow.
    #[test]
    fn hostile_texts_do_not_grow(
        quota in quotas(), states in proptest::collection::vec(hostile(), 0..12), cost in 1..6u32,
    ) {
        let now = at(0);
        let text = states.join(";");
        let read = States::parse(&text, &quota);
        let own = quota.decide(read.own(), cost, now).admitted;
        let Some(own) = own else { return Ok(()) };
        let kept = read.text_with(&own, now);
        prop_assert!(kept.len() <= (MAX_OTHERS + 1) * 1001, "{}", kept.len());
        let parts: Vec<_> = kept.split(';').map(QuotaState::parse).collect();
        prop_assert!(parts.len() <= MAX_OTHERS + 1);
        prop_assert_eq!(parts[0].as_ref(), Some(&own));
        for part in parts {
            prop_assert!(part.is_some_and(|part| part.clock() <= now + CLOCK_TOLERANCE), "{}", kept);
        }
        prop_assert_eq!(States::parse(&kept, &quota).text_with(&own, now), kept);
    }
}

/// States of any shape, texts that are almost a state, and any texts.
fn hostile() -> impl Strategy<Value = String> {
    let near = prop_oneof![
        START - 100_000..START + 100_000,
        any::<u64>(),
        proptest::strategy::Just(1u64 << 52)
    ];
    let width = prop_oneof![0..200u64, 1000..90_000_000u64, any::<u64>()];
    let number = prop_oneof![0..20u64, 0..1u64 << 40, any::<u64>()];
    let state = ("sw|tb|fw|xx", width, near, number, 0..200u64).prop_map(
        |(tag, width, clock, number, items)| match tag.as_str() {
            "sw" => {
                let first = (clock / width.max(1)).saturating_sub(items);
                let list: Vec<_> = (0..items).map(|item| format!("{item}={number}")).collect();
                format!("sw:{width}:{clock}:{first}:{}", list.join(","))
            }
            "tb" => format!("tb:{width}:{clock}:{number}:{items}"),
            _ => format!("{tag}:{width}:{clock}:{number}"),
        },
    );
    prop_oneof![5 => state, 1 => "\\PC{0,20}", 1 => "[;:0-9swtbf=,]{0,30}"]
}

/// The state has 61 sub-windows and those of leases, each with a count of as many digits as a limit allows.
#[test]
fn the_longest_state_fits_into_the_maximum_text() {
    let window = 50_000;
    let quota = quota(Algorithm::SlidingWindow, u32::MAX, window, 1);
    let width = sliding_window::width(quota.window()).get();
    let mut state = None;
    for part in 0..61 {
        let now = at(part * width);
        let units = u32::MAX / 128;
        state = quota.decide(state.as_ref(), units, now).admitted;
        assert!(state.is_some(), "{part}");
        let lease = quota.lease(state.as_ref(), units, now);
        state = lease.map(|lease| lease.state).or(state);
    }
    let text = state.unwrap().to_string();
    assert!(text.len() > 600 && text.len() <= 1000, "{text}");
    assert_eq!(QuotaState::parse(&text).unwrap().to_string(), text);
}
