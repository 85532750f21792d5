//! Tests of the whole stack that production runs: the suite, and scripted faults of the shared store.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;

use futures_util::FutureExt;
use serde_json::Value;

use super::{MaxEntries, Stack, StoreHealth, StoreSettings};
use crate::blocklist::{Block, BlockTarget, BlockedBy};
use crate::client::Ipv6Prefix;
use crate::effects::Effects;
use crate::effects::testing::TestEffects;
use crate::quota::{Algorithm, Quota};
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::{Command, Database};
use crate::seed::Seed;
use crate::store::breaker::circuit::{CircuitState, FIRST_WAIT};
use crate::store::conformance::{self, ALGORITHMS, MINUTE, START, charge, check};
use crate::store::denials::MAX_AGE;
use crate::store::reference::Reference;
use crate::store::retries::Retries;
use crate::store::shared::{Partitioned, Question, SharedStore, StoreReply};
use crate::store::stand_in::StandIn;
use crate::store::{Charge, Check, OnFailure, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

const RULES: StoreSettings = StoreSettings {
    timeout: Millis::new(1000),
    retries: Retries {
        count: 2,
        delay: Millis::new(50),
    },
    doublings: 10,
    max_commands: None,
    fallback_factor: 1000,
};

/// The failures in a row that open the breaker.
const OPENS_AFTER: usize = 5;

/// A database that all isolates share, and that is out when the shared store is.
#[derive(Clone)]
struct FaultyDatabase {
    emulator: Rc<Emulator>,
    faults: Rc<Faults>,
}

impl Database for FaultyDatabase {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        let error = self.faults.error.borrow().clone();
        match error {
            Some(error) => Err(error),
            None => self.emulator.run(commands, now).await,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// How calls of the shared store end.
#[derive(Default)]
struct Faults {
    /// `None`: calls succeed.
    error: RefCell<Option<StoreError>>,
    /// Whether the store decides before a call fails, so that only its answer is lost.
    runs: Cell<bool>,
    /// The number of calls.
    asked: Cell<usize>,
}

/// A shared store that fails as scripted, with or without having decided.
struct FaultyStore {
    inner: Rc<Reference>,
    faults: Rc<Faults>,
}

impl Partitioned for FaultyStore {}

impl SharedStore for FaultyStore {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.faults.asked.set(self.faults.asked.get() + 1);
        let error = self.faults.error.borrow().clone();
        let Some(error) = error else {
            return self.inner.ask(question, now).await;
        };
        if self.faults.runs.get() {
            self.inner.ask(question, now).await?;
        }
        Err(error)
    }
}

/// The values of [`Faults::runs`]: the store does not decide, or its answers are lost.
const OUTAGES: [bool; 2] = [false, true];

struct Isolate {
    stack: Stack<FaultyStore, FaultyDatabase, TestEffects>,
    redis: Rc<Reference>,
    records: Rc<Records<FaultyDatabase>>,
    faults: Rc<Faults>,
    effects: TestEffects,
}

impl Isolate {
    fn new() -> Self {
        Self::with(RULES)
    }

    fn with(rules: StoreSettings) -> Self {
        let faults: Rc<Faults> = Rc::default();
        let redis: Rc<Reference> = Rc::default();
        let database = FaultyDatabase {
            emulator: Rc::new(Emulator::default()),
            faults: Rc::clone(&faults),
        };
        let records = Rc::new(Records::new(database, Keys::new("t:")));
        let shared = FaultyStore {
            inner: Rc::clone(&redis),
            faults: Rc::clone(&faults),
        };
        let effects = TestEffects::default();
        let stack = Stack::new(
            shared,
            Rc::clone(&records),
            rules,
            MaxEntries::default(),
            &Seed::fixed(),
            effects.clone(),
        );
        Self {
            stack,
            redis,
            records,
            faults,
            effects,
        }
    }

    /// Fails all calls from now on. With `runs` the store decides, but its answers are lost.
    fn fail(&self, runs: bool) {
        let refused = StoreError::Refused("OOM".to_owned());
        let error = if runs { StoreError::Timeout } else { refused };
        *self.faults.error.borrow_mut() = Some(error);
        self.faults.runs.set(runs);
    }

    fn recover(&self) {
        self.faults.error.take();
    }

    /// Moves the clock.
    fn pass(&self, time: Millis) {
        self.effects.set((self.now() + time).since(START).get());
    }

    fn now(&self) -> Timestamp {
        self.effects.now()
    }

    fn decide(&self, check: &Check) -> Result<Verdict, StoreError> {
        let decided = self.stack.decide(check, self.now()).now_or_never();
        self.probe();
        decided.expect("the stack should decide without waiting")
    }

    /// Probes if a probe is due, as a host does after each request.
    fn probe(&self) {
        while let Some(permit) = self.stack.begin_probe() {
            let probed = self.stack.probe(permit).now_or_never();
            probed.expect("the stack should probe without waiting");
        }
    }

    fn ask(&self, charges: &[Charge]) -> (bool, Verdict) {
        let check = check(charges, 1);
        let verdict = self.decide(&check).unwrap();
        (verdict.allows(&check), verdict)
    }

    fn admits(&self, charges: &[Charge]) -> bool {
        self.ask(charges).0
    }

    /// How many of `requests` are admitted.
    fn admitted(&self, charges: &[Charge], requests: usize) -> usize {
        (0..requests).filter(|_| self.admits(charges)).count()
    }

    /// How often `work` asks the shared store.
    fn asked(&self, work: impl FnOnce()) -> usize {
        let before = self.faults.asked.get();
        work();
        self.faults.asked.get() - before
    }

    /// The units that remain in the shared store.
    fn left(&self, charge: &Charge) -> u32 {
        let read = check(std::slice::from_ref(charge), 0);
        let verdict = conformance::at_once(&*self.redis, &read, self.now());
        verdict.answers[0].unwrap().decision.remaining
    }

    fn state(&self) -> CircuitState {
        match self.stack.health() {
            StoreHealth::Shared(status) => status.state,
            StoreHealth::Memory => panic!("this stack has a shared store"),
        }
    }

    /// Closes the breaker, if the shared store answers: waits until a probe is due, and probes after a request without
    /// quotas.
    fn close_breaker(&self) {
        if let CircuitState::Open { until } = self.state() {
            self.pass(until.since(self.now()));
        }
        self.ask(&[]);
    }

    fn reconcile(&self) {
        let reconciling = self.stack.reconcile().now_or_never();
        reconciling.expect("the stack should reconcile without waiting");
    }
}

fn with_rule(key: &str, limit: u32, on_failure: OnFailure) -> Charge {
    Charge {
        on_failure,
        ..charge(key, Algorithm::SlidingWindow, limit)
    }
}

fn leased(key: &str, limit: u32, lease: u32) -> Charge {
    Charge {
        lease,
        ..charge(key, Algorithm::SlidingWindow, limit)
    }
}

#[tokio::test]
async fn the_stack_conforms_over_a_shared_store() {
    conformance::all(&Isolate::new().stack).await;
}

#[tokio::test]
async fn the_stack_conforms_over_a_shared_store_that_is_out() {
    let isolate = Isolate::new();
    isolate.fail(false);
    conformance::all(&isolate.stack).await;
}

#[tokio::test]
async fn the_stack_conforms_in_memory() {
    let records = Rc::new(Records::new(Emulator::default(), Keys::new("t:")));
    let effects = TestEffects::default();
    let stack: Stack<Reference, _, _> =
        Stack::in_memory(records, MaxEntries::default(), &Seed::fixed(), effects);
    assert_eq!(stack.health(), StoreHealth::Memory);
    conformance::all(&stack).await;
}

#[tokio::test]
async fn the_stack_conforms_over_redis() {
    let stand_in = StandIn::start();
    let records = Records::new(stand_in.redis(), Keys::new("stack:"));
    let stack = Stack::new(
        stand_in.store("stack:"),
        Rc::new(records),
        RULES,
        MaxEntries::default(),
        &Seed::fixed(),
        stand_in.effects(),
    );
    conformance::all(&stack).await;
    assert!(
        stack.is_database_available(),
        "the breaker opened, so memory decided"
    );
}

/// Two of five units are taken when the store goes out. Then ten more requests arrive.
#[test]
fn requests_follow_their_rule_while_the_store_is_out() {
    for runs in OUTAGES {
        for (rule, admitted) in [
            (OnFailure::Memory, Some(3)),
            (OnFailure::Allow, Some(10)),
            (OnFailure::Deny, None),
        ] {
            let isolate = Isolate::new();
            let charges = [with_rule("p:a", 5, rule)];
            assert_eq!(isolate.admitted(&charges, 2), 2);
            isolate.fail(runs);
            let check = check(&charges, 1);
            let decided: Vec<_> = (0..10).map(|_| isolate.decide(&check)).collect();
            match admitted {
                Some(admitted) => {
                    let verdicts = || decided.iter().map(|decided| decided.as_ref().unwrap());
                    assert!(verdicts().all(|verdict| verdict.degraded));
                    let allowed = verdicts().filter(|verdict| verdict.allows(&check));
                    assert_eq!(allowed.count(), admitted, "{rule:?}, runs: {runs}");
                }
                None => assert!(decided.iter().all(Result::is_err), "{decided:?}"),
            }
        }
    }
}

#[test]
fn a_request_that_is_refused_by_its_rule_is_not_counted() {
    let isolate = Isolate::new();
    let charges = [
        with_rule("p:a", 5, OnFailure::Deny),
        with_rule("q:a", 5, OnFailure::Memory),
    ];
    let both = check(&charges, 1);
    isolate.fail(false);
    for request in 0..10 {
        let error = isolate.decide(&both).unwrap_err();
        let open = matches!(error, StoreError::Open { .. });
        assert_eq!(open, request >= OPENS_AFTER, "{error}");
    }
    isolate.recover();
    isolate.close_breaker();
    assert!(!isolate.stack.should_reconcile(), "no request was admitted");
    assert_eq!(isolate.admitted(&charges, 10), 5);
}

#[test]
fn the_breaker_opens_and_closes() {
    let isolate = Isolate::new();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 1000)];
    assert!(isolate.admits(&charges) && isolate.stack.is_database_available());
    isolate.fail(true);
    let asked = isolate.asked(|| assert_eq!(isolate.admitted(&charges, 100), 100));
    assert_eq!(asked, OPENS_AFTER);
    let until = isolate.now() + FIRST_WAIT;
    assert_eq!(isolate.state(), CircuitState::Open { until });
    assert!(!isolate.stack.is_database_available());
    assert_eq!(isolate.effects.lines().len(), 1);

    // One probe finds that the store is still out, and the wait doubles.
    isolate.pass(FIRST_WAIT);
    let asked = isolate.asked(|| assert_eq!(isolate.admitted(&charges, 100), 100));
    assert_eq!(asked, 1);
    isolate.recover();
    isolate.pass(FIRST_WAIT);
    let asked = isolate.asked(|| assert!(isolate.ask(&charges).1.degraded));
    assert_eq!(asked, 0);
    isolate.pass(FIRST_WAIT);
    let asked = isolate.asked(|| assert!(isolate.ask(&charges).1.degraded));
    assert_eq!((asked, isolate.state()), (1, CircuitState::Closed));
    let asked = isolate.asked(|| assert!(!isolate.ask(&charges).1.degraded));
    assert_eq!(asked, 1);
    assert!(isolate.stack.is_database_available());
}

