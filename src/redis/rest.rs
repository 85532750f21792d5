//! Redis in the form of Upstash's REST API. The client sends a command as a JSON array of strings. The answer has a
//! `result` or an `error`. A host may use another transport, and then gives commands and answers this form.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::Value;

use super::script::{FromScriptReply, Script, ScriptCall, ScriptForm};
use super::{Command, Database, Scripts, run};
use crate::effects::{Effects, LogLevel, RedisResponse};
use crate::error::StoreError;
use crate::json;
use crate::time::{Deadline, Millis, Timestamp};

/// A client of Redis that calls it through [`Effects::call_redis`].
#[derive(Clone, Debug)]
pub struct RestClient<E> {
    effects: E,
    timeout: Millis,
    calls: Rc<RefCell<CallStats>>,
    /// Until when scripts are sent as [`ScriptForm::Plain`], because the server refused
    /// [`ScriptForm::Flagged`]. [`Deadline::OVER`] if it has not refused.
    refuses_flag: Rc<Cell<Deadline>>,
}

/// How long after a refusal [`ScriptForm::Flagged`] is tried again. The refusal may have been a mistake,
/// or another server may answer now. The attempt costs at most one call that finds no script.
const RETRY_FLAG_AFTER: Millis = Millis::from_secs(3600);

/// How many calls an isolate has made, by result and by duration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    ok: u64,
    timeout: u64,
    unreachable: u64,
    errors: u64,
    /// Calls by the first bound that their duration is within. The last count is above all bounds.
    durations: [u64; BOUNDS_MS.len() + 1],
    total_ms: u64,
}

/// The upper bounds of the histogram of durations, in ms.
pub const BOUNDS_MS: [u64; 7] = [5, 10, 25, 50, 100, 250, 1000];

/// The results of a call, as label values of metrics. `error` means that the answer is an error or cannot be
/// read.
pub const RESULTS: [&str; 4] = ["ok", "timeout", "unreachable", "error"];

impl CallStats {
    fn count<T>(&mut self, result: Result<T, &StoreError>, duration: Millis) {
        let counter = match result {
            Ok(_) => &mut self.ok,
            Err(StoreError::Timeout) => &mut self.timeout,
            Err(StoreError::Unreachable) => &mut self.unreachable,
            Err(_) => &mut self.errors,
        };
        *counter += 1;
        let within = BOUNDS_MS.iter().position(|bound| duration.get() <= *bound);
        if let Some(bucket) = self.durations.get_mut(within.unwrap_or(BOUNDS_MS.len())) {
            *bucket += 1;
        }
        self.total_ms += duration.get();
    }

    /// How many calls had each of the [`RESULTS`].
    pub fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [self.ok, self.timeout, self.unreachable, self.errors];
        RESULTS.into_iter().zip(counts)
    }

    /// How many calls lasted longer than the bound before and at most this one, by the index of the bound in
    /// [`BOUNDS_MS`]. The last count has no upper bound.
    pub fn durations(&self) -> impl Iterator<Item = (usize, u64)> {
        self.durations.into_iter().enumerate()
    }

    /// The total duration of all calls, in ms.
    #[must_use]
    pub const fn total_ms(&self) -> u64 {
        self.total_ms
    }
}

impl<E: Effects> RestClient<E> {
    /// A client whose calls wait at most `timeout`, including all attempts.
    pub fn new(effects: E, timeout: Millis) -> Self {
        Self {
            effects,
            timeout,
            calls: Rc::default(),
            refuses_flag: Rc::default(),
        }
    }

    /// Statistics of the calls that this client and its clones have made.
    #[must_use]
    pub fn calls(&self) -> CallStats {
        self.calls.borrow().clone()
    }

    /// The form in which scripts are sent at `now`.
    fn form(&self, now: Timestamp) -> ScriptForm {
        match self.refuses_flag.get().is_pending(now) {
            true => ScriptForm::Plain,
            false => ScriptForm::Flagged,
        }
    }

