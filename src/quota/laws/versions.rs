//! Law 8: versions of a policy whose shapes differ share a key, and each binds as if it were alone.

use proptest::prelude::{
    Strategy, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{START, Step, at, bounds, quota, quotas, steps};
use crate::quota::{
    Algorithm, CLOCK_TOLERANCE, MAX_OTHERS, Quota, QuotaState, States, sliding_window,
};
use crate::time::{Millis, Timestamp};

/// Quotas of different shapes, as many as a key keeps.
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
enum Act {
    Request,
    Lease(u32),
    Absorb(u32),
    /// Of the last admission.
    Refund,
}

/// Which version acts, as a share in 1/256 of them, and how.
fn acts() -> impl Strategy<Value = Vec<(u8, Act)>> {
    let act = prop_oneof![
        6 => proptest::strategy::Just(Act::Request),
        1 => (1..20u32).prop_map(Act::Lease),
        1 => (1..20u32).prop_map(Act::Absorb),
        1 => proptest::strategy::Just(Act::Refund),
    ];
    proptest::collection::vec((any::<u8>(), act), 120)
}

/// What `act` makes of a state: the state to keep, if any, and what a caller sees of it.
fn done(
    quota: &Quota,
    held: Option<&QuotaState>,
    (act, cost): (Act, u32),
    last: Timestamp,
    now: Timestamp,
) -> (Option<QuotaState>, impl PartialEq + std::fmt::Debug) {
    let decided = quota.decide(held, cost, now);
    let kept = match act {
        Act::Request => decided.admitted.or(decided.repaired),
        Act::Lease(most) => quota.lease(held, most, now).map(|lease| lease.state),
        Act::Absorb(units) => {
            let backlog = quota.decide(None, units.min(quota.capacity()), now);
            quota.absorb(held, &backlog.admitted.unwrap(), now)
        }
        // One that leaves nothing used is left out: whether the others have dropped it by now decides nothing, and shows only in
        // the clock that it had.
        Act::Refund => held
            .and_then(|held| quota.refund(held, 1, last, now))
            .filter(|state| {
                let left = quota.decide(Some(state), 0, now).decision.remaining;
                left < quota.capacity()
            }),
    };
    let left = quota.decide(kept.as_ref().or(held), 0, now).decision;
    (kept, (decided.decision, left))
}

fn pick<T>(list: &[T], share: u8) -> usize {
    usize::from(share) * list.len() / 256
}

/// Units that were admitted: at which ms of real time, by which time, how many.
type Admitted = (u64, Timestamp, u32);

/// Law 1 of one version.
fn keeps_its_bound(quota: &Quota, admitted: &[Admitted]) -> Result<(), TestCaseError> {
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
                let held: u32 = same.map(|(_, _, units)| units).sum();
                prop_assert!(held <= quota.limit(), "{held} of {}", quota.limit());
            }
            Ok(())
        }
    }
}

proptest! {
    /// Whatever the others do, with clocks up to the tolerance apart, each version decides as it would
    /// with a key of its own. So it keeps every law that it keeps alone, and together they admit at
    /// most the sum of their limits.
    #[test]
    fn each_version_decides_as_if_it_were_alone(
        versions in versions(), steps in steps(), acts in acts(), skew in 0..=2000u64,
    ) {
        let mut shared = String::new();
        let mut alone: Vec<Option<QuotaState>> = vec![None; versions.len()];
        let mut last = vec![at(0); versions.len()];
        let mut real = 0;
        for (step, (share, act)) in steps.iter().zip(acts) {
            let version = pick(&versions, share);
            let quota = &versions[version];
            real += step.after * quota.window().get() / 64;
            let now = at(real + step.ahead * skew / 16);
            let states = States::parse(&shared, quota);
            let (kept, seen) = done(quota, states.own(), (act, step.cost), last[version], now);
            let (kept_alone, seen_alone) =
                done(quota, alone[version].as_ref(), (act, step.cost), last[version], now);
            prop_assert_eq!(seen, seen_alone);
            if let Some(kept) = kept {
                last[version] = kept.clock();
                shared = states.text_with(&kept, now);
            }
            if let Some(kept) = kept_alone {
                // What a refund leaves empty may have no text.
                alone[version] = QuotaState::parse(&kept.to_string());
            }
        }
    }

    /// Each version admits at most its own bound, also after a clock that ran ahead, of whatever
    /// versions: others' repair admits nobody twice.
    #[test]
    fn each_version_keeps_its_bound_also_after_a_clock_far_ahead(
        versions in versions(), steps in steps(), acts in acts(),
        ahead in CLOCK_TOLERANCE.get() + 1..10_000_000_000u64, first in 0..20usize,
    ) {
        let mut shared = String::new();
        let mut admitted: Vec<Vec<Admitted>> = vec![Vec::new(); versions.len()];
        let mut real = 0;
        for (place, (step, (share, _))) in steps.iter().zip(acts).enumerate() {
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

    /// A state of another shape stays while it matters and for the tolerance after that, no longer. A
    /// faulty clock's state counts as one of now.
    #[test]
    fn a_state_of_another_shape_stays_while_it_matters(
        versions in versions(), steps in steps(), fault in prop_oneof![proptest::strategy::Just(0u64), 2001..10_000_000_000u64],
    ) {
        let [one, other, ..] = &versions[..] else { return Ok(()) };
        let mut held = None;
        let mut real = 0;
        for Step { after, cost, .. } in steps {
            real += after * one.window().get() / 64;
            held = one.decide(held.as_ref(), cost, at(real + fault)).admitted.or(held);
        }
        let Some(held) = held else { return Ok(()) };
        let own = |now| other.decide(None, 1, now).admitted.unwrap();
        let text = |now| States::parse(&held.to_string(), other).text_with(&own(now), now);
        let now = at(real);
        let kept = text(now);
        let seen = States::parse(&kept, one);
        let (seen, expected) = (seen.own(), Some(&held));
        prop_assert_eq!(one.decide(seen, 1, now).decision, one.decide(expected, 1, now).decision);
        let reset_at = one.decide(Some(&held), 0, now).decision.reset_at;
        if fault == 0 && reset_at > now {
            // Of a window that is no multiple of sixty ms, up to that longer.
            let over = reset_at + CLOCK_TOLERANCE;
            let late = text(over - Millis::new(1));
            let seen = States::parse(&late, one);
            prop_assert_eq!(seen.own(), Some(&held));
            let gone = text(over + Millis::new(60));
            prop_assert_eq!(gone, own(over + Millis::new(60)).to_string());
        }
    }

    /// Whatever was written to a key, a version's text is its own state and at most three others, each a
    /// state that is not faulty; and it grows no further.
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

/// States of any shape, texts that are nearly one, and any text.
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

/// A text of full length is one: 61 sub-windows and those of leases, each of a number as large as a
/// limit allows.
#[test]
fn the_longest_state_is_within_the_bound() {
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
