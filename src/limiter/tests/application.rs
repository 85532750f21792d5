//! The application's own keys, over memory and over a real Redis, and the events that it reports.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Isolate, Limiter, TOKEN, by, json_of, upstash};
use crate::config::{HostCapabilities, Vars};
use crate::effects::testing::TestEffects;
use crate::effects::{Effects, RedisResponse};
use crate::store::stand_in::{RealEffects, StandIn};

/// The result of a call and the code of its error, of which one is `null`.
async fn called<E: Effects + Clone>(limiter: &Limiter<E>, call: &Value) -> (Value, Value) {
    let answer = limiter.run_application_command(&call.to_string()).await;
    let body = json_of(&answer);
    assert_eq!(answer.status == 200, body["code"].is_null(), "{answer:?}");
    (body["result"].clone(), body["code"].clone())
}

fn at_once(limiter: &Limiter<TestEffects>, call: &Value) -> (Value, Value) {
    let called = called(limiter, call).now_or_never();
    called.expect("every effect of the test host ends at once")
}

/// A limiter with a real clock, in memory or over the Redis of `stand_in`.
fn real(stand_in: &StandIn, in_redis: bool) -> Limiter<RealEffects> {
    let mut vars =
        json!({"REDIS_KEY_PREFIX": "t:", "RATE_LIMIT_METRICS": false, "REDIS_TIMEOUT": 20_000});
    if in_redis {
        vars["UPSTASH_REDIS_REST_URL"] = json!(stand_in.url);
        vars["UPSTASH_REDIS_REST_TOKEN"] = json!(stand_in.token);
    }
    let vars = Vars::from_json(&vars.to_string()).unwrap();
    Limiter::new(&vars, &HostCapabilities::default(), stand_in.effects()).unwrap()
}

#[tokio::test]
async fn calls_return_the_same_over_memory_and_redis() {
    let stand_in = StandIn::start();
    for in_redis in [false, true] {
        let limiter = real(&stand_in, in_redis);
        let long = "k".repeat(512);
        let large = "\u{20ac}\u{0}\n\"".repeat(10_000);
        let max = i64::MAX.to_string();
        for (call, result) in [
            (json!(["get", "a"]), json!(null)),
            (json!(["set", "a", "1"]), json!("OK")),
            (json!(["get", "a"]), json!("1")),
            (json!(["incr", "a"]), json!(2)),
            (json!(["incr", "new"]), json!(1)),
            (json!(["set", "a", "-1"]), json!("OK")),
            (json!(["incr", "a"]), json!(0)),
            (json!(["set", "a", i64::MIN.to_string()]), json!("OK")),
            (json!(["incr", "a"]), json!(i64::MIN + 1)),
            (json!(["set", "a", (i64::MAX - 1).to_string()]), json!("OK")),
            (json!(["incr", "a"]), json!(i64::MAX)),
            (json!(["incr", "a"]), json!("not_a_number")),
            (json!(["get", "a"]), json!(max)),
            // An invalid number of seconds is an error: the key is not set without an expiry.
            (json!(["set", "b", "", null]), json!("bad_argument")),
            (json!(["set", "b", ""]), json!("OK")),
            (json!(["get", "b"]), json!("")),
            (json!(["expire", "b", 100]), json!(true)),
            (json!(["expire", "none", 100]), json!(false)),
            (json!(["del", "a", "b", "none", "a"]), json!(2)),
            (json!(["get", "a"]), json!(null)),
            (json!(["set", long, large]), json!("OK")),
            (json!(["get", long]), json!(large)),
            (
                json!(["set", "\u{1f600} a:b/c*", "x", 315_360_000]),
                json!("OK"),
            ),
            (json!(["get", "\u{1f600} a:b/c*"]), json!("x")),
        ] {
            let (returned, code) = called(&limiter, &call).await;
            let returned = if code.is_null() { returned } else { code };
            assert_eq!(returned, result, "{in_redis}: {call}");
        }
        // Only the form in which Redis writes a number counts as one.
        for text in [
            "",
            " 1",
            "1 ",
            "+1",
            "01",
            "-0",
            "1.0",
            "1e3",
            "0x1",
            "a",
            "9223372036854775808",
            "-9223372036854775809",
            "\u{661}",
        ] {
            called(&limiter, &json!(["set", "n", text])).await;
            let returned = called(&limiter, &json!(["incr", "n"])).await;
            assert_eq!(
                returned,
                (json!(null), json!("not_a_number")),
                "{in_redis}: {text:?}"
            );
            assert_eq!(called(&limiter, &json!(["get", "n"])).await.0, json!(text));
        }
    }
}

