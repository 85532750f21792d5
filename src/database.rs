//! Records beside the quotas: blocks, events, counts of denials. A few of Redis's commands, in
//! transactions: in Upstash over REST ([`rest`]), or in this isolate ([`isolate`]) where no Upstash
//! is configured.
//!
//! Decisions do not come by here ([`crate::store`]); these are for operators, and for what is
//! written once a response is on its way.

use serde_json::Value;

use crate::error::StoreError;
use crate::time::Timestamp;

pub mod isolate;
pub mod rest;

/// A Redis command and its arguments.
pub type Command = Vec<String>;

/// Makes a [`Command`] of words.
pub fn command<const N: usize>(words: [&str; N]) -> Command {
    words.map(str::to_owned).into()
}

/// Runs commands.
#[allow(async_fn_in_trait)]
pub trait Database {
    /// Runs `commands` in order and without others in between, and answers each as Redis does over
    /// REST: texts, numbers, lists and `null`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when they cannot be run, or one of them fails; an earlier one may have run.
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError>;

    /// Whether other isolates see the same.
    fn is_shared(&self) -> bool;
}

/// Records under a prefix of a database.
pub struct Records<D> {
    database: D,
    prefix: String,
}

impl<D: Database> Records<D> {
    /// Every key starts with `prefix`.
    pub fn new(database: D, prefix: impl Into<String>) -> Self {
        Self {
            database,
            prefix: prefix.into(),
        }
    }

    /// Where they are.
    #[cfg(test)]
    pub(crate) const fn database(&self) -> &D {
        &self.database
    }

    /// Who sees the records: `shared`, or this `isolate` alone.
    #[must_use]
    pub fn scope(&self) -> &'static str {
        if self.database.is_shared() {
            "shared"
        } else {
            "isolate"
        }
    }

    /// Whether other isolates see the same.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Exactly as many replies as commands.
    pub(crate) async fn run<const N: usize>(
        &self,
        commands: [Command; N],
        now: Timestamp,
    ) -> Result<[Value; N], StoreError> {
        let replies = self.run_all(commands.into(), now).await?;
        replies.try_into().map_err(|_| StoreError::Malformed)
    }

    pub(crate) async fn run_all(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> Result<Vec<Value>, StoreError> {
        let wanted = commands.len();
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let replies = self.database.run(commands, now).await?;
        if replies.len() == wanted {
            Ok(replies)
        } else {
            Err(StoreError::Malformed)
        }
    }

    /// Deletes keys; how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn delete(&self, names: &[String], now: Timestamp) -> Result<u64, StoreError> {
        if names.is_empty() {
            return Ok(0);
        }
        let [deleted] = self.run([self.deletion(names)], now).await?;
        Ok(whole(&deleted))
    }

    pub(crate) fn deletion(&self, names: &[String]) -> Command {
        let keys = names.iter().map(|name| self.key(name));
        ["DEL".to_owned()].into_iter().chain(keys).collect()
    }
}

/// A reply's number; what is none counts as zero.
pub(crate) fn whole(reply: &Value) -> u64 {
    match reply {
        Value::String(text) => text.parse().unwrap_or_default(),
        other => other.as_u64().unwrap_or_default(),
    }
}

/// A reply's texts; what is no text is left out.
pub(crate) fn texts(reply: &Value) -> Vec<&str> {
    let list = reply.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// A reply's texts in pairs: fields with their values, or members with their scores.
pub(crate) fn pairs(reply: &Value) -> Vec<(&str, &str)> {
    let list = texts(reply);
    list.chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests;
