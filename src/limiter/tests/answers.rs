//! Headers and bodies of answers, in each dialect.

use serde_json::{Value, json};

use super::{Isolate, by, header, json_of, policies, policies_and};
use crate::response::Response;

const CALLER: &str = "192.0.2.1";
const HOUR_MS: u64 = 3_600_000;

const X_RATELIMIT: [&str; 4] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-type",
];
const IETF: [&str; 2] = ["ratelimit", "ratelimit-policy"];
const SHADOW: &str = "x-ratelimit-shadow";

fn assert_without(response: &Response, names: &[&str]) {
    for name in names {
        assert_eq!(header(&response.headers, name), None, "{name}");
    }
}

#[test]
fn every_answer_in_the_default_dialect_has_limit_remaining_reset_and_type() {
    let isolate = Isolate::new(&policies());
    for (status, left) in [(200, "2"), (200, "1"), (200, "0"), (429, "0"), (429, "0")] {
        let answer = isolate.answer(&by(CALLER, "/"));
        assert_eq!(answer.status, status);
        // A sub-window of this sliding window lasts a minute. It counts until all of it has left the window.
        let expected = ["3", left, "1764003660", "general"].map(Some);
        let found = X_RATELIMIT.map(|name| header(&answer.headers, name));
        assert_eq!(found, expected);
        assert_without(&answer, &IETF);
        assert_without(&answer, &[SHADOW]);
        let wait = header(&answer.headers, "retry-after");
        assert_eq!(wait, (status == 429).then_some("3660"));
    }
}

#[test]
fn the_body_of_a_429_has_the_numbers_of_its_headers() {
    let isolate = Isolate::new(&policies());
    isolate.statuses(&by(CALLER, "/"), 3);
    // Whole seconds, rounded up.
    for (ms, wait, words) in [
        (0, 3660, "2 hours"),
        (30_500, 3630, "2 hours"),
        (60_000, 3600, "1 hour"),
        (60_001, 3600, "1 hour"),
        (100_500, 3560, "60 minutes"),
    ] {
        isolate.effects.set(ms);
        let answer = isolate.answer(&by(CALLER, "/"));
        assert_eq!(answer.status, 429);
        let header = |name| header(&answer.headers, name);
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("cache-control"), Some("no-store"));
        let body = json!({
            "error": "Too many requests",
            "message": format!("Rate limit exceeded. Try again in {words}."),
            "type": "general",
            "limit": 3,
            "remaining": 0,
            "reset": 1_764_003_660,
            "retryAfter": wait,
            "blocked": false,
        });
        assert_eq!(json_of(&answer), body);
        let expected = ["3", "0", "1764003660", "general"].map(Some);
        assert_eq!(X_RATELIMIT.map(header), expected);
        assert_eq!(header("retry-after"), Some(wait.to_string().as_str()));
    }
}

#[test]
fn the_next_token_is_available_when_retry_after_says_and_not_before() {
    let isolate = Isolate::new(&policies());
    let request = by(CALLER, "/bucket");
    assert_eq!(isolate.statuses(&request, 2), [200, 200]);
    for ms in [0, 1, 999] {
        isolate.effects.set(ms);
        let denied = isolate.answer(&request);
        assert_eq!(denied.status, 429, "after {ms} ms");
        let header = |name| header(&denied.headers, name);
        // One token comes each second. Rounded down, the wait would be 0.
        assert_eq!(header("retry-after"), Some("1"));
        assert_eq!(header("x-ratelimit-limit"), Some("2"));
        assert_eq!(header("x-ratelimit-reset"), Some("1764000001"));
        let message = "Rate limit exceeded. Try again in 1 second.";
        assert_eq!(json_of(&denied)["message"], message);
    }
    isolate.effects.set(1000);
    assert_eq!(isolate.statuses(&request, 2), [200, 429]);
}

#[test]
fn a_fixed_window_resets_at_its_end() {
    let isolate = Isolate::new(&policies());
    for (ms, reset) in [
        (1_234_567, "1764003600"),
        (HOUR_MS - 1, "1764003600"),
        (HOUR_MS, "1764007200"),
    ] {
        isolate.effects.set(ms);
        let answer = isolate.answer(&by(CALLER, "/fixed"));
        assert_eq!(header(&answer.headers, "x-ratelimit-reset"), Some(reset));
    }
}

#[test]
fn a_client_that_accepts_problem_json_gets_problem_json() {
    let isolate = Isolate::new(&policies());
    isolate.statuses(&by(CALLER, "/"), 3);
    for accept in [
        "application/problem+json",
        "text/html;q=0.4, application/problem+json;q=0.5",
        "Application/Problem+JSON",
    ] {
        let answer = isolate.answer(&by(CALLER, "/").with("accept", accept));
        assert_eq!(answer.status, 429, "{accept}");
        let header = |name| header(&answer.headers, name);
        assert_eq!(header("content-type"), Some("application/problem+json"));
        assert_eq!(header("cache-control"), Some("no-store"));
        let body = json_of(&answer);
        for (field, value) in [
            (
                "type",
                json!("https://iana.org/assignments/http-problem-types#quota-exceeded"),
            ),
            ("status", json!(429)),
            (
                "detail",
                json!("Rate limit exceeded. Try again in 2 hours."),
            ),
            ("violated-policies", json!(["general"])),
            ("retryAfter", json!(3660)),
            ("reset", json!(1_764_003_660)),
        ] {
            assert_eq!(body[field], value, "{field}");
        }
        assert!(body["title"].is_string());
        assert_eq!(header("retry-after"), Some("3660"));
        assert_eq!(header("x-ratelimit-reset"), Some("1764003660"));
    }
    for accept in [
        "*/*",
        "application/json",
        "application/problem+json;q=0",
        "application/problem+json;Q=0",
        "application/json, application/problem+json;q=0.1",
    ] {
        let answer = isolate.answer(&by(CALLER, "/").with("accept", accept));
        let media_type = header(&answer.headers, "content-type");
        assert_eq!(media_type, Some("application/json"), "{accept}");
    }
}

