//! Calls of the control plane with the token and any content: every answer is a documented one in
//! JSON, and Redis sees only keys in the limiter's own form.
//!
//! The byte 0x1e separates calls. The first line of a call is its method, a space, its path
//! below `/_limiter` and its query. The rest is its body.

#![no_main]

use edge_limiter::admin::{AdminRequest, MAX_BODY_BYTES, RequestBody};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use control_plane::{TOKEN, TestControlPlane};

#[path = "../../tests/fixtures/control_plane.rs"]
mod control_plane;

fuzz_target!(|data: &[u8]| {
    let plane = TestControlPlane::new();
    for call in data.split(|byte| *byte == b'\x1e') {
        ask(&plane, call);
    }
});

fn ask(plane: &TestControlPlane, call: &[u8]) {
    let (head, body) = match call.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&call[..end], &call[end + 1..]),
        None => (call, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    let (method, path) = head.split_once(' ').unwrap_or(("GET", &head));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let body = match String::from_utf8(body.to_vec()) {
        _ if body.len() > MAX_BODY_BYTES => RequestBody::TooLong,
        Ok(text) => RequestBody::Text(text),
        Err(_) => RequestBody::NotText,
    };
    let request = AdminRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        authorization: Some(format!("Bearer {TOKEN}")),
        accept: None,
        client_ip: Some("198.18.0.1".to_owned()),
        worker_zone: None,
        body,
    };
    let before = plane.redis_calls();
    let answer = plane.ask(&request);
    if answer.is_file || answer.status == 308 {
        // A file of the page, or the redirect to the page.
        assert_eq!(
            plane.redis_calls(),
            before,
            "the page needs no call of Redis"
        );
        return;
    }
    let refused = matches!(answer.status, 405 | 413);
    assert!(
        !refused || plane.redis_calls() == before,
        "a refused call must not call Redis"
    );
    assert!(
        matches!(answer.status, 200 | 400 | 404 | 405 | 409 | 413),
        "{}",
        answer.status
    );
    assert!(!answer.body.contains(TOKEN) || head.contains(TOKEN));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        answer.status == 200,
        body["error"].is_null() || body["message"].is_null()
    );
    for (_, value) in &answer.headers {
        assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
}