#[tokio::test]
async fn keys_expire_the_same_over_memory_and_redis() {
    let stand_in = StandIn::start();
    let limiters = [false, true].map(|in_redis| real(&stand_in, in_redis));
    for limiter in &limiters {
        for call in [
            json!(["set", "ends", "1", 1]),
            json!(["set", "counted", "1", 1]),
            json!(["incr", "counted"]),
            json!(["set", "later", "1"]),
            json!(["expire", "later", 1]),
            json!(["set", "kept", "1", 1]),
            json!(["set", "kept", "1"]),
            json!(["set", "longer", "1", 1]),
            json!(["expire", "longer", 100]),
        ] {
            assert!(called(limiter, &call).await.1.is_null(), "{call}");
        }
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for limiter in &limiters {
        for (key, left) in [
            ("ends", false),
            ("counted", false),
            ("later", false),
            ("kept", true),
            ("longer", true),
        ] {
            let (value, _) = called(limiter, &json!(["get", key])).await;
            assert_eq!(value.is_string(), left, "{key}");
        }
    }
}

#[tokio::test]
async fn an_applications_keys_are_apart_from_the_limiters_own() {
    let stand_in = StandIn::start();
    let limiter = real(&stand_in, true);
    for key in [
        "blocked:192.0.2.1",
        "general:192.0.2.1",
        "events",
        "../events",
    ] {
        called(&limiter, &json!(["set", key, "x"])).await;
        let stored = stand_in.run(&["GET", &format!("t:app/{key}")]).await;
        assert_eq!(stored, json!("x"));
    }
    assert_eq!(stand_in.run(&["DBSIZE"]).await, json!(4));
    // Another client of Redis has written a value of another type.
    stand_in.run(&["RPUSH", "t:app/list", "x"]).await;
    for (call, code) in [
        (json!(["incr", "list"]), "not_a_number"),
        (json!(["get", "list"]), "refused"),
    ] {
        assert_eq!(called(&limiter, &call).await, (json!(null), json!(code)));
    }
    assert_eq!(called(&limiter, &json!(["del", "list"])).await.0, json!(1));
}

#[test]
fn an_invalid_call_is_refused_before_the_store_is_asked() {
    let isolate = Isolate::new(&upstash(&json!({})));
    let long = "k".repeat(513);
    let large = "x".repeat(64 * 1024 + 1);
    let many = vec![json!("k"); 1001];
    let deleted: Vec<Value> = [json!("del")].into_iter().chain(many).collect();
    for (call, code) in [
        (json!(["get", ""]), "bad_key"),
        (json!(["get", long]), "bad_key"),
        (json!(["get", "\u{20ac}".repeat(171)]), "bad_key"),
        (json!(["get", "a\nb"]), "bad_key"),
        (json!(["get", "a\u{0}"]), "bad_key"),
        (json!(["get", "a\u{85}"]), "bad_key"),
        (json!(["get", 7]), "bad_key"),
        (json!(["get", null]), "bad_key"),
        (json!(["del", "a", ""]), "bad_key"),
        (json!(["set", "a", large]), "bad_argument"),
        (json!(["set", "a", 1]), "bad_argument"),
        (json!(["set", "a", "1", 0]), "bad_argument"),
        (json!(["set", "a", "1", 1.5]), "bad_argument"),
        (json!(["set", "a", "1", "1"]), "bad_argument"),
        (json!(["set", "a", "1", 315_360_001]), "bad_argument"),
        (json!(["set", "a", "1", 1, 1]), "bad_argument"),
        (json!(["expire", "a", 0]), "bad_argument"),
        (json!(["expire", "a", -1]), "bad_argument"),
        (json!(["expire", "a", null]), "bad_argument"),
        (json!(["expire", "a"]), "bad_argument"),
        (json!(["get"]), "bad_argument"),
        (json!(["get", "a", "b"]), "bad_argument"),
        (json!(["del"]), "bad_argument"),
        (json!(deleted), "bad_argument"),
        (json!(["flushall"]), "bad_argument"),
        (json!(["GET", "a"]), "bad_argument"),
        (json!([]), "bad_argument"),
        (json!([1]), "bad_argument"),
        (json!({"get": "a"}), "bad_argument"),
    ] {
        assert_eq!(
            at_once(&isolate.limiter, &call),
            (json!(null), json!(code)),
            "{call}"
        );
    }
    let garbage = isolate
        .limiter
        .run_application_command("[\"get\"")
        .now_or_never();
    assert_eq!(garbage.unwrap().status, 400);
    assert!(isolate.effects.calls().is_empty());
}

#[test]
fn keys_in_memory_are_bounded_and_evict_none_of_the_limiters_own() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    let block = by("192.0.2.1", "/_limiter/blocked/192.0.2.9");
    let block = block.sending("PUT", "{\"seconds\":1}").authorized();
    assert_eq!(isolate.answer(&block).status, 200);
    let call = |call: Value| at_once(&isolate.limiter, &call).0;
    let set = |number: u32| call(json!(["set", number.to_string(), "x"]));
    let get = |number: u32| call(json!(["get", number.to_string()]));
    call(json!(["set", "ends", "x", 1_000_000]));
    for number in 0..10_000 {
        set(number);
    }
    assert_eq!(
        call(json!(["get", "ends"])),
        json!(null),
        "a key that expires is evicted first"
    );
    assert_eq!(get(0), json!("x"));
    set(0);
    set(10_000);
    let kept = [0, 1, 2, 10_000].map(get);
    assert_eq!(
        kept,
        [json!("x"), json!(null), json!("x"), json!("x")],
        "the key that was written longest ago is evicted next"
    );

    let large = "x".repeat(64 * 1024);
    for number in 20_000..20_200 {
        call(json!(["set", number.to_string(), large]));
    }
    let kept = (20_000..20_200).filter(|number| !get(*number).is_null());
    assert_eq!(kept.count(), 127, "127 values of 64 KiB fit into 8 MiB");
    assert_eq!(get(9_999), json!(null));
    assert_eq!(
        isolate.answer(&by("192.0.2.9", "/")).status,
        429,
        "the keys have not evicted the block"
    );
}

