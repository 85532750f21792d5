//! Authorization at the control plane: wrong tokens are counted per address, and a right token is never counted as a guess.

use serde_json::json;

use super::{Isolate, by, header, json_of};

/// Tokens of 21 characters, one too few to be safe from guessing.
const SHORT_ADMIN: &str = "a-short-admin-token-1";
const SHORT_CHECK: &str = "a-short-check-token-1";
/// Tokens of 22 characters, the fewest that are safe from guessing.
const LONG_ADMIN: &str = "a-longer-admin-token-1";
const LONG_CHECK: &str = "a-longer-check-token-1";

const EGRESS: &str = "192.0.2.66";

fn isolate(admin: &str, check: &str) -> Isolate {
    Isolate::new(&json!({
        "ADMIN_TOKEN": admin, "CHECK_TOKEN": check, "RATE_LIMIT_ADMIN": "5,60,300", "RATE_LIMIT_IP": "off",
    }))
}

/// The spellings of Bearer credentials (RFC 9110, 11.1, 11.4 and 5.5).
const SPELLINGS: [&str; 8] = [
    "Bearer TOKEN",
    "bearer TOKEN",
    "BEARER TOKEN",
    "Bearer  TOKEN",
    "Bearer\tTOKEN",
    "Bearer TOKEN ",
    "Bearer TOKEN\t",
    "  bEARER   TOKEN  ",
];

/// `Authorization` headers without a Bearer token. None of them counts as a guess.
const NO_GUESSES: [&str; 11] = [
    "Basic c3RhZ2luZzpwYXNzd29yZA==",
    "basic c3RhZ2luZzpwYXNzd29yZA==",
    "Digest username=\"a\", realm=\"b\"",
    "Negotiate YII",
    "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=c",
    "Basic a, Bearer b",
    "a-token-without-a-scheme",
    "Bearer",
    "bearer ",
    "Bearers a",
    "",
];

/// The status of a check with this token.
fn check(isolate: &Isolate, token: &str) -> u16 {
    let body = r#"{"policy":"general","identifier":"alice"}"#;
    let request = by(EGRESS, "/_limiter/check").sending("POST", body);
    status(isolate, request, token)
}

/// The status of a call that only the operator's token authorizes, with this token.
fn administer(isolate: &Isolate, token: &str) -> u16 {
    status(isolate, by(EGRESS, "/_limiter/policies"), token)
}

fn status(isolate: &Isolate, request: super::TestRequest, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let request = request.with("authorization", &bearer);
    isolate.admin_answer(&request).status
}

#[test]
fn a_right_token_does_not_clear_wrong_guesses_at_another_token() {
    for (admin, check_token) in [
        (SHORT_ADMIN, SHORT_CHECK),
        (SHORT_ADMIN, LONG_CHECK),
        (LONG_ADMIN, SHORT_CHECK),
        (LONG_ADMIN, LONG_CHECK),
    ] {
        // First guesses at the operator's token, each after a check with the right token. Then the reverse.
        let isolate_of = || isolate(admin, check_token);
        let guessing = isolate_of();
        let guesses: Vec<u16> = (0..160)
            .map(|number| {
                check(&guessing, check_token);
                administer(&guessing, &format!("guess-{number}"))
            })
            .collect();
        assert_eq!(guesses[..5], [401; 5], "{admin} {check_token}");
        assert_eq!(guesses[5..], [429; 155], "{admin} {check_token}");

        let guessing = isolate_of();
        for number in 0..160 {
            check(&guessing, &format!("guess-{number}"));
            administer(&guessing, admin);
        }
        let is_long = check_token == LONG_CHECK;
        let expected = if is_long { 200 } else { 429 };
        assert_eq!(check(&guessing, check_token), expected, "{check_token}");
    }
}

