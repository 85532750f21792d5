//! Tests of what happens to requests while the shared store is out, and how it is reconciled afterwards.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;

use futures_util::FutureExt;
use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{Fallback, MAX_CALLS, QUOTAS_PER_CALL};
use crate::effects::testing::TestEffects;
use crate::quota::{Algorithm, Quota, QuotaOutcome};
use crate::seed::Seed;
use crate::store::conformance::{self, MINUTE, START, at_once, charge, check};
use crate::store::memory::Memory;
use crate::store::reference::Reference;
use crate::store::retries::Retries;
use crate::store::shared::{Question, SharedStore, StoreReply};
use crate::store::{Charge, OnFailure, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::SlidingWindow,
    Algorithm::TokenBucket,
    Algorithm::FixedWindow,
];

/// A store that fails as scripted.
#[derive(Clone)]
struct FaultyReference {
    inner: Rc<Reference>,
    fails: Rc<RefCell<Option<StoreError>>>,
    /// Whether the store decides before a call fails, so that only its answer is lost.
    runs: Rc<Cell<bool>>,
    asked: Rc<Cell<usize>>,
}

impl SharedStore for FaultyReference {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.asked.set(self.asked.get() + 1);
        let fails = self.fails.borrow().clone();
        let Some(error) = fails else {
            return self.inner.ask(question, now).await;
        };
        if self.runs.get() {
            self.inner.ask(question, now).await?;
        }
        Err(error)
    }
}

struct Isolate {
    store: Fallback<FaultyReference>,
    shared: FaultyReference,
}

impl Isolate {
    /// An isolate on a `redis` that others may share.
    fn on(redis: &Rc<Reference>, factor: u32) -> Self {
        let shared = FaultyReference {
            inner: Rc::clone(redis),
            fails: Rc::default(),
            runs: Rc::default(),
            asked: Rc::default(),
        };
        let memory = Memory::new(1000, Seed::random().unwrap());
        Self {
            store: Fallback::new(shared.clone(), memory, factor),
            shared,
        }
    }

    fn alone(factor: u32) -> Self {
        Self::on(&Rc::default(), factor)
    }

    fn fail(&self, error: StoreError) {
        *self.shared.fails.borrow_mut() = Some(error);
    }

    /// Refuses every call. This error shows that the store has not decided.
    fn down(&self) {
        self.fail(StoreError::Refused("OOM".to_owned()));
    }

    fn recover(&self) {
        self.shared.fails.take();
    }

    fn ask(&self, charges: &[Charge], cost: u32, now: Timestamp) -> (bool, Verdict) {
        let check = check(charges, cost);
        let verdict = at_once(&self.store, &check, now);
        (verdict.allows(&check), verdict)
    }

    fn admits(&self, charges: &[Charge], now: Timestamp) -> bool {
        self.ask(charges, 1, now).0
    }

    /// How many of `requests` are admitted.
    fn admitted(&self, charges: &[Charge], requests: usize, now: Timestamp) -> usize {
        (0..requests).filter(|_| self.admits(charges, now)).count()
    }

    /// The units that remain in the shared store.
    fn left(&self, charge: &Charge, now: Timestamp) -> u32 {
        let read = check(std::slice::from_ref(charge), 0);
        let verdict = at_once(&*self.shared.inner, &read, now);
        verdict.answers[0].unwrap().decision.remaining
    }

    /// Reconciles in the background of a request that the store has decided.
    fn reconcile(&self, retries: Retries, now: Timestamp) -> Result<(), StoreError> {
        let fails = self.shared.fails.take();
        self.ask(&[], 1, now);
        *self.shared.fails.borrow_mut() = fails;
        assert!(self.store.should_reconcile(now));
        let effects = at(now);
        let reconciling = self.store.reconcile(retries, QUOTAS_PER_CALL, &effects);
        reconciling.now_or_never().unwrap()
    }
}

/// The effects of a host at that time. Its random numbers make every wait 0.
fn at(now: Timestamp) -> TestEffects {
    let effects = TestEffects::default();
    effects.set(now.since(START).get());
    effects
}

const ONCE: Retries = Retries {
    count: 0,
    delay: Millis::ZERO,
};

