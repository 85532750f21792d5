//! Which denials and sampled requests are recorded, and which denials count towards an escalation.

use serde_json::{Value, json};

use super::super::Duty;
use super::{Isolate, TOKEN, by, get, json_of};
use crate::client::CallerKey;

#[test]
fn a_duty_records_like_denials_as_one_event() {
    let vars = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"});
    let isolate = Isolate::new(&vars);
    assert_eq!(isolate.answer(&get("http://localhost/a")).status, 200);
    assert!(
        isolate.run_duties().is_empty(),
        "an admitted request is not in the sample"
    );
    for _ in 0..10 {
        assert_eq!(
            isolate
                .answer(&get("http://localhost/a").with("cf-ray", "8f-VIE"))
                .status,
            429
        );
    }
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
    let events = isolate.admin_json("events");
    let event = &events["events"][0];
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    for (field, value) in [
        ("kind", json!("denied")),
        ("caller", json!("192.0.2.1")),
        ("policy", json!("general")),
        ("count", json!(10)),
        ("status", json!(429)),
        ("path", json!("/a")),
        ("ray", json!("8f-VIE")),
        ("country", json!("AT")),
        ("asn", json!(64_500)),
    ] {
        assert_eq!(event[field], value, "{event}");
    }
}

#[test]
fn a_sampled_request_is_recorded_with_its_origins_status() {
    let vars = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_EVENT_SAMPLE": "0.5", "ORIGIN_URL": "https://app.example"});
    let isolate = Isolate::new(&vars);
    let samples: Vec<_> = (0..10)
        .filter_map(|_| isolate.forward(&get("https://shop.example/a")).sample)
        .collect();
    assert_eq!(samples.len(), 5);
    for sample in samples {
        isolate.limiter.forwarded(sample, 204);
    }
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
    let event = &isolate.admin_json("events")["events"][0];
    assert_eq!(
        (&event["kind"], &event["status"], &event["count"]),
        (&json!("admitted"), &json!(204), &json!(5))
    );
}

/// The answer of `POST /_limiter/check` to the body.
fn checked(isolate: &Isolate, body: &'static str) -> Value {
    let request = get("http://localhost/_limiter/check").authorized();
    json_of(&isolate.admin_answer(&request.sending("POST", body)))
}

/// The blocked addresses, and the suspicious callers with the number of their denials.
fn blocked_and_suspicious(isolate: &Isolate) -> (Vec<Value>, Vec<Value>) {
    isolate.run_duties();
    let blocked = isolate.admin_json("blocked")["blocked"].clone();
    let blocked = blocked.as_array().unwrap().iter();
    let suspicious = isolate.admin_json("suspicious?hours=2")["callers"].clone();
    let suspicious = suspicious.as_array().unwrap().iter();
    (
        blocked.map(|block| block["target"].clone()).collect(),
        suspicious
            .map(|known| json!([known["caller"], known["denied"]]))
            .collect(),
    )
}

#[test]
fn a_denial_by_a_shared_quota_counts_against_nobody() {
    for (key, caller) in [
        ("global", CallerKey::Global),
        ("header:x-api-key", CallerKey::header("x-api-key", "shared")),
    ] {
        let isolate = Isolate::new(&json!({
            "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60,600",
            "RATE_LIMIT_ESCALATION": "10,60,600", "RATE_LIMIT_POLICIES": {"general": {"key": key}},
        }));
        let request = |address| by(address, "/").with("x-api-key", "shared");
        assert_eq!(isolate.answer(&request("192.0.2.66")).status, 200);
        assert_eq!(isolate.statuses(&request("192.0.2.1"), 20), [429; 20]);
        assert_eq!(blocked_and_suspicious(&isolate), (vec![], vec![]), "{key}");
        let event = &isolate.admin_json("events")["events"][0];
        assert_eq!(
            event["caller"],
            caller.to_string(),
            "the event's caller is the key that was charged"
        );
        assert_eq!(
            event["address"], "192.0.2.1",
            "the event's address is that of the first request"
        );
        assert_eq!(event["count"], 20);
    }
}

