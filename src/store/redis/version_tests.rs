//! Tests of policy versions that differ in window or algorithm and share one key of a real Redis. This happens
//! during a gradual deployment, or if staging and production use one prefix.

use std::num::NonZeroU32;

use crate::quota::{Algorithm, CLOCK_TOLERANCE, MAX_OTHERS, Quota};
use crate::store::conformance::{ALGORITHMS, START, check};
use crate::store::reference::Reference;
use crate::store::shared::{Question, SharedStore};
use crate::store::stand_in::StandIn;
use crate::store::{Charge, Store};
use crate::time::{Millis, Timestamp};

const KEY: &str = "auth:192.0.2.1";

fn version(algorithm: Algorithm, limit: u32, seconds: u32) -> Charge {
    let limit = NonZeroU32::new(limit).unwrap();
    let quota = Quota::new(algorithm, limit, Millis::from_secs(seconds)).unwrap();
    Charge::new(KEY, quota)
}

fn sliding(limit: u32, seconds: u32) -> Charge {
    version(Algorithm::SlidingWindow, limit, seconds)
}

/// Asks a version for one unit. Returns whether it is admitted, and whether the caller is blocked from now on.
async fn ask(store: &impl Store, version: &Charge, now: Timestamp) -> (bool, bool) {
    let check = check(std::slice::from_ref(version), 1);
    let verdict = store.decide(&check, now).await.unwrap();
    let blocked = verdict.answers[0].unwrap().blocked_until.is_some();
    (verdict.allows(&check), blocked)
}

/// How many of `tries` requests within a second are admitted. `pick` returns the version that decides each.
async fn admitted(
    store: &impl Store,
    versions: &[Charge],
    tries: u32,
    pick: impl Fn(u32) -> usize,
) -> u32 {
    let mut admitted = 0;
    for number in 0..tries {
        let version = &versions[pick(number)];
        let now = START + Millis::new(u64::from(number) * 1000 / u64::from(tries));
        admitted += u32::from(ask(store, version, now).await.0);
    }
    admitted
}

#[tokio::test]
async fn versions_taking_turns_admit_at_most_the_sum_of_their_limits() {
    let stand_in = StandIn::start();
    let versions = [sliding(10, 60), sliding(10, 61)];
    let turns = |number| (number % 2) as usize;
    assert_eq!(
        admitted(&Reference::default(), &versions, 200, turns).await,
        20
    );
    let redis = stand_in.store("turns:");
    assert_eq!(admitted(&redis, &versions, 200, turns).await, 20);

    let versions = [
        sliding(10, 60),
        version(Algorithm::TokenBucket, 7, 60),
        version(Algorithm::FixedWindow, 5, 60),
        version(Algorithm::TokenBucket, 3, 3600),
    ];
    let turns = |number| (number % 4) as usize;
    assert_eq!(
        admitted(&Reference::default(), &versions, 200, turns).await,
        25
    );
    let redis = stand_in.store("algorithms:");
    assert_eq!(admitted(&redis, &versions, 200, turns).await, 25);
}

#[tokio::test]
async fn versions_of_one_shape_admit_at_most_the_larger_limit() {
    let stand_in = StandIn::start();
    let versions = [sliding(10, 60), sliding(20, 60)];
    let turns = |number| (number % 2) as usize;
    let redis = stand_in.store("limits:");
    assert_eq!(admitted(&redis, &versions, 200, turns).await, 20);
}

#[tokio::test]
async fn a_version_that_decides_one_request_in_ten_resets_nothing() {
    let versions = [sliding(10, 60), sliding(10, 61)];
    // The middle bits of the product are nearly random.
    let tenth = |number: u32| usize::from(number.wrapping_mul(2_654_435_761) >> 16 & 1023 < 102);
    let reference = Reference::default();
    let mut before_denial = 0;
    while ask(&reference, &versions[tenth(before_denial)], START)
        .await
        .0
    {
        before_denial += 1;
    }
    assert!(
        before_denial <= 20,
        "{before_denial} before the first denial"
    );
    assert!(admitted(&reference, &versions, 1000, tenth).await <= 10);
}

#[tokio::test]
async fn a_policy_still_blocks_if_two_versions_share_the_key() {
    let stand_in = StandIn::start();
    let block = Some(Millis::from_secs(600));
    let versions = [sliding(30, 60), sliding(30, 61)].map(|version| Charge { block, ..version });
    let redis = stand_in.store("blocks:");
    let reference = Reference::default();
    let mut outcomes = Vec::new();
    for number in 0..70 {
        let version = &versions[number % 2];
        let outcome = ask(&redis, version, START).await;
        assert_eq!(outcome, ask(&reference, version, START).await, "{number}");
        outcomes.push(outcome);
    }
    assert!(
        outcomes[..60]
            .iter()
            .all(|outcome| *outcome == (true, false))
    );
    assert!(
        outcomes[60..]
            .iter()
            .all(|outcome| *outcome == (false, true))
    );
}

