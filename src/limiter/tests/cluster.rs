//! Requests over a Redis Cluster.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::super::Duty;
use super::{Isolate, get, header};
use crate::config::{HostCapabilities, Vars};
use crate::effects::RedisResponse;
use crate::effects::testing::TestEffects;
use crate::limiter::Limiter;

fn isolate() -> Isolate {
    let vars = json!({
        "REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": "a", "REDIS_TIMEOUT": 1000,
        "RATE_LIMIT_METRICS": false,
        "RATE_LIMIT_IP": "100,60", "RATE_LIMIT_GENERAL": "5,60", "RATE_LIMIT_ALL": "5,60",
        "RATE_LIMIT_POLICIES": {"all": {"key": "global"}},
        "RATE_LIMIT_ROUTES": [{"path": "/all", "policies": ["general", "all"]}],
    });
    let effects = TestEffects::default();
    let vars = Vars::from_json(&vars.to_string()).unwrap();
    let host = HostCapabilities::from_name("node").unwrap();
    let limiter = Limiter::new(&vars, &host, effects.clone()).unwrap();
    Isolate { limiter, effects }
}

impl Isolate {
    fn replies(&self, result: Value) {
        let body = json!({"result": result}).to_string();
        self.effects.reply(Ok(RedisResponse { status: 200, body }));
    }
}

/// The script's reply for a quota with a limit of five.
fn quota(allowed: bool) -> Value {
    let (outcome, retry_at) = if allowed {
        (1, 0)
    } else {
        (0, 1_764_000_061_000_u64)
    };
    let state = "sw:1000:1764000000000:1764000000:0=1";
    json!([
        outcome,
        0,
        retry_at,
        1_764_000_061_000_u64,
        1_764_000_000_000_u64,
        0,
        0,
        state
    ])
}

#[test]
fn a_request_of_one_caller_makes_one_call_to_one_slot() {
    let isolate = isolate();
    isolate.replies(json!([null, null, quota(true), quota(true)]));
    assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    let [(decision, _)] = isolate.effects.calls().try_into().unwrap();
    for key in [
        "general:{192.0.2.1}",
        "ip:{192.0.2.1}",
        "blocked:{192.0.2.1}",
    ] {
        assert!(decision.contains(&format!("ratelimit:{key}")), "{decision}");
    }
    assert!(!decision.contains("{records}"), "{decision}");
    assert!(!isolate.effects.outlived());
}

#[test]
fn a_duty_gives_back_the_units_that_a_denied_request_took() {
    let isolate = isolate();
    isolate.effects.set_latency(300);
    isolate.replies(json!([null, null, quota(true), quota(true)]));
    isolate.replies(json!([null, null, quota(false)]));
    let answer = isolate.answer(&get("http://localhost/all"));
    assert_eq!(answer.status, 429);
    assert_eq!(header(&answer.headers, "X-RateLimit-Type"), Some("all"));
    assert!(isolate.effects.outlived());
    isolate.replies(json!(2));
    let refund = isolate.limiter.next_duty().unwrap();
    assert!(matches!(refund, Duty::Refund(_)), "{refund:?}");
    isolate.limiter.run(refund).now_or_never().unwrap();
    let mut calls = isolate.effects.calls().into_iter();
    let mut next = || calls.next().unwrap();
    let [(own, first), (all, second), (refund, _)] = [next(), next(), next()];
    // Both calls share one timeout: the first took 300 ms of it.
    assert_eq!([first, second].map(|one| one.get()), [1000, 700]);
    assert!(own.contains("general:{192.0.2.1}") && !own.contains("{global}"));
    assert!(all.contains("all:{global}") && !all.contains("192.0.2.1"));
    let refunded = [
        "\"2\",\"ratelimit:general:{192.0.2.1}\"",
        "\"r\"",
        "ip:{192.0.2.1}",
    ];
    for part in refunded {
        assert!(refund.contains(part), "{refund}");
    }

    assert_eq!(isolate.answer(&get("http://localhost/all")).status, 429);
    assert!(
        isolate.effects.calls().is_empty(),
        "the denial is remembered"
    );
    let next = isolate.limiter.next_duty();
    assert!(!matches!(next, Some(Duty::Refund(_))), "{next:?}");
}
