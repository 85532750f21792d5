//! Policies in shadow mode.

use serde_json::json;

use super::super::Duty;
use super::{Isolate, by, get, header, json_of, policies_and};

#[test]
fn shadow_denials_are_logged_and_admitted() {
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

/// Nor an address, whichever key was charged: with events as well as without.
#[test]
fn a_flood_of_shadow_denials_is_a_line_every_few_seconds() {
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
fn a_shadow_policy_reports_and_never_denies_blocks_or_disturbs() {
    let isolate = policies_and("RATE_LIMIT_GENERAL", "4,3600");
    // What the configuration warns of.
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
        // The enforced quota's numbers, though the shadow's are smaller.
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
fn the_ietfs_dialect_has_shadow_policies_in_a_header_of_their_own() {
    let isolate = policies_and("RATE_LIMIT_HEADERS", "ietf");
    let answer = isolate.answer(&by("192.0.2.1", "/watched"));
    let header = |name| header(&answer.headers, name);
    let limits = "\"general\";r=2;t=3660, \"ip\";r=49;t=3660";
    assert_eq!(header("ratelimit"), Some(limits));
    assert_eq!(header("x-ratelimit-shadow"), Some("watched=admitted;r=0"));
}
