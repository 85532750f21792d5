//! Steps as they are encoded, and read as JavaScript reads them.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{
    EncodedStep, FAILED, NOT_TEXT, StepKind, TIMED_OUT, TOO_LONG, answer, fields, operation,
    redirected,
};
use crate::admin::{ControlPlaneCall, RequestBody};
use crate::driver::{RequestFields, TaskOutcome};
use crate::effects::RedisResponse;
use crate::error::{KeySetError, StoreError};
use crate::gate::Exempt;
use crate::limiter::{Forward, ForwardTarget, LimitVerdict};
use crate::response::Response;
use crate::tasks::{Effect, EffectResult, TaskId, TaskStep};
use crate::time::{Millis, Timestamp};

fn encoded(step: TaskStep<TaskOutcome>) -> (StepKind, EncodedStep) {
    // The buffer contains an earlier step, which is overwritten.
    let mut encoded = EncodedStep {
        numbers: [9; 3],
        text: "an earlier step".to_owned(),
    };
    (encoded.write(step), encoded)
}

fn asks(effect: Effect) -> (StepKind, EncodedStep) {
    encoded(TaskStep::Asks(TaskId::from_number(77), effect))
}

#[test]
fn each_effect_is_encoded_as_numbers_and_a_text() {
    let (kind, redis) = asks(Effect::Redis {
        setup: 3,
        body: "[]".to_owned(),
        timeout: Millis::new(1500),
    });
    assert_eq!(
        (kind, redis.numbers, redis.text.as_str()),
        (StepKind::Redis, [77, 3, 1500], "[]")
    );
    let (kind, sleep) = asks(Effect::Sleep(Millis::new(u64::MAX)));
    assert_eq!(
        (kind, sleep.numbers, sleep.text.as_str()),
        (StepKind::Sleep, [77, u32::MAX, 0], "")
    );
    let (kind, verify) = asks(Effect::Verify {
        algorithm: "HS256",
        material: "a secret".to_owned(),
        signed: "a.b".to_owned(),
        signature: vec![0, 255],
    });
    assert_eq!(
        (kind, verify.text.as_str()),
        (StepKind::Verify, "HS256\nAP8=\na.b\na secret")
    );
    let (kind, keys) = asks(Effect::KeySet {
        url: "https://id.example".to_owned(),
    });
    assert_eq!(
        (kind, keys.text.as_str()),
        (StepKind::KeySet, "https://id.example")
    );
    let (kind, body) = asks(Effect::Body { most: 16_384 });
    assert_eq!((kind, body.numbers), (StepKind::Body, [77, 16_384, 0]));
    let (kind, done) = encoded(TaskStep::Done(TaskOutcome::Done));
    assert_eq!(
        (kind, done.numbers, done.text.as_str()),
        (StepKind::Done, [0; 3], "")
    );
}

#[test]
fn a_forward_is_encoded_as_a_url_names_and_four_lists() {
    let forward = Forward {
        rewritten_url: None,
        base_length: 19,
        target: ForwardTarget::Url("https://app.example/a?b".to_owned()),
        set_on_request: vec![("x-a", "1".to_owned()), ("x-b", String::new())],
        removed_from_request: vec!["host"],
        set_on_response: vec![("X-RateLimit-Limit", "5".to_owned())],
        removed_from_response: Vec::new(),
        exposed: "X-RateLimit-Limit, Retry-After",
        sample: None,
    };
    let outcome = TaskOutcome::Forward(Box::new(forward), Some(3));
    let (kind, forward) = encoded(TaskStep::Done(outcome));
    assert_eq!((kind, forward.numbers), (StepKind::Forward, [0, 0, 3]));
    assert_eq!(
        forward.text,
        "https://app.example\n/a?b\nX-RateLimit-Limit, Retry-After\nx-a\n1\nx-b\n\n\nhost\n\nX-RateLimit-Limit\n5\n\n\n"
    );
}

#[test]
fn a_forward_to_a_binding_or_the_route_has_no_origin_url() {
    for (target, number) in [(ForwardTarget::Binding, 1), (ForwardTarget::Route, 2)] {
        let forward = Forward {
            target,
            base_length: 0,
            rewritten_url: Some("https://shop.example/a".to_owned()),
            set_on_request: Vec::new(),
            removed_from_request: Vec::new(),
            set_on_response: Vec::new(),
            removed_from_response: Vec::new(),
            exposed: "Retry-After",
            sample: None,
        };
        let outcome = TaskOutcome::Forward(Box::new(forward), None);
        let (_, forward) = encoded(TaskStep::Done(outcome));
        assert_eq!(forward.numbers, [0, number, 0]);
        assert_eq!(
            forward.text,
            "\nhttps://shop.example/a\nRetry-After\n\n\n\n\n"
        );
    }
}

