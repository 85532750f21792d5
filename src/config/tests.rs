//! Tests of every variable: which values are valid, which problems other values cause, and which stricter reading is
//! then in force.

use std::num::NonZeroU32;

use serde_json::{Value, json};

use super::{Compiled, Config, Dialect, Origin, Severity, StoreConfig, Vars};
use crate::policy::{Mode, Policy};
use crate::store::OnFailure;
use crate::store::retries::Retries;

pub(super) fn compile(vars: &Value) -> Compiled {
    Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
}

/// The configuration of variables. Expects no problem.
pub(super) fn good(vars: &Value) -> Config {
    let compiled = compile(vars);
    assert_eq!(compiled.problems, [], "{vars}");
    compiled.config
}

/// The configuration of variables. Expects exactly one problem, an error of `variable`.
pub(super) fn bad(vars: &Value, variable: &str) -> Config {
    let compiled = compile(vars);
    let variables: Vec<&str> = compiled
        .problems
        .iter()
        .map(|problem| problem.variable.as_str())
        .collect();
    assert_eq!(variables, [variable], "{vars}: {:?}", compiled.problems);
    assert_eq!(compiled.problems[0].severity, Severity::Error);
    compiled.config
}

pub(super) fn policy<'a>(config: &'a Config, name: &str) -> Option<&'a Policy> {
    config.policies.iter().find(|policy| policy.name == name)
}

/// The requests, the seconds of the window, and the seconds of the block of a policy.
pub(super) fn limits(config: &Config, name: &str) -> Option<(u32, u64, u64)> {
    let policy = policy(config, name)?;
    let block = policy.block.map_or(0, |block| block.get() / 1000);
    Some((
        policy.quota.limit(),
        policy.quota.window().get() / 1000,
        block,
    ))
}

/// The names of the policies that a request meets.
pub(super) fn names(config: &Config, method: &str, path: &str) -> Vec<String> {
    let route = config.routes.classify(method, path);
    route
        .policies
        .into_iter()
        .chain(config.always.clone())
        .map(|id| config.policy(id).unwrap().name.clone())
        .collect()
}

#[test]
fn without_variables_the_built_in_policies_are_in_force_in_memory() {
    let config = good(&json!({}));
    let expected = [
        ("general", (120, 60, 0)),
        ("auth", (30, 60, 600)),
        ("sensitive", (10, 60, 900)),
        ("admin", (300, 60, 300)),
        ("mfa", (5, 60, 900)),
        ("financial", (20, 60, 900)),
        ("ip", (1000, 3600, 0)),
    ];
    for (name, numbers) in expected {
        assert_eq!(limits(&config, name), Some(numbers), "{name}");
    }
    assert_eq!(config.policies.len(), expected.len());
    assert_eq!(config.store, StoreConfig::Memory);
    assert_eq!(config.dialect, Dialect::XRateLimit);
    assert_eq!(config.client_ip_header, "cf-connecting-ip");
    assert_eq!(config.origin, Origin::Route);
    assert!(config.enabled);
    assert_eq!(names(&config, "GET", "/anything"), ["general", "ip"]);
}

#[test]
fn a_table_may_be_json_text() {
    let config = good(&json!({
        "RATE_LIMIT_POLICIES": "{\"auth\":{\"mode\":\"shadow\"}}",
        "RATE_LIMIT_ROUTES": "[{\"path\":\"/login\",\"policies\":[\"auth\"]}]",
    }));
    assert_eq!(policy(&config, "auth").unwrap().mode, Mode::Shadow);
    assert_eq!(names(&config, "GET", "/login"), ["auth", "ip"]);
}

#[test]
fn a_route_decides_which_policies_a_request_meets() {
    let config = good(&json!({"RATE_LIMIT_ROUTES": [
        {"path": "/api/auth/**", "methods": ["post"], "policies": ["Auth", "sensitive"], "cost": "2"},
        {"path": "/health", "policies": []},
    ]}));
    assert_eq!(
        names(&config, "POST", "/api/auth/login"),
        ["auth", "sensitive", "ip"]
    );
    assert_eq!(config.routes.classify("POST", "/api/auth/login").cost, 2);
    assert_eq!(names(&config, "GET", "/api/auth/login"), ["general", "ip"]);
    assert_eq!(names(&config, "GET", "/health"), ["ip"]);
}

/// The policies that a request to `/x` meets if the bad `route` comes before a valid one for `mfa`.
fn before_mfa(route: Value, variable: &str) -> (Config, Vec<String>) {
    let config = bad(
        &json!({"RATE_LIMIT_ROUTES": [route, {"path": "/x", "policies": ["mfa"]}]}),
        variable,
    );
    let met = names(&config, "POST", "/x");
    (config, met)
}

