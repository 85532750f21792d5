//! Policies and their options.

use serde_json::json;

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
    assert_eq!(limits(&config, "general"), Some((120, 60, 0)));
}

#[test]
fn a_bad_limit_leaves_the_built_in_one_and_else_the_strictest() {
    for text in ["", " "] {
        good(&json!({"RATE_LIMIT_AUTH": text}));
    }
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
        "30,60,600,1",
        "30;60",
        "4294967296,60",
        "30,31622401",
        "unlimited",
        "none",
        "of",
        "1e3,60",
        "30,60,x,y",
    ] {
        let vars = json!({"RATE_LIMIT_AUTH": text, "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["auth"]}]});
        let config = bad(&vars, "RATE_LIMIT_AUTH");
        assert_eq!(limits(&config, "auth").unwrap().2, 600, "{text}");
        assert!(limits(&config, "auth").unwrap().0 <= 30, "{text}");
    }
    let vars = json!({"RATE_LIMIT_WEB3": "x", "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["web3"]}]});
    assert_eq!(
        limits(&bad(&vars, "RATE_LIMIT_WEB3"), "web3"),
        Some((5, 60, 0))
    );
    let vars = json!({"RATE_LIMIT_AUTH": "3,60,x", "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["auth"]}]});
    assert_eq!(
        limits(&bad(&vars, "RATE_LIMIT_AUTH"), "auth"),
        Some((3, 60, 600))
    );
}

#[test]
fn names_that_cannot_be_policies_are_refused() {
    for name in [
        "BLOCKED",
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
        ("burst", json!(0)),
        ("burst", json!("many")),
        ("key", json!("user")),
        ("key", json!("header:")),
        ("key", json!("header:a b")),
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
    bad(
        &json!({"RATE_LIMIT_POLICIES": {"auth": {"burst": 5}}}),
        "RATE_LIMIT_POLICIES.auth.burst",
    );
    bad(
        &json!({"RATE_LIMIT_POLICIES": {"auth": {"unknown": 5}}}),
        "RATE_LIMIT_POLICIES.auth",
    );
    bad(
        &json!({"RATE_LIMIT_POLICIES": {"auth": 5}}),
        "RATE_LIMIT_POLICIES.auth",
    );
    bad(
        &json!({"RATE_LIMIT_POLICIES": {"nobody": {}}}),
        "RATE_LIMIT_POLICIES",
    );
    for table in [json!("[]"), json!("{"), json!(5), json!([1])] {
        bad(
            &json!({"RATE_LIMIT_POLICIES": table}),
            "RATE_LIMIT_POLICIES",
        );
    }
    let huge = json!({
        "RATE_LIMIT_AUTH": "4294967295,86400",
        "RATE_LIMIT_POLICIES": {"auth": {"algorithm": "token-bucket"}},
        "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["auth"]}],
    });
    let config = bad(&huge, "RATE_LIMIT_POLICIES.auth");
    assert_eq!(
        policy(&config, "auth").unwrap().quota.algorithm(),
        Algorithm::SlidingWindow
    );
}

#[test]
fn a_policy_that_no_route_uses_is_a_warning() {
    let compiled = compile(&json!({"RATE_LIMIT_AUHT": "3,60"}));
    assert_eq!(compiled.problems.len(), 1);
    assert_eq!(compiled.problems[0].severity, Severity::Warning);
    assert_eq!(compiled.problems[0].variable, "RATE_LIMIT_AUHT");
    assert!(!compiled.has_errors());
}
