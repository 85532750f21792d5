//! Encodes the steps of a task as numbers and one text, for hosts on the other side of WebAssembly.
//!
//! The host decodes the text once, and cuts it at [lengths](EncodedStep::numbers) in UTF-16 units, which JavaScript counts.
//! In the head of the text, each part ends with a line feed, which no method, URL, header or token can contain.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::admin::{ControlPlaneCall, RequestBody};
use crate::driver::{RequestFields, TaskOutcome};
use crate::effects::RedisResponse;
use crate::error::{KeySetError, StoreError};
use crate::headers::Header;
use crate::limiter::{Forward, ForwardTarget, LimitVerdict};
use crate::redirect;
use crate::redis::resp::{self, Parse};
use crate::response::Response;
use crate::tasks::{Effect, EffectResult, TaskId, TaskStep};
use crate::time::{Millis, Timestamp};

mod redis;

pub use redis::{capabilities, server};

/// What a host has to do next. Each kind says what the three [numbers](EncodedStep::numbers) and the text contain. Unless it
/// says otherwise, the first number is the task's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StepKind {
    /// Do nothing: a duty has ended, or none is due.
    Done = 0,
    /// Send an answer.
    ///
    /// - Numbers: 1 if the rest is the name of a file whose content is the body, otherwise 0; the status; the length of the
    ///   head.
    /// - Head: names and values of headers.
    /// - Rest: the body.
    Answer = 1,
    /// Forward the request.
    ///
    /// - Numbers: 0; the target (0 URL, 1 binding, 2 route); the sample's number, or 0.
    /// - Text, in parts: `ORIGIN_URL` or nothing, the rest of the URL, and the names to expose to pages that may read the
    ///   response. Then come four lists, each ended by an empty part: headers to set on the request, headers to remove from
    ///   it, headers to set on the response, and headers to remove from it.
    Forward = 2,
    /// Post to Redis, then resume.
    ///
    /// - Numbers: the task's; the configuration's; the timeout in ms.
    /// - Text: the body.
    Redis = 3,
    /// Wait, then resume. The second number is the length in ms.
    Sleep = 4,
    /// Verify a signature, then resume. Text: the algorithm, the signature in base64, and the signed text as parts, then
    /// the key as the rest.
    Verify = 5,
    /// Fetch a key set, then resume. Text: the URL.
    KeySet = 6,
    /// Read the request's body, then resume. The second number is the most bytes to read.
    Body = 7,
    /// Return a verdict to the application. A request whose task was dropped, or that comes before any configuration, ends
    /// in `Answer` instead, with the status 503.
    ///
    /// - Numbers: the sum of 1 (allowed), 2 (blocked), 4 (degraded) and 8 (the rest is the name of a file whose content is
    ///   the body); the status; the length of the head.
    /// - Head: policy, limit, remaining, reset in ms, seconds to wait, and why the request is exempt, each empty if absent.
    ///   Then the names to expose, as in `Forward`. Then the headers to remove from the application's response, and an empty
    ///   part. Then names and values of the answer's headers or, without an answer, of the headers to set on the
    ///   application's response.
    /// - Rest: the body of the answer.
    Verdict = 8,
}

/// An encoded step. It may contain a secret.
#[derive(Default)]
pub struct EncodedStep {
    /// Three numbers, as the step's [`StepKind`] says.
    pub numbers: [u32; 3],
    /// The text.
    pub text: String,
}

impl EncodedStep {
    /// Writes `step` in place of what was written before, and returns its kind.
    pub fn write(&mut self, step: TaskStep<TaskOutcome>) -> StepKind {
        self.text.clear();
        self.numbers = [0; 3];
        match step {
            TaskStep::Asks(id, effect) => self.effect(id, effect),
            TaskStep::Done(TaskOutcome::Answer(response)) => self.answer(&response),
            TaskStep::Done(TaskOutcome::Forward(forward, sample)) => self.forward(&forward, sample),
            TaskStep::Done(TaskOutcome::Verdict(verdict)) => self.verdict(&verdict),
            TaskStep::Done(TaskOutcome::Done) | TaskStep::Unknown | TaskStep::Stuck => {
                StepKind::Done
            }
        }
    }

