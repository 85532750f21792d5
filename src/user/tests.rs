//! Tests of tokens, keys and proofs. The fake platform "signs" with a hash of key and text, so that each
//! signature fits one key and one text. Real signatures are tested in the Workers runtime, in
//! `tests/requests/users.test.mjs`.

use std::cell::{Cell, RefCell};

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::algorithm::SignatureAlgorithm;
use super::key::JwtKey;
use super::token::{ExpectedClaims, Jwt, MAX_TOKEN_BYTES};
use super::{Authenticate, UserSettings, Users};
use crate::client::CallerKey;
use crate::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::seed::Seed;
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

const SECRET: &str = "a-secret-of-at-least-32-characters";
const HOUR: u64 = 3600;

fn at(seconds: u32) -> Timestamp {
    START + Millis::from_secs(seconds)
}

fn now_seconds() -> u64 {
    START.as_millis() / 1000
}

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A fake signature of `length` bytes.
fn signature(material: &str, signed: &str, length: usize) -> Vec<u8> {
    let digest = Sha256::digest(format!("{material} {signed}"));
    digest.iter().copied().cycle().take(length).collect()
}

fn jwk(id: &str) -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": id, "x": encode([7; 32]), "y": encode(Sha256::digest(id))})
}

fn rsa(id: &str) -> Value {
    let modulus: Vec<u8> = Sha256::digest(id)
        .iter()
        .copied()
        .cycle()
        .take(256)
        .collect();
    json!({"kty": "RSA", "kid": id, "n": encode(modulus), "e": "AQAB"})
}

fn signed_by(key: &JwtKey, header: &Value, claims: &Value) -> String {
    let signed = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let length = match key.algorithm {
        SignatureAlgorithm::Hs256 => 32,
        SignatureAlgorithm::Rs256 => 256,
        SignatureAlgorithm::Es256 => 64,
    };
    let signature = signature(key.material(), &signed, length);
    format!("{signed}.{}", encode(signature))
}

fn claims() -> Value {
    json!({"sub": "alice", "iss": "https://id.example", "aud": "shop", "exp": now_seconds() + HOUR})
}

/// `claims()` with one claim replaced by `value`, or removed if `value` is `null`.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => claims.as_object_mut().unwrap().remove(name),
        value => claims
            .as_object_mut()
            .unwrap()
            .insert(name.to_owned(), value),
    };
    claims
}

fn hs256(claims: &Value) -> String {
    signed_by(
        &JwtKey::secret(SECRET),
        &json!({"alg": "HS256", "typ": "JWT"}),
        claims,
    )
}

fn es256(id: &str) -> String {
    let key = JwtKey::public(&jwk(id)).unwrap();
    signed_by(&key, &json!({"alg": "ES256", "kid": id}), &claims())
}

#[derive(Default)]
struct Fake {
    document: RefCell<Option<String>>,
    /// The error of a fetch, in place of a document.
    error: Cell<Option<KeySetError>>,
    lines: RefCell<Vec<String>>,
    fetches: Cell<u32>,
    verifications: Cell<u32>,
    /// Whether the provider never answers.
    is_slow: Cell<bool>,
    outlives: Cell<bool>,
}

impl Effects for &Fake {
    async fn verify(&self, key: VerificationKey<'_>, signed: &str, given: &[u8]) -> bool {
        self.verifications.set(self.verifications.get() + 1);
        signature(key.material, signed, given.len()) == given
    }

