//! The routes of the shipped `wrangler.toml`: a GET that guesses no secret does not count as a guess.

use serde_json::{Value, json};

use super::{Isolate, by};
use crate::route::RouteMatch;

/// The shipped routes, in the JSON that the Worker gets.
fn routes() -> Value {
    let file = include_str!("../../../wrangler.toml");
    let (_, list) = file.split_once("\nRATE_LIMIT_ROUTES = [").unwrap();
    let (list, _) = list.split_once("\n]").unwrap();
    let tables = list
        .lines()
        .filter(|line| line.trim_start().starts_with('{'));
    let route = |line: &str| {
        let mut table = line.trim().trim_end_matches(',').to_owned();
        for name in ["path", "methods", "policies", "cost"] {
            table = table.replace(&format!("{name} = "), &format!("\"{name}\": "));
        }
        serde_json::from_str::<Value>(&table).unwrap()
    };
    tables.map(route).collect()
}

fn shipped() -> Isolate {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_ROUTES": routes()}));
    let problems = &isolate.limiter.compiled.problems;
    assert!(problems.is_empty(), "{problems:?}");
    isolate
}

fn met<'a>(isolate: &'a Isolate, method: &str, path: &str) -> Vec<&'a str> {
    let config = isolate.limiter.config();
    let RouteMatch { policies, .. } = config.routes.classify(method, path);
    let policies = policies.iter().map(|id| &*config.policy(*id).unwrap().name);
    policies.collect()
}

#[test]
fn polling_the_session_does_not_block_a_login_from_the_same_address() {
    let isolate = shipped();
    let session = by("192.0.2.1", "/api/auth/session");
    for _ in 0..100 {
        assert_eq!(isolate.answer(&session).status, 200);
    }
    let login = by("192.0.2.1", "/api/auth/callback/credentials").sending("POST", "");
    assert_eq!(isolate.answer(&login).status, 200);
}

#[test]
fn requests_that_guess_meet_their_policies_and_all_others_meet_general() {
    let isolate = shipped();
    for (method, path, policies) in [
        // NextAuth's own reads.
        ("GET", "/api/auth/session", &["general"][..]),
        ("HEAD", "/api/auth/session", &["general"]),
        ("GET", "/api/auth/csrf", &["general"]),
        ("GET", "/api/auth/providers", &["general"]),
        ("GET", "/api/auth/signin", &["general"]),
        ("GET", "/api/auth/signout", &["general"]),
        ("GET", "/api/auth/error", &["general"]),
        ("GET", "/api/auth/verify-request", &["general"]),
        ("GET", "/api/payments/history", &["general"]),
        ("GET", "/api/checkout/session/1234", &["general"]),
        ("GET", "/api/web3/balance/0x1234", &["general"]),
        // A token or a code in the address is a guess.
        ("GET", "/api/auth/callback/email", &["auth"]),
        ("HEAD", "/api/auth/callback/email", &["auth"]),
        ("GET", "/api/auth/callback/google", &["auth"]),
        ("GET", "/api/auth/verify", &["auth"]),
        ("GET", "/api/auth/verify-email/1234", &["auth"]),
        ("GET", "/api/auth/email/confirm", &["auth"]),
        ("GET", "/api/auth/activate/1234", &["auth"]),
        ("GET", "/api/auth/magic-link/1234", &["auth"]),
        ("GET", "/api/auth/invitation/1234", &["auth"]),
        ("GET", "/api/auth/session/1234", &["auth"]),
        ("GET", "/api/auth/unlock", &["auth"]),
        ("GET", "/api/auth/me", &["auth"]),
        ("GET", "/api/login", &["auth"]),
        ("GET", "/api/register", &["auth"]),
        (
            "GET",
            "/api/auth/reset-password/1234",
            &["auth", "sensitive"],
        ),
        (
            "GET",
            "/api/auth/password-reset/verify",
            &["auth", "sensitive"],
        ),
        ("GET", "/api/auth/reset", &["auth"]),
        ("GET", "/api/auth/password", &["auth", "sensitive"]),
        ("GET", "/api/checkout/coupons/SAVE10", &["financial"]),
        ("GET", "/api/payments/gift-cards/1234", &["financial"]),
        ("GET", "/api/payments/promo/1234", &["financial"]),
        ("GET", "/api/payments/vouchers/1234", &["financial"]),
        ("GET", "/api/user/verify-email/1234", &["sensitive"]),
        ("GET", "/api/mfa", &["mfa"]),
        ("GET", "/api/auth/mfa/verify", &["mfa"]),
        ("GET", "/api/mfa/challenge/123456", &["mfa"]),
        ("GET", "/api/user/password/reset/1234", &["sensitive"]),
        // A request that changes something may be a guess.
        ("POST", "/api/auth/session", &["auth"]),
        ("POST", "/api/auth/callback/credentials", &["auth"]),
        ("POST", "/api/auth/signin/email", &["auth"]),
        ("DELETE", "/api/auth/session", &["auth"]),
        ("X-UNKNOWN", "/api/auth/session", &["auth"]),
        ("POST", "/api/login", &["auth"]),
        ("PUT", "/api/login", &["auth"]),
        ("POST", "/api/register", &["auth"]),
        ("POST", "/api/auth/mfa", &["mfa"]),
        ("POST", "/api/mfa/verify", &["mfa"]),
        ("POST", "/api/auth/password", &["auth", "sensitive"]),
        ("POST", "/api/auth/reset-password", &["auth", "sensitive"]),
        ("POST", "/api/payments/charge", &["financial"]),
        ("POST", "/api/user/password", &["sensitive"]),
        ("POST", "/api/user/email", &["sensitive"]),
        ("GET", "/api/user", &["general"]),
        ("GET", "/api/admin/users", &["admin"]),
        ("GET", "/admin", &["admin"]),
    ] {
        assert_eq!(met(&isolate, method, path), policies, "{method} {path}");
    }
}
