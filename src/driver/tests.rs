//! The driver with a host of a few lines: which effects it asks for, and that every request gets an answer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::json;

use super::{Driver, Platform, RequestFields, TaskOutcome};
use crate::admin::{ControlPlaneCall, RequestBody};
use crate::config::{self, Server, Vars};
use crate::effects::{LogLevel, RedisResponse};
use crate::limiter::{ForwardTarget, LimitVerdict, Location};
use crate::response::Response;
use crate::store::conformance::START;
use crate::tasks::{Effect, EffectResult, TaskStep};
use crate::time::{Millis, Timestamp};

#[derive(Clone, Default)]
struct TestPlatform {
    /// The time since [`START`], in ms.
    elapsed: Rc<Cell<u64>>,
    headers: Rc<RefCell<HashMap<&'static str, &'static str>>>,
    lines: Rc<RefCell<Vec<String>>>,
}

impl Platform for TestPlatform {
    fn now(&self) -> Timestamp {
        START + Millis::new(self.elapsed.get())
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }

    fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers.borrow();
        headers.get(name).map(|value| (*value).to_owned())
    }

    fn location(&self) -> Location {
        Location::default()
    }

    fn has_body(&self) -> bool {
        false
    }
}

fn driver(vars: &serde_json::Value) -> (TestPlatform, Driver<TestPlatform>) {
    let host = TestPlatform::default();
    let mut driver = Driver::new(host.clone());
    let mut vars = vars.clone();
    // Without metrics, no duty that sends counts comes between the duties that a test expects.
    vars["RATE_LIMIT_METRICS"] = json!(false);
    let vars = Vars::from_json(&vars.to_string()).unwrap();
    driver
        .configure(&vars, config::HostCapabilities::default())
        .unwrap();
    (host, driver)
}

fn upstash() -> serde_json::Value {
    json!({
        "UPSTASH_REDIS_REST_URL": "https://redis.example/", "UPSTASH_REDIS_REST_TOKEN": "a-token",
        "RATE_LIMIT_GENERAL": "5,60", "RATE_LIMIT_IP": "off", "REDIS_KEY_PREFIX": "t:",
    })
}

fn get(url: &str) -> RequestFields {
    RequestFields {
        method: "GET".to_owned(),
        url: url.to_owned(),
        address: "192.0.2.1".to_owned(),
        loop_guard: String::new(),
    }
}

fn answered(step: TaskStep<TaskOutcome>) -> Response {
    match step {
        TaskStep::Done(TaskOutcome::Answer(response)) => response,
        step => panic!("{step:?}"),
    }
}

fn verdict(step: TaskStep<TaskOutcome>) -> LimitVerdict {
    match step {
        TaskStep::Done(TaskOutcome::Verdict(verdict)) => *verdict,
        step => panic!("{step:?}"),
    }
}

fn admitted(left: u32) -> EffectResult {
    let (now, reset) = (START.as_millis(), START.as_millis() + 61_000);
    let quota = json!([1, left, 0, reset, now, 0, 0, ""]);
    EffectResult::Redis(Ok(RedisResponse {
        status: 200,
        body: json!({"result": [null, null, quota]}).to_string(),
    }))
}

#[test]
fn an_unconfigured_driver_answers_503() {
    let mut driver = Driver::new(TestPlatform::default());
    assert_eq!(answered(driver.begin(get("http://localhost/"))).status, 503);
    assert!(driver.next_duty().is_none());
}

#[test]
fn a_setup_tells_the_host_which_headers_to_read_and_how_to_reach_redis() {
    let mut driver = Driver::new(TestPlatform::default());
    let vars = Vars::from_json(&upstash().to_string()).unwrap();
    let setup = driver
        .configure(&vars, config::HostCapabilities::default())
        .unwrap();
    assert_eq!(setup.client_ip_header, "cf-connecting-ip");
    // An origin may read `X_Api_Key` as `X-Api-Key`, so the other spelling is not forwarded.
    let keyed = json!({"RATE_LIMIT_POLICIES": {"general": {"key": "header:X-Api-Key"}}});
    let keyed = Vars::from_json(&keyed.to_string()).unwrap();
    let keyed = driver
        .configure(&keyed, config::HostCapabilities::default())
        .unwrap();
    assert_eq!(
        keyed.other_spellings_not_forwarded,
        ["cf-connecting-ip", "x-forwarded-for", "x-api-key"]
    );
    let setup = driver
        .configure(&vars, config::HostCapabilities::default())
        .unwrap();
    let Some(Server::Rest { url, token }) = &setup.redis else {
        panic!("no Redis is configured: {setup:?}");
    };
    assert_eq!(
        (url.as_str(), token.reveal()),
        ("https://redis.example/", "a-token")
    );
    assert!(!format!("{setup:?}").contains("a-token"));
}

