//! Requests from pages in a browser: preflights, CORS headers of answers, and their formats.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Isolate, TOKEN, TestRequest, by, get, header, json_of, upstash};
use crate::response::Response;

const CALLER: &str = "192.0.2.1";
const PAGE: &str = "https://app.example";
const ALLOW: &str = "access-control-allow-origin";
const EXPOSE: &str = "access-control-expose-headers";

/// A preflight for a POST from a page.
fn preflight(path: &str) -> TestRequest {
    let options = by(CALLER, path).sending("OPTIONS", "");
    let options = options.with("origin", PAGE);
    options.with("access-control-request-method", "POST")
}

/// Variables that put one path under the shipped policy `mfa`.
fn strict() -> Value {
    json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "20,3600",
        "RATE_LIMIT_ROUTES": [{"path": "/api/mfa/**", "policies": ["mfa"]}],
    })
}

fn policy(answer: &Response) -> Option<&str> {
    header(&answer.headers, "x-ratelimit-type")
}

#[test]
fn a_preflight_is_charged_to_the_policy_preflight_alone() {
    let isolate = Isolate::new(&strict());
    for _ in 0..50 {
        let answer = isolate.answer(&preflight("/api/mfa/verify"));
        assert_eq!((answer.status, policy(&answer)), (200, Some("preflight")));
    }
    for name in ["mfa", "ip"] {
        let usage = isolate.admin_json(&format!("usage/{name}/{CALLER}"));
        assert_eq!(usage["used"], 0, "{name}");
    }
    let post = by(CALLER, "/api/mfa/verify").sending("POST", "");
    assert_eq!(isolate.statuses(&post, 6)[4..], [200, 429]);
    // Neither the block nor a denial by `ip` denies the preflight, so the page can read the denial.
    assert_eq!(isolate.answer(&preflight("/api/mfa/verify")).status, 200);
    isolate.statuses(&by(CALLER, "/"), 20);
    assert_eq!(isolate.answer(&by(CALLER, "/")).status, 429);
    assert_eq!(isolate.answer(&preflight("/")).status, 200);
}

#[test]
fn preflights_are_limited_by_address_and_block_nobody() {
    let mut vars = strict();
    vars["RATE_LIMIT_PREFLIGHT"] = json!("3,60");
    vars["RATE_LIMIT_ESCALATION"] = json!("2,600,600");
    let isolate = Isolate::new(&vars);
    let statuses = isolate.statuses(&preflight("/"), 40);
    assert_eq!(statuses[..4], [200, 200, 200, 429]);
    let denied = isolate.answer(&preflight("/"));
    assert_eq!(policy(&denied), Some("preflight"));
    assert_eq!(json_of(&denied)["blocked"], false);
    let other = preflight("/").with("cf-connecting-ip", "192.0.2.2");
    assert_eq!(isolate.answer(&other).status, 200);
    assert_eq!(isolate.answer(&by(CALLER, "/")).status, 200);
    // Any page can make its visitors send preflights, so these denials count against no address.
    let events = isolate.admin_json("events");
    assert_eq!(events["events"][0]["policy"], "preflight");
    assert_eq!(isolate.admin_json("suspicious")["callers"], json!([]));
    assert_eq!(isolate.admin_json("blocked")["blocked"], json!([]));
    assert_eq!(isolate.answer(&by(CALLER, "/")).status, 200);
    isolate.effects.set(61_000);
    assert_eq!(isolate.answer(&preflight("/")).status, 200);
}

#[test]
fn a_preflight_sends_no_command_to_redis() {
    for policies in [
        json!({}),
        json!({"general": {"on_store_failure": "deny", "lease": 5}}),
    ] {
        let isolate = Isolate::new(&upstash(&policies));
        assert_eq!(isolate.statuses(&preflight("/"), 3), [200; 3]);
        assert!(isolate.effects.calls().is_empty());
        assert!(isolate.run_duties().is_empty());
    }
}

