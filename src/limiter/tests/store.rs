//! Requests while the shared store fails, and after it answers again.

use serde_json::json;

use super::super::Duty;
use super::{Isolate, TestRequest, get, header, upstash};
use crate::effects::RedisResponse;
use crate::store::StoreError;

#[test]
fn a_policys_on_store_failure_decides_while_the_store_fails() {
    for (rule, status) in [("memory", 200), ("allow", 200), ("deny", 503)] {
        let vars = upstash(&json!({"general": {"on_store_failure": rule}}));
        let isolate = Isolate::new(&vars);
        let answer = isolate.answer(&get("http://localhost/"));
        assert_eq!(answer.status, status, "{rule}");
        let store = header(&answer.headers, "X-RateLimit-Store");
        assert_eq!(store, (status == 200).then_some("memory"), "{rule}");
        if status == 503 {
            assert_eq!(header(&answer.headers, "Retry-After"), Some("1"));
            assert!(answer.body.contains("rate_limit_unavailable"));
        }
    }
}

#[test]
fn an_open_breaker_sets_retry_after_and_health_names_the_cause() {
    let isolate = Isolate::new(&upstash(&json!({"general": {"on_store_failure": "deny"}})));
    isolate.effects.reply(Ok(RedisResponse {
        status: 401,
        body: String::new(),
    }));
    assert_eq!(isolate.answer(&get("http://localhost/")).status, 503);
    let calls = isolate.effects.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let answer = isolate.answer(&get("http://localhost/"));
    assert_eq!(
        (answer.status, header(&answer.headers, "Retry-After")),
        (503, Some("103"))
    );
    assert!(
        isolate.effects.calls().is_empty(),
        "Redis is not called while the breaker is open"
    );
    let health = isolate.admin_json("health");
    assert_eq!(
        (&health["status"], &health["breaker"]),
        (&json!("degraded"), &json!("open"))
    );
    let why = StoreError::Unauthorized.to_string();
    assert_eq!(health["failing"]["why"], json!(why));
    assert!(isolate.effects.lines()[0].contains(&why));
}

#[test]
fn health_says_in_which_form_scripts_are_sent() {
    let isolate = Isolate::new(&upstash(&json!({})));
    assert_eq!(isolate.admin_json("health")["script"], "flagged");
    for error in ["NOSCRIPT", "ERR Unexpected flag in script shebang: x"] {
        let body = json!({"error": error}).to_string();
        isolate
            .effects
            .reply(Ok(RedisResponse { status: 400, body }));
    }
    isolate.answer(&get("http://localhost/"));
    assert_eq!(isolate.admin_json("health")["script"], "plain");
    let public = isolate.answer(&get("http://localhost/_limiter/health"));
    assert!(!public.body.contains("script"), "{}", public.body);
}

#[test]
fn a_duty_reconciles_the_backlog_once_the_store_answers() {
    let isolate = Isolate::new(&upstash(&json!({})));
    let down = || {
        Ok(RedisResponse {
            status: 400,
            body: "{\"error\":\"OOM\"}".to_owned(),
        })
    };
    isolate.effects.reply(down());
    assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    assert!(
        isolate.run_duties().is_empty(),
        "no duty is due while the store fails"
    );
    let (now, reset) = (1_764_000_000_000_u64, 1_764_000_061_000_u64);
    let answer = |left: u32| {
        let quota = json!([
            1,
            left,
            0,
            reset,
            now,
            0,
            0,
            "sw:1000:1764000000000:1764000000:0=1"
        ]);
        Ok(RedisResponse {
            status: 200,
            body: json!({"result": [null, null, quota]}).to_string(),
        })
    };
    isolate.effects.calls();
    isolate.effects.reply(answer(4));
    let other = TestRequest {
        headers: vec![("cf-connecting-ip", "192.0.2.9".to_owned())],
        ..get("http://localhost/")
    };
    assert_eq!(isolate.answer(&other).status, 200);
    isolate.effects.reply(answer(4));
    assert_eq!(isolate.run_duties(), [Duty::Reconcile]);
    let [(decision, _), (reconciled, _)] = isolate.effects.calls().try_into().unwrap();
    assert!(
        decision.contains("general:192.0.2.9") && !decision.contains("absorbed:"),
        "{decision}"
    );
    assert!(
        reconciled.contains("general:192.0.2.1") && reconciled.contains("absorbed:"),
        "{reconciled}"
    );
    assert!(isolate.run_duties().is_empty());
}
