//! Requests through the whole gate, over the memory store.

use std::collections::HashMap;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{
    CallerTerms, Exempt, GateError, GateRequest, Preflights, RequestVerdict, caller, decide,
};
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
struct HeaderRequest {
    path: String,
    headers: HashMap<String, String>,
}

impl GateRequest for HeaderRequest {
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

fn from(address: &str, path: &str) -> HeaderRequest {
    HeaderRequest {
        path: path.to_owned(),
        headers: HashMap::from([("cf-connecting-ip".to_owned(), address.to_owned())]),
    }
}

impl HeaderRequest {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Takes the user's name from the header `x-proven`.
struct FromHeader;

impl Authenticate for FromHeader {
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

    fn ask(&self, request: &HeaderRequest, now: Timestamp) -> RequestVerdict {
        let report = decide(&self.config, &self.store, &FromHeader, request, now).now_or_never();
        report.expect("the memory store answers at once").unwrap()
    }

    /// How many of `times` requests like `request`, all at one moment, are admitted.
    fn admits(&self, request: &HeaderRequest, times: usize) -> usize {
        (0..times)
            .filter(|_| self.ask(request, START).admitted)
            .count()
    }
}

fn policies(report: &RequestVerdict) -> Vec<&str> {
    report
        .enforced
        .iter()
        .map(|status| status.policy.as_str())
        .collect()
}

#[test]
fn a_request_meets_the_policies_of_its_route_and_the_policy_ip() {
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
fn the_policy_with_the_smallest_remaining_share_binds() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "100,60", "RATE_LIMIT_IP": "20,60"}));
    let report = gate.ask(&from("192.0.2.1", "/"), START);
    assert_eq!(
        report.binding().unwrap().policy,
        "ip",
        "19 of 20 is less than 99 of 100"
    );
}

#[test]
fn the_smallest_share_binds_even_if_it_has_more_units_left() {
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
fn the_longest_of_several_denials_binds() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "1,3600"}));
    let request = from("192.0.2.1", "/");
    assert!(gate.ask(&request, START).admitted);
    let report = gate.ask(&request, START + Millis::new(5));
    assert!(!report.admitted);
    assert_eq!(report.binding().unwrap().policy, "ip");
}

#[test]
fn a_cost_above_the_limit_binds_before_a_denial_that_waiting_ends() {
    let vars = json!({
        "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_SMALL": "2,60",
        "RATE_LIMIT_LARGE": "3,3600",
        "RATE_LIMIT_ROUTES": [
            {"path": "/once", "policies": ["large"], "cost": 3},
            {"path": "/**", "policies": ["large", "small"], "cost": 3},
        ],
    });
    // No request to `/**` can be admitted. The configuration reports that as an error, and it is in force nevertheless.
    let gate = Gate::of(Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config);
    assert!(gate.ask(&from("192.0.2.1", "/once"), START).admitted);
    let report = gate.ask(&from("192.0.2.1", "/"), START);
    let statuses = &report.enforced;
    assert!(
        statuses[0].answer.retry_at().is_some(),
        "waiting ends the denial by `large`"
    );
    assert_eq!(
        statuses[1].answer.decision.outcome,
        QuotaOutcome::Impossible
    );
    assert_eq!(report.binding().unwrap().policy, "small");
}

#[test]
fn each_address_has_its_own_quota_and_an_ipv6_prefix_is_one_address() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60"}));
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 5), 3);
    assert_eq!(gate.admits(&from("192.0.2.2", "/"), 5), 3);
    assert_eq!(gate.admits(&from("::ffff:192.0.2.2", "/"), 5), 0);
    assert_eq!(gate.admits(&from("2001:db8::1", "/"), 2), 2);
    assert_eq!(gate.admits(&from("2001:db8::ffff:2", "/"), 5), 1);
    assert_eq!(gate.admits(&from("2001:db8:0:1::1", "/"), 5), 3);
}