#[test]
fn a_bad_route_hides_no_later_one() {
    for methods in [json!("GET"), json!([]), json!(["GE T"]), json!([5])] {
        let route = json!({"path": "/x", "methods": methods, "policies": []});
        let (_, met) = before_mfa(route, "RATE_LIMIT_ROUTES[0].methods");
        assert_eq!(met, ["mfa", "ip"]);
    }
    let (_, met) = before_mfa(
        json!({"path": "/x", "method": ["GET"], "policies": []}),
        "RATE_LIMIT_ROUTES[0]",
    );
    assert_eq!(met, ["mfa", "ip"]);
    let (_, met) = before_mfa(
        json!({"path": "/x", "policies": "auth"}),
        "RATE_LIMIT_ROUTES[0].policies",
    );
    assert_eq!(met, ["auth", "mfa", "ip"], "a lone name is a list of one");
    for path in [json!("x"), json!(null), json!(5), json!("/a/**b")] {
        let route = json!({"path": path, "policies": ["auth"]});
        let (_, met) = before_mfa(route, "RATE_LIMIT_ROUTES[0].path");
        assert_eq!(met, ["mfa", "ip", "auth"], "on every path");
    }
    for cost in [json!(0), json!(-1), json!("1O"), json!(1.5)] {
        let route = json!({"path": "/x", "policies": ["auth"], "cost": cost});
        let (config, met) = before_mfa(route, "RATE_LIMIT_ROUTES[0].cost");
        assert_eq!(met, ["auth", "mfa", "ip"]);
        assert_eq!(
            config.routes.classify("POST", "/x").cost,
            30,
            "the most that is ever admitted"
        );
    }
}

#[test]
fn requests_whose_policies_are_not_known_meet_misconfigured() {
    for (off, shadow) in [("off", "enforce"), ("10,60", "shadow")] {
        let vars = json!({
            "RATE_LIMIT_SENSITIVE": off,
            "RATE_LIMIT_POLICIES": {"sensitive": {"mode": shadow}},
            "RATE_LIMIT_ROUTES": [{"path": "/x", "policies": ["atuh"]}],
        });
        let compiled = compile(&vars);
        assert!(
            compiled
                .problems
                .iter()
                .any(|problem| problem.variable == "RATE_LIMIT_ROUTES[0].policies[0]")
        );
        let config = compiled.config;
        assert_eq!(
            names(&config, "GET", "/x"),
            ["misconfigured", "general", "ip"]
        );
        assert_eq!(limits(&config, "misconfigured"), Some((5, 60, 900)));
        assert_eq!(
            policy(&config, "misconfigured").unwrap().mode,
            Mode::Enforce
        );
    }
    let table = json!({"RATE_LIMIT_ROUTES": [{"path": "/x"}]});
    let compiled = compile(&table);
    assert!(compiled.has_errors());
    assert_eq!(
        names(&compiled.config, "GET", "/x"),
        ["misconfigured", "general", "ip"]
    );
    for table in [json!("["), json!({}), json!(5)] {
        let config = bad(&json!({"RATE_LIMIT_ROUTES": table}), "RATE_LIMIT_ROUTES");
        assert_eq!(
            names(&config, "GET", "/x"),
            ["general", "ip", "misconfigured"]
        );
    }
    let config = bad(&json!({"RATE_LIMIT_ROUTES": [5]}), "RATE_LIMIT_ROUTES[0]");
    assert_eq!(
        names(&config, "GET", "/x"),
        ["general", "ip", "misconfigured"]
    );
}

#[test]
fn a_cost_that_is_never_admitted_is_an_error() {
    let dear = |cost: u32| json!({"RATE_LIMIT_ROUTES": [{"path": "/x", "policies": ["mfa"], "cost": cost}]});
    bad(&dear(6), "RATE_LIMIT_ROUTES[0].cost");
    good(&dear(5));
    let vars = json!({
        "RATE_LIMIT_IP": "100,3600",
        "RATE_LIMIT_GENERAL": "1000,60",
        "RATE_LIMIT_ROUTES": [{"path": "/x", "policies": ["general"], "cost": 200}],
    });
    bad(&vars, "RATE_LIMIT_ROUTES[0].cost");
}