    /// Sends scripts as [`ScriptForm::Plain`] from now on.
    fn refuse_flag(&self, now: Timestamp) {
        let until = Deadline::after(RETRY_FLAG_AFTER, now);
        if self.refuses_flag.replace(until) == Deadline::OVER {
            self.effects.log(
                LogLevel::Info,
                "Redis refuses the script's flag allow-key-locking; scripts are sent without it",
            );
        }
    }

    /// Makes a call, reads its response, and counts the result. A call after which the script is sent once
    /// more counts as `ok`.
    async fn call<T>(
        &self,
        body: String,
        timeout: Millis,
        read: impl FnOnce(&RedisResponse) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let started = self.effects.now();
        let response = self.effects.call_redis(body, timeout).await;
        let duration = self.effects.now().since(started);
        let result = response.and_then(|response| read(&response));
        let counted = match &result {
            Err(StoreError::Refused(word)) if word == "NOSCRIPT" => Ok(()),
            Err(StoreError::NotCompiled) => Ok(()),
            // Redis works. The value that the application stored is no number.
            Err(StoreError::NotANumber) => Ok(()),
            other => other.as_ref().map(drop),
        };
        self.calls.borrow_mut().count(counted, duration);
        result
    }

    async fn evaluate<A: FromScriptReply>(
        &self,
        command: String,
        timeout: Millis,
    ) -> Result<A, StoreError> {
        self.call(command, timeout, script_answer).await
    }
}

impl<E: Effects> Scripts for RestClient<E> {
    async fn run_script<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<A, StoreError> {
        self.run_script_within(script, call, self.timeout).await
    }

    async fn run_script_within<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
        timeout: Millis,
    ) -> Result<A, StoreError> {
        let timeout = timeout.min(self.timeout);
        let started = self.effects.now();
        let refused = self.refuses_flag.get();
        let mut form = self.form(started);
        let mut send_text = false;
        let mut remaining = timeout;
        // At most four calls. Only a script that has not run is sent again.
        loop {
            let command = match send_text {
                false => call.to_json("EVALSHA", script.sha1(form)),
                true => call.to_json("EVAL", script.text(form)),
            };
            let result = self.evaluate(command, remaining).await;
            match &result {
                Err(StoreError::Refused(word)) if word == "NOSCRIPT" && !send_text => {
                    send_text = form == ScriptForm::Plain || refused == Deadline::OVER;
                }
                Err(StoreError::NotCompiled) if form == ScriptForm::Flagged => send_text = false,
                Ok(_) if form == ScriptForm::Flagged && refused != Deadline::OVER => {
                    self.refuses_flag.set(Deadline::OVER);
                    return result;
                }
                _ => return result,
            }
            let now = self.effects.now();
            if form == ScriptForm::Flagged && !send_text {
                form = ScriptForm::Plain;
                // Remember the refusal before the next attempt. If the time runs out, the next decision starts
                // with the plain form.
                self.refuse_flag(now);
            }
            remaining = Millis::new(timeout.get().saturating_sub(now.since(started).get()));
            if remaining == Millis::ZERO {
                return Err(StoreError::Timeout);
            }
        }
    }
}

