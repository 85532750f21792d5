//! `RATE_LIMIT_JWT_*`: how users are proven.

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

/// As long as the hash (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

/// `asked`: whether a policy asks who the user is.
pub(super) fn read(vars: &Vars, asked: bool, problems: &mut Problems) -> UserSettings {
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
    match (asked, settings.prove_anybody()) {
        (true, false) => problems.error(
            "RATE_LIMIT_POLICIES",
            "`authenticated` and `key = \"user\"` need RATE_LIMIT_JWT_SECRET, RATE_LIMIT_JWT_KEYS or \
             RATE_LIMIT_JWT_JWKS_URL; every caller is limited by address until it is mended",
        ),
        (false, true) => problems.warn(
            "RATE_LIMIT_JWT_*",
            "is not in use: no policy has `authenticated` or `key = \"user\"`",
        ),
        _ => {}
    }
    if settings.prove_anybody() {
        let unchecked = [
            (ISSUER, &settings.expected.issuer, "whoever issued it"),
            (AUDIENCE, &settings.expected.audience, "whomever it is for"),
        ];
        for (name, expected, accepted) in unchecked {
            if expected.is_none() {
                problems.warn(
                    name,
                    format!("is not set: a token is taken {accepted}, if its signature verifies"),
                );
            }
        }
    }
    settings
}

/// Any of which a claim must be. Where none can be read, no token proves anybody.
fn expected(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Vec<String>> {
    let given = vars.list(name, None, problems)?.unwrap_or_default();
    let mut read = given.clone();
    read.retain(|text| !text.is_empty() && text != UNUSABLE);
    if read.is_empty() || read.len() < given.len() {
        problems.error(
            name,
            "must be a text or a list of texts; what is none is left out, and where nothing is left, no \
             token proves anybody",
        );
    }
    Some(read)
}

fn hmac_key(vars: &Vars, problems: &mut Problems) -> Option<JwtKey> {
    let secret = secret(vars, SECRET, problems)?;
    if secret.reveal().len() < SHORTEST_SECRET {
        problems.error(SECRET, "must have at least 32 characters; it is not in use");
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
            "must be a JWK Set, `{\"keys\": [...]}`, or its JSON text; it is not in use",
        );
        return Vec::new();
    };
    let mut keys = Vec::with_capacity(read.len());
    for (place, key) in read.into_iter().enumerate() {
        let rule = match key {
            Ok(key) => {
                keys.push(key);
                continue;
            }
            Err(UnusableKey::Private) => {
                "is or has a private key, which nobody needs here: replace it"
            }
            Err(UnusableKey::Unsupported) => {
                "must be a public RSA key of 2048 to 8192 bits (RS256) or one over P-256 (ES256)"
            }
        };
        problems.error(
            format!("{KEYS}[{place}]"),
            format!("{rule}; it is left out"),
        );
    }
    keys
}

fn jwks_url(vars: &Vars, problems: &mut Problems) -> Option<String> {
    let url = vars::http_url(&vars.text(URL)?).filter(|url| {
        let safe = !url.plain || url.loopback;
        safe && !url.has_credentials
    });
    if url.is_none() {
        problems.error(
            URL,
            "must be an https URL without user and password; it is not in use",
        );
    }
    url.map(|url| url.text)
}

fn cookie(vars: &Vars, problems: &mut Problems) -> Option<String> {
    let name = vars.text(COOKIE)?;
    if !is_header_name(&name) {
        problems.error(COOKIE, "must be a cookie's name; no cookie is looked at");
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
    fn a_users_limit_is_its_own_or_the_policys() {
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
    fn what_cannot_be_told_raises_no_limit() {
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
    fn a_users_bucket_has_its_own_burst() {
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
            "a bad burst is strict for both"
        );
        assert_eq!(bucket(json!(5)), [(30, 5), (100, 5)]);
    }

    #[test]
    fn what_proves_nobody_is_named_and_never_shown() {
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
            // What is no list of texts lets no token in that the rest does not.
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
    fn what_is_set_for_nothing_or_not_checked_is_a_warning() {
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
            "less than for the others"
        );
    }
}
