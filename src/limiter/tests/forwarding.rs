//! Where an admitted request is forwarded, and with which headers.

use proptest::prelude::*;
use reqwest::Url;
use serde_json::{Value, json};

use super::super::request::Incoming;
use super::super::{Forward, ForwardTarget};
use super::{Isolate, TOKEN, TestRequest, get, header};

const PASSED: &str = "x-edge-limiter-passed";

/// The request as it returns from an origin that leads back to the limiter.
fn returning(request: &TestRequest, forward: &Forward) -> TestRequest {
    let passed = header(&forward.set_on_request, PASSED).unwrap();
    request.clone().with(PASSED, passed)
}

fn looping(limit: &str) -> Isolate {
    Isolate::new(&json!({
        "ORIGIN_URL": "https://app.example", "RATE_LIMIT_GENERAL": limit, "RATE_LIMIT_IP": "off",
    }))
}

#[test]
fn a_loop_is_cut_at_the_fifth_pass_and_every_pass_is_charged() {
    let isolate = looping("10,60");
    let mut request = get("https://shop.example/");
    for left in ["9", "8", "7", "6"] {
        let forward = isolate.forward(&request);
        let remaining = header(&forward.set_on_response, "X-RateLimit-Remaining");
        assert_eq!(remaining, Some(left));
        request = returning(&request, &forward);
    }
    for left in ["5", "4"] {
        let answer = isolate.answer(&request);
        assert_eq!(answer.status, 508);
        let remaining = header(&answer.headers, "X-RateLimit-Remaining");
        assert_eq!(remaining, Some(left));
        assert!(answer.body.contains("ORIGIN_URL"), "{}", answer.body);
    }
    let chained = isolate.forward(&get("https://shop.example/").with(PASSED, "another"));
    let passed = header(&chained.set_on_request, PASSED).unwrap();
    assert!(passed.starts_with("another, "), "{passed}");
}

#[test]
fn a_loop_ends_with_429_once_its_quota_is_used_up() {
    let isolate = looping("2,60");
    let mut request = get("https://shop.example/");
    for _ in 0..2 {
        request = returning(&request, &isolate.forward(&request));
    }
    assert_eq!(isolate.answer(&request).status, 429);
}

/// A request that returns is charged to the address that the platform reports, even if it is the application's own. A
/// client can write every other header.
#[test]
fn each_pass_is_charged_to_the_address_from_which_it_comes() {
    let isolate = looping("10,60");
    let request = get("https://shop.example/").with("x-edge-limiter-ip", "192.0.2.66");
    let forward = isolate.forward(&request);
    let again = returning(&request, &forward).with("cf-connecting-ip", "192.0.2.77");
    let forward = isolate.forward(&again);
    let set = |name| header(&forward.set_on_request, name);
    assert_eq!(set("x-edge-limiter-ip"), Some("192.0.2.77"));
    for (address, left) in [("1", "8"), ("77", "8"), ("66", "9")] {
        let request = request
            .clone()
            .with("cf-connecting-ip", &format!("192.0.2.{address}"));
        let forward = isolate.forward(&request);
        let remaining = header(&forward.set_on_response, "X-RateLimit-Remaining");
        assert_eq!(remaining, Some(left), "{address}");
    }
}

#[test]
fn a_client_that_forges_the_loop_guard_only_shortens_its_own_passes() {
    let isolate = looping("10,60");
    let request = get("https://shop.example/");
    let forward = isolate.forward(&request);
    let own = header(&forward.set_on_request, PASSED).unwrap();
    // Several header lines arrive joined by commas.
    let four = [own; 4].join(", ");
    assert_eq!(
        isolate.answer(&request.clone().with(PASSED, &four)).status,
        508
    );
    let three = [own; 3].join(",");
    let last = isolate.forward(&request.clone().with(PASSED, &three));
    assert_eq!(isolate.answer(&returning(&request, &last)).status, 508);
    let other = isolate.forward(&get("https://shop.example/"));
    let remaining = header(&other.set_on_response, "X-RateLimit-Remaining");
    assert_eq!(remaining, Some("5"), "each of the five passes was charged");
}

