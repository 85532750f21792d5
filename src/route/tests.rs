//! Laws of classification, and a table of paths that try to escape their route.

use proptest::prelude::*;

use super::{PathPattern, Route, RouteMatch, Routes, normalise};
use crate::policy::PolicyId;

const GENERAL: PolicyId = PolicyId(0);
const AUTH: PolicyId = PolicyId(1);
const USERS: PolicyId = PolicyId(2);
const PUBLIC: PolicyId = PolicyId(3);
const IP: PolicyId = PolicyId(4);

fn route(pattern: &str, methods: &[&str], policies: &[PolicyId], cost: u32) -> Route {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    Route::new(
        PathPattern::parse(pattern).unwrap(),
        methods,
        policies.to_vec(),
        cost,
    )
}

fn routes() -> Routes {
    let routes = vec![
        route("/api/auth/**", &[], &[AUTH, IP], 3),
        route("/api/v*/user-*", &[], &[USERS], 1),
        route("/public/**", &[], &[PUBLIC], 2),
    ];
    Routes::new(routes, vec![GENERAL])
}

fn class(policies: &[PolicyId], cost: u32) -> RouteMatch {
    RouteMatch {
        policies: policies.to_vec(),
        cost,
        route: None,
    }
}

/// The policies and the cost of a request, without the route that it matches.
fn limits(routes: &Routes, method: &str, path: &str) -> RouteMatch {
    RouteMatch {
        route: None,
        ..routes.classify(method, path)
    }
}

#[test]
fn no_spelling_of_a_path_escapes_its_route() {
    let auth = class(&[AUTH, IP], 3);
    // If an origin may read the path differently, the policies of that reading apply as well.
    let auth_too = |others: &[PolicyId]| class(&[others, &[AUTH, IP]].concat(), 3);
    let auth_and = |others: &[PolicyId]| class(&[&[AUTH, IP], others].concat(), 3);
    let table = [
        ("/api/auth/login", auth.clone()),
        ("/API/Auth/Login", auth.clone()),
        // To an origin that takes the first segment for a host, the path starts at the second.
        ("//api//auth/login", auth_and(&[GENERAL])),
        ("//x/api/auth/login", auth_too(&[GENERAL])),
        ("///x/api/auth/login", auth_too(&[GENERAL])),
        ("/\\x\\api\\auth\\login", auth_too(&[GENERAL])),
        ("//x/api%2fauth/login", auth_too(&[GENERAL])),
        ("/api/%61uth/login", auth.clone()),
        ("/api/./auth/../auth/login", auth.clone()),
        ("/api/auth/login/", auth.clone()),
        ("/api/auth/login?next=/public", auth.clone()),
        ("/api/%2e%2e/api/auth/login", auth.clone()),
        ("/api/.%2E/api/auth/login", auth.clone()),
        ("/api/auth/a%2Fb", auth.clone()),
        ("/api/auth/\0", auth.clone()),
        ("/api/auth;v=1/login", class(&[GENERAL], 1)),
        ("\\api\\auth\\login", auth_and(&[GENERAL])),
        ("/api%2Fauth%2Flogin", auth_too(&[GENERAL])),
        ("/api%5Cauth%5Clogin", auth_too(&[GENERAL])),
        (
            "/public%2f..%2fapi/auth/login",
            class(&[GENERAL, AUTH, IP, PUBLIC], 3),
        ),
        (
            "/public/%2f..%2f../api/auth/login",
            class(&[PUBLIC, AUTH, IP], 3),
        ),
        ("/public//../api/auth/login", auth_and(&[PUBLIC])),
        (
            "/api/auth%2f..%2f..%2fpublic",
            class(&[GENERAL, PUBLIC, AUTH, IP], 3),
        ),
        // A server that takes `\` for a character sees one segment, and calls the handler of
        // /api/auth/**.
        (
            "/api/auth/x\\..\\..\\..\\public",
            class(&[PUBLIC, AUTH, IP], 3),
        ),
        // A server that decodes the path and does not resolve it again calls a handler under
        // /api/auth/.
        (
            "/api%2fauth%2fx%2f..%2f..%2f..%2fpublic",
            class(&[GENERAL, PUBLIC, AUTH, IP], 3),
        ),
        ("/api%252Fauth%252Flogin", class(&[GENERAL], 1)),
        ("/%2e%2e/%2e%2e/etc", class(&[GENERAL], 1)),
        ("", class(&[GENERAL], 1)),
        ("*", class(&[GENERAL], 1)),
    ];
    for (path, expected) in table {
        assert_eq!(limits(&routes(), "GET", path), expected, "{path:?}");
    }
}