    async fn fetch_key_set(&self, url: &str) -> Result<String, KeySetError> {
        assert_eq!(url, "https://id.example/keys");
        self.fetches.set(self.fetches.get() + 1);
        if self.is_slow.get() {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.error.get() {
            return Err(error);
        }
        let document = self.document.borrow().clone();
        document.ok_or(KeySetError::Unreachable)
    }

    fn now(&self) -> Timestamp {
        START
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }

    async fn call_redis(&self, _: String, _: Millis) -> Result<RedisResponse, StoreError> {
        Err(StoreError::Unreachable)
    }

    fn outlive_client(&self) {
        self.outlives.set(true);
    }

    async fn sleep(&self, _: Millis) {}
}

impl Fake {
    fn publishes(&self, keys: &[Value]) {
        *self.document.borrow_mut() = Some(json!({"keys": keys}).to_string());
    }
}

fn settings() -> UserSettings {
    UserSettings {
        keys: vec![JwtKey::secret(SECRET), JwtKey::public(&rsa("own")).unwrap()],
        jwks_url: None,
        expected: ExpectedClaims {
            issuer: Some(vec!["https://id.example".to_owned()]),
            audience: Some(vec!["shop".to_owned()]),
        },
        cookie: None,
    }
}

fn provider() -> UserSettings {
    UserSettings {
        keys: Vec::new(),
        jwks_url: Some("https://id.example/keys".to_owned()),
        ..settings()
    }
}

fn users(settings: UserSettings, fake: &Fake) -> Users<&Fake> {
    Users::new(settings, fake, 100, Seed::fixed())
}

fn ask(users: &Users<&Fake>, token: &str, now: Timestamp) -> Option<CallerKey> {
    let header = |name: &str| (name == "authorization").then(|| format!("Bearer {token}"));
    users.user(header, now).now_or_never().unwrap()
}

fn is_proven(token: &str) -> bool {
    let fake = Fake::default();
    let user = ask(&users(settings(), &fake), token, START);
    assert!(
        user.is_none() || user == Some(CallerKey::user("alice")),
        "{user:?}"
    );
    user.is_some()
}

#[test]
fn a_valid_token_proves_its_user() {
    assert!(is_proven(&hs256(&claims())));
    let key = JwtKey::public(&rsa("own")).unwrap();
    for header in [
        json!({"alg": "RS256"}),
        json!({"alg": "RS256", "kid": "own", "typ": "at+JWT", "x": [1]}),
    ] {
        assert!(is_proven(&signed_by(&key, &header, &claims())));
    }
    for claims in [
        but("aud", json!(["other", "shop"])),
        but("nbf", json!(now_seconds())),
        but("nbf", json!(now_seconds() + 9)),
        but("exp", json!(now_seconds() as f64 + 0.5)),
        but("exp", json!(253_402_300_799_u64)),
        but("iat", json!("whatever")),
    ] {
        assert!(is_proven(&hs256(&claims)), "{claims}");
    }
}

#[test]
fn a_token_needs_one_of_the_expected_issuers_and_one_of_the_expected_audiences() {
    let proves = |issuers: &[&str], audiences: &[&str], claims: &Value| {
        let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        let expected = ExpectedClaims {
            issuer: owned(issuers),
            audience: owned(audiences),
        };
        let settings = UserSettings {
            expected,
            ..settings()
        };
        let fake = Fake::default();
        ask(&users(settings, &fake), &hs256(claims), START).is_some()
    };
    let id = "https://id.example";
    let other = "https://other.example";
    assert!(proves(&[other, id], &["app", "shop"], &claims()));
    assert!(proves(&[other, id], &["shop"], &but("iss", json!(other))));
    assert!(proves(
        &[id],
        &["app", "shop"],
        &but("aud", json!(["x", "app"]))
    ));
    assert!(!proves(&[other], &["shop"], &claims()));
    assert!(!proves(&[id], &["app", "sho"], &claims()));
    assert!(!proves(&[], &["shop"], &claims()));
    assert!(!proves(&[id], &[], &claims()));
    assert!(!proves(&[id], &[], &but("aud", json!([]))));
}

#[test]
fn a_token_type_is_accepted_with_or_without_the_prefix_application() {
    let typed = |kind: &Value| {
        is_proven(&signed_by(
            &JwtKey::secret(SECRET),
            &json!({"alg": "HS256", "typ": kind}),
            &claims(),
        ))
    };
    // `application/` may be omitted (RFC 7515, 4.1.9), and the case does not matter (RFC 2045).
    for kind in [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/jwt",
        "application/at+jwt",
        "Application/JWT",
        "APPLICATION/at+JWT",
    ] {
        assert!(typed(&json!(kind)), "{kind}");
    }
    // A token of another kind proves nobody (RFC 8725, 3.11).
    for kind in [
        "",
        "application/",
        "application",
        "/jwt",
        "text/jwt",
        "application/application/jwt",
        "application/jwt/",
        "application/ jwt",
        "jwt ",
        "logout+jwt",
        "application/logout+jwt",
        "application/dpop+jwt",
        "secevent+jwt",
        "JOSE",
        "applicatio\u{212a}/jwt",
    ] {
        assert!(!typed(&json!(kind)), "{kind}");
    }
}

#[test]
fn a_token_with_invalid_claims_proves_nobody() {
    for claims in [
        but("exp", Value::Null),
        but("exp", json!(now_seconds())),
        but("exp", json!(now_seconds() - 1)),
        but("exp", json!((now_seconds() + HOUR).to_string())),
        but("exp", json!(-1)),
        but("exp", json!(1e300)),
        but("exp", json!(now_seconds() * 1000)),
        but("exp", json!([now_seconds() + HOUR])),
        but("nbf", json!(now_seconds() + 11)),
        but("nbf", json!("0")),
        but("nbf", json!(1e300)),
        but("iss", Value::Null),
        but("iss", json!("https://id.example/")),
        but("iss", json!(["https://id.example"])),
        but("aud", Value::Null),
        but("aud", json!("shops")),
        but("aud", json!(["sho", "p"])),
        but("aud", json!({"shop": "shop"})),
        but("aud", json!([["shop"]])),
        but("sub", Value::Null),
        but("sub", json!("")),
        but("sub", json!(7)),
        but("sub", json!("a".repeat(1025))),
        json!([claims()]),
        json!("alice"),
    ] {
        assert!(!is_proven(&hs256(&claims)), "{claims}");
    }
}

#[test]
fn the_key_determines_the_algorithm_and_a_token_cannot_choose_another() {
    let unsigned = |alg: &str| {
        format!(
            "{}.{}.",
            encode(json!({"alg": alg}).to_string()),
            encode(claims().to_string())
        )
    };
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        assert!(!is_proven(&unsigned(alg)), "{alg}");
        assert!(!is_proven(&(unsigned(alg) + &encode([0; 32]))), "{alg}");
    }
    // Forged with the public key's text as an HMAC secret, in several spellings, all of which are public.
    let public = JwtKey::public(&rsa("own")).unwrap();
    for secret in [
        public.material(),
        &rsa("own").to_string(),
        rsa("own")["n"].as_str().unwrap(),
        "",
    ] {
        let forged = signed_by(
            &JwtKey::secret(secret),
            &json!({"alg": "HS256", "kid": "own"}),
            &claims(),
        );
        assert!(!is_proven(&forged), "{secret}");
    }
    for alg in [
        "hs256", "HS512", "RS512", "PS256", "ES384", "EdDSA", "HS256 ", "dir",
    ] {
        let forged = signed_by(&JwtKey::secret(SECRET), &json!({"alg": alg}), &claims());
        assert!(!is_proven(&forged), "{alg}");
    }
    for header in [
        json!({"alg": "RS256", "kid": "own"}),
        json!({"alg": "ES256"}),
        json!({}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "typ": "JWE"}),
        json!({"alg": "HS256", "typ": 7}),
        json!({"alg": "HS256", "kid": 7}),
        json!(["HS256"]),
    ] {
        assert!(
            !is_proven(&signed_by(&JwtKey::secret(SECRET), &header, &claims())),
            "{header}"
        );
    }
}

