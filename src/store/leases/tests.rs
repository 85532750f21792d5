use std::cell::Cell;
use std::num::NonZeroU32;

use futures_util::FutureExt;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};

use super::{DEFAULT_ENTRIES, Leases, Prefetch};
use crate::effects::testing::TestEffects;
use crate::quota::laws::bounds;
use crate::quota::{Algorithm, Quota};
use crate::seed::Seed;
use crate::store::conformance::{self, ALGORITHMS, START, at_once, charge, check};
use crate::store::denials::Denials;
use crate::store::memory::Memory;
use crate::store::reference::Reference;
use crate::store::shared::{ChargeExtra, Question, SharedStore, StoreReply};
use crate::store::{Charge, Check, Store, StoreError};
use crate::time::{Millis, Timestamp};

/// A store that counts its calls, and fails as scripted.
#[derive(Default)]
struct CountedReference {
    store: Reference,
    calls: Cell<u32>,
    fails: Cell<bool>,
    /// Whether it decides and loses the answer.
    loses: Cell<bool>,
}

impl SharedStore for CountedReference {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.calls.set(self.calls.get() + 1);
        if self.fails.get() {
            return Err(StoreError::Unreachable);
        }
        let decided = self.store.ask(question, now).await;
        if self.loses.get() {
            return Err(StoreError::Timeout);
        }
        decided
    }
}

impl SharedStore for &CountedReference {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        (*self).ask(question, now).await
    }
}

fn leases<S: SharedStore>(store: S) -> Leases<S> {
    Leases::new(store, DEFAULT_ENTRIES, &Seed::fixed())
}

fn leased(key: &str, limit: u32, lease: u32) -> Charge {
    Charge {
        lease,
        ..charge(key, Algorithm::SlidingWindow, limit)
    }
}

fn ms(ms: u64) -> Timestamp {
    START + Millis::new(ms)
}

/// Makes a prefetch, as a host does in the background.
async fn make<S: SharedStore>(
    leases: &Leases<S>,
    prefetch: &Prefetch,
    now: Timestamp,
) -> Result<StoreReply, StoreError> {
    let extras = prefetch.extras();
    let question = Question::with(&prefetch.check, &extras);
    leases.ask(&question, now).await
}

/// Makes all prefetches that wait, and returns how many there were.
fn prefetch<S: SharedStore>(leases: &Leases<S>, now: Timestamp) -> u32 {
    let mut prefetched = 0;
    while let Some(prefetch) = leases.next_prefetch() {
        assert_eq!(prefetch.check.cost, 0, "a prefetch consumes nothing");
        let done = make(leases, &prefetch, now).now_or_never();
        done.expect("the store should answer without waiting")
            .unwrap();
        prefetched += 1;
    }
    prefetched
}

#[tokio::test]
async fn the_wrapper_conforms() {
    conformance::shared(&leases(Memory::new(1000, Seed::fixed()))).await;
}

/// One caller sends a hundred requests a second, and at most 15 of 6,000 wait for the store.
#[test]
fn a_busy_caller_hardly_ever_waits_for_the_store() {
    for algorithm in ALGORITHMS {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let hot = Charge {
            lease: 100,
            ..charge("p:a", algorithm, 10_000)
        };
        let check = check(&[hot], 1);
        let mut waited = 0;
        for request in 0..6000 {
            let now = ms(request * 10);
            let before = store.calls.get();
            let verdict = at_once(&isolate, &check, now);
            assert!(verdict.allows(&check), "{algorithm:?}: {request}");
            waited += store.calls.get() - before;
            prefetch(&isolate, now);
        }
        assert!(waited <= 15, "{algorithm:?}: {waited} calls of requests");
        assert!(
            store.calls.get() < 300,
            "{algorithm:?}: {} calls",
            store.calls.get()
        );
    }
}

#[test]
fn the_remaining_units_count_down_by_one_whether_the_store_is_asked_or_not() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let check = check(&[leased("p:a", 1000, 50)], 1);
    for request in 0..200 {
        let verdict = at_once(&isolate, &check, ms(request));
        let answer = verdict.answers[0].unwrap();
        assert_eq!(
            answer.decision.remaining,
            999 - u32::try_from(request).unwrap()
        );
        assert!(answer.decision.reset_at > ms(60_000));
        prefetch(&isolate, ms(request));
    }
    assert!(store.calls.get() < 40, "{}", store.calls.get());
}