#[test]
fn a_decision_takes_one_call_of_redis() {
    let (_, mut driver) = driver(&upstash());
    let step = driver.begin(get("http://localhost/"));
    let TaskStep::Asks(
        id,
        Effect::Redis {
            setup: 0,
            body,
            timeout,
        },
    ) = step
    else {
        panic!("{step:?}")
    };
    assert_eq!(timeout, Millis::new(1000));
    assert!(
        body.starts_with("[\"EVALSHA\",") && body.contains("\"t:general:192.0.2.1\""),
        "{body}"
    );
    let response = answered(driver.resume(id, admitted(4)));
    let left = ("X-RateLimit-Remaining", "4".to_owned());
    assert!(
        response.status == 200 && response.headers.contains(&left),
        "{response:?}"
    );
    assert!(driver.next_duty().is_none());
}

#[test]
fn a_request_whose_task_was_dropped_is_answered_503() {
    let (host, mut driver) = driver(&upstash());
    let TaskStep::Asks(id, _) = driver.begin(get("http://localhost/")) else {
        panic!("the decision does not call Redis")
    };
    // Its client has disconnected, and other requests have made the driver drop the task.
    for ms in [60_000, 80_000] {
        host.elapsed.set(ms);
        for _ in 0..4 {
            driver.begin(get("http://localhost/"));
        }
    }
    assert_eq!(answered(driver.resume(id, admitted(4))).status, 503);
}

#[test]
fn a_request_in_progress_ends_with_the_environment_in_which_it_began() {
    let (_, mut driver) = driver(&upstash());
    let TaskStep::Asks(id, _) = driver.begin(get("http://localhost/")) else {
        panic!("the decision does not call Redis")
    };
    let memory = Vars::from_json("{\"RATE_LIMIT_GENERAL\": \"9,60\"}").unwrap();
    driver
        .configure(&memory, config::HostCapabilities::default())
        .unwrap();
    let response = answered(driver.resume(id, admitted(4)));
    assert!(
        response
            .headers
            .contains(&("X-RateLimit-Limit", "5".to_owned()))
    );
    let response = answered(driver.begin(get("http://localhost/")));
    assert!(
        response
            .headers
            .contains(&("X-RateLimit-Limit", "9".to_owned()))
    );
}

#[test]
fn a_sampled_request_is_recorded_once_and_written_by_a_duty() {
    let vars = json!({"ORIGIN_URL": "https://app.example", "RATE_LIMIT_EVENT_SAMPLE": "1"});
    let (host, mut driver) = driver(&vars);
    let step = driver.begin(get("https://shop.example/a?b"));
    let TaskStep::Done(TaskOutcome::Forward(forward, Some(sample))) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        forward.target,
        ForwardTarget::Url("https://app.example/a?b".to_owned())
    );
    assert!(
        driver.next_duty().is_none(),
        "the sample is not recorded before its status is known"
    );
    driver.forwarded(sample, 204);
    driver.forwarded(sample, 204);
    let Some(TaskStep::Asks(id, Effect::Sleep(length))) = driver.next_duty() else {
        panic!("no duty writes the event")
    };
    assert!(driver.next_duty().is_none(), "a duty writes already");
    host.elapsed.set(length.get());
    let step = driver.resume(id, EffectResult::Slept);
    assert!(
        matches!(step, TaskStep::Done(TaskOutcome::Done)),
        "{step:?}"
    );
}

#[test]
fn headers_outside_of_the_fields_are_read_through_the_platform() {
    let vars = json!({"RATE_LIMIT_GENERAL": "1,60"});
    let (host, mut driver) = driver(&vars);
    host.headers
        .borrow_mut()
        .insert("accept", "application/problem+json");
    let url = "http://localhost/";
    assert_eq!(answered(driver.begin(get(url))).status, 200);
    let denied = answered(driver.begin(get(url)));
    let problem = ("Content-Type", "application/problem+json".to_owned());
    assert!(
        denied.status == 429 && denied.headers.contains(&problem),
        "{denied:?}"
    );
    let other = RequestFields {
        address: String::new(),
        ..get(url)
    };
    let unknown = answered(driver.begin(other));
    assert!(
        unknown.body.contains("\"caller\":\"unknown\""),
        "{unknown:?}"
    );
}

#[test]
fn a_page_of_a_listed_origin_may_read_a_502() {
    let vars = json!({"ORIGIN_URL": "https://app.example", "RATE_LIMIT_CORS_ORIGINS": "https://a.example"});
    let (host, driver) = driver(&vars);
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
        host.headers.borrow_mut().insert("origin", origin);
        let answer = driver.bad_gateway(0);
        let header = ("Access-Control-Allow-Origin", origin.to_owned());
        assert_eq!(answer.status, 502);
        assert_eq!(answer.headers.contains(&header), allowed, "{answer:?}");
    }
    let unconfigured = Driver::new(TestPlatform::default());
    assert_eq!(unconfigured.bad_gateway(0).status, 502);
}

