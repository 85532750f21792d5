//! Requests, end to end through the gate, over the memory store.

use std::collections::HashMap;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Exempt, GateRequest, Preflights, Report, Terms, Undecided, caller, decide};
use crate::blocklist::AddressBlock;
use crate::client::CallerKey;
use crate::config::{Config, Vars};
use crate::quota::QuotaOutcome;
use crate::seed::Seed;
use crate::store::conformance::START;
use crate::store::memory::Memory;
use crate::store::{Check, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};
use crate::user::Authenticate;

#[derive(Clone, Default)]
struct Asked {
    path: String,
    headers: HashMap<String, String>,
}

impl GateRequest for Asked {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }
}

fn from(address: &str, path: &str) -> Asked {
    Asked {
        path: path.to_owned(),
        headers: HashMap::from([("cf-connecting-ip".to_owned(), address.to_owned())]),
    }
}

impl Asked {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Takes a header at its word.
struct SaysSo;

impl Authenticate for SaysSo {
    async fn user(
        &self,
        header: impl Fn(&str) -> Option<String>,
        _: Timestamp,
    ) -> Option<CallerKey> {
        header("x-proven").map(|name| CallerKey::user(&name))
    }
}

struct Gate {
    config: Config,
    store: Memory,
}

impl Gate {
    fn new(vars: &Value) -> Self {
        let compiled = Config::compile(&Vars::from_json(&vars.to_string()).unwrap());
        assert!(!compiled.has_errors(), "{:?}", compiled.problems);
        Self::of(compiled.config)
    }

    fn of(config: Config) -> Self {
        Self {
            config,
            store: Memory::new(1000, Seed::fixed()),
        }
    }

    fn ask(&self, request: &Asked, now: Timestamp) -> Report {
        let report = decide(&self.config, &self.store, &SaysSo, request, now).now_or_never();
        report.expect("memory waits for nothing").unwrap()
    }

    /// How many of `times` such requests are admitted at once.
    fn admits(&self, request: &Asked, times: usize) -> usize {
        (0..times)
            .filter(|_| self.ask(request, START).admitted)
            .count()
    }
}

fn policies(report: &Report) -> Vec<&str> {
    report
        .enforced
        .iter()
        .map(|standing| standing.policy.as_str())
        .collect()
}

#[test]
fn a_request_meets_its_routes_policies_and_the_addresss() {
    let gate =
        Gate::new(&json!({"RATE_LIMIT_ROUTES": [{"path": "/login", "policies": ["auth", "mfa"]}]}));
    assert_eq!(
        policies(&gate.ask(&from("192.0.2.1", "/login"), START)),
        ["auth", "mfa", "ip"]
    );
    assert_eq!(
        policies(&gate.ask(&from("192.0.2.1", "/"), START)),
        ["general", "ip"]
    );
}

#[test]
fn a_policy_met_twice_is_charged_once() {
    let gate = Gate::new(
        &json!({"RATE_LIMIT_ROUTES": [{"path": "/x", "policies": ["ip", "ip", "auth"]}]}),
    );
    assert_eq!(
        policies(&gate.ask(&from("192.0.2.1", "/x"), START)),
        ["ip", "auth"]
    );
}

#[test]
fn the_tightest_share_binds() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "100,60", "RATE_LIMIT_IP": "20,60"}));
    let report = gate.ask(&from("192.0.2.1", "/"), START);
    assert_eq!(
        report.binding().unwrap().policy,
        "ip",
        "19 of 20 is less than 99 of 100"
    );
}

#[test]
fn the_least_share_binds_even_if_more_units_are_left_in_it() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_WIDE": "100,60",
        "RATE_LIMIT_NARROW": "20,60",
        "RATE_LIMIT_ROUTES": [
            {"path": "/export", "policies": ["wide"], "cost": 60},
            {"path": "/**", "policies": ["wide", "narrow"]},
        ],
    }));
    assert!(gate.ask(&from("192.0.2.1", "/export"), START).admitted);
    let report = gate.ask(&from("192.0.2.1", "/"), START);
    let remaining = |place: usize| report.enforced[place].answer.decision.remaining;
    assert_eq!((remaining(0), remaining(1)), (39, 19));
    assert_eq!(
        report.binding().unwrap().policy,
        "wide",
        "39 of 100 is a smaller share than 19 of 20"
    );
}