#[test]
fn the_first_route_that_matches_applies() {
    let ordered = vec![
        route("/a/b", &[], &[AUTH], 5),
        route("/a/**", &[], &[USERS], 1),
    ];
    let reversed = ordered.iter().rev().cloned().collect();
    assert_eq!(
        limits(&Routes::new(ordered, vec![]), "GET", "/a/b"),
        class(&[AUTH], 5)
    );
    assert_eq!(
        limits(&Routes::new(reversed, vec![]), "GET", "/a/b"),
        class(&[USERS], 1)
    );
}

#[test]
fn a_route_matches_its_methods_in_any_case_and_get_covers_head() {
    let routes = Routes::new(
        vec![
            route("/**", &["Post", "PURGE"], &[AUTH], 1),
            route("/**", &["get"], &[USERS], 1),
        ],
        vec![GENERAL],
    );
    for (method, policy) in [
        ("POST", AUTH),
        ("post", AUTH),
        ("purge", AUTH),
        ("GET", USERS),
        ("HEAD", USERS),
        ("head", USERS),
        ("PUT", GENERAL),
        ("", GENERAL),
    ] {
        assert_eq!(
            limits(&routes, method, "/"),
            class(&[policy], 1),
            "{method}"
        );
    }
    let head_only = Routes::new(vec![route("/**", &["HEAD"], &[AUTH], 1)], vec![GENERAL]);
    assert_eq!(limits(&head_only, "GET", "/"), class(&[GENERAL], 1));
}

#[test]
fn a_policy_applies_once_and_an_unmatched_request_costs_one_unit() {
    let routes = Routes::new(
        vec![route("/a", &[], &[IP, AUTH, IP], 0)],
        vec![GENERAL, IP, GENERAL],
    );
    assert_eq!(limits(&routes, "GET", "/a"), class(&[IP, AUTH], 0));
    assert_eq!(limits(&routes, "GET", "/b"), class(&[GENERAL, IP], 1));
}

#[test]
fn the_longest_and_most_ambiguous_path_is_classified_in_bounded_time() {
    let many = Routes::new(
        vec![route(&"/**/a*".repeat(170), &["POST"], &[AUTH], 1); 20],
        vec![GENERAL],
    );
    for trick in [
        "%2f..%5c\\..//a",
        "/a",
        "%",
        "..%2f",
        "\\",
        "//..",
        "%2f%5c\\",
        "a%00",
    ] {
        let path = trick.repeat(16 * 1024 / trick.len());
        for method in ["GET", "POST"] {
            assert!(!many.classify(method, &path).policies.is_empty());
        }
    }
}

/// The same path in another spelling. Each of `tricks` chooses the spelling of one character, and they
/// are reused from the start for a longer path.
fn respell(path: &str, tricks: &[u8]) -> String {
    let mut spelled = String::new();
    for (character, trick) in path.chars().zip(tricks.iter().cycle()) {
        match (character, trick % 5) {
            ('/', 1) => spelled.push_str("//"),
            ('/', 2) => spelled.push_str("/./"),
            ('/', 3) => spelled.push_str("/%2E/"),
            ('/', 4) => spelled.push_str("/x/%2e./"),
            (_, 1) => spelled.extend(character.to_uppercase()),
            (_, 2) => spelled.push_str(&format!("%{:02x}", u32::from(character))),
            (_, 3) => spelled.push_str(&format!(
                "%{:02X}",
                u32::from(character.to_ascii_uppercase())
            )),
            _ => spelled.push(character),
        }
    }
    if tricks.len().is_multiple_of(2) {
        spelled + "/"
    } else {
        spelled
    }
}

/// How known servers read a path. Each is written independently of the code under test.
mod origin {
    fn decode(path: &str) -> String {
        let mut decoded = path.to_owned();
        for (escape, plain) in [("%2f", "/"), ("%5c", "\\"), ("%2e", ".")] {
            decoded = decoded.replace(escape, plain);
        }
        decoded
    }

