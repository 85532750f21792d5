//! Policies and their options.

use serde_json::{Value, json};

use crate::config::Severity;
use crate::config::tests::{bad, compile, good, limits, names, policy};
use crate::policy::{KeyBy, Mode};
use crate::quota::Algorithm;

#[test]
fn a_policy_is_overridden_made_or_switched_off() {
    let config = good(&json!({
        "RATE_LIMIT_AUTH": " 5 , 30 ",
        "RATE_LIMIT_MFA": "3,60,120",
        "RATE_LIMIT_GENERAL": "off",
        "RATE_LIMIT_IP": "OFF",
        "RATE_LIMIT_WEB3_MINT": "1,3600",
        "RATE_LIMIT_ROUTES": [
            {"path": "/mint", "policies": ["web3_mint"]},
            {"path": "/login", "policies": ["auth", "mfa"]},
        ],
    }));
    assert_eq!(limits(&config, "auth"), Some((5, 30, 0)));
    assert_eq!(limits(&config, "mfa"), Some((3, 60, 120)));
    assert_eq!(limits(&config, "web3_mint"), Some((1, 3600, 0)));
    assert_eq!(limits(&config, "general"), None);
    assert_eq!(names(&config, "GET", "/else"), [""; 0]);
    assert_eq!(names(&config, "GET", "/mint"), ["web3_mint"]);
}

#[test]
fn the_default_limits_are_the_general_policys() {
    let vars = json!({"DEFAULT_RATE_LIMIT_MAX": "50", "DEFAULT_RATE_LIMIT_WINDOW": 30});
    assert_eq!(limits(&good(&vars), "general"), Some((50, 30, 0)));
    let vars = json!({"DEFAULT_RATE_LIMIT_MAX": "50", "RATE_LIMIT_GENERAL": "7,8"});
    assert_eq!(limits(&good(&vars), "general"), Some((7, 8, 0)));
    let config = bad(
        &json!({"DEFAULT_RATE_LIMIT_MAX": "0"}),
        "DEFAULT_RATE_LIMIT_MAX",
    );
    assert_eq!(limits(&config, "general"), Some((5, 60, 0)));
}

#[test]
fn what_cannot_be_read_of_a_limit_is_the_strictest() {
    for text in ["", " "] {
        good(&json!({"RATE_LIMIT_AUTH": text}));
    }
    let read = |name: &str, text: &str| {
        let routes = json!([{"path": "/a", "policies": [name]}]);
        let variable = format!("RATE_LIMIT_{}", name.to_uppercase());
        let config = bad(
            &json!({&variable: text, "RATE_LIMIT_ROUTES": routes}),
            &variable,
        );
        limits(&config, name).unwrap()
    };
    for text in [
        "x",
        "30",
        "30,",
        ",60",
        "0,60",
        "30,0",
        "-1,60",
        "+1,60",
        "1.5,60",
        "30;60",
        "unlimited",
        "4294967296,60",
        "30,31622401",
        "none",
        "of",
        "1e3,60",
    ] {
        for name in ["general", "auth", "ip", "web3"] {
            assert_eq!(read(name, text), (5, 60, 900), "{name} {text}");
        }
    }
    assert_eq!(read("auth", "3,60,x"), (3, 60, 900));
    assert_eq!(read("web3", "10,60,6OO"), (10, 60, 900));
    assert_eq!(read("web3", "10,60,600,1"), (10, 60, 600));
    assert_eq!(read("web3", "1O,60,86400"), (5, 60, 86_400));
}

#[test]
fn names_that_cannot_be_policies_are_refused() {
    for name in [
        "MISCONFIGURED",
        "BLOCKED",
        "ABSORBED",
        "BLOCKED_IPS",
        "BLOCKED_RANGES",
        "EVENTS",
        "SUSPICIOUS",
        "METRICS",
    ] {
        let variable = format!("RATE_LIMIT_{name}");
        let config = bad(&json!({&variable: "1,1"}), &variable);
        assert_eq!(config.policies.len(), 7, "{name}");
    }
    for name in ["auth", "A-B", "", "1ST", "A B", "Ä", &"A".repeat(33)] {
        bad(
            &json!({format!("RATE_LIMIT_{name}"): "1,1"}),
            "RATE_LIMIT_<POLICY>",
        );
    }
}

#[test]
fn options_shape_a_policy() {
    let config = good(&json!({"RATE_LIMIT_POLICIES": {
        "auth": {"algorithm": "token-bucket", "burst": 5, "key": "global", "mode": "shadow"},
        "MFA": {"algorithm": "fixed-window", "key": "header:X-Api-Key"},
    }}));
    let auth = policy(&config, "auth").unwrap();
    assert_eq!(auth.quota.algorithm(), Algorithm::TokenBucket);
    assert_eq!(auth.quota.capacity(), 5);
    assert_eq!((&auth.key, auth.mode), (&KeyBy::Global, Mode::Shadow));
    let mfa = policy(&config, "mfa").unwrap();
    assert_eq!(mfa.quota.algorithm(), Algorithm::FixedWindow);
    assert_eq!(mfa.key, KeyBy::Header("x-api-key".to_owned()));
}