#[test]
fn a_slow_caller_is_charged_at_most_four_units_more_than_it_asks_for() {
    for (pace, most) in [(500, 4), (1500, 3), (3000, 3), (6000, 0), (20_000, 0)] {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let check = check(&[leased("p:a", 300, 100)], 1);
        let requests = 60_000 / pace;
        for request in 0..requests {
            let now = ms(request * pace);
            assert!(at_once(&isolate, &check, now).allows(&check));
            prefetch(&isolate, now);
        }
        let left = at_once(&store, &Check { cost: 0, ..check }, ms(59_999));
        let taken = 300 - u64::from(left.answers[0].unwrap().decision.remaining);
        assert!(
            (requests..=requests + most).contains(&taken),
            "a request each {pace} ms: {taken} units for {requests} requests"
        );
    }
}

#[test]
fn each_request_asks_the_store_if_one_of_its_quotas_has_no_lease() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let plain = charge("ip:a", Algorithm::SlidingWindow, 1000);
    let check = check(&[leased("p:a", 1000, 50), plain], 1);
    for request in 0..100 {
        assert!(at_once(&isolate, &check, ms(request)).allows(&check));
    }
    assert_eq!((store.calls.get(), isolate.next_prefetch()), (100, None));
    let stored = store.store.text("p:a").unwrap();
    assert_eq!(
        stored.split('=').nth(1),
        Some("100"),
        "nothing should be leased: {stored}"
    );
}

/// The last units are not leased, so none of them is lost.
#[test]
fn the_limit_is_spent_to_the_last_unit() {
    for algorithm in ALGORITHMS {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let hot = Charge {
            lease: 50,
            ..charge("p:a", algorithm, 100)
        };
        let check = check(&[hot], 1);
        let mut admitted = 0;
        for _ in 0..300 {
            admitted += u32::from(at_once(&isolate, &check, START).allows(&check));
            prefetch(&isolate, START);
        }
        // A bucket leases units on top of what drains until they end: a tenth of its burst.
        let least = if algorithm == Algorithm::TokenBucket {
            90
        } else {
            100
        };
        assert!(
            (least..=100).contains(&admitted),
            "{algorithm:?}: {admitted}"
        );
    }
}

/// Nobody may be blocked because of units that were never spent.
#[test]
fn a_policy_that_blocks_is_not_leased() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let blocking = Charge {
        block: Some(Millis::from_secs(600)),
        ..leased("p:a", 100, 50)
    };
    let one = check(&[blocking], 1);
    for request in 1..=50 {
        assert!(at_once(&isolate, &one, START).allows(&one));
        assert_eq!(
            (store.calls.get(), isolate.next_prefetch()),
            (request, None)
        );
    }
}

/// The isolate learns of the block by a request that meets another policy.
#[test]
fn a_block_of_the_address_ends_a_lease() {
    let store = CountedReference::default();
    let denials = Denials::new(leases(&store), 100, Seed::fixed(), TestEffects::default());
    let isolate = denials.inner();
    let leased = check(&[leased("p:b", 1000, 50)], 1);
    for _ in 0..40 {
        assert!(at_once(&denials, &leased, START).allows(&leased));
        prefetch(isolate, START);
    }
    let plain = check(&[charge("q:b", Algorithm::SlidingWindow, 10)], 1);
    store.store.set("blocked:192.0.2.1", "{\"reason\":\"x\"}");
    assert!(!at_once(&denials, &plain, START).allows(&plain));
    assert!(!at_once(&denials, &leased, START).allows(&leased));
}

#[test]
fn the_next_prefetch_sees_a_block_made_elsewhere() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let check = check(&[leased("p:a", 10_000, 100)], 1);
    let mut admitted_after = 0;
    for request in 0..3000u32 {
        let now = ms(u64::from(request) * 10);
        if request == 2000 {
            store.store.set("blocked:192.0.2.1", "{\"reason\":\"x\"}");
        }
        let allowed = at_once(&isolate, &check, now).allows(&check);
        admitted_after += u32::from(allowed && request >= 2000);
        prefetch(&isolate, now);
    }
    assert!((1..=100).contains(&admitted_after), "{admitted_after}");
}

