//! Tests of when the circuit opens, for how long, and which calls it permits.

use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};

use super::{CallOutcome, Circuit, CircuitState, FAILURES_IN_A_ROW, FIRST_WAIT, Waits};
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

const WAITS: Waits = Waits {
    doublings: 4,
    probe: Millis::new(2000),
};

/// The random number that gives the whole wait.
const NO_JITTER: u32 = 0;

fn circuit() -> Circuit {
    Circuit::new(WAITS)
}

/// Makes one call, or one probe if the circuit is not closed, which begins and ends at `now`.
fn call(circuit: &mut Circuit, ended: CallOutcome, now: Timestamp) -> bool {
    let permit = match circuit.permit() {
        Ok(permit) => permit,
        Err(_) => circuit.begin_probe(now).expect("a probe is due"),
    };
    circuit.ended(permit, ended, now, NO_JITTER)
}

/// Opens the circuit by failures at `now`, and returns the end of the wait.
fn opened(circuit: &mut Circuit, now: Timestamp) -> Timestamp {
    while circuit.state() == CircuitState::Closed {
        call(circuit, CallOutcome::Transient, now);
    }
    match circuit.state() {
        CircuitState::Open { until } => until,
        state => panic!("{state}"),
    }
}

#[test]
fn five_failures_in_a_row_open_the_circuit() {
    let mut circuit = circuit();
    for number in 1..=FAILURES_IN_A_ROW {
        assert_eq!(circuit.state(), CircuitState::Closed);
        let changed = call(&mut circuit, CallOutcome::Transient, START);
        assert_eq!(changed, number == FAILURES_IN_A_ROW);
    }
    let until = START + FIRST_WAIT;
    assert_eq!(circuit.state(), CircuitState::Open { until });
}

#[test]
fn a_success_resets_the_count_of_failures_in_a_row() {
    let mut circuit = circuit();
    for _ in 0..9 {
        call(&mut circuit, CallOutcome::Transient, START);
        for _ in 0..4 {
            call(&mut circuit, CallOutcome::Success, START);
        }
    }
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn ten_failures_among_the_last_twenty_outcomes_open_the_circuit() {
    let mut circuit = circuit();
    for number in 1..=10 {
        assert_eq!(circuit.state(), CircuitState::Closed, "failure {number}");
        call(&mut circuit, CallOutcome::Success, START);
        call(&mut circuit, CallOutcome::Transient, START);
    }
    assert!(matches!(circuit.state(), CircuitState::Open { .. }));
}

#[test]
fn a_permanent_failure_opens_the_circuit_at_once_for_the_longest_wait() {
    let mut circuit = circuit();
    assert!(call(&mut circuit, CallOutcome::Permanent, START));
    let longest = Millis::new(FIRST_WAIT.get() << WAITS.doublings);
    let until = START + longest;
    assert_eq!(circuit.state(), CircuitState::Open { until });
    // So does a permanent failure of the probe.
    assert!(call(&mut circuit, CallOutcome::Permanent, until));
    let until = until + longest;
    assert_eq!(circuit.state(), CircuitState::Open { until });
}

#[test]
fn an_open_circuit_permits_no_call_and_one_probe_once_the_wait_is_over() {
    let mut circuit = circuit();
    let until = opened(&mut circuit, START);
    assert_eq!(circuit.permit(), Err(until));
    assert!(circuit.begin_probe(until - Millis::new(1)).is_none());
    assert!(circuit.begin_probe(until).is_some());
    let deadline = until + WAITS.probe;
    assert_eq!(
        circuit.permit(),
        Err(until),
        "the probe may end at any time"
    );
    for now in [until, until + Millis::new(1), deadline - Millis::new(1)] {
        assert!(circuit.begin_probe(now).is_none());
    }
}

#[test]
fn a_closed_circuit_permits_no_probe() {
    let mut circuit = circuit();
    call(&mut circuit, CallOutcome::Transient, START);
    assert!(
        circuit
            .begin_probe(START + Millis::from_secs(3600))
            .is_none()
    );
}

#[test]
fn a_probe_that_succeeds_closes_the_circuit_and_forgets_the_outcomes() {
    let mut circuit = circuit();
    let until = opened(&mut circuit, START);
    assert!(call(&mut circuit, CallOutcome::Success, until));
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert!(!call(&mut circuit, CallOutcome::Success, until));
    for _ in 1..FAILURES_IN_A_ROW {
        assert!(!call(&mut circuit, CallOutcome::Transient, until));
    }
    assert!(call(&mut circuit, CallOutcome::Transient, until));
    let until = until + FIRST_WAIT;
    assert_eq!(
        circuit.state(),
        CircuitState::Open { until },
        "the first wait is used again"
    );
}

#[test]
fn the_wait_doubles_if_the_store_answers_probes_but_no_decisions() {
    let mut circuit = circuit();
    let mut waits = Vec::new();
    let mut now = START;
    for _ in 0..6 {
        let until = opened(&mut circuit, now);
        waits.push(until.since(now).get());
        now = until;
        assert!(call(&mut circuit, CallOutcome::Success, now));
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 1600]);
}