fn with_rule(key: &str, limit: u32, on_failure: OnFailure) -> Charge {
    Charge {
        on_failure,
        ..charge(key, Algorithm::SlidingWindow, limit)
    }
}

#[tokio::test]
async fn the_wrapper_conforms_with_a_store_that_answers() {
    conformance::shared(&Isolate::alone(1200).store).await;
}

#[tokio::test]
async fn the_wrapper_conforms_with_a_store_that_fails() {
    let isolate = Isolate::alone(1000);
    isolate.down();
    conformance::all(&isolate.store).await;
}

#[test]
fn memory_goes_on_from_where_the_store_stopped() {
    for algorithm in ALGORITHMS {
        for (factor, more) in [(1000, 5), (1200, 11), (2000, 35), (500, 0)] {
            let isolate = Isolate::alone(factor);
            let charges = [charge("p:a", algorithm, 30)];
            assert_eq!(isolate.admitted(&charges, 25, START), 25);
            isolate.down();
            assert_eq!(
                isolate.admitted(&charges, 100, START),
                more,
                "{algorithm:?} x {factor}"
            );
        }
    }
}

#[test]
fn the_last_answer_counts_what_another_isolate_admitted() {
    let redis = Rc::default();
    let (here, there) = (Isolate::on(&redis, 1000), Isolate::on(&redis, 1000));
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    assert_eq!(there.admitted(&charges, 20, START), 20);
    assert!(here.admits(&charges, START));
    here.down();
    assert_eq!(here.admitted(&charges, 100, START), 9);
}

#[test]
fn the_store_counts_a_backlog_once_whatever_the_verdict() {
    for algorithm in ALGORITHMS {
        let isolate = Isolate::alone(1200);
        let charges = [charge("p:a", algorithm, 30)];
        assert_eq!(isolate.admitted(&charges, 10, START), 10);
        isolate.down();
        assert_eq!(isolate.admitted(&charges, 12, START), 12);
        assert_eq!(isolate.left(&charges[0], START), 20, "nothing is sent yet");
        isolate.recover();
        let (allowed, verdict) = isolate.ask(&charges, 1, START);
        assert!(allowed && !verdict.degraded);
        assert_eq!(isolate.left(&charges[0], START), 7, "{algorithm:?}");
        assert_eq!(isolate.admitted(&charges, 100, START), 7);

        // A backlog above the limit is counted up to the limit, so this request is denied.
        let isolate = Isolate::alone(1200);
        isolate.down();
        assert_eq!(isolate.admitted(&charges, 100, START), 36);
        isolate.recover();
        assert!(!isolate.admits(&charges, START));
        assert_eq!(isolate.left(&charges[0], START), 0);
        assert!(!isolate.store.memory.has_backlog());
    }
}

#[test]
fn a_backlog_whose_answer_was_lost_is_counted_once_even_as_it_grows() {
    let isolate = Isolate::alone(1000);
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    isolate.down();
    assert_eq!(isolate.admitted(&charges, 10, START), 10);
    // The store decides, which counts the ten units and this request. Memory admits the request as well, and adds
    // nothing to its backlog.
    isolate.fail(StoreError::Timeout);
    isolate.shared.runs.set(true);
    assert!(isolate.admits(&charges, START));
    assert_eq!(isolate.left(&charges[0], START), 30 - 11);
    // Meanwhile the backlog grows under the same name.
    isolate.down();
    isolate.shared.runs.set(false);
    assert_eq!(isolate.admitted(&charges, 4, START), 4);
    isolate.recover();
    assert!(isolate.admits(&charges, START));
    assert_eq!(isolate.left(&charges[0], START), 30 - 16);
    assert!(!isolate.store.memory.has_backlog());
}

/// A store may decide after the isolate has abandoned the call. A caller within its limit must not be
/// denied because of that.
#[test]
fn a_request_whose_answer_was_lost_is_not_counted_twice() {
    for error in [
        StoreError::Timeout,
        StoreError::Unreachable,
        StoreError::Malformed,
        StoreError::Status(502),
    ] {
        let isolate = Isolate::alone(1200);
        let mfa = [Charge {
            block: Some(Millis::from_secs(900)),
            ..charge("mfa:a", Algorithm::SlidingWindow, 5)
        }];
        isolate.fail(error);
        isolate.shared.runs.set(true);
        assert_eq!(isolate.admitted(&mfa, 3, START), 3);
        isolate.recover();
        assert_eq!(isolate.admitted(&mfa, 3, START), 2);
    }
}