    fn effect(&mut self, id: TaskId, effect: Effect) -> StepKind {
        self.numbers[0] = id.number();
        match effect {
            Effect::Redis {
                setup,
                body,
                timeout,
            } => {
                self.numbers[1] = setup;
                self.numbers[2] = milliseconds(timeout);
                self.text = body;
                StepKind::Redis
            }
            Effect::Sleep(length) => {
                self.numbers[1] = milliseconds(length);
                StepKind::Sleep
            }
            Effect::Verify {
                algorithm,
                material,
                signed,
                signature,
            } => {
                self.part(algorithm);
                self.part(&STANDARD.encode(signature));
                self.part(&signed);
                self.text.push_str(&material);
                StepKind::Verify
            }
            Effect::KeySet { url } => {
                self.text = url;
                StepKind::KeySet
            }
            Effect::Body { most } => {
                self.numbers[1] = u32::try_from(most).unwrap_or(u32::MAX);
                StepKind::Body
            }
        }
    }

    /// Reads replies in Redis's own protocol ([`resp::read`]). `input` is a state, a line feed, and then bytes.
    ///
    /// Returns 200 for a result, 400 for an error, 502 for bytes that are no reply, and 0 if the reply is incomplete. The
    /// text is the result as JSON, or the error. If the reply is incomplete, the text is the next state, a line feed, and
    /// the JSON so far. The second number is how many bytes were read, and the third how many further bytes the next call
    /// needs.
    pub fn replies(&mut self, input: &[u8]) -> u32 {
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let state = str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        self.numbers = [0; 3];
        let (status, text) = match resp::read(state, parts.next().unwrap_or_default()) {
            Parse::Incomplete {
                read,
                needed,
                state,
                json,
            } => {
                let number = |length| u32::try_from(length).unwrap_or(u32::MAX);
                self.numbers = [0, number(read), number(needed)];
                (0, format!("{state}\n{json}"))
            }
            Parse::Result(json) => (200, json),
            Parse::Error(error) => (400, error),
            Parse::Malformed => (502, String::new()),
        };
        self.text = text;
        status
    }

    /// Writes an answer in place of what was written before.
    pub fn answer(&mut self, response: &Response) -> StepKind {
        self.text.clear();
        self.headers(&response.headers);
        self.rest(u32::from(response.is_file), response);
        StepKind::Answer
    }

    fn verdict(&mut self, verdict: &LimitVerdict) -> StepKind {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        for part in [
            verdict.policy.clone(),
            number(verdict.limit.map(u64::from)),
            number(verdict.remaining.map(u64::from)),
            number(verdict.reset.map(Timestamp::as_millis)),
            number(verdict.retry_after),
            verdict.exempt.map(|exempt| exempt.name().to_owned()),
        ] {
            self.part(&part.unwrap_or_default());
        }
        self.part(verdict.exposed);
        self.names(&verdict.removed_from_response);
        self.part("");
        let flags = 2 * u32::from(verdict.blocked) + 4 * u32::from(verdict.degraded);
        match &verdict.answer {
            Some(answer) => {
                self.headers(&answer.headers);
                self.rest(flags + 8 * u32::from(answer.is_file), answer);
            }
            None => {
                self.headers(&verdict.set_on_response);
                self.numbers = [flags + 1, 200, self.length()];
            }
        }
        StepKind::Verdict
    }

    /// Ends the head: writes the numbers, and then the answer's body as the rest.
    fn rest(&mut self, first: u32, response: &Response) {
        self.numbers = [first, u32::from(response.status), self.length()];
        self.text.push_str(&response.body);
    }

    /// The length of the text, in UTF-16 units.
    fn length(&self) -> u32 {
        u32::try_from(self.text.encode_utf16().count()).unwrap_or(u32::MAX)
    }

    fn forward(&mut self, forward: &Forward, sample: Option<u32>) -> StepKind {
        self.numbers[1] = match &forward.target {
            ForwardTarget::Url(url) => {
                let (base, rest) = url
                    .split_at_checked(forward.base_length)
                    .unwrap_or(("", url));
                self.part(base);
                self.text.push_str(rest);
                0
            }
            ForwardTarget::Binding => 1,
            ForwardTarget::Route => 2,
        };
        if self.numbers[1] != 0 {
            self.part("");
        }
        let rewritten = forward.rewritten_url.as_deref();
        self.text.push_str(rewritten.unwrap_or_default());
        self.numbers[2] = sample.unwrap_or_default();
        self.part("");
        self.part(forward.exposed);
        self.headers(&forward.set_on_request);
        self.part("");
        self.names(&forward.removed_from_request);
        self.part("");
        self.headers(&forward.set_on_response);
        self.part("");
        self.names(&forward.removed_from_response);
        self.part("");
        StepKind::Forward
    }