fn verdict(verdict: LimitVerdict) -> ([u32; 3], String) {
    let (kind, encoded) = encoded(TaskStep::Done(TaskOutcome::Verdict(Box::new(verdict))));
    assert_eq!(kind, StepKind::Verdict);
    (encoded.numbers, encoded.text)
}

#[test]
fn a_verdict_is_encoded_as_numbers_names_and_headers() {
    let admitted = verdict(LimitVerdict {
        policy: Some("auth".to_owned()),
        limit: Some(30),
        remaining: Some(0),
        reset: Some(Timestamp::from_millis(1_764_000_000_123)),
        degraded: true,
        set_on_response: vec![("X-RateLimit-Limit", "30".to_owned())],
        removed_from_response: vec!["RateLimit", "RateLimit-Policy"],
        exposed: "X-RateLimit-Limit, Retry-After",
        ..LimitVerdict::default()
    });
    let text = "auth\n30\n0\n1764000000123\n\n\nX-RateLimit-Limit, Retry-After\nRateLimit\nRateLimit-Policy\n\nX-RateLimit-Limit\n30\n";
    let head = u32::try_from(text.len()).unwrap();
    assert_eq!(admitted, ([5, 200, head], text.to_owned()));

    let exempt = verdict(LimitVerdict {
        exempt: Some(Exempt::Bypassed),
        ..LimitVerdict::default()
    });
    assert_eq!(exempt, ([1, 200, 14], "\n\n\n\n\nbypass\n\n\n".to_owned()));

    let answer = |is_file, body: &str| Response {
        status: 429,
        headers: vec![("Retry-After", "7".to_owned())],
        body: body.to_owned(),
        is_file,
    };
    let denied = verdict(LimitVerdict {
        answer: Some(answer(false, "{\"a\":\"\n\u{1f600}\"}")),
        retry_after: Some(7),
        blocked: true,
        ..LimitVerdict::default()
    });
    let head = "\n\n\n\n7\n\n\n\nRetry-After\n7\n";
    assert_eq!(denied.0, [2, 429, u32::try_from(head.len()).unwrap()]);
    assert_eq!(denied.1, format!("{head}{{\"a\":\"\n\u{1f600}\"}}"));
    let file = verdict(LimitVerdict {
        answer: Some(answer(true, "page.js")),
        ..LimitVerdict::default()
    });
    assert_eq!(file.0[0], 8);
}

#[test]
fn an_operation_is_read_from_two_parts_and_the_rest() {
    let read = operation("PUT\n/blocked/192.0.2.1?x\n{\n}");
    assert_eq!(
        read,
        ControlPlaneCall {
            method: "PUT".to_owned(),
            path_and_query: "/blocked/192.0.2.1?x".to_owned(),
            body: "{\n}".to_owned(),
        }
    );
    assert_eq!(operation(""), ControlPlaneCall::default());
}

#[test]
fn location_and_refresh_that_lead_to_the_origin_are_rewritten() {
    let read = |name, value| {
        let text = format!("{name}\nhttps://app.example\nhttps://shop.example/a?b\n{value}");
        redirected(&text)
    };
    let own = "https://app.example/x";
    let public = Some("https://shop.example/x".to_owned());
    assert_eq!(read("location", own), public);
    assert_eq!(read("location", "0; url=https://app.example/x"), None);
    let refresh = Some("0; url=https://shop.example/x".to_owned());
    assert_eq!(read("refresh", "0; url=https://app.example/x"), refresh);
    assert_eq!(redirected("location"), None);
}