/// The denial counts even if a shared quota denies the request for longer.
#[test]
fn a_denial_by_a_callers_own_quota_counts_against_that_caller_alone() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_ALL": "1,3600",
        "RATE_LIMIT_ESCALATION": "10,60,600", "RATE_LIMIT_POLICIES": {"all": {"key": "global"}},
        "RATE_LIMIT_ROUTES": [{"path": "/", "policies": ["general", "all"]}],
    }));
    assert_eq!(isolate.answer(&by("192.0.2.66", "/")).status, 200);
    assert_eq!(isolate.statuses(&by("192.0.2.66", "/"), 11), [429; 11]);
    assert_eq!(isolate.statuses(&by("192.0.2.1", "/"), 11), [429; 11]);
    let (blocked, suspicious) = blocked_and_suspicious(&isolate);
    assert_eq!(blocked, ["192.0.2.66"]);
    assert_eq!(suspicious, [json!(["192.0.2.66", 11])]);
}

#[test]
fn a_denial_by_a_block_counts_against_nobody() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_ESCALATION": "10,60,600",
    }));
    let range = get("http://localhost/_limiter/blocked/192.0.2.0%2F24").authorized();
    assert_eq!(isolate.answer(&range.sending("PUT", "{}")).status, 200);
    assert_eq!(isolate.statuses(&by("192.0.2.1", "/"), 20), [429; 20]);
    for _ in 0..20 {
        let answer = checked(&isolate, r#"{"policy":"general","identifier":"192.0.2.1"}"#);
        assert_eq!(answer["allowed"], false);
    }
    let (blocked, suspicious) = blocked_and_suspicious(&isolate);
    assert_eq!(blocked, ["192.0.2.0/24"]);
    assert_eq!(suspicious, [] as [Value; 0]);
}

/// Of two identifiers under one policy, the second is denied.
#[test]
fn a_denied_check_counts_against_the_identifier_whose_quota_denies() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_ESCALATION": "10,60,600",
    }));
    let key = r#"{"policy":"general","identifier":"a-key"}"#;
    assert_eq!(checked(&isolate, key)["allowed"], true);
    let both = r#"{"checks":[{"policy":"general","identifier":"192.0.2.1"},{"policy":"general","identifier":"a-key"}]}"#;
    for _ in 0..20 {
        assert_eq!(checked(&isolate, both)["allowed"], false);
    }
    let (blocked, suspicious) = blocked_and_suspicious(&isolate);
    assert_eq!(blocked, [] as [Value; 0]);
    let id = CallerKey::id("a-key").to_string();
    assert_eq!(suspicious, [json!([id, 20])]);
}

#[test]
fn no_denial_is_recorded_or_counted_if_events_are_off() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_ESCALATION": "10,60,600",
        "RATE_LIMIT_EVENTS": false,
    }));
    isolate.statuses(&by("192.0.2.1", "/"), 20);
    for _ in 0..20 {
        checked(&isolate, r#"{"policy":"general","identifier":"192.0.2.1"}"#);
    }
    assert_eq!(blocked_and_suspicious(&isolate), (vec![], vec![]));
    assert_eq!(isolate.admin_json("events")["events"], json!([]));
}

#[test]
fn a_cost_above_the_limit_counts_against_nobody() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_DEAR": "5,60", "RATE_LIMIT_ESCALATION": "10,60,600",
        "RATE_LIMIT_ROUTES": [{"path": "/", "policies": ["dear"], "cost": 6}],
    }));
    assert_eq!(isolate.statuses(&by("192.0.2.1", "/"), 20), [429; 20]);
    assert_eq!(blocked_and_suspicious(&isolate), (vec![], vec![]));
}

/// Five addresses send many methods each, before an attacker comes.
#[test]
fn decoys_do_not_hide_a_caller_with_many_denials() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_ESCALATION": "100,60,600",
    }));
    let methods: Vec<&'static str> = (0..24)
        .map(|number| &*format!("M{number}").leak())
        .collect();
    for decoy in 0..5 {
        let address = format!("198.51.100.{decoy}");
        for method in &methods {
            isolate.answer(&by(&address, "/").sending(method, ""));
        }
    }
    assert_eq!(
        isolate.statuses(&by("192.0.2.1", "/"), 240)[1..],
        [429; 239]
    );
    let (blocked, suspicious) = blocked_and_suspicious(&isolate);
    assert_eq!(blocked, ["192.0.2.1"]);
    assert_eq!(suspicious[0], json!(["192.0.2.1", 239]));
    let events = isolate.admin_json("events?limit=1000")["events"].clone();
    let mut events = events.as_array().unwrap().iter();
    let event = events.find(|event| event["caller"] == "192.0.2.1" && event["kind"] == "denied");
    assert_eq!(event.unwrap()["count"], 239);
}
