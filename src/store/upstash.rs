//! Quotas in Upstash Redis, over its REST API: one script call per decision.
//!
//! `EVALSHA` first; `EVAL`, which loads the script as well, where Redis does not know it yet. The
//! first has then decided nothing, so the decision is still sent once. The protocol is Upstash's
//! documented one (`POST /` with the command as a JSON array of strings; `result` or `error`).

use serde_json::Value;

use super::{AddressBlock, Answer, Charge, Check, Store, StoreError, Verdict};
use crate::quota::{Algorithm, CLOCK_TOLERANCE, Decision, Outcome, State};
use crate::time::{Clock, Millis, Timestamp};

mod transport;

pub use transport::{Http, HttpError, Reply, Transport};

/// The decision as a Redis script.
pub const SCRIPT: &str = include_str!("decide.lua");

/// The script's name for `EVALSHA`; a test holds it to the text.
const SCRIPT_SHA1: &str = "c5d32294a093f4b395e039e9c0d8f4ec527edeb9";

/// The store in Upstash Redis.
pub struct Upstash<T, C> {
    transport: T,
    clock: C,
    prefix: String,
    timeout: Millis,
}

impl<T: Transport, C: Clock> Upstash<T, C> {
    /// Keys start with `prefix`; one decision waits at most `timeout`.
    pub fn new(transport: T, clock: C, prefix: impl Into<String>, timeout: Millis) -> Self {
        Self {
            transport,
            clock,
            prefix: prefix.into(),
            timeout,
        }
    }

    fn command(&self, verb: &str, script: &str, check: &Check, now: Timestamp) -> String {
        let prefix = &self.prefix;
        let mut keys = vec![format!("{prefix}blocked_ranges:version")];
        if let Some(address) = &check.address {
            keys.push(format!("{prefix}blocked:{address}"));
        }
        let mut arguments = vec![
            now.as_millis().to_string(),
            check.cost.to_string(),
            u8::from(check.address.is_some()).to_string(),
        ];
        for charge in &check.charges {
            keys.push(format!("{prefix}{}", charge.key));
            if let Some(owed) = &charge.owed {
                keys.push(format!("{prefix}absorbed:{}", owed.name));
            }
            if charge.blocks() {
                keys.push(format!("{prefix}{}:blocked", charge.key));
            }
            arguments.extend(charge_arguments(charge));
        }
        let head = [verb.to_owned(), script.to_owned(), keys.len().to_string()];
        let words: Vec<String> = head.into_iter().chain(keys).chain(arguments).collect();
        Value::from(words).to_string()
    }

    async fn call(&self, command: String, timeout: Millis) -> Result<Value, StoreError> {
        let reply = self.transport.post(command, timeout).await?;
        result(&reply)
    }
}

impl<T: Transport, C: Clock> Store for Upstash<T, C> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let started = self.clock.now();
        let command = self.command("EVALSHA", SCRIPT_SHA1, check, now);
        let result = match self.call(command, self.timeout).await {
            Err(StoreError::Refused(word)) if word == "NOSCRIPT" => {
                let waited = self.clock.now().since(started);
                let left = self.timeout.get().saturating_sub(waited.get());
                if left == 0 {
                    return Err(StoreError::Timeout);
                }
                let command = self.command("EVAL", SCRIPT, check, now);
                self.call(command, Millis::new(left)).await?
            }
            other => other?,
        };
        verdict(&result, check, now).ok_or(StoreError::Malformed)
    }
}

fn charge_arguments(charge: &Charge) -> [String; 8] {
    let quota = &charge.quota;
    let algorithm = match quota.algorithm() {
        Algorithm::SlidingWindow => "s",
        Algorithm::TokenBucket => "t",
        Algorithm::FixedWindow => "f",
    };
    let block = charge.block.filter(|_| charge.blocks());
    let owed = charge.owed.as_ref();
    [
        algorithm.to_owned(),
        quota.limit().to_string(),
        quota.window().get().to_string(),
        quota.capacity().to_string(),
        block.unwrap_or_default().get().to_string(),
        u8::from(charge.enforced).to_string(),
        charge.advance.to_string(),
        owed.map(|owed| owed.state.to_string()).unwrap_or_default(),
    ]
}

#[derive(Default)]
struct Envelope {
    result: Option<Value>,
    error: Option<String>,
}

impl Envelope {
    fn read(body: &str) -> Option<Self> {
        let Value::Object(mut fields) = serde_json::from_str(body).ok()? else {
            return None;
        };
        Some(Self {
            result: fields.remove("result").filter(|result| !result.is_null()),
            error: match fields.remove("error") {
                None | Some(Value::Null) => None,
                Some(Value::String(error)) => Some(error),
                Some(_) => return None,
            },
        })
    }
}

/// Why an answer is none.
pub(crate) fn failure(reply: &Reply) -> StoreError {
    result(reply).err().unwrap_or(StoreError::Malformed)
}