#[test]
fn upstash_needs_both_its_url_and_its_token() {
    let url = "https://x.upstash.io";
    let both = json!({"UPSTASH_REDIS_REST_URL": url, "UPSTASH_REDIS_REST_TOKEN": "t", "REDIS_TIMEOUT": 250});
    let StoreConfig::Redis { prefix, rules, .. } = good(&both).store else {
        panic!("memory");
    };
    assert_eq!((prefix.as_str(), rules.timeout.get()), ("ratelimit:", 250));
    let kv = json!({"KV_REST_API_URL": url, "KV_REST_API_TOKEN": "t", "REDIS_KEY_PREFIX": "v:r:"});
    assert!(matches!(good(&kv).store, StoreConfig::Redis { prefix, .. } if prefix == "v:r:"));

    let off = json!({"UPSTASH_REDIS_REST_URL": url, "UPSTASH_REDIS_REST_TOKEN": "t", "REDIS_ENABLED": false});
    assert_eq!(good(&off).store, StoreConfig::Memory);
    let config = bad(
        &json!({"UPSTASH_REDIS_REST_URL": url}),
        "UPSTASH_REDIS_REST_TOKEN",
    );
    assert_eq!(config.store, StoreConfig::Memory);
    bad(
        &json!({"UPSTASH_REDIS_REST_TOKEN": "t"}),
        "UPSTASH_REDIS_REST_URL",
    );
    bad(&json!({"KV_REST_API_URL": url}), "KV_REST_API_TOKEN");
    bad(&json!({"KV_REST_API_TOKEN": "t"}), "KV_REST_API_URL");
    bad(
        &json!({"KV_REST_API_URL": url, "KV_REST_API_TOKEN": "a b"}),
        "KV_REST_API_TOKEN",
    );
    bad(
        &json!({"KV_REST_API_URL": "x", "UPSTASH_REDIS_REST_TOKEN": "t"}),
        "KV_REST_API_URL",
    );
    for url in [
        "x.upstash.io",
        "ftp://x",
        "redis://x",
        "https://",
        "https://default:secret@x.io",
    ] {
        let vars = json!({"UPSTASH_REDIS_REST_URL": url, "UPSTASH_REDIS_REST_TOKEN": "t"});
        assert_eq!(
            bad(&vars, "UPSTASH_REDIS_REST_URL").store,
            StoreConfig::Memory
        );
    }
    bad(
        &json!({"UPSTASH_REDIS_REST_URL": url, "UPSTASH_REDIS_REST_TOKEN": "a\nb"}),
        "UPSTASH_REDIS_REST_TOKEN",
    );
    let clear =
        compile(&json!({"UPSTASH_REDIS_REST_URL": "http://x.io", "UPSTASH_REDIS_REST_TOKEN": "t"}));
    assert_eq!(clear.problems[0].severity, Severity::Warning);
    good(&json!({"UPSTASH_REDIS_REST_URL": "http://[::1]:8079", "UPSTASH_REDIS_REST_TOKEN": "t"}));
}

/// How the limiter handles a failing store: the retries, their delay in ms, the breaker's doublings, the cap on
/// commands, and the fallback's factor in thousandths.
fn resilience(config: &Config) -> (u32, u64, u32, Option<u32>, u32) {
    let StoreConfig::Redis { rules, .. } = &config.store else {
        panic!("memory");
    };
    let cap = rules.max_commands.map(NonZeroU32::get);
    let Retries { count, delay } = rules.retries;
    (
        count,
        delay.get(),
        rules.doublings,
        cap,
        rules.fallback_factor,
    )
}

#[test]
fn variables_set_how_a_failing_store_is_handled() {
    let with = |name: &str, value: Value| {
        let mut vars =
            json!({"UPSTASH_REDIS_REST_URL": "https://x.io", "UPSTASH_REDIS_REST_TOKEN": "t"});
        vars[name] = value;
        vars
    };
    let set = |name, value| resilience(&good(&with(name, value)));
    assert_eq!(set("REDIS_TIMEOUT", json!(5)), (2, 50, 10, None, 1200));
    assert_eq!(set("REDIS_RETRY_COUNT", json!(0)).0, 0);
    assert_eq!(set("REDIS_RETRY_DELAY", json!("7")).1, 7);
    assert_eq!(set("REDIS_MAX_RECONNECT_ATTEMPTS", json!(3)).2, 3);
    assert_eq!(set("REDIS_MAX_COMMANDS_PER_SECOND", json!(50)).3, Some(50));
    for (value, factor) in [
        (json!(1.25), 1250),
        (json!("0.01"), 10),
        (json!("10"), 10_000),
        (json!("1.005"), 1005),
        (json!(2), 2000),
    ] {
        assert_eq!(set("RATE_LIMIT_FALLBACK_FACTOR", value).4, factor);
    }

    let strict = |name, value| resilience(&bad(&with(name, value), name));
    assert_eq!(strict("REDIS_RETRY_COUNT", json!(11)).0, 0);
    assert_eq!(strict("REDIS_RETRY_DELAY", json!(0)).1, 1000);
    assert_eq!(strict("REDIS_MAX_RECONNECT_ATTEMPTS", json!("-1")).2, 10);
    for cap in [json!(49), json!(0), json!("1e3"), json!(true)] {
        let strict = strict("REDIS_MAX_COMMANDS_PER_SECOND", cap);
        assert_eq!(strict.3, Some(50), "the smallest cap rather than none");
    }
    for factor in [
        "0",
        "0.009",
        "10.001",
        "1.2345",
        ".5",
        "1.",
        "-1",
        "1,2",
        "1e1",
        "NaN",
        "99999999999",
    ] {
        assert_eq!(
            strict("RATE_LIMIT_FALLBACK_FACTOR", json!(factor)).4,
            1000,
            "{factor}"
        );
    }
}

