//! What holds for every answer of the control plane to any request. `tests/control` tests each call on a real runtime.

use proptest::prelude::*;
use serde_json::Value;

use self::control_plane::{TOKEN, TestControlPlane};
use super::{AdminRequest, RequestBody};
use crate::response::Response;

#[path = "../../tests/fixtures/control_plane.rs"]
mod control_plane;

impl TestControlPlane {
    fn call(&self, method: &str, path: &str, body: &str) -> Response {
        self.ask(&request(method, path, "", body))
    }
}

fn request(method: &str, path: &str, query: &str, body: &str) -> AdminRequest {
    AdminRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        authorization: Some(format!("Bearer {TOKEN}")),
        accept: None,
        client_ip: Some("198.18.0.1".to_owned()),
        worker_zone: None,
        body: RequestBody::Text(body.to_owned()),
    }
}

/// A segment of a path or a text of a body: valid, close to valid, or arbitrary.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => proptest::sample::select(vec![
            "blocked", "events", "suspicious", "policies", "usage", "check", "health", "auth", "general", "unknown",
            "global", "192.0.2.1", "10.0.0.0%2F8", "2001:db8::1", "198.51.100.7", "user:alice", "id:*", "*", "..", "",
            "user-0123456789abcdef0123456789abcdef", "192.0.2.1:blocked", "%00", "%ff", "a%0d%0ab",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    let name =
        proptest::sample::select(vec!["limit", "cursor", "hours", "older_than_seconds", "x"]);
    let value = prop_oneof!["[0-9]{0,12}", "\\PC{0,12}", "[ar][0-9.:/-]{0,12}"];
    proptest::collection::vec((name, value), 0..3).prop_map(|pairs| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("&")
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u32..100).prop_map(Value::from),
        segment().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = proptest::sample::select(vec![
            "seconds",
            "reason",
            "policy",
            "identifier",
            "cost",
            "checks",
            "x",
        ]);
        let name = name.prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(name, inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => value().prop_map(|value| value.to_string()),
        1 => "\\PC{0,40}",
    ]
}

proptest! {
    #[test]
    fn any_request_with_the_token_gets_a_documented_answer(
        calls in proptest::collection::vec(
            (
                proptest::sample::select(vec!["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"]),
                proptest::collection::vec(segment(), 0..4),
                query(),
                body(),
            ),
            1..8,
        ),
    ) {
        let plane = TestControlPlane::new();
        for (method, segments, query, body) in calls {
            let path = format!("/{}", segments.join("/"));
            let before = plane.redis_calls();
            let answer = plane.ask(&request(method, &path, &query, &body));
            prop_assert!(answer.status != 405 || plane.redis_calls() == before);
            if answer.is_file {
                prop_assert_eq!((answer.status, plane.redis_calls()), (200, before));
                continue;
            }
            prop_assert!(
                matches!(answer.status, 200 | 400 | 404 | 405 | 409),
                "{method} {path}: {}", answer.status
            );
            let parsed: Value = serde_json::from_str(&answer.body).unwrap();
            prop_assert!(answer.headers.contains(&("Cache-Control", "no-store".to_owned())));
            if answer.status != 200 {
                prop_assert!(parsed["error"].is_string() && parsed["message"].is_string());
            }
            let reveals_a_token = answer.body.contains(TOKEN) || answer.body.contains("another-token");
            prop_assert!(!reveals_a_token);
        }
    }

    #[test]
    fn a_request_without_the_token_does_not_reach_redis(
        method in proptest::sample::select(vec!["GET", "PUT", "POST", "DELETE"]),
        segments in proptest::collection::vec(segment(), 1..4),
        authorization in prop_oneof![Just(None), "\\PC{0,40}".prop_map(Some)],
    ) {
        let plane = TestControlPlane::new();
        let path = format!("/{}", segments.join("/"));
        let answer = plane.ask(&AdminRequest {
            authorization,
            body: RequestBody::TooLong,
            ..request(method, &path, "", "")
        });
        let is_public = segments == ["health"] || path == "/";
        prop_assert!(is_public || answer.status == 401, "{path}: {}", answer.status);
        prop_assert_eq!(plane.redis_calls(), 0);
    }
}

