//! Reads `RATE_LIMIT_JWT_*`: how users are proven.

use serde_json::Value;

use super::vars::{self, Vars, is_header_name};
use super::{Problems, secret};
use crate::json::UNUSABLE;
use crate::user::UserSettings;
use crate::user::key::{JwtKey, UnusableKey};
use crate::user::key_set;
use crate::user::token::ExpectedClaims;

const SECRET: &str = "RATE_LIMIT_JWT_SECRET";
const KEYS: &str = "RATE_LIMIT_JWT_KEYS";
const URL: &str = "RATE_LIMIT_JWT_JWKS_URL";
const ISSUER: &str = "RATE_LIMIT_JWT_ISSUER";
const AUDIENCE: &str = "RATE_LIMIT_JWT_AUDIENCE";
const COOKIE: &str = "RATE_LIMIT_JWT_COOKIE";

/// The shortest secret, in bytes: as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Reads how users are proven. `has_user_quotas` says whether any policy limits users apart from addresses.
pub(super) fn read(vars: &Vars, has_user_quotas: bool, problems: &mut Problems) -> UserSettings {
    let settings = UserSettings {
        keys: hmac_key(vars, problems)
            .into_iter()
            .chain(public_keys(vars, problems))
            .collect(),
        jwks_url: jwks_url(vars, problems),
        expected: ExpectedClaims {
            issuer: expected(vars, ISSUER, problems),
            audience: expected(vars, AUDIENCE, problems),
        },
        cookie: cookie(vars, problems),
    };
    match (has_user_quotas, settings.prove_anybody()) {
        (true, false) => problems.error(
            "RATE_LIMIT_POLICIES",
            "`authenticated` and `key = \"user\"` need RATE_LIMIT_JWT_SECRET, RATE_LIMIT_JWT_KEYS or \
             RATE_LIMIT_JWT_JWKS_URL; until one of them is valid, proven users have no separate limit",
        ),
        (false, true) => problems.warn(
            "RATE_LIMIT_JWT_*",
            "is not in use: no policy has `authenticated` or `key = \"user\"`; set one of them, or remove these variables",
        ),
        _ => {}
    }
    if settings.prove_anybody() {
        let unchecked = [
            (ISSUER, &settings.expected.issuer, "of any issuer", "iss"),
            (
                AUDIENCE,
                &settings.expected.audience,
                "for any audience",
                "aud",
            ),
        ];
        for (name, expected, accepted, claim) in unchecked {
            if expected.is_none() {
                problems.warn(
                    name,
                    format!(
                        "is not set: a token {accepted} is accepted, if its signature verifies; set what its `{claim}` must be"
                    ),
                );
            }
        }
    }
    settings
}

