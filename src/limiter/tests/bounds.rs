//! The cost of a request has bounds: for a caller whose denial is known, and for the worst that a client can send.

use std::cell::RefCell;

use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Handled, Location, Request};
use super::{Isolate, TOKEN, TestRequest, by, get, header, json_of};
use crate::admin::RequestBody;
use crate::steps;

const BLOCKED: &str = "198.51.100.7";

/// A request that records which of its headers are read.
struct Watched {
    request: TestRequest,
    read: RefCell<Vec<String>>,
}

impl Request for Watched {
    fn method(&self) -> &str {
        self.request.method()
    }

    fn url(&self) -> &str {
        self.request.url()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.read.borrow_mut().push(name.to_owned());
        self.request.header(name)
    }

    fn location(&self) -> Location {
        self.request.location()
    }

    async fn body(&self, most: usize) -> RequestBody {
        self.request.body(most).await
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

/// The status of the answer, and the names of the headers that were read for it.
fn watched(isolate: &Isolate, request: TestRequest) -> (u16, Vec<String>) {
    let request = Watched {
        request: request.with("authorization", &junk()),
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
fn a_known_block_is_answered_before_route_and_token_are_read() {
    for target in [BLOCKED, "198.51.100.0%2F24"] {
        let isolate = Isolate::new(&vars());
        block(&isolate, target);
        for path in ["/", "/api%2f..%5c\\", "//_limiter/health"] {
            let (status, read) = watched(&isolate, by(BLOCKED, path));
            assert_eq!(status, 429);
            for name in ["authorization", "x-edge-limiter-passed"] {
                assert!(!read.contains(&name.to_owned()), "{read:?}");
            }
            let (status, read) = watched(&isolate, by(BLOCKED, path).sending("OPTIONS", ""));
            assert_eq!(status, 429);
            assert!(!read.contains(&"origin".to_owned()), "{read:?}");
        }
        let (status, read) = watched(&isolate, by("192.0.2.1", "/"));
        assert_eq!(status, 200);
        assert!(read.contains(&"authorization".to_owned()), "{read:?}");
    }
}

#[test]
fn a_remembered_denial_by_policy_ip_is_answered_before_route_and_token_are_read() {
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
        "the bypass token passes the denial"
    );
    isolate.effects.set(3_660_000);
    assert_eq!(watched(&isolate, by(BLOCKED, "/")).0, 200);
}

#[test]
fn a_denial_by_policy_ip_sets_its_block_and_retry_after_counts_down() {
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

/// If routes differ in cost, a remembered denial answers a request only once its route, and so its cost, is known.
#[test]
fn retry_after_depends_on_the_cost_of_the_request() {
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

#[test]
fn a_path_has_at_most_64_separators_that_servers_differ_on() {
    let isolate = Isolate::new(&json!({}));
    for separator in ["/", "%2f", "%2F", "%5c", "%5C"] {
        for (times, status) in [(64, 200), (65, 414)] {
            let path = format!(
                "/a{}b",
                separator.repeat(times + usize::from(separator == "/"))
            );
            let answer = isolate.answer(&by("192.0.2.1", &path));
            assert_eq!(answer.status, status, "{times} of {separator}");
        }
    }
    let plain = "/a/b".repeat(1024);
    assert_eq!(isolate.answer(&by("192.0.2.1", &plain)).status, 200);
    let in_query = format!("/?{}", "//%2f%5c".repeat(100));
    assert_eq!(isolate.answer(&by("192.0.2.1", &in_query)).status, 200);
}

#[test]
fn only_the_first_1024_bytes_of_an_accept_header_are_read() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_IP": "1,60"}));
    isolate.answer(&by("192.0.2.1", "/"));
    let media_type = |accept: &str| {
        let denied = isolate.answer(&by("192.0.2.1", "/").with("accept", accept));
        header(&denied.headers, "content-type").map(str::to_owned)
    };
    let problem = "application/problem+json";
    let far = |blanks: usize| format!("{},{problem};q=0.5,", " ".repeat(blanks));
    // The comma is the last byte that is read in the first header, and the first unread byte in the second.
    let fits = 1024 - problem.len() - 8;
    assert_eq!(media_type(&(far(fits) + "*/*")).as_deref(), Some(problem));
    assert_eq!(
        media_type(&(far(fits + 1) + "*/*")).as_deref(),
        Some("application/json")
    );
    // A range whose `q=0` is cut off is ignored, and not read as a range without a weight.
    let cut = format!("{},{problem};q=0", " ".repeat(1024 - problem.len() - 1));
    assert_eq!(media_type(&cut).as_deref(), Some("application/json"));
}

/// A limiter with the kinds of routes that are shipped, and with everything that reads client input turned on.
fn exposed() -> Isolate {
    let routes: Vec<Value> = [
        "/api/auth/*password*/**",
        "/api/auth/**",
        "/api/login",
        "/**/*.jpg",
        "/a/**/b/*/c",
        "/*/*/x*y*z",
    ]
    .iter()
    .map(|path| json!({"path": path, "methods": ["POST", "GET", "D"], "policies": ["auth", "general", "keyed"]}))
    .collect();
    Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "CHECK_TOKEN": "a-check-token-of-this-test",
        "RATE_LIMIT_BYPASS_TOKEN": "a-bypass-token-of-this-test", "ORIGIN_SECRET": "a-secret-of-this-test",
        "ORIGIN_URL": "https://app.example/base", "RATE_LIMIT_ROUTES": routes, "RATE_LIMIT_KEYED": "1000000,60",
        "RATE_LIMIT_AUTH": "1000000,60", "RATE_LIMIT_GENERAL": "1000000,60", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_POLICIES": {"general": {"authenticated": 1000}, "keyed": {"key": "header:x-api-key"}},
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters", "RATE_LIMIT_JWT_COOKIE": "session",
    }))
}

/// The longest URL and the most headers that the platform accepts, in bytes.
const MAX_URL: usize = 16 * 1024;
const MAX_HEADERS: usize = 128 * 1024;

/// The most steps for each byte of a URL, over all readings of its path; and the most for all headers together.
const PER_BYTE: usize = 100;
const FOR_HEADERS: usize = 96 * 1024;

const PIECES: [&str; 20] = [
    "/", "//", "\\", "%2f", "%5C", "..", ".", "%2e", "%", ";", "?", "#", "a", "_limiter", "api",
    "auth", "password", "é", "\u{1}", "%61",
];
const HEADERS: [&str; 9] = [
    "x-http-method",
    "accept",
    "authorization",
    "cookie",
    "x-edge-limiter-passed",
    "x-ratelimit-bypass",
    "x-api-key",
    "cf-connecting-ip",
    "cf-ray",
];
const FILLS: [&str; 12] = [
    ";",
    ",",
    " ",
    "=",
    "session=a.b.c;",
    "Bearer ",
    "Basic QUFB",
    "a.b.c",
    "application/problem+json;q=0,",
    ":",
    "::1,",
    "é",
];

fn steps_of(isolate: &Isolate, request: &TestRequest) -> usize {
    steps::of(|| drop(isolate.handle(request)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_work_for_a_path_is_linear_in_its_length(
        start in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 0..24),
        again in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 1..6),
        length in 1..MAX_URL,
    ) {
        let isolate = exposed();
        let [start, again] = [start, again].map(|pieces| pieces.concat());
        let mut path = format!("/{start}");
        while path.len() + again.len() <= length {
            path.push_str(&again);
        }
        let request = get(&format!("https://shop.example{path}")).with("x-http-method", "A,B,C,D");
        let steps = steps_of(&isolate, &request);
        let bound = PER_BYTE * (request.url.len() + 64);
        prop_assert!(steps <= bound, "{steps} of {bound} for {path:?}");
    }

    #[test]
    fn the_work_for_headers_is_bounded_whatever_their_length(
        fills in prop::collection::vec((prop::sample::select(HEADERS.as_slice()), prop::sample::select(FILLS.as_slice())), 1..8),
        start in prop::sample::select(&["", "Bearer ", "Basic ", "session=", "a.b."]),
        path in prop::sample::select(&["/", "/api/auth/x", "/_limiter/health", "/_limiter/blocked?a=b&c"]),
    ) {
        let isolate = exposed();
        let each = MAX_HEADERS / fills.len();
        let request = fills.iter().fold(get(&format!("https://shop.example{path}")), |request, (name, fill)| {
            request.with(name, &format!("{start}{}", fill.repeat(each / fill.len())))
        });
        let steps = steps_of(&isolate, &request);
        prop_assert!(steps <= FOR_HEADERS, "{steps} of {FOR_HEADERS} for {fills:?}");
    }

    /// Only the search for the start and the end of the path reads the URL.
    #[test]
    fn the_work_for_a_known_block_does_not_depend_on_headers(
        again in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 1..6),
        fill in prop::sample::select(FILLS.as_slice()),
    ) {
        let isolate = exposed();
        block(&isolate, BLOCKED);
        let request = |length: usize, fill: &str| {
            let again = again.concat();
            let url = format!("https://shop.example/x{}", again.repeat(length / again.len()));
            HEADERS.iter().filter(|name| **name != "cf-connecting-ip").fold(
                get(&url).with("cf-connecting-ip", BLOCKED),
                |request, name| request.with(name, fill),
            )
        };
        let long = request(4000, &fill.repeat(MAX_HEADERS / 8 / fill.len()));
        // The first request opens an event's record, which costs the copy of its path.
        steps_of(&isolate, &long);
        let steps = steps_of(&isolate, &long);
        prop_assert!(steps <= long.url.len() + 2048, "{steps}");
    }
}

#[test]
fn the_control_plane_does_bounded_work_before_it_checks_the_token() {
    let isolate = exposed();
    let url = format!(
        "https://shop.example/_limiter/{}?{}",
        "a/".repeat(2000),
        "a&".repeat(6000)
    );
    let steps = steps_of(&isolate, &get(&url));
    assert!(steps <= 4 * url.len(), "{steps}");
    let many = format!(
        "http://localhost/_limiter/events?{}",
        ["limit=1"; 17].join("&")
    );
    assert_eq!(isolate.answer(&get(&many).authorized()).status, 400);
}