fn result(reply: &Reply) -> Result<Value, StoreError> {
    match reply.status {
        200 | 400 => {}
        401 | 403 => return Err(StoreError::Unauthorized),
        status => {
            // Upstash does not document with which status it refuses a plan that is used up.
            let envelope = Envelope::read(&reply.body).unwrap_or_default();
            return Err(match envelope.error {
                Some(error) if over_quota(&error) => StoreError::OverQuota,
                _ if status == 429 => StoreError::Throttled,
                _ => StoreError::Status(status),
            });
        }
    }
    let envelope = Envelope::read(&reply.body).ok_or(StoreError::Malformed)?;
    match envelope.error {
        Some(error) => Err(refusal(&error)),
        None if reply.status == 400 => Err(StoreError::Status(400)),
        None => envelope.result.ok_or(StoreError::Malformed),
    }
}

fn over_quota(error: &str) -> bool {
    error.contains("max requests limit exceeded")
        || error.contains("max daily request limit exceeded")
}

/// Keeps the first word alone: Redis quotes commands, and so addresses, in its errors.
pub(crate) fn refusal(error: &str) -> StoreError {
    if over_quota(error) {
        return StoreError::OverQuota;
    }
    let word = error.split([' ', ':']).next().unwrap_or_default();
    match word {
        "WRONGPASS" | "NOAUTH" | "NOPERM" => StoreError::Unauthorized,
        _ if !word.is_empty()
            && word.len() <= 20
            && word.bytes().all(|byte| byte.is_ascii_uppercase()) =>
        {
            StoreError::Refused(word.to_owned())
        }
        _ => StoreError::Refused("ERR".to_owned()),
    }
}

fn verdict(result: &Value, check: &Check, now: Timestamp) -> Option<Verdict> {
    let [version, block, answers @ ..] = result.as_array()?.as_slice() else {
        return None;
    };
    if answers.len() != check.charges.len() {
        return None;
    }
    let answers: Vec<_> = answers
        .iter()
        .zip(&check.charges)
        .map(|(found, charge)| {
            answer(found, now)
                .filter(|(answer, _)| possible(answer.as_ref(), charge, check.cost, now))
        })
        .collect::<Option<_>>()?;
    let (answers, states) = answers.into_iter().unzip();
    Some(Verdict {
        address_block: match block {
            Value::Null => None,
            block => Some(address_block(block.as_str()?)),
        },
        ranges_version: match version {
            Value::Null => None,
            version => Some(version.as_str()?.to_owned()),
        },
        answers,
        states,
        degraded: false,
    })
}

/// The record starts with `{"until":MILLISECONDS` if the block has an end; the script reads it the
/// same way. Any other record blocks until it is lifted.
pub(crate) fn address_block(record: &str) -> AddressBlock {
    let digits = record.strip_prefix("{\"until\":").map(|rest| {
        let end = rest.find(|digit: char| !digit.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    AddressBlock {
        until: digits
            .filter(|digits| digits.len() <= 15)
            .and_then(|digits| digits.parse().ok())
            .map(Timestamp::from_millis),
    }
}

/// Whether a quota can answer so: nonsense of the right shape must not become a denial.
fn possible(answer: Option<&Answer>, charge: &Charge, cost: u32, now: Timestamp) -> bool {
    let Some(answer) = answer else { return false };
    let quota = &charge.quota;
    let latest = now + quota.refill() + quota.window() + CLOCK_TOLERANCE;
    let block = charge.block.filter(|_| charge.blocks());
    let in_time = match answer.decision.outcome {
        Outcome::Denied { retry_at } => retry_at <= latest,
        Outcome::Allowed | Outcome::Impossible => true,
    };
    let hopeless = answer.decision.outcome == Outcome::Impossible;
    // Only of a quota that has room.
    let taken = if answer.decision.allowed() {
        charge.advance.min(answer.decision.remaining)
    } else {
        0
    };
    let blocked = answer.blocked_until;
    in_time
        && hopeless == (cost > quota.capacity())
        && answer.decision.remaining <= quota.capacity()
        && answer.advanced <= taken
        && answer.decision.reset_at <= latest
        && blocked
            .is_none_or(|until| block.is_some_and(|block| until <= now + block + CLOCK_TOLERANCE))
}

/// One quota's answer, which is never absent, and its state: what is no state's text is absent.
fn answer(found: &Value, now: Timestamp) -> Option<(Option<Answer>, Option<State>)> {
    let (state, numbers) = found.as_array()?.split_last()?;
    let state = State::parse(state.as_str()?);
    let numbers: Vec<u64> = numbers.iter().map(Value::as_u64).collect::<Option<_>>()?;
    let [
        outcome,
        remaining,
        retry_at,
        reset_at,
        at,
        blocked_until,
        advanced,
    ] = numbers.as_slice()
    else {
        return None;
    };
    let time = |ms: &u64| Timestamp::from_millis(*ms);
    let outcome = match outcome {
        0 if time(retry_at) > now => Outcome::Denied {
            retry_at: time(retry_at),
        },
        1 => Outcome::Allowed,
        2 => Outcome::Impossible,
        _ => return None,
    };
    let answer = Answer {
        decision: Decision {
            outcome,
            remaining: u32::try_from(*remaining).ok()?,
            reset_at: time(reset_at),
            at: time(at),
        },
        advanced: u32::try_from(*advanced).ok()?,
        blocked_until: Some(time(blocked_until)).filter(|until| *until > now),
    };
    Some((Some(answer), state))
}

#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vector_tests;