#[test]
fn each_failed_probe_doubles_the_wait_up_to_the_longest_wait() {
    let mut circuit = circuit();
    let mut at = opened(&mut circuit, START);
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert!(call(&mut circuit, CallOutcome::Transient, at));
        let CircuitState::Open { until } = circuit.state() else {
            panic!("{}", circuit.state());
        };
        waits.push(until.since(at).get());
        at = until;
    }
    assert_eq!(waits, [200, 400, 800, 1600, 1600, 1600, 1600]);
}

#[test]
fn a_probe_that_never_reports_ends_at_its_deadline() {
    let mut circuit = circuit();
    let until = opened(&mut circuit, START);
    let lost = circuit.begin_probe(until).unwrap();
    let again = until + WAITS.probe;
    let second = circuit.begin_probe(again).unwrap();
    assert!(
        !circuit.ended(lost, CallOutcome::Success, again, NO_JITTER),
        "the report is too late"
    );
    assert!(circuit.ended(second, CallOutcome::Success, again, NO_JITTER));
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn after_a_probe_that_was_not_sent_the_next_is_due_after_the_first_wait() {
    let mut circuit = circuit();
    let until = opened(&mut circuit, START);
    assert!(!call(&mut circuit, CallOutcome::NotSent, until));
    assert!(circuit.begin_probe(until).is_none());
    let until = until + FIRST_WAIT;
    assert!(call(&mut circuit, CallOutcome::Success, until));
    // While the circuit is closed, a call that was not sent changes nothing.
    assert!(!call(&mut circuit, CallOutcome::NotSent, until));
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn outcomes_of_calls_that_began_before_the_circuit_opened_change_nothing() {
    let mut circuit = circuit();
    let late: Vec<_> = (0..3).map(|_| circuit.permit().unwrap()).collect();
    let until = opened(&mut circuit, START);
    let state = CircuitState::Open { until };
    for (permit, ended) in late.into_iter().zip([
        CallOutcome::Success,
        CallOutcome::Transient,
        CallOutcome::Permanent,
    ]) {
        assert!(!circuit.ended(permit, ended, START, NO_JITTER));
        assert_eq!(circuit.state(), state);
    }
}

#[test]
fn a_clock_that_steps_back_far_does_not_prolong_the_wait() {
    let mut circuit = circuit();
    opened(&mut circuit, START);
    assert!(
        circuit
            .begin_probe(START - Millis::from_secs(3600))
            .is_some()
    );
}

#[test]
fn a_clock_that_steps_back_far_does_not_prolong_the_deadline_of_a_probe() {
    let mut circuit = circuit();
    let until = opened(&mut circuit, START);
    assert!(circuit.begin_probe(until).is_some());
    assert!(circuit.begin_probe(until + Millis::new(1)).is_none());
    assert!(
        circuit
            .begin_probe(until - Millis::from_secs(3600))
            .is_some()
    );
}

fn endings() -> impl Strategy<Value = CallOutcome> {
    prop_oneof![
        3 => Just(CallOutcome::Success),
        5 => Just(CallOutcome::Transient),
        1 => Just(CallOutcome::Permanent),
        1 => Just(CallOutcome::NotSent),
    ]
}

proptest! {
    /// A wait is at most the longest one and at least half of the first. No call is permitted
    /// unless the circuit is closed. A probe begins only after the one before has reported or has passed its deadline.
    #[test]
    fn waits_are_within_their_bounds_and_probes_follow_each_other(
        steps in proptest::collection::vec((0..3000u64, any::<bool>(), endings(), any::<u32>()), 1..200),
    ) {
        let mut circuit = circuit();
        let mut now = START;
        let mut under_way = Vec::new();
        let mut probe_until = None;
        for (passes, asks, ended, random) in steps {
            now = now + Millis::new(passes);
            if asks {
                let before = circuit.state();
                let call = circuit.permit();
                prop_assert_eq!(call.is_ok(), before == CircuitState::Closed);
                let probe = circuit.begin_probe(now);
                match (before, probe) {
                    (CircuitState::Closed, probe) => prop_assert!(probe.is_none()),
                    (CircuitState::Open { until } | CircuitState::HalfOpen { until }, Some(_)) => {
                        prop_assert!(until <= now);
                        prop_assert!(probe_until.is_none_or(|probe_until| probe_until <= now));
                        probe_until = Some(now + WAITS.probe);
                    }
                    (CircuitState::Open { until } | CircuitState::HalfOpen { until }, None) => {
                        prop_assert!(until > now);
                        prop_assert_eq!(circuit.state(), before);
                    }
                }
                under_way.extend(call.ok().or(probe));
            } else if let Some(permit) = under_way.pop() {
                let before = circuit.state();
                if circuit.ended(permit, ended, now, random) {
                    prop_assert!(circuit.state() != before);
                }
                if circuit.state() != before {
                    probe_until = None;
                }
                if let (CircuitState::Open { until }, false) = (circuit.state(), circuit.state() == before) {
                    let wait = until.since(now).get();
                    let longest = FIRST_WAIT.get() << WAITS.doublings;
                    let shortest = FIRST_WAIT.get() / 2;
                    prop_assert!((shortest..=longest).contains(&wait), "{}", wait);
                }
            }
        }
    }
}