#[test]
fn of_several_denials_the_longest_binds() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "1,3600"}));
    let request = from("192.0.2.1", "/");
    assert!(gate.ask(&request, START).admitted);
    let report = gate.ask(&request, START + Millis::new(5));
    assert!(!report.admitted);
    assert_eq!(report.binding().unwrap().policy, "ip");
}

#[test]
fn an_impossible_denial_binds_before_one_that_waiting_ends() {
    let vars = json!({
        "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_SMALL": "2,60",
        "RATE_LIMIT_LARGE": "3,3600",
        "RATE_LIMIT_ROUTES": [
            {"path": "/once", "policies": ["large"], "cost": 3},
            {"path": "/**", "policies": ["large", "small"], "cost": 3},
        ],
    });
    // Reported as an error, as no request to `/**` can be admitted, and in force nevertheless.
    let gate = Gate::of(Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config);
    assert!(gate.ask(&from("192.0.2.1", "/once"), START).admitted);
    let report = gate.ask(&from("192.0.2.1", "/"), START);
    let standings = &report.enforced;
    assert!(
        standings[0].answer.retry_at().is_some(),
        "waiting ends this"
    );
    assert_eq!(
        standings[1].answer.decision.outcome,
        QuotaOutcome::Impossible
    );
    assert_eq!(report.binding().unwrap().policy, "small");
}

#[test]
fn callers_are_apart_and_a_network_is_one() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60"}));
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 5), 3);
    assert_eq!(gate.admits(&from("192.0.2.2", "/"), 5), 3);
    assert_eq!(gate.admits(&from("::ffff:192.0.2.2", "/"), 5), 0);
    assert_eq!(gate.admits(&from("2001:db8::1", "/"), 2), 2);
    assert_eq!(gate.admits(&from("2001:db8::ffff:2", "/"), 5), 1);
    assert_eq!(gate.admits(&from("2001:db8:0:1::1", "/"), 5), 3);
}

#[test]
fn a_forged_list_is_nobodys_address() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60"}));
    for number in 0..3 {
        let request =
            from("192.0.2.1", "/").with("x-forwarded-for", &format!("203.0.113.{number}"));
        assert_eq!(gate.admits(&request, 1), 1);
    }
    assert!(
        !gate
            .ask(
                &from("192.0.2.1", "/").with("x-forwarded-for", "203.0.113.9"),
                START
            )
            .admitted
    );
}

#[test]
fn the_unidentified_share_one_quota_and_are_never_blocked() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60,600"}));
    let nobody = Asked {
        path: "/".to_owned(),
        ..Asked::default()
    };
    assert_eq!(gate.admits(&nobody, 2), 2);
    assert_eq!(gate.admits(&from("not an address", "/"), 5), 1);
    let report = gate.ask(&nobody, START);
    assert!(!report.admitted);
    assert_eq!(report.enforced[0].answer.blocked_until, None);
    assert_eq!(
        gate.admits(&from("192.0.2.1", "/"), 9),
        3,
        "and lock nobody else out"
    );
    assert!(gate.ask(&nobody, START + Millis::from_secs(62)).admitted);
    assert!(
        !gate
            .ask(&from("192.0.2.1", "/"), START + Millis::from_secs(62))
            .admitted
    );
}

#[test]
fn cloudflares_shared_address_is_limited_but_never_blocked() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60,600"}));
    let shared = from("2a06:98c0:3600::103", "/");
    assert_eq!(gate.admits(&shared, 9), 3);
    assert!(gate.ask(&shared, START + Millis::from_secs(62)).admitted);
}