#[test]
fn on_store_failure_is_memory_allow_or_deny() {
    let rule = |config: &Config| policy(config, "mfa").unwrap().on_store_failure;
    assert_eq!(rule(&good(&json!({}))), OnFailure::Memory);
    for (word, meant) in [
        ("memory", OnFailure::Memory),
        ("allow", OnFailure::Allow),
        ("deny", OnFailure::Deny),
    ] {
        let vars = json!({"RATE_LIMIT_POLICIES": {"mfa": {"on_store_failure": word}}});
        assert_eq!(rule(&good(&vars)), meant);
    }
    for word in [json!("open"), json!(true), json!("Allow")] {
        let vars = json!({"RATE_LIMIT_POLICIES": {"mfa": {"on_store_failure": word}}});
        let config = bad(&vars, "RATE_LIMIT_POLICIES.mfa.on_store_failure");
        assert_eq!(rule(&config), OnFailure::Deny);
    }
}

#[test]
fn flags_numbers_and_names_have_a_range_or_a_form() {
    assert!(!good(&json!({"RATE_LIMIT_ENABLED": "False"})).enabled);
    assert!(bad(&json!({"RATE_LIMIT_ENABLED": "no"}), "RATE_LIMIT_ENABLED").enabled);
    bad(&json!({"REDIS_ENABLED": 1}), "REDIS_ENABLED");
    for timeout in [
        json!(0),
        json!("60001"),
        json!(2_147_483_648_u64),
        json!("1s"),
    ] {
        bad(&json!({"REDIS_TIMEOUT": timeout}), "REDIS_TIMEOUT");
    }
    for prefix in ["a b", "a\n", "é", &"x".repeat(129)] {
        bad(
            &json!({"REDIS_KEY_PREFIX": format!("x{prefix}x")}),
            "REDIS_KEY_PREFIX",
        );
    }
    assert_eq!(
        good(&json!({"RATE_LIMIT_HEADERS": "ietf"})).dialect,
        Dialect::Ietf
    );
    assert_eq!(
        good(&json!({"RATE_LIMIT_HEADERS": "none"})).dialect,
        Dialect::None
    );
    bad(&json!({"RATE_LIMIT_HEADERS": "off"}), "RATE_LIMIT_HEADERS");
    assert_eq!(
        good(&json!({"CLIENT_IP_HEADER": "X-Real-IP"})).client_ip_header,
        "x-real-ip"
    );
    for name in ["X-Forwarded-For", "forwarded", "a b", "é"] {
        let config = bad(&json!({"CLIENT_IP_HEADER": name}), "CLIENT_IP_HEADER");
        assert_eq!(config.client_ip_header, "cf-connecting-ip");
    }
    assert_eq!(good(&json!({"IPV6_PREFIX": "56"})).ipv6_prefix.bits(), 56);
    for bits in [json!(0), json!(129), json!("/64")] {
        assert_eq!(
            bad(&json!({"IPV6_PREFIX": bits}), "IPV6_PREFIX")
                .ipv6_prefix
                .bits(),
            48
        );
    }
}

#[test]
fn with_an_invalid_origin_nothing_is_forwarded() {
    let origin = |url: &str| good(&json!({"ORIGIN_URL": url})).origin;
    assert_eq!(
        origin("https://a.vercel.app/"),
        Origin::Url("https://a.vercel.app".to_owned())
    );
    assert_eq!(
        origin("https://a.io/base/"),
        Origin::Url("https://a.io/base".to_owned())
    );
    for url in [
        "a.vercel.app",
        "https://u:p@a.io",
        "https://a.io/?x",
        "https://a.io/#x",
        "file:///x",
        "https://MÜNCHEN.de",
    ] {
        let config = bad(&json!({"ORIGIN_URL": url}), "ORIGIN_URL");
        assert_eq!(config.origin, Origin::Nowhere, "{url}");
    }
}

/// Hosts find the start of the path in the URL's text, so the text must be in the normal form.
#[test]
fn an_origins_url_is_normalized() {
    for url in [
        "https:a.io/base",
        "https:\\\\a.io\\base/",
        "HTTPS://A.io/x/../base",
    ] {
        assert_eq!(
            good(&json!({"ORIGIN_URL": url})).origin,
            Origin::Url("https://a.io/base".to_owned()),
            "{url}"
        );
    }
}

