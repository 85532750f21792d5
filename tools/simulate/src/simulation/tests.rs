use super::{Setting, replay};
use crate::accuracy::{judge, worst_within};
use crate::mode::SimulatedMode;
use crate::outcome::Run;
use crate::testing::{one_caller, random, setting};
use crate::trace::Trace;

const REGIONS: &str = "iad=2,fra=90,syd=210";
const LIMIT: u32 = 12;
const WINDOW: u64 = 20_000;

fn admitted(run: &Run) -> Vec<bool> {
    run.outcomes
        .iter()
        .map(|outcome| outcome.admitted)
        .collect()
}

/// The most units in any interval of the length to which the mode's bound applies, and this bound.
fn worst(mode: SimulatedMode, trace: &Trace, setting: &Setting) -> (u64, Option<u64>) {
    let run = replay(mode, trace, setting).unwrap();
    let length = mode.bound_length(setting);
    let worst = worst_within(trace, &setting.quota, &run.outcomes, length);
    (worst.unwrap(), mode.bound(setting))
}

/// Law 1 across regions. If no message is slower than another and no clock is ahead, it holds for the whole window.
#[test]
fn strict_and_lease_never_admit_more_than_the_limit() {
    let even = Setting {
        lease: 8,
        ..setting("iad=0,fra=0,syd=0", LIMIT, WINDOW)
    };
    for seed in 0..10 {
        let trace = random(seed, 1000, WINDOW);
        for mode in [
            SimulatedMode::Strict,
            SimulatedMode::Lease,
            SimulatedMode::IdealLog,
        ] {
            let run = replay(mode, &trace, &even).unwrap();
            let judged = judge(&trace, &even.quota, &run.outcomes);
            assert!(judged.worst <= u64::from(LIMIT), "{mode:?}: {judged:?}");
            assert_eq!(judged.excess, 0, "{mode:?}");
            assert!(judged.admitted > 0 && judged.denied() > 0, "{mode:?}");
        }
    }
}

#[test]
fn every_mode_keeps_to_its_bound() {
    let skewed = Setting {
        skew: 300,
        lease: 8,
        ..setting(REGIONS, LIMIT, WINDOW)
    };
    for seed in 0..10 {
        let trace = random(seed, 1000, WINDOW);
        for mode in SimulatedMode::ALL {
            let (worst, bound) = worst(mode, &trace, &skewed);
            assert!(
                bound.is_none_or(|bound| worst <= bound),
                "{mode:?}: {worst}"
            );
        }
    }
}

/// 40,000 requests of one caller to all isolates reach the bounds, so the bounds are as tight as possible.
#[test]
fn a_flood_reaches_the_bounds() {
    let setting = setting(REGIONS, LIMIT, WINDOW);
    let mut trace = one_caller((0..40_000).map(|number| number / 10));
    for (number, request) in trace.requests.iter_mut().enumerate() {
        request.region = u8::try_from(number % 3).unwrap();
        request.isolate = u16::try_from(number / 3 % 4).unwrap();
    }
    for mode in [
        SimulatedMode::Strict,
        SimulatedMode::Regional,
        SimulatedMode::Divided,
        SimulatedMode::Memory,
    ] {
        let (worst, bound) = worst(mode, &trace, &setting);
        assert_eq!(Some(worst), bound, "{mode:?}");
    }
    let replicated = worst(SimulatedMode::Replicated, &trace, &setting).0;
    assert!(replicated > 10 * u64::from(LIMIT), "{replicated}");
}

/// A replica sees nothing of a burst that is shorter than the round trip to the primary.
#[test]
fn a_replica_admits_a_burst_that_it_has_not_seen_yet() {
    let setting = setting("syd=200", LIMIT, WINDOW);
    let trace = one_caller((0..200).chain([500]));
    let run = replay(SimulatedMode::Replicated, &trace, &setting).unwrap();
    assert!(admitted(&run)[..200].iter().all(|admitted| *admitted));
    assert!(!run.outcomes[200].admitted);
}

/// The statements of docs/scaling.md on round trips and billed commands.
#[test]
fn a_decision_takes_one_round_trip_and_a_remembered_denial_takes_none() {
    let setting = setting("syd=200", LIMIT, WINDOW);
    let trace = one_caller((0..300).map(|number| number * 10));
    let run = replay(SimulatedMode::Strict, &trace, &setting).unwrap();
    let admitted = admitted(&run).iter().filter(|admitted| **admitted).count() as u64;
    assert_eq!(admitted, u64::from(LIMIT));
    let denials = run.calls - admitted;
    assert!(
        denials > 0 && denials < 30,
        "only requests that arrived before the first denial was back asked the database: {denials}"
    );
    assert_eq!(run.billed, 3 * admitted + 2 * denials);
    assert_eq!(run.answered_at_once, 300 - run.calls);
    let waited = run.outcomes[0].waited;
    assert!((200_000..=250_000).contains(&waited), "{waited}");
}

#[test]
fn a_lease_saves_round_trips() {
    let setting = setting("syd=200", 1000, 60_000);
    let trace = one_caller((0..600).map(|number| number * 100));
    let strict = replay(SimulatedMode::Strict, &trace, &setting).unwrap();
    let lease = replay(SimulatedMode::Lease, &trace, &setting).unwrap();
    assert_eq!(strict.calls, 600);
    assert!(lease.calls < 200, "{}", lease.calls);
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let setting = setting(REGIONS, LIMIT, WINDOW);
    let trace = random(3, 1500, WINDOW);
    for mode in SimulatedMode::ALL {
        let one = replay(mode, &trace, &setting).unwrap();
        assert_eq!(one, replay(mode, &trace, &setting).unwrap(), "{mode:?}");
    }
}
