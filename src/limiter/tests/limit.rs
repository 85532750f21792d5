//! `Limiter::limit` for requests that the application serves itself, and the application's calls of the control plane.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Handled, Isolate, TOKEN, TestRequest, by, header, json_of, policies, upstash};
use crate::admin::ControlPlaneCall;
use crate::gate::Exempt;
use crate::headers::LOOP_GUARD;
use crate::response::Response;

const BYPASS_TOKEN: &str = "a-bypass-token-of-this-test";

/// Variables with a policy of each kind, and with everything that changes an answer.
fn vars() -> Value {
    let mut vars = policies();
    for (name, value) in [
        ("ORIGIN_URL", json!("https://app.example")),
        ("ADMIN_TOKEN", json!(TOKEN)),
        ("RATE_LIMIT_BYPASS_TOKEN", json!(BYPASS_TOKEN)),
        ("RATE_LIMIT_ALLOWLIST", json!("198.51.100.0/24")),
        ("RATE_LIMIT_CORS_ORIGINS", json!("https://a.example")),
        ("RATE_LIMIT_EVENT_SAMPLE", json!("1")),
    ] {
        vars[name] = value;
    }
    vars
}

/// One request of each kind.
fn requests() -> Vec<TestRequest> {
    let long = format!("/{}", "x".repeat(5000));
    let ambiguous = "/a%2F".repeat(70);
    let paths = [
        "/",
        "/blocking",
        "/dear",
        "/affordable",
        "/bucket",
        "/fixed",
        "/watched",
        &long,
        &ambiguous,
        "/_limiters",
        "/_limiter",
        "/_limiter/policies",
        "/_limiter/health",
        "/_limiter/page.js",
        "/_limiter/nothing",
        "/%5flimiter/health",
        "/x/../_limiter/health",
    ];
    let mut requests: Vec<TestRequest> = paths.iter().map(|path| by("192.0.2.1", path)).collect();
    requests.extend([
        by("198.51.100.7", "/blocking"),
        by("192.0.2.1", "/").with("x-ratelimit-bypass", BYPASS_TOKEN),
        by("192.0.2.1", "/").with("origin", "https://a.example"),
        by("192.0.2.1", "/").with("accept", "text/html"),
        by("192.0.2.1", "/_limiter/policies").authorized(),
        by("192.0.2.1", "/").without("cf-connecting-ip"),
        by("192.0.2.2", "/")
            .sending("OPTIONS", "")
            .with("origin", "https://a.example")
            .with("access-control-request-method", "GET"),
        by("192.0.2.2", "/").with("x-http-method-override", &"A, B, C, D, E, F".repeat(20)),
    ]);
    requests
}

/// The answers, the numbers, the counts and the records are the same.
#[test]
fn a_request_is_decided_alike_whether_it_is_forwarded_or_served_by_the_application() {
    for dialect in ["x-ratelimit", "ietf", "none"] {
        let mut vars = vars();
        vars["RATE_LIMIT_HEADERS"] = json!(dialect);
        vars["RATE_LIMIT_METRICS"] = json!(true);
        let [forwarding, serving] = [(); 2].map(|()| Isolate::new(&vars));
        for round in 0..4 {
            for request in requests() {
                let verdict = serving.limit(&request);
                let case = format!("{dialect}, {round}: {} {}", request.method, request.url);
                match forwarding.handle(&request) {
                    Handled::Answer(answer) => assert_eq!(verdict.answer, Some(answer), "{case}"),
                    Handled::Forward(forward) => {
                        assert_eq!(verdict.answer, None, "{case}");
                        assert_eq!(verdict.set_on_response, forward.set_on_response, "{case}");
                        let removed = forward.removed_from_response;
                        assert_eq!(verdict.removed_from_response, removed, "{case}");
                        assert_eq!(verdict.exposed, forward.exposed, "{case}");
                        if let Some(sample) = forward.sample {
                            forwarding.limiter.forwarded(sample, 0);
                        }
                    }
                }
            }
        }
        for path in ["events?limit=1000", "suspicious", "blocked"] {
            let without_ids = |isolate: &Isolate| {
                let mut listed = isolate.admin_json(path);
                for event in listed["events"].as_array_mut().into_iter().flatten() {
                    event["id"] = json!(null);
                }
                if let Some(events) = listed["events"].as_array_mut() {
                    events.sort_by_key(Value::to_string);
                }
                listed
            };
            assert_eq!(without_ids(&serving), without_ids(&forwarding), "{path}");
        }
        let series = |isolate: &Isolate| isolate.admin_json("series?window=hour")["buckets"].take();
        assert_eq!(series(&serving), series(&forwarding));
    }
}