#[test]
fn a_header_narrows_a_limit_and_never_escapes_the_addresss() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_API": "3,60",
        "RATE_LIMIT_POLICIES": {"api": {"key": "header:X-Api-Key"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }));
    let rotated =
        |number: usize| from("192.0.2.1", "/").with("x-api-key", &format!("key-{number}"));
    let admitted = (0..20)
        .filter(|number| gate.ask(&rotated(*number), START).admitted)
        .count();
    assert_eq!(admitted, 3, "a fresh key each time is no fresh quota");
    // The same key from many addresses is one quota as well.
    let shared =
        |number: usize| from(&format!("198.51.100.{number}"), "/").with("x-api-key", "shared");
    let admitted = (0..20)
        .filter(|number| gate.ask(&shared(*number), START).admitted)
        .count();
    assert_eq!(admitted, 3);
    let report = gate.ask(&from("203.0.113.7", "/"), START);
    assert_eq!(
        policies(&report),
        ["api", "ip"],
        "without the header, by the address alone"
    );
}

#[test]
fn nobody_is_blocked_by_who_knows_its_header() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_API": "3,60,600",
        "RATE_LIMIT_POLICIES": {"api": {"key": "header:X-User-Id"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }));
    let attacker = from("203.0.113.66", "/").with("x-user-id", "42");
    assert_eq!(gate.admits(&attacker, 9), 3);
    let victim = from("192.0.2.1", "/").with("x-user-id", "42");
    let report = gate.ask(&victim, START + Millis::from_secs(62));
    assert!(
        report.admitted,
        "the value's quota is whole again, and no block was set on it"
    );
    assert!(
        !gate.ask(&attacker, START + Millis::from_secs(62)).admitted,
        "the attacker's address is blocked"
    );
}

/// A gate with a policy of three requests by `header`, at addresses that never run out.
fn keyed(header: &str) -> Gate {
    Gate::new(&json!({
        "RATE_LIMIT_API": "3,60", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_POLICIES": {"api": {"key": format!("header:{header}")}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }))
}

/// How many requests with these values of `header`, one each and from an address each, are admitted.
fn admitted_with<'a>(
    gate: &Gate,
    header: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> usize {
    let ask = |(number, value): (usize, &str)| {
        let request = from(&format!("198.51.100.{number}"), "/").with(header, value);
        gate.ask(&request, START).admitted
    };
    values
        .into_iter()
        .enumerate()
        .filter(|one| ask(*one))
        .count()
}

#[test]
fn a_header_value_is_one_key_however_it_is_sent() {
    let spelt = [
        "key", " key", "key ", "key\t", "key, ", ", key", "key, key", "key,key",
    ];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", spelt), 3);
    // Of any line of the header.
    let lines = ["key", "key, a", "b, key", "c,key", "d, e, key, f"];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", lines), 3);
    let distinct = ["key", "Key", "k ey", "Bearer key", "bearer key"];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", distinct), 5);
}

/// How many requests are admitted with these credentials, of each at most three.
fn admitted_as<'a>(credentials: impl IntoIterator<Item = &'a str>) -> usize {
    admitted_with(&keyed("Authorization"), "authorization", credentials)
}

#[test]
fn credentials_are_one_key_in_any_case_of_their_scheme() {
    let spelt = [
        "Bearer key",
        "bearer key",
        "BEARER  key",
        "bEaReR \t key ",
        "Bearer key, Bearer other",
        "Basic QTpC, Bearer key",
        "Bearer key, x=random",
        "x=random, Bearer key",
    ];
    assert_eq!(admitted_as(spelt), 3);
    let distinct = [
        "Bearer key",
        "Bearer Key",
        "Basic key",
        "key",
        "Bearer kez",
        "a2V5=",
        "a2V5==",
    ];
    assert_eq!(admitted_as(distinct), 7);
    // Each user of a scheme with parameters has a key.
    let user = |name: &str| {
        format!(
            "Digest username=\"{name}\", realm=\"r\", nonce = \"n\", uri=\"/\", qop=auth, nc=1, response=\"0\""
        )
    };
    let users: Vec<String> = (0..5)
        .map(|number| user(&format!("user-{number}")))
        .collect();
    let users = users.iter().map(String::as_str);
    assert_eq!(admitted_as(users), 5);
    let alice = user("alice");
    assert_eq!(admitted_as([alice.as_str(); 5]), 3);
    let oauth = (0..5).map(|number| format!("OAuth realm=\"r\", oauth_token=\"user-{number}\""));
    let oauth: Vec<String> = oauth.collect();
    let oauth = oauth.iter().map(String::as_str);
    assert_eq!(admitted_as(oauth), 5);
    // A token has no parameters: what looks like one is another line, which an origin may read.
    let lines = [
        "junk, api_key=k",
        "other, api_key=k",
        "Bearer x, api_key=k",
        "y, api_key=k",
    ];
    assert_eq!(admitted_as(lines), 3);
}

#[test]
fn free_text_is_one_value_with_its_commas() {
    for name in ["user-agent", "accept-language", "x-forwarded-for", "cookie"] {
        let gate = keyed(name);
        let agent = |version: usize| format!("Mozilla/5.0 (KHTML, like Gecko), a, b, c, {version}");
        let agents: Vec<String> = (0..5).map(agent).collect();
        assert_eq!(
            admitted_with(&gate, name, agents.iter().map(String::as_str)),
            5,
            "{name}"
        );
        let one = format!(" {} ", agent(9));
        assert_eq!(admitted_with(&gate, name, [one.as_str(); 5]), 3, "{name}");
        let long = "x, ".repeat(9000);
        assert_eq!(admitted_with(&gate, name, [long.as_str(); 5]), 3, "{name}");
    }
}

#[test]
fn a_header_without_a_value_is_none() {
    let gate = keyed("X-Api-Key");
    assert_eq!(
        admitted_with(&gate, "x-api-key", ["", " ", ",", " , \t,"].repeat(3)),
        12
    );
}

#[test]
fn a_request_is_denied_whole_by_any_value_of_its_header_and_blames_its_address_for_none() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_API": "3,60,600", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_POLICIES": {"api": {"key": "header:x-api-key"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }));
    let with = |address: &str, value: &str| from(address, "/").with("x-api-key", value);
    for number in 0..3 {
        assert!(
            gate.ask(&with(&format!("198.51.100.{number}"), "spent"), START)
                .admitted
        );
    }
    let report = gate.ask(&with("192.0.2.1", "a, b, spent, c"), START);
    assert!(!report.admitted);
    assert_eq!(
        report.binding().unwrap().charged,
        CallerKey::header("x-api-key", "spent")
    );
    // Nothing was consumed, and nobody blocked.
    assert_eq!(gate.admits(&with("192.0.2.1", "a, b, c"), 5), 3);
}

