//! The store around the circuit.

use std::cell::{Cell, RefCell};

use futures_util::FutureExt;

use super::circuit::{State, Waits};
use super::{Breaker, Status};
use crate::quota::Algorithm;
use crate::seed::Seed;
use crate::store::conformance::{self, START, charge, check};
use crate::store::memory::Memory;
use crate::store::{Check, Store, StoreError, Verdict};
use crate::time::{Clock, Millis, Timestamp};

/// Fails as told; counts its calls.
struct Faulty {
    inner: Memory,
    fails: RefCell<Option<StoreError>>,
    asked: Cell<u32>,
}

impl Store for Faulty {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        self.asked.set(self.asked.get() + 1);
        let error = self.fails.borrow().clone();
        match error {
            Some(error) => Err(error),
            None => self.inner.decide(check, now).await,
        }
    }
}

thread_local! {
    static NOW: Cell<Timestamp> = const { Cell::new(START) };
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.get()
    }
}

fn tell(status: &Status) {
    let why = status.trouble.as_ref().map(|(_, error)| error.to_string());
    let line = format!("{} {}", status.state, why.unwrap_or_default());
    TOLD.with_borrow_mut(|told| told.push(line.trim().to_owned()));
}

fn store() -> Breaker<Faulty, TestClock> {
    NOW.set(START);
    TOLD.take();
    let faulty = Faulty {
        inner: Memory::new(1000, Seed::fixed()),
        fails: RefCell::new(None),
        asked: Cell::new(0),
    };
    let waits = Waits {
        doublings: 10,
        probe: Millis::new(2000),
    };
    Breaker::new(faulty, TestClock, waits, || 0, tell)
}

fn ask(store: &Breaker<Faulty, TestClock>) -> Result<Verdict, StoreError> {
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
    store.decide(&check, NOW.get()).now_or_never().unwrap()
}

fn fail(store: &Breaker<Faulty, TestClock>, error: Option<StoreError>) {
    *store.inner.fails.borrow_mut() = error;
}

#[tokio::test]
async fn conforms() {
    conformance::all(&store()).await;
}

#[test]
fn a_store_that_fails_is_left_alone_and_asked_by_one_when_the_wait_is_over() {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    for _ in 0..5 {
        assert_eq!(ask(&store), Err(StoreError::Timeout));
    }
    let State::Open { until } = store.status().state else {
        panic!("{:?}", store.status());
    };
    for _ in 0..100 {
        assert_eq!(ask(&store), Err(StoreError::Open { until }));
    }
    assert_eq!(store.inner.asked.get(), 5);

    NOW.set(until);
    fail(&store, Some(StoreError::Status(502)));
    assert_eq!(ask(&store), Err(StoreError::Status(502)));
    assert!(matches!(ask(&store), Err(StoreError::Open { .. })));
    assert_eq!(store.inner.asked.get(), 6);
    let trouble = Some((START, StoreError::Status(502)));
    assert_eq!(
        store.status().trouble,
        trouble,
        "since the first, the latest reason"
    );

    NOW.set(until + Millis::new(200));
    fail(&store, None);
    assert!(ask(&store).is_ok());
    assert!(ask(&store).is_ok());
    assert_eq!(store.status().trouble, None);
    assert_eq!(
        TOLD.take(),
        [
            "open no answer within REDIS_TIMEOUT",
            "half-open no answer within REDIS_TIMEOUT",
            "open HTTP status 502",
            "half-open HTTP status 502",
            "closed",
        ]
    );
}

#[test]
fn the_wait_begins_when_the_call_has_failed_not_when_it_began() {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    let began = NOW.get();
    for _ in 0..5 {
        let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        NOW.set(began + Millis::new(1000));
        let _ = store.decide(&check, began).now_or_never();
    }
    let until = began + Millis::new(1100);
    assert_eq!(store.status().state, State::Open { until });
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
    assert_eq!(store.status().state, State::Closed);
    assert!(TOLD.take().is_empty());
}

#[test]
fn probes_that_are_not_made_are_no_news() {
    let store = store();
    fail(&store, Some(StoreError::Timeout));
    for _ in 0..5 {
        let _ = ask(&store);
    }
    NOW.set(START + Millis::new(150));
    fail(&store, Some(StoreError::OverCap));
    for _ in 0..500 {
        let _ = ask(&store);
    }
    fail(&store, None);
    assert!(ask(&store).is_ok());
    let told = TOLD.take();
    let states: Vec<_> = told
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(states, ["open", "half-open", "closed"]);
}
