//! What a request costs at the most: callers that are known to be denied.

use std::cell::RefCell;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::super::{Handled, Location, Request};
use super::{Asked, Isolate, TOKEN, by, get, header, json_of};
use crate::admin::Body;

const BLOCKED: &str = "198.51.100.7";

/// A request that records which of its headers are read.
struct Watched {
    asked: Asked,
    read: RefCell<Vec<String>>,
}

impl Request for Watched {
    fn method(&self) -> &str {
        self.asked.method()
    }

    fn url(&self) -> &str {
        self.asked.url()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.read.borrow_mut().push(name.to_owned());
        self.asked.header(name)
    }

    fn location(&self) -> Location {
        self.asked.location()
    }

    async fn body(&self, most: usize) -> Body {
        self.asked.body(most).await
    }
}

fn junk() -> String {
    format!("Bearer {}", ["eyJhbGciOiJIUzI1NiJ9"; 3].join("."))
}

fn vars() -> Value {
    json!({
        "ADMIN_TOKEN": TOKEN, "ORIGIN_URL": "https://app.example", "RATE_LIMIT_BYPASS_TOKEN": "a-bypass-token-of-this-test",
        "RATE_LIMIT_IP": "3,3600", "RATE_LIMIT_GENERAL": "100,60",
        "RATE_LIMIT_POLICIES": {"general": {"authenticated": 1000}},
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
    })
}

fn block(isolate: &Isolate, target: &str) {
    let url = format!("http://localhost/_limiter/blocked/{target}");
    let put = get(&url).sending("PUT", "{}").authorized();
    assert_eq!(isolate.answer(&put).status, 200);
}

/// The answer, and which headers were read for it.
fn watched(isolate: &Isolate, asked: Asked) -> (u16, Vec<String>) {
    let request = Watched {
        asked: asked.with("authorization", &junk()),
        read: RefCell::default(),
    };
    let handled = isolate.limiter.handle(&request).now_or_never().unwrap();
    let status = match handled {
        Handled::Answer(answer) => answer.status,
        Handled::Forward(_) => 200,
    };
    let mut read = request.read.take();
    read.sort();
    read.dedup();
    (status, read)
}

#[test]
fn a_known_block_is_answered_before_route_and_proof() {
    for target in [BLOCKED, "198.51.100.0%2F24"] {
        let isolate = Isolate::new(&vars());
        block(&isolate, target);
        for path in ["/", "/api%2f..%5c\\", "//_limiter/health"] {
            let (status, read) = watched(&isolate, by(BLOCKED, path));
            assert_eq!(status, 429);
            for name in ["authorization", "x-edge-limiter-passed"] {
                assert!(!read.contains(&name.to_owned()), "{read:?}");
            }
        }
        let (status, read) = watched(&isolate, by("192.0.2.1", "/"));
        assert_eq!(status, 200);
        assert!(read.contains(&"authorization".to_owned()), "{read:?}");
    }
}

#[test]
fn a_denial_by_the_policy_of_every_request_is_answered_before_route_and_proof() {
    let isolate = Isolate::new(&vars());
    for _ in 0..3 {
        assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
    }
    for _ in 0..3 {
        let (status, read) = watched(&isolate, by(BLOCKED, "/"));
        assert_eq!(status, 429);
        assert!(!read.contains(&"authorization".to_owned()), "{read:?}");
    }
    let bypass = by(BLOCKED, "/").with("x-ratelimit-bypass", "a-bypass-token-of-this-test");
    assert_eq!(
        watched(&isolate, bypass).0,
        200,
        "the bypass token comes first"
    );
    isolate.effects.set(3_660_000);
    assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
}

#[test]
fn a_denial_known_by_address_still_sets_its_block_and_names_its_own_wait() {
    let mut vars = vars();
    vars["RATE_LIMIT_IP"] = json!("1,60,600");
    let isolate = Isolate::new(&vars);
    assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
    for (ms, wait) in [(0, "600"), (1000, "599"), (599_999, "1")] {
        isolate.effects.set(ms);
        let denied = isolate.answer(&by(BLOCKED, "/"));
        assert_eq!(header(&denied.headers, "retry-after"), Some(wait));
        assert_eq!(json_of(&denied)["blocked"], true);
    }
    isolate.effects.set(600_000);
    assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
}

/// Where requests differ in cost, only the route says which denial is a request's own.
#[test]
fn a_dear_request_is_told_its_own_wait() {
    let mut vars = vars();
    vars["RATE_LIMIT_IP"] = json!("3,60");
    vars["RATE_LIMIT_ROUTES"] = json!([{"path": "/dear", "policies": ["general"], "cost": 3}]);
    let isolate = Isolate::new(&vars);
    assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
    isolate.effects.set(30_000);
    for _ in 0..2 {
        assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
    }
    let wait = |path| {
        let denied = isolate.answer(&by(BLOCKED, path));
        header(&denied.headers, "retry-after").map(str::to_owned)
    };
    assert_eq!(wait("/"), Some("31".to_owned()));
    assert_eq!(wait("/dear"), Some("61".to_owned()));
}