/// Each time that the store is back, memory takes over a state that counts no more than the limit.
#[test]
fn many_short_outages_admit_no_more_than_one() {
    for algorithm in ALGORITHMS {
        for reconciles in [true, false] {
            let isolate = Isolate::alone(1200);
            let charges = [charge("p:a", algorithm, 30)];
            let mut alone = 0;
            for _ in 0..20 {
                isolate.down();
                alone += isolate.admitted(&charges, 100, START);
                isolate.recover();
                if reconciles && isolate.store.memory.has_backlog() {
                    isolate.reconcile(ONCE, START).unwrap();
                } else {
                    isolate.ask(&charges, 1, START);
                }
            }
            assert_eq!(alone, 36, "{algorithm:?}");
        }
    }
}

/// A bucket in memory drains at another rate than the one in the shared store.
#[test]
fn the_backlog_of_a_bucket_is_kept_until_it_has_drained() {
    for (rule, factor) in [
        (OnFailure::Allow, 1000),
        (OnFailure::Memory, 2000),
        (OnFailure::Memory, 10_000),
    ] {
        let isolate = Isolate::alone(factor);
        let charges = [Charge {
            on_failure: rule,
            ..charge("p:a", Algorithm::TokenBucket, 30)
        }];
        isolate.down();
        let mut remaining = Vec::new();
        for _ in 0..30 {
            let (allowed, verdict) = isolate.ask(&charges, 1, START);
            assert!(allowed);
            remaining.push(verdict.answers[0].unwrap().decision.remaining);
        }
        assert_eq!(
            (remaining[0], remaining[29]),
            (29, 0),
            "{rule:?} x {factor}"
        );
        // A token comes back every two seconds; another caller's request drops what has expired.
        let later = START + Millis::from_secs(20);
        isolate.admits(&[charge("p:b", Algorithm::TokenBucket, 30)], later);
        isolate.recover();
        assert_eq!(isolate.admitted(&charges, 100, later), 10);
    }
}

/// The answers arrive in the reverse order of the decisions.
#[test]
fn a_late_answer_does_not_replace_a_later_state() {
    for algorithm in ALGORITHMS {
        let isolate = Isolate::alone(1000);
        let check = check(&[charge("p:a", algorithm, 30)], 1);
        let question = Question::new(&check);
        let ask = |_| isolate.shared.inner.ask(&question, START).now_or_never();
        let replies: Vec<StoreReply> = (0..30)
            .map(|number| ask(number).unwrap().unwrap())
            .collect();
        for StoreReply {
            verdict,
            stored_charges,
            ..
        } in replies.into_iter().rev()
        {
            (isolate.store.memory).learn(&question, &verdict, stored_charges, START);
        }
        isolate.down();
        assert_eq!(isolate.admitted(&check.charges, 100, START), 0);
    }
}

#[test]
fn callers_that_do_not_come_back_are_reconciled() {
    let isolate = Isolate::alone(1000);
    isolate.down();
    let callers = QUOTAS_PER_CALL * MAX_CALLS + 5;
    let key = |caller: usize| [charge(&format!("p:{caller}"), Algorithm::FixedWindow, 30)];
    for caller in 0..callers {
        assert_eq!(isolate.admitted(&key(caller), 3, START), 3);
    }
    isolate.recover();
    let asked = isolate.shared.asked.get();
    isolate.reconcile(ONCE, START).unwrap();
    assert_eq!(
        isolate.shared.asked.get() - asked,
        1 + MAX_CALLS,
        "one reconciliation sends a part of the backlog"
    );
    isolate.reconcile(ONCE, START).unwrap();
    assert!(
        !isolate.store.should_reconcile(START),
        "the backlog is empty"
    );
    for caller in 0..callers {
        assert_eq!(isolate.left(&key(caller)[0], START), 27);
    }
}