/// The quota admits one request an hour, so the denial applies long after the isolate would have asked again.
#[test]
fn a_remembered_denial_still_denies_while_the_store_is_out() {
    for runs in OUTAGES {
        let isolate = Isolate::new();
        let quota = Quota::new(
            Algorithm::FixedWindow,
            NonZeroU32::MIN,
            Millis::from_secs(3600),
        );
        let charges = [Charge {
            quota: quota.unwrap(),
            ..charge("p:a", Algorithm::FixedWindow, 1)
        }];
        assert_eq!(isolate.admitted(&charges, 2), 1);
        isolate.fail(runs);
        for _ in 0..100 {
            assert!(!isolate.admits(&charges));
            isolate.pass(MAX_AGE);
        }
    }
}

#[test]
fn blocks_still_deny_while_the_store_is_out_by_any_rule() {
    for runs in OUTAGES {
        for rule in [OnFailure::Memory, OnFailure::Allow] {
            let isolate = Isolate::new();
            let blocking = [Charge {
                block: Some(Millis::from_secs(600)),
                ..with_rule("p:a", 1, rule)
            }];
            assert_eq!(isolate.admitted(&blocking, 2), 1);
            let ends = START + Millis::from_secs(600);
            isolate.fail(runs);
            for _ in 0..10 {
                let (allowed, verdict) = isolate.ask(&blocking);
                assert!(!allowed, "{rule:?}");
                assert_eq!(verdict.answers[0].unwrap().blocked_until, Some(ends));
                isolate.pass(MINUTE);
            }
            assert!(isolate.admits(&blocking), "the block has ended");
        }

        let isolate = Isolate::new();
        let plain = [with_rule("p:a", 100, OnFailure::Allow)];
        isolate.redis.set("blocked:192.0.2.1", "{\"reason\":\"x\"}");
        assert!(!isolate.admits(&plain));
        isolate.fail(runs);
        for _ in 0..10 {
            assert!(
                !isolate.admits(&plain),
                "an operator has blocked the address"
            );
            isolate.pass(MINUTE);
        }
    }
}