#[test]
fn x_forwarded_for_does_not_change_the_caller() {
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
fn callers_without_an_address_share_one_quota_and_are_never_blocked() {
    let gate = Gate::new(&json!({"RATE_LIMIT_GENERAL": "3,60,600"}));
    let nobody = HeaderRequest {
        path: "/".to_owned(),
        ..HeaderRequest::default()
    };
    assert_eq!(gate.admits(&nobody, 2), 2);
    assert_eq!(gate.admits(&from("not an address", "/"), 5), 1);
    let report = gate.ask(&nobody, START);
    assert!(!report.admitted);
    assert_eq!(report.enforced[0].answer.blocked_until, None);
    assert_eq!(
        gate.admits(&from("192.0.2.1", "/"), 9),
        3,
        "they lock nobody else out"
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
fn a_new_header_value_is_no_new_quota_for_the_same_address() {
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
    assert_eq!(admitted, 3, "20 keys from one address share its quota");
    // One key from many addresses is one quota as well.
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
        "a request without the header is limited by its address alone"
    );
}

#[test]
fn a_caller_cannot_block_another_by_sending_its_header_value() {
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
        "all units of the value's quota are available again, and no block was set on it"
    );
    assert!(
        !gate.ask(&attacker, START + Millis::from_secs(62)).admitted,
        "the attacker's address is blocked"
    );
}

/// A gate with one policy: three requests for each value of `header`, and no limit on addresses.
fn keyed(header: &str) -> Gate {
    Gate::new(&json!({
        "RATE_LIMIT_API": "3,60", "RATE_LIMIT_IP": "off",
        "RATE_LIMIT_POLICIES": {"api": {"key": format!("header:{header}")}},
        "RATE_LIMIT_ROUTES": [{"path": "/**", "policies": ["api"]}],
    }))
}

/// Sends one request for each of `values` of `header`, each from another address. Returns how many are admitted.
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
fn a_header_value_is_one_key_with_blanks_repeated_or_among_other_values() {
    let spelt = [
        "key", " key", "key ", "key\t", "key, ", ", key", "key, key", "key,key",
    ];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", spelt), 3);
    // The key is found on any line of the header.
    let lines = ["key", "key, a", "b, key", "c,key", "d, e, key, f"];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", lines), 3);
    let distinct = ["key", "Key", "k ey", "Bearer key", "bearer key"];
    assert_eq!(admitted_with(&keyed("X-Api-Key"), "x-api-key", distinct), 5);
}

/// Returns how many requests with these credentials are admitted. Each credential has a quota of three.
fn admitted_as<'a>(credentials: impl IntoIterator<Item = &'a str>) -> usize {
    admitted_with(&keyed("Authorization"), "authorization", credentials)
}

#[test]
fn credentials_are_one_key_whatever_the_case_of_their_scheme() {
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
    // In a scheme with parameters, each user has its own key.
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
    // A bearer token has no parameters. Text that looks like one is another header line, which an origin may read.
    let lines = [
        "junk, api_key=k",
        "other, api_key=k",
        "Bearer x, api_key=k",
        "y, api_key=k",
    ];
    assert_eq!(admitted_as(lines), 3);
}

