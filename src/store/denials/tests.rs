//! Tests of which denials are remembered, for how long, and that they deny no request that the store would admit.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::num::NonZeroU32;

use futures_util::FutureExt;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::{Denials, MAX_AGE, REVALIDATING_FOR};
use crate::blocklist::AddressBlock;
use crate::effects::testing::TestEffects;
use crate::quota::{Algorithm, Quota};
use crate::seed::Seed;
use crate::store::conformance::{self, START, at_once, charge, check};
use crate::store::memory::Memory;
use crate::store::shared::{Question, SharedStore, StoreReply};
use crate::store::{Charge, Check, OnFailure, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

/// A store that counts the questions that it is asked, and behaves as scripted.
struct ScriptedStore<S> {
    inner: S,
    asked: Cell<usize>,
    address_block: Cell<Option<AddressBlock>>,
    behaves: RefCell<Behaves>,
}

#[derive(Clone)]
enum Behaves {
    Answers,
    Hangs,
    Fails(StoreError),
}

impl<S: SharedStore> SharedStore for ScriptedStore<S> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.asked.set(self.asked.get() + 1);
        let behaves = self.behaves.borrow().clone();
        match behaves {
            Behaves::Answers => {}
            Behaves::Hangs => pending().await,
            Behaves::Fails(error) => return Err(error),
        }
        let mut reply = self.inner.ask(question, now).await?;
        if let Some(block) = self.address_block.get() {
            reply.verdict.address_block = Some(block);
        }
        Ok(reply)
    }
}

fn store(entries: usize) -> Denials<ScriptedStore<Memory>, TestEffects> {
    let counted = ScriptedStore {
        inner: Memory::new(1000, Seed::fixed()),
        asked: Cell::new(0),
        address_block: Cell::new(None),
        behaves: RefCell::new(Behaves::Answers),
    };
    Denials::new(counted, entries, Seed::fixed(), TestEffects::default())
}

fn ask(store: &impl Store, check: &Check, now: Timestamp) -> (bool, Verdict) {
    let verdict = at_once(store, check, now);
    (verdict.allows(check), verdict)
}

/// A quota of one request an hour. Its denials last longer than they are repeated without asking.
fn hourly(key: &str) -> Charge {
    let quota = Quota::new(
        Algorithm::FixedWindow,
        NonZeroU32::MIN,
        Millis::from_secs(3600),
    );
    Charge {
        quota: quota.unwrap(),
        ..charge(key, Algorithm::FixedWindow, 1)
    }
}

#[tokio::test]
async fn the_wrapper_conforms() {
    conformance::shared(&store(1000)).await;
}

#[test]
fn a_remembered_denial_is_repeated_for_ten_seconds_without_asking() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    assert!(ask(&store, &check, START).0);
    let (_, denial) = ask(&store, &check, START);
    assert_eq!(store.inner.asked.get(), 2);
    let last = START + MAX_AGE - Millis::new(1);
    for now in [START, START + Millis::new(1), last] {
        let (allowed, repeated) = ask(&store, &check, now);
        assert!(!allowed);
        assert_eq!(
            repeated.answers, denial.answers,
            "the store's answer is repeated"
        );
    }
    assert_eq!(store.inner.asked.get(), 2);
    assert!(!ask(&store, &check, START + MAX_AGE).0);
    assert_eq!(
        store.inner.asked.get(),
        3,
        "the store is asked again after ten seconds"
    );
}

/// Makes the store deny the check. Returns how often the store was asked so far.
fn deny(store: &Denials<ScriptedStore<Memory>, TestEffects>, check: &Check) -> usize {
    assert!(ask(store, check, START).0);
    assert!(!ask(store, check, START).0);
    store.inner.asked.get()
}

#[test]
fn one_request_revalidates_and_the_others_get_the_remembered_denial() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    let asked = deny(&store, &check);
    store.inner.behaves.replace(Behaves::Hangs);
    assert!(!store.effects.outlived());
    // The future is dropped, as by a host that cannot keep the task of a client that has disconnected.
    assert!(
        store
            .decide(&check, START + MAX_AGE)
            .now_or_never()
            .is_none()
    );
    assert!(
        store.effects.outlived(),
        "the revalidation outlives the client"
    );
    for ms in [0, 1, 1999] {
        assert!(!ask(&store, &check, START + MAX_AGE + Millis::new(ms)).0);
    }
    assert!(
        !store.effects.outlived(),
        "requests that repeat a denial do not outlive their clients"
    );
    assert_eq!(store.inner.asked.get(), asked + 1);
    store.inner.behaves.replace(Behaves::Answers);
    assert!(!ask(&store, &check, START + MAX_AGE + Millis::new(2000)).0);
    assert_eq!(
        store.inner.asked.get(),
        asked + 2,
        "another request revalidates once the first one's time is over"
    );
    assert!(!ask(&store, &check, START + MAX_AGE + Millis::new(11_999)).0);
    assert_eq!(store.inner.asked.get(), asked + 2);
}

