//! Every status with which a request can be answered, and what is to be done afterwards: over the
//! production stack, with a host in the test's hands.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Duty, Forward, Handled, Limiter, Location, Request, Target};
use crate::admin::Body;
use crate::config::Vars;
use crate::effects::testing::Manual;
use crate::effects::{Endpoint, Reply};
use crate::response::Response;
use crate::store::StoreError;

const TOKEN: &str = "an-admin-token-of-this-test";

#[derive(Clone)]
struct Asked {
    method: &'static str,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
}

impl Request for Asked {
    fn method(&self) -> &str {
        self.method
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    }

    fn location(&self) -> Location {
        Location {
            country: Some("AT".to_owned()),
            asn: Some(64_500),
        }
    }

    async fn body(&self, most: usize) -> Body {
        match self.body.len() > most {
            true => Body::TooLong,
            false => Body::Text(self.body.to_owned()),
        }
    }
}

fn get(url: &str) -> Asked {
    Asked {
        method: "GET",
        url: url.to_owned(),
        headers: vec![("cf-connecting-ip", "192.0.2.1".to_owned())],
        body: "",
    }
}

impl Asked {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

struct Isolate {
    limiter: Limiter<Manual>,
    effects: Manual,
}

impl Isolate {
    fn new(vars: &Value) -> Self {
        Self::bound(vars, false)
    }

    fn bound(vars: &Value, has_origin_binding: bool) -> Self {
        let effects = Manual::default();
        let vars = Vars::from_json(&vars.to_string()).unwrap();
        let limiter = Limiter::new(&vars, has_origin_binding, effects.clone()).unwrap();
        Self { limiter, effects }
    }

    fn handle(&self, request: &Asked) -> Handled {
        let handled = self.limiter.handle(request).now_or_never();
        handled.expect("it waits for nothing")
    }

    fn answer(&self, request: &Asked) -> Response {
        match self.handle(request) {
            Handled::Answer(response) => response,
            Handled::Forward(forward) => panic!("{forward:?}"),
        }
    }

    fn forward(&self, request: &Asked) -> Forward {
        match self.handle(request) {
            Handled::Forward(forward) => *forward,
            Handled::Answer(response) => panic!("{response:?}"),
        }
    }

    fn control(&self, path: &str) -> Value {
        let authorization = format!("Bearer {TOKEN}");
        let asked =
            get(&format!("http://localhost/_limiter/{path}")).with("authorization", &authorization);
        let response = self.answer(&asked);
        assert_eq!(response.status, 200, "{response:?}");
        serde_json::from_str(&response.body).unwrap()
    }

    /// Runs what is due, as a host does after each request.
    fn run_duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        while let Some(duty) = self.limiter.next_duty() {
            duties.push(duty.clone());
            self.limiter.run(duty).now_or_never().unwrap();
        }
        duties
    }
}

