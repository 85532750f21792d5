//! Steps of a task as numbers and one text, for hosts on the other side of WebAssembly.
//!
//! A text is decoded once and cut by [lengths](EncodedStep::numbers) in UTF-16 units, as JavaScript counts them. In
//! its head, parts end with a line feed, which no method, URL, header or token can hold.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::admin::{Body, Operation};
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

pub use redis::{host, server};

/// What a host is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StepKind {
    /// Nothing: a duty is done, or there is none.
    Done = 0,
    /// Answer. Numbers: 1 in place of the task's if the rest names a file that is the body, status, length of the head. Head:
    /// names and values of headers. Rest: the body.
    Answer = 1,
    /// Forward. Numbers: how (0 URL, 1 binding, 2 route), the sample's number or 0. Text: the URL in two parts, of which
    /// the first is `ORIGIN_URL` or empty, the names to expose to pages that may read the response, then four lists, each
    /// ended by an empty part: headers to set on the request, to remove from it, to
    /// set on the response, to remove from it.
    Forward = 2,
    /// Post to Redis, then resume. Numbers: the configuration's; timeout in ms. Text: the body.
    Redis = 3,
    /// Wait, then resume. Number: ms.
    Sleep = 4,
    /// Verify a signature, then resume. Text: algorithm, signature in base64, what was signed, the key:
    /// three parts and the rest.
    Verify = 5,
    /// Fetch a key set, then resume. Text: the URL.
    KeySet = 6,
    /// Read the request's body, then resume. Number: the most bytes.
    Body = 7,
    /// The application serves the request, or answers it so. Numbers: in place of the task's the sum of 1 (allowed), 2 (blocked),
    /// 4 (degraded) and 8 (the rest names a file that is the body), status, length of the head. Head: policy, limit,
    /// remaining, reset in ms, seconds to wait, why it is exempt (each empty where absent), the names to expose as in
    /// `Forward`, the headers to remove from the application's response, an empty part; names and values of the answer's
    /// headers, or of those to set on the application's response. Rest: the answer's body. A request that is lost, or that
    /// comes before any configuration, ends in `Answer` instead, with 503.
    Verdict = 8,
}

/// A step, written down. It may hold a secret.
#[derive(Default)]
pub struct EncodedStep {
    /// The task's number, for one that has ended 0 unless its [`StepKind`] says otherwise, and two numbers as that says.
    pub numbers: [u32; 3],
    /// The text.
    pub text: String,
}

impl EncodedStep {
    /// Writes `step` in place of what was written before.
    pub fn write(&mut self, step: TaskStep<TaskOutcome>) -> StepKind {
        self.text.clear();
        self.numbers = [0; 3];
        match step {
            TaskStep::Asks(id, ask) => self.ask(id, ask),
            TaskStep::Done(TaskOutcome::Answer(response)) => self.answer(&response),
            TaskStep::Done(TaskOutcome::Forward(forward, sample)) => self.forward(&forward, sample),
            TaskStep::Done(TaskOutcome::Verdict(verdict)) => self.verdict(&verdict),
            TaskStep::Done(TaskOutcome::Done) | TaskStep::Unknown | TaskStep::Stuck => {
                StepKind::Done
            }
        }
    }

    fn ask(&mut self, id: TaskId, ask: Effect) -> StepKind {
        self.numbers[0] = id.number();
        match ask {
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

    /// Reads replies in Redis's own protocol ([`resp::read`]): a state, a line feed, then bytes. Returns 0 if more is to come,
    /// 200 for a result, 400 for an error, 502 for what is no reply. Numbers, if more is to come: how many bytes were read,
    /// and how many from there on are needed before the next call. Text: what is read of the result as JSON, or the error; if
    /// more is to come, after the next state and a line feed.
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

    /// Writes a response.
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

    /// Ends the head, and writes what comes after it of an answer.
    fn rest(&mut self, first: u32, response: &Response) {
        self.numbers = [first, u32::from(response.status), self.length()];
        self.text.push_str(&response.body);
    }

    /// How long the text is, in UTF-16 units.
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

/// What a header of the origin's answer becomes that leads to `ORIGIN_URL`, if it does: `Location`, or `Refresh`. Parts:
/// the header's name in lower case, `ORIGIN_URL`, the request's URL, the header's value.
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

/// Reads a request's fields: method, URL, address, loop guard, each ended by a line feed.
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

/// Reads the application's own call of the control plane: method, path and query, each ended by a line feed, then the body.
#[must_use]
pub fn operation(text: &str) -> Operation {
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Operation {
        method: next(),
        path_and_query: next(),
        body: next(),
    }
}

/// In place of a status: it took too long.
pub const TIMED_OUT: u32 = 1;
/// In place of a status: it failed, or is not true.
pub const FAILED: u32 = 0;
/// In place of a status: what was read is no text.
pub const NOT_TEXT: u32 = 2;
/// In place of a status: what was read is too long.
pub const TOO_LONG: u32 = 3;

/// Reads the answer to what a task asked: `status` is an HTTP status (for Redis and a key set), 200 for what
/// went well, or one of the constants here.
#[must_use]
pub fn answer(kind: u32, status: u32, text: Cow<'_, str>) -> EffectResult {
    let well = status == 200;
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
        return EffectResult::Verified(well);
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
            TOO_LONG => Body::TooLong,
            // One that breaks off is none either.
            FAILED | NOT_TEXT => Body::NotText,
            _ => Body::Text(text.into_owned()),
        });
    }
    EffectResult::Slept
}

#[cfg(test)]
mod tests;