    fn remove_dots(path: &str) -> String {
        let mut kept = Vec::new();
        for segment in path.split('/').skip(1) {
            match segment.replace("%2e", ".").as_str() {
                "." => {}
                ".." => drop(kept.pop()),
                _ => kept.push(segment),
            }
        }
        format!("/{}", kept.join("/"))
    }

    fn merge_slashes(path: &str) -> String {
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        format!("/{}", segments.join("/"))
    }

    /// A URL parser as in WHATWG's standard.
    pub(super) fn url_parser(path: &str) -> String {
        remove_dots(&path.replace('\\', "/"))
    }

    /// A path resolved as a reference, as by `new URL(path, base)`: after two slashes or more comes a host.
    pub(super) fn resolve(path: &str) -> String {
        let path = path.replace('\\', "/");
        match path.strip_prefix("//") {
            Some(rest) => {
                let rest = rest.trim_start_matches('/');
                url_parser(&rest[rest.find('/').unwrap_or(rest.len())..])
            }
            None => url_parser(&path),
        }
    }

    /// The path that the handler of the request sees, in each of several servers.
    pub(super) fn readings(sent: &str) -> Vec<String> {
        let parsed = url_parser(sent);
        [
            parsed.clone(),
            resolve(sent),
            // nginx, alone and behind a URL parser.
            remove_dots(&merge_slashes(&decode(sent))),
            remove_dots(&merge_slashes(&decode(&parsed))),
            // WSGI, which decodes and does not look for dots again.
            decode(&parsed),
            // Go's ServeMux, which cleans the decoded path and keeps backslashes.
            remove_dots(&merge_slashes(&decode(&remove_dots(sent)))),
            // Windows' file names, in which a backslash separates.
            remove_dots(&merge_slashes(&decode(&parsed).replace('\\', "/"))),
        ]
        .map(|path| merge_slashes(&path).replace('\\', "%5c"))
        .to_vec()
    }
}

proptest! {
    #[test]
    fn another_spelling_matches_the_same_route(
        path in prop::sample::select(vec!["/api/auth/login", "/api/auth", "/api/v2/user-7", "/public", "/none", "/"]),
        tricks in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let expected = routes().classify("GET", path);
        let spelled = respell(path, &tricks);
        let mut class = routes().classify("GET", &spelled);
        if spelled.starts_with("//") {
            // To an origin that resolves the path as a reference, its first segment is a host. The policies of
            // the rest apply as well.
            class.policies.retain(|policy| expected.policies.contains(policy));
            class.cost = class.cost.min(expected.cost);
        }
        prop_assert_eq!(class, expected, "{}", spelled);
    }

    #[test]
    fn no_origin_reads_a_path_more_strictly_than_it_was_classified(
        parts in prop::collection::vec(prop::sample::select(vec![
            "/", "/", "\\", "%2f", "%5c", "..", ".", "%2e", "/api/auth/", "/public/", "api", "auth", "x", "/api%2fauth",
        ]), 0..12),
    ) {
        let raw = format!("/{}", parts.concat());
        // A Worker forwards the parsed path. A server that embeds the limiter gets the raw one.
        let parsed = origin::url_parser(&raw);
        let of = |sent: &str| origin::readings(sent);
        for (classified, read) in [(&raw, of(&raw)), (&parsed, of(&parsed)), (&parsed, vec![origin::resolve(&raw)])] {
            let class = routes().classify("GET", classified);
            for read in read {
                let mut matched = Vec::new();
                routes().add_matches("GET", &read, &mut matched);
                let policies = matched[0].map(|at| routes().routes[at].policies.clone());
                for policy in policies.unwrap_or(vec![GENERAL]) {
                    prop_assert!(class.policies.contains(&policy), "{raw} is {read} to some origin: {class:?}");
                }
            }
        }
    }

    #[test]
    fn classifying_never_panics(method in any::<String>(), path in "\\PC*|([/\\\\.%2fF5cCeE?#;*é]|[\0-\x1f]){0,60}") {
        let class = routes().classify(&method, &path);
        prop_assert!(!class.policies.is_empty());
        prop_assert!(normalise(&path).starts_with('/'));
    }
}

