//! A cluster's keys in a real Redis, which refuses what spans slots as a cluster does.

use redis_protocol::redis_keyslot;

use crate::effects::testing::Manual;
use crate::error::StoreError;
use crate::redis::Scripts;
use crate::redis::keys::Keys;
use crate::redis::rest::Rest;
use crate::redis::script::{Call, Script, ScriptAnswer};
use crate::store::cluster::Cluster;
use crate::store::conformance;
use crate::store::redis::RedisStore;
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::Millis;

/// Redis, as a cluster whose slots are all there.
struct Slots(Rest<RealEffects>);

impl Scripts for Slots {
    async fn run_script<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &Call,
    ) -> Result<A, StoreError> {
        let mut slots = call.keys.iter().map(|key| redis_keyslot(key.as_bytes()));
        let first = slots.next();
        if first.is_none() || slots.any(|slot| Some(slot) != first) {
            return Err(StoreError::Refused("CROSSSLOT".to_owned()));
        }
        self.0.run_script(script, call).await
    }

    async fn run_script_within<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &Call,
        _: Millis,
    ) -> Result<A, StoreError> {
        self.run_script(script, call).await
    }
}

type Store = Cluster<RedisStore<Slots>, Manual>;

fn cluster(stand_in: &StandIn, prefix: &str) -> Store {
    let store = RedisStore::new(Slots(stand_in.redis()), Keys::clustered(prefix));
    Cluster::new(store, Millis::new(20_000), Manual::default())
}

#[tokio::test]
async fn redis_conforms_without_a_call_that_spans_slots() {
    let stand_in = StandIn::start();
    conformance::shared(&cluster(&stand_in, "c:")).await;
    conformance::all(&super::Spread(cluster(&stand_in, "s:"))).await;
    let keys = stand_in.run(&["KEYS", "*"]).await;
    let keys = keys.as_array().unwrap();
    assert!(keys.len() > 10);
    for key in keys {
        assert!(key.as_str().unwrap().contains('{'), "{key}");
    }
}
