//! Tests of the limiter's own answers.

use serde_json::{Value, json};

use super::{BodyFormat, Response, in_words};
use crate::blocklist::AddressBlock;
use crate::config::Dialect;
use crate::gate::RequestVerdict;
use crate::quota::QuotaOutcome;
use crate::response::headers::tests::{quota_status, report};
use crate::time::{Millis, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_500);

fn denied(milliseconds: u64) -> QuotaOutcome {
    QuotaOutcome::Denied {
        retry_at: NOW + Millis::new(milliseconds),
    }
}

fn answer(report: &RequestVerdict, format: BodyFormat) -> (Response, Value) {
    let response = Response::denied(format, report, Dialect::XRateLimit, NOW);
    assert_eq!(response.status, 429);
    assert_eq!(header(&response, "Cache-Control"), Some("no-store"));
    let body = serde_json::from_str(&response.body).unwrap();
    (response, body)
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let found = response.headers.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn a_denial_in_json_has_a_message_and_the_numbers() {
    let (response, body) = answer(
        &report(false, vec![quota_status("auth", 30, 0, denied(119_100))]),
        BodyFormat::Json,
    );
    assert_eq!(header(&response, "Content-Type"), Some("application/json"));
    assert_eq!(header(&response, "Retry-After"), Some("120"));
    assert_eq!(header(&response, "X-RateLimit-Type"), Some("auth"));
    assert_eq!(
        body,
        json!({
            "error": "Too many requests",
            "message": "Rate limit exceeded. Try again in 2 minutes.",
            "type": "auth",
            "limit": 30,
            "remaining": 0,
            "reset": 1_764_000_120,
            "retryAfter": 120,
            "blocked": false,
        })
    );
    assert_eq!(header(&response, "X-RateLimit-Reset"), Some("1764000120"));
}

#[test]
fn a_denial_in_problem_details_names_the_violated_policy() {
    let report = report(false, vec![quota_status("auth", 30, 0, denied(1))]);
    let (response, body) = answer(&report, BodyFormat::Problem);
    assert_eq!(
        header(&response, "Content-Type"),
        Some("application/problem+json")
    );
    assert_eq!(
        header(&response, "Retry-After"),
        Some("1"),
        "it is at least 1 s"
    );
    assert_eq!(
        body,
        json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "detail": "Rate limit exceeded. Try again in 1 second.",
            "violated-policies": ["auth"],
            "limit": 30,
            "remaining": 0,
            "reset": 1_764_000_001,
            "retryAfter": 1,
            "blocked": false,
        })
    );
}

#[test]
fn retry_after_is_the_later_of_block_and_quota() {
    let mut blocked = quota_status("auth", 30, 0, denied(60_000));
    blocked.answer.blocked_until = Some(NOW + Millis::from_secs(600));
    let (response, body) = answer(&report(false, vec![blocked.clone()]), BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), Some("600"));
    assert_eq!(body["blocked"], true);
    blocked.answer.blocked_until = Some(NOW + Millis::from_secs(30));
    let (response, _) = answer(&report(false, vec![blocked]), BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), Some("60"));
}

#[test]
fn a_denial_of_an_impossible_cost_has_no_retry_after() {
    let mut report = report(
        false,
        vec![quota_status("auth", 30, 30, QuotaOutcome::Impossible)],
    );
    report.cost = 50;
    let (response, body) = answer(&report, BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), None);
    assert_eq!(body["retryAfter"], Value::Null);
    assert_eq!(
        body["message"],
        "This request costs 50 units, and the limit is 30. Waiting will not help."
    );
}

#[test]
fn retry_after_of_a_blocked_address_is_the_end_of_the_block_if_it_has_one() {
    let mut report = report(false, Vec::new());
    report.address_block = Some(AddressBlock {
        until: Some(NOW + Millis::from_secs(90)),
    });
    let (response, body) = answer(&report, BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), Some("90"));
    assert_eq!(
        (&body["blocked"], &body["type"]),
        (&json!(true), &json!("blocked"))
    );
    report.address_block = Some(AddressBlock { until: None });
    let (response, body) = answer(&report, BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), None);
    assert_eq!(body["message"], "Requests from this address are blocked.");
}

#[test]
fn a_waiting_time_in_words_is_rounded_up() {
    let words = [
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "2 minutes"),
        (3599, "60 minutes"),
        (3600, "1 hour"),
        (3601, "2 hours"),
        (86_400, "1 day"),
        (100_000, "2 days"),
    ];
    for (seconds, expected) in words {
        assert_eq!(in_words(seconds), expected);
    }
}
