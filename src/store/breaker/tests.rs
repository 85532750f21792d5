//! Tests of the wrapper around the circuit.

use std::cell::{Cell, RefCell};

use futures_util::FutureExt;

use super::Breaker;
use super::circuit::{CircuitState, Waits};
use crate::effects::Effects;
use crate::effects::testing::TestEffects;
use crate::quota::Algorithm;
use crate::seed::Seed;
use crate::store::conformance::{self, START, charge, check};
use crate::store::memory::Memory;
use crate::store::shared::{Question, SharedStore, StoreReply};
use crate::store::{Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

/// A store that fails as scripted, and counts its calls.
struct FaultyMemory {
    inner: Memory,
    fails: RefCell<Option<StoreError>>,
    asked: Cell<u32>,
}

impl SharedStore for FaultyMemory {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.asked.set(self.asked.get() + 1);
        let error = self.fails.borrow().clone();
        match error {
            Some(error) => Err(error),
            None => self.inner.ask(question, now).await,
        }
    }
}

type FaultyBreaker = Breaker<FaultyMemory, TestEffects>;

fn store() -> FaultyBreaker {
    let faulty = FaultyMemory {
        inner: Memory::new(1000, Seed::fixed()),
        fails: RefCell::new(None),
        asked: Cell::new(0),
    };
    let waits = Waits {
        doublings: 10,
        probe: Millis::new(2000),
    };
    Breaker::new(faulty, waits, TestEffects::default())
}

/// A breaker that has opened at [`START`].
fn opened() -> FaultyBreaker {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    for _ in 0..5 {
        let _ = ask(&store);
    }
    store
}

fn set_clock(store: &FaultyBreaker, time: Timestamp) {
    store.effects.set(time.since(START).get());
}

fn ask(store: &FaultyBreaker) -> Result<Verdict, StoreError> {
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
    let now = store.effects.now();
    store.decide(&check, now).now_or_never().unwrap()
}

/// Probes if a probe is due, as a host does after each request, and returns whether it was.
fn probe(store: &FaultyBreaker) -> bool {
    let permit = store.begin_probe();
    let probed = permit.map(|permit| store.probe(permit).now_or_never().unwrap());
    probed.is_some()
}

fn fail(store: &FaultyBreaker, error: Option<StoreError>) {
    *store.inner.fails.borrow_mut() = error;
}

/// The changes of state that were logged, without the waits.
fn logged(store: &FaultyBreaker) -> Vec<String> {
    let lines = store.effects.lines().into_iter();
    let without_wait = |line: String| {
        line.split("; it is not called")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    lines.map(without_wait).collect()
}

const HALF_OPEN: &str = "Redis: a probe checks whether it answers again";
const CLOSED: &str = "Redis answers again, and limits are shared again";

#[tokio::test]
async fn the_wrapper_conforms() {
    conformance::shared(&store()).await;
}

#[test]
fn a_store_that_fails_is_not_asked_until_a_probe_succeeds_after_the_wait() {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    for _ in 0..5 {
        assert_eq!(ask(&store), Err(StoreError::Timeout));
    }
    let CircuitState::Open { until } = store.status().state else {
        panic!("{:?}", store.status());
    };
    for _ in 0..100 {
        assert_eq!(ask(&store), Err(StoreError::Open { until }));
    }
    assert_eq!(store.inner.asked.get(), 5);

    assert!(!probe(&store));

    set_clock(&store, until);
    fail(&store, Some(StoreError::Status(502)));
    assert_eq!(
        ask(&store),
        Err(StoreError::Open { until }),
        "a request does not probe"
    );
    assert!(probe(&store));
    assert!(!probe(&store));
    assert!(matches!(ask(&store), Err(StoreError::Open { .. })));
    assert_eq!(store.inner.asked.get(), 6);
    let failure = Some((START, StoreError::Status(502)));
    assert_eq!(
        store.status().failure,
        failure,
        "the time of the first failure, and the latest error"
    );

    set_clock(&store, until + Millis::new(200));
    fail(&store, None);
    assert!(ask(&store).is_err());
    assert!(probe(&store));
    assert!(ask(&store).is_ok());
    assert_eq!(store.status().failure, None);
    assert_eq!(
        logged(&store),
        [
            "Redis failed: no answer within REDIS_TIMEOUT",
            HALF_OPEN,
            "Redis failed: Redis answered with HTTP status 502",
            HALF_OPEN,
            CLOSED,
        ]
    );
}

#[test]
fn the_wait_begins_when_the_call_ends() {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    let began = store.effects.now();
    for _ in 0..5 {
        let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        set_clock(&store, began + Millis::new(1000));
        let _ = store.decide(&check, began).now_or_never();
    }
    let until = began + Millis::new(1100);
    assert_eq!(store.status().state, CircuitState::Open { until });
}

#[test]
fn a_refused_token_or_a_used_up_plan_opens_the_circuit_at_once() {
    for error in [StoreError::Unauthorized, StoreError::OverQuota] {
        let store = store();
        fail(&store, Some(error.clone()));
        assert_eq!(ask(&store), Err(error));
        let until = START + Millis::new(102_400);
        assert_eq!(ask(&store), Err(StoreError::Open { until }));
    }
}

#[test]
fn a_call_that_the_cap_refused_does_not_count_as_a_failure() {
    let store = store();
    fail(&store, Some(StoreError::OverCap));
    for _ in 0..100 {
        assert_eq!(ask(&store), Err(StoreError::OverCap));
    }
    assert_eq!(store.status().state, CircuitState::Closed);
    assert!(logged(&store).is_empty());
}

#[test]
fn a_probe_that_was_not_sent_is_not_logged_again() {
    let store = opened();
    set_clock(&store, START + Millis::new(150));
    fail(&store, Some(StoreError::OverCap));
    let probes = (0..500).filter(|_| probe(&store)).count();
    assert_eq!(probes, 1, "the next probe is due after the first wait");
    set_clock(&store, START + Millis::new(250));
    fail(&store, None);
    assert!(probe(&store) && ask(&store).is_ok());
    let lines = [
        "Redis failed: no answer within REDIS_TIMEOUT",
        HALF_OPEN,
        CLOSED,
    ];
    assert_eq!(logged(&store), lines);
}

/// A host drops the request of a client that disconnects. The probe belongs to no request.
#[test]
fn a_dropped_request_neither_takes_nor_postpones_the_probe() {
    let store = opened();
    set_clock(&store, START + Millis::new(100));
    fail(&store, None);
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
    for _ in 0..3 {
        let dropped = store.decide(&check, store.effects.now());
        drop(dropped);
        assert!(ask(&store).is_err(), "no request is sent to the store");
    }
    assert_eq!(store.inner.asked.get(), 5);
    assert!(probe(&store) && ask(&store).is_ok());
}

/// The time of the request may be long past.
#[test]
fn whether_a_probe_is_due_is_decided_by_the_current_time() {
    let store = opened();
    set_clock(&store, START + Millis::new(100));
    let permit = store.begin_probe().expect("a probe is due");
    set_clock(&store, START + Millis::new(1000));
    assert!(!probe(&store), "a probe is under way");
    store.probe(permit).now_or_never().unwrap();
    assert!(!probe(&store), "the wait begins when the probe has failed");
}