#[test]
fn a_right_token_of_22_characters_works_after_any_number_of_wrong_guesses() {
    let isolate = isolate(LONG_ADMIN, LONG_CHECK);
    for number in 0..50 {
        let guess = format!("guess-{number}");
        let expected = if number < 5 { 401 } else { 429 };
        assert_eq!(check(&isolate, &guess), expected, "{number}");
    }
    assert_eq!(check(&isolate, LONG_CHECK), 200);
    assert_eq!(administer(&isolate, LONG_ADMIN), 200);
    // The right token for checks still does not authorize the operator's calls.
    assert_eq!(administer(&isolate, LONG_CHECK), 401);
}

#[test]
fn a_short_right_token_is_denied_once_wrong_guesses_exceed_the_limit() {
    for (admin, check_token, expected) in [
        (SHORT_ADMIN, SHORT_CHECK, [429, 429]),
        (LONG_ADMIN, SHORT_CHECK, [200, 429]),
        (SHORT_ADMIN, LONG_CHECK, [429, 200]),
    ] {
        let isolate = isolate(admin, check_token);
        for number in 0..6 {
            check(&isolate, &format!("guess-{number}"));
        }
        let opened = [administer(&isolate, admin), check(&isolate, check_token)];
        assert_eq!(opened, expected, "{admin} {check_token}");
    }
}

#[test]
fn a_right_token_is_not_counted_as_a_guess_at_another_token() {
    for [admin, check_token] in [[SHORT_ADMIN, SHORT_CHECK], [SHORT_CHECK, SHORT_ADMIN]] {
        let isolate = isolate(admin, check_token);
        for _ in 0..50 {
            assert_eq!(check(&isolate, check_token), 200);
            assert_eq!(check(&isolate, admin), 200);
        }
        assert_eq!(administer(&isolate, admin), 200);
        assert_eq!(administer(&isolate, "wrong"), 401);
    }
}

