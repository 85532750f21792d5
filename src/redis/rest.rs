//! Redis over Upstash's REST API, or a bridge that speaks it: `POST` with the command as a JSON array
//! of strings; `result` or `error`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::Value;

use super::script::{Script, ScriptAnswer, ScriptCall, ScriptForm};
use super::{Command, Database, Scripts, run};
use crate::effects::{Effects, LogLevel, RedisResponse};
use crate::error::StoreError;
use crate::json;
use crate::time::{Deadline, Millis, Timestamp};

/// Redis over REST.
#[derive(Clone, Debug)]
pub struct RestClient<E> {
    effects: E,
    timeout: Millis,
    calls: Rc<RefCell<CallStats>>,
    /// How long the server is known to refuse [`ScriptForm::Flagged`]; [`Deadline::OVER`]: it never has.
    refuses_flag: Rc<Cell<Deadline>>,
}

/// After this a server that has refused [`ScriptForm::Flagged`] is asked for it again: the refusal may have been an error,
/// or the server another one. Most cost is one call that finds no script.
const PLAIN_FOR: Millis = Millis::from_secs(3600);

/// What came of the calls that an isolate has made, and how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    ok: u64,
    timeout: u64,
    unreachable: u64,
    refused: u64,
    /// By the first bound that they were within, the last being none.
    took: [u64; BOUNDS_MS.len() + 1],
    took_ms: u64,
}

/// The bounds that durations are counted by, in ms.
pub const BOUNDS_MS: [u64; 7] = [5, 10, 25, 50, 100, 250, 1000];

/// What comes of a call, by the names of labels. `error`: an answer that is none.
pub const RESULTS: [&str; 4] = ["ok", "timeout", "unreachable", "error"];

impl CallStats {
    fn count<T>(&mut self, result: Result<T, &StoreError>, took: Millis) {
        let counter = match result {
            Ok(_) => &mut self.ok,
            Err(StoreError::Timeout) => &mut self.timeout,
            Err(StoreError::Unreachable) => &mut self.unreachable,
            Err(_) => &mut self.refused,
        };
        *counter += 1;
        let within = BOUNDS_MS.iter().position(|bound| took.get() <= *bound);
        if let Some(bucket) = self.took.get_mut(within.unwrap_or(BOUNDS_MS.len())) {
            *bucket += 1;
        }
        self.took_ms += took.get();
    }

    /// How often each of [`RESULTS`] came.
    pub fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [self.ok, self.timeout, self.unreachable, self.refused];
        RESULTS.into_iter().zip(counts)
    }

    /// How many took no longer than each of [`BOUNDS_MS`], by its place, and longer than the one before it.
    pub fn durations(&self) -> impl Iterator<Item = (usize, u64)> {
        self.took.into_iter().enumerate()
    }

    /// How long all took together, in ms.
    #[must_use]
    pub const fn total_ms(&self) -> u64 {
        self.took_ms
    }
}

impl<E: Effects> RestClient<E> {
    /// One call waits at most `timeout`, whatever it takes.
    pub fn new(effects: E, timeout: Millis) -> Self {
        Self {
            effects,
            timeout,
            calls: Rc::default(),
            refuses_flag: Rc::default(),
        }
    }

    /// What came of the calls that this and its clones have made.
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
        let until = Deadline::after(PLAIN_FOR, now);
        if self.refuses_flag.replace(until) == Deadline::OVER {
            self.effects.log(
                LogLevel::Info,
                "Redis refuses the script's flag allow-key-locking; scripts are sent without it",
            );
        }
    }

    /// Makes a call, and counts it by what `read` makes of its reply. A script that is sent once more is no failure.
    async fn call<T>(
        &self,
        body: String,
        timeout: Millis,
        read: impl FnOnce(&RedisResponse) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begun = self.effects.now();
        let reply = self.effects.call_redis(body, timeout).await;
        let took = self.effects.now().since(begun);
        let result = reply.and_then(|reply| read(&reply));
        let counted = match &result {
            Err(StoreError::Refused(word)) if word == "NOSCRIPT" => Ok(()),
            Err(StoreError::NotCompiled) => Ok(()),
            // Redis does well: the application's value does not.
            Err(StoreError::NotANumber) => Ok(()),
            other => other.as_ref().map(drop),
        };
        self.calls.borrow_mut().count(counted, took);
        result
    }

    async fn evaluate<A: ScriptAnswer>(
        &self,
        command: String,
        timeout: Millis,
    ) -> Result<A, StoreError> {
        self.call(command, timeout, script_answer).await
    }
}