#[test]
fn a_bad_option_is_named_and_the_stricter_one_rules() {
    for (option, value) in [
        ("algorithm", json!("sliding")),
        ("algorithm", json!(7)),
        ("mode", json!("Shadow!")),
        ("mode", json!(null)),
    ] {
        let mut options = json!({});
        options[option] = value;
        let config = bad(
            &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
            &format!("RATE_LIMIT_POLICIES.auth.{option}"),
        );
        let auth = policy(&config, "auth").unwrap();
        assert_eq!(
            (auth.quota.algorithm(), auth.mode),
            (Algorithm::SlidingWindow, Mode::Enforce)
        );
        assert_eq!((&auth.key, auth.quota.capacity()), (&KeyBy::Address, 30));
    }
    for key in ["globl", "header:", "header:a b", "IP", ""] {
        let vars = json!({"RATE_LIMIT_POLICIES": {"auth": {"key": key}}});
        let config = bad(&vars, "RATE_LIMIT_POLICIES.auth.key");
        assert_eq!(policy(&config, "auth").unwrap().key, KeyBy::Global, "{key}");
    }
    for burst in [json!(0), json!("many"), json!(2.5), json!(-1)] {
        let options = json!({"algorithm": "token-bucket", "burst": burst});
        let config = bad(
            &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
            "RATE_LIMIT_POLICIES.auth.burst",
        );
        assert_eq!(policy(&config, "auth").unwrap().quota.capacity(), 1);
    }
    for options in [json!(5), json!({"algoritm": "fixed-window"})] {
        let config = bad(
            &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
            "RATE_LIMIT_POLICIES.auth",
        );
        assert_eq!(limits(&config, "auth"), Some((5, 60, 900)));
    }
    for lease in [json!(0), json!(31), json!("all"), json!(-1)] {
        let options =
            json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"auth": {"lease": lease}}});
        let config = bad(&options, "RATE_LIMIT_POLICIES.auth.lease");
        assert_eq!(policy(&config, "auth").unwrap().lease, 0);
    }
}

#[test]
fn a_lease_needs_one_of_every_policy_that_each_request_meets() {
    let of = |vars: &Value| {
        let compiled = compile(vars);
        let warned = compiled.problems.iter().map(|problem| {
            assert_eq!(problem.severity, Severity::Warning);
            problem.variable.clone()
        });
        let lease = policy(&compiled.config, "general").unwrap().lease;
        (lease, warned.collect::<Vec<_>>())
    };
    let plain = json!({"general": {"lease": 30}});
    let useless = "RATE_LIMIT_POLICIES.general.lease".to_owned();
    assert_eq!(
        of(&json!({"RATE_LIMIT_POLICIES": plain})),
        (30, vec![useless])
    );
    let off = json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": plain});
    assert_eq!(of(&off), (30, vec![]));
    let shadow = json!({"general": {"lease": 30}, "ip": {"mode": "shadow"}});
    assert_eq!(of(&json!({"RATE_LIMIT_POLICIES": shadow})), (30, vec![]));
    let both = json!({"general": {"lease": 30}, "ip": {"lease": 100}});
    assert_eq!(of(&json!({"RATE_LIMIT_POLICIES": both})), (30, vec![]));

    let blocks = json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"auth": {"lease": 30}}});
    let compiled = compile(&blocks);
    assert_eq!(
        compiled.problems[0].variable,
        "RATE_LIMIT_POLICIES.auth.lease"
    );
    assert_eq!(compiled.problems[0].severity, Severity::Warning);
    assert_eq!(policy(&compiled.config, "auth").unwrap().lease, 0);
}

#[test]
fn a_burst_without_a_bucket_bounds_the_window() {
    let burst = json!({"RATE_LIMIT_POLICIES": {"auth": {"burst": 5}}});
    let config = bad(&burst, "RATE_LIMIT_POLICIES.auth.burst");
    assert_eq!(limits(&config, "auth"), Some((5, 60, 600)));
    let typo = json!({"RATE_LIMIT_POLICIES": {"auth": {"algorithm": "token_bucket", "burst": 5}}});
    assert_eq!(limits(&compile(&typo).config, "auth"), Some((5, 60, 600)));
    let huge = json!({
        "RATE_LIMIT_AUTH": "4294967295,86400",
        "RATE_LIMIT_POLICIES": {"auth": {"algorithm": "token-bucket", "burst": 10}},
        "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["auth"]}],
    });
    let config = bad(&huge, "RATE_LIMIT_POLICIES.auth");
    assert_eq!(limits(&config, "auth"), Some((10, 86_400, 0)));
    assert_eq!(
        policy(&config, "auth").unwrap().quota.algorithm(),
        Algorithm::SlidingWindow
    );
}

#[test]
fn options_that_no_policy_can_take_are_distrusted() {
    for table in [
        json!("[]"),
        json!("{"),
        json!(5),
        json!([1]),
        json!({"nobody": {"key": "global"}}),
    ] {
        let config = bad(
            &json!({"RATE_LIMIT_POLICIES": table}),
            "RATE_LIMIT_POLICIES",
        );
        assert_eq!(
            names(&config, "GET", "/x"),
            ["general", "ip", "misconfigured"]
        );
    }
}

#[test]
fn a_policy_that_no_route_uses_is_a_warning() {
    let compiled = compile(&json!({"RATE_LIMIT_AUHT": "3,60"}));
    assert_eq!(compiled.problems.len(), 1);
    assert_eq!(compiled.problems[0].severity, Severity::Warning);
    assert_eq!(compiled.problems[0].variable, "RATE_LIMIT_AUHT");
    assert!(!compiled.has_errors());
}
