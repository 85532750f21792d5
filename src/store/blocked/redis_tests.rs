//! Tests of the whole stack with a real Redis that loses blocks.

use std::num::NonZeroU32;
use std::rc::Rc;

use crate::blocklist::{Block, BlockTarget, BlockedBy};
use crate::client::Ipv6Prefix;
use crate::effects::testing::TestEffects;
use crate::quota::Algorithm;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::rest::RestClient;
use crate::seed::Seed;
use crate::store::conformance::{START, charge, check};
use crate::store::redis::RedisStore;
use crate::store::retries::Retries;
use crate::store::stack::{MaxEntries, Stack, StoreSettings};
use crate::store::stand_in::{RealEffects, StandIn};
use crate::store::{Check, Store};
use crate::time::Millis;

const RULES: StoreSettings = StoreSettings {
    timeout: Millis::new(20_000),
    retries: Retries {
        count: 0,
        delay: Millis::ZERO,
    },
    doublings: 0,
    max_commands: None::<NonZeroU32>,
    fallback_factor: 1000,
};

struct Isolate {
    stack: Stack<RedisStore<RestClient<RealEffects>>, RestClient<RealEffects>, TestEffects>,
    effects: TestEffects,
}

impl Isolate {
    fn new(stand_in: &StandIn) -> Self {
        let effects = TestEffects::default();
        let stack = Stack::new(
            stand_in.store("b:"),
            Rc::new(records(stand_in)),
            RULES,
            MaxEntries::default(),
            &Seed::fixed(),
            effects.clone(),
        );
        Self { stack, effects }
    }

    async fn blocked(&self, address: &str, seconds: u64) -> bool {
        self.effects.set(seconds * 1000);
        let key = format!("p:{address}");
        let check = Check {
            address: Some(address.to_owned()),
            ..check(&[charge(&key, Algorithm::SlidingWindow, 1000)], 1)
        };
        let now = START + Millis::new(seconds * 1000);
        let verdict = self.stack.decide(&check, now).await.unwrap();
        assert!(!verdict.degraded);
        verdict.address_block.is_some()
    }
}

fn records(stand_in: &StandIn) -> Records<RestClient<RealEffects>> {
    Records::new(stand_in.redis(), Keys::new("b:"))
}

async fn set(stand_in: &StandIn, text: &str) {
    let target = BlockTarget::parse(text, Ipv6Prefix::default()).unwrap();
    let block = Block {
        until: None,
        since: START.as_millis(),
        by: BlockedBy::Operator,
        reason: None,
    };
    records(stand_in)
        .block(&target, &block, START)
        .await
        .unwrap();
}

#[tokio::test]
async fn after_a_flush_the_old_and_a_new_range_deny_in_every_isolate() {
    let stand_in = StandIn::start();
    set(&stand_in, "10.0.0.0/8").await;
    let old = Isolate::new(&stand_in);
    assert!(old.blocked("10.1.1.1", 0).await);
    stand_in.run(&["FLUSHDB"]).await;
    set(&stand_in, "192.0.2.0/24").await;
    for address in ["10.1.1.1", "192.0.2.1"] {
        assert!(old.blocked(address, 10).await, "{address}");
        assert!(
            Isolate::new(&stand_in).blocked(address, 10).await,
            "{address}"
        );
    }
    assert_eq!(old.effects.lines().len(), 1);
}

#[tokio::test]
async fn evicted_ranges_are_logged_once_and_restored() {
    let stand_in = StandIn::start();
    set(&stand_in, "10.0.0.0/8").await;
    let [old, fresh] = [Isolate::new(&stand_in), Isolate::new(&stand_in)];
    assert!(old.blocked("10.1.1.1", 0).await);
    stand_in.run(&["DEL", "b:blocked_ranges"]).await;
    for second in 1..20 {
        assert!(!fresh.blocked("10.1.1.1", second).await);
    }
    assert_eq!(fresh.effects.lines().len(), 1);
    assert_eq!(
        fresh.stack.blocks_lost_since(),
        Some(START + Millis::from_secs(1))
    );
    for second in 20..40 {
        assert!(!old.blocked("192.0.2.1", second).await);
    }
    assert_eq!(old.effects.lines().len(), 1);
    assert!(fresh.blocked("10.1.1.1", 40).await);
    assert_eq!(fresh.stack.blocks_lost_since(), None);
    assert_eq!(fresh.effects.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn blocks_add_no_command_to_a_decision_and_a_check_of_the_list_costs_a_few() {
    let stand_in = StandIn::start();
    set(&stand_in, "10.0.0.0/8").await;
    set(&stand_in, "203.0.113.1").await;
    let isolate = Isolate::new(&stand_in);
    assert!(!isolate.blocked("192.0.2.1", 0).await);
    let before = (stand_in.billed().await, stand_in.requests().await);
    for second in 1..=599 {
        assert!(!isolate.blocked("192.0.2.1", second).await);
    }
    let between = (stand_in.billed().await, stand_in.requests().await);
    assert_eq!((between.0 - before.0, between.1 - before.1), (3 * 599, 599));
    // Every ten minutes: a script that reads two versions and the list, and the records of addresses that are blocked
    // without an end.
    assert!(!isolate.blocked("192.0.2.1", 600).await);
    let after = (stand_in.billed().await, stand_in.requests().await);
    assert_eq!((after.0 - between.0, after.1 - between.1), (3 + 5, 1 + 2));
}