#[test]
fn a_header_of_free_text_is_one_value_with_its_commas() {
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
fn an_empty_header_counts_as_absent() {
    let gate = keyed("X-Api-Key");
    assert_eq!(
        admitted_with(&gate, "x-api-key", ["", " ", ",", " , \t,"].repeat(3)),
        12
    );
}

#[test]
fn one_spent_value_of_a_header_denies_the_request_and_does_not_block_its_address() {
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
    // The denied request consumed nothing, and its address is not blocked.
    assert_eq!(gate.admits(&with("192.0.2.1", "a, b, c"), 5), 3);
}

#[test]
fn a_request_with_too_many_header_values_is_refused_and_consumes_nothing() {
    let ask = |gate: &Gate, value: &str| {
        let request = from("192.0.2.1", "/").with("x-api-key", value);
        let decided = decide(&gate.config, &gate.store, &FromHeader, &request, START);
        decided
            .now_or_never()
            .unwrap()
            .map(|report| report.admitted)
    };
    let gate = keyed("X-Api-Key");
    let beyond = format!("{}, e", "x".repeat(16 * 1024 - 3));
    for value in ["a, b, c, d, e", "a,a,a,a,a", &beyond] {
        for _ in 0..4 {
            assert_eq!(ask(&gate, value), Err(GateError::TooManyValues));
        }
    }
    assert_eq!(ask(&gate, "a, b, c, d,,"), Ok(true));
    // An exempt caller is not charged, so its values do not count.
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
    // A policy in shadow mode refuses no request.
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
fn a_policy_in_shadow_mode_reports_and_denies_nobody() {
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
fn an_exempt_request_is_charged_to_no_quota() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_GENERAL": "1,60",
        "RATE_LIMIT_ALLOWLIST": "10.0.0.0/8, 2001:db8::7",
        "RATE_LIMIT_BYPASS_TOKEN": "correct-horse-battery-staple",
    }));
    for (request, exempt) in [
        (from("10.1.2.3", "/"), Some(Exempt::AllowListed)),
        (from("2001:db8::7", "/"), Some(Exempt::AllowListed)),
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
    assert_eq!(
        gate.store.len(),
        2 * 4,
        "exempt requests leave no state in the store"
    );
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
fn a_proven_user_has_one_limit_at_all_addresses() {
    let gate = progressive();
    let alice = |address| from(address, "/").with("x-proven", "alice");
    assert_eq!(gate.admits(&from("192.0.2.1", "/"), 4), 3);
    assert_eq!(
        gate.admits(&alice("192.0.2.1"), 6),
        6,
        "the user's limit exceeds that of its address"
    );
    assert_eq!(
        gate.admits(&alice("192.0.2.2"), 6),
        4,
        "one quota at both addresses"
    );
    assert_eq!(
        gate.admits(&from("192.0.2.2", "/"), 4),
        3,
        "the user's requests are not charged to the address"
    );
    let bob = from("192.0.2.1", "/").with("x-proven", "bob");
    assert_eq!(
        gate.admits(&bob, 20),
        6,
        "policy `ip` counts all users of an address"
    );
}

#[test]
fn a_block_of_a_user_does_not_block_its_address() {
    let gate = progressive();
    let alice = from("192.0.2.1", "/auth").with("x-proven", "alice");
    assert_eq!(gate.admits(&alice, 4), 3);
    let denied = gate.ask(&alice, START + Millis::from_secs(300));
    let status = denied.binding().unwrap();
    assert!(status.answer.blocked_until.is_some());
    assert_eq!(status.charged, CallerKey::user("alice"));
    assert_eq!(gate.admits(&from("192.0.2.1", "/auth"), 4), 3);
    let elsewhere = from("192.0.2.9", "/auth").with("x-proven", "alice");
    assert_eq!(gate.admits(&elsewhere, 1), 0);
}

#[test]
fn no_token_is_verified_if_no_policy_asks_for_a_user() {
    struct Never;
    impl Authenticate for Never {
        async fn user(
            &self,
            _: impl Fn(&str) -> Option<String>,
            _: Timestamp,
        ) -> Option<CallerKey> {
            panic!("no policy asks for a user, but one was authenticated")
        }
    }
    let gate = progressive();
    let request = from("192.0.2.1", "/ip");
    let report = decide(&gate.config, &gate.store, &Never, &request, START).now_or_never();
    assert!(report.unwrap().unwrap().admitted);
}

#[test]
fn a_quota_status_has_the_key_that_was_charged() {
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
    let keys = keys.map(|status| (status.charged, report.user_or_address(status)));
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

/// Proves nobody, and counts how often a user is asked for.
struct Counting(std::cell::Cell<usize>);

impl Authenticate for Counting {
    async fn user(&self, _: impl Fn(&str) -> Option<String>, _: Timestamp) -> Option<CallerKey> {
        self.0.set(self.0.get() + 1);
        None
    }
}

#[test]
fn no_token_is_verified_for_a_request_with_too_many_values() {
    let gate = Gate::new(&json!({
        "RATE_LIMIT_GENERAL": "3,60", "RATE_LIMIT_AUTH": "9,60",
        "RATE_LIMIT_POLICIES": {"general": {"key": "header:x-key"}, "auth": {"key": "user"}},
        "RATE_LIMIT_ROUTES": [{"path": "/", "policies": ["general", "auth"]}],
        "RATE_LIMIT_JWT_SECRET": "a-secret-of-at-least-32-characters",
    }));
    let prove = Counting(std::cell::Cell::new(0));
    let request = from("192.0.2.1", "/").with("x-key", "a, b, c, d, e");
    let asked = decide(&gate.config, &gate.store, &prove, &request, START).now_or_never();
    assert_eq!(asked.unwrap().unwrap_err(), GateError::TooManyValues);
    assert_eq!(prove.0.get(), 0);
}

/// A shared store with a remembered block of the caller, about which the isolate has to ask again.
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

/// Without the question, a block would end for a caller that sends only preflights. And a lifted block would never end for
/// a page, since its browser sends no request after a denied preflight.
#[test]
fn a_preflight_asks_the_store_about_a_remembered_block() {
    let config = Gate::new(&json!({})).config;
    let preflights = Preflights::new(Seed::fixed());
    for is_lifted in [false, true] {
        let store = Remembering {
            is_lifted,
            asked: std::cell::Cell::new(0),
        };
        let request = from("192.0.2.1", "/");
        let terms = CallerTerms::of(&config, caller(&config, &|name| request.header(name)));
        let decided = preflights.decide(&config, &store, &request, &terms, START);
        let report = decided.now_or_never().unwrap().unwrap();
        assert_eq!((report.admitted, store.asked.get()), (is_lifted, 1));
        assert_eq!(report.address_block.is_some(), !is_lifted);
    }
}

/// The route has a policy that limits by address alone, and one that asks for a user.
#[test]
fn no_token_is_verified_for_an_address_whose_denial_is_remembered() {
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
    // The third request sets the block.
    assert_eq!(
        [ask("/auth"), ask("/auth"), ask("/auth")],
        [(true, 1), (true, 2), (false, 3)]
    );
    assert_eq!([ask("/auth"), ask("/auth")], [(false, 3); 2]);
    assert_eq!(ask("/"), (true, 4));
}

/// A policy in shadow mode denies nobody, so no denial of it is remembered.
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