/// A lease ends by the isolate's clock.
#[test]
fn units_that_were_not_spent_in_time_are_not_spent_later() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let check = check(&[leased("p:a", 1000, 100)], 1);
    for request in 0..50 {
        at_once(&isolate, &check, ms(request));
        prefetch(&isolate, ms(request));
    }
    let before = store.calls.get();
    at_once(&isolate, &check, ms(49));
    assert_eq!(store.calls.get(), before, "the lease has units");
    at_once(&isolate, &check, ms(49 + 5000));
    assert_eq!(store.calls.get(), before + 1, "the lease has ended");
}

/// The shadow quota has no lease. When it would deny, its answer says so without a call for each request.
#[test]
fn a_shadow_quota_counts_what_a_lease_admits() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let shadow = Charge {
        enforced: false,
        ..charge("shadow:a", Algorithm::SlidingWindow, 300)
    };
    let check = check(&[leased("p:a", 10_000, 100), shadow], 1);
    let mut would_deny = 0;
    for request in 0..2000 {
        let now = ms(request * 10);
        let verdict = at_once(&isolate, &check, now);
        assert!(verdict.allows(&check));
        would_deny += u32::from(!verdict.answers[1].unwrap().decision.allowed());
        prefetch(&isolate, now);
    }
    assert_eq!(would_deny, 1700, "the shadow quota allows 300 of 2,000");
    assert!(store.calls.get() < 150, "{} calls", store.calls.get());
}

/// If its call fails, the next request asks.
#[test]
fn only_one_of_many_requests_without_leased_units_asks_for_more() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let check = check(&[leased("p:a", 1000, 100)], 1);
    for _ in 0..20 {
        at_once(&isolate, &check, START);
    }
    // After the lease has ended, many requests at once, before any of them has an answer.
    let now = ms(5500);
    let ask = |now| isolate.leased.borrow_mut().ask(&check, now);
    let asked: Vec<Option<Vec<u32>>> = (0..50).map(|_| ask(now)).collect();
    assert!(
        asked[0].as_ref().is_some_and(|units| units[0] > 0)
            && asked[1..].iter().all(Option::is_none),
        "{asked:?}"
    );
    // This error shows that the call has taken nothing.
    let refused = StoreError::Refused("OOM".to_owned());
    let extras = [extra(asked[0].as_ref().unwrap()[0])];
    isolate
        .leased
        .borrow_mut()
        .learn_failure(&Question::with(&check, &extras), &refused, now);
    assert_eq!(ask(now), asked[0]);
    // A call that never reports its end keeps the others from asking for two seconds.
    assert_eq!(ask(ms(5501)), None);
}

/// Nothing that keeps requests from asking by a clock an hour ahead keeps them from it by the corrected clock.
#[test]
fn a_clock_set_back_keeps_no_request_from_asking() {
    let check = check(&[leased("p:a", 1000, 100)], 1);
    let hour = Millis::from_secs(3600);
    let now = ms(5500);
    // Makes requests ask for nothing by the clock that is ahead.
    type Why = fn(&Leases<&CountedReference>, &Check, u32, Timestamp);
    let reasons: [(&str, Why); 3] = [
        ("another asks", |_, _, _, _| {}),
        ("an answer was lost", |isolate, check, lease, now| {
            let extras = [extra(lease)];
            let question = Question::with(check, &extras);
            let mut leased = isolate.leased.borrow_mut();
            leased.learn_failure(&question, &StoreError::Timeout, now);
        }),
        ("the quota granted nothing", |isolate, check, lease, now| {
            let question = Question::new(check);
            let reply = isolate.inner.ask(&question, now);
            let mut reply = reply.now_or_never().unwrap().unwrap();
            let extras = [extra(lease)];
            let question = Question::with(check, &extras);
            let mut leased = isolate.leased.borrow_mut();
            leased.learn(&question, &mut reply, now);
        }),
    ];
    for (reason, because) in reasons {
        let store = CountedReference::default();
        let isolate = leases(&store);
        for _ in 0..20 {
            at_once(&isolate, &check, now + hour - Millis::new(1));
        }
        let later = now + hour + Millis::new(5500);
        let ask = |now| isolate.leased.borrow_mut().ask(&check, now);
        let units = ask(later).expect("the first one asks")[0];
        because(&isolate, &check, units, later);
        assert_eq!(ask(later + Millis::new(1)), None, "{reason}");
        assert!(ask(now).is_some(), "{reason}, by the corrected clock");
    }
}