#[test]
fn a_verdict_has_the_numbers_of_the_binding_policy() {
    let isolate = Isolate::new(&vars());
    let now_ms = 1_764_000_000_000_u64;
    let at = |verdict: &super::LimitVerdict| verdict.reset.map(|at| at.as_millis() > now_ms);
    let first = isolate.limit(&by("192.0.2.1", "/fixed"));
    let shown = (first.policy.as_deref(), first.limit, first.remaining);
    assert_eq!(shown, (Some("fixed"), Some(2), Some(1)));
    assert_eq!(
        (first.retry_after, first.blocked, at(&first)),
        (None, false, Some(true))
    );
    isolate.limit(&by("192.0.2.1", "/fixed"));
    let denied = isolate.limit(&by("192.0.2.1", "/fixed"));
    let answer = denied.answer.unwrap();
    let body = json_of(&answer);
    let shown = (denied.policy.as_deref(), denied.limit, denied.remaining);
    assert_eq!(shown, (Some("fixed"), Some(2), Some(0)));
    assert_eq!(json!(denied.retry_after), body["retryAfter"]);
    assert_eq!(
        denied.reset.map(|at| json!(at.as_secs_ceil())),
        Some(body["reset"].clone())
    );
    assert!(!denied.blocked);

    // Next come a policy's block, a cost above the limit, and an address's block without an end.
    for _ in 0..2 {
        isolate.limit(&by("192.0.2.2", "/blocking"));
    }
    let blocked = isolate.limit(&by("192.0.2.2", "/blocking"));
    assert_eq!((blocked.blocked, blocked.retry_after), (true, Some(7200)));
    let impossible = isolate.limit(&by("192.0.2.3", "/dear"));
    assert_eq!((impossible.blocked, impossible.retry_after), (false, None));
    assert_eq!(
        (impossible.policy.as_deref(), impossible.limit),
        (Some("dear"), Some(5))
    );
    operate(&isolate, "PUT", "/blocked/192.0.2.4", "");
    let blocked = isolate.limit(&by("192.0.2.4", "/"));
    assert_eq!(blocked.answer.map(|answer| answer.status), Some(429));
    assert_eq!(
        (blocked.policy, blocked.limit, blocked.reset),
        (None, None, None)
    );
    assert_eq!((blocked.blocked, blocked.retry_after), (true, None));

    let exempt = isolate.limit(&by("198.51.100.7", "/"));
    assert_eq!(
        (exempt.exempt, exempt.policy),
        (Some(Exempt::AllowListed), None)
    );
    let too_long = isolate.limit(&by("192.0.2.1", &format!("/{}", "x".repeat(5000))));
    assert_eq!(too_long.answer.map(|answer| answer.status), Some(414));
}

#[test]
fn a_verdict_is_degraded_if_memory_decides_in_place_of_the_store() {
    let isolate = Isolate::new(&upstash(&json!({})));
    let verdict = isolate.limit(&by("192.0.2.1", "/"));
    assert!(verdict.answer.is_none() && verdict.degraded);
    let isolate = Isolate::new(&upstash(&json!({"general": {"on_store_failure": "deny"}})));
    let verdict = isolate.limit(&by("192.0.2.1", "/"));
    assert_eq!(verdict.answer.map(|answer| answer.status), Some(503));
    assert_eq!((verdict.retry_after, verdict.policy), (Some(1), None));
}

/// Nothing is forwarded, so there can be no loop, and no origin is needed.
#[test]
fn limit_ignores_the_origin_and_the_loop_guard() {
    let isolate = Isolate::new(&json!({"ORIGIN_URL": "not a URL", "RATE_LIMIT_GENERAL": "9,60"}));
    let passed = by("192.0.2.1", "/").with(LOOP_GUARD, &["edge-limiter"; 20].join(", "));
    for _ in 0..9 {
        assert!(isolate.limit(&passed).answer.is_none());
    }
    assert!(isolate.limit(&passed).answer.is_some());
}

fn operate(isolate: &Isolate, method: &str, path_and_query: &str, body: &str) -> Response {
    let operation = ControlPlaneCall {
        method: method.to_owned(),
        path_and_query: path_and_query.to_owned(),
        body: body.to_owned(),
    };
    let answer = isolate.limiter.call_control_plane(operation).now_or_never();
    answer.expect("every effect of the test host ends at once")
}