#[test]
fn a_backlog_is_reconciled_once() {
    for algorithm in ALGORITHMS {
        let isolate = Isolate::new();
        let charges = [charge("p:a", algorithm, 30)];
        isolate.fail(false);
        assert_eq!(isolate.admitted(&charges, 10), 10);
        assert!(!isolate.stack.should_reconcile(), "the store is still out");
        isolate.recover();
        assert_eq!(isolate.left(&charges[0]), 30, "nothing is sent yet");
        isolate.close_breaker();
        assert!(isolate.stack.should_reconcile());
        assert!(
            !isolate.stack.should_reconcile(),
            "a reconciliation is under way"
        );
        let before = isolate.left(&charges[0]);
        isolate.reconcile();
        let left = isolate.left(&charges[0]);
        assert_eq!((before, left), (30, 20), "{algorithm:?}");
        assert!(!isolate.stack.should_reconcile(), "the backlog is empty");
        isolate.reconcile();
        assert!(isolate.admits(&charges));
        assert_eq!(isolate.left(&charges[0]), 19, "{algorithm:?}");
    }
}

/// The store counts the backlog, but its answers are lost: those to all attempts, and one to a request.
#[test]
fn a_backlog_whose_answer_is_lost_is_reconciled_once() {
    let isolate = Isolate::new();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    isolate.fail(false);
    assert_eq!(isolate.admitted(&charges, 10), 10);
    isolate.recover();
    isolate.close_breaker();
    assert!(isolate.stack.should_reconcile());
    isolate.fail(true);
    let asked = isolate.asked(|| isolate.reconcile());
    assert_eq!(asked, 3, "one call and two retries");
    assert_eq!(isolate.left(&charges[0]), 20);
    assert!(
        isolate.admits(&charges),
        "the store counts the request, but memory admits it"
    );
    assert_eq!(isolate.left(&charges[0]), 19);
    isolate.recover();
    isolate.pass(Millis::from_secs(10));
    isolate.close_breaker();
    assert!(isolate.stack.should_reconcile());
    isolate.reconcile();
    assert_eq!(isolate.left(&charges[0]), 19, "the backlog is counted once");
    assert!(!isolate.stack.should_reconcile());
}

