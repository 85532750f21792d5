//! Access to Redis, through two traits: [`Scripts`] runs a script with keys and arguments, and
//! [`Database`] runs several commands atomically.
//!
//! [`rest`] implements both over Upstash's REST API. Each call sends one command, so it runs several
//! commands as one script. [`emulator`] implements [`Database`] in the isolate's memory. [`keys`] spells
//! every key.

use serde_json::Value;

use crate::error::StoreError;
use crate::time::{Millis, Timestamp};

use script::{FromScriptReply, Script, ScriptCall, ScriptForm};

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

/// Builds a [`Command`] from words.
pub fn command<const N: usize>(words: [&str; N]) -> Command {
    // A function without the const parameter is compiled once, not for each number of words.
    command_of(&words)
}

#[inline(never)]
fn command_of(words: &[&str]) -> Command {
    words.iter().copied().map(str::to_owned).collect()
}

/// Runs scripts.
#[allow(async_fn_in_trait)]
pub trait Scripts {
    /// Runs `script` once, atomically. A call that fails is not repeated, because it may have run
    /// ([`StoreError::may_have_run`]).
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the script cannot be run, or its answer cannot be read.
    async fn run_script<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<A, StoreError>;

    /// Like [`run_script`](Self::run_script), with a timeout. It waits at most `timeout`, or the client's
    /// own timeout if that is shorter.
    ///
    /// # Errors
    ///
    /// The errors of [`run_script`](Self::run_script).
    async fn run_script_within<A: FromScriptReply>(
        &self,
        script: &Script,
        call: &ScriptCall,
        timeout: Millis,
    ) -> Result<A, StoreError>;
}

/// Runs commands.
#[allow(async_fn_in_trait)]
pub trait Database {
    /// Runs `commands` in order, without others in between. Returns one reply for each, as Redis answers
    /// over REST: texts, numbers, lists and `null`. A shared database runs several commands as one script,
    /// in which a command may have a few thousand words at most.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the commands cannot be run, or one of them fails. Earlier ones may have run.
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError>;

    /// Whether other isolates use the same data.
    fn is_shared(&self) -> bool;

    /// The form in which scripts are sent. `None` if the database runs no scripts. A database in this
    /// isolate needs none: its [`run`](Self::run) never waits, so several calls in a row are one step.
    fn script_form(&self) -> Option<ScriptForm> {
        None
    }

    /// Runs a script like [`Scripts::run_script`], and returns its answer as JSON. The script must not
    /// answer nil.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the script cannot be run, or its answer cannot be read.
    async fn run_script_for_value(&self, _: &Script, _: &ScriptCall) -> Result<Value, StoreError> {
        Err(StoreError::Malformed)
    }
}

/// The number in a reply. A reply that is no whole number counts as zero.
#[must_use]
pub fn number_of(reply: &Value) -> u64 {
    match reply {
        Value::String(text) => text.parse().unwrap_or_default(),
        other => other.as_u64().unwrap_or_default(),
    }
}

/// The texts in a reply. Items that are no text are left out.
#[must_use]
pub fn texts(reply: &Value) -> Vec<&str> {
    let list = reply.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// The texts in a reply as pairs: fields with their values, or members with their scores.
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
