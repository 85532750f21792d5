//! The store around the circuit.

use std::cell::{Cell, RefCell};

use futures_util::FutureExt;

use super::Breaker;
use super::circuit::{CircuitState, Waits};
use crate::effects::Effects;
use crate::effects::testing::Manual;
use crate::quota::Algorithm;
use crate::seed::Seed;
use crate::store::conformance::{self, START, charge, check};
use crate::store::memory::Memory;
use crate::store::shared::{Question, SharedStore, StoreReply};
use crate::store::{Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

/// Fails as told; counts its calls.
struct Faulty {
    inner: Memory,
    fails: RefCell<Option<StoreError>>,
    asked: Cell<u32>,
}

impl SharedStore for Faulty {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.asked.set(self.asked.get() + 1);
        let error = self.fails.borrow().clone();
        match error {
            Some(error) => Err(error),
            None => self.inner.ask(question, now).await,
        }
    }
}

type Faults = Breaker<Faulty, Manual>;

fn store() -> Faults {
    let faulty = Faulty {
        inner: Memory::new(1000, Seed::fixed()),
        fails: RefCell::new(None),
        asked: Cell::new(0),
    };
    let waits = Waits {
        doublings: 10,
        probe: Millis::new(2000),
    };
    Breaker::new(faulty, waits, Manual::default())
}

/// One that has failed until its circuit opened, at [`START`].
fn opened() -> Faults {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    for _ in 0..5 {
        let _ = ask(&store);
    }
    store
}

fn set_clock(store: &Faults, time: Timestamp) {
    store.effects.set(time.since(START).get());
}

fn ask(store: &Faults) -> Result<Verdict, StoreError> {
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
    let now = store.effects.now();
    store.decide(&check, now).now_or_never().unwrap()
}

/// As a host does after each request, if a probe is due.
fn probe(store: &Faults) -> bool {
    let permit = store.begin_probe();
    let probed = permit.map(|permit| store.probe(permit).now_or_never().unwrap());
    probed.is_some()
}

fn fail(store: &Faults, error: Option<StoreError>) {
    *store.inner.fails.borrow_mut() = error;
}

/// The changes of state that were logged, without how long it waits.
fn logged(store: &Faults) -> Vec<String> {
    let lines = store.effects.lines().into_iter();
    let why = |line: String| {
        line.split("; not asked")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    lines.map(why).collect()
}

const HALF_OPEN: &str = "Redis: asking whether it answers again";
const CLOSED: &str = "Redis answers again; limits are shared again";

#[tokio::test]
async fn conforms() {
    conformance::shared(&store()).await;
}

#[test]
fn a_store_that_fails_is_left_alone_until_a_probe_after_the_wait() {
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
        "no request is the probe"
    );
    assert!(probe(&store));
    assert!(!probe(&store));
    assert!(matches!(ask(&store), Err(StoreError::Open { .. })));
    assert_eq!(store.inner.asked.get(), 6);
    let failure = Some((START, StoreError::Status(502)));
    assert_eq!(
        store.status().failure,
        failure,
        "since the first, the latest reason"
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
            "Redis: no answer within REDIS_TIMEOUT",
            HALF_OPEN,
            "Redis: HTTP status 502",
            HALF_OPEN,
            CLOSED,
        ]
    );
}

#[test]
fn the_wait_begins_when_the_call_has_failed_not_when_it_began() {
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
fn a_refused_token_and_a_used_up_plan_open_it_at_once() {
    for error in [StoreError::Unauthorized, StoreError::OverQuota] {
        let store = store();
        fail(&store, Some(error.clone()));
        assert_eq!(ask(&store), Err(error));
        let until = START + Millis::new(102_400);
        assert_eq!(ask(&store), Err(StoreError::Open { until }));
    }
}

#[test]
fn what_was_not_asked_is_no_failure() {
    let store = store();
    fail(&store, Some(StoreError::OverCap));
    for _ in 0..100 {
        assert_eq!(ask(&store), Err(StoreError::OverCap));
    }
    assert_eq!(store.status().state, CircuitState::Closed);
    assert!(logged(&store).is_empty());
}

#[test]
fn probes_that_are_not_made_are_no_news() {
    let store = opened();
    set_clock(&store, START + Millis::new(150));
    fail(&store, Some(StoreError::OverCap));
    let probes = (0..500).filter(|_| probe(&store)).count();
    assert_eq!(probes, 1, "the next is for later");
    set_clock(&store, START + Millis::new(250));
    fail(&store, None);
    assert!(probe(&store) && ask(&store).is_ok());
    let lines = ["Redis: no answer within REDIS_TIMEOUT", HALF_OPEN, CLOSED];
    assert_eq!(logged(&store), lines);
}

/// A client that disconnects drops its request; the probe is none's.
#[test]
fn requests_that_are_dropped_neither_take_the_probe_nor_postpone_it() {
    let store = opened();
    set_clock(&store, START + Millis::new(100));
    fail(&store, None);
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
    for _ in 0..3 {
        let dropped = store.decide(&check, store.effects.now());
        drop(dropped);
        assert!(ask(&store).is_err(), "it follows the fallback rule");
    }
    assert_eq!(store.inner.asked.get(), 5);
    assert!(probe(&store) && ask(&store).is_ok());
}

/// By the time of the request as well, which may be long past when it comes here.
#[test]
fn a_probe_is_due_by_the_clock_of_now() {
    let store = opened();
    set_clock(&store, START + Millis::new(100));
    let permit = store.begin_probe().expect("a probe is due");
    set_clock(&store, START + Millis::new(1000));
    assert!(!probe(&store), "one is under way");
    store.probe(permit).now_or_never().unwrap();
    assert!(!probe(&store), "its wait begins when it has failed");
}
