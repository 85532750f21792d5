//! Policies in shadow mode.

use serde_json::json;

use super::super::Duty;
use super::{Isolate, by, get, header, json_of, policies_and};

#[test]
fn a_request_that_a_shadow_policy_would_deny_is_admitted_and_logged() {
    let vars = json!({
        "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"general": {"mode": "shadow"}},
    });
    let isolate = Isolate::new(&vars);
    for _ in 0..2 {
        assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    }
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
    assert_eq!(
        isolate.effects.lines(),
        ["shadow: policy general would have denied 1 request of 1 caller in 3 s"]
    );
}

/// The line contains no address, whichever key is charged, and whether events are on or off.
#[test]
fn a_flood_of_shadow_denials_logs_one_line_every_few_seconds() {
    for (events, key) in [
        (true, "ip"),
        (false, "ip"),
        (true, "global"),
        (true, "header:x-key"),
    ] {
        let isolate = Isolate::new(&json!({
            "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off", "RATE_LIMIT_EVENTS": events,
            "RATE_LIMIT_POLICIES": {"general": {"mode": "shadow", "key": key}},
        }));
        for batch in 0..2 {
            for request in 0..1000 {
                let address = format!("192.0.2.{}", request % 10);
                isolate.answer(&by(&address, "/").with("x-key", "a"));
            }
            assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
            let lines = isolate.effects.lines();
            let [line] = lines.as_slice() else {
                panic!("{lines:?}")
            };
            assert!(
                line.ends_with("requests of 10 callers in 3 s"),
                "{batch} {line}"
            );
            assert!(!line.contains("192.0.2"), "{line}");
        }
    }
}

#[test]
fn a_shadow_policy_is_reported_and_neither_denies_nor_blocks() {
    let isolate = policies_and("RATE_LIMIT_GENERAL", "4,3600");
    // Drops the warnings about the configuration.
    isolate.effects.lines();
    let request = by("192.0.2.1", "/watched");
    for (shadow, left) in [
        ("watched=admitted;r=0", "3"),
        ("watched=denied;r=0", "2"),
        ("watched=denied;r=0", "1"),
        ("watched=denied;r=0", "0"),
    ] {
        let answer = isolate.answer(&request);
        assert_eq!(answer.status, 200);
        let header = |name| header(&answer.headers, name);
        // The numbers are those of the enforced quota, although the shadow quota has fewer units left.
        assert_eq!(header("x-ratelimit-type"), Some("general"));
        assert_eq!(header("x-ratelimit-limit"), Some("4"));
        assert_eq!(header("x-ratelimit-remaining"), Some(left));
        assert_eq!(header("x-ratelimit-shadow"), Some(shadow));
        assert!(answer.body.contains("\"policies\":[\"general\",\"ip\"]"));
    }
    let denied = isolate.answer(&request);
    assert_eq!(denied.status, 429);
    let body = json_of(&denied);
    assert_eq!(body["type"], "general");
    assert_eq!(body["blocked"], false);
    isolate.run_duties();
    let logged = "shadow: policy watched would have denied 4 requests of 1 caller in 3 s";
    assert_eq!(isolate.effects.lines(), [logged]);
}

#[test]
fn the_ietf_dialect_reports_shadow_policies_in_their_own_header() {
    let isolate = policies_and("RATE_LIMIT_HEADERS", "ietf");
    let answer = isolate.answer(&by("192.0.2.1", "/watched"));
    let header = |name| header(&answer.headers, name);
    let limits = "\"general\";r=2;t=3660, \"ip\";r=49;t=3660";
    assert_eq!(header("ratelimit"), Some(limits));
    assert_eq!(header("x-ratelimit-shadow"), Some("watched=admitted;r=0"));
}