#[test]
fn secrets_are_compared_in_full_and_never_shown() {
    let config = good(
        &json!({"ADMIN_TOKEN": "a-truly-long-enough-token", "ORIGIN_SECRET": "0123456789abcdef"}),
    );
    let token = config.admin_token.clone().unwrap();
    assert!(token.matches("a-truly-long-enough-token"));
    for wrong in [
        "",
        "a-truly-long-enough-toke",
        "a-truly-long-enough-token ",
        "A-truly-long-enough-token",
    ] {
        assert!(!token.matches(wrong));
    }
    let shown = format!("{config:?}");
    assert!(!shown.contains("a-truly-long-enough-token") && !shown.contains("0123456789abcdef"));
    assert_eq!(
        compile(&json!({"ADMIN_TOKEN": "short"})).problems[0].severity,
        Severity::Warning
    );
    assert_eq!(
        bad(&json!({"ORIGIN_SECRET": "a b"}), "ORIGIN_SECRET").origin_secret,
        None
    );
}

#[test]
fn no_problem_contains_a_value() {
    const PLANTED: &str = "pLaNtEd";
    let routes = json!([{"path": PLANTED, "policies": [PLANTED], "methods": [[PLANTED]], "cost": PLANTED, "x": PLANTED}]);
    let mut vars = json!({
        "RATE_LIMIT_ROUTES": routes,
        "RATE_LIMIT_POLICIES": {"auth": {"algorithm": PLANTED, "key": PLANTED, "mode": PLANTED, "on_store_failure": PLANTED, "burst": PLANTED}},
    });
    for name in [
        "RATE_LIMIT_ENABLED",
        "RATE_LIMIT_AUTH",
        "RATE_LIMIT_NEW",
        "RATE_LIMIT_HEADERS",
        "REDIS_TIMEOUT",
        "REDIS_ENABLED",
        "UPSTASH_REDIS_REST_URL",
        "UPSTASH_REDIS_REST_TOKEN",
        "IPV6_PREFIX",
        "ORIGIN_URL",
        "DEFAULT_RATE_LIMIT_MAX",
        "DEFAULT_RATE_LIMIT_WINDOW",
        "RATE_LIMIT_ALLOWLIST",
        "RATE_LIMIT_FALLBACK_FACTOR",
        "REDIS_RETRY_COUNT",
        "REDIS_MAX_COMMANDS_PER_SECOND",
        "ADMIN_TOKEN",
        "CHECK_TOKEN",
        "RATE_LIMIT_BYPASS_TOKEN",
        "RATE_LIMIT_ESCALATION",
        "RATE_LIMIT_EVENTS",
        "RATE_LIMIT_EVENT_SAMPLE",
    ] {
        vars[name] = json!(PLANTED);
    }
    for name in ["REDIS_KEY_PREFIX", "ORIGIN_SECRET", "CLIENT_IP_HEADER"] {
        vars[name] = json!(format!("{PLANTED} {PLANTED}"));
    }
    let compiled = compile(&vars);
    assert!(compiled.problems.len() >= 18, "{:?}", compiled.problems);
    for problem in compiled.problems {
        assert!(
            !problem.to_string().to_lowercase().contains("planted"),
            "{problem}"
        );
    }
}

#[test]
fn any_json_value_compiles_and_loosens_no_limit() {
    for value in [
        json!(null),
        json!(true),
        json!(-1.5),
        json!([[]]),
        json!({"a": {"b": []}}),
        json!("\u{0}"),
    ] {
        let mut vars = json!({});
        for name in [
            "RATE_LIMIT_ROUTES",
            "RATE_LIMIT_POLICIES",
            "RATE_LIMIT_AUTH",
            "RATE_LIMIT_HEADERS",
            "REDIS_TIMEOUT",
            "ORIGIN_URL",
            "UPSTASH_REDIS_REST_URL",
            "CLIENT_IP_HEADER",
            "IPV6_PREFIX",
            "ADMIN_TOKEN",
            "RATE_LIMIT_ALLOWLIST",
            "RATE_LIMIT_ESCALATION",
            "RATE_LIMIT_EVENT_SAMPLE",
        ] {
            vars[name] = value.clone();
        }
        vars["RATE_LIMIT_POLICIES"] = json!({"auth": value, "mfa": {"key": value, "burst": value}});
        vars["RATE_LIMIT_ROUTES"] =
            json!([value, {"path": value, "policies": value, "methods": value, "cost": value}]);
        let config = compile(&vars).config;
        assert!(limits(&config, "mfa").is_some_and(|(requests, ..)| requests <= 5));
    }
}