#[test]
fn the_next_decision_about_a_caller_sends_its_backlog() {
    let isolate = Isolate::new();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    isolate.fail(false);
    assert_eq!(isolate.admitted(&charges, 10), 10);
    isolate.recover();
    isolate.close_breaker();
    assert!(isolate.admits(&charges));
    assert_eq!(isolate.left(&charges[0]), 19);
    assert!(!isolate.stack.should_reconcile());
}

#[test]
fn prefetched_units_are_spent_without_asking_the_store() {
    let isolate = Isolate::new();
    let charges = [leased("p:a", 10_000, 100)];
    let asked = isolate.asked(|| {
        for _ in 0..1000 {
            assert!(isolate.admits(&charges));
            while let Some(prefetch) = isolate.stack.next_prefetch() {
                isolate.stack.prefetch(&prefetch).now_or_never().unwrap();
            }
        }
    });
    assert!(asked < 100, "{asked} calls for 1,000 requests");
    isolate.stack.drop_lease("p:a");
    let asked = isolate.asked(|| assert!(isolate.admits(&charges)));
    assert_eq!(asked, 1);
}

/// Leases learn from the store's answers alone, not from those of memory.
#[test]
fn nothing_is_leased_while_the_store_is_out() {
    for runs in OUTAGES {
        let isolate = Isolate::new();
        let charges = [leased("p:a", 1000, 100)];
        isolate.fail(runs);
        for _ in 0..200 {
            let (allowed, verdict) = isolate.ask(&charges);
            assert!(allowed && verdict.degraded);
            assert_eq!(isolate.stack.next_prefetch(), None);
        }
        isolate.recover();
        isolate.close_breaker();
        let asked = isolate.asked(|| assert!(!isolate.ask(&charges).1.degraded));
        assert_eq!(asked, 1, "the isolate has no leased units");
    }
}

