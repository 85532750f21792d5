//! Tests of the store in Redis with a real Redis, and with every kind of bad answer.

use futures_util::FutureExt;
use serde_json::json;

use super::RedisStore;
use crate::blocklist::AddressBlock;
use crate::effects;
use crate::effects::testing::TestEffects;
use crate::quota::{Algorithm, CLOCK_TOLERANCE, QuotaState};
use crate::redis::Database;
use crate::redis::keys::Keys;
use crate::redis::rest::RestClient;
use crate::store::conformance::{self, ALGORITHMS, MINUTE, START, backlog, charge, check};
use crate::store::shared::{
    ChargeExtra, Partitioned, Question, RangesVersion, Refund, SharedStore, StoreReply,
};
use crate::store::stand_in::StandIn;
use crate::store::{Charge, Check, Store, StoreError};
use crate::time::Millis;

#[tokio::test]
async fn the_store_conforms() {
    let stand_in = StandIn::start();
    conformance::shared(&stand_in.store("conformance:")).await;
}

#[tokio::test]
async fn a_decision_is_one_request_once_the_script_is_loaded() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 100)], 1);
    store.decide(&check, START).await.unwrap();
    assert_eq!(stand_in.requests().await, 2, "EVALSHA, NOSCRIPT, EVAL");
    for _ in 0..5 {
        store.decide(&check, START).await.unwrap();
    }
    assert_eq!(stand_in.requests().await, 7);
}

#[tokio::test]
async fn a_store_that_refuses_the_flag_conforms() {
    let stand_in = StandIn::refusing();
    conformance::shared(&stand_in.store("conformance:")).await;
}

#[tokio::test]
async fn a_store_behind_a_bridge_conforms() {
    let bridge = StandIn::bridge().await;
    conformance::shared(&bridge.store("conformance:")).await;
}

/// Errors with which servers refuse a script that begins with the flag.
const REFUSALS: [&str; 5] = [
    // Redis and Valkey 7 and later.
    "ERR Unexpected flag in script shebang: allow-key-locking",
    // Redis before 7, and KeyDB.
    "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#' ",
    // Dragonfly, and older versions of it.
    "ERR user_script:2: unexpected symbol near '#'",
    "ERR Invalid flag: allow-key-locking",
    "ERR Invalid script shebang",
];

#[tokio::test]
async fn a_server_that_refuses_the_flag_is_sent_the_script_without_it() {
    let servers = [StandIn::refusing()].into_iter();
    for stand_in in servers.chain(REFUSALS.map(StandIn::answering)) {
        let store = stand_in.store("t:");
        let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 3)], 1);
        let mut costs = Vec::new();
        for left in [2, 1, 0] {
            let (requests, billed) = (stand_in.requests().await, stand_in.billed().await);
            let verdict = store.decide(&check, START).await.unwrap();
            assert_eq!(verdict.answers[0].unwrap().decision.remaining, left);
            costs.push((
                stand_in.requests().await - requests,
                stand_in.billed().await - billed,
            ));
        }
        // The first decision sends both forms, by name and in full. Later ones cost what they do at Upstash: the script, the
        // read and the write of the state.
        assert_eq!(costs, [(4, 6), (1, 3), (1, 3)]);
        assert!(!store.decide(&check, START).await.unwrap().allows(&check));
    }
}

#[tokio::test]
async fn isolates_that_send_either_form_of_the_script_share_a_limit() {
    let stand_in = StandIn::start();
    let refusing = stand_in.refusing_too();
    for algorithm in ALGORITHMS {
        let key = format!("auth-{algorithm:?}:a");
        let check = check(&[charge(&key, algorithm, 10)], 1);
        let stores = [stand_in.store("t:"), refusing.store("t:")];
        let decisions = (0..40).map(|number| stores[number % 2].decide(&check, START));
        let verdicts = futures_util::future::join_all(decisions).await;
        let admitted = verdicts
            .iter()
            .filter(|it| it.as_ref().unwrap().allows(&check));
        assert_eq!(admitted.count(), 10, "{algorithm:?}");
    }
}