/// A platform may give an isolate several environments in turn. None of them resets the limits of another.
#[test]
fn an_environment_that_is_configured_again_continues_with_its_limiter() {
    let mut driver = Driver::new(TestPlatform::default());
    let environments = ["1,60", "2,60"].map(|limit| {
        let vars = json!({"RATE_LIMIT_GENERAL": limit, "RATE_LIMIT_IP": "off"});
        Vars::from_json(&vars.to_string()).unwrap()
    });
    let mut status = |vars| {
        driver
            .configure(vars, config::HostCapabilities::default())
            .unwrap();
        answered(driver.begin(get("http://localhost/"))).status
    };
    let statuses = [0, 1, 0, 1, 0, 1].map(|place| status(&environments[place]));
    assert_eq!(statuses, [200, 200, 429, 200, 429, 429]);
}

/// An application may have several limiters, and use another one for each request.
#[test]
fn an_environment_is_selected_by_its_number_while_it_is_kept() {
    let host = TestPlatform::default();
    let mut driver = Driver::new(host.clone());
    assert!(!driver.select(0), "nothing is configured");
    let configure = |driver: &mut Driver<TestPlatform>, limit: usize, header: &str| {
        let vars = json!({
            "RATE_LIMIT_GENERAL": format!("{},60", limit + 1), "RATE_LIMIT_IP": "off", "CLIENT_IP_HEADER": header,
        });
        let vars = Vars::from_json(&vars.to_string()).unwrap();
        driver
            .configure(&vars, config::HostCapabilities::default())
            .unwrap()
            .number
    };
    let numbers: Vec<u32> = (0..super::MAX_ENVIRONMENTS)
        .map(|limit| configure(&mut driver, limit, "x-real-ip"))
        .collect();
    for (limit, number) in numbers.iter().enumerate() {
        assert!(driver.select(*number));
        let verdict = verdict(driver.limit(get("https://app.example/")));
        assert_eq!(verdict.limit, u32::try_from(limit + 1).ok());
    }
    assert!(driver.select(numbers[0]), "the environment is still kept");
    let verdict = verdict(driver.limit(get("https://app.example/")));
    assert!(verdict.answer.is_some(), "the environment keeps its counts");
    let warned = || {
        host.lines
            .take()
            .concat()
            .contains("more than 100 configurations")
    };
    assert!(!warned());
    configure(&mut driver, 99, "x-client-ip");
    assert!(warned());
    configure(&mut driver, 98, "x-client-ip");
    assert!(!warned(), "the warning is logged once");
    let kept = [0, 1, 2, 3].map(|place| driver.select(numbers[place]));
    assert_eq!(
        kept,
        [true, false, false, true],
        "the least recently used environments are dropped"
    );
    assert!(driver.select(numbers[0]));
    assert_eq!(&*driver.address_header, "x-real-ip");
}

#[test]
fn limit_ends_in_a_verdict() {
    let (_, mut driver) = driver(&upstash());
    let url = "https://app.example/a";
    let TaskStep::Asks(id, Effect::Redis { body, .. }) = driver.limit(get(url)) else {
        panic!("the decision does not call Redis")
    };
    assert!(body.contains("\"t:general:192.0.2.1\""), "{body}");
    let verdict = verdict(driver.resume(id, admitted(4)));
    assert_eq!((verdict.answer, verdict.remaining), (None, Some(4)));

    // A request whose task no longer exists is answered 503.
    let TaskStep::Asks(id, _) = driver.limit(get(url)) else {
        panic!("the decision does not call Redis")
    };
    assert!(matches!(
        driver.resume(id, admitted(4)),
        TaskStep::Done(TaskOutcome::Verdict(_))
    ));
    assert_eq!(answered(driver.resume(id, admitted(4))).status, 503);
    let mut unconfigured = Driver::new(TestPlatform::default());
    assert_eq!(answered(unconfigured.limit(get(url))).status, 503);
}