#[test]
fn a_request_goes_to_the_origins_url_its_binding_or_the_route() {
    let to = |vars: Value, bound, url: &str| Isolate::bound(&vars, bound).forward(&get(url)).target;
    let origin = json!({"ORIGIN_URL": "https://app.example/base/"});
    for (url, expected) in [
        (
            "https://shop.example/a/b?c=/../d",
            "https://app.example/base/a/b?c=/../d",
        ),
        ("https://shop.example", "https://app.example/base/"),
        (
            "https://shop.example/%2e%2e/secret",
            "https://app.example/base/secret",
        ),
        (
            "https://shop.example/..\\..\\secret",
            "https://app.example/base/secret",
        ),
    ] {
        assert_eq!(
            to(origin.clone(), true, url),
            ForwardTarget::Url(expected.to_owned()),
            "{url}"
        );
    }
    let bare = json!({"ORIGIN_URL": "https://app.example"});
    let target = to(bare, false, "https://shop.example/%2e%2e/secret");
    assert_eq!(
        target,
        ForwardTarget::Url("https://app.example/secret".to_owned())
    );
    assert_eq!(
        to(json!({}), true, "http://localhost/"),
        ForwardTarget::Binding
    );
    for local in [
        "http://localhost:8787/",
        "http://127.0.0.1/",
        "http://[::1]:80/",
    ] {
        assert_eq!(
            Isolate::new(&json!({})).answer(&get(local)).status,
            200,
            "{local}"
        );
    }
}

#[test]
fn an_unusable_origin_is_answered_502_and_the_request_counts() {
    let isolate = Isolate::new(
        &json!({"ORIGIN_URL": "nonsense", "RATE_LIMIT_GENERAL": "5,60", "RATE_LIMIT_IP": "off"}),
    );
    let answer = isolate.answer(&get("https://shop.example/"));
    assert_eq!(
        (
            answer.status,
            header(&answer.headers, "X-RateLimit-Remaining")
        ),
        (502, Some("4"))
    );
    assert!(isolate.effects.lines()[0].starts_with("configuration: ORIGIN_URL: "));
}

#[test]
fn the_origin_gets_the_limiters_headers_and_no_forged_ones() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "ORIGIN_SECRET": "a-secret-of-this-test", "RATE_LIMIT_IP": "off",
    });
    let forward = Isolate::new(&vars).forward(&get("https://shop.example:8443/a"));
    let set = |name| header(&forward.set_on_request, name);
    assert_eq!(set("x-edge-limiter-ip"), Some("192.0.2.1"));
    assert_eq!(set("x-edge-limiter-secret"), Some("a-secret-of-this-test"));
    assert_eq!(set("x-forwarded-host"), Some("shop.example:8443"));
    assert_eq!(set("x-forwarded-proto"), Some("https"));
    assert_eq!(forward.removed_from_request, ["host"]);
    assert_eq!(
        header(&forward.set_on_response, "X-RateLimit-Limit"),
        Some("120")
    );
    for name in [
        "ratelimit",
        "ratelimit-policy",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "X-RateLimit-Store",
        "X-RateLimit-Shadow",
    ] {
        assert!(forward.removed_from_response.contains(&name), "{name}");
    }

    let unknown = TestRequest {
        headers: Vec::new(),
        ..get("https://shop.example/")
    };
    let forward = Isolate::new(&json!({"RATE_LIMIT_HEADERS": "none"})).forward(&unknown.at_edge());
    assert!(forward.removed_from_request.is_empty());
    let set = |name| header(&forward.set_on_request, name);
    assert_eq!(
        set("x-edge-limiter-ip").or(set("x-edge-limiter-secret")),
        None
    );
    assert!(forward.set_on_response.is_empty());
    assert_eq!(forward.removed_from_response.len(), 11);
    // A disabled limiter counts nothing, so the origin's own numbers stay.
    let disabled =
        Isolate::new(&json!({"RATE_LIMIT_HEADERS": "none", "RATE_LIMIT_ENABLED": false}));
    let forward = disabled.forward(&get("https://shop.example/").at_edge());
    assert!(forward.removed_from_response.is_empty());
}

#[test]
fn a_request_is_forwarded_to_its_own_host_only_on_cloudflares_network() {
    let isolate = Isolate::new(&json!({"ORIGIN_SECRET": "a-secret-of-this-test"}));
    let request = get("https://evil.example/");
    assert_eq!(
        isolate.forward(&request.clone().at_edge()).target,
        ForwardTarget::Route
    );
    let self_hosted = TestRequest {
        data_center: None,
        ..request.clone().at_edge()
    };
    // `wrangler dev` makes up a data centre, but no ray.
    let simulated = request.clone().at_edge().without("cf-ray");
    for elsewhere in [request.clone(), self_hosted, simulated] {
        let answer = isolate.answer(&elsewhere);
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("set ORIGIN_URL"), "{}", answer.body);
        assert!(!format!("{answer:?}").contains("a-secret-of-this-test"));
    }
    // An operator who knows that no client can choose the host sets `route`.
    let anywhere = Isolate::new(&json!({"ORIGIN_URL": "Route"}));
    assert_eq!(anywhere.forward(&request).target, ForwardTarget::Route);
}