#[test]
fn a_reconciliation_that_fails_is_repeated_and_loses_nothing() {
    let isolate = Isolate::alone(1000);
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    isolate.down();
    assert_eq!(isolate.admitted(&charges, 10, START), 10);
    assert!(
        !isolate.store.should_reconcile(START),
        "the store is still out"
    );
    // The store decides, and its answer is lost.
    isolate.fail(StoreError::Timeout);
    isolate.shared.runs.set(true);
    let asked = isolate.shared.asked.get();
    let retries = Retries {
        count: 2,
        delay: Millis::new(50),
    };
    let failed = isolate.reconcile(retries, START);
    assert_eq!(failed, Err(StoreError::Timeout));
    assert_eq!(isolate.shared.asked.get() - asked, 1 + 3);
    assert!(!isolate.store.should_reconcile(START + Millis::new(9999)));
    isolate.recover();
    isolate
        .reconcile(retries, START + Millis::new(10_000))
        .unwrap();
    let left = isolate.left(&charges[0], START + Millis::new(10_000));
    assert_eq!(left, 20, "the backlog is counted once");
}

#[test]
fn a_reconciliation_that_reaches_the_cap_goes_on_in_a_second() {
    let isolate = Isolate::alone(1000);
    isolate.down();
    isolate.admits(&[charge("p:a", Algorithm::SlidingWindow, 30)], START);
    isolate.fail(StoreError::OverCap);
    assert_eq!(isolate.reconcile(ONCE, START), Err(StoreError::OverCap));
    let second = START + Millis::from_secs(1);
    assert!(!isolate.store.should_reconcile(second - Millis::new(1)));
    assert!(isolate.store.should_reconcile(second));
}

/// A reconciliation began by a clock an hour ahead, and never reported its end. It must not keep others away for that hour.
#[test]
fn a_clock_set_back_does_not_postpone_reconciliation() {
    let isolate = Isolate::alone(1000);
    let charges = [charge("p:a", Algorithm::SlidingWindow, 30)];
    let ahead = START + Millis::from_secs(3600);
    isolate.down();
    assert!(isolate.admits(&charges, START));
    isolate.recover();
    isolate.ask(&[], 1, ahead);
    assert!(isolate.store.should_reconcile(ahead));
    assert!(!isolate.store.should_reconcile(ahead + Millis::new(1)));
    assert!(isolate.store.should_reconcile(START));
    assert!(!isolate.store.should_reconcile(START + Millis::new(1)));
}

#[test]
fn reconciliation_lifts_no_block() {
    let isolate = Isolate::alone(1000);
    let blocking = [Charge {
        block: Some(Millis::from_secs(600)),
        ..charge("p:a", Algorithm::SlidingWindow, 3)
    }];
    isolate.down();
    assert_eq!(isolate.admitted(&blocking, 4, START), 3);
    isolate.recover();
    isolate.reconcile(ONCE, START).unwrap();
    isolate.down();
    let later = START + Millis::from_secs(300);
    assert!(
        !isolate.admits(&blocking, later),
        "memory still knows the block"
    );
}

#[test]
fn a_block_that_the_store_set_still_denies_while_the_store_is_out() {
    for rule in [OnFailure::Memory, OnFailure::Allow] {
        let isolate = Isolate::alone(1200);
        let blocking = [Charge {
            block: Some(Millis::from_secs(600)),
            ..with_rule("p:a", 3, rule)
        }];
        assert_eq!(isolate.admitted(&blocking, 5, START), 3);
        isolate.down();
        let ends = START + Millis::from_secs(600);
        for now in [START, START + MINUTE + MINUTE, ends - Millis::new(1)] {
            let (allowed, verdict) = isolate.ask(&blocking, 1, now);
            assert!(!allowed, "{rule:?}");
            assert_eq!(verdict.answers[0].unwrap().blocked_until, Some(ends));
        }
        assert!(isolate.admits(&blocking, ends));
    }
}