    fn headers(&mut self, headers: &[Header]) {
        for (name, value) in headers {
            self.part(name);
            self.part(value);
        }
    }

    fn names(&mut self, names: &[&str]) {
        for name in names {
            self.part(name);
        }
    }

    fn part(&mut self, part: &str) {
        self.text.push_str(part);
        self.text.push('\n');
    }
}

fn milliseconds(length: Millis) -> u32 {
    u32::try_from(length.get()).unwrap_or(u32::MAX)
}

/// Rewrites a header of the origin's response that leads to `ORIGIN_URL`: `Location` or `Refresh`. `None`: the header leads
/// elsewhere. The parts of `text` are the header's name in lower case, `ORIGIN_URL`, the request's URL, and the header's
/// value.
#[must_use]
pub fn redirected(text: &str) -> Option<String> {
    let mut parts = text.splitn(4, '\n');
    let mut next = || parts.next();
    let (name, base, url, value) = (next()?, next()?, next()?, next()?);
    let to_public = match name {
        "refresh" => redirect::refresh_to_public,
        _ => redirect::to_public,
    };
    to_public(base, url, value)
}

/// Reads a request's fields: method, URL, address, and loop guard, each ended by a line feed.
#[must_use]
pub fn fields(text: &str) -> RequestFields {
    let mut parts = text.split('\n').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    RequestFields {
        method: next(),
        url: next(),
        address: next(),
        loop_guard: next(),
    }
}

/// Reads the application's own call of the control plane: the method, then the path with the query, each ended by a line
/// feed, then the body.
#[must_use]
pub fn operation(text: &str) -> ControlPlaneCall {
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    ControlPlaneCall {
        method: next(),
        path_and_query: next(),
        body: next(),
    }
}

/// In place of a status: the effect took too long.
pub const TIMED_OUT: u32 = 1;
/// In place of a status: the effect failed, or the signature is not valid.
pub const FAILED: u32 = 0;
/// In place of a status: the bytes that were read are no text.
pub const NOT_TEXT: u32 = 2;
/// In place of a status: the bytes that were read are too many.
pub const TOO_LONG: u32 = 3;

/// Reads the result of an effect. `kind` is the number of the [`StepKind`] that asked for it. `status` is an HTTP status
/// (for Redis and a key set), 200 for success, or one of the constants of this module.
#[must_use]
pub fn answer(kind: u32, status: u32, text: Cow<'_, str>) -> EffectResult {
    let succeeded = status == 200;
    if kind == StepKind::Redis as u32 {
        return EffectResult::Redis(match status {
            FAILED => Err(StoreError::Unreachable),
            TIMED_OUT => Err(StoreError::Timeout),
            status => Ok(RedisResponse {
                status: u16::try_from(status).unwrap_or_default(),
                body: text.into_owned(),
            }),
        });
    }
    if kind == StepKind::Verify as u32 {
        return EffectResult::Verified(succeeded);
    }
    if kind == StepKind::KeySet as u32 {
        return EffectResult::KeySet(match status {
            200 => Ok(text.into_owned()),
            FAILED => Err(KeySetError::Unreachable),
            TIMED_OUT => Err(KeySetError::Timeout),
            NOT_TEXT => Err(KeySetError::NotText),
            TOO_LONG => Err(KeySetError::TooLong),
            status => Err(KeySetError::Status(
                u16::try_from(status).unwrap_or_default(),
            )),
        });
    }
    if kind == StepKind::Body as u32 {
        return EffectResult::Body(match status {
            TOO_LONG => RequestBody::TooLong,
            // A body that breaks off is no text either.
            FAILED | NOT_TEXT => RequestBody::NotText,
            _ => RequestBody::Text(text.into_owned()),
        });
    }
    EffectResult::Slept
}

#[cfg(test)]
mod tests;
