//! The suite that every store and every wrapper passes. Test a new wrapper of a shared store with
//! `conformance::shared(&store).await`, and a type that is only a [`Store`] with `conformance::all`. Each case uses its own
//! keys, so one store serves all cases.

use std::num::NonZeroU32;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::shared::{Backlog, ChargeExtra, Question, SharedStore};
use super::{Charge, Check, QuotaAnswer, Store, Verdict};
use crate::quota::{Algorithm, Quota, QuotaOutcome};
use crate::time::{Millis, Timestamp};

/// A time at which a window and a sub-window of every quota used here begin.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);
pub(crate) const MINUTE: Millis = Millis::new(60_000);

pub(crate) const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::SlidingWindow,
    Algorithm::TokenBucket,
    Algorithm::FixedWindow,
];

/// The cases for shared stores and their wrappers.
pub(crate) async fn shared(store: &impl SharedStore) {
    all(store).await;
    for algorithm in ALGORITHMS {
        a_backlog_is_counted_first(store, algorithm).await;
    }
}

/// The cases for any store.
pub(crate) async fn all(store: &impl Store) {
    for algorithm in ALGORITHMS {
        admits_the_limit_and_then_denies(store, algorithm).await;
        the_retry_time_is_exact(store, algorithm).await;
        many_at_once_admit_the_limit(store, algorithm).await;
    }
    a_denial_by_one_quota_consumes_nothing_of_another(store).await;
    a_cost_is_taken_whole_or_not_at_all(store).await;
    callers_have_separate_quotas(store).await;
    a_cost_of_zero_consumes_nothing(store).await;
    a_cost_above_the_capacity_sets_no_block(store).await;
    a_denial_blocks_and_further_requests_do_not_lengthen_the_block(store).await;
    a_policy_without_a_block_sets_none(store).await;
    a_shadow_quota_counts_and_never_denies(store).await;
    a_shadow_quota_does_not_count_what_others_deny(store).await;
    a_shadow_quota_sets_no_block(store).await;
    a_request_without_charges_is_admitted(store).await;
}

pub(crate) fn charge(key: &str, algorithm: Algorithm, limit: u32) -> Charge {
    let limit = NonZeroU32::new(limit).unwrap();
    Charge::new(key, Quota::new(algorithm, limit, MINUTE).unwrap())
}

fn sliding(key: &str, limit: u32) -> Charge {
    charge(key, Algorithm::SlidingWindow, limit)
}

fn blocking(key: &str, limit: u32, seconds: u32) -> Charge {
    Charge {
        block: Some(Millis::from_secs(seconds)),
        ..sliding(key, limit)
    }
}

fn shadow(key: &str, limit: u32) -> Charge {
    Charge {
        enforced: false,
        ..sliding(key, limit)
    }
}

/// An extra with a backlog: `units` of `charge`, admitted at `at`, under `name`.
pub(crate) fn backlog(charge: &Charge, name: &str, units: u32, at: Timestamp) -> ChargeExtra {
    let admitted = charge.quota.decide(None, units, at).admitted;
    ChargeExtra {
        lease: 0,
        backlog: admitted.map(|state| Backlog {
            name: name.to_owned(),
            state,
        }),
    }
}

pub(crate) fn check(charges: &[Charge], cost: u32) -> Check {
    Check {
        address: Some("192.0.2.1".to_owned()),
        charges: charges.to_vec(),
        cost,
    }
}

/// Decides with a store that does no I/O.
pub(crate) fn at_once(store: &impl Store, check: &Check, now: Timestamp) -> Verdict {
    let decided = store.decide(check, now).now_or_never();
    decided
        .expect("the store should decide without waiting")
        .unwrap()
}

async fn ask(store: &impl Store, charges: &[Charge], cost: u32, now: Timestamp) -> (bool, Verdict) {
    let check = check(charges, cost);
    let verdict = store.decide(&check, now).await.unwrap();
    assert_eq!(verdict.answers.len(), charges.len());
    (verdict.allows(&check), verdict)
}

/// Asks for one unit of each charge, with `extras`.
async fn ask_with(
    store: &impl SharedStore,
    charges: &[Charge],
    extras: &[ChargeExtra],
    now: Timestamp,
) -> (bool, Verdict) {
    let check = check(charges, 1);
    let reply = store.ask(&Question::with(&check, extras), now).await;
    let verdict = reply.unwrap().verdict;
    assert_eq!(verdict.answers.len(), charges.len());
    (verdict.allows(&check), verdict)
}

fn answer(verdict: &Verdict, place: usize) -> QuotaAnswer {
    verdict.answers[place].expect("the store was asked")
}

async fn left(store: &impl Store, charge: &Charge, now: Timestamp) -> u32 {
    let (_, verdict) = ask(store, std::slice::from_ref(charge), 0, now).await;
    answer(&verdict, 0).decision.remaining
}