/// Redis runs a script without the first line by the rules from before Redis 7: it starts the script although it cannot
/// write. The script must not write a part of its records.
#[tokio::test]
async fn a_redis_that_cannot_write_refuses_either_form_and_counts_nothing() {
    for stand_in in [StandIn::start(), StandIn::refusing()] {
        let store = stand_in.store("t:");
        let charges = ["auth:a", "general:a"].map(|key| charge(key, Algorithm::SlidingWindow, 10));
        let check = check(&charges, 1);
        store.decide(&check, START).await.unwrap();
        for (set, unset, word) in [
            (
                ["CONFIG", "SET", "maxmemory", "1"],
                ["CONFIG", "SET", "maxmemory", "0"],
                "OOM",
            ),
            (
                ["CONFIG", "SET", "min-replicas-to-write", "1"],
                ["CONFIG", "SET", "min-replicas-to-write", "0"],
                "NOREPLICAS",
            ),
        ] {
            stand_in.run(&set).await;
            let failed = store.decide(&check, START).await;
            assert_eq!(failed, Err(StoreError::Refused(word.to_owned())));
            stand_in.run(&unset).await;
        }
        let verdict = store.decide(&check, START).await.unwrap();
        let left = verdict
            .answers
            .iter()
            .map(|it| it.unwrap().decision.remaining);
        assert_eq!(left.collect::<Vec<_>>(), [8, 8]);
    }
}

#[tokio::test]
async fn a_missing_permission_is_an_error_and_does_not_change_the_scripts_form() {
    for stand_in in [StandIn::start(), StandIn::refusing()] {
        let redis = stand_in.redis();
        let form = redis.script_form();
        let store = RedisStore::new(redis.clone(), Keys::new("t:"));
        let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 10)], 1);
        for (lacks, has) in [("-evalsha", "+evalsha"), ("-eval", "+eval")] {
            stand_in.run(&["ACL", "SETUSER", "default", lacks]).await;
            let failed = store.decide(&check, START).await;
            assert_eq!(failed, Err(StoreError::NotPermitted), "{lacks}");
            assert_eq!(redis.script_form(), form, "{lacks}");
            stand_in.run(&["ACL", "SETUSER", "default", has]).await;
        }
        store.decide(&check, START).await.unwrap();
        let form = redis.script_form();
        stand_in.run(&["ACL", "SETUSER", "default", "-mget"]).await;
        let failed = store.decide(&check, START).await;
        assert_eq!(
            failed,
            Err(StoreError::NotPermitted),
            "a command of the script"
        );
        assert_eq!(redis.script_form(), form);
    }
}

/// Law 4 with Redis's own clock for expiry: an isolate whose clock is behind by the tolerance must still
/// find the window that another isolate has filled.
#[tokio::test]
async fn a_state_outlives_its_window_by_the_tolerance() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    for algorithm in ALGORITHMS {
        let key = format!("auth-{algorithm:?}:a");
        let check = check(&[charge(&key, algorithm, 1)], 1);
        let verdict = store.decide(&check, START).await.unwrap();
        let resets_in = verdict.answers[0].unwrap().decision.reset_at.since(START);
        let ttl = stand_in.run(&["PTTL", &format!("t:{key}")]).await;
        let ttl = ttl.as_u64().unwrap();
        let most = resets_in.get() + CLOCK_TOLERANCE.get();
        assert!(
            ttl > resets_in.get() && ttl <= most,
            "{algorithm:?}: expires in {ttl} ms, should be within {most} ms"
        );
    }
}

#[tokio::test]
async fn a_refund_costs_a_read_and_its_writes_and_the_state_expires_when_it_no_longer_counts() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    let later = START + Millis::from_secs(30);
    for algorithm in ALGORITHMS {
        let key = format!("auth-{algorithm:?}:a");
        let charge = charge(&key, algorithm, 10);
        let decide = async |cost, now| {
            let check = check(std::slice::from_ref(&charge), cost);
            store.decide(&check, now).await.unwrap().answers[0].unwrap()
        };
        decide(2, START).await;
        let taken = decide(3, later).await.decision.at;
        let mut refund = Refund {
            units: 3,
            taken: vec![(charge.clone(), taken)],
        };
        let mut billed = stand_in.billed().await;
        for commands in [3, 2] {
            store.refund(&refund, later).await.unwrap();
            let before = std::mem::replace(&mut billed, stand_in.billed().await);
            assert_eq!(billed - before, commands, "{algorithm:?}");
            // The second refund is for a key without a state, so it writes nothing.
            refund.taken[0].0.key.push('b');
        }
        let resets_in = decide(0, later).await.decision.reset_at.since(later);
        let ttl = stand_in.run(&["PTTL", &format!("t:{key}")]).await;
        let ttl = ttl.as_u64().unwrap();
        let most = resets_in.get() + CLOCK_TOLERANCE.get();
        assert!(
            ttl > resets_in.get() && ttl <= most,
            "{algorithm:?}: expires in {ttl} ms, should be within {most} ms"
        );
    }
}