fn timed_out() -> Result<RedisResponse, crate::error::StoreError> {
    Err(crate::error::StoreError::Timeout)
}

fn replied(body: &str) -> Result<RedisResponse, crate::error::StoreError> {
    Ok(RedisResponse {
        status: 200,
        body: body.to_owned(),
    })
}

#[test]
fn every_call_but_incr_is_repeated_after_a_timeout() {
    for (call, body, result) in [
        (json!(["get", "a"]), "{\"result\":null}", Some(json!(null))),
        (
            json!(["set", "a", "1", 9]),
            "{\"result\":\"OK\"}",
            Some(json!("OK")),
        ),
        (
            json!(["expire", "a", 9]),
            "{\"result\":1}",
            Some(json!(true)),
        ),
        (json!(["del", "a"]), "{\"result\":1}", Some(json!(1))),
        (json!(["incr", "a"]), "{\"result\":1}", None),
    ] {
        let isolate = Isolate::new(&upstash(&json!({})));
        isolate.effects.reply(timed_out());
        isolate.effects.reply(timed_out());
        isolate.effects.reply(replied(body));
        let (returned, code) = at_once(&isolate.limiter, &call);
        let calls = isolate.effects.calls();
        match result {
            Some(result) => assert_eq!((returned, calls.len()), (result, 3), "{call}"),
            None => assert_eq!((code, calls.len()), (json!("store_unavailable"), 1)),
        }
    }
}

#[test]
fn no_call_is_made_while_the_breaker_is_open() {
    let isolate = Isolate::new(&upstash(&json!({})));
    let message = |call: &str| {
        let answer = isolate
            .limiter
            .run_application_command(call)
            .now_or_never()
            .unwrap();
        assert_eq!(answer.status, 503);
        json_of(&answer)["message"].as_str().unwrap().to_owned()
    };
    isolate.effects.reply(timed_out());
    assert!(message("[\"incr\",\"a\"]").contains("The call may have taken effect."));
    // Redis refuses the token, which opens the breaker at once.
    isolate.effects.reply(Ok(RedisResponse {
        status: 401,
        body: String::new(),
    }));
    isolate.answer(&by("192.0.2.1", "/"));
    isolate.effects.calls();
    for call in ["[\"incr\",\"a\"]", "[\"get\",\"a\"]"] {
        assert!(message(call).contains("The call has not taken effect."));
    }
    assert!(isolate.effects.calls().is_empty() && isolate.effects.slept().is_empty());
}

#[test]
fn a_malformed_reply_is_an_error() {
    for call in ["get", "incr"] {
        for body in ["[]", "{\"result\":[]}", "{}", "[{\"result\":1}]"] {
            let isolate = Isolate::new(&upstash(&json!({})));
            (0..3).for_each(|_| isolate.effects.reply(replied(body)));
            let (_, code) = at_once(&isolate.limiter, &json!([call, "a"]));
            assert_eq!(code, json!("store_unavailable"), "{call} {body}");
        }
    }
}

/// An application cannot use up the whole cap.
#[test]
fn an_applications_calls_count_towards_the_cap_on_commands() {
    let mut vars = upstash(&json!({}));
    vars["REDIS_MAX_COMMANDS_PER_SECOND"] = json!(50);
    let isolate = Isolate::new(&vars);
    let get = || {
        isolate.effects.reply(replied("{\"result\":\"x\"}"));
        at_once(&isolate.limiter, &json!(["get", "a"])).1
    };
    assert!((0..30).all(|_| get().is_null()));
    assert_eq!(isolate.effects.calls().len(), 30);
    assert_eq!(get(), json!("store_unavailable"));
    assert!(isolate.effects.calls().is_empty());
    isolate.effects.set(1100);
    assert!(get().is_null());
}