async fn admits_the_limit_and_then_denies(store: &impl Store, algorithm: Algorithm) {
    let charges = [charge(&format!("limit-{algorithm:?}:a"), algorithm, 5)];
    for remaining in (0..5).rev() {
        let (allowed, verdict) = ask(store, &charges, 1, START).await;
        assert!(allowed, "{algorithm:?}");
        assert_eq!(answer(&verdict, 0).decision.remaining, remaining);
    }
    for _ in 0..3 {
        let (allowed, verdict) = ask(store, &charges, 1, START).await;
        assert!(!allowed, "{algorithm:?}");
        assert_eq!(answer(&verdict, 0).decision.remaining, 0);
        assert!(answer(&verdict, 0).retry_at().unwrap() > START);
    }
}

async fn the_retry_time_is_exact(store: &impl Store, algorithm: Algorithm) {
    let charges = [charge(&format!("retry-{algorithm:?}:a"), algorithm, 7)];
    assert!(ask(store, &charges, 7, START).await.0);
    let (_, verdict) = ask(store, &charges, 2, START).await;
    let retry_at = answer(&verdict, 0).retry_at().unwrap();
    assert!(!ask(store, &charges, 2, retry_at - Millis::new(1)).await.0);
    assert!(ask(store, &charges, 2, retry_at).await.0, "{algorithm:?}");
}

async fn many_at_once_admit_the_limit(store: &impl Store, algorithm: Algorithm) {
    let charges = [
        charge(&format!("many-{algorithm:?}:a"), algorithm, 20),
        charge(&format!("many-{algorithm:?}:b"), algorithm, 1000),
    ];
    let all = join_all((0..60).map(|_| ask(store, &charges, 1, START))).await;
    let admitted = all.iter().filter(|(allowed, _)| *allowed).count();
    assert_eq!(admitted, 20, "{algorithm:?}");
    assert_eq!(left(store, &charges[1], START).await, 980);
}

async fn a_backlog_is_counted_first(store: &impl SharedStore, algorithm: Algorithm) {
    let tight = charge(&format!("backlog-{algorithm:?}:a"), algorithm, 5);
    let shadow = Charge {
        enforced: false,
        ..charge(&format!("backlog-shadow-{algorithm:?}:a"), algorithm, 9)
    };
    let charges = [tight.clone(), shadow.clone()];
    let backlog = |charge, which, units| {
        let name = format!("backlog-{algorithm:?}-{which}");
        backlog(charge, &name, units, START)
    };
    let extras = [backlog(&tight, "first", 3), ChargeExtra::default()];
    let (allowed, verdict) = ask_with(store, &charges, &extras, START).await;
    assert!(allowed, "{algorithm:?}");
    assert_eq!(answer(&verdict, 0).decision.remaining, 1, "{algorithm:?}");

    // A backlog is counted even if the request is denied, and at most up to the limit.
    let extras = [backlog(&tight, "second", 4), backlog(&shadow, "third", 2)];
    let (allowed, verdict) = ask_with(store, &charges, &extras, START).await;
    assert!(!allowed, "{algorithm:?}");
    let retry_at = answer(&verdict, 0).retry_at().unwrap();
    assert_eq!(left(store, &tight, START).await, 0, "{algorithm:?}");
    assert_eq!(left(store, &shadow, START).await, 6, "{algorithm:?}");
    let tight = [tight];
    assert!(!ask(store, &tight, 1, retry_at - Millis::new(1)).await.0);
    assert!(ask(store, &tight, 1, retry_at).await.0, "{algorithm:?}");
}

async fn a_denial_by_one_quota_consumes_nothing_of_another(store: &impl Store) {
    let (tight, wide) = (sliding("tight:a", 1), sliding("wide:a", 10));
    let charges = [wide.clone(), tight];
    assert!(ask(store, &charges, 1, START).await.0);
    let (allowed, verdict) = ask(store, &charges, 1, START).await;
    assert!(!allowed);
    if let Some(wide) = verdict.answers[0] {
        assert!(wide.allows());
        assert_eq!(
            wide.decision.remaining, 9,
            "what is left without this request"
        );
    }
    assert_eq!(left(store, &wide, START).await, 9);
}

async fn a_cost_is_taken_whole_or_not_at_all(store: &impl Store) {
    let charges = [sliding("cost:a", 10)];
    assert!(ask(store, &charges, 7, START).await.0);
    let (allowed, verdict) = ask(store, &charges, 4, START).await;
    assert!(!allowed);
    assert_eq!(answer(&verdict, 0).decision.remaining, 3);
    assert!(ask(store, &charges, 3, START).await.0);
}

async fn callers_have_separate_quotas(store: &impl Store) {
    assert!(ask(store, &[sliding("apart:a", 1)], 1, START).await.0);
    assert!(!ask(store, &[sliding("apart:a", 1)], 1, START).await.0);
    assert!(ask(store, &[sliding("apart:*", 1)], 1, START).await.0);
    assert!(ask(store, &[sliding("apart:b", 1)], 1, START).await.0);
}