#[test]
fn more_values_than_are_charged_are_refused_and_consume_nothing() {
    let ask = |gate: &Gate, value: &str| {
        let request = from("192.0.2.1", "/").with("x-api-key", value);
        let asked = decide(&gate.config, &gate.store, &SaysSo, &request, START);
        asked.now_or_never().unwrap().map(|report| report.admitted)
    };
    let gate = keyed("X-Api-Key");
    let beyond = format!("{}, e", "x".repeat(16 * 1024 - 3));
    for value in ["a, b, c, d, e", "a,a,a,a,a", &beyond] {
        for _ in 0..4 {
            assert_eq!(ask(&gate, value), Err(Undecided::TooManyValues));
        }
    }
    assert_eq!(ask(&gate, "a, b, c, d,,"), Ok(true));
    // Who is exempt is not charged.
    for exempts in [
        json!({"RATE_LIMIT_ALLOWLIST": "192.0.2.1"}),
        json!({"RATE_LIMIT_ENABLED": false}),
    ] {
        let mut vars = json!({
            "RATE_LIMIT_API": "3,60",
            "RATE_LIMIT_POLICIES": {"api": {"key": "header:x-api-key"}},
            "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
        });
        vars.as_object_mut()
            .unwrap()
            .extend(exempts.as_object().unwrap().clone());
        assert_eq!(
            ask(&Gate::new(&vars), "a, b, c, d, e"),
            Ok(true),
            "{exempts}"
        );
    }
    // A policy that denies nobody refuses nobody.
    let shadow = Gate::new(&json!({
        "RATE_LIMIT_API": "3,60",
        "RATE_LIMIT_POLICIES": {"api": {"key": "header:x-api-key", "mode": "shadow"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }));
    assert_eq!(ask(&shadow, "a, b, c, d, e"), Ok(true));
}

#[test]
fn a_global_policy_is_one_quota_for_all_and_blocks_nobody() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_SITE": "5,60,600",
        "RATE_LIMIT_POLICIES": {"site": {"key": "global"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["site"]}],
    }));
    let admitted = (0..20)
        .filter(|n| {
            gate.ask(&from(&format!("192.0.2.{n}"), "/"), START)
                .admitted
        })
        .count();
    assert_eq!(admitted, 5);
    let later = START + Millis::from_secs(62);
    assert!(gate.ask(&from("192.0.2.1", "/"), later).admitted);
}