/// Values of the types that TOML has besides text.
fn non_texts() -> [Value; 7] {
    [
        json!(true),
        json!(false),
        json!(12_345_678),
        json!(0.5),
        json!(["pLaNtEd-pLaNtEd-pLaNtEd-pLaNtEd-pLaNtEd"]),
        json!({"pLaNtEd": "pLaNtEd-pLaNtEd-pLaNtEd"}),
        json!([]),
    ]
}

/// The configuration of `vars` and one more variable. Expects an error of that one alone, which does not contain its value.
fn bad_with(vars: &Value, name: &str, value: &Value) -> Config {
    let mut vars = vars.clone();
    vars[name] = value.clone();
    let compiled = compile(&vars);
    for problem in &compiled.problems {
        let shown = problem.to_string().to_lowercase();
        assert!(!shown.contains("planted"), "{problem}");
    }
    bad(&vars, name)
}

#[test]
fn a_secret_that_is_not_text_is_ignored() {
    for value in non_texts() {
        let config = bad_with(&json!({}), "ADMIN_TOKEN", &value);
        assert_eq!(config.admin_token, None, "{value}");
        let config = bad_with(&json!({}), "CHECK_TOKEN", &value);
        assert_eq!(config.check_token, None, "{value}");
        let config = bad_with(&json!({}), "RATE_LIMIT_BYPASS_TOKEN", &value);
        assert_eq!(config.protection.bypass_token, None, "{value}");
        let config = bad_with(&json!({}), "ORIGIN_SECRET", &value);
        assert_eq!(config.origin_secret, None, "{value}");
        let config = bad_with(&json!({}), "RATE_LIMIT_JWT_SECRET", &value);
        assert!(!config.users.prove_anybody(), "{value}");
    }
}

#[test]
fn a_text_variable_of_another_type_is_an_error() {
    let store = json!({"UPSTASH_REDIS_REST_URL": "https://x.io", "UPSTASH_REDIS_REST_TOKEN": "t"});
    for value in non_texts() {
        let config = bad_with(&store, "REDIS_KEY_PREFIX", &value);
        assert!(
            matches!(config.store, StoreConfig::Redis { prefix, .. } if prefix == "ratelimit:")
        );
        for name in ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"] {
            assert_eq!(bad_with(&store, name, &value).store, StoreConfig::Memory);
        }
        let config = bad_with(&json!({}), "CLIENT_IP_HEADER", &value);
        assert_eq!(config.client_ip_header, "cf-connecting-ip");
        let config = bad_with(&json!({}), "ORIGIN_URL", &value);
        assert_eq!(config.origin, Origin::Nowhere);
        let config = bad_with(&json!({}), "RATE_LIMIT_HEADERS", &value);
        assert_eq!(config.dialect, Dialect::XRateLimit);
        let config = bad_with(&json!({}), "RATE_LIMIT_JWT_COOKIE", &value);
        assert_eq!(config.users.cookie, None);
        let config = bad_with(&json!({}), "RATE_LIMIT_JWT_JWKS_URL", &value);
        assert!(!config.users.prove_anybody());
        let config = bad_with(&json!({}), "RATE_LIMIT_IP", &value);
        assert_eq!(limits(&config, "ip"), Some((5, 60, 900)));
        let config = bad_with(&json!({}), "RATE_LIMIT_ESCALATION", &value);
        assert!(config.protection.escalation.is_some());
    }
}