/// When the store goes out, leased units are spent first. A prefetch that fails leases nothing. Memory has counted the leased
/// units, so both together admit at most the limit.
#[test]
fn leases_and_memory_together_stay_within_the_limit() {
    for runs in OUTAGES {
        let isolate = Isolate::new();
        let charges = [leased("p:a", 100, 40)];
        let mut admitted = 0;
        let mut from_lease = 0;
        let mut prefetched = 0;
        for request in 0..300 {
            if request == 40 {
                isolate.fail(runs);
            }
            let before = isolate.faults.asked.get();
            let (allowed, verdict) = isolate.ask(&charges);
            admitted += usize::from(allowed);
            if request >= 40 && !verdict.degraded && allowed {
                assert_eq!(isolate.faults.asked.get(), before);
                from_lease += 1;
            }
            while let Some(prefetch) = isolate.stack.next_prefetch() {
                isolate.stack.prefetch(&prefetch).now_or_never().unwrap();
                prefetched += usize::from(request >= 40);
            }
        }
        assert!(from_lease > 0 && prefetched > 0);
        assert!((80..=100).contains(&admitted), "{admitted}");
    }
}

fn of(address: &str) -> Check {
    let charges = [with_rule(&format!("p:{address}"), 100, OnFailure::Allow)];
    Check {
        address: Some(address.to_owned()),
        ..check(&charges, 1)
    }
}

#[test]
fn a_blocked_range_still_denies_while_the_store_is_out() {
    for runs in OUTAGES {
        let isolate = Isolate::new();
        let blocked = |address| {
            let verdict = isolate.decide(&of(address)).unwrap();
            assert_eq!(
                verdict.allows(&of(address)),
                verdict.address_block.is_none()
            );
            verdict.address_block.is_some()
        };
        assert!(!blocked("192.0.2.1"));
        let block = Block {
            until: Some((START + MINUTE).as_millis()),
            since: START.as_millis(),
            by: BlockedBy::Operator,
            reason: None,
        };
        let range = BlockTarget::parse("192.0.2.0/24", Ipv6Prefix::default()).unwrap();
        let set = isolate.records.block(&range, &block, START);
        set.now_or_never().unwrap().unwrap();
        // Every decision reads the version.
        let copy = isolate.records.blocklist_copy(START).now_or_never();
        let copy = copy.unwrap().unwrap();
        let version = copy.version().unwrap();
        isolate.redis.set("blocked_ranges:version", version);
        assert!(blocked("192.0.2.1"));

        isolate.fail(runs);
        for _ in 0..12 {
            assert!(blocked("192.0.2.1"));
            assert!(blocked("192.0.2.77"), "a caller never seen before");
            assert!(!blocked("192.0.3.1"));
            isolate.pass(Millis::from_secs(5));
        }
        assert!(!blocked("192.0.2.1"), "the block has ended");
    }
}

/// Reaching the cap is no failure: memory decides by any rule, and the breaker stays closed.
#[test]
fn memory_decides_beyond_the_cap() {
    for rule in [OnFailure::Memory, OnFailure::Allow, OnFailure::Deny] {
        let isolate = Isolate::with(StoreSettings {
            // Each decision costs three commands.
            max_commands: NonZeroU32::new(6),
            ..RULES
        });
        let charges = [with_rule("p:a", 10, rule)];
        let asked = isolate.asked(|| assert_eq!(isolate.admitted(&charges, 30), 10));
        assert_eq!((asked, isolate.state()), (2, CircuitState::Closed));
        assert_eq!(isolate.effects.lines().len(), 1);
    }
}

/// So a reset by an operator takes effect in this isolate at once.
#[test]
fn the_store_is_asked_again_about_a_forgotten_key() {
    let isolate = Isolate::new();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 3)];
    assert_eq!(isolate.admitted(&charges, 5), 3);
    isolate.redis.set("p:a", "");
    assert!(!isolate.admits(&charges), "the denial is remembered");
    isolate.stack.forget("p:a");
    assert_eq!(isolate.admitted(&charges, 5), 3);
}

/// Only the shared store speaks to Redis, not the stack around it.
#[test]
fn the_stack_asks_the_host_only_for_time_and_randomness() {
    let isolate = Isolate::new();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 1000)];
    isolate.admitted(&charges, 10);
    isolate.fail(true);
    isolate.admitted(&charges, 10);
    assert_eq!(isolate.effects.calls(), []);
    assert_eq!(isolate.effects.slept(), []);
}
