//! Anything at all as calls of the control plane by somebody with the token: a documented answer in
//! JSON, and no key that is not in a form of our own.
//!
//! Calls are parted by the byte 0x1e. The first line of a call is its method, a space, its path
//! beneath `/_limiter` and its query; the rest is its body.

#![no_main]

use edge_limiter::admin::{AdminRequest, Body, MAX_BODY_BYTES};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use control_plane::{Desk, TOKEN};

#[path = "../../tests/fixtures/control_plane.rs"]
mod control_plane;

fuzz_target!(|data: &[u8]| {
    let desk = Desk::new();
    for call in data.split(|byte| *byte == b'\x1e') {
        ask(&desk, call);
    }
});

fn ask(desk: &Desk, call: &[u8]) {
    let (head, body) = match call.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&call[..end], &call[end + 1..]),
        None => (call, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    let (method, path) = head.split_once(' ').unwrap_or(("GET", &head));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let body = match String::from_utf8(body.to_vec()) {
        _ if body.len() > MAX_BODY_BYTES => Body::TooLong,
        Ok(text) => Body::Text(text),
        Err(_) => Body::NotText,
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
    let before = desk.calls();
    let answer = desk.ask(&request);
    if answer.is_file || answer.status == 308 {
        // The page, or the way there.
        assert_eq!(desk.calls(), before, "Redis was called");
        return;
    }
    let refused = matches!(answer.status, 405 | 413);
    assert!(!refused || desk.calls() == before, "Redis was called");
    assert!(
        matches!(answer.status, 200 | 400 | 404 | 405 | 409 | 413),
        "{}",
        answer.status
    );
    assert!(!answer.body.contains(TOKEN) || head.contains(TOKEN));
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        answer.status == 200,
        told["error"].is_null() || told["message"].is_null()
    );
    for (_, value) in &answer.headers {
        assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
}