impl<E: Effects> Scripts for RestClient<E> {
    async fn run_script<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<A, StoreError> {
        self.run_script_within(script, call, self.timeout).await
    }

    async fn run_script_within<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &ScriptCall,
        timeout: Millis,
    ) -> Result<A, StoreError> {
        let timeout = timeout.min(self.timeout);
        let started = self.effects.now();
        let refused = self.refuses_flag.get();
        let mut form = self.form(started);
        let mut whole = false;
        let mut left = timeout;
        // At most four calls. Whatever is sent again has not run.
        loop {
            let command = match whole {
                false => call.to_json("EVALSHA", script.sha1(form)),
                true => call.to_json("EVAL", script.text(form)),
            };
            let result = self.evaluate(command, left).await;
            match &result {
                Err(StoreError::Refused(word)) if word == "NOSCRIPT" && !whole => {
                    whole = form == ScriptForm::Plain || refused == Deadline::OVER;
                }
                Err(StoreError::NotCompiled) if form == ScriptForm::Flagged => whole = false,
                Ok(_) if form == ScriptForm::Flagged && refused != Deadline::OVER => {
                    self.refuses_flag.set(Deadline::OVER);
                    return result;
                }
                _ => return result,
            }
            let now = self.effects.now();
            if form == ScriptForm::Flagged && !whole {
                form = ScriptForm::Plain;
                // Before it is tried: where the time does not suffice for all calls, the next decision goes on from here.
                self.refuse_flag(now);
            }
            left = Millis::new(timeout.get().saturating_sub(now.since(started).get()));
            if left == Millis::ZERO {
                return Err(StoreError::Timeout);
            }
        }
    }
}

impl<E: Effects> Database for RestClient<E> {
    async fn run(&self, commands: Vec<Command>, _: Timestamp) -> Result<Vec<Value>, StoreError> {
        let wanted = commands.len();
        match <[Command; 1]>::try_from(commands) {
            Ok([command]) => {
                let body = Value::from(command).to_string();
                self.call(body, self.timeout, one_reply).await
            }
            Err(commands) => {
                let call = run::call(&commands);
                match self.run_script(&run::SCRIPT, &call).await? {
                    Value::Array(replies) if replies.len() == wanted => Ok(replies),
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

/// The reply to one command, which may be `null`.
fn one_reply(reply: &RedisResponse) -> Result<Vec<Value>, StoreError> {
    let value = json::value(&reply.body).unwrap_or_default();
    match value.get("result") {
        Some(Value::Null) if reply.status == 200 && value["error"].is_null() => {
            Ok(vec![Value::Null])
        }
        _ => result(reply).map(|result| vec![result]),
    }
}

/// A script's answer: by hand in its usual form, else by serde.
fn script_answer<A: ScriptAnswer>(reply: &RedisResponse) -> Result<A, StoreError> {
    let inside = reply.body.strip_prefix("{\"result\":");
    let inside = inside.and_then(|rest| rest.strip_suffix('}'));
    if reply.status == 200
        && let Some(answer) = inside.and_then(A::from_json)
    {
        return Ok(answer);
    }
    A::from_value(&result(reply)?).ok_or(StoreError::Malformed)
}

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

fn result(reply: &RedisResponse) -> Result<Value, StoreError> {
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

/// What errors that begin with `ERR` contain. What is refused comes first: Redis quotes an unknown command's arguments,
/// and so the script.
const MEANINGS: [(&str, StoreError); 11] = [
    ("unknown command", StoreError::UnknownCommand),
    ("Unknown Redis command", StoreError::UnknownCommand),
    ("Command is not available", StoreError::UnknownCommand),
    ("user executing the script", StoreError::NotPermitted),
    // Of a command with more than ten words, before any `AUTH`.
    ("Protocol error: unauthenticated", StoreError::Unauthorized),
    // A password for a server that has none, since Redis 6 and before.
    ("without any password configured", StoreError::Unauthorized),
    ("but no password is set", StoreError::Unauthorized),
    // Redis and Valkey 7 and later.
    ("script shebang", StoreError::NotCompiled),
    // Before Redis 7, and KeyDB.
    ("Error compiling script", StoreError::NotCompiled),
    // Dragonfly, which passes on what Lua says, and older versions of it.
    ("unexpected symbol near '#'", StoreError::NotCompiled),
    ("Invalid flag: ", StoreError::NotCompiled),
];