#[test]
fn a_route_that_falls_through_hides_no_later_route() {
    let route = |path: &str, policy: u16, cost: u32| {
        let pattern = PathPattern::parse(path).unwrap();
        Route::new(pattern, Vec::new(), vec![PolicyId(policy)], cost)
    };
    let routes = Routes::new(
        vec![
            route("/a/**", 1, 7).fall_through(),
            route("/a/b", 2, 2),
            route("/a/b", 3, 9),
        ],
        vec![PolicyId(0)],
    );
    let class = routes.classify("GET", "/a/b");
    assert_eq!(
        (class.policies, class.cost),
        (vec![PolicyId(1), PolicyId(2)], 7)
    );
    let class = routes.classify("GET", "/a/c");
    assert_eq!(
        (class.policies, class.cost),
        (vec![PolicyId(1), PolicyId(0)], 7)
    );
}

/// The routes that a request matches, found by trying each route in turn.
fn tried_one_by_one(routes: &Routes, method: &str, normal: &str) -> Vec<Option<usize>> {
    let mut matched = Vec::new();
    for (at, route) in routes.routes.iter().enumerate() {
        if route.covers(method) && route.pattern.matches(normal) {
            matched.push(Some(at));
            if !route.falls_through {
                return matched;
            }
        }
    }
    matched.push(None);
    matched
}

/// A segment of a pattern. Segments with a common beginning or end are the hardest to distinguish.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("**".to_owned()),
        4 => "[ab]{1,2}",
        3 => "[ab]{0,3}\\*[ab]{0,2}",
        1 => "[ab]?\\*[ab]\\*b?",
        1 => "é|é\\*|\\*é",
    ]
}

fn table(most: usize) -> impl Strategy<Value = Routes> {
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..=1);
    let segments = prop::collection::vec(segment(), 0..5);
    let drawn = (segments, methods, prop::bool::weighted(0.1));
    prop::collection::vec(drawn, 0..most).prop_map(|drawn| {
        let routes = drawn.iter().map(|(segments, methods, falls_through)| {
            let route = route(&format!("/{}", segments.join("/")), methods, &[AUTH], 1);
            if *falls_through {
                route.fall_through()
            } else {
                route
            }
        });
        Routes::new(routes.collect(), vec![GENERAL])
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_each_route_finds(
        routes in table(60),
        paths in prop::collection::vec(prop::collection::vec("[ab]{1,4}|é[ab]?|[ab]é", 0..6), 1..6),
    ) {
        for path in paths {
            let normal = format!("/{}", path.join("/"));
            for method in ["GET", "POST"] {
                let mut matched = Vec::new();
                routes.add_matches(method, &normal, &mut matched);
                prop_assert_eq!(matched, tried_one_by_one(&routes, method, &normal), "{} {}", method, normal);
            }
        }
    }
}

/// How many of a thousand routes are tried for a path.
fn count_tried(pattern: impl Fn(usize) -> String, path: &str) -> usize {
    let routes = (0..1000).map(|at| route(&pattern(at), &[], &[AUTH], 1));
    let routes = Routes::new(routes.collect(), vec![GENERAL]);
    let normal = normalise(path);
    assert!(
        routes
            .routes
            .iter()
            .any(|route| route.matches("GET", &normal))
    );
    routes.index.candidates(&routes.routes, &normal).len()
}

#[test]
fn of_a_thousand_routes_only_those_that_a_path_may_match_are_tried() {
    assert_eq!(count_tried(|at| format!("/api/r{at}"), "/api/r999"), 1);
    assert_eq!(count_tried(|at| format!("/api/r{at}/**"), "/api/r7/x/y"), 1);
    assert_eq!(count_tried(|at| format!("/api/*/r{at}"), "/api/42/r999"), 1);
    assert_eq!(count_tried(|at| format!("/r{at}-*/x"), "/r999-7/x"), 1);
    assert_eq!(count_tried(|at| format!("/**/r{at}"), "/a/b/c/r999"), 1);
    assert_eq!(
        count_tried(|at| format!("/a/**/r{at}/*"), "/a/b/c/r999/d"),
        1
    );
    // All of these are tried, because they differ only between two `**`.
    assert_eq!(count_tried(|at| format!("/**/r{at}/**"), "/a/r999/b"), 1000);
}