#[test]
fn a_pattern_in_place_of_a_caller_resets_no_quota() {
    let plane = TestControlPlane::new();
    let check = r#"{"policy":"auth","identifier":"192.0.2.1","cost":3}"#;
    assert_eq!(plane.call("POST", "/check", check).status, 200);
    let star = r#"{"policy":"auth","identifier":"*","cost":2}"#;
    assert_eq!(plane.call("POST", "/check", star).status, 200);
    for pattern in ["*", "192.0.2.*", "192.0.2.?", "[1]"] {
        let path = format!("/usage/auth/{pattern}");
        assert_eq!(plane.call("DELETE", &path, "").status, 400, "{pattern}");
    }
    let used = |caller: &str| {
        let usage = plane.call("GET", &format!("/usage/auth/{caller}"), "");
        let usage: Value = serde_json::from_str(&usage.body).unwrap();
        usage["used"].as_u64()
    };
    // A caller whose name is a star is one caller: a reset of it touches no other.
    assert_eq!([used("192.0.2.1"), used("id:*")], [Some(3), Some(2)]);
    assert_eq!(plane.call("DELETE", "/usage/auth/id:*", "").status, 200);
    assert_eq!([used("192.0.2.1"), used("id:*")], [Some(3), Some(0)]);
}

#[test]
fn a_body_that_is_not_an_object_is_refused() {
    let plane = TestControlPlane::new();
    for body in ["[]", "[60]", "60", "\"60\"", "null", "true", "{", "{}{}"] {
        assert_eq!(
            plane.call("PUT", "/blocked/192.0.2.1", body).status,
            400,
            "{body}"
        );
    }
    for (body, status) in [(RequestBody::TooLong, 413), (RequestBody::NotText, 400)] {
        let request = AdminRequest {
            body,
            ..request("PUT", "/blocked/192.0.2.1", "", "")
        };
        assert_eq!(plane.ask(&request).status, status);
    }
    assert_eq!(plane.call("PUT", "/blocked/192.0.2.1", "").status, 200);
}

#[test]
fn a_body_with_a_repeated_field_is_refused() {
    let plane = TestControlPlane::new();
    for body in [
        r#"{"seconds":60,"seconds":1}"#,
        r#"{"seconds":60,"reason":"a","reaso\u006e":"a"}"#,
    ] {
        let answer = plane.call("PUT", "/blocked/192.0.2.1", body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(
            answer.body.contains("bad_request") && answer.body.contains("twice"),
            "{answer:?}"
        );
    }
    for body in [
        r#"{"policy":"auth","identifier":"a","cost":9,"cost":0}"#,
        r#"{"policy":"auth","identifier":"a","identifier":"b"}"#,
        r#"{"checks":[{"policy":"mfa","identifier":"a","policy":"general"}]}"#,
        r#"{"checks":[{"policy":"auth","identifier":"a"}],"checks":[{"policy":"auth","identifier":"b"}]}"#,
        r#"{"policy":"auth","identifier":"a","Identifier":"b"}"#,
    ] {
        assert_eq!(plane.call("POST", "/check", body).status, 400, "{body}");
    }
    let usage = plane.call("GET", "/usage/auth/id:a", "");
    assert!(usage.body.contains("\"used\":0"), "{usage:?}");
}

#[test]
fn a_block_of_a_range_with_bits_after_its_prefix_is_refused_and_the_range_is_named() {
    let plane = TestControlPlane::new();
    for (target, meant) in [
        ("10.9.8.7%2F8", "10.0.0.0/8"),
        ("203.0.113.1%2F24", "203.0.113.0/24"),
        ("2001:db8:7::1%2F48", "2001:db8:7::/48"),
        ("2001:db8:7::1%2F64", "2001:db8:7::/64"),
        ("::ffff:203.0.113.1%2F120", "203.0.113.0/24"),
    ] {
        let path = format!("/blocked/{target}");
        let answer = plane.call("PUT", &path, "");
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.body.contains(meant), "{answer:?}");
        // Looking up and lifting accept this form: they act on listed blocks alone.
        for method in ["GET", "DELETE"] {
            assert_eq!(
                plane.call(method, &path, "").status,
                200,
                "{method} {target}"
            );
        }
    }
    let listed = plane.call("GET", "/blocked", "");
    assert!(listed.body.contains("\"blocked\":[]"), "{listed:?}");
    for target in [
        "10.0.0.0%2F8",
        "203.0.113.1",
        "203.0.113.1%2F32",
        "2001:db8:7::1",
        "2001:db8:7::%2F64",
    ] {
        for method in ["PUT", "GET", "DELETE"] {
            let answer = plane.call(method, &format!("/blocked/{target}"), "");
            assert_eq!(answer.status, 200, "{method} {target}: {answer:?}");
        }
    }
}