#[test]
fn a_malformed_or_huge_token_proves_nobody() {
    let good = hs256(&claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}")
    };
    let padded = URL_SAFE.encode(claims().to_string() + " ");
    let mut malformed = vec![
        String::new(),
        ".".repeat(2),
        ".".repeat(5000),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{}", &signature[1..]),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{padded}.{signature}"),
        format!("{header} .{payload}.{signature}"),
        good.replace('.', "\n."),
        format!("{}.{payload}.{signature}", encode(b"\xff\xfe")),
        format!("{}.{payload}.{signature}", encode("{")),
        format!("{}.{payload}.{signature}", encode("[".repeat(3000))),
        format!("{header}.{}.{signature}", encode("{\"a\":".repeat(900))),
    ];
    malformed.push(hs256(&but("filler", json!("x".repeat(MAX_TOKEN_BYTES)))));
    for token in malformed {
        assert!(!is_proven(&token), "{}", &token[..token.len().min(200)]);
    }
    assert!(is_proven(&hs256(&but("filler", json!("x".repeat(5000))))));
    // The last character has spare bits. Ignoring them would allow several spellings of one token.
    let last = good.chars().last().unwrap();
    for other in ('A'..='Z').filter(|other| *other != last) {
        assert!(!is_proven(&format!("{}{other}", &good[..good.len() - 1])));
    }
}