#[test]
fn the_rule_allow_admits_every_request_and_counts_it_afterwards() {
    let isolate = Isolate::alone(1000);
    let charges = [with_rule("p:a", 3, OnFailure::Allow)];
    assert_eq!(isolate.admitted(&charges, 2, START), 2);
    isolate.down();
    assert_eq!(isolate.admitted(&charges, 100, START), 100);
    let (_, verdict) = isolate.ask(&charges, 1, START);
    let decision = verdict.answers[0].unwrap().decision;
    assert_eq!(
        decision.remaining, 0,
        "the answer is by the quota's own limit"
    );
    isolate.recover();
    assert!(!isolate.admits(&charges, START));
    // A cost above the quota's capacity is still denied.
    isolate.down();
    let (allowed, verdict) = isolate.ask(&charges, 4, START);
    assert!(!allowed);
    let outcome = verdict.answers[0].unwrap().decision.outcome;
    assert_eq!(outcome, QuotaOutcome::Impossible);
}

#[test]
fn the_rule_deny_is_an_error_and_consumes_nothing() {
    let isolate = Isolate::alone(1000);
    let charges = [with_rule("p:a", 3, OnFailure::Deny)];
    isolate.fail(StoreError::Status(500));
    for _ in 0..5 {
        let check = check(&charges, 1);
        let decided = isolate.store.decide(&check, START).now_or_never().unwrap();
        assert_eq!(decided, Err(StoreError::Status(500)));
    }
    assert!(isolate.store.memory.is_empty());
    isolate.recover();
    assert_eq!(isolate.admitted(&charges, 5, START), 3);
}

#[test]
fn the_strictest_of_several_rules_applies() {
    use OnFailure::{Allow, Deny, Memory};
    for (rules, admitted) in [
        ([Allow, Allow], Some(20)),
        ([Memory, Allow], Some(3)),
        ([Allow, Memory], Some(7)),
        ([Memory, Memory], Some(3)),
        ([Allow, Deny], None),
        ([Deny, Memory], None),
    ] {
        let isolate = Isolate::alone(1000);
        isolate.down();
        let charges = [with_rule("p:a", 3, rules[0]), with_rule("q:a", 7, rules[1])];
        match admitted {
            Some(admitted) => assert_eq!(isolate.admitted(&charges, 20, START), admitted),
            None => {
                let check = check(&charges, 1);
                let decided = isolate.store.decide(&check, START).now_or_never();
                assert!(decided.unwrap().is_err(), "{rules:?}");
            }
        }
        // The rule of a shadow quota does not count.
        let shadow = Charge {
            enforced: false,
            ..charges[1].clone()
        };
        if rules[0] != Deny {
            isolate.ask(&[charges[0].clone(), shadow], 1, START);
        }
    }
}

#[test]
fn memory_decides_beyond_the_cap_by_any_rule() {
    for rule in [OnFailure::Allow, OnFailure::Memory, OnFailure::Deny] {
        let isolate = Isolate::alone(1000);
        isolate.fail(StoreError::OverCap);
        let charges = [with_rule("p:a", 3, rule)];
        assert_eq!(isolate.admitted(&charges, 20, START), 3);
    }
}

#[test]
fn an_answer_of_memory_reports_the_remaining_units_of_the_quotas_own_limit() {
    let isolate = Isolate::alone(2000);
    isolate.down();
    let charges = [charge("p:a", Algorithm::SlidingWindow, 3)];
    let remaining: Vec<u32> = (0..6)
        .map(|_| {
            let (allowed, verdict) = isolate.ask(&charges, 1, START);
            assert!(allowed && verdict.degraded);
            verdict.answers[0].unwrap().decision.remaining
        })
        .collect();
    assert_eq!(remaining, [2, 1, 0, 0, 0, 0]);
    let (allowed, verdict) = isolate.ask(&charges, 1, START);
    assert!(!allowed);
    let retry_at = verdict.answers[0].unwrap().retry_at().unwrap();
    assert!(!isolate.admits(&charges, retry_at - Millis::new(1)));
    assert!(isolate.admits(&charges, retry_at));
}

#[test]
fn memory_forgets_a_state_that_the_store_no_longer_has() {
    let isolate = Isolate::alone(1000);
    let charges = [charge("p:a", Algorithm::SlidingWindow, 3)];
    assert_eq!(isolate.admitted(&charges, 3, START), 3);
    // An operator resets the quota, and a read sees that.
    isolate.shared.inner.set("p:a", "");
    isolate.ask(&charges, 0, START);
    isolate.down();
    assert_eq!(isolate.admitted(&charges, 5, START), 3);
}

