//! Where an admitted request goes, and with which headers.

use proptest::prelude::*;
use reqwest::Url;
use serde_json::{Value, json};

use super::super::Target;
use super::super::request::Incoming;
use super::{Asked, Isolate, TOKEN, get, header};

#[test]
fn a_request_that_comes_back_is_answered_508() {
    let isolate = Isolate::new(&json!({"ORIGIN_URL": "https://app.example"}));
    let first = isolate.forward(&get("https://shop.example/"));
    let passed = header(&first.set_on_request, "x-edge-limiter-passed").unwrap();
    let again = get("https://shop.example/").with("x-edge-limiter-passed", passed);
    assert_eq!(isolate.answer(&again).status, 508);
    let other = get("https://shop.example/").with("x-edge-limiter-passed", "another");
    let chained = isolate.forward(&other);
    let passed_by_both = header(&chained.set_on_request, "x-edge-limiter-passed");
    assert_eq!(passed_by_both, Some(format!("another, {passed}").as_str()));
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
            Target::Url(expected.to_owned()),
            "{url}"
        );
    }
    let bare = json!({"ORIGIN_URL": "https://app.example"});
    let target = to(bare, false, "https://shop.example/%2e%2e/secret");
    assert_eq!(target, Target::Url("https://app.example/secret".to_owned()));
    assert_eq!(to(json!({}), true, "http://localhost/"), Target::Binding);
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
fn the_origin_gets_the_limiters_headers_and_not_a_clients_forgeries() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "ORIGIN_SECRET": "a-secret-of-this-test", "RATE_LIMIT_IP": "off",
    });
    let forward = Isolate::new(&vars).forward(&get("https://shop.example:8443/a"));
    let set = |name| header(&forward.set_on_request, name);
    assert_eq!(set("x-edge-limiter-ip"), Some("192.0.2.1"));
    assert_eq!(set("x-edge-limiter-secret"), Some("a-secret-of-this-test"));
    assert_eq!(set("x-forwarded-host"), Some("shop.example:8443"));
    assert_eq!(set("x-forwarded-proto"), Some("https"));
    assert_eq!(forward.removed_from_request, ["x-ratelimit-bypass", "host"]);
    assert_eq!(
        header(&forward.set_on_response, "X-RateLimit-Limit"),
        Some("120")
    );
    for name in [
        "ratelimit",
        "ratelimit-policy",
        "X-RateLimit-Store",
        "X-RateLimit-Shadow",
    ] {
        assert!(forward.removed_from_response.contains(&name), "{name}");
    }

    let unknown = Asked {
        headers: Vec::new(),
        ..get("https://shop.example/")
    };
    let forward = Isolate::new(&json!({"RATE_LIMIT_HEADERS": "none"})).forward(&unknown.at_edge());
    for name in [
        "x-edge-limiter-ip",
        "x-edge-limiter-secret",
        "x-ratelimit-bypass",
    ] {
        assert!(forward.removed_from_request.contains(&name), "{name}");
    }
    assert!(forward.set_on_response.is_empty() && forward.removed_from_response.is_empty());
}

#[test]
fn only_where_cloudflare_runs_the_limiter_is_a_request_forwarded_by_its_host() {
    let isolate = Isolate::new(&json!({"ORIGIN_SECRET": "a-secret-of-this-test"}));
    let asked = get("https://evil.example/");
    assert_eq!(
        isolate.forward(&asked.clone().at_edge()).target,
        Target::Route
    );
    let self_hosted = Asked {
        data_center: None,
        ..asked.clone().at_edge()
    };
    // What `wrangler dev` makes up, without what the network adds.
    let simulated = asked.clone().at_edge().without("cf-ray");
    for elsewhere in [asked.clone(), self_hosted, simulated] {
        let answer = isolate.answer(&elsewhere);
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("set ORIGIN_URL"), "{}", answer.body);
        assert!(!format!("{answer:?}").contains("a-secret-of-this-test"));
    }
    // An operator who knows that no client chooses the host says so.
    let anywhere = Isolate::new(&json!({"ORIGIN_URL": "Route"}));
    assert_eq!(anywhere.forward(&asked).target, Target::Route);
}

#[test]
fn a_request_with_one_of_the_limiters_own_tokens_goes_on_without_it() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "ADMIN_TOKEN": TOKEN, "CHECK_TOKEN": "a-check-token-of-this-test",
        "RATE_LIMIT_BYPASS_TOKEN": "a-bypass-token-of-this-test", "ORIGIN_SECRET": "a-secret-of-this-test",
    });
    let isolate = Isolate::new(&vars);
    let removed = |authorization: &str| {
        let asked = get("https://shop.example/").with("authorization", authorization);
        let removed = isolate.forward(&asked).removed_from_request;
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
fn the_path_that_is_sent_is_the_path_that_is_classified() {
    let isolate = Isolate::new(&json!({
        "ORIGIN_URL": "https://app.example/base", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_ROUTES": [{"path": "/api/login", "policies": ["auth"]}],
    }));
    for url in [
        "https://shop.example/api/login\u{1f}",
        "https://shop.example/api/lo\tgin",
        "https://shop.example/api/x/%2E%2e/login#/x",
        // A host that is none, behind which the path is still what it is.
        "https://shop example/api/login",
        "https://[::1/api/login",
        "https://a\u{1}b/api\\login",
    ] {
        let forward = isolate.forward(&get(url));
        let target = Target::Url("https://app.example/base/api/login".to_owned());
        assert_eq!(forward.target, target, "{url:?}");
        let policy = header(&forward.set_on_response, "X-RateLimit-Type");
        assert_eq!(policy, Some("auth"), "{url:?}");
    }
}

proptest! {
    /// Whatever is asked for: the path and query that are classified are those in the URL that is sent, which leaves
    /// neither the origin's host nor its path.
    #[test]
    fn what_is_classified_is_what_is_sent(
        host in prop_oneof![Just("shop.example".to_owned()), "[a-z@:\\[\\] %\\\\\\x01é]{1,8}"],
        rest in "([/?#\\\\]([a-c./;\\\\?#%&=^|\"'<>{}` \\t\\n\\x00\\x1f\\x7fé]|%2[eEfF]|%5[cC]|//|\\.\\.){0,12}){0,3}",
        base in prop::sample::select(&["https://app.example", "https://app.example/base", "http://app.example:81/a/b"]),
    ) {
        let asked = get(&format!("https://{host}{rest}"));
        let incoming = Incoming::new(&asked);
        let Target::Url(sent) = Target::url(base, &incoming) else { panic!() };
        let [sent, base] = [sent.as_str(), base].map(parsed);
        prop_assert_eq!(sent.origin(), base.origin());
        let within = base.path().trim_end_matches('/');
        prop_assert_eq!(sent.path(), format!("{within}{}", incoming.path()));
        let query = incoming.path_and_query().strip_prefix(incoming.path());
        prop_assert_eq!(sent.query().map(|query| format!("?{query}")).unwrap_or_default(), query.unwrap());
        prop_assert_eq!(sent.fragment(), None);

        // To a binding, or a route: the same, where such a request can be sent at all.
        let own = Url::parse(incoming.rewritten_url().unwrap_or(&asked.url));
        if let Ok(own) = own {
            prop_assert_eq!(own.path(), incoming.path());
            prop_assert_eq!(own.query(), sent.query());
        }
    }
}