#[test]
fn a_shadow_policy_reports_and_disturbs_nothing() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_TRIAL": "2,60,600",
        "RATE_LIMIT_POLICIES": {"trial": {"mode": "shadow"}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["general", "trial"]}],
        "RATE_LIMIT_GENERAL": "10,60",
    }));
    let request = from("192.0.2.1", "/");
    for number in 0..10 {
        let report = gate.ask(&request, START);
        assert!(report.admitted);
        assert_eq!(policies(&report), ["general", "ip"]);
        assert_eq!(report.enforced[0].answer.decision.remaining, 9 - number);
        assert_eq!(report.shadow[0].answer.decision.allowed(), number < 2);
        assert_ne!(report.binding().unwrap().policy, "trial");
    }
    let report = gate.ask(&request, START);
    assert!(!report.admitted);
    assert_eq!(report.binding().unwrap().policy, "general");
}

#[test]
fn a_disabled_limiter_admits_everything() {
    let gate = Gate::new(&json!({"RATE_LIMIT_ENABLED": false, "RATE_LIMIT_GENERAL": "1,60"}));
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 50), 50);
    assert!(gate.store.is_empty());
}

#[test]
fn a_routes_cost_is_taken_from_each_quota() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_GENERAL": "10,60",
        "RATE_LIMIT_ROUTES": [{"path": "/export", "policies": ["general"], "cost": 4}],
    }));
    assert_eq!(gate.admits(&from("192.0.2.1", "/export"), 5), 2);
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 5), 2);
}

#[test]
fn who_is_exempt_is_asked_of_no_quota() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_GENERAL": "1,60",
        "RATE_LIMIT_ALLOWLIST": "10.0.0.0/8, 2001:db8::7",
        "RATE_LIMIT_BYPASS_TOKEN": "correct-horse-battery-staple",
    }));
    for (request, exempt) in [
        (from("10.1.2.3", "/"), Some(Exempt::Allowed)),
        (from("2001:db8::7", "/"), Some(Exempt::Allowed)),
        (from("2001:db8::8", "/"), None),
        (from("192.0.2.1", "/"), None),
        (
            from("192.0.2.1", "/").with("x-ratelimit-bypass", "correct-horse-battery-staple"),
            Some(Exempt::Bypassed),
        ),
        (
            from("192.0.2.2", "/").with("x-ratelimit-bypass", "correct-horse-batterie"),
            None,
        ),
        (from("192.0.2.3", "/").with("x-ratelimit-bypass", ""), None),
    ] {
        for time in 0..3 {
            let report = gate.ask(&request, START);
            assert_eq!(report.exempt, exempt);
            assert_eq!(report.admitted, exempt.is_some() || time == 0);
            assert_eq!(report.enforced.is_empty(), exempt.is_some());
        }
    }
    assert_eq!(gate.store.len(), 2 * 4, "nothing is counted for them");
}

fn progressive() -> Gate {
    Gate::new(&json!({
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
        "RATE_LIMIT_GENERAL": "3,60",
        "RATE_LIMIT_AUTH": "3,60,600",
        "RATE_LIMIT_IP": "15,60",
        "RATE_LIMIT_POLICIES": {"general": {"authenticated": 10}, "auth": {"key": "user"}},
        "RATE_LIMIT_ROUTES": [
            {"path": "/auth", "policies": ["auth"]},
            {"path": "/ip", "policies": []},
        ],
    }))
}