#[test]
fn a_remembered_denial_still_denies_while_the_store_does_not_answer() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    let asked = deny(&store, &check);
    store
        .inner
        .behaves
        .replace(Behaves::Fails(StoreError::Timeout));
    for seconds in 10..3500 {
        assert!(!ask(&store, &check, START + Millis::from_secs(seconds)).0);
    }
    assert_eq!(store.inner.asked.get(), asked + 3490 / 2);
    let ends = START + Millis::from_secs(3600);
    let over = store.decide(&check, ends).now_or_never().unwrap();
    assert_eq!(over, Err(StoreError::Timeout), "the denial has ended");
}

#[test]
fn of_quotas_that_admit_during_an_outage_only_blocks_still_deny() {
    let store = store(1000);
    let allow = |key: &str, block: Option<Millis>| Charge {
        block,
        on_failure: OnFailure::Allow,
        ..hourly(key)
    };
    let block = Some(Millis::from_secs(60));
    let quota = check(&[allow("p:a", None)], 1);
    let blocked = check(&[allow("p:b", block)], 1);
    let strict = check(&[allow("p:c", None), hourly("q:c")], 1);
    for check in [&quota, &blocked, &strict] {
        deny(&store, check);
    }
    let allows = |check: &Check, after: Millis| {
        let decided = store.decide(check, START + after).now_or_never();
        decided.unwrap().map(|verdict| verdict.allows(check))
    };
    // Reaching the cap is no failure: otherwise a flood could lift the limit that it meets.
    store
        .inner
        .behaves
        .replace(Behaves::Fails(StoreError::OverCap));
    assert_eq!(allows(&quota, MAX_AGE), Ok(false));
    store
        .inner
        .behaves
        .replace(Behaves::Fails(StoreError::Timeout));
    let after = MAX_AGE + REVALIDATING_FOR;
    for ms in 0..3 {
        let after = after + Millis::new(ms);
        assert_eq!(allows(&quota, after), Err(StoreError::Timeout));
        assert_eq!(allows(&blocked, after), Ok(false));
        assert_eq!(allows(&strict, after), Ok(false));
    }
    let over = Millis::from_secs(60);
    assert_eq!(allows(&blocked, over), Err(StoreError::Timeout));
    assert_eq!(allows(&strict, over), Ok(false));
    // Once the store answers again, it decides.
    store.inner.behaves.replace(Behaves::Answers);
    assert_eq!(allows(&quota, over), Ok(false));
}

#[test]
fn the_store_is_asked_again_after_the_clock_steps_back_far() {
    let store = store(1000);
    let check = check(&[charge("p:a", Algorithm::SlidingWindow, 1)], 1);
    let ahead = START + Millis::from_secs(3600);
    assert!(ask(&store, &check, ahead).0);
    assert!(!ask(&store, &check, ahead).0);
    let asked = store.inner.asked.get();
    ask(&store, &check, START);
    assert_eq!(store.inner.asked.get(), asked + 1);
}

/// A revalidation began by a clock far ahead, and was dropped. Another begins by the corrected clock.
#[test]
fn a_clock_set_back_does_not_postpone_the_next_revalidation() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    let due = START + MAX_AGE;
    let asked = deny(&store, &check);
    let ahead = START + Millis::from_secs(3000);
    store.inner.behaves.replace(Behaves::Hangs);
    assert!(store.decide(&check, ahead).now_or_never().is_none());
    assert_eq!(store.inner.asked.get(), asked + 1);
    assert!(!ask(&store, &check, ahead + Millis::new(1)).0);
    assert_eq!(store.inner.asked.get(), asked + 1);
    store.inner.behaves.replace(Behaves::Answers);
    assert!(!ask(&store, &check, due).0);
    assert_eq!(store.inner.asked.get(), asked + 2);
}

#[test]
fn a_denial_is_forgotten_once_the_store_admits_again() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    deny(&store, &check);
    // The quota is reset elsewhere.
    store.inner.inner.forget("p:a");
    assert!(!ask(&store, &check, START + Millis::new(9999)).0);
    assert!(ask(&store, &check, START + MAX_AGE).0);
    let remembered = store.remembered.borrow();
    assert!(remembered.denials.is_empty() && remembered.by_end.is_empty());
}

