//! Tests of a cluster's keys with a real Redis and a check that refuses calls that span slots, as a cluster does.

use futures_util::future::join_all;
use redis_protocol::redis_keyslot;

use super::{Hosted, check_of, sliding};
use crate::effects::testing::TestEffects;
use crate::error::StoreError;
use crate::redis::Scripts;
use crate::redis::keys::Keys;
use crate::redis::rest::RestClient;
use crate::redis::script::{FromScriptReply, Script, ScriptCall};
use crate::store::Store as _;
use crate::store::cluster::Cluster;
use crate::store::conformance::{self, ALGORITHMS, START, charge};
use crate::store::redis::RedisStore;
use crate::store::shared::{Question, SharedStore};
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::Millis;

/// A Redis that refuses calls whose keys are in several slots.
struct Slots(RestClient<RealEffects>);

impl Scripts for Slots {
    async fn run_script<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<A, StoreError> {
        let mut slots = call.keys.iter().map(|key| redis_keyslot(key.as_bytes()));
        let first = slots.next();
        if first.is_none() || slots.any(|slot| Some(slot) != first) {
            return Err(StoreError::Refused("CROSSSLOT".to_owned()));
        }
        self.0.run_script(script, call).await
    }

    async fn run_script_within<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
        _: Millis,
    ) -> Result<A, StoreError> {
        self.run_script(script, call).await
    }
}

type ClusterStore = Cluster<RedisStore<Slots>, TestEffects>;

fn cluster(stand_in: &StandIn, prefix: &str) -> ClusterStore {
    let store = RedisStore::new(Slots(stand_in.redis()), Keys::clustered(prefix));
    Cluster::new(store, Millis::new(20_000), TestEffects::default())
}

#[tokio::test]
async fn the_cluster_conforms_on_redis_without_a_call_that_spans_slots() {
    let stand_in = StandIn::start();
    let hosted = |prefix, spreads| Hosted {
        cluster: cluster(&stand_in, prefix),
        spreads,
    };
    conformance::shared(&hosted("c:", false)).await;
    conformance::all(&hosted("s:", true)).await;
    let keys = stand_in.run(&["KEYS", "*"]).await;
    let keys = keys.as_array().unwrap();
    assert!(keys.len() > 10);
    for key in keys {
        assert!(key.as_str().unwrap().contains('{'), "{key}");
    }
}

/// Laws 1 and 2 in a real Redis, for callers whose own limit is tighter than the shared one and for others. Each
/// quota admits its limit, and in the end counts what was admitted.
#[tokio::test]
async fn isolates_that_ask_at_once_admit_the_limit_and_denied_requests_consume_nothing() {
    let stand_in = StandIn::start();
    for algorithm in ALGORITHMS {
        let prefix = format!("many-{algorithm:?}:");
        let isolates = [(); 3].map(|()| cluster(&stand_in, &prefix));
        let own = |caller: usize| {
            let limit = if caller == 0 { 3 } else { 50 };
            charge(&format!("general:192.0.2.{caller}"), algorithm, limit)
        };
        let all = charge("all:global", algorithm, 20);
        let asked = join_all((0..90).map(async |number: usize| {
            let isolate = &isolates[number % 3];
            let address = format!("192.0.2.{}", number % 4);
            let check = check_of(Some(&address), &[own(number % 4), all.clone()], 1);
            let verdict = isolate.decide(&check, START).await.unwrap();
            while let Some(refund) = isolate.next_refund() {
                isolate.refund(&refund).await.unwrap();
            }
            (number % 4, verdict.allows(&check))
        }))
        .await;
        let admitted = |caller: usize| asked.iter().filter(|one| **one == (caller, true)).count();
        let sums = [0, 1, 2, 3].map(admitted);
        assert_eq!(sums.iter().sum::<usize>(), 20, "{algorithm:?}: {sums:?}");
        assert!(sums[0] <= 3, "{algorithm:?}: {sums:?}");
        for (caller, sum) in sums.iter().enumerate() {
            let charge = own(caller);
            let read = check_of(None, std::slice::from_ref(&charge), 0);
            let verdict = isolates[0].decide(&read, START).await.unwrap();
            let left = verdict.answers[0].unwrap().decision.remaining;
            let taken = u32::try_from(*sum).unwrap();
            assert_eq!(
                left,
                charge.quota.limit() - taken,
                "{algorithm:?}: {caller}"
            );
        }
    }
}

#[tokio::test]
async fn a_decision_of_two_callers_costs_at_most_the_commands_that_the_cap_reserves() {
    let stand_in = StandIn::start();
    let isolate = cluster(&stand_in, "b:");
    let charges = [
        sliding("general:192.0.2.1", 9),
        sliding("ip:192.0.2.1", 9),
        sliding("all:global", 1),
    ];
    let check = check_of(Some("192.0.2.1"), &charges, 1);
    isolate
        .decide(&check_of(None, &[], 0), START)
        .await
        .unwrap();
    let mut costs = Vec::new();
    for _ in 0..2 {
        let before = stand_in.billed().await;
        isolate.decide(&check, START).await.unwrap();
        while let Some(refund) = isolate.next_refund() {
            isolate.refund(&refund).await.unwrap();
        }
        costs.push(stand_in.billed().await - before);
    }
    // Admitted: 4 and 3 commands. Denied: 4 and 2, and 4 for the refund.
    assert_eq!(costs, [7, 10]);
    let reserved = isolate.most_commands(&Question::new(&check));
    assert!(
        costs.iter().all(|cost| *cost <= u64::from(reserved)),
        "{reserved}"
    );
}