/// The values that a claim may have. `None` if any is accepted; an empty list accepts no token.
fn expected(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Vec<String>> {
    let entries = vars.list(name, None, problems)?.unwrap_or_default();
    let mut values = entries.clone();
    values.retain(|text| !text.is_empty() && text != UNUSABLE);
    if values.is_empty() || values.len() < entries.len() {
        problems.error(
            name,
            "must be a text or a list of texts; until then, other entries are ignored, and if none remains, no token is \
             accepted",
        );
    }
    Some(values)
}

fn hmac_key(vars: &Vars, problems: &mut Problems) -> Option<JwtKey> {
    let secret = secret(vars, SECRET, problems)?;
    if secret.reveal().len() < MIN_SECRET_BYTES {
        problems.error(
            SECRET,
            "must have at least 32 characters; until then, it is ignored",
        );
        return None;
    }
    Some(JwtKey::secret(secret.reveal()))
}

fn public_keys(vars: &Vars, problems: &mut Problems) -> Vec<JwtKey> {
    let Some(document) = vars.table(KEYS, problems) else {
        return Vec::new();
    };
    let Some(read) = document
        .ok()
        .as_ref()
        .and_then(|document: &Value| key_set::read(document))
    else {
        problems.error(
            KEYS,
            "must be a JWK Set, `{\"keys\": [...]}`, or its JSON text; until then, it is ignored",
        );
        return Vec::new();
    };
    let mut keys = Vec::with_capacity(read.len());
    for (index, key) in read.into_iter().enumerate() {
        let rule = match key {
            Ok(key) => {
                keys.push(key);
                continue;
            }
            Err(UnusableKey::Private) => {
                "contains a private or secret key, which verifying does not need: replace that key, and set a public one"
            }
            Err(UnusableKey::Unsupported) => {
                "must be a public RSA key of 2048 to 8192 bits (RS256) or a public key over P-256 (ES256)"
            }
        };
        problems.error(
            format!("{KEYS}[{index}]"),
            format!("{rule}; until then, the key is ignored"),
        );
    }
    keys
}

fn jwks_url(vars: &Vars, problems: &mut Problems) -> Option<String> {
    let url = vars::http_url(&vars.text(URL)?).filter(|url| {
        let is_safe = !url.is_plaintext || url.is_loopback;
        is_safe && !url.has_credentials
    });
    if url.is_none() {
        problems.error(
            URL,
            "must be an https URL without user and password; until then, it is ignored",
        );
    }
    url.map(|url| url.text)
}

fn cookie(vars: &Vars, problems: &mut Problems) -> Option<String> {
    let name = vars.text(COOKIE)?;
    if !is_header_name(&name) {
        problems.error(
            COOKIE,
            "must be the name of a cookie; until then, no cookie is read",
        );
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::{Compiled, Config, Severity, Vars};

    const SECRET: &str = "a-secret-of-at-least-32-characters";

    fn compile(vars: &Value) -> Compiled {
        Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
    }

    fn errors(compiled: &Compiled) -> Vec<&str> {
        let problems = compiled.problems.iter();
        problems
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| problem.variable.as_str())
            .collect()
    }

    fn auth(compiled: &Compiled) -> Option<u32> {
        let policies = &compiled.config.policies;
        let auth = policies.iter().find(|policy| policy.name == "auth");
        auth.unwrap().user.map(|quota| quota.limit())
    }

    #[test]
    fn a_user_has_the_authenticated_limit_or_else_the_policys() {
        for (options, limit) in [
            (json!({}), None),
            (json!({"key": "ip"}), None),
            (json!({"key": "user"}), Some(30)),
            (json!({"authenticated": 100}), Some(100)),
            (json!({"key": "user", "authenticated": "100"}), Some(100)),
        ] {
            let vars = json!({
                "RATE_LIMIT_JWT_SECRET": SECRET,
                "RATE_LIMIT_POLICIES": {"auth": options},
            });
            let compiled = compile(&vars);
            assert_eq!(
                (auth(&compiled), errors(&compiled)),
                (limit, vec![]),
                "{vars}"
            );
        }
    }

    #[test]
    fn an_invalid_authenticated_limit_raises_no_limit() {
        for (options, place) in [
            (
                json!({"authenticated": 0}),
                "RATE_LIMIT_POLICIES.auth.authenticated",
            ),
            (
                json!({"authenticated": "many"}),
                "RATE_LIMIT_POLICIES.auth.authenticated",
            ),
            (
                json!({"authenticated": 9, "key": "global"}),
                "RATE_LIMIT_POLICIES.auth.authenticated",
            ),
            (
                json!({"authenticated": 9, "key": "header:x"}),
                "RATE_LIMIT_POLICIES.auth.authenticated",
            ),
            (
                json!({"authenticated": 9, "huh": 1}),
                "RATE_LIMIT_POLICIES.auth",
            ),
        ] {
            let vars = json!({
                "RATE_LIMIT_JWT_SECRET": SECRET,
                "RATE_LIMIT_POLICIES": {"auth": options},
            });
            let compiled = compile(&vars);
            assert_eq!(
                (auth(&compiled), errors(&compiled)),
                (None, vec![place]),
                "{vars}"
            );
        }
        let compiled = compile(&json!({"RATE_LIMIT_POLICIES": {"auth": {"authenticated": 9}}}));
        assert_eq!(
            (auth(&compiled), errors(&compiled)),
            (None, vec!["RATE_LIMIT_POLICIES"])
        );
    }

    #[test]
    fn the_token_bucket_of_a_user_has_the_policys_burst() {
        let bucket = |burst: Value| {
            let options =
                json!({"algorithm": "token-bucket", "authenticated": 100, "burst": burst});
            let vars =
                json!({"RATE_LIMIT_JWT_SECRET": SECRET, "RATE_LIMIT_POLICIES": {"auth": options}});
            let compiled = compile(&vars);
            let policies = compiled.config.policies.into_iter();
            let mut auth = policies.filter(|policy| policy.name == "auth");
            let auth = auth.next().unwrap();
            [auth.quota, auth.user.unwrap()].map(|quota| (quota.limit(), quota.capacity()))
        };
        assert_eq!(
            bucket(Value::Null),
            [(30, 1), (100, 1)],
            "a bad burst is read as 1 for users and for addresses"
        );
        assert_eq!(bucket(json!(5)), [(30, 5), (100, 5)]);
    }

    #[test]
    fn a_key_that_proves_nobody_is_reported_without_its_value() {
        let planted = "planted-planted-planted-planted-planted";
        let rsa = json!({"kty": "RSA", "n": "A".repeat(342), "e": "AQAB"});
        let private = json!({"kty": "RSA", "n": "A".repeat(342), "e": "AQAB", "d": planted});
        for (vars, place) in [
            (
                json!({"RATE_LIMIT_JWT_SECRET": "short-but-planted"}),
                "RATE_LIMIT_JWT_SECRET",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": planted}),
                "RATE_LIMIT_JWT_KEYS",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": {"keys": planted}}),
                "RATE_LIMIT_JWT_KEYS",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": {"keys": [rsa, planted]}}),
                "RATE_LIMIT_JWT_KEYS[1]",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": {"keys": [private]}}),
                "RATE_LIMIT_JWT_KEYS[0]",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": {"keys": [{"kty": "oct", "k": planted}]}}),
                "RATE_LIMIT_JWT_KEYS[0]",
            ),
            (
                json!({"RATE_LIMIT_JWT_KEYS": {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}}),
                "RATE_LIMIT_JWT_KEYS[0]",
            ),
            (
                json!({"RATE_LIMIT_JWT_JWKS_URL": "http://planted.example/keys"}),
                "RATE_LIMIT_JWT_JWKS_URL",
            ),
            (
                json!({"RATE_LIMIT_JWT_JWKS_URL": "https://planted@example.com/keys"}),
                "RATE_LIMIT_JWT_JWKS_URL",
            ),
            (
                json!({"RATE_LIMIT_JWT_JWKS_URL": "planted"}),
                "RATE_LIMIT_JWT_JWKS_URL",
            ),
            (
                json!({"RATE_LIMIT_JWT_COOKIE": "planted; x"}),
                "RATE_LIMIT_JWT_COOKIE",
            ),
        ] {
            let compiled = compile(&vars);
            assert_eq!(errors(&compiled), [place], "{vars}");
            let shown = format!("{:?}{:?}", compiled.problems, compiled.config.users);
            assert!(!shown.contains("planted"), "{shown}");
        }
    }

    #[test]
    fn an_issuer_and_an_audience_may_be_lists() {
        for name in ["RATE_LIMIT_JWT_ISSUER", "RATE_LIMIT_JWT_AUDIENCE"] {
            let read = |value: &Value| {
                let compiled = compile(&json!({name: value}));
                let named = errors(&compiled)
                    .into_iter()
                    .map(str::to_owned)
                    .collect::<Vec<_>>();
                for problem in &compiled.problems {
                    assert!(!problem.rule.contains("shop"), "{problem}");
                }
                let expected = compiled.config.users.expected;
                let both = [expected.issuer, expected.audience];
                (both.into_iter().flatten().next(), named)
            };
            let texts =
                |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
            for (value, wanted) in [
                (json!("shop"), texts(&["shop"])),
                (json!(" shop, app "), texts(&["shop, app"])),
                (json!(["shop", " app "]), texts(&["shop", "app"])),
                (json!(r#"["shop","app"]"#), texts(&["shop", "app"])),
                (json!(""), None),
            ] {
                assert_eq!(read(&value), (wanted, vec![]), "{value}");
            }
            // Entries that are not text are ignored, and let no further token in.
            for (value, wanted) in [
                (json!(["shop", 7]), texts(&["shop"])),
                (json!(["shop", ""]), texts(&["shop"])),
                (json!(["shop", ["app"]]), texts(&["shop"])),
                (json!([]), texts(&[])),
                (json!(true), texts(&[])),
                (json!(7), texts(&[])),
                (json!({"shop": "shop"}), texts(&[])),
                (json!("[\"shop\""), texts(&[])),
            ] {
                assert_eq!(read(&value), (wanted, vec![name.to_owned()]), "{value}");
            }
        }
    }

    #[test]
    fn unused_keys_and_unchecked_claims_are_warnings() {
        let warnings = |vars: Value| {
            let compiled = compile(&vars);
            assert!(!compiled.has_errors(), "{:?}", compiled.problems);
            let problems = compiled.problems.into_iter();
            problems.map(|problem| problem.variable).collect::<Vec<_>>()
        };
        let unchecked = ["RATE_LIMIT_JWT_ISSUER", "RATE_LIMIT_JWT_AUDIENCE"];
        let asked = json!({"auth": {"authenticated": 100}});
        assert_eq!(
            warnings(json!({"RATE_LIMIT_JWT_SECRET": SECRET, "RATE_LIMIT_POLICIES": asked})),
            unchecked
        );
        assert_eq!(
            warnings(json!({
                "RATE_LIMIT_JWT_JWKS_URL": "https://id.example/keys", "RATE_LIMIT_JWT_ISSUER": "a",
                "RATE_LIMIT_JWT_AUDIENCE": "b",
            })),
            ["RATE_LIMIT_JWT_*"]
        );
        assert_eq!(
            warnings(json!({
                "RATE_LIMIT_JWT_SECRET": SECRET, "RATE_LIMIT_JWT_ISSUER": "a", "RATE_LIMIT_JWT_AUDIENCE": "b",
                "RATE_LIMIT_POLICIES": {"auth": {"authenticated": 3}},
            })),
            ["RATE_LIMIT_POLICIES.auth.authenticated"],
            "users get a lower limit than callers without a token"
        );
    }
}
