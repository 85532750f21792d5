//! The application's own calls: to keep its own keys next to the limiter's, and to report events. The application makes
//! them without HTTP, and no request's path leads here.
//!
//! Its keys are where the limiter's records are: in Redis under `app/`, which cannot be a policy's name, or in this
//! isolate. In the isolate they have a separate database, so that they take no space from blocks and events.

use std::rc::Rc;

use serde_json::{Value, json};

use super::bad_input::BadInput;
use super::caller_key::operator_caller;
use super::{AdminError, AdminResult, ControlPlane, ok};
use crate::budget::Purpose;
use crate::effects::Effects;
use crate::error::StoreError;
use crate::events::{Details, EventKey, EventKind};
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command};
use crate::response::Response;
use crate::store::retries::Retries;
use crate::store::shared::Partitioned;
use crate::time::Timestamp;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// The longest value, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The most keys that one call deletes.
const MAX_DELETED: usize = 1000;

/// The longest time until a key expires, in seconds: ten years.
const MAX_EXPIRY_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;

/// The longest method that an event reports, in bytes.
const MAX_METHOD_BYTES: usize = 64;

const CALLS: &str =
    "The call must be one of get, set, incr, expire, del and log, with its arguments.";

/// Runs commands on the application's keys.
pub(crate) struct ApplicationKeys<D> {
    records: Rc<Records<D>>,
    retries: Retries,
}

impl<D: Database> ApplicationKeys<D> {
    /// Keeps the keys in `records`. Repeats failed calls that are safe to repeat, as `retries` allows.
    pub(crate) const fn new(records: Rc<Records<D>>, retries: Retries) -> Self {
        Self { records, retries }
    }

    /// Runs a command once.
    async fn run(&self, command: Command, now: Timestamp) -> Result<Value, StoreError> {
        let budget = self.records.budget();
        let batches = self.records.batches(vec![command]);
        let cost = u32::try_from(batches.sizes().sum::<usize>()).unwrap_or(u32::MAX);
        if budget.is_some_and(|budget| !budget.spend(cost, Purpose::Application, now)) {
            return Err(StoreError::OverCap);
        }
        let replies = self.records.run_batches(batches, now).await?;
        let [reply] = <[Value; 1]>::try_from(replies).map_err(|_| StoreError::Malformed)?;
        Ok(reply)
    }
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    /// Answers a call, a JSON list of its name and its arguments, with `{"result": ...}`:
    ///
    /// - `["get", key]`: the value, or `null`;
    /// - `["set", key, value]` and `["set", key, value, seconds]`: `"OK"`;
    /// - `["incr", key]`: the value after the increment;
    /// - `["expire", key, seconds]`: whether the key exists;
    /// - `["del", key, ...]`: how many of the keys existed;
    /// - `["log", identifier, policy, method, path]`: `null`.
    pub(crate) async fn run_command(
        &self,
        application: &ApplicationKeys<D>,
        call: &str,
    ) -> Response {
        let result = self.try_run_command(application, call).await;
        result.unwrap_or_else(AdminError::response)
    }

    async fn try_run_command(&self, application: &ApplicationKeys<D>, call: &str) -> AdminResult {
        let Some(Value::Array(words)) = json::value(call) else {
            return Err(BadInput::from(CALLS).into());
        };
        let (name, arguments) = match words.split_first() {
            Some((Value::String(name), arguments)) => (name.as_str(), arguments),
            _ => return Err(BadInput::from(CALLS).into()),
        };
        let redis_key = |key| {
            let key = RedisKey::Application(checked_key(key)?);
            Ok::<_, AdminError>(application.records.key(key))
        };
        let (command, is_repeatable) = match (name, arguments) {
            ("get", [key]) => (command(["GET", &redis_key(key)?]), true),
            ("set", [key, value, rest @ ..]) if rest.len() < 2 => {
                let mut words = command(["SET", &redis_key(key)?, text_value(value)?]);
                if let Some(seconds) = rest.first() {
                    words.extend(["PX".to_owned(), milliseconds(seconds)?]);
                }
                (words, true)
            }
            ("incr", [key]) => (command(["INCRBY", &redis_key(key)?, "1"]), false),
            ("expire", [key, seconds]) => {
                let words = command(["PEXPIRE", &redis_key(key)?, &milliseconds(seconds)?]);
                (words, true)
            }
            ("del", keys) if (1..=MAX_DELETED).contains(&keys.len()) => {
                let mut words = command(["DEL"]);
                for key in keys {
                    words.push(redis_key(key)?);
                }
                (words, true)
            }
            ("log", [identifier, policy, method, path]) => {
                self.report([identifier, policy, method, path])?;
                return ok(&json!({"result": null}));
            }
            _ => return Err(BadInput::from(CALLS).into()),
        };
        let reply = self.send(application, command, is_repeatable).await;
        let reply = reply.map_err(|error| match error {
            StoreError::NotANumber => AdminError::NotANumber,
            StoreError::Refused(word) if word == "WRONGTYPE" => match name {
                "incr" => AdminError::NotANumber,
                _ => AdminError::Refused(
                    "The key holds a Redis value other than a string; use another key.".to_owned(),
                ),
            },
            error => AdminError::ApplicationCallFailed(error),
        })?;
        let malformed = || AdminError::ApplicationCallFailed(StoreError::Malformed);
        let result = match name {
            "get" => match reply {
                Value::Number(number) => number.to_string().into(),
                text @ (Value::Null | Value::String(_)) => text,
                _ => return Err(malformed()),
            },
            "set" => reply,
            _ => {
                let number = match &reply {
                    Value::String(text) => text.parse().ok(),
                    other => other.as_i64(),
                };
                let number = number.ok_or_else(malformed)?;
                match name {
                    "expire" => (number == 1).into(),
                    _ => number.into(),
                }
            }
        };
        ok(&json!({"result": result}))
    }