#[test]
fn a_block_outlasts_the_quota_and_the_answer_says_so() {
    let isolate = Isolate::new(&policies());
    let request = by(CALLER, "/blocking");
    assert_eq!(isolate.statuses(&request, 2), [200, 200]);
    // All units are available again after 3660 s.
    for ms in [0, 1, 4_000_000, 2 * HOUR_MS - 1] {
        isolate.effects.set(ms);
        let answer = isolate.answer(&request);
        assert_eq!(answer.status, 429, "after {ms} ms");
        let header = |name| header(&answer.headers, name);
        let body = json_of(&answer);
        let said = ["blocked", "type", "remaining", "reset"].map(|field| &body[field]);
        let reset = json!(1_764_007_200);
        assert_eq!(said, [&json!(true), &json!("blocking"), &json!(0), &reset]);
        assert_eq!(header("x-ratelimit-remaining"), Some("0"));
        let wait = (2 * HOUR_MS - ms).div_ceil(1000);
        assert_eq!(header("retry-after"), Some(wait.to_string().as_str()));
        // Other policies do not share the block.
        assert_eq!(isolate.answer(&by(CALLER, "/")).status, 200, "{ms}");
    }
    isolate.effects.set(2 * HOUR_MS);
    assert_eq!(isolate.answer(&request).status, 200);
}

#[test]
fn a_cost_above_the_limit_is_impossible_consumes_nothing_and_blocks_nobody() {
    let isolate = Isolate::new(&policies());
    for _ in 0..3 {
        let answer = isolate.answer(&by(CALLER, "/dear"));
        assert_eq!(answer.status, 429);
        assert_without(&answer, &["retry-after"]);
        let body = json_of(&answer);
        for (field, value) in [
            ("retryAfter", Value::Null),
            ("blocked", json!(false)),
            ("limit", json!(5)),
            ("remaining", json!(5)),
            (
                "message",
                json!("This request costs 6 units, and the limit is 5. Waiting will not help."),
            ),
        ] {
            assert_eq!(body.get(field), Some(&value), "{field}");
        }
    }
    let answer = isolate.answer(&by(CALLER, "/affordable"));
    let left = header(&answer.headers, "x-ratelimit-remaining");
    assert_eq!((answer.status, left), (200, Some("4")));
}

#[test]
fn every_answer_in_the_ietfs_dialect_lists_each_policy_and_its_limit() {
    let isolate = policies_and("RATE_LIMIT_HEADERS", "ietf");
    for (status, limits) in [
        (200, "\"general\";r=2;t=3660, \"ip\";r=49;t=3660"),
        (200, "\"general\";r=1;t=3660, \"ip\";r=48;t=3660"),
        (200, "\"general\";r=0;t=3660, \"ip\";r=47;t=3660"),
        // A denied request consumes nothing.
        (429, "\"general\";r=0;t=3660, \"ip\";r=47;t=3660"),
        (429, "\"general\";r=0;t=3660, \"ip\";r=47;t=3660"),
    ] {
        let answer = isolate.answer(&by(CALLER, "/"));
        assert_eq!(answer.status, status);
        let header = |name| header(&answer.headers, name);
        let policies = "\"general\";q=3;w=3600, \"ip\";q=50;w=3600";
        assert_eq!(header("ratelimit-policy"), Some(policies));
        assert_eq!(header("ratelimit"), Some(limits));
        assert_without(&answer, &X_RATELIMIT);
        assert_without(&answer, &[SHADOW]);
        if status == 429 {
            assert_eq!(header("retry-after"), Some("3660"));
            assert_eq!(json_of(&answer)["retryAfter"], 3660);
        }
    }
}

#[test]
fn the_dialect_none_sends_only_retry_after() {
    let mut vars = policies();
    vars["RATE_LIMIT_HEADERS"] = json!("none");
    vars["RATE_LIMIT_GENERAL"] = json!("1,3600");
    let isolate = Isolate::new(&vars);
    for (status, wait) in [(200, None), (429, Some("3660"))] {
        let answer = isolate.answer(&by(CALLER, "/watched"));
        assert_eq!(answer.status, status);
        assert_without(&answer, &X_RATELIMIT);
        assert_without(&answer, &IETF);
        assert_without(&answer, &[SHADOW]);
        assert_eq!(header(&answer.headers, "retry-after"), wait);
        if status == 429 {
            assert_eq!(json_of(&answer)["limit"], 1);
        }
    }
}
