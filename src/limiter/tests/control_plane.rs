//! Paths of the control plane.

use serde_json::json;

use super::{Asked, Isolate, TOKEN, get, header};

#[test]
fn only_paths_beneath_the_root_reach_the_control_plane() {
    let isolate = Isolate::new(
        &json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off"}),
    );
    assert_eq!(
        isolate
            .answer(&get("http://localhost/_limiter/policies"))
            .status,
        401
    );
    assert_eq!(isolate.control("policies")["enabled"], json!(true));
    assert_eq!(isolate.control("health?x")["status"], json!("ok"));
    let put = Asked {
        method: "PUT",
        body: "{\"seconds\":60}",
        ..get("http://localhost/_limiter/blocked/198.51.100.7")
    };
    let put = put.with("authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(isolate.answer(&put).status, 200);
    let blocked = Asked {
        headers: vec![("cf-connecting-ip", "198.51.100.7".to_owned())],
        ..get("http://localhost/")
    };
    assert_eq!(isolate.answer(&blocked).status, 429);
    let elsewhere = isolate.answer(&get("http://localhost/_limiters"));
    assert_eq!(
        header(&elsewhere.headers, "X-RateLimit-Remaining"),
        Some("0")
    );
}