#[test]
fn a_quota_scales_up_to_the_largest_limit_that_can_be_counted() {
    let quota =
        |algorithm, limit| Quota::new(algorithm, NonZeroU32::new(limit).unwrap(), MINUTE).unwrap();
    for algorithm in ALGORITHMS {
        for (limit, factor, scaled) in [
            (30, 1200, 36),
            (4, 1200, 4),
            (5, 1200, 6),
            (1, 10, 1),
            (30, 500, 15),
            (30, 1000, 30),
        ] {
            let scaled = quota(algorithm, scaled);
            assert_eq!(quota(algorithm, limit).scaled(factor), scaled);
        }
    }
    let widest = quota(Algorithm::SlidingWindow, u32::MAX);
    assert_eq!(widest.scaled(10_000), widest);
    let fullest = quota(
        Algorithm::TokenBucket,
        ((1_u64 << 51) / 60_000).min(u64::from(u32::MAX)) as u32,
    );
    assert_eq!(fullest.boundless(), fullest);
}

/// Steps: the isolate, how its store behaves, the caller, the number of requests at once, and the ms that pass before.
fn steps() -> impl Strategy<Value = Vec<(usize, u8, u8, usize, u64)>> {
    let passes = prop_oneof![8 => 0..100u64, 2 => 100..20_000u64];
    proptest::collection::vec((0..3usize, 0..5u8, 0..2u8, 1..15usize, passes), 1..120)
}

proptest! {
    /// The store fails and comes back any number of times, with lost answers and reconciliations. In any interval of a window's
    /// length the store admits at most the limit, and each isolate alone admits at most the limit times its factor.
    #[test]
    fn a_fleet_stays_within_its_bound(
        steps in steps(),
        algorithm in 0..3usize,
        factor in 500..2000u32,
    ) {
        const LIMIT: u32 = 10;
        let redis = Rc::default();
        let fleet: Vec<Isolate> = (0..3).map(|_| Isolate::on(&redis, factor)).collect();
        let mut now = START;
        let mut admitted: Vec<(Timestamp, usize, u8, bool)> = Vec::new();
        for (isolate, does, caller, asks, passes) in steps {
            now = now + Millis::new(passes);
            let charges = [charge(&format!("p:{caller}"), ALGORITHMS[algorithm], LIMIT)];
            let one = &fleet[isolate];
            match does {
                0 | 1 => one.recover(),
                2 => one.down(),
                lost => {
                    one.fail(StoreError::Timeout);
                    one.shared.runs.set(lost == 3);
                }
            }
            for _ in 0..asks {
                let (allowed, verdict) = one.ask(&charges, 1, now);
                prop_assert_eq!(verdict.degraded, does > 1);
                if allowed {
                    admitted.push((now, isolate, caller, verdict.degraded));
                }
            }
            if one.store.should_reconcile(now) {
                let effects = at(now);
                let reconciling = one.store.reconcile(ONCE, QUOTAS_PER_CALL, &effects).now_or_never();
                prop_assert_eq!(reconciling, Some(Ok(())));
            }
        }
        // A fixed window and a bucket admit up to twice the limit in an interval of a window's length.
        let twice = if ALGORITHMS[algorithm] == Algorithm::SlidingWindow { 1 } else { 2 };
        for (place, (first, ..)) in admitted.iter().enumerate() {
            for caller in 0..2 {
                let within = || {
                    let from_first = admitted[place..].iter();
                    from_first
                        .take_while(|(at, ..)| at.since(*first) < MINUTE)
                        .filter(move |(_, _, of, _)| *of == caller)
                };
                let shared = within().filter(|(.., degraded)| !degraded).count();
                prop_assert!(shared <= (LIMIT * twice) as usize);
                for isolate in 0..3 {
                    let alone = within().filter(|(_, by, _, degraded)| *degraded && *by == isolate);
                    let most = (LIMIT * factor / 1000).max(1) * twice;
                    prop_assert!(alone.count() <= most as usize);
                }
            }
        }
    }
}