fn header<'a>(headers: &'a [(&str, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

fn upstash(policies: &Value) -> Value {
    json!({
        "UPSTASH_REDIS_REST_URL": "https://redis.example", "UPSTASH_REDIS_REST_TOKEN": "a-token",
        "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "5,60", "RATE_LIMIT_POLICIES": policies,
        "ADMIN_TOKEN": TOKEN,
    })
}

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
fn a_path_is_bounded_and_a_query_is_not() {
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
fn where_a_request_goes() {
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
    // Without a path there is nothing that dots could lead out of: it goes as it came.
    let bare = json!({"ORIGIN_URL": "https://app.example"});
    let target = to(bare, false, "https://shop.example/%2e%2e/secret");
    assert_eq!(
        target,
        Target::Url("https://app.example/%2e%2e/secret".to_owned())
    );
    assert_eq!(to(json!({}), true, "http://localhost/"), Target::Binding);
    assert_eq!(to(json!({}), false, "https://shop.example/"), Target::Route);
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
fn what_cannot_be_forwarded_is_answered_502_and_counted() {
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
    assert_eq!(Response::origin_unreachable().status, 502);
}

#[test]
fn the_origin_sees_what_the_limiter_says_and_nothing_that_a_client_made_up() {
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
    let forward = Isolate::new(&json!({"RATE_LIMIT_HEADERS": "none"})).forward(&unknown);
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
fn a_store_that_is_out_is_memory_503_or_nothing_as_the_policy_says() {
    for (rule, status) in [("memory", 200), ("allow", 200), ("deny", 503)] {
        let vars = upstash(&json!({"general": {"on_store_failure": rule}}));
        let isolate = Isolate::new(&vars);
        let answer = isolate.answer(&get("http://localhost/"));
        assert_eq!(answer.status, status, "{rule}");
        let store = header(&answer.headers, "X-RateLimit-Store");
        assert_eq!(store, (status == 200).then_some("memory"), "{rule}");
        if status == 503 {
            assert_eq!(header(&answer.headers, "Retry-After"), Some("1"));
            assert!(answer.body.contains("rate_limit_unavailable"));
        }
    }
}

#[test]
fn an_open_breaker_says_when_to_come_back_and_health_why() {
    let isolate = Isolate::new(&upstash(&json!({"general": {"on_store_failure": "deny"}})));
    isolate.effects.reply(Ok(Reply {
        status: 401,
        body: String::new(),
    }));
    assert_eq!(isolate.answer(&get("http://localhost/")).status, 503);
    let calls = isolate.effects.calls();
    assert!(
        matches!(calls.as_slice(), [(Endpoint::Command, _, _)]),
        "{calls:?}"
    );
    let answer = isolate.answer(&get("http://localhost/"));
    assert_eq!(
        (answer.status, header(&answer.headers, "Retry-After")),
        (503, Some("103"))
    );
    assert!(isolate.effects.calls().is_empty(), "it is not asked");
    let health = isolate.control("health");
    assert_eq!(
        (&health["status"], &health["breaker"]),
        (&json!("degraded"), &json!("open"))
    );
    let why = StoreError::Unauthorized.to_string();
    assert_eq!(health["failing"]["why"], json!(why));
    assert!(isolate.effects.lines()[0].contains(&why));
}

#[test]
fn the_control_plane_is_beneath_its_root_alone() {
    let isolate = Isolate::new(
        &json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"}),
    );
    assert_eq!(
        isolate
            .answer(&get("http://localhost/_limiter/policies"))
            .status,
        401
    );
    assert_eq!(isolate.control("policies")["enabled"], json!(true));
    assert_eq!(isolate.control("health?x")["status"], json!("ok"));
    let put = Asked {
        method: "PUT",
        body: "{\"seconds\":60}",
        ..get("http://localhost/_limiter/blocked/198.51.100.7")
    };
    let put = put.with("authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(isolate.answer(&put).status, 200);
    let blocked = Asked {
        headers: vec![("cf-connecting-ip", "198.51.100.7".to_owned())],
        ..get("http://localhost/")
    };
    assert_eq!(isolate.answer(&blocked).status, 429);
    let elsewhere = isolate.answer(&get("http://localhost/_limiters"));
    assert_eq!(
        header(&elsewhere.headers, "X-RateLimit-Remaining"),
        Some("0")
    );
}

#[test]
fn what_was_denied_is_recorded_once_by_a_duty() {
    let vars = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"});
    let isolate = Isolate::new(&vars);
    assert_eq!(isolate.answer(&get("http://localhost/a")).status, 200);
    assert!(
        isolate.run_duties().is_empty(),
        "an admitted request is not in the sample"
    );
    for _ in 0..10 {
        assert_eq!(
            isolate
                .answer(&get("http://localhost/a").with("cf-ray", "8f-VIE"))
                .status,
            429
        );
    }
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
    let events = isolate.control("events");
    let event = &events["events"][0];
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    for (field, value) in [
        ("kind", json!("denied")),
        ("caller", json!("192.0.2.1")),
        ("policy", json!("general")),
        ("count", json!(10)),
        ("status", json!(429)),
        ("path", json!("/a")),
        ("ray", json!("8f-VIE")),
        ("country", json!("AT")),
        ("asn", json!(64_500)),
    ] {
        assert_eq!(event[field], value, "{event}");
    }
}

#[test]
fn a_sampled_request_is_recorded_with_what_its_origin_answered() {
    let vars = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_EVENT_SAMPLE": "0.5", "ORIGIN_URL": "https://app.example"});
    let isolate = Isolate::new(&vars);
    let samples: Vec<_> = (0..10)
        .filter_map(|_| isolate.forward(&get("https://shop.example/a")).sample)
        .collect();
    assert_eq!(samples.len(), 5);
    for sample in samples {
        isolate.limiter.forwarded(sample, 204);
    }
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents]);
    let event = &isolate.control("events")["events"][0];
    assert_eq!(
        (&event["kind"], &event["status"], &event["count"]),
        (&json!("admitted"), &json!(204), &json!(5))
    );
}

#[test]
fn shadow_denials_are_logged_and_admitted() {
    let vars = json!({
        "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"general": {"mode": "shadow"}},
    });
    let isolate = Isolate::new(&vars);
    for _ in 0..2 {
        assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    }
    assert_eq!(
        isolate.effects.lines(),
        ["shadow: policy general would have denied 192.0.2.1"]
    );
}

#[test]
fn what_memory_admitted_is_reconciled_by_a_duty_once_the_store_answers() {
    let isolate = Isolate::new(&upstash(&json!({})));
    let down = || {
        Ok(Reply {
            status: 400,
            body: "{\"error\":\"OOM\"}".to_owned(),
        })
    };
    isolate.effects.reply(down());
    assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    assert!(
        isolate.run_duties().is_empty(),
        "the store did not answer the latest request"
    );
    let (now, reset) = (1_764_000_000_000_u64, 1_764_000_061_000_u64);
    let answer = |left: u32| {
        let quota = json!([
            1,
            left,
            0,
            reset,
            now,
            0,
            0,
            "sw:1000:1764000000000:1764000000:0=1"
        ]);
        Ok(Reply {
            status: 200,
            body: json!({"result": [null, null, quota]}).to_string(),
        })
    };
    isolate.effects.calls();
    isolate.effects.reply(answer(4));
    let other = Asked {
        headers: vec![("cf-connecting-ip", "192.0.2.9".to_owned())],
        ..get("http://localhost/")
    };
    assert_eq!(isolate.answer(&other).status, 200);
    isolate.effects.reply(answer(4));
    assert_eq!(isolate.run_duties(), [Duty::Reconcile]);
    let [(_, decision, _), (_, reconciled, _)] = isolate.effects.calls().try_into().unwrap();
    assert!(
        decision.contains("general:192.0.2.9") && !decision.contains("absorbed:"),
        "{decision}"
    );
    assert!(
        reconciled.contains("general:192.0.2.1") && reconciled.contains("absorbed:"),
        "{reconciled}"
    );
    assert!(isolate.run_duties().is_empty());
}