/// A browser sends a preflight without credentials, without a body and without headers of the page.
#[test]
fn a_request_that_only_looks_like_a_preflight_meets_its_routes_policies() {
    let mut vars = strict();
    vars["RATE_LIMIT_KEYED"] = json!("100,60");
    vars["RATE_LIMIT_POLICIES"] = json!({"keyed": {"key": "header:X-Api-Key"}});
    let keyed = json!({"path": "/keyed", "policies": ["keyed"]});
    vars["RATE_LIMIT_ROUTES"]
        .as_array_mut()
        .unwrap()
        .push(keyed);
    let isolate = Isolate::new(&vars);
    let real = preflight("/api/mfa/verify");
    for same in [
        real.clone().with("content-length", "0"),
        real.clone().with("origin", "null"),
        real.clone().with("access-control-request-method", "DELETE"),
        real.clone()
            .with("access-control-request-headers", "x-api-key"),
        real.clone().with("sec-fetch-mode", "cors"),
    ] {
        assert_eq!(policy(&isolate.answer(&same)), Some("preflight"));
    }
    for (number, other) in [
        real.clone().without("origin"),
        real.clone().without("access-control-request-method"),
        real.clone().with("origin", ""),
        real.clone().with("access-control-request-method", ""),
        real.clone()
            .with("origin", "https://a.example, https://b.example"),
        real.clone()
            .with("access-control-request-method", "POST, POST"),
        real.clone()
            .with("authorization", "Basic dXNlcjpwYXNzd29yZA=="),
        real.clone().with("proxy-authorization", "Basic QUFB"),
        real.clone().with("cookie", "session=1"),
        real.clone().with("x-api-key", "a-key"),
        real.clone().with("x-otp", "123456"),
        real.clone().with("x_forwarded_for", "192.0.2.1"),
        real.clone().with("origin-token", "a-token"),
        real.clone().with("content-length", "12"),
        real.clone().with("content-type", "application/json"),
        real.clone().with("transfer-encoding", "chunked"),
        real.clone().with("x-http-method-override", "POST"),
        real.clone().with("x-http-method", "POST"),
        real.clone().with("x_http_method-override", "POST"),
        real.clone().with("x-method-override", "POST"),
        real.clone().sending("POST", ""),
        real.clone().sending("options", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let other = other.with("cf-connecting-ip", &format!("198.51.100.{number}"));
        let answer = isolate.answer(&other);
        assert_eq!(policy(&answer), Some("mfa"), "{:?}", other.headers);
    }
}

#[test]
fn blocks_and_exemptions_hold_for_preflights() {
    let mut vars = strict();
    vars["RATE_LIMIT_PREFLIGHT"] = json!("1,60");
    vars["RATE_LIMIT_ALLOWLIST"] = json!("198.51.100.1");
    let isolate = Isolate::new(&vars);
    let allowed = preflight("/").with("cf-connecting-ip", "198.51.100.1");
    assert_eq!(isolate.statuses(&allowed, 3), [200; 3]);
    for target in [CALLER, "203.0.113.0%2F24"] {
        let put = by(CALLER, &format!("/_limiter/blocked/{target}"));
        let put = put.sending("PUT", "{}").authorized();
        assert_eq!(isolate.answer(&put).status, 200);
    }
    for address in [CALLER, "203.0.113.9"] {
        let denied = isolate.answer(&preflight("/").with("cf-connecting-ip", address));
        assert_eq!(
            (denied.status, &json_of(&denied)["type"]),
            (429, &json!("blocked"))
        );
    }

    let mut vars = strict();
    vars["RATE_LIMIT_PREFLIGHT"] = json!("1,60");
    vars["RATE_LIMIT_ENABLED"] = json!(false);
    let disabled = Isolate::new(&vars);
    assert_eq!(disabled.statuses(&preflight("/"), 3), [200; 3]);

    let mut vars = strict();
    vars["RATE_LIMIT_PREFLIGHT"] = json!("1,60");
    vars["RATE_LIMIT_POLICIES"] = json!({"preflight": {"mode": "shadow"}});
    let shadow = Isolate::new(&vars);
    assert_eq!(shadow.statuses(&preflight("/"), 3), [200; 3]);
    let answer = shadow.answer(&preflight("/"));
    let reported = header(&answer.headers, "x-ratelimit-shadow");
    assert_eq!(reported, Some("preflight=denied;r=0"));
}

#[test]
fn operators_see_the_policy_preflight_and_only_preflights_are_charged_to_it() {
    let isolate = Isolate::new(&strict());
    let shown = &isolate.admin_json("policies")["preflight"];
    let fields = ["limit", "window_seconds", "block_seconds", "key"].map(|field| &shown[field]);
    assert_eq!(
        fields,
        [&json!(600), &json!(60), &Value::Null, &json!("ip")]
    );
    let check = by(CALLER, "/_limiter/check").authorized();
    let check = check.sending("POST", r#"{"policy":"preflight","identifier":"192.0.2.1"}"#);
    assert_eq!(isolate.answer(&check).status, 400);
    let usage = by(CALLER, "/_limiter/usage/preflight/192.0.2.1").authorized();
    assert_eq!(isolate.answer(&usage).status, 404);

    let mut vars = strict();
    vars["RATE_LIMIT_PREFLIGHT"] = json!("off");
    let off = Isolate::new(&vars);
    assert_eq!(off.admin_json("policies")["preflight"], Value::Null);
    let answer = off.answer(&preflight("/api/mfa/verify"));
    assert_eq!(
        policy(&answer),
        Some("mfa"),
        "without the policy, a preflight meets its route's policies"
    );
}

/// The limiter's own answers to traffic, one of each kind, with their statuses.
fn own_answers(cors: &Value) -> Vec<(u16, Response)> {
    let with = |name: &str, value: Value| {
        let mut vars = json!({"RATE_LIMIT_CORS_ORIGINS": cors, "RATE_LIMIT_GENERAL": "1,60"});
        vars[name] = value;
        Isolate::new(&vars)
    };
    let from_page = |isolate: &Isolate, request: TestRequest| {
        let answer = isolate.answer(&request.with("origin", PAGE));
        (answer.status, answer)
    };
    let plain = with("ADMIN_TOKEN", json!(TOKEN));
    let path = |path: &str| by(CALLER, path);
    let put = path("/_limiter/blocked/192.0.2.9")
        .sending("PUT", "{}")
        .authorized();
    assert_eq!(plain.answer(&put).status, 200);
    let mut down = upstash(&json!({"general": {"on_store_failure": "deny"}}));
    down["RATE_LIMIT_CORS_ORIGINS"] = cors.clone();
    let down = Isolate::new(&down);
    let looping = with("ORIGIN_URL", json!("https://origin.example"));
    let first = looping.forward(&path("/"));
    let passed = header(&first.set_on_request, "x-edge-limiter-passed").unwrap();
    vec![
        from_page(&plain, path("/")),
        from_page(&plain, path("/")),
        from_page(&plain, path("/").with("cf-connecting-ip", "192.0.2.9")),
        from_page(&plain, path(&"/x".repeat(2100))),
        from_page(
            &plain,
            path(&format!("/{}", "%2f".repeat(70))).with("cf-connecting-ip", "192.0.2.3"),
        ),
        from_page(&down, path("/")),
        from_page(&with("ORIGIN_URL", json!("nonsense")), path("/")),
        from_page(
            &plain,
            get("https://shop.example/").with("cf-connecting-ip", "192.0.2.4"),
        ),
        from_page(
            &looping,
            by("192.0.2.5", "/").with("x-edge-limiter-passed", &[passed; 5].join(", ")),
        ),
        {
            let unreachable = looping
                .limiter
                .bad_gateway(&path("/").with("origin", PAGE), 0);
            (unreachable.status, unreachable)
        },
    ]
}

const STATUSES: [u16; 10] = [200, 429, 429, 414, 414, 503, 502, 502, 508, 502];

#[test]
fn a_page_of_a_listed_origin_may_read_every_own_answer_to_traffic() {
    let answers = own_answers(&json!(["https://other.example", PAGE]));
    assert_eq!(
        answers
            .iter()
            .map(|(status, _)| *status)
            .collect::<Vec<_>>(),
        STATUSES
    );
    for (status, answer) in &answers {
        let header = |name| header(&answer.headers, name);
        assert_eq!(header(ALLOW), Some(PAGE), "{status}");
        assert_eq!(header("access-control-allow-credentials"), Some("true"));
        assert_eq!(header("vary"), Some("Origin"));
        let exposed: Vec<&str> = header(EXPOSE).unwrap().split(", ").collect();
        for (name, _) in &answer.headers {
            let is_own = name.starts_with("X-RateLimit") || *name == "Retry-After";
            assert!(!is_own || exposed.contains(name), "{name}");
        }
    }
    for (status, answer) in own_answers(&json!("*")) {
        let header = |name| header(&answer.headers, name);
        assert_eq!(header(ALLOW), Some("*"), "{status}");
        assert_eq!(header("access-control-allow-credentials"), None);
        assert_eq!(header("vary"), None);
        assert!(header(EXPOSE).unwrap().contains("Retry-After"));
    }
}

#[test]
fn a_page_of_another_origin_may_read_no_own_answer() {
    for (cors, vary) in [
        (Value::Null, None),
        (json!("https://other.example"), Some("Origin")),
    ] {
        for (status, answer) in own_answers(&cors) {
            let header = |name| header(&answer.headers, name);
            assert_eq!(header("vary"), vary, "{status}");
            for name in [ALLOW, EXPOSE, "access-control-allow-credentials"] {
                assert_eq!(header(name), None, "{status}");
            }
        }
    }
    let isolate =
        Isolate::new(&json!({"RATE_LIMIT_CORS_ORIGINS": PAGE, "RATE_LIMIT_GENERAL": "1,60"}));
    let allowed = |isolate: &Isolate, origin: &str| {
        let answer = isolate.answer(&by(CALLER, "/").with("origin", origin));
        header(&answer.headers, ALLOW).map(str::to_owned)
    };
    assert_eq!(allowed(&isolate, PAGE).as_deref(), Some(PAGE));
    for other in [
        "null",
        "",
        "https://app.example/",
        "https://app.example:443",
        "http://app.example",
        "https://APP.example",
        "https://app.example.evil.example",
        "https://evil.example/https://app.example",
        "https://app.example, https://app.example",
        "https://x.app.example",
        "*",
    ] {
        assert_eq!(allowed(&isolate, other), None, "{other}");
    }
}

/// Whichever origins are listed, no page may read the control plane.
#[test]
fn the_control_plane_has_no_cors_headers() {
    for cors in [json!("*"), json!(PAGE)] {
        let isolate = Isolate::new(&json!({"RATE_LIMIT_CORS_ORIGINS": cors, "ADMIN_TOKEN": TOKEN}));
        let long = format!("/_limiter/{}", "x".repeat(5000));
        for path in [
            "/_limiter/health",
            "/_limiter/policies",
            "/_limiter",
            "//_limiter/x",
            &long,
        ] {
            for request in [
                preflight(path),
                by(CALLER, path).authorized().with("origin", PAGE),
            ] {
                let answer = isolate.answer(&request);
                let names = answer
                    .headers
                    .iter()
                    .map(|(name, _)| name.to_ascii_lowercase());
                let cors: Vec<String> = names
                    .filter(|name| name.starts_with("access-control") || name == "vary")
                    .collect();
                assert!(cors.is_empty(), "{path}: {cors:?}");
            }
        }
    }
}

#[test]
fn every_own_answer_forbids_sniffing_its_type() {
    let mut answers = own_answers(&Value::Null);
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    for path in [
        "/_limiter/health",
        "/_limiter/policies",
        "/_limiter/x",
        "//_limiter",
    ] {
        for request in [by(CALLER, path), by(CALLER, path).authorized()] {
            let answer = isolate.answer(&request);
            answers.push((answer.status, answer));
        }
    }
    for (status, answer) in answers {
        let found = header(&answer.headers, "x-content-type-options");
        assert_eq!(found, Some("nosniff"), "{status}");
    }
}

const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

#[test]
fn a_browser_gets_a_page_that_says_when_to_try_again() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_GENERAL": "1,3600"}));
    let request = by(CALLER, "/").with("accept", CHROME);
    assert_eq!(isolate.answer(&request).status, 200);
    let denied = isolate.answer(&request);
    let header = |name| header(&denied.headers, name);
    assert_eq!(denied.status, 429);
    assert_eq!(header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(header("retry-after"), Some("3660"));
    assert_eq!(header("cache-control"), Some("no-store"));
    let policy = header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(denied.body.starts_with("<!doctype html>"));
    assert!(
        denied.body.contains("Try again in 2 hours."),
        "{}",
        denied.body
    );
    for foreign in ["<script", "http:", "https:", "src=", "href="] {
        assert!(!denied.body.contains(foreign), "{foreign}");
    }

    let mut down = upstash(&json!({"general": {"on_store_failure": "deny"}}));
    down["ORIGIN_URL"] = json!("https://origin.example");
    let unavailable = Isolate::new(&down).answer(&request);
    assert_eq!(unavailable.status, 503);
    assert!(
        unavailable.body.contains("Try again in 1 second."),
        "{}",
        unavailable.body
    );
    assert!(unavailable.body.starts_with("<!doctype html>"));
}

proptest! {
    #[test]
    fn any_accept_header_gets_an_answer_as_page_or_json(accept in "([a-z*/+;=q0-9., \"\\\\]|text/html|application/json){0,40}") {
        let isolate = Isolate::new(&json!({"RATE_LIMIT_GENERAL": "1,60"}));
        let request = by(CALLER, "/").with("accept", &accept);
        isolate.answer(&request);
        let denied = isolate.answer(&request);
        prop_assert_eq!(denied.status, 429);
        let is_page = header(&denied.headers, "content-type").unwrap().starts_with("text/html");
        prop_assert_eq!(is_page, denied.body.starts_with("<!doctype html>"));
        prop_assert!(is_page || serde_json::from_str::<Value>(&denied.body).is_ok());
    }
}