#[tokio::test]
async fn a_backlog_that_is_sent_again_under_its_name_is_added_once() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    for algorithm in ALGORITHMS {
        let key = format!("auth-{algorithm:?}:2001:db8::/64");
        let name = format!("{algorithm:?}");
        let charge = charge(&key, algorithm, 10);
        let extras = [backlog(&charge, &name, 3, START)];
        let check = check(&[charge], 1);
        let question = Question::with(&check, &extras);
        for left in [6, 5, 4] {
            let reply = store.ask(&question, START).await.unwrap();
            assert_eq!(reply.verdict.answers[0].unwrap().decision.remaining, left);
        }
        let state = stand_in.run(&["PTTL", &format!("t:{key}")]).await;
        let absorbed = stand_in.run(&["PTTL", &format!("t:absorbed:{name}")]).await;
        let (state, absorbed) = (state.as_u64().unwrap(), absorbed.as_u64().unwrap());
        assert!(
            absorbed > 0 && absorbed <= state,
            "{algorithm:?}: the name expires in {absorbed} ms, the state in {state} ms"
        );
    }
}

#[tokio::test]
async fn adding_a_backlog_costs_one_command() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    let charge = charge("auth:a", Algorithm::SlidingWindow, 10);
    let backlog = |name, units| backlog(&charge, name, units, START);
    store.decide(&check(&[], 1), START).await.unwrap();
    let check = check(std::slice::from_ref(&charge), 1);
    for (extra, billed) in [
        (ChargeExtra::default(), 3),
        // The script, the read, and the writes of the state and of the backlog's name.
        (backlog("first", 2), 4),
        (backlog("first", 2), 3),
        (backlog("second", 9), 4),
        (backlog("third", 1), 2),
    ] {
        let before = stand_in.billed().await;
        let extras = [extra];
        let question = Question::with(&check, &extras);
        store.ask(&question, START).await.unwrap();
        assert_eq!(stand_in.billed().await - before, billed, "{question:?}");
    }
}

/// The states of other versions of the policy do not make a reply longer.
#[tokio::test]
async fn a_reply_carries_the_stored_state_of_the_quotas_own_shape_only() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    let charges = [charge("auth:a", Algorithm::FixedWindow, 1)];
    let state = |text: &str| vec![QuotaState::parse(text)];
    for (given, cost, expected) in [
        (None, 0, vec![None]),
        (Some("garbage \"\u{1}\u{e9}"), 0, vec![None]),
        (None, 1, state("fw:60000:1764000000000:1")),
        (None, 1, state("fw:60000:1764000000000:1")),
        (Some("tb:60000:5:1:9"), 0, vec![None]),
        (
            Some("tb:60000:5:1:9;fw:60000:5:7;x"),
            0,
            state("fw:60000:5:7"),
        ),
        (None, 1, state("fw:60000:1764000000000:1")),
    ] {
        if let Some(text) = given {
            stand_in.run(&["SET", "t:auth:a", text]).await;
        }
        let check = check(&charges, cost);
        let reply = store.ask(&Question::new(&check), START).await.unwrap();
        let states: Vec<_> = reply
            .stored_charges
            .into_iter()
            .map(|one| one.state)
            .collect();
        assert_eq!(states, expected, "{given:?} at a cost of {cost}");
    }
}

#[tokio::test]
async fn a_decision_reads_the_block_of_the_address_and_the_version_of_the_ranges() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 100)], 1);
    let until = START + MINUTE;
    let blocked = |until| Some(AddressBlock { until });
    let ends = format!(
        "{{\"until\":{},\"reason\":\"\\\"until\\\":1\"}}",
        until.as_millis()
    );
    stand_in.run(&["SET", "t:blocked:192.0.2.1", &ends]).await;
    stand_in
        .run(&["SET", "t:blocked_ranges:version", "7"])
        .await;

    let last = until - Millis::new(1);
    let reply = store.ask(&Question::new(&check), last).await.unwrap();
    assert_eq!(reply.verdict.address_block, blocked(Some(until)));
    let version = RangesVersion::Stored(Some("7".to_owned()));
    assert_eq!(reply.ranges_version, version);
    assert!(!reply.verdict.allows(&check));
    let verdict = store.decide(&check, until).await.unwrap();
    assert!(
        verdict.allows(&check),
        "the block is over by the asking isolate's clock"
    );

    for endless in ["{\"reason\":\"abuse\"}", "garbage"] {
        stand_in.run(&["SET", "t:blocked:192.0.2.1", endless]).await;
        let verdict = store.decide(&check, until).await.unwrap();
        assert_eq!(verdict.address_block, blocked(None));
    }
    let unblockable = Check {
        address: None,
        ..check
    };
    assert!(
        store
            .decide(&unblockable, until)
            .await
            .unwrap()
            .allows(&unblockable)
    );
}

