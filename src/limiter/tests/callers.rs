//! Which requests belong to one caller.

use serde_json::json;

use super::{Isolate, TestRequest, by, header, json_of, policies, policies_and, upstash};

fn left(isolate: &Isolate, request: &TestRequest) -> String {
    let answer = isolate.answer(request);
    let left = header(&answer.headers, "x-ratelimit-remaining");
    left.unwrap().to_owned()
}

#[test]
fn addresses_of_one_ipv6_64_are_one_caller() {
    let isolate = Isolate::new(&policies());
    for (address, expected) in [
        ("2001:db8:1:2::1", "2"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "1"),
        ("[2001:DB8:1:2::3]:443", "0"),
        ("2001:db8:1:3::1", "2"),
        ("203.0.113.1", "2"),
        ("::ffff:203.0.113.1", "1"),
        ("::ffff:cb00:7101", "0"),
    ] {
        assert_eq!(left(&isolate, &by(address, "/")), expected, "{address}");
    }
}

#[test]
fn other_address_headers_do_not_make_another_caller() {
    let isolate = Isolate::new(&policies());
    for (name, expected) in [
        ("x-forwarded-for", "2"),
        ("forwarded", "1"),
        ("x-real-ip", "0"),
        ("true-client-ip", "0"),
        ("x-client-ip", "0"),
    ] {
        let request = by("192.0.2.1", "/").with(name, "198.51.100.7");
        assert_eq!(left(&isolate, &request), expected, "{name}");
    }
}

#[test]
fn callers_without_an_address_share_one_quota_and_are_never_blocked() {
    let isolate = policies_and("RATE_LIMIT_GENERAL", "4,3600,600");
    let long = "x".repeat(10_000);
    for (address, status, left) in [
        (None, 200, "3"),
        (Some(""), 200, "2"),
        (Some("garbage"), 200, "1"),
        (Some("1.2.3.4, 5.6.7.8"), 200, "0"),
        (Some(long.as_str()), 429, "0"),
        (Some("\u{ff}"), 429, "0"),
    ] {
        let request = by(address.unwrap_or_default(), "/");
        let answer = isolate.answer(&match address {
            Some(_) => request,
            None => request.without("cf-connecting-ip"),
        });
        assert_eq!(answer.status, status, "{address:?}");
        let shown = header(&answer.headers, "x-ratelimit-remaining");
        assert_eq!(shown, Some(left), "{address:?}");
        let body = json_of(&answer);
        match status {
            200 => assert_eq!(body["caller"], "unknown"),
            _ => assert_eq!(body["blocked"], false),
        }
    }
    // The same policy blocks a caller that has an address.
    let request = by("192.0.2.1", "/");
    assert_eq!(isolate.statuses(&request, 4), [200; 4]);
    assert_eq!(json_of(&isolate.answer(&request))["blocked"], true);
}

#[test]
fn a_header_with_too_many_values_is_answered_400_and_nothing_is_charged() {
    let vars = || upstash(&json!({"general": {"key": "header:x-api-key"}}));
    let many = by("192.0.2.1", "/").with("x-api-key", "a, b, c, d, e");
    let redis = Isolate::new(&vars());
    let mut in_memory = vars();
    in_memory["REDIS_ENABLED"] = json!(false);
    let memory = Isolate::new(&in_memory);
    for isolate in [&redis, &memory] {
        for _ in 0..9 {
            let answer = isolate.admin_answer(&many);
            let error = &json_of(&answer)["error"];
            assert_eq!((answer.status, error), (400, &json!("bad_request")));
            assert_eq!(header(&answer.headers, "x-ratelimit-limit"), None);
        }
    }
    assert!(redis.effects.calls().is_empty(), "Redis is not asked");
    let four = many.with("x-api-key", "a, b, c, d");
    assert_eq!(left(&memory, &four), "4", "nothing was charged");
}
