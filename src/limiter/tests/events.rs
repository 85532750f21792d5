//! Denials and sampled requests on record.

use serde_json::json;

use super::super::Duty;
use super::{Isolate, TOKEN, by, get};
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
    let events = isolate.control("events");
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
    let event = &isolate.control("events")["events"][0];
    assert_eq!(
        (&event["kind"], &event["status"], &event["count"]),
        (&json!("admitted"), &json!(204), &json!(5))
    );
}

#[test]
fn a_denial_by_a_quota_that_callers_share_is_held_against_none_of_them() {
    for (key, caller) in [
        ("global", CallerKey::Global),
        ("header:x-api-key", CallerKey::header("x-api-key", "shared")),
    ] {
        let isolate = Isolate::new(&json!({
            "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,60,600",
            "RATE_LIMIT_ESCALATION": "10,60,600", "RATE_LIMIT_POLICIES": {"general": {"key": key}},
        }));
        let of = |address| by(address, "/").with("x-api-key", "shared");
        assert_eq!(isolate.answer(&of("192.0.2.66")).status, 200);
        assert_eq!(isolate.statuses(&of("192.0.2.1"), 20), [429; 20]);
        isolate.run_duties();
        assert_eq!(isolate.control("blocked")["blocked"], json!([]), "{key}");
        let event = &isolate.control("events")["events"][0];
        assert_eq!(
            event["caller"],
            caller.to_string(),
            "the key that was charged"
        );
        assert_eq!(event["count"], 20);
    }
}