/// If a table has a name twice, parsers take the last value, which could loosen a limit.
#[test]
fn a_repeated_name_in_a_table_is_an_error_and_the_stricter_reading_is_in_force() {
    let problems = |compiled: &Compiled| -> Vec<String> {
        let problems = compiled.problems.iter();
        problems.map(|problem| problem.variable.clone()).collect()
    };
    let policies = |text: &str| {
        let compiled = compile(&json!({"RATE_LIMIT_POLICIES": text}));
        assert!(compiled.has_errors(), "{text}");
        (problems(&compiled), compiled.config)
    };
    for text in [
        r#"{"general":{"mode":"enforce"},"general":{"mode":"shadow"}}"#,
        r#"{"gener\u0061l":{"mode":"shadow"},"general":{"mode":"shadow"}}"#,
    ] {
        let (named, config) = policies(text);
        assert_eq!(
            named,
            ["RATE_LIMIT_POLICIES", "RATE_LIMIT_POLICIES.general"]
        );
        assert_eq!(policy(&config, "general").unwrap().mode, Mode::Enforce);
        assert_eq!(limits(&config, "general"), Some((5, 60, 900)));
    }
    let (named, config) =
        policies(r#"{"auth":{"mode":"enforce","mode":"shadow","burst":5,"burst":9}}"#);
    assert_eq!(
        named,
        [
            "RATE_LIMIT_POLICIES",
            "RATE_LIMIT_POLICIES.auth.burst",
            "RATE_LIMIT_POLICIES.auth.mode",
            "RATE_LIMIT_POLICIES.auth.burst"
        ]
    );
    let auth = policy(&config, "auth").unwrap();
    assert_eq!((auth.mode, auth.quota.capacity()), (Mode::Enforce, 1));

    // Names that differ only in case name the same policy.
    for (one, other) in [
        ("general", "GENERAL"),
        ("General", "general"),
        ("GENERAL", "GeNeRaL"),
    ] {
        let table = json!({one: {"mode": "enforce"}, other: {"mode": "shadow"}});
        for table in [table.clone(), json!(table.to_string())] {
            let config = bad(
                &json!({"RATE_LIMIT_POLICIES": table}),
                "RATE_LIMIT_POLICIES.general",
            );
            assert_eq!(policy(&config, "general").unwrap().mode, Mode::Enforce);
            assert_eq!(limits(&config, "general"), Some((5, 60, 900)));
        }
    }

    let routes = |route: &str| {
        let text = format!(r#"[{route},{{"path":"/x","policies":["mfa"]}}]"#);
        let compiled = compile(&json!({"RATE_LIMIT_ROUTES": text}));
        (problems(&compiled), compiled.config)
    };
    let field = |name: &str| {
        vec![
            "RATE_LIMIT_ROUTES".to_owned(),
            format!("RATE_LIMIT_ROUTES[0].{name}"),
        ]
    };
    let (named, config) = routes(r#"{"path":"/x","policies":["auth"],"path":"/y"}"#);
    assert_eq!(named, field("path"));
    assert_eq!(
        names(&config, "GET", "/x"),
        ["mfa", "ip", "auth"],
        "on every path"
    );
    let (named, config) = routes(r#"{"path":"/x","policies":["auth"],"policies":[]}"#);
    assert!(named.starts_with(&field("policies")), "{named:?}");
    assert_eq!(names(&config, "GET", "/x"), ["misconfigured", "mfa", "ip"]);
    let (named, config) =
        routes(r#"{"path":"/x","policies":["auth"],"methods":["GET"],"methods":["PUT"]}"#);
    assert_eq!(named, field("methods"));
    assert_eq!(names(&config, "POST", "/x"), ["auth", "mfa", "ip"]);
    let (named, config) = routes(r#"{"path":"/x","policies":["auth"],"cost":20,"cost":1}"#);
    assert_eq!(named, field("cost"));
    assert_eq!(config.routes.classify("GET", "/x").cost, 30);
    let (named, config) = routes(r#"{"path":"/x","policies":[],"deep":{"a":1,"a":2}}"#);
    assert_eq!(named, ["RATE_LIMIT_ROUTES", "RATE_LIMIT_ROUTES[0]"]);
    assert_eq!(names(&config, "GET", "/x"), ["mfa", "ip"]);

    let keys = r#"{"keys":[],"keys":[]}"#;
    let compiled = compile(&json!({"RATE_LIMIT_JWT_KEYS": keys}));
    assert_eq!(
        problems(&compiled),
        ["RATE_LIMIT_JWT_KEYS", "RATE_LIMIT_JWT_KEYS"]
    );
    let vars = r#"{"ADMIN_TOKEN":"a-token-of-22-characters","RATE_LIMIT_AUTH":"1,60","ADMIN_TOKEN":"a-token-of-22-characters"}"#;
    let compiled = Config::compile(&Vars::from_json(vars).unwrap());
    assert_eq!(problems(&compiled), ["RATE_LIMIT_AUTH", "ADMIN_TOKEN"]);
    assert_eq!(compiled.config.admin_token, None);
}

#[test]
fn a_variable_in_small_letters_is_an_error_and_the_stricter_reading_is_in_force() {
    for name in [
        "RATE_LIMIT_general",
        "RATE_LIMIT_Auth",
        "RATE_LIMIT_routes",
        "RATE_LIMIT_Policies",
    ] {
        let config = bad(&json!({name: "1,60"}), "RATE_LIMIT_<POLICY>");
        assert_eq!(
            names(&config, "GET", "/x"),
            ["general", "ip", "misconfigured"],
            "{name}"
        );
    }
    // No request could meet a policy of this name, so nothing stricter is in force.
    let config = bad(&json!({"RATE_LIMIT_mine": "1,60"}), "RATE_LIMIT_<POLICY>");
    assert_eq!(names(&config, "GET", "/x"), ["general", "ip"]);
}

#[test]
fn a_placeholder_of_another_router_is_an_error_and_matches_any_segments() {
    for (path, met, unmet) in [
        ("/users/:id", "/users/42", "/user"),
        ("/@:name/login", "/@ann/login", "/x"),
        ("/users/:id/posts", "/users/42/posts", "/users/42"),
        ("/users/:id?", "/users/42", "/"),
        ("/users/:user_id(\\d+)", "/users/42", "/"),
        ("/flights/:from-:to", "/flights/vie-lhr", "/"),
        ("/flights/from-:to", "/flights/from-lhr", "/"),
        ("/files/:path*", "/files/a/b", "/"),
        ("/users/{id}", "/users/42", "/"),
        ("/users/{id:[0-9]+}/x", "/users/42/x", "/users/42"),
        ("/files/{name}.pdf", "/files/a.pdf", "/"),
        ("/files/{*rest}", "/files/a/b", "/"),
        ("/files/{path...}", "/files/a/b", "/"),
        ("/users/[id]", "/users/42", "/"),
        ("/users/[[...slug]]", "/users", "/"),
        ("/files/[...slug]", "/files/a/b", "/"),
        ("/users/[0-9]+", "/users/42", "/"),
        ("/users/<id>", "/users/42", "/"),
        ("/users/<int:id>/x", "/users/42/x", "/"),
        ("/files/(.*)", "/files/a/b", "/"),
        ("/files/(.+)", "/files/a/b", "/"),
        ("/users/(\\d+)/x", "/users/42/x", "/users/42"),
        ("/users/([^/]+)", "/users/42", "/"),
        ("/users{/:id}", "/users/42", "-"),
        ("/(login|signin)", "/signin", "-"),
        ("/files/*path", "/files/a/b", "/"),
        ("/files/*path/", "/files/a/b", "/"),
    ] {
        let vars = json!({"RATE_LIMIT_ROUTES": [
            {"path": path, "policies": ["auth"], "cost": 2}, {"path": "/**", "policies": ["mfa"]},
        ]});
        let compiled = compile(&vars);
        let [problem] = compiled.problems.as_slice() else {
            panic!("{path}: {:?}", compiled.problems);
        };
        assert_eq!(
            (&*problem.variable, problem.severity),
            ("RATE_LIMIT_ROUTES[0].path", Severity::Error)
        );
        assert!(
            problem.rule.contains("`*`") && problem.rule.contains("`**`"),
            "{problem}"
        );
        let config = compiled.config;
        assert_eq!(names(&config, "GET", met), ["auth", "mfa", "ip"], "{path}");
        assert_eq!(config.routes.classify("GET", met).cost, 2);
        if unmet != "-" {
            assert_eq!(names(&config, "GET", unmet), ["mfa", "ip"], "{path}");
        }
    }
    // A route with a placeholder exempts nothing.
    let config = bad(
        &json!({"RATE_LIMIT_ROUTES": [{"path": "/assets/:name", "policies": []}]}),
        "RATE_LIMIT_ROUTES[0].path",
    );
    assert_eq!(names(&config, "GET", "/assets/a.js"), ["general", "ip"]);
}

#[test]
fn literal_characters_are_not_placeholders() {
    for (pattern, path) in [
        ("/a:b", "/a:b"),
        ("/users/@me", "/users/@me"),
        ("/users/~me", "/users/~me"),
        ("/v1/users:batchGet", "/v1/users:batchGet"),
        ("/v1/things/*:archive", "/v1/things/7:archive"),
        ("/rooms/!abc:example.org", "/rooms/!abc:example.org"),
        ("/time/12:30", "/time/12:30"),
        ("/:80", "/:80"),
        ("/wiki/Mercury_(planet)", "/wiki/mercury_(planet)"),
        ("/odata/Products(*)", "/odata/Products(5)"),
        ("/odata/$metadata", "/odata/$metadata"),
        ("/list[0]/x", "/list[0]/x"),
        ("/a+b,c;v=1", "/a+b,c;v=1"),
        ("/%3Aid", "/:id"),
        ("/%7Bid%7D", "/%7Bid%7D"),
        ("/%5Bid]", "/[id]"),
        ("/%3Cid%3E", "/%3cid%3e"),
        ("/x%28.*)", "/x(.a)"),
        ("/*%70ath", "/mypath"),
        ("/*.json", "/a.json"),
        ("/*-export", "/data-export"),
        ("/*export/**", "/dataexport/x"),
        ("/*password*/**", "/reset-password/x"),
        ("/*", "/a"),
    ] {
        let config = good(&json!({"RATE_LIMIT_ROUTES": [{"path": pattern, "policies": ["auth"]}]}));
        assert_eq!(names(&config, "GET", path), ["auth", "ip"], "{pattern}");
    }
    let compiled =
        compile(&json!({"RATE_LIMIT_ROUTES": [{"path": "/api/.*", "policies": ["auth"]}]}));
    assert_eq!(compiled.problems.len(), 1);
    assert_eq!(
        compiled.problems[0].severity,
        Severity::Warning,
        "the pattern matches names that begin with a dot"
    );
    assert_eq!(names(&compiled.config, "GET", "/api/.git"), ["auth", "ip"]);
}