/// A key expires with its longest-lived state, and a state is dropped once it no longer counts.
#[tokio::test]
async fn a_key_expires_with_its_longest_lived_state() {
    let stand_in = StandIn::start();
    for algorithm in ALGORITHMS {
        let prefix = format!("ttl-{algorithm:?}:");
        let (redis, key) = (stand_in.store(&prefix), format!("{prefix}{KEY}"));
        let long = version(algorithm, 1, 3600);
        let first = check(std::slice::from_ref(&long), 1);
        let verdict = redis.decide(&first, START).await.unwrap();
        let reset = verdict.answers[0].unwrap().decision.reset_at;
        let short = sliding(5, 10);
        let now = START + Millis::from_secs(5);
        assert!(ask(&redis, &short, now).await.0);
        // A window that is no multiple of 60 ms is up to 60 ms longer.
        let resets_in = reset.since(now).get();
        let most = resets_in + CLOCK_TOLERANCE.get() + 60;
        let ttl = stand_in.run(&["PTTL", &key]).await.as_u64().unwrap();
        assert!(ttl > resets_in && ttl <= most, "{algorithm:?}: {ttl}");
        assert!(
            !ask(&redis, &long, reset - Millis::new(1)).await.0,
            "{algorithm:?}"
        );

        let over = now + Millis::new(most);
        assert!(ask(&redis, &short, over).await.0);
        let ttl = stand_in.run(&["PTTL", &key]).await.as_u64().unwrap();
        assert!(ttl <= 13_000, "{algorithm:?}: {ttl}");
        let stored = stand_in.run(&["GET", &key]).await;
        assert!(!stored.as_str().unwrap().contains(';'), "{stored}");
    }
}

#[tokio::test]
async fn states_of_other_shapes_add_no_command_and_are_not_in_the_reply() {
    let stand_in = StandIn::start();
    let redis = stand_in.store("cost:");
    let versions = [sliding(10, 60), sliding(10, 61), sliding(10, 62)];
    for version in &versions {
        ask(&redis, version, START).await;
    }
    for version in &versions {
        let before = stand_in.billed().await;
        let check = check(std::slice::from_ref(version), 1);
        let reply = redis.ask(&Question::new(&check), START).await.unwrap();
        assert_eq!(stand_in.billed().await - before, 3);
        let state = reply.stored_charges[0].state.clone();
        assert!(state.is_some_and(|state| version.quota.fits(&state)));
    }
}

/// Neither many versions nor a hostile writer can make the text grow.
#[tokio::test]
async fn the_text_of_a_key_is_bounded() {
    let stand_in = StandIn::start();
    let redis = stand_in.store("bound:");
    let reference = Reference::default();
    let key = format!("bound:{KEY}");
    for seconds in 60..70 {
        let version = sliding(10, seconds);
        assert!(ask(&redis, &version, START).await.0);
        assert!(ask(&reference, &version, START).await.0);
        let stored = stand_in.run(&["GET", &key]).await;
        assert_eq!(stored.as_str().map(str::to_owned), reference.text(KEY));
        let states = stored.as_str().unwrap().split(';').count();
        assert!(states <= 1 + MAX_OTHERS, "{stored}");
    }

    let now = START.as_millis();
    let many: Vec<_> = (0..500)
        .map(|more| format!("fw:{}:{now}:1", 1_000_000 + more))
        .collect();
    // In the shape of a window of 30 or 60 seconds, with more sub-windows than such a state has.
    let long = |width: u64| {
        let first = now / width - 150;
        let list: Vec<_> = (0..150).map(|place| format!("{place}=1000")).collect();
        format!("sw:{width}:{now}:{first}:{}", list.join(","))
    };
    let garbage = "x".repeat(100_000);
    for hostile in [many.join(";"), long(500), long(1000), garbage] {
        stand_in.run(&["SET", &key, &hostile]).await;
        reference.set(KEY, &hostile);
        let version = sliding(10, 60);
        assert!(ask(&redis, &version, START).await.0);
        assert!(ask(&reference, &version, START).await.0);
        let stored = stand_in.run(&["GET", &key]).await;
        assert_eq!(stored.as_str().map(str::to_owned), reference.text(KEY));
        assert!(stored.as_str().unwrap().len() < 200, "{stored}");
    }
}