#[tokio::test]
async fn every_kind_of_bad_answer_is_an_error() {
    let stand_in = StandIn::start();
    // A short timeout only for faults that never answer, since the machine may be busy.
    let (store, impatient) = (
        stand_in.store("t:"),
        stand_in.store_within(Millis::new(300)),
    );
    let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 1000)], 1);
    store.decide(&check, START).await.unwrap();
    let refused = |word: &str| StoreError::Refused(word.to_owned());
    let cases = [
        (json!({"kind": "hang"}), StoreError::Timeout),
        (json!({"kind": "delay", "ms": 60_000}), StoreError::Timeout),
        (json!({"kind": "reset"}), StoreError::Unreachable),
        (json!({"kind": "truncated"}), StoreError::Unreachable),
        (json!({"kind": "cut"}), StoreError::Malformed),
        (
            json!({"kind": "status", "status": 429}),
            StoreError::Throttled,
        ),
        (
            json!({"kind": "status", "status": 500}),
            StoreError::Status(500),
        ),
        (
            json!({"kind": "html", "status": 502}),
            StoreError::Status(502),
        ),
        (
            json!({"kind": "html", "status": 200}),
            StoreError::Malformed,
        ),
        (
            json!({"kind": "empty", "status": 200}),
            StoreError::Malformed,
        ),
        (json!({"kind": "quota"}), StoreError::OverQuota),
        (json!({"kind": "unauthorized"}), StoreError::Unauthorized),
        (json!({"kind": "noscript"}), refused("NOSCRIPT")),
    ];
    for (fault, expected) in cases {
        stand_in.fault(fault.clone()).await;
        let times_out = expected == StoreError::Timeout;
        let store = if times_out { &impatient } else { &store };
        let failed = store.decide(&check, START).await;
        // If every EVALSHA is answered with NOSCRIPT, EVAL still decides.
        if expected == refused("NOSCRIPT") {
            assert!(failed.is_ok(), "{fault}: {failed:?}");
        } else {
            assert_eq!(failed, Err(expected), "{fault}");
        }
    }
    for wrong in [
        json!(null),
        json!({"a": 1}),
        json!("garbage"),
        json!([]),
        json!([null, null]),
        json!([
            null,
            null,
            [1, 2, 1, 3, 4, 5, 6, ""],
            [1, 2, 1, 3, 4, 5, 6, ""]
        ]),
        json!([null, null, [1, 2, 1, 3, 4, 5, ""]]),
        json!([null, null, [1, 1, 1, 1, 1, 1, 1]]),
        json!([null, null, [1, 1, 1, 1, 1, 1, 1, 1]]),
        json!([null, null, [1, 1, 1, 1, 1, 1, 1, null]]),
        json!([null, null, [1, 1, 1, 1, 1, 1, 1, "", ""]]),
        json!([null, null, []]),
        json!([null, null, [3, 1, 1, 1, 1, 1, 1, ""]]),
        json!([null, null, [1, -1, 1, 1, 1, 1, 1, ""]]),
        json!([null, null, [1, 1.5, 1, 1, 1, 1, 1, ""]]),
        json!([null, null, [1, "1", 1, 1, 1, 1, 1, ""]]),
        json!([null, null, [1, 4_294_967_296_u64, 1, 1, 1, 1, 1, ""]]),
        json!([null, null, [0, 0, 1, 1, 1, 1, 1, ""]]),
        json!([null, 17, [1, 1, 1, 1, 1, 1, 1, ""]]),
        json!([17, null, [1, 1, 1, 1, 1, 1, 1, ""]]),
    ] {
        stand_in
            .fault(json!({"kind": "result", "value": wrong.clone()}))
            .await;
        let failed = store.decide(&check, START).await;
        assert_eq!(failed, Err(StoreError::Malformed), "{wrong}");
    }
    stand_in.fault(json!([])).await;
    assert!(
        store.decide(&check, START).await.is_ok(),
        "the store should decide once the fault is gone"
    );
}

