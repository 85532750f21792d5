//! Limits of requests, and the limit on the length of a path.

use serde_json::json;

use super::{Isolate, get, header};

#[test]
fn a_request_is_admitted_up_to_its_limit_and_then_answered_429() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_GENERAL": "2,60", "RATE_LIMIT_IP": "off"}));
    for left in ["1", "0"] {
        let admitted = isolate.answer(&get("http://localhost:8787/a"));
        assert_eq!(admitted.status, 200);
        assert_eq!(
            header(&admitted.headers, "X-RateLimit-Remaining"),
            Some(left)
        );
        assert!(
            admitted.body.contains("\"policies\":[\"general\"]"),
            "{}",
            admitted.body
        );
    }
    let denied = isolate.answer(&get("http://localhost:8787/a"));
    assert_eq!(
        (denied.status, header(&denied.headers, "Retry-After")),
        (429, Some("61"))
    );
    let plain = header(&denied.headers, "Content-Type").map(str::to_owned);
    assert_eq!(plain.as_deref(), Some("application/json"));
    let problem = get("http://localhost:8787/a").with("accept", "application/problem+json");
    let denied = isolate.answer(&problem);
    assert_eq!(
        header(&denied.headers, "Content-Type"),
        Some("application/problem+json")
    );
}

#[test]
fn a_path_of_more_than_4096_bytes_is_answered_414_and_a_query_may_be_longer() {
    let isolate = Isolate::new(&json!({}));
    let long = "x".repeat(4096);
    let url = |rest: &str| format!("http://localhost{rest}");
    assert_eq!(isolate.answer(&get(&url(&format!("/{long}")))).status, 414);
    assert_eq!(
        isolate
            .answer(&get(&url(&format!("/{}", &long[1..]))))
            .status,
        200
    );
    assert_eq!(
        isolate
            .answer(&get(&url(&format!("/?{long}{long}"))))
            .status,
        200
    );
}