async fn a_cost_of_zero_consumes_nothing(store: &impl Store) {
    let charge = blocking("read:a", 3, 60);
    for _ in 0..5 {
        assert_eq!(left(store, &charge, START).await, 3);
    }
    assert!(ask(store, std::slice::from_ref(&charge), 3, START).await.0);
    assert_eq!(left(store, &charge, START).await, 0);
}

async fn a_cost_above_the_capacity_sets_no_block(store: &impl Store) {
    let charges = [blocking("huge:a", 3, 60)];
    let (allowed, verdict) = ask(store, &charges, 4, START).await;
    assert!(!allowed);
    assert_eq!(
        answer(&verdict, 0).decision.outcome,
        QuotaOutcome::Impossible
    );
    assert_eq!(answer(&verdict, 0).retry_at(), None);
    assert!(
        ask(store, &charges, 3, START).await.0,
        "nothing was consumed or blocked"
    );
}

async fn a_denial_blocks_and_further_requests_do_not_lengthen_the_block(store: &impl Store) {
    let charges = [blocking("block:a", 1, 600), sliding("block-wide:a", 100)];
    assert!(ask(store, &charges, 1, START).await.0);
    let denied_at = START + Millis::new(10);
    let ends = denied_at + Millis::from_secs(600);
    let (allowed, verdict) = ask(store, &charges, 1, denied_at).await;
    assert!(!allowed);
    assert_eq!(answer(&verdict, 0).blocked_until, Some(ends));
    assert_eq!(
        answer(&verdict, 0).retry_at(),
        Some(ends),
        "the later of block and quota"
    );
    // The block lasts long after the quota has recovered.
    for seconds in [70, 300, 599] {
        let now = denied_at + Millis::from_secs(seconds);
        let (allowed, verdict) = ask(store, &charges, 1, now).await;
        assert!(!allowed);
        assert_eq!(answer(&verdict, 0).blocked_until, Some(ends));
    }
    assert!(!ask(store, &charges, 1, ends - Millis::new(1)).await.0);
    assert!(ask(store, &charges, 1, ends).await.0);
    let wide = left(store, &charges[1], ends).await;
    assert_eq!(wide, 99, "requests that the block denied consumed nothing");
}

async fn a_policy_without_a_block_sets_none(store: &impl Store) {
    let charges = [sliding("open:a", 1)];
    assert!(ask(store, &charges, 1, START).await.0);
    let (_, verdict) = ask(store, &charges, 1, START).await;
    assert_eq!(answer(&verdict, 0).blocked_until, None);
}

async fn a_shadow_quota_counts_and_never_denies(store: &impl Store) {
    let charges = [sliding("enforced:a", 10), shadow("shadow:a", 2)];
    for remaining in [1, 0] {
        let (allowed, verdict) = ask(store, &charges, 1, START).await;
        assert!(allowed);
        assert_eq!(answer(&verdict, 1).decision.remaining, remaining);
        assert!(answer(&verdict, 1).allows());
    }
    for remaining in [7, 6, 5] {
        let (allowed, verdict) = ask(store, &charges, 1, START).await;
        assert!(allowed, "a shadow quota does not deny");
        assert!(
            !answer(&verdict, 1).allows(),
            "the shadow quota's answer is the denial"
        );
        assert_eq!(answer(&verdict, 0).decision.remaining, remaining);
    }
}

async fn a_shadow_quota_does_not_count_what_others_deny(store: &impl Store) {
    let charges = [sliding("strict:a", 1), shadow("shadow-of-strict:a", 5)];
    assert!(ask(store, &charges, 1, START).await.0);
    for _ in 0..3 {
        assert!(!ask(store, &charges, 1, START).await.0);
    }
    assert_eq!(left(store, &charges[1], START).await, 4);
}

async fn a_shadow_quota_sets_no_block(store: &impl Store) {
    let quiet = Charge {
        enforced: false,
        ..blocking("quiet:a", 1, 600)
    };
    let charges = [quiet.clone()];
    for _ in 0..3 {
        let (allowed, verdict) = ask(store, &charges, 1, START).await;
        assert!(allowed);
        assert_eq!(answer(&verdict, 0).blocked_until, None);
    }
    // The same key, enforced from now on: the shadow quota has set no block.
    let later = START + Millis::from_secs(62);
    let enforced = [Charge {
        enforced: true,
        ..quiet
    }];
    assert!(ask(store, &enforced, 1, later).await.0);
}

async fn a_request_without_charges_is_admitted(store: &impl Store) {
    let (allowed, verdict) = ask(store, &[], 1, START).await;
    assert!(allowed);
    assert_eq!(verdict.answers, []);
}