#[test]
fn a_denial_applies_to_its_policy_cost_and_caller_only() {
    let store = store(1000);
    let ten = charge("p:a", Algorithm::FixedWindow, 10);
    assert!(ask(&store, &check(std::slice::from_ref(&ten), 8), START).0);
    assert!(!ask(&store, &check(std::slice::from_ref(&ten), 5), START).0);
    assert!(
        ask(&store, &check(std::slice::from_ref(&ten), 2), START).0,
        "a smaller cost fits"
    );
    assert!(!ask(&store, &check(std::slice::from_ref(&ten), 1), START).0);
    let asked = store.inner.asked.get();
    assert!(!ask(&store, &check(std::slice::from_ref(&ten), 5), START).0);
    assert!(!ask(&store, &check(std::slice::from_ref(&ten), 1), START).0);
    assert_eq!(store.inner.asked.get(), asked, "both costs are known");
    assert!(
        ask(
            &store,
            &check(&[charge("p:b", Algorithm::FixedWindow, 10)], 1),
            START
        )
        .0
    );
    assert!(
        ask(
            &store,
            &check(&[charge("q:a", Algorithm::FixedWindow, 10)], 1),
            START
        )
        .0
    );
}

#[test]
fn one_remembered_denial_denies_a_request_of_several_quotas() {
    let store = store(1000);
    let tight = hourly("tight:a");
    let wide = charge("wide:a", Algorithm::SlidingWindow, 100);
    assert!(ask(&store, &check(std::slice::from_ref(&tight), 1), START).0);
    assert!(!ask(&store, &check(std::slice::from_ref(&tight), 1), START).0);
    let asked = store.inner.asked.get();
    let both = check(&[wide, tight], 1);
    let (allowed, verdict) = ask(&store, &both, START);
    assert!(!allowed);
    assert_eq!(
        verdict.answers[0], None,
        "the store was not asked about the other quota"
    );
    assert_eq!(store.inner.asked.get(), asked);
}

#[test]
fn a_remembered_block_does_not_apply_to_a_charge_of_the_key_that_does_not_block() {
    let store = store(1000);
    let block = Some(Millis::from_secs(600));
    let blocking = Charge {
        block,
        ..charge("p:a", Algorithm::FixedWindow, 1)
    };
    assert!(ask(&store, &check(std::slice::from_ref(&blocking), 1), START).0);
    assert!(!ask(&store, &check(std::slice::from_ref(&blocking), 1), START).0);
    let unblocked = Charge {
        block: None,
        ..blocking
    };
    let ends = START + Millis::new(60_000);
    assert!(
        !ask(
            &store,
            &check(std::slice::from_ref(&unblocked), 1),
            ends - Millis::new(1)
        )
        .0
    );
    let (_, verdict) = ask(&store, &check(std::slice::from_ref(&unblocked), 1), START);
    assert_eq!(verdict.answers[0].unwrap().blocked_until, None);
    assert!(ask(&store, &check(&[unblocked], 1), ends).0);
}

#[test]
fn a_denial_by_a_shadow_quota_is_not_remembered() {
    let store = store(1000);
    let quiet = Charge {
        enforced: false,
        ..hourly("p:a")
    };
    for asked in 1..5 {
        assert!(ask(&store, &check(std::slice::from_ref(&quiet), 1), START).0);
        assert_eq!(store.inner.asked.get(), asked);
    }
}

#[test]
fn a_block_of_the_address_is_remembered_for_every_policy_and_cost() {
    let store = store(1000);
    store
        .inner
        .address_block
        .set(Some(AddressBlock { until: None }));
    assert!(!ask(&store, &check(&[hourly("p:a")], 1), START).0);
    store.inner.address_block.set(None);
    assert!(!ask(&store, &check(&[hourly("q:a")], 7), START).0);
    assert_eq!(store.inner.asked.get(), 1);
    let unblockable = Check {
        address: None,
        ..check(&[hourly("q:a")], 1)
    };
    assert!(ask(&store, &unblockable, START).0);
    assert!(
        ask(&store, &check(&[hourly("r:a")], 1), START + MAX_AGE).0,
        "the block was lifted elsewhere"
    );
}

