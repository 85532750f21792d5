//! Which paths belong to the control plane, and who may call it.

use serde_json::json;

use super::{Isolate, TOKEN, by, get, header, json_of};

#[test]
fn only_paths_beneath_the_root_reach_the_control_plane() {
    let isolate = Isolate::new(
        &json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"}),
    );
    assert_eq!(
        isolate
            .answer(&get("http://localhost/_limiter/policies"))
            .status,
        401
    );
    assert_eq!(isolate.admin_json("policies")["enabled"], json!(true));
    assert_eq!(isolate.admin_json("health?x")["status"], json!("ok"));
    let put = get("http://localhost/_limiter/blocked/198.51.100.7")
        .sending("PUT", "{\"seconds\":60}")
        .authorized();
    assert_eq!(isolate.answer(&put).status, 200);
    assert_eq!(isolate.answer(&by("198.51.100.7", "/")).status, 429);
    let elsewhere = isolate.answer(&get("http://localhost/_limiters"));
    assert_eq!(
        header(&elsewhere.headers, "X-RateLimit-Remaining"),
        Some("0")
    );
}

#[test]
fn an_unknown_path_beneath_the_root_is_answered_404_and_not_forwarded() {
    for origin in [json!(null), json!("https://app.example")] {
        let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "ORIGIN_URL": origin}));
        for path in [
            "/_limiter/metrics",
            "/_limiter/blocked/192.0.2.1/x",
            "/_limiter/health/",
            "/_limiter/healthy",
            "/_limiter/page",
            "/_limiter/page.js/",
            "/_limiter/page.html",
            "/_limiter/Page.js",
            "/_limiter/page%2ejs",
            "/_limiter/;x",
        ] {
            let answer = isolate.admin_answer(&by("192.0.2.1", path).authorized());
            let error = &json_of(&answer)["error"];
            assert_eq!((answer.status, error), (404, &json!("not_found")), "{path}");
            assert_eq!(header(&answer.headers, "x-ratelimit-limit"), None);
        }
    }
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    let elsewhere = isolate.answer(&by("192.0.2.1", "/_limiterx"));
    assert_eq!(json_of(&elsewhere)["admitted"], true);
    let health = isolate.admin_answer(&by("192.0.2.1", "/_limiter/health?x=1"));
    assert_eq!(health.status, 200);
}

#[test]
fn wrong_tokens_are_limited_per_address_and_a_long_right_token_still_works() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_ENABLED": false, "RATE_LIMIT_ADMIN": "10,60,300",
    }));
    let health = |address| by(address, "/_limiter/health");
    for number in 0..12 {
        let wrong = format!("Bearer guess-{number}");
        let answer = isolate.admin_answer(&health("192.0.2.1").with("authorization", &wrong));
        let expected = if number < 10 { 200 } else { 429 };
        assert_eq!(answer.status, expected, "{wrong}");
    }
    let wrong = health("192.0.2.1").with("authorization", "Bearer guess");
    let refused = isolate.admin_answer(&wrong);
    let wait = header(&refused.headers, "retry-after");
    assert_eq!((refused.status, wait), (429, Some("300")));
    for address in ["192.0.2.1", "192.0.2.2"] {
        let admitted = isolate.admin_answer(&health(address).authorized());
        assert_eq!(json_of(&admitted)["errors"], json!([]), "{address}");
    }
}

#[test]
fn other_spellings_of_the_root_are_answered_404_and_never_forwarded() {
    let isolate = Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "ORIGIN_URL": "https://app.example", "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off",
    }));
    for path in [
        "//_limiter/health",
        "/_LIMITER/health",
        "/_Limiter",
        "/%5flimiter/health",
        "/%5Flimiter",
        "/_limite%72/x",
        "/_limiter%2fhealth",
        "/_limiter%5Chealth",
        "/_limiter\\health",
        "\\_limiter",
        "\\\\_limiter/x",
        "/./_limiter",
        "/x/../_limiter",
        "/x/%2e%2e/_limiter/events",
        "/x%2f..%2f_limiter",
        "/x%5c%2e%2e%5c_limiter",
        "/%2f_limiter",
        "/;a/_limiter",
        "/;a=b/;c/_limiter/health",
        "/_limiter;a/health",
        "/_limiter%3ba",
        "/x/..;/_limiter",
        "/_limi\tter/health",
        "/\u{1f}/../_limiter",
    ] {
        for method in ["GET", "POST"] {
            let request = by("192.0.2.1", path).authorized().sending(method, "{}");
            let answer = isolate.admin_answer(&request);
            let error = &json_of(&answer)["error"];
            assert_eq!(
                (answer.status, error),
                (404, &json!("not_found")),
                "{path:?}"
            );
            assert_eq!(header(&answer.headers, "x-ratelimit-limit"), None);
        }
    }
    for path in [
        "/x/_limiter",
        "/_limiters",
        "/_limiter2/_limiter",
        "/?/_limiter",
        "/a_limiter",
        "/%255flimiter",
    ] {
        let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
        assert_eq!(
            json_of(&isolate.answer(&by("192.0.2.1", path)))["admitted"],
            true,
            "{path}"
        );
    }
}
