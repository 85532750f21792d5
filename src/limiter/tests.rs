//! Whole requests over the production stack, with a host in the test's hands: one file a subject.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Duty, Forward, Handled, Limiter, Location, Request};
use crate::admin::Body;
use crate::config::Vars;
use crate::effects::testing::Manual;
use crate::response::Response;

mod control_plane;
mod events;
mod forwarding;
mod limits;
mod shadow;
mod store;

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
