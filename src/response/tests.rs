//! The limiter's own answers.

use serde_json::{Value, json};

use super::{BodyFormat, Response, in_words};
use crate::blocklist::AddressBlock;
use crate::config::Dialect;
use crate::gate::Report;
use crate::quota::QuotaOutcome;
use crate::response::headers::tests::{report, standing};
use crate::time::{Millis, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_500);

fn denied(milliseconds: u64) -> QuotaOutcome {
    QuotaOutcome::Denied {
        retry_at: NOW + Millis::new(milliseconds),
    }
}

fn answer(report: &Report, form: BodyFormat) -> (Response, Value) {
    let response = Response::denied(form, report, Dialect::XRateLimit, NOW);
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
fn a_denial_in_json() {
    let (response, body) = answer(
        &report(false, vec![standing("auth", 30, 0, denied(119_100))]),
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
fn a_denial_as_a_problem() {
    let report = report(false, vec![standing("auth", 30, 0, denied(1))]);
    let (response, body) = answer(&report, BodyFormat::Problem);
    assert_eq!(
        header(&response, "Content-Type"),
        Some("application/problem+json")
    );
    assert_eq!(header(&response, "Retry-After"), Some("1"), "never 0");
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
fn the_later_of_block_and_quota_is_told() {
    let mut blocked = standing("auth", 30, 0, denied(60_000));
    blocked.answer.blocked_until = Some(NOW + Millis::from_secs(600));
    let (response, body) = answer(&report(false, vec![blocked.clone()]), BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), Some("600"));
    assert_eq!(body["blocked"], true);
    blocked.answer.blocked_until = Some(NOW + Millis::from_secs(30));
    let (response, _) = answer(&report(false, vec![blocked]), BodyFormat::Json);
    assert_eq!(header(&response, "Retry-After"), Some("60"));
}

#[test]
fn an_impossible_cost_is_not_told_to_wait() {
    let mut report = report(
        false,
        vec![standing("auth", 30, 30, QuotaOutcome::Impossible)],
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
fn a_blocked_address_is_told_when_it_ends_if_it_does() {
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
fn waiting_times_in_words_are_rounded_up() {
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