fn extra(lease: u32) -> ChargeExtra {
    ChargeExtra {
        lease,
        backlog: None,
    }
}

#[test]
fn leased_units_are_spent_while_the_store_fails_and_then_its_error_is_returned() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let check = check(&[leased("p:a", 1000, 100)], 1);
    for _ in 0..100 {
        at_once(&isolate, &check, START);
        prefetch(&isolate, START);
    }
    store.fails.set(true);
    let decide = || isolate.decide(&check, START).now_or_never().unwrap();
    let admitted = (0..200).take_while(|_| decide().is_ok()).count();
    assert!((1..=100).contains(&admitted), "{admitted}");
    assert_eq!(decide(), Err(StoreError::Unreachable));
}

/// A call whose answer is lost may have leased units that nobody can spend. After one such call nothing is leased for a
/// while, however many calls fail.
#[test]
fn lost_answers_waste_at_most_one_lease() {
    let store = CountedReference::default();
    let isolate = leases(&store);
    let hot = leased("p:a", 1000, 500);
    let check = check(&[hot], 1);
    for request in 0..200 {
        at_once(&isolate, &check, ms(request * 10));
        prefetch(&isolate, ms(request * 10));
    }
    let used = |now| {
        let read = Check {
            cost: 0,
            ..check.clone()
        };
        1000 - at_once(&store.store, &read, now).answers[0]
            .unwrap()
            .decision
            .remaining
    };
    let before = used(ms(2000));
    store.loses.set(true);
    let (mut failed, mut admitted) = (0, 0);
    for request in 0..400 {
        let now = ms(2000 + request * 10);
        match isolate.decide(&check, now).now_or_never().unwrap() {
            Ok(_) => admitted += 1,
            Err(_) => failed += 1,
        }
        while let Some(prefetch) = isolate.next_prefetch() {
            let lost = make(&isolate, &prefetch, now).now_or_never().unwrap();
            assert_eq!(lost, Err(StoreError::Timeout));
        }
    }
    assert!(
        admitted > 0 && failed > 100,
        "{admitted} admitted, {failed} failed"
    );
    let taken = used(ms(6000)) - before;
    assert!(
        taken <= failed + 100,
        "{taken} units were taken for {failed} failures"
    );
}

/// Units that were leased by a clock an hour ahead are not spent by the corrected clock.
#[test]
fn a_clock_set_back_ends_the_leases() {
    let store = CountedReference::default();
    let (bad, good) = (leases(&store), leases(&store));
    let check = check(&[leased("p:a", 100, 50)], 1);
    for _ in 0..20 {
        at_once(&bad, &check, ms(3_600_000));
        prefetch(&bad, ms(3_600_000));
    }
    at_once(&good, &check, ms(1000));
    let later = ms(600_000);
    let admit = |isolate| {
        (0..200)
            .filter(|_| at_once(isolate, &check, later).allows(&check))
            .count()
    };
    assert_eq!(admit(&good) + admit(&bad), 100);
}

/// It would deny for a time, or always since the cost is above its capacity.
#[test]
fn requests_do_not_wait_because_a_shadow_quota_would_deny() {
    for (limit, cost) in [(5, 10), (300, 1), (3, 1)] {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let shadow = Charge {
            enforced: false,
            ..charge("s:a", Algorithm::SlidingWindow, limit)
        };
        let check = check(&[leased("p:a", 1_000_000, 1000), shadow], cost);
        let mut waited = 0;
        for request in 0..6000 {
            let now = ms(request * 10);
            let before = store.calls.get();
            assert!(at_once(&isolate, &check, now).allows(&check));
            waited += store.calls.get() - before;
            prefetch(&isolate, now);
        }
        assert!(waited < 30, "{limit}: {waited} calls of 6,000 requests");
    }
}

