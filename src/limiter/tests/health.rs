//! `/_limiter/health`: what everybody sees, and what only an operator sees.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Duty, Isolate, TOKEN, TestRequest, by, get, header, json_of};
use crate::error::KeySetError;
use crate::store::conformance::START;

const CALLER: &str = "192.0.2.1";

fn request() -> TestRequest {
    get("http://localhost/_limiter/health")
}

fn health(isolate: &Isolate, authorization: &str) -> Value {
    let answer = isolate.admin_answer(&request().with("authorization", authorization));
    assert_eq!(answer.status, 200);
    json_of(&answer)
}

#[test]
fn public_health_has_four_fields() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    let anonymous = request().without("cf-connecting-ip");
    let answer = isolate.admin_answer(&anonymous);
    assert_eq!(answer.status, 200);
    let mut body = json_of(&answer);
    let version = body.as_object_mut().unwrap().remove("version").unwrap();
    let numbers: Vec<&str> = version.as_str().unwrap().split('.').collect();
    assert_eq!(numbers.len(), 3, "{version}");
    for number in numbers {
        assert!(number.parse::<u32>().is_ok(), "{version}");
    }
    let rest = json!({"status": "ok", "store": "memory", "breaker": null});
    assert_eq!(body, rest);
    assert_eq!(
        isolate.admin_answer(&anonymous.sending("HEAD", "")).status,
        200
    );
}

#[test]
fn health_accepts_only_get_and_head() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = isolate.admin_answer(&request().authorized().sending(method, "x"));
        let allow = header(&answer.headers, "allow");
        assert_eq!((answer.status, allow), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn health_is_neither_counted_nor_limited() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_GENERAL": "1,3600"}));
    assert_eq!(isolate.statuses(&request(), 3), [200; 3]);
    assert_eq!(isolate.statuses(&by(CALLER, "/"), 2), [200, 429]);
    assert_eq!(isolate.answer(&request()).status, 200);
}

#[test]
fn only_the_operators_token_shows_the_details() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_TYPO": "1,1"}));
    let detailed = health(&isolate, &format!("Bearer {TOKEN}"));
    assert_eq!(detailed["errors"], json!([]));
    let warnings = detailed["warnings"].as_array().unwrap().iter();
    let variables: Vec<&Value> = warnings.map(|warning| &warning["variable"]).collect();
    assert_eq!(variables, ["RATE_LIMIT_TYPO"]);
    let shorter = &TOKEN[..TOKEN.len() - 1];
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        &format!("Bearer {shorter}"),
        &format!("Bearer {TOKEN}x"),
        &format!("Basic {TOKEN}"),
        TOKEN,
        "Bearer undefined",
        "Bearer \u{ff}",
    ] {
        let public_body = health(&isolate, authorization);
        let mut fields: Vec<&String> = public_body.as_object().unwrap().keys().collect();
        fields.sort();
        let public = ["breaker", "status", "store", "version"];
        assert_eq!(fields, public, "{authorization}");
    }
}

#[test]
fn without_a_configured_token_nobody_sees_the_details() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_AUTH": "garbage"}));
    for authorization in ["Bearer ", "Bearer undefined", "Bearer null"] {
        let health = health(&isolate, authorization);
        assert_eq!(health["status"], "misconfigured");
        assert_eq!(health.get("errors"), None, "{authorization}");
    }
}

#[test]
fn health_is_degraded_and_logs_once_while_the_key_set_cannot_be_fetched() {
    let vars = json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_POLICIES": {"general": {"authenticated": 1000}},
        "RATE_LIMIT_JWT_JWKS_URL": "https://id.example/keys?planted", "RATE_LIMIT_JWT_ISSUER": "i",
        "RATE_LIMIT_JWT_AUDIENCE": "a",
    });
    let isolate = Isolate::new(&vars);
    let bearer = format!("Bearer {TOKEN}");
    let public = |isolate: &Isolate| health(isolate, "")["status"].clone();
    let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let expires = START.as_millis() / 1000 + 9000;
    let claims = json!({"sub": "alice", "iss": "i", "aud": "a", "exp": expires});
    let signed = format!("{}.{}", encode(json!({"alg": "ES256"})), encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([7; 64]));
    let of_a_user = by(CALLER, "/").with("authorization", &format!("bearer {token}"));
    assert_eq!(
        public(&isolate),
        "ok",
        "no request has needed the key set yet"
    );

    isolate.effects.publish(Err(KeySetError::Status(302)));
    for _ in 0..3 {
        assert_eq!(isolate.answer(&of_a_user).status, 200);
        isolate.run_duties();
    }
    let body = health(&isolate, "");
    assert_eq!(body["status"], "degraded");
    assert_eq!(body.as_object().unwrap().len(), 4, "{body}");
    let why = "the provider answered with HTTP status 302, and redirects are not followed";
    let known = json!({"since": START.as_millis(), "why": why});
    assert_eq!(health(&isolate, &bearer)["key_set"], known);
    let lines = isolate.effects.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(why) && !lines[0].contains("planted"),
        "{lines:?}"
    );

    // Ten seconds later, any request begins the next attempt, and no request waits for it.
    isolate.effects.set(10_000);
    let x = URL_SAFE_NO_PAD.encode([7; 32]);
    let key = json!({"kty": "EC", "crv": "P-256", "x": x, "y": x});
    isolate
        .effects
        .publish(Ok(json!({"keys": [key]}).to_string()));
    isolate.answer(&by("192.0.2.9", "/"));
    assert!(isolate.run_duties().contains(&Duty::FetchKeySet));
    assert_eq!(public(&isolate), "ok");
    assert_eq!(health(&isolate, &bearer).get("key_set"), None);
    let again = "Fetching the key set of RATE_LIMIT_JWT_JWKS_URL works again";
    assert_eq!(isolate.effects.lines(), [again]);
}