#[tokio::test]
async fn a_refusal_reports_the_first_word_of_the_error_only() {
    let stand_in = StandIn::start();
    let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 10)], 1);
    stand_in.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let failed = stand_in.store("t:").decide(&check, START).await;
    assert_eq!(failed, Err(StoreError::Refused("OOM".to_owned())));
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable() {
    let stand_in = StandIn::start();
    let store = stand_in.store("t:");
    drop(stand_in);
    let check = check(&[], 1);
    assert_eq!(
        store.decide(&check, START).await,
        Err(StoreError::Unreachable)
    );
}

/// How the store reads an HTTP response.
fn read(
    status: u16,
    body: impl ToString,
    question: &Question<'_>,
) -> Result<StoreReply, StoreError> {
    let effects = TestEffects::default();
    effects.reply(Ok(effects::RedisResponse {
        status,
        body: body.to_string(),
    }));
    let rest = RestClient::new(effects, Millis::new(1000));
    let store = RedisStore::new(rest, Keys::new("t:"));
    store.ask(question, START).now_or_never().unwrap()
}

/// An answer that a quota of 30 a minute cannot give is rejected: it could deny or block for ever.
#[test]
fn an_impossible_answer_in_the_right_format_is_malformed() {
    let plain = charge("auth:a", Algorithm::SlidingWindow, 30);
    let block = Some(Millis::from_secs(600));
    let blocking = Charge {
        block,
        ..plain.clone()
    };
    let now = START.as_millis();
    let (soon, blocked) = (now + 61_000, now + 600_000);
    let leasing = (&plain, 5);
    let (plain, blocking) = ((&plain, 0), (&blocking, 0));
    let accepts = |(charge, lease): (&Charge, u32), numbers: [u64; 7]| {
        let [outcome, remaining, retry_at, reset_at, at, until, leased] = numbers;
        let answer = json!([
            outcome, remaining, retry_at, reset_at, at, until, leased, ""
        ]);
        let body = json!({"result": [null, null, answer]});
        let extras = [ChargeExtra {
            lease,
            backlog: None,
        }];
        let check = check(std::slice::from_ref(charge), 1);
        let read = read(200, body, &Question::with(&check, &extras));
        assert!(read.is_ok() || read == Err(StoreError::Malformed));
        read.is_ok()
    };
    assert!(accepts(plain, [1, 29, 0, soon, now, 0, 0]));
    assert!(accepts(plain, [0, 0, soon, soon, now, 0, 0]));
    assert!(accepts(blocking, [0, 0, soon, soon, now, blocked, 0]));
    assert!(accepts(leasing, [1, 29, 0, soon + 5000, now, 0, 5]));
    for numbers in [
        [0, 0, 9_007_199_254_740_991, soon, now, 0, 0],
        [0, 0, now + 600_000, soon, now, 0, 0],
        [1, 31, 0, soon, now, 0, 0],
        [1, 29, 0, 9_007_199_254_740_991, now, 0, 0],
        [2, 0, 0, soon, now, 0, 0],
        [1, 29, 0, soon, now, blocked, 0],
    ] {
        assert!(!accepts(plain, numbers), "{numbers:?}");
    }
    for numbers in [
        [1, 29, 0, soon, now, 0, 6],
        [1, 3, 0, soon, now, 0, 4],
        [0, 3, soon, soon, now, 0, 1],
    ] {
        assert!(!accepts(leasing, numbers), "{numbers:?}");
    }
    assert!(!accepts(
        blocking,
        [0, 0, soon, soon, now, blocked + 3000, 0]
    ));
    // A cost above the capacity cannot be allowed.
    let body = json!({"result": [null, null, [1, 0, 0, soon, now, 0, 0, ""]]});
    let check = check(std::slice::from_ref(plain.0), 31);
    let impossible = read(200, body, &Question::new(&check));
    assert_eq!(impossible, Err(StoreError::Malformed));
}

#[test]
fn either_message_of_a_used_up_plan_is_over_quota_at_any_status() {
    let check = check(&[charge("auth:a", Algorithm::SlidingWindow, 30)], 1);
    for message in [
        "ERR max requests limit exceeded. Limit: 500000, Usage: 500000.",
        "ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.",
    ] {
        for status in [200, 400, 402, 429, 503] {
            let failed = read(status, json!({"error": message}), &Question::new(&check));
            assert_eq!(failed, Err(StoreError::OverQuota), "{status}");
        }
    }
    let busy = read(429, "slow down", &Question::new(&check));
    assert_eq!(busy, Err(StoreError::Throttled));
}