/// Otherwise units of the other quotas would be leased that no request can spend. Ended leases are dropped.
#[test]
fn nothing_is_leased_from_other_quotas_if_one_is_used_up() {
    let small = Charge {
        lease: 3,
        ..Charge::new("g:a", quota(Algorithm::TokenBucket, 60, 60_000, 3))
    };
    for tight in [leased("g:a", 60, 20), small] {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let loose = Charge {
            lease: 100,
            ..Charge::new(
                "ip:a",
                quota(Algorithm::SlidingWindow, 100_000, 3_600_000, 1),
            )
        };
        let both = check(&[tight, loose.clone()], 1);
        let mut admitted = 0;
        for request in 0..600 {
            let now = ms(request * 500);
            admitted += u32::from(at_once(&isolate, &both, now).allows(&both));
            prefetch(&isolate, now);
        }
        let read = check(&[loose], 0);
        let left = at_once(&store.store, &read, ms(300_000)).answers[0].unwrap();
        let counted = 100_000 - left.decision.remaining;
        assert!(
            counted <= admitted * 11 / 10,
            "{counted} units counted, {admitted} requests admitted"
        );
        let leased = isolate.leased.borrow();
        assert!(leased.grants() < 20, "{} grants", leased.grants());
    }
}

/// A lease costs a bucket more than its units.
#[test]
fn the_remaining_units_of_a_leased_bucket_can_all_be_spent() {
    for requests in [3, 4, 5, 12] {
        let store = CountedReference::default();
        let isolate = leases(&store);
        let hot = Charge {
            lease: 50,
            ..charge("p:a", Algorithm::TokenBucket, 200)
        };
        let check = check(&[hot], 1);
        let ask = || {
            let verdict = at_once(&isolate, &check, START);
            (
                verdict.allows(&check),
                verdict.answers[0].unwrap().decision.remaining,
            )
        };
        let remaining = (0..requests).fold(0, |_, _| ask().1);
        let admitted = (0..200).take_while(|_| ask().0).count();
        assert_eq!(admitted, remaining as usize, "after {requests} requests");
    }
}

/// Beyond the bound, the leases of the callers that have not sent a request for the longest time are dropped.
#[test]
fn the_leases_of_many_callers_are_bounded() {
    let store = CountedReference::default();
    let isolate = Leases::new(&store, 100, &Seed::fixed());
    let hot = check(&[leased("p:hot", 1_000_000, 100)], 1);
    for request in 0..20_000u64 {
        let now = ms(request);
        if request % 5 == 0 {
            at_once(&isolate, &hot, now);
            prefetch(&isolate, now);
        } else {
            let one = check(&[leased(&format!("p:{request}"), 1000, 100)], 1);
            at_once(&isolate, &one, now);
        }
        assert!(isolate.leased.borrow().len() <= 101);
    }
    let hot_calls = store.calls.get() - 16_000;
    assert!(
        hot_calls < 400,
        "the busy caller should keep its lease: {hot_calls} calls of 4,000 requests"
    );
}

/// The next request of one of several isolates.
#[derive(Clone, Copy, Debug)]
struct LeaseStep {
    isolate: usize,
    /// The time before it, in 1/200 of the window.
    after: u64,
    cost: u32,
    other_policy: bool,
    prefetches: bool,
}

fn steps() -> impl Strategy<Value = Vec<LeaseStep>> {
    let after = prop_oneof![20 => Just(0u64), 6 => 0..3u64, 1 => 0..60u64];
    let cost = prop_oneof![8 => Just(1u32), 1 => 0..4u32];
    let step = (
        0..4usize,
        after,
        cost,
        any::<bool>(),
        proptest::bool::weighted(0.7),
    )
        .prop_map(
            |(isolate, after, cost, other_policy, prefetches)| LeaseStep {
                isolate,
                after,
                cost,
                other_policy,
                prefetches,
            },
        );
    proptest::collection::vec(step, 1..400)
}