impl<E: Effects> Database for RestClient<E> {
    async fn run(&self, commands: Vec<Command>, _: Timestamp) -> Result<Vec<Value>, StoreError> {
        let expected = commands.len();
        match <[Command; 1]>::try_from(commands) {
            Ok([command]) => {
                let body = Value::from(command).to_string();
                self.call(body, self.timeout, one_reply).await
            }
            Err(commands) => {
                let call = run::call(&commands);
                match self.run_script(&run::SCRIPT, &call).await? {
                    Value::Array(replies) if replies.len() == expected => Ok(replies),
                    _ => Err(StoreError::Malformed),
                }
            }
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn script_form(&self) -> Option<ScriptForm> {
        Some(self.form(self.effects.now()))
    }

    async fn run_script_for_value(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<Value, StoreError> {
        self.run_script(script, call).await
    }
}

/// Reads the reply to one command, which may be `null`.
fn one_reply(response: &RedisResponse) -> Result<Vec<Value>, StoreError> {
    let value = json::value(&response.body).unwrap_or_default();
    match value.get("result") {
        Some(Value::Null) if response.status == 200 && value["error"].is_null() => {
            Ok(vec![Value::Null])
        }
        _ => result(response).map(|result| vec![result]),
    }
}

/// Reads a script's answer: without serde if it has the usual form, else with serde.
fn script_answer<A: FromScriptReply>(response: &RedisResponse) -> Result<A, StoreError> {
    let inside = response.body.strip_prefix("{\"result\":");
    let inside = inside.and_then(|rest| rest.strip_suffix('}'));
    if response.status == 200
        && let Some(answer) = inside.and_then(A::from_json)
    {
        return Ok(answer);
    }
    A::from_value(&result(response)?).ok_or(StoreError::Malformed)
}

/// The body of a response.
#[derive(Default)]
struct Envelope {
    result: Option<Value>,
    error: Option<String>,
}

impl Envelope {
    fn read(body: &str) -> Option<Self> {
        let Value::Object(mut fields) = json::value(body)? else {
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

fn result(response: &RedisResponse) -> Result<Value, StoreError> {
    match response.status {
        200 | 400 => {}
        401 | 403 => return Err(StoreError::Unauthorized),
        status => {
            // Upstash does not document with which status it refuses a call when the plan is used up.
            let envelope = Envelope::read(&response.body).unwrap_or_default();
            return Err(match envelope.error {
                Some(error) if over_quota(&error) => StoreError::OverQuota,
                _ if status == 429 => StoreError::Throttled,
                _ => StoreError::Status(status),
            });
        }
    }
    let envelope = Envelope::read(&response.body).ok_or(StoreError::Malformed)?;
    match envelope.error {
        Some(error) => Err(refusal(&error)),
        None if response.status == 400 => Err(StoreError::Status(400)),
        None => envelope.result.ok_or(StoreError::Malformed),
    }
}

fn over_quota(error: &str) -> bool {
    error.contains("max requests limit exceeded")
        || error.contains("max daily request limit exceeded")
}

/// Reads Redis's error text. It keeps at most the first word, because Redis quotes commands in its errors,
/// and so callers' addresses.
fn refusal(error: &str) -> StoreError {
    if over_quota(error) {
        return StoreError::OverQuota;
    }
    if error.contains("value is not an integer") || error.contains("would overflow") {
        return StoreError::NotANumber;
    }
    let word = error.split([' ', ':']).next().unwrap_or_default();
    match word {
        "WRONGPASS" | "NOAUTH" => StoreError::Unauthorized,
        "NOPERM" => StoreError::NotPermitted,
        _ if !word.is_empty()
            && word != "ERR"
            && word.len() <= 20
            && word.bytes().all(|byte| byte.is_ascii_uppercase()) =>
        {
            StoreError::Refused(word.to_owned())
        }
        _ => (MEANINGS.iter())
            .find(|(text, _)| error.contains(text))
            .map_or_else(
                || StoreError::Refused("ERR".to_owned()),
                |(_, kind)| kind.clone(),
            ),
    }
}

/// Texts that errors beginning with `ERR` contain, and what they mean. Unknown and forbidden commands come
/// first: Redis quotes the arguments of an unknown command, and so the script.
const MEANINGS: [(&str, StoreError); 11] = [
    ("unknown command", StoreError::UnknownCommand),
    ("Unknown Redis command", StoreError::UnknownCommand),
    ("Command is not available", StoreError::UnknownCommand),
    ("user executing the script", StoreError::NotPermitted),
    // For a command with more than ten words before any `AUTH`.
    ("Protocol error: unauthenticated", StoreError::Unauthorized),
    // A password was sent to a server that has none. The first is since Redis 6, the second before it.
    ("without any password configured", StoreError::Unauthorized),
    ("but no password is set", StoreError::Unauthorized),
    // Redis and Valkey 7 and later.
    ("script shebang", StoreError::NotCompiled),
    // Before Redis 7, and KeyDB.
    ("Error compiling script", StoreError::NotCompiled),
    // Dragonfly and older versions of it, which pass on Lua's error.
    ("unexpected symbol near '#'", StoreError::NotCompiled),
    ("Invalid flag: ", StoreError::NotCompiled),
];