/// It is the application's mistake, not a failure of the store.
#[test]
fn incrementing_a_value_that_is_no_number_is_no_failed_call_in_metrics() {
    let mut vars = upstash(&json!({}));
    vars["RATE_LIMIT_METRICS"] = json!(true);
    let isolate = Isolate::new(&vars);
    isolate.effects.reply(replied(
        "{\"error\":\"ERR value is not an integer or out of range\"}",
    ));
    let (_, code) = at_once(&isolate.limiter, &json!(["incr", "a"]));
    assert_eq!(code, json!("not_a_number"));
    let calls = isolate.limiter.store_counts().calls;
    let counts: Vec<_> = calls.results().map(|(_, count)| count).collect();
    assert_eq!(counts, [1, 0, 0, 0]);
}

#[test]
fn an_event_that_the_application_reports_is_listed_and_counts_against_nobody() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_AUTH": "5,60", "RATE_LIMIT_ESCALATION": "3,600,600",
    }));
    let log = |identifier: &str, policy: &str, path: &str| {
        at_once(
            &isolate.limiter,
            &json!(["log", identifier, policy, "POST", path]),
        )
    };
    for _ in 0..20 {
        assert_eq!(
            log("192.0.2.1", "auth", "/login"),
            (json!(null), json!(null))
        );
    }
    log("user:alice", "auth", "");
    log("card:4242", "general", &"/x".repeat(1000));
    assert!(!isolate.run_duties().is_empty(), "a duty writes the events");
    let events = isolate.admin_json("events");
    let events = events["events"].as_array().unwrap();
    assert_eq!(events.len(), 3);
    let first = events
        .iter()
        .find(|event| event["caller"] == "192.0.2.1")
        .unwrap();
    for (field, value) in [
        ("kind", json!("reported")),
        ("policy", json!("auth")),
        ("method", json!("POST")),
        ("path", json!("/login")),
        ("status", json!(0)),
        ("count", json!(20)),
    ] {
        assert_eq!(first[field], value, "{first}");
    }
    assert!(
        events
            .iter()
            .all(|event| event["path"].as_str().unwrap().len() <= 256)
    );
    assert_eq!(isolate.admin_json("suspicious")["callers"], json!([]));
    assert_eq!(isolate.admin_json("blocked")["blocked"], json!([]));
    assert_eq!(isolate.admin_json("usage/auth/192.0.2.1")["used"], 0);

    for (call, code) in [
        (
            json!(["log", "192.0.2.1", "nothing", "GET", "/"]),
            "unknown_policy",
        ),
        (json!(["log", "", "auth", "GET", "/"]), "bad_identifier"),
        (
            json!(["log", "user:", "auth", "GET", "/"]),
            "bad_identifier",
        ),
        (json!(["log", "a", "auth", "GET", "/\n"]), "bad_argument"),
        (
            json!(["log", "a", "auth", "G".repeat(65), "/"]),
            "bad_argument",
        ),
        (json!(["log", "a", "auth", null, "/"]), "bad_argument"),
        (json!(["log", "a", "auth"]), "bad_argument"),
    ] {
        assert_eq!(at_once(&isolate.limiter, &call).1, json!(code), "{call}");
    }
    let silent = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_EVENTS": false}));
    let returned = at_once(&silent.limiter, &json!(["log", "a", "general", "", ""]));
    assert_eq!(returned, (json!(null), json!(null)));
    assert!(silent.run_duties().is_empty());
}

/// The ACL in docs/redis.md grants every command that an application's calls use.
#[test]
fn the_documented_redis_user_may_run_every_application_call() {
    let guide = include_str!("../../../docs/redis.md");
    let granted = guide.split_once("ACL SETUSER limiter").unwrap().1;
    let granted = granted.split_once("```").unwrap().0;
    let isolate = Isolate::new(&upstash(&json!({})));
    for call in [
        json!(["get", "a"]),
        json!(["set", "a", "1", 1]),
        json!(["incr", "a"]),
        json!(["expire", "a", 1]),
        json!(["del", "a"]),
    ] {
        at_once(&isolate.limiter, &call);
        for (body, _) in isolate.effects.calls() {
            let command: Vec<String> = serde_json::from_str(&body).unwrap();
            let granting = format!("+{}", command[0].to_lowercase());
            assert!(
                granted.split_whitespace().any(|word| word == granting),
                "{granting}"
            );
            assert!(command[1].starts_with("ratelimit:app/"), "{body}");
        }
    }
}