#[test]
fn the_control_plane_needs_a_token_over_http_and_none_from_the_application() {
    let vars = json!({"ADMIN_TOKEN": "an-admin-token-of-this-test", "RATE_LIMIT_GENERAL": "5,60"});
    let (host, mut driver) = driver(&vars);
    let policies = "https://app.example/_limiter/policies";
    assert_eq!(answered(driver.control_plane(get(policies))).status, 401);
    let elsewhere = answered(driver.control_plane(get("https://app.example/policies")));
    assert_eq!(elsewhere.status, 404);
    host.headers
        .borrow_mut()
        .insert("authorization", "Bearer an-admin-token-of-this-test");
    assert_eq!(answered(driver.control_plane(get(policies))).status, 200);
    let put = RequestFields {
        method: "PUT".to_owned(),
        ..get("https://app.example/_limiter/blocked/192.0.2.9")
    };
    let TaskStep::Asks(id, Effect::Body { .. }) = driver.control_plane(put) else {
        panic!("the control plane does not read the body")
    };
    let body = EffectResult::Body(RequestBody::Text("{\"seconds\":60}".to_owned()));
    assert_eq!(answered(driver.resume(id, body)).status, 200);

    host.headers.borrow_mut().clear();
    let operation = ControlPlaneCall {
        method: "GET".to_owned(),
        path_and_query: "/blocked/192.0.2.9".to_owned(),
        body: String::new(),
    };
    let looked_up = answered(driver.operate(operation));
    assert!(looked_up.body.contains("\"blocked\":true"), "{looked_up:?}");
}

#[test]
fn an_application_call_takes_one_call_of_redis() {
    let (_, mut driver) = driver(&upstash());
    let TaskStep::Asks(id, Effect::Redis { body, .. }) =
        driver.application("[\"get\",\"a\"]".to_owned())
    else {
        panic!("the application's call does not call Redis")
    };
    assert_eq!(body, "[\"GET\",\"t:app/a\"]");
    let reply = EffectResult::Redis(Ok(RedisResponse {
        status: 200,
        body: "{\"result\":\"x\"}".to_owned(),
    }));
    let response = answered(driver.resume(id, reply));
    assert_eq!(
        (response.status, &*response.body),
        (200, "{\"result\":\"x\"}")
    );
}

/// A limiter writes to its own Redis, even if another environment is in force.
#[test]
fn duties_and_samples_stay_with_their_limiter() {
    let sampled = |prefix: &str| {
        let mut vars = upstash();
        vars["ORIGIN_URL"] = json!("https://app.example");
        vars["RATE_LIMIT_EVENT_SAMPLE"] = json!("1");
        vars["REDIS_KEY_PREFIX"] = json!(prefix);
        Vars::from_json(&vars.to_string()).unwrap()
    };
    let host = TestPlatform::default();
    let mut driver = Driver::new(host.clone());
    let first = driver
        .configure(&sampled("one:"), config::HostCapabilities::default())
        .unwrap();
    let TaskStep::Asks(id, Effect::Redis { setup, .. }) = driver.begin(get("http://localhost/"))
    else {
        panic!("the decision does not call Redis")
    };
    assert_eq!(setup, first.number);
    let second = driver
        .configure(&sampled("two:"), config::HostCapabilities::default())
        .unwrap();
    assert_ne!(first.number, second.number);
    let step = driver.resume(id, admitted(4));
    let TaskStep::Done(TaskOutcome::Forward(forward, Some(sample))) = step else {
        panic!("{step:?}")
    };
    assert!(forward.sample.is_none());
    driver.forwarded(sample, 204);
    let Some(TaskStep::Asks(id, Effect::Sleep(length))) = driver.next_duty() else {
        panic!("no duty writes the event")
    };
    host.elapsed.set(length.get());
    let step = driver.resume(id, EffectResult::Slept);
    let TaskStep::Asks(_, Effect::Redis { setup, body, .. }) = step else {
        panic!("{step:?}")
    };
    assert_eq!(setup, first.number);
    assert!(
        body.contains("one:events") && !body.contains("two:"),
        "{body}"
    );
}

#[test]
fn debug_output_contains_no_secret() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "ORIGIN_SECRET": "of-the-origin", "ADMIN_TOKEN": "of-the-admin",
    });
    let vars = Vars::from_json(&vars.to_string()).unwrap();
    let mut driver = Driver::new(TestPlatform::default());
    driver
        .configure(&vars, config::HostCapabilities::default())
        .unwrap();
    let step = driver.begin(get("http://localhost/"));
    let verify = Effect::Verify {
        algorithm: "HS256",
        material: "of-the-provider".to_owned(),
        signed: String::new(),
        signature: Vec::new(),
    };
    let printed = format!("{vars:?} {step:?} {verify:?}");
    assert!(
        printed.contains("ORIGIN_SECRET") && printed.contains("x-edge-limiter-secret"),
        "{printed}"
    );
    assert!(!printed.contains("of-the-"), "{printed}");
}

#[test]
fn the_oldest_of_too_many_samples_is_recorded_without_a_status() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "RATE_LIMIT_EVENT_SAMPLE": "1",
        "RATE_LIMIT_GENERAL": "off", "RATE_LIMIT_IP": "9999,60",
    });
    let (_, mut driver) = driver(&vars);
    for _ in 0..super::MAX_SAMPLES {
        driver.begin(get("https://shop.example/"));
        assert!(driver.next_duty().is_none());
    }
    driver.begin(get("https://shop.example/"));
    assert!(driver.next_duty().is_some());
}