#[test]
fn a_proven_user_has_a_limit_of_its_own_wherever_it_is() {
    let gate = progressive();
    let alice = |address| from(address, "/").with("x-proven", "alice");
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 4), 3);
    assert_eq!(
        gate.admits(&alice("192.0.2.1"), 6),
        6,
        "past its address's limit"
    );
    assert_eq!(
        gate.admits(&alice("192.0.2.2"), 6),
        4,
        "one quota at both addresses"
    );
    assert_eq!(
        gate.admits(&from("192.0.2.2", "/"), 4),
        3,
        "its address's is untouched"
    );
    let bob = from("192.0.2.1", "/").with("x-proven", "bob");
    assert_eq!(
        gate.admits(&bob, 20),
        6,
        "the address's own policy is met by all of them"
    );
}

#[test]
fn what_a_user_does_blocks_the_user_and_not_its_address() {
    let gate = progressive();
    let alice = from("192.0.2.1", "/auth").with("x-proven", "alice");
    assert_eq!(gate.admits(&alice, 4), 3);
    let denied = gate.ask(&alice, START + Millis::from_secs(300));
    let standing = denied.binding().unwrap();
    assert!(standing.answer.blocked_until.is_some());
    assert_eq!(standing.charged, CallerKey::user("alice"));
    assert_eq!(gate.admits(&from("192.0.2.1", "/auth"), 4), 3);
    let elsewhere = from("192.0.2.9", "/auth").with("x-proven", "alice");
    assert_eq!(gate.admits(&elsewhere, 1), 0);
}

#[test]
fn nobody_is_asked_who_they_are_where_no_policy_cares() {
    struct Never;
    impl Authenticate for Never {
        async fn user(
            &self,
            _: impl Fn(&str) -> Option<String>,
            _: Timestamp,
        ) -> Option<CallerKey> {
            panic!("asked")
        }
    }
    let gate = progressive();
    let request = from("192.0.2.1", "/ip");
    let report = decide(&gate.config, &gate.store, &Never, &request, START).now_or_never();
    assert!(report.unwrap().unwrap().admitted);
}

#[test]
fn a_standing_has_the_key_that_was_charged() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
        "RATE_LIMIT_GENERAL": "3,60", "RATE_LIMIT_ALL": "9,60", "RATE_LIMIT_AUTH": "9,60",
        "RATE_LIMIT_POLICIES": {
            "general": {"key": "header:x-key"}, "all": {"key": "global"}, "auth": {"key": "user"},
        },
        "RATE_LIMIT_ROUTES": [{"path": "/", "policies": ["general", "all", "auth"]}],
    }));
    let request = from("192.0.2.1", "/").with("x-key", "shared");
    let proven = request.with("x-proven", "alice");
    assert_eq!(gate.admits(&proven, 4), 3);
    let report = gate.ask(&proven, START);
    let shared = CallerKey::header("x-key", "shared");
    assert_eq!(report.binding().unwrap().charged, shared);
    let [address, user] = [report.caller.key(), CallerKey::user("alice")];
    let keys = report.enforced.iter();
    let keys = keys.map(|standing| (standing.charged, report.user_or_address(standing)));
    assert_eq!(
        keys.collect::<Vec<_>>(),
        [
            (shared, address),
            (address, address),
            (CallerKey::Global, address),
            (user, user),
            (address, address),
        ]
    );
}

/// Proves nobody, and counts how often it is asked to.
struct Counting(std::cell::Cell<usize>);

impl Authenticate for Counting {
    async fn user(&self, _: impl Fn(&str) -> Option<String>, _: Timestamp) -> Option<CallerKey> {
        self.0.set(self.0.get() + 1);
        None
    }
}