#[test]
fn a_short_token_is_a_problem_and_a_short_bypass_token_is_not_accepted() {
    let problems = |vars| {
        let isolate = Isolate::new(&vars);
        let problems = isolate.limiter.compiled.problems.iter();
        let lines = problems.map(|problem| problem.to_string());
        let lines: Vec<String> = lines.collect();
        (isolate, lines)
    };
    for name in ["ADMIN_TOKEN", "CHECK_TOKEN"] {
        let (_, lines) = problems(json!({ name: SHORT_ADMIN }));
        assert!(lines.len() == 1 && lines[0].starts_with(name), "{lines:?}");
        assert!(lines[0].contains("shorter than 22 characters"), "{lines:?}");
        let (_, lines) = problems(json!({ name: LONG_ADMIN }));
        assert!(lines.is_empty(), "{lines:?}");
    }
    // Guesses at the bypass token cannot be counted: they come with any request, and from any number of addresses.
    let limits = |token: &str| json!({"RATE_LIMIT_BYPASS_TOKEN": token, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"});
    for (token, statuses) in [
        (SHORT_ADMIN, [200, 429, 429]),
        (LONG_ADMIN, [200, 200, 200]),
    ] {
        let (isolate, lines) = problems(limits(token));
        assert_eq!(lines.len(), usize::from(token == SHORT_ADMIN), "{lines:?}");
        assert_eq!(isolate.limiter.compiled.has_errors(), token == SHORT_ADMIN);
        let bypassing = by(EGRESS, "/").with("x-ratelimit-bypass", token);
        assert_eq!(isolate.statuses(&bypassing, 3), statuses);
    }
}

#[test]
fn a_right_token_authorizes_in_every_spelling_of_bearer_credentials() {
    for admin in [SHORT_ADMIN, LONG_ADMIN] {
        let isolate = isolate(admin, SHORT_CHECK);
        for spelling in SPELLINGS.repeat(2) {
            let spelled = |token| spelling.replace("TOKEN", token);
            let request = |path| by(EGRESS, path).with("authorization", &spelled(admin));
            assert_eq!(
                isolate.admin_answer(&request("/_limiter/policies")).status,
                200,
                "{spelling:?}"
            );
            let health = json_of(&isolate.admin_answer(&request("/_limiter/health")));
            assert!(health.get("errors").is_some(), "{spelling:?}");
            let body = r#"{"policy":"general","identifier":"alice"}"#;
            let check = by(EGRESS, "/_limiter/check").sending("POST", body);
            let checked = isolate.admin_answer(&check.with("authorization", &spelled(SHORT_CHECK)));
            assert_eq!(checked.status, 200, "{spelling:?}");
        }
        let recorder = isolate.limiter.journal.recorder();
        assert!(recorder.is_empty(), "no right token is recorded as refused");
    }
}

#[test]
fn a_wrong_token_counts_in_every_spelling_of_bearer_credentials() {
    for path in ["/_limiter/policies", "/_limiter/health"] {
        for spelling in SPELLINGS {
            let isolate = isolate(LONG_ADMIN, LONG_CHECK);
            let guess = by(EGRESS, path).with("authorization", &spelling.replace("TOKEN", "guess"));
            let statuses = isolate.statuses(&guess, 6);
            let first = if path.ends_with("health") { 200 } else { 401 };
            assert_eq!(statuses[..5], [first; 5], "{spelling:?}");
            assert_eq!(statuses[5], 429, "{spelling:?}");
        }
    }
    // A right token does not authorize if it is not the header's only credential.
    for several in [
        "Bearer x, Bearer TOKEN",
        "Bearer TOKEN, Bearer x",
        "Bearer TOKEN, Bearer TOKEN",
        "Bearer TOKEN TOKEN",
        "Basic x, Bearer TOKEN",
        "Bearer \"TOKEN\"",
        "Bearer\u{a0}TOKEN",
        "Bearer TOKEN\u{a0}",
        "Basic TOKEN",
        "TOKEN",
    ] {
        let isolate = isolate(LONG_ADMIN, LONG_CHECK);
        let given = several.replace("TOKEN", LONG_ADMIN);
        let request = by(EGRESS, "/_limiter/policies").with("authorization", &given);
        assert_eq!(isolate.admin_answer(&request).status, 401, "{several:?}");
    }
}

#[test]
fn only_a_bearer_token_counts_as_a_guess() {
    for given in NO_GUESSES {
        let isolate = isolate(SHORT_ADMIN, SHORT_CHECK);
        let with = |path, given| by(EGRESS, path).with("authorization", given);
        for _ in 0..20 {
            let health = isolate.admin_answer(&with("/_limiter/health", given));
            assert_eq!(health.status, 200, "{given}");
            assert_eq!(json_of(&health).get("errors"), None, "{given}");
            let closed = isolate.admin_answer(&with("/_limiter/policies", given));
            assert_eq!(closed.status, 401, "{given}");
            let check = with("/_limiter/check", given).sending("POST", "{}");
            assert_eq!(isolate.admin_answer(&check).status, 401, "{given}");
        }
        assert!(isolate.limiter.journal.recorder().is_empty(), "{given}");
        assert_eq!(administer(&isolate, SHORT_ADMIN), 200, "{given}");
        assert_eq!(check(&isolate, SHORT_CHECK), 200, "{given}");
        // After wrong guesses from the address, public health still answers such a header.
        for _ in 0..6 {
            administer(&isolate, "guess");
        }
        let health = isolate.admin_answer(&with("/_limiter/health", given));
        assert_eq!(health.status, 200, "{given}");
    }
}

#[test]
fn a_challenge_says_whether_the_request_had_a_token() {
    let isolate = isolate(LONG_ADMIN, LONG_CHECK);
    let challenge = |request: super::TestRequest| {
        let answer = isolate.admin_answer(&request);
        assert_eq!(answer.status, 401);
        header(&answer.headers, "www-authenticate").map(str::to_owned)
    };
    let request = || by(EGRESS, "/_limiter/policies");
    let realm = r#"Bearer realm="edge-limiter""#;
    assert_eq!(challenge(request()).as_deref(), Some(realm));
    for given in NO_GUESSES {
        let none = challenge(request().with("authorization", given));
        assert_eq!(none.as_deref(), Some(realm), "{given}");
    }
    let wrong = challenge(request().with("authorization", "bearer guess"));
    let error = format!(r#"{realm}, error="invalid_token""#);
    assert_eq!(wrong, Some(error));
}