#[test]
fn a_read_always_asks_the_store() {
    let store = store(1000);
    let charge = hourly("p:a");
    assert!(ask(&store, &check(std::slice::from_ref(&charge), 1), START).0);
    assert!(!ask(&store, &check(std::slice::from_ref(&charge), 1), START).0);
    let asked = store.inner.asked.get();
    assert!(ask(&store, &check(&[charge], 0), START).0);
    assert_eq!(store.inner.asked.get(), asked + 1);
}

#[test]
fn the_remembered_denials_are_bounded() {
    let store = store(10);
    for caller in 0..1000 {
        let check = check(&[hourly(&format!("p:{caller}"))], 1);
        assert!(ask(&store, &check, START).0);
        assert!(!ask(&store, &check, START).0);
        let remembered = store.remembered.borrow();
        assert!(remembered.denials.len() <= 10);
        assert_eq!(remembered.denials.len(), remembered.by_end.len());
    }
}

proptest! {
    /// With and without remembered denials, the same requests are admitted. A repeated denial may report an earlier retry
    /// time than the store would by now, if the caller has consumed units at a smaller cost since. It never reports a later
    /// one.
    #[test]
    fn remembered_denials_change_no_verdict(
        requests in proptest::collection::vec((0..3u8, 1..4u32, 0..20_000u64), 1..150),
        entries in 1..4usize,
    ) {
        let with = store(entries);
        let without = Memory::new(1000, Seed::fixed());
        let mut now = START;
        for (caller, cost, pause) in requests {
            now = now + Millis::new(if pause < 15_000 { pause / 100 } else { pause });
            let bucket = charge(&format!("p:{caller}"), Algorithm::TokenBucket, 6);
            let charges = if caller == 0 {
                let block = Some(Millis::from_secs(30));
                vec![Charge { block, ..bucket }]
            } else {
                vec![bucket, charge(&format!("q:{caller}"), Algorithm::SlidingWindow, 9)]
            };
            let check = check(&charges, cost);
            let known = [with.known_denial(&check, now), without.known_denial(&check, now)];
            let (allowed, verdict) = ask(&with, &check, now);
            let (expected, reference) = ask(&without, &check, now);
            prop_assert_eq!(allowed, expected);
            for (known, asked) in known.into_iter().zip([&verdict, &reference]) {
                let source = asked.source;
                let same = known.is_none_or(|known| Verdict { source, ..known } == *asked);
                prop_assert!(same);
            }
            for (answer, reference) in verdict.answers.iter().zip(reference.answers) {
                if let Some(answer) = answer {
                    prop_assert!(answer.retry_at() <= reference.unwrap().retry_at());
                }
            }
            prop_assert!(with.remembered.borrow().denials.len() <= entries);
        }
    }
}

#[test]
fn a_denial_is_known_without_asking_until_a_revalidation_is_due() {
    let store = store(1000);
    let check = check(&[hourly("p:a")], 1);
    let known = |now| {
        store
            .known_denial(&check, now)
            .map(|verdict| verdict.answers)
    };
    assert_eq!(known(START), None);
    assert!(ask(&store, &check, START).0);
    assert_eq!(known(START), None);
    let (_, denial) = ask(&store, &check, START);
    let last = START + MAX_AGE - Millis::new(1);
    for now in [START, last] {
        assert_eq!(known(now).as_ref(), Some(&denial.answers));
    }
    // Due: no denial is known, so each request asks. Looking it up does not begin a revalidation.
    for _ in 0..2 {
        assert_eq!(known(START + MAX_AGE), None);
    }
    assert_eq!(store.inner.asked.get(), 2);
    assert!(!ask(&store, &check, START + MAX_AGE).0);
    assert!(known(START + MAX_AGE).is_some());

    let costlier = Check {
        cost: 2,
        ..check.clone()
    };
    assert_eq!(store.known_denial(&costlier, START + MAX_AGE), None);
    let read = Check {
        cost: 0,
        ..check.clone()
    };
    assert_eq!(store.known_denial(&read, START + MAX_AGE), None);
}

#[test]
fn a_block_of_the_address_is_known_for_any_check() {
    let store = store(1000);
    store
        .inner
        .address_block
        .set(Some(AddressBlock { until: None }));
    let mut check = check(&[hourly("p:a")], 1);
    check.address = Some("192.0.2.1".to_owned());
    assert!(!ask(&store, &check, START).0);
    let anything = Check {
        charges: Vec::new(),
        ..check
    };
    let known = store.known_denial(&anything, START).unwrap();
    assert_eq!(known.address_block, Some(AddressBlock { until: None }));
    let other = Check {
        address: Some("192.0.2.2".to_owned()),
        ..anything
    };
    assert_eq!(store.known_denial(&other, START), None);
}