proptest! {
    /// A host cuts the text at a length in UTF-16 units, the units of JavaScript's strings.
    #[test]
    fn the_length_of_the_head_cuts_an_answer_into_head_and_body(value in "[^\n]{0,20}", body in any::<String>(), is_file: bool) {
        let mut encoded = EncodedStep::default();
        let response = Response { status: 429, headers: vec![("X-A", value.clone())], body: body.clone(), is_file };
        prop_assert_eq!(encoded.answer(&response), StepKind::Answer);
        let [is_encoded_as_file, status, head] = encoded.numbers;
        prop_assert_eq!((is_encoded_as_file, status), (u32::from(is_file), 429));
        let units: Vec<u16> = encoded.text.encode_utf16().collect();
        let (head, rest) = units.split_at(head as usize);
        prop_assert_eq!(String::from_utf16(head).unwrap(), format!("X-A\n{value}\n"));
        prop_assert_eq!(String::from_utf16(rest).unwrap(), body);
    }
}

#[test]
fn absent_fields_are_empty() {
    let whole = fields("GET\nhttps://a.io/b\n192.0.2.1\nx, y");
    assert_eq!(
        whole,
        RequestFields {
            method: "GET".to_owned(),
            url: "https://a.io/b".to_owned(),
            address: "192.0.2.1".to_owned(),
            loop_guard: "x, y".to_owned(),
        }
    );
    assert_eq!(fields("GET\nhttps://a.io/b\n\n").address, "");
    assert_eq!(fields(""), RequestFields::default());
}

#[test]
fn the_result_of_an_effect_is_read_by_its_kind_and_status() {
    let read = |kind: StepKind, status, text| answer(kind as u32, status, Cow::Borrowed(text));
    let reply = |status, body: &str| {
        let body = body.to_owned();
        EffectResult::Redis(Ok(RedisResponse { status, body }))
    };
    assert_eq!(read(StepKind::Redis, 200, "{}"), reply(200, "{}"));
    assert_eq!(read(StepKind::Redis, 503, ""), reply(503, ""));
    assert_eq!(
        read(StepKind::Redis, FAILED, ""),
        EffectResult::Redis(Err(StoreError::Unreachable))
    );
    assert_eq!(
        read(StepKind::Redis, TIMED_OUT, ""),
        EffectResult::Redis(Err(StoreError::Timeout))
    );
    assert_eq!(read(StepKind::Sleep, 200, ""), EffectResult::Slept);
    assert_eq!(
        read(StepKind::Verify, 200, ""),
        EffectResult::Verified(true)
    );
    assert_eq!(
        read(StepKind::Verify, FAILED, ""),
        EffectResult::Verified(false)
    );
    assert_eq!(
        read(StepKind::KeySet, 200, "k"),
        EffectResult::KeySet(Ok("k".to_owned()))
    );
    for (status, error) in [
        (FAILED, KeySetError::Unreachable),
        (TIMED_OUT, KeySetError::Timeout),
        (NOT_TEXT, KeySetError::NotText),
        (TOO_LONG, KeySetError::TooLong),
        (204, KeySetError::Status(204)),
        (302, KeySetError::Status(302)),
        (500, KeySetError::Status(500)),
    ] {
        let failed = EffectResult::KeySet(Err(error));
        assert_eq!(read(StepKind::KeySet, status, "k"), failed);
    }
    assert_eq!(
        read(StepKind::Body, 200, "b"),
        EffectResult::Body(RequestBody::Text("b".to_owned()))
    );
    for (status, body) in [
        (TOO_LONG, RequestBody::TooLong),
        (NOT_TEXT, RequestBody::NotText),
        (FAILED, RequestBody::NotText),
    ] {
        assert_eq!(read(StepKind::Body, status, ""), EffectResult::Body(body));
    }
}

#[test]
fn replies_are_read_in_redis_own_protocol_over_several_calls() {
    let mut encoded = EncodedStep::default();
    assert_eq!(encoded.replies(b"0 2\n+OK\r\n*2\r\n:7\r\n$3\r\na\nb"), 0);
    assert_eq!(
        (encoded.numbers, encoded.text.as_str()),
        ([0, 13, 9], "13 1 1\n[7,")
    );
    assert_eq!(encoded.replies(b"13 1 1\n$3\r\na\nb\r\n"), 200);
    assert_eq!(
        (encoded.numbers, encoded.text.as_str()),
        ([0; 3], "\"a\\nb\"]")
    );
    assert_eq!(encoded.replies(b"0 1\n-NOAUTH required\r\n"), 400);
    assert_eq!(encoded.text, "NOAUTH required");
    for input in [&b"0 1\nHTTP"[..], b"", b"\xff\n:1\r\n", b"0 1"] {
        let status = encoded.replies(input);
        assert!(matches!(status, 502) || input == b"0 1", "{status}");
    }
}
