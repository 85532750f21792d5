//! How Redis is spoken to: two seams, `run a script with keys and arguments` ([`Scripts`]) and `run
//! these commands atomically` ([`Database`]). [`rest`] implements both over Upstash's REST API, by calls of one command
//! each: several commands are one script. [`emulator`] implements the second in this isolate. Every key is spelled in [`keys`].

use serde_json::Value;

use crate::error::StoreError;
use crate::time::{Millis, Timestamp};

use script::{Script, ScriptAnswer, ScriptCall, ScriptForm};

pub mod connection;
pub mod emulator;
pub mod http;
pub mod json;
pub mod keys;
pub mod records;
pub mod resp;
pub mod rest;
pub(crate) mod run;
pub mod script;
pub(crate) mod slots;

/// A Redis command and its arguments.
pub type Command = Vec<String>;

/// Makes a [`Command`] of words.
pub fn command<const N: usize>(words: [&str; N]) -> Command {
    // Once, however many words there are.
    command_of(&words)
}

#[inline(never)]
fn command_of(words: &[&str]) -> Command {
    words.iter().copied().map(str::to_owned).collect()
}

/// Runs scripts.
#[allow(async_fn_in_trait)]
pub trait Scripts {
    /// Runs `script` once, atomically. A call that failed may have run
    /// ([`StoreError::may_have_run`]): it is not repeated.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be run or its answer cannot be read.
    async fn run_script<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<A, StoreError>;

    /// As [`run_script`](Self::run_script), waiting at most `timeout`, or for its own timeout if that is shorter.
    ///
    /// # Errors
    ///
    /// Those of [`run_script`](Self::run_script).
    async fn run_script_within<A: ScriptAnswer>(
        &self,
        script: &Script,
        call: &ScriptCall,
        timeout: Millis,
    ) -> Result<A, StoreError>;
}

/// Runs commands.
#[allow(async_fn_in_trait)]
pub trait Database {
    /// Runs `commands` in order and without others in between, and answers each as Redis does over
    /// REST: texts, numbers, lists and `null`. In a database that isolates share several are one script, in which none has
    /// more than some thousand words.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when they cannot be run, or one of them fails; an earlier one may have run.
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError>;

    /// Whether other isolates see the same.
    fn is_shared(&self) -> bool;

    /// The form in which it is sent scripts; `None`: it runs none. A database in this isolate needs none:
    /// its [`run`](Self::run) never waits, so that several in a row are one step.
    fn script_form(&self) -> Option<ScriptForm> {
        None
    }

    /// Runs a script that may answer anything but nil, as [`Scripts::run_script`] does.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be run or its answer cannot be read.
    async fn run_script_for_value(&self, _: &Script, _: &ScriptCall) -> Result<Value, StoreError> {
        Err(StoreError::Malformed)
    }
}

/// A reply's number; what is none counts as zero.
#[must_use]
pub fn whole(reply: &Value) -> u64 {
    match reply {
        Value::String(text) => text.parse().unwrap_or_default(),
        other => other.as_u64().unwrap_or_default(),
    }
}

/// A reply's texts; what is no text is left out.
#[must_use]
pub fn texts(reply: &Value) -> Vec<&str> {
    let list = reply.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// A reply's texts in pairs: fields with their values, or members with their scores.
#[must_use]
pub fn pairs(reply: &Value) -> Vec<(&str, &str)> {
    let list = texts(reply);
    list.chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod bridge_tests;
#[cfg(test)]
mod tests;