    /// Runs a command. Fails at once while the store is known not to answer.
    async fn send(
        &self,
        application: &ApplicationKeys<D>,
        command: Command,
        is_repeatable: bool,
    ) -> Result<Value, StoreError> {
        let effects = self.stack.effects();
        let run_once = async || {
            let now = effects.now();
            if !self.stack.is_database_available() {
                return Err(StoreError::Open { until: now });
            }
            application.run(command.clone(), now).await
        };
        match is_repeatable {
            true => application.retries.run(effects, run_once).await,
            false => run_once().await,
        }
    }

    /// Records an event that the application reports, if events are recorded. The event counts against no caller.
    fn report(&self, arguments: [&Value; 4]) -> Result<(), AdminError> {
        let rule = "`log` takes four strings without control characters: an identifier, a policy, a method and a path.";
        let text = |value: &'_ Value| {
            let text = value.as_str().unwrap_or("\0");
            let is_plain = !text.contains(char::is_control);
            is_plain
                .then(|| text.to_owned())
                .ok_or(BadInput::from(rule))
        };
        let [identifier, policy, method, path] = arguments.map(text);
        let (policy, method, path) = (policy?, method?, path?);
        let policy = self.policy_named(&policy);
        let policy = policy.ok_or(AdminError::UnknownPolicy(400))?;
        let caller = operator_caller(&identifier?, self.config().ipv6_prefix);
        let caller = caller.map_err(AdminError::BadIdentifier)?;
        if method.len() > MAX_METHOD_BYTES {
            let rule = format!("The method must have at most {MAX_METHOD_BYTES} bytes.");
            return Err(BadInput(rule).into());
        }
        if !self.journal.records_denials() {
            return Ok(());
        }
        let event = EventKey {
            kind: EventKind::Reported,
            caller: caller.key(),
            policy: &policy.name,
            status: 0,
        };
        let details = &mut || Details {
            method: method.clone(),
            path: path.clone(),
            ..Details::default()
        };
        let now = self.stack.effects().now();
        self.journal.recorder().record(&event, now, details);
        Ok(())
    }
}

/// Reads a key of the application, and checks its length and characters.
fn checked_key(argument: &Value) -> Result<&str, AdminError> {
    let key = argument.as_str().unwrap_or_default();
    let is_valid = (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.contains(char::is_control);
    is_valid.then_some(key).ok_or(AdminError::BadKey)
}

/// Reads a value to store, and checks its length.
fn text_value(argument: &Value) -> Result<&str, BadInput> {
    let text = argument
        .as_str()
        .filter(|text| text.len() <= MAX_VALUE_BYTES);
    let rule = || {
        BadInput(format!(
            "The value must be a string of at most {MAX_VALUE_BYTES} bytes."
        ))
    };
    text.ok_or_else(rule)
}

/// Reads a number of seconds and converts it to milliseconds, as Redis takes it.
fn milliseconds(argument: &Value) -> Result<String, BadInput> {
    let seconds = argument.as_u64();
    let seconds = seconds.filter(|seconds| (1..=MAX_EXPIRY_SECONDS).contains(seconds));
    let rule = || {
        BadInput(format!(
            "The number of seconds must be a whole number from 1 to {MAX_EXPIRY_SECONDS}."
        ))
    };
    Ok((1000 * seconds.ok_or_else(rule)?).to_string())
}