#[test]
fn the_application_calls_the_control_plane_without_a_token() {
    // No token is configured, so over HTTP only health exists.
    let isolate = Isolate::new(&json!({"RATE_LIMIT_AUTH": "2,60,600"}));
    let done = |method, path, body| {
        let answer = operate(&isolate, method, path, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        json_of(&answer)
    };
    let check = "{\"policy\":\"auth\",\"identifier\":\"192.0.2.1\"}";
    assert_eq!(done("POST", "/check", check)["remaining"], 1);
    assert_eq!(done("GET", "/usage/auth/192.0.2.1", "")["used"], 1);
    assert_eq!(done("DELETE", "/usage/auth/192.0.2.1", "")["reset"], true);
    assert_eq!(done("GET", "/usage/auth/192.0.2.1?", "")["used"], 0);
    assert_eq!(
        done("PUT", "/blocked/10.0.0.0%2F8", "{\"seconds\":60}")["target"],
        "10.0.0.0/8"
    );
    assert!(
        isolate.effects.outlived(),
        "the call ends even if the client disconnects"
    );
    assert_eq!(done("GET", "/blocked/10.1.2.3", "")["blocked"], true);
    assert_eq!(done("GET", "/events?limit=5", "")["scope"], "isolate");
    assert_eq!(done("GET", "/health", "")["errors"], json!([]));

    // The operator log names the application.
    let log = done("GET", "/operations", "");
    let named: Vec<Value> = log["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| json!([entry["who"], entry["action"], entry["address"]]))
        .collect();
    assert_eq!(
        named,
        [
            json!(["application", "block", null]),
            json!(["application", "reset", null])
        ]
    );

    let over_http = by("192.0.2.1", "/_limiter/blocked/10.1.2.3");
    let answers = [
        isolate.answer(&over_http),
        isolate
            .limiter
            .control_plane(&over_http)
            .now_or_never()
            .unwrap(),
        isolate.limit(&over_http).answer.unwrap(),
    ];
    assert!(
        answers.iter().all(|answer| answer.status == 404),
        "{answers:?}"
    );
}

#[test]
fn control_plane_answers_404_to_traffic_and_counts_nothing() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60"}));
    let ask = |request: &TestRequest| {
        isolate
            .limiter
            .control_plane(request)
            .now_or_never()
            .unwrap()
    };
    let policies = by("192.0.2.1", "/_limiter/policies");
    assert_eq!(ask(&policies).status, 401);
    assert_eq!(ask(&policies.authorized()).status, 200);
    for path in ["/", "/_limiters", "/%5flimiter/policies"] {
        assert_eq!(
            ask(&by("192.0.2.1", path).authorized()).status,
            404,
            "{path}"
        );
    }
    let long = by("192.0.2.1", &format!("/_limiter/{}", "x".repeat(5000)));
    assert_eq!(ask(&long).status, 414);
    assert!(
        isolate.limit(&by("192.0.2.1", "/")).answer.is_none(),
        "nothing was counted"
    );
}

#[test]
fn every_error_of_the_control_plane_has_its_code() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_ALLOWLIST": "198.51.100.7"}));
    for (method, path, body, status, code) in [
        (
            "GET",
            "/usage/nothing/192.0.2.1",
            "",
            404,
            json!("unknown_policy"),
        ),
        (
            "DELETE",
            "/usage/nothing/192.0.2.1",
            "",
            404,
            json!("unknown_policy"),
        ),
        (
            "POST",
            "/check",
            "{\"policy\":\"nothing\",\"identifier\":\"a\"}",
            400,
            json!("unknown_policy"),
        ),
        (
            "POST",
            "/check",
            "{\"policy\":\"auth\",\"identifier\":\"\"}",
            400,
            json!("bad_identifier"),
        ),
        (
            "POST",
            "/check",
            "{\"policy\":\"auth\",\"identifier\":\"a\",\"cost\":-1}",
            400,
            json!("bad_argument"),
        ),
        ("POST", "/check", "[]", 400, json!("bad_argument")),
        (
            "GET",
            "/usage/auth/example.com",
            "",
            400,
            json!("bad_identifier"),
        ),
        (
            "PUT",
            "/blocked/example.com",
            "",
            400,
            json!("bad_identifier"),
        ),
        (
            "PUT",
            "/blocked/192.0.2.1%2F24",
            "",
            400,
            json!("bad_identifier"),
        ),
        (
            "PUT",
            "/blocked/192.0.2.1",
            "{\"seconds\":0}",
            400,
            json!("bad_argument"),
        ),
        ("PUT", "/blocked/198.51.100.7", "", 409, json!("refused")),
        ("GET", "/events?limit=0", "", 400, json!("bad_argument")),
        ("GET", "/nothing", "", 404, json!(null)),
        ("POST", "/events", "", 405, json!(null)),
    ] {
        let answer = operate(&isolate, method, path, body);
        let body = json_of(&answer);
        assert_eq!(
            (answer.status, &body["code"]),
            (status, &code),
            "{method} {path}"
        );
        assert!(body["error"].is_string() && body["message"].is_string());
    }
    let too_long = operate(&isolate, "PUT", "/blocked/192.0.2.1", &"x".repeat(20_000));
    assert_eq!(
        (too_long.status, &json_of(&too_long)["code"]),
        (413, &json!("bad_argument"))
    );
    let down = Isolate::new(&upstash(&json!({})));
    let answer = operate(&down, "GET", "/events", "");
    assert_eq!(
        (answer.status, &json_of(&answer)["code"]),
        (503, &json!("store_unavailable"))
    );
    assert_eq!(header(&answer.headers, "Cache-Control"), Some("no-store"));
}