/// Plays `steps` over isolates that share one store, with clocks that are up to `skew` ms apart. Returns
/// the units of the first quota that were admitted, each with its real time in ms, and the number of calls.
fn fleet(quota: Quota, lease: u32, steps: &[LeaseStep], skew: u64) -> (Vec<(u64, u32)>, u32) {
    let store = CountedReference::default();
    let isolates: Vec<_> = (0..4).map(|_| leases(&store)).collect();
    let first = Charge {
        lease,
        ..Charge::new("p:a", quota)
    };
    let second = leased("q:a", 10_000, 20);
    let mut real = 0;
    let mut admitted = Vec::new();
    for step in steps {
        real += step.after * quota.window().get() / 200;
        let now = ms(real + u64::try_from(step.isolate).unwrap() * skew / 3);
        let isolate = &isolates[step.isolate];
        let charges = if step.other_policy {
            vec![first.clone(), second.clone()]
        } else {
            vec![first.clone()]
        };
        let check = check(&charges, step.cost);
        if at_once(isolate, &check, now).allows(&check) && step.cost > 0 {
            admitted.push((real, step.cost));
        }
        if step.prefetches {
            prefetch(isolate, now);
        }
    }
    (admitted, store.calls.get())
}

fn quota(algorithm: Algorithm, limit: u32, window: u64, burst: u32) -> Quota {
    let quota = Quota::new(
        algorithm,
        NonZeroU32::new(limit).unwrap(),
        Millis::new(window),
    );
    quota
        .unwrap()
        .with_burst(NonZeroU32::new(burst).unwrap())
        .unwrap()
}

proptest! {
    /// Law 1 over several isolates: in no interval of the window's length, less the clocks' difference, they admit
    /// more than the limit.
    #[test]
    fn isolates_with_leases_admit_at_most_the_limit_in_any_window(
        limit in 1..150u32, lease in 2..60u32, window in prop_oneof![Just(1000u64), Just(60_000u64), 10..100_000u64],
        steps in steps(), skew in prop_oneof![Just(0), 0..=2000u64],
    ) {
        let quota = quota(Algorithm::SlidingWindow, limit, window, 1);
        let (admitted, _) = fleet(quota, lease, &steps, skew);
        bounds::of_a_window(&admitted, limit, window, skew)?;
    }

    /// Law 1 over several isolates, for a token bucket.
    #[test]
    fn isolates_with_leases_admit_at_most_the_burst_and_the_rate_of_a_bucket(
        limit in 1..150u32, burst in 1..150u32, lease in 2..60u32, window in prop_oneof![Just(1000u64), Just(60_000u64)],
        steps in steps(), skew in prop_oneof![Just(0), 0..=2000u64],
    ) {
        let quota = quota(Algorithm::TokenBucket, limit, window, burst);
        let (admitted, _) = fleet(quota, lease, &steps, skew);
        bounds::of_a_bucket(&admitted, &quota, skew)?;
    }

    /// Law 1 over several isolates, for a fixed window.
    #[test]
    fn isolates_with_leases_admit_at_most_the_limit_in_a_fixed_window(
        limit in 1..150u32, lease in 2..60u32, window in prop_oneof![Just(1000u64), Just(60_000u64)],
        steps in steps(),
    ) {
        let quota = quota(Algorithm::FixedWindow, limit, window, 1);
        let (admitted, _) = fleet(quota, lease, &steps, 0);
        for (start, _) in &admitted {
            let index = |real: u64| ms(real).as_millis() / window;
            let sum: u32 = admitted
                .iter()
                .filter(|(at, _)| index(*at) == index(*start))
                .map(|(_, units)| units)
                .sum();
            prop_assert!(sum <= limit, "{sum} units, the limit is {limit}");
        }
    }

    /// With prefetches there are at most as many calls as requests, and at least half of the units are admitted that are
    /// admitted without leases.
    #[test]
    fn leases_make_no_more_calls_than_requests_and_waste_at_most_half_of_the_units(steps in steps()) {
        let quota = quota(Algorithm::SlidingWindow, 100, 60_000, 1);
        let plain: u32 = fleet(quota, 0, &steps, 0).0.iter().map(|(_, units)| units).sum();
        let (leased, calls) = fleet(quota, 30, &steps, 0);
        let leased: u32 = leased.iter().map(|(_, units)| units).sum();
        let requests = u32::try_from(steps.len()).unwrap();
        prop_assert!(calls <= requests, "{calls} calls for {requests} requests");
        prop_assert!(leased * 2 >= plain, "{leased} units with leases, {plain} without");
    }
}