#[test]
fn the_limiters_own_tokens_are_removed_from_a_forwarded_request() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "ADMIN_TOKEN": TOKEN, "CHECK_TOKEN": "a-check-token-of-this-test",
        "RATE_LIMIT_BYPASS_TOKEN": "a-bypass-token-of-this-test", "ORIGIN_SECRET": "a-secret-of-this-test",
    });
    let isolate = Isolate::new(&vars);
    let removed = |authorization: &str| {
        let request = get("https://shop.example/").with("authorization", authorization);
        let removed = isolate.forward(&request).removed_from_request;
        removed.contains(&"authorization")
    };
    assert!(removed(&format!("Bearer {TOKEN}")));
    assert!(removed("bearer  a-check-token-of-this-test "));
    assert!(removed(
        "Basic cHJvbWV0aGV1czphLXNlY3JldC1vZi10aGlzLXRlc3Q="
    ));
    assert!(removed("a-bypass-token-of-this-test"));
    assert!(!removed("Bearer of.the.application"));
    assert!(!removed("Basic dXNlcjpwYXNzd29yZA=="));
}

/// The URL that an origin's runtime would parse.
fn parsed(url: &str) -> Url {
    Url::parse(url).unwrap()
}

#[test]
fn the_path_that_is_forwarded_is_the_path_that_is_classified() {
    let isolate = Isolate::new(&json!({
        "ORIGIN_URL": "https://app.example/base", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_ROUTES": [{"path": "/api/login", "policies": ["auth"]}],
    }));
    for url in [
        "https://shop.example/api/login\u{1f}",
        "https://shop.example/api/lo\tgin",
        "https://shop.example/api/x/%2E%2e/login#/x",
        // The host is invalid, which does not change the path.
        "https://shop example/api/login",
        "https://[::1/api/login",
        "https://a\u{1}b/api\\login",
    ] {
        let forward = isolate.forward(&get(url));
        let target = ForwardTarget::Url("https://app.example/base/api/login".to_owned());
        assert_eq!(forward.target, target, "{url:?}");
        let policy = header(&forward.set_on_response, "X-RateLimit-Type");
        assert_eq!(policy, Some("auth"), "{url:?}");
    }
}

proptest! {
    /// The path and the query that are classified are those of the forwarded URL. That URL has the origin's host and is
    /// beneath the origin's path.
    #[test]
    fn the_url_that_is_classified_is_the_url_that_is_forwarded(
        host in prop_oneof![Just("shop.example".to_owned()), "[a-z@:\\[\\] %\\\\\\x01é]{1,8}"],
        rest in "([/?#\\\\]([a-c./;\\\\?#%&=^|\"'<>{}` \\t\\n\\x00\\x1f\\x7fé]|%2[eEfF]|%5[cC]|//|\\.\\.){0,12}){0,3}",
        base in prop::sample::select(&["https://app.example", "https://app.example/base", "http://app.example:81/a/b"]),
    ) {
        let request = get(&format!("https://{host}{rest}"));
        let incoming = Incoming::new(&request);
        let ForwardTarget::Url(sent) = ForwardTarget::url(base, &incoming) else { panic!() };
        let [sent, base] = [sent.as_str(), base].map(parsed);
        prop_assert_eq!(sent.origin(), base.origin());
        let within = base.path().trim_end_matches('/');
        prop_assert_eq!(sent.path(), format!("{within}{}", incoming.path()));
        let query = incoming.path_and_query().strip_prefix(incoming.path());
        prop_assert_eq!(sent.query().map(|query| format!("?{query}")).unwrap_or_default(), query.unwrap());
        prop_assert_eq!(sent.fragment(), None);

        // The same holds for a binding or a route, if the URL is valid there.
        let own = Url::parse(incoming.rewritten_url().unwrap_or(&request.url));
        if let Ok(own) = own {
            prop_assert_eq!(own.path(), incoming.path());
            prop_assert_eq!(own.query(), sent.query());
        }
    }
}
