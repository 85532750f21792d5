//! `/_limiter/health`: who learns what.

use serde_json::{Value, json};

use super::{Asked, Isolate, TOKEN, by, get, header, json_of};

const CALLER: &str = "192.0.2.1";

fn asked() -> Asked {
    get("http://localhost/_limiter/health")
}

fn health(isolate: &Isolate, authorization: &str) -> Value {
    let answer = isolate.plane(&asked().with("authorization", authorization));
    assert_eq!(answer.status, 200);
    json_of(&answer)
}

#[test]
fn health_is_public_and_short() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    let anonymous = asked().without("cf-connecting-ip");
    let answer = isolate.plane(&anonymous);
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
    assert_eq!(isolate.plane(&anonymous.sending("HEAD", "")).status, 200);
}

#[test]
fn health_takes_get_and_head_alone() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN}));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = isolate.plane(&asked().authorized().sending(method, "x"));
        let allow = header(&answer.headers, "allow");
        assert_eq!((answer.status, allow), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn health_is_neither_counted_nor_limited() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_GENERAL": "1,3600"}));
    assert_eq!(isolate.statuses(&asked(), 3), [200; 3]);
    assert_eq!(isolate.statuses(&by(CALLER, "/"), 2), [200, 429]);
    assert_eq!(isolate.answer(&asked()).status, 200);
}

#[test]
fn only_the_token_opens_the_details() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_TYPO": "1,1"}));
    let open = health(&isolate, &format!("Bearer {TOKEN}"));
    assert_eq!(open["errors"], json!([]));
    let warnings = open["warnings"].as_array().unwrap().iter();
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
        let shut = health(&isolate, authorization);
        let mut fields: Vec<&String> = shut.as_object().unwrap().keys().collect();
        fields.sort();
        let public = ["breaker", "status", "store", "version"];
        assert_eq!(fields, public, "{authorization}");
    }
}

#[test]
fn without_a_token_in_the_configuration_nothing_opens_the_details() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_AUTH": "garbage"}));
    for authorization in ["Bearer ", "Bearer undefined", "Bearer null"] {
        let health = health(&isolate, authorization);
        assert_eq!(health["status"], "misconfigured");
        assert_eq!(health.get("errors"), None, "{authorization}");
    }
}