#[test]
fn the_last_claim_counts_if_a_name_occurs_twice() {
    let header = encode(json!({"alg": "HS256"}).to_string());
    let twice = |first: &str, second: &str| {
        let rest = r#""iss":"https://id.example","aud":"shop""#;
        let exp = now_seconds() + HOUR;
        let claims = format!(r#"{{"sub":"{first}","sub":"{second}",{rest},"exp":{exp}}}"#);
        let signed = format!("{header}.{}", encode(claims));
        let signature = signature(SECRET, &signed, 32);
        format!("{signed}.{}", encode(signature))
    };
    let fake = Fake::default();
    let users = users(settings(), &fake);
    assert_eq!(
        ask(&users, &twice("bob", "alice"), START),
        Some(CallerKey::user("alice"))
    );
}

#[test]
fn a_proof_is_remembered_until_the_token_expires_and_no_longer() {
    let fake = Fake::default();
    let users = users(settings(), &fake);
    let token = hs256(&but("exp", json!(now_seconds() + 100)));
    for seconds in [0, 1, 50, 99] {
        assert!(ask(&users, &token, at(seconds)).is_some());
    }
    assert_eq!(fake.verifications.get(), 1);
    assert_eq!(ask(&users, &token, at(100)), None);
    let forged = format!(
        "{}{}",
        &hs256(&claims())[..hs256(&claims()).len() - 43],
        encode([0; 32])
    );
    for seconds in [0, 1, 59] {
        assert_eq!(ask(&users, &forged, at(seconds)), None);
    }
    assert_eq!(
        fake.verifications.get(),
        2,
        "an invalid signature is remembered as well"
    );
    let other = Users::new(
        UserSettings {
            keys: vec![JwtKey::secret("another-secret-of-at-least-32-chars")],
            ..settings()
        },
        &fake,
        100,
        Seed::fixed(),
    );
    assert_eq!(
        ask(&other, &token, START),
        None,
        "a token that one configuration accepts is rejected by another"
    );
}

#[test]
fn the_number_of_remembered_tokens_is_bounded() {
    let fake = Fake::default();
    let users = users(settings(), &fake);
    for number in 0..1000 {
        assert!(ask(&users, &hs256(&but("jti", json!(number))), START).is_some());
        assert!(users.proofs.borrow().len() <= 100);
    }
    let hot = hs256(&claims());
    let before = fake.verifications.get();
    for number in 0..500 {
        ask(&users, &hs256(&but("jti", json!(number))), START);
        ask(&users, &hot, START);
    }
    assert_eq!(
        fake.verifications.get() - before,
        501,
        "a token in use stays remembered"
    );
}

#[test]
fn keys_are_fetched_when_first_needed_and_again_when_they_are_old() {
    let fake = Fake::default();
    fake.publishes(&[json!("garbage"), jwk("a"), json!({"kty": "oct", "k": "AA"})]);
    let users = users(provider(), &fake);
    assert!(
        !users.should_fetch(START),
        "no keys are fetched before a token needs them"
    );
    assert!(ask(&users, &es256("a"), START).is_some());
    let refetch = |seconds| {
        let due = users.should_fetch(at(seconds));
        if due {
            users.fetch(at(seconds)).now_or_never().unwrap();
        }
        due
    };
    assert_eq!(
        [1, 599, 600, 601, 1199, 1200].map(refetch),
        [false, false, true, false, false, true]
    );
    assert_eq!(fake.fetches.get(), 3);
    *fake.document.borrow_mut() = None;
    assert!(refetch(1800));
    assert!(
        !refetch(1809),
        "after a failure no request fetches for some seconds"
    );
    assert!(
        ask(&users, &es256("a"), at(1805)).is_some(),
        "the old keys stay in use"
    );
    assert_eq!(
        [1810, 1829, 1830].map(refetch),
        [true, false, true],
        "each failure doubles the wait"
    );
    fake.publishes(&[jwk("b")]);
    assert!(refetch(1900));
    assert_eq!(
        ask(&users, &es256("a"), at(1901)),
        None,
        "a token of a withdrawn key proves nobody"
    );
    assert!(ask(&users, &es256("b"), at(1901)).is_some());
}

#[test]
fn an_unknown_key_causes_one_fetch_a_minute_at_most() {
    let fake = Fake::default();
    fake.publishes(&[jwk("a")]);
    let users = users(provider(), &fake);
    for second in 0..60 {
        for forged in 0..20 {
            assert_eq!(
                ask(&users, &es256(&format!("x{second}-{forged}")), at(second)),
                None
            );
        }
    }
    assert_eq!(fake.fetches.get(), 1);
    fake.publishes(&[jwk("a"), jwk("new")]);
    assert_eq!(ask(&users, &es256("new"), at(59)), None);
    assert!(
        ask(&users, &es256("new"), at(60)).is_some(),
        "the first request after a minute fetches again"
    );
    assert_eq!(fake.fetches.get(), 2);
}

#[test]
fn a_provider_that_fails_is_asked_at_growing_intervals() {
    let fake = Fake::default();
    let users = users(provider(), &fake);
    for second in 0..300 {
        assert_eq!(ask(&users, &es256("a"), at(second)), None);
    }
    // At 0, 10, 30, 70 and 150 seconds.
    assert_eq!(fake.fetches.get(), 5);
    for garbage in ["", "null", "[]", "{}", "{\"keys\":{}}", "<html>"] {
        *fake.document.borrow_mut() = Some(garbage.to_owned());
        assert_eq!(ask(&users, &es256("a"), at(100_000)), None);
    }
}

#[test]
fn every_failure_of_the_key_set_is_logged_once_and_reported_until_it_ends() {
    let document = |text: &str| (None, text.to_owned());
    let fails = |error| (Some(error), String::new());
    let private =
        json!({"kty": "EC", "crv": "P-256", "x": encode([7; 32]), "y": encode([8; 32]), "d": "AQ"});
    let cases = [
        (
            fails(KeySetError::Unreachable),
            "the provider cannot be reached",
        ),
        (
            fails(KeySetError::Timeout),
            "the key set did not arrive within 2 s",
        ),
        (
            fails(KeySetError::Status(500)),
            "the provider answered with HTTP status 500",
        ),
        (
            fails(KeySetError::Status(204)),
            "the provider answered with HTTP status 204",
        ),
        (
            fails(KeySetError::Status(302)),
            "the provider answered with HTTP status 302, and redirects are not followed",
        ),
        (
            fails(KeySetError::TooLong),
            "the key set is longer than 64 KiB",
        ),
        (fails(KeySetError::NotText), "the key set is not UTF-8"),
        (document("<html>planted"), "the key set is not JSON"),
        (document(""), "the key set is not JSON"),
        (
            document(&jwk("planted").to_string()),
            "the key set is not a JWK Set, which has an array `keys`",
        ),
        (
            document(&json!({"keys": {"planted": 1}}).to_string()),
            "the key set is not a JWK Set, which has an array `keys`",
        ),
        (
            document(&json!({"keys": []}).to_string()),
            "the key set has no public key for signatures by RS256 or ES256",
        ),
        (
            document(&json!({"keys": [private, {"kty": "OKP", "kid": "planted"}]}).to_string()),
            "the key set has no public key for signatures by RS256 or ES256",
        ),
    ];
    let fake = Fake::default();
    let users = users(provider(), &fake);
    let token = signed_by(
        &JwtKey::public(&jwk("a")).unwrap(),
        &json!({"alg": "ES256", "kid": "a"}),
        &but("exp", json!(now_seconds() + 24 * HOUR)),
    );
    let fetch = |seconds| {
        assert!(users.should_fetch(at(seconds)), "{seconds}");
        users.fetch(at(seconds)).now_or_never().unwrap();
    };
    fake.publishes(&[jwk("a")]);
    assert!(ask(&users, &token, START).is_some());
    assert_eq!((users.key_set_failure(), fake.lines.take()), (None, vec![]));
    let mut start = 1000;
    for ((error, text), why) in cases {
        fake.error.set(error);
        *fake.document.borrow_mut() = Some(text);
        fetch(start);
        let expected = Some((at(start), why.to_owned()));
        assert_eq!(users.key_set_failure(), expected);
        let lines = fake.lines.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = format!("Fetching the key set of RATE_LIMIT_JWT_JWKS_URL failed: {why}; ");
        assert!(lines[0].starts_with(&line), "{lines:?}");
        assert!(!lines[0].contains("planted") && !lines[0].contains("id.example"));
        // A key set without usable keys withdraws the earlier keys. No other failure does.
        let keys_stay = !why.starts_with("the key set has no public key");
        let is_proven = ask(&users, &token, at(start + 1)).is_some();
        assert_eq!(is_proven, keys_stay, "{why}");
        fetch(start + 10);
        let failure = users.key_set_failure();
        assert_eq!((failure, fake.lines.take()), (expected, vec![]));
        // Another reason is logged on another line, and belongs to the same failure.
        fake.error.set(Some(KeySetError::Status(503)));
        fetch(start + 30);
        let failure = users.key_set_failure();
        assert_eq!(failure.map(|(since, _)| since), Some(at(start)));
        assert_eq!(fake.lines.take().len(), 1);
        fake.error.set(None);
        fake.publishes(&[jwk("a")]);
        fetch(start + 70);
        assert_eq!(users.key_set_failure(), None);
        let again = "Fetching the key set of RATE_LIMIT_JWT_JWKS_URL works again";
        assert_eq!(fake.lines.take(), [again]);
        assert!(
            !users.should_fetch(at(start + 71)),
            "fresh keys are used for ten minutes"
        );
        start += 1000;
    }
}

#[test]
fn a_provider_that_has_never_answered_is_asked_again_in_the_background() {
    let fake = Fake::default();
    let users = users(provider(), &fake);
    assert_eq!(ask(&users, &es256("a"), START), None);
    let due = |seconds| users.should_fetch(at(seconds));
    assert_eq!([due(1), due(9), due(10)], [false, false, true]);
    fake.publishes(&[jwk("a")]);
    users.fetch(at(10)).now_or_never().unwrap();
    assert_eq!(users.key_set_failure(), None);
    assert!(ask(&users, &es256("a"), at(11)).is_some());
    assert_eq!(fake.fetches.get(), 2, "no request waited for the keys");
}

#[test]
fn a_byte_order_mark_before_the_key_set_is_ignored() {
    let fake = Fake::default();
    let document = format!("\u{feff}{}", json!({"keys": [jwk("a")]}));
    *fake.document.borrow_mut() = Some(document);
    let users = users(provider(), &fake);
    assert!(ask(&users, &es256("a"), START).is_some());
    assert_eq!((users.key_set_failure(), fake.lines.take()), (None, vec![]));
}

#[test]
fn one_request_fetches_the_keys_and_the_others_continue_unproven() {
    let fake = Fake::default();
    fake.is_slow.set(true);
    let users = users(provider(), &fake);
    let header = |name: &str| (name == "authorization").then(|| format!("Bearer {}", es256("a")));
    let mut first = Box::pin(users.user(header, START));
    assert!(
        first.as_mut().now_or_never().is_none(),
        "the request waits for the keys"
    );
    assert!(fake.outlives.take(), "the client cannot stop the fetch");
    assert_eq!(users.user(header, START).now_or_never(), Some(None));
    drop(first);
    assert_eq!(users.user(header, at(4)).now_or_never(), Some(None));
    assert!(!fake.outlives.take());
    assert!(
        users.user(header, at(5)).now_or_never().is_none(),
        "a cancelled fetch delays the next one for five seconds only"
    );
}

#[test]
fn a_token_is_read_from_the_header_or_else_from_the_cookie() {
    let fake = Fake::default();
    let by_cookie = UserSettings {
        cookie: Some("session".to_owned()),
        ..settings()
    };
    let users = users(by_cookie, &fake);
    let token = hs256(&claims());
    let asked = |authorization: Option<String>, cookie: Option<String>| {
        let header = |name: &str| match name {
            "authorization" => authorization.clone(),
            "cookie" => cookie.clone(),
            _ => None,
        };
        users.user(header, START).now_or_never().unwrap().is_some()
    };
    for header in [
        format!("Bearer {token}"),
        format!("bearer  {token} "),
        format!("BEARER {token}"),
        format!("Bearer\t{token}\t"),
    ] {
        assert!(asked(Some(header), None));
    }
    for header in [
        token.clone(),
        format!("Basic {token}"),
        "Bearer ".to_owned(),
        format!("Bearer {token}, {token}"),
    ] {
        assert!(!asked(Some(header), None));
    }
    let cookie = |text: String| Some(text);
    assert!(asked(None, cookie(format!("a=b; session={token}; c"))));
    assert!(asked(
        Some("Basic x".to_owned()),
        cookie(format!("session={token}"))
    ));
    assert!(!asked(None, cookie(format!("xsession={token}; session"))));
    // A value may be quoted (RFC 6265, 4.1.1), and a platform joins several lines by commas.
    let old = hs256(&but("exp", json!(now_seconds())));
    for found in [
        format!("session=\"{token}\""),
        format!("a=\"b\"; session = \"{token}\" ; c"),
        format!("a=b, session={token}"),
        format!("session={token}, a=b"),
        format!("a=b; c=\"d, e\", session=\"{token}\", f"),
        format!("session={token},session=\"{token}\""),
        // Of two cookies with one name, such as one for a path and one for the site, either may be valid.
        format!("session={old}; session={token}"),
        format!("session={token}; session={old}"),
        format!("session=tossed; session={token}"),
        format!("session=, session={token}"),
    ] {
        assert!(asked(None, cookie(found.clone())), "{found}");
    }
    for missed in [
        format!("session=\"{token}"),
        format!("session={token}\""),
        format!("session=\"\"{token}\"\""),
        format!("Session={token}"),
        format!("a=session={token}"),
        format!("session=a; session=b; session={token}"),
        "session=\"".to_owned(),
        "session=\"\"".to_owned(),
    ] {
        assert!(!asked(None, cookie(missed.clone())), "{missed}");
    }
    assert!(
        !asked(
            Some("Bearer x".to_owned()),
            cookie(format!("session={token}"))
        ),
        "a token in the header takes precedence over the cookie"
    );
}

proptest! {
    #[test]
    fn an_arbitrary_text_proves_nobody(text in "\\PC{0,200}", dots in 0_usize..4) {
        let text = text + &".".repeat(dots);
        prop_assert!(!is_proven(&text));
    }

    #[test]
    fn a_token_with_one_changed_character_proves_nobody(place in any::<prop::sample::Index>(), byte in 33_u8..127) {
        let good = hs256(&claims());
        let place = place.index(good.len());
        let mut changed = good.clone().into_bytes();
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(!is_proven(&changed), "{}", changed);
    }

    #[test]
    fn parsing_arbitrary_parts_never_panics(header in "\\PC{0,60}", claims in "\\PC{0,60}", signature in proptest::collection::vec(any::<u8>(), 0..80)) {
        let text = format!("{}.{}.{}", encode(header), encode(claims), encode(signature));
        if let Some(token) = Jwt::parse(&text) {
            prop_assert!(text.starts_with(token.signed));
        }
    }
}