#[test]
fn nobody_is_proven_for_a_request_with_too_many_values() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_GENERAL": "3,60", "RATE_LIMIT_AUTH": "9,60",
        "RATE_LIMIT_POLICIES": {"general": {"key": "header:x-key"}, "auth": {"key": "user"}},
        "RATE_LIMIT_ROUTES": [{"path": "/", "policies": ["general", "auth"]}],
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
    }));
    let prove = Counting(std::cell::Cell::new(0));
    let request = from("192.0.2.1", "/").with("x-key", "a, b, c, d, e");
    let asked = decide(&gate.config, &gate.store, &prove, &request, START).now_or_never();
    assert_eq!(asked.unwrap().unwrap_err(), Undecided::TooManyValues);
    assert_eq!(prove.0.get(), 0);
}

/// A shared store whose block of everybody an isolate remembers, and has to ask about.
struct Remembering {
    is_lifted: bool,
    asked: std::cell::Cell<usize>,
}

impl Store for Remembering {
    async fn decide(&self, check: &Check, _: Timestamp) -> Result<Verdict, StoreError> {
        self.asked.set(self.asked.get() + 1);
        assert_eq!(check.charges, []);
        let block = AddressBlock { until: None };
        Ok(Verdict {
            address_block: (!self.is_lifted).then_some(block),
            ..Verdict::default()
        })
    }

    fn knows_denial(&self, _: &Check, _: Timestamp) -> bool {
        true
    }
}

/// Else a block would end for who sends nothing but preflights, and a lifted one would not for a page, whose browser sends no
/// request after a denied preflight.
#[test]
fn a_preflight_asks_about_a_block_as_any_request_does() {
    let config = Gate::new(&json!({})).config;
    let preflights = Preflights::new(Seed::fixed());
    for is_lifted in [false, true] {
        let store = Remembering {
            is_lifted,
            asked: std::cell::Cell::new(0),
        };
        let request = from("192.0.2.1", "/");
        let terms = Terms::of(&config, caller(&config, &|name| request.header(name)));
        let decided = preflights.decide(&config, &store, &request, &terms, START);
        let report = decided.now_or_never().unwrap().unwrap();
        assert_eq!((report.admitted, store.asked.get()), (is_lifted, 1));
        assert_eq!(report.address_block.is_some(), !is_lifted);
    }
}

/// A policy of a route that goes by address alone, beside one that asks who the user is.
#[test]
fn nobody_is_proven_for_a_request_that_its_address_is_known_to_be_denied() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_AUTH": "2,60,600",
        "RATE_LIMIT_GENERAL": "100,60",
        "RATE_LIMIT_POLICIES": {"general": {"authenticated": 1000}},
        "RATE_LIMIT_ROUTES": [{"path": "/auth", "policies": ["auth", "general"]}],
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
        "RATE_LIMIT_JWT_ISSUER": "i", "RATE_LIMIT_JWT_AUDIENCE": "a",
    }));
    let prove = Counting(std::cell::Cell::new(0));
    let ask = |path| {
        let request = from("192.0.2.1", path);
        let report = decide(&gate.config, &gate.store, &prove, &request, START).now_or_never();
        (report.unwrap().unwrap().admitted, prove.0.get())
    };
    // The third sets the block.
    assert_eq!(
        [ask("/auth"), ask("/auth"), ask("/auth")],
        [(true, 1), (true, 2), (false, 3)]
    );
    assert_eq!([ask("/auth"), ask("/auth")], [(false, 3); 2]);
    assert_eq!(ask("/"), (true, 4));
}

/// In shadow mode a policy denies nobody, so nothing of it is known beforehand.
#[test]
fn a_policy_in_shadow_mode_counts_every_request() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_IP": "2,60", "RATE_LIMIT_GENERAL": "3,60",
        "RATE_LIMIT_POLICIES": {"ip": {"mode": "shadow"}},
    }));
    let request = from("192.0.2.1", "/");
    let shadow = |_| {
        let report = gate.ask(&request, START);
        (report.admitted, report.shadow[0].answer.decision.allowed())
    };
    assert_eq!(
        [0, 1, 2].map(shadow),
        [(true, true), (true, true), (true, false)]
    );
    assert_eq!(shadow(3), (false, false));
}
