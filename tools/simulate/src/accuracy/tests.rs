use super::{judge, worst_within};
use edge_limiter::quota::Algorithm;
use edge_limiter::time::Millis;

use crate::outcome::SimulatedOutcome;
use crate::rng::Rng;
use crate::testing::{one_caller, quota, random};
use crate::trace::Trace;

const WINDOW: u64 = 1000;

/// The units of `caller` that were admitted in `[from, from + length)`, summed request by request.
fn within(trace: &Trace, admitted: &[bool], caller: u32, from: u64, length: u64) -> u64 {
    let requests = trace.requests.iter().zip(admitted);
    requests
        .filter(|(request, admitted)| {
            let inside = request.at >= from && request.at < from + length;
            **admitted && request.caller == caller && inside
        })
        .map(|(request, _)| u64::from(request.cost))
        .sum()
}

#[test]
fn the_scan_finds_what_trying_every_interval_finds() {
    let quota = quota(Algorithm::SlidingWindow, 12, WINDOW);
    for seed in 0..30 {
        let trace = random(seed, 150, WINDOW);
        let mut rng = Rng::of(seed, 0);
        let outcomes: Vec<SimulatedOutcome> = (trace.requests.iter())
            .map(|_| SimulatedOutcome::at_once(rng.percent(60)))
            .collect();
        let admitted: Vec<bool> = outcomes.iter().map(|outcome| outcome.admitted).collect();
        let starts = |length| {
            let trace = &trace;
            let admitted = &admitted;
            (trace.requests.iter())
                .map(move |first| within(trace, admitted, first.caller, first.at, length))
                .max()
        };
        let judged = judge(&trace, &quota, &outcomes);
        assert_eq!(Some(judged.worst), starts(WINDOW));
        let shorter = worst_within(&trace, &quota, &outcomes, Millis::new(WINDOW - 200));
        assert_eq!(shorter, starts(WINDOW - 200));

        // Requests denied with room, found by counting the units before each request anew.
        let with_room = (0..admitted.len()).filter(|index| {
            let request = &trace.requests[*index];
            let from = request.at + 1 - WINDOW;
            let before = &admitted[..*index];
            let units = within(&trace, before, request.caller, from, WINDOW);
            !admitted[*index] && units + u64::from(request.cost) <= 12
        });
        assert_eq!(judged.denied_with_room, with_room.count() as u64);
    }
}

#[test]
fn the_excess_is_the_number_of_requests_without_which_the_rest_keeps_to_the_limit() {
    let quota = quota(Algorithm::SlidingWindow, 2, WINDOW);
    let trace = one_caller([0, 1, 2, 3, 999, 1000]);
    let judged = judge(&trace, &quota, &[SimulatedOutcome::at_once(true); 6]);
    assert_eq!(judged.worst, 5);
    assert_eq!(judged.excess, 3, "the requests at 2, 3 and 999 ms");
    assert_eq!(judged.denied_with_room, 0);
}

#[test]
fn a_request_that_another_may_have_overtaken_had_no_room() {
    let quota = quota(Algorithm::SlidingWindow, 1, WINDOW);
    let trace = one_caller([0, 10]);
    let judged = |waited| {
        let denied = SimulatedOutcome {
            admitted: false,
            waited,
        };
        let judged = judge(&trace, &quota, &[denied, SimulatedOutcome::at_once(true)]);
        judged.denied_with_room
    };
    assert_eq!(judged(9_000), 1, "it got its answer before the other came");
    assert_eq!(judged(10_000), 0);
}
