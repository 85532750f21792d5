//! Whole requests over the production stack, with a host that the test controls. Each file has one subject.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Duty, Forward, Handled, LimitVerdict, Limiter, Location, Request};
use crate::admin::RequestBody;
use crate::config::{HostCapabilities, Vars};
use crate::effects::testing::TestEffects;
use crate::response::Response;

mod answers;
mod application;
mod authorization;
mod bounds;
mod browsers;
mod callers;
mod check;
mod cluster;
mod control_plane;
mod events;
mod exempt;
mod forwarding;
mod health;
mod limit;
mod limits;
mod methods;
mod metrics;
mod networks;
mod page;
mod shadow;
mod shipped;
mod store;
mod zones;

const TOKEN: &str = "an-admin-token-of-this-test";

#[derive(Clone)]
struct TestRequest {
    method: &'static str,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    data_center: Option<&'static str>,
}

impl Request for TestRequest {
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

    fn header_names(&self) -> Option<String> {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
        Some(names.join(","))
    }

    fn location(&self) -> Location {
        Location {
            country: Some("AT".to_owned()),
            asn: Some(64_500),
        }
    }

    fn data_center(&self) -> Option<String> {
        self.data_center.map(str::to_owned)
    }

    async fn body(&self, most: usize) -> RequestBody {
        match self.body.len() > most {
            true => RequestBody::TooLong,
            false => RequestBody::Text(self.body.to_owned()),
        }
    }
}

fn get(url: &str) -> TestRequest {
    TestRequest {
        method: "GET",
        url: url.to_owned(),
        headers: vec![("cf-connecting-ip", "192.0.2.1".to_owned())],
        body: "",
        data_center: None,
    }
}

/// A request from `address` to localhost. Without an origin, the limiter answers it itself.
fn by(address: &str, path: &str) -> TestRequest {
    get(&format!("http://localhost{path}")).with("cf-connecting-ip", address)
}

impl TestRequest {
    /// Sets a header.
    fn with(self, name: &'static str, value: &str) -> Self {
        let mut request = self.without(name);
        request.headers.push((name, value.to_owned()));
        request
    }

    /// Removes a header.
    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    /// Sets the method and the body.
    fn sending(self, method: &'static str, body: &'static str) -> Self {
        Self {
            method,
            body,
            ..self
        }
    }

    /// Adds what Cloudflare's network adds to a request.
    fn at_edge(self) -> Self {
        let arrived = self.with("cf-ray", "230b030023ae2822");
        Self {
            data_center: Some("VIE"),
            ..arrived
        }
    }

    /// Adds the operator's token.
    fn authorized(self) -> Self {
        self.with("authorization", &format!("Bearer {TOKEN}"))
    }
}

struct Isolate {
    limiter: Limiter<TestEffects>,
    effects: TestEffects,
}

impl Isolate {
    fn new(vars: &Value) -> Self {
        Self::bound(vars, false)
    }

    fn bound(vars: &Value, has_origin_binding: bool) -> Self {
        let effects = TestEffects::default();
        let mut vars = vars.clone();
        if vars.get("RATE_LIMIT_METRICS").is_none() {
            // Without metrics, no duty that sends counts comes between the duties that a test expects.
            vars["RATE_LIMIT_METRICS"] = json!(false);
        }
        let vars = Vars::from_json(&vars.to_string()).unwrap();
        let host = HostCapabilities {
            has_origin_binding,
            ..HostCapabilities::default()
        };
        let limiter = Limiter::new(&vars, &host, effects.clone()).unwrap();
        Self { limiter, effects }
    }

    fn handle(&self, request: &TestRequest) -> Handled {
        let handled = self.limiter.handle(request).now_or_never();
        handled.expect("every effect of the test host ends at once")
    }

    fn answer(&self, request: &TestRequest) -> Response {
        match self.handle(request) {
            Handled::Answer(response) => response,
            Handled::Forward(forward) => panic!("{forward:?}"),
        }
    }

    fn forward(&self, request: &TestRequest) -> Forward {
        match self.handle(request) {
            Handled::Forward(forward) => *forward,
            Handled::Answer(response) => panic!("{response:?}"),
        }
    }

    /// The verdict on a request that the application serves.
    fn limit(&self, request: &TestRequest) -> LimitVerdict {
        let verdict = self.limiter.limit(request).now_or_never();
        verdict.expect("every effect of the test host ends at once")
    }

    /// Sends the request `times` times, and returns the statuses.
    fn statuses(&self, request: &TestRequest, times: usize) -> Vec<u16> {
        let status = |_| self.answer(request).status;
        (0..times).map(status).collect()
    }

    /// The control plane's answer, which is JSON that no cache stores.
    fn admin_answer(&self, request: &TestRequest) -> Response {
        let response = self.answer(request);
        let header = |name| header(&response.headers, name);
        assert_eq!(header("Content-Type"), Some("application/json"));
        assert_eq!(header("Cache-Control"), Some("no-store"));
        response
    }

    /// The JSON that an operator reads at a path of the control plane.
    fn admin_json(&self, path: &str) -> Value {
        let request = get(&format!("http://localhost/_limiter/{path}")).authorized();
        let response = self.admin_answer(&request);
        assert_eq!(response.status, 200, "{response:?}");
        json_of(&response)
    }

    /// Runs the duties that are due, as a host does after each request, and returns them.
    fn run_duties(&self) -> Vec<Duty> {
        let mut duties = Vec::new();
        while let Some(duty) = self.limiter.next_duty() {
            duties.push(duty.clone());
            self.limiter.run(duty).now_or_never().unwrap();
        }
        duties
    }
}

/// A header's value. The case of `name` does not matter.
fn header<'a>(headers: &'a [(&str, String)], name: &str) -> Option<&'a str> {
    let found = headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn json_of(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap()
}

fn upstash(policies: &Value) -> Value {
    json!({
        "UPSTASH_REDIS_REST_URL": "https://redis.example", "UPSTASH_REDIS_REST_TOKEN": "a-token",
        "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "5,60", "RATE_LIMIT_POLICIES": policies,
        "ADMIN_TOKEN": TOKEN,
    })
}

/// A policy of each kind, and routes to them.
fn policies() -> Value {
    json!({
        "RATE_LIMIT_GENERAL": "3,3600",
        "RATE_LIMIT_IP": "50,3600",
        "RATE_LIMIT_BLOCKING": "2,3600,7200",
        "RATE_LIMIT_DEAR": "5,3600,600",
        "RATE_LIMIT_BUCKET": "60,60",
        "RATE_LIMIT_FIXED": "2,3600",
        "RATE_LIMIT_WATCHED": "1,3600,600",
        "RATE_LIMIT_POLICIES": {
            "bucket": {"algorithm": "token-bucket", "burst": 2},
            "fixed": {"algorithm": "fixed-window"},
            "watched": {"mode": "shadow"},
        },
        "RATE_LIMIT_ROUTES": [
            {"path": "/blocking", "policies": ["blocking"]},
            {"path": "/dear", "policies": ["dear"], "cost": 6},
            {"path": "/affordable", "policies": ["dear"]},
            {"path": "/bucket", "policies": ["bucket"]},
            {"path": "/fixed", "policies": ["fixed"]},
            {"path": "/watched", "policies": ["general", "watched"]},
        ],
    })
}

/// [`policies`] with one variable set.
fn policies_and(name: &str, value: &str) -> Isolate {
    let mut vars = policies();
    vars[name] = json!(value);
    Isolate::new(&vars)
}
