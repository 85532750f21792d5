//! Records beside the quotas: blocks, events, counts of denials, under one prefix of a database.
//!
//! Decisions do not come by here ([`crate::store`]); these are for operators, and for what is
//! written once a response is on its way.

use std::cell::OnceCell;
use std::pin::Pin;

use serde_json::Value;

use super::keys::{Keys, RedisKey};
use super::script::ScriptForm;
use super::slots::SlotBatches;
use super::{Command, Database, whole};
use crate::budget::{Budget, Purpose};
use crate::error::StoreError;
use crate::time::Timestamp;

/// Steps in a row that may fail, each in a slot of its own, before the others are not tried: each may take as long as a timeout.
pub(crate) const FAILURES_IN_A_ROW: u32 = 5;

/// Replies to commands, to be awaited.
pub(crate) type Replies<'a> = Pin<Box<dyn Future<Output = Result<Vec<Value>, StoreError>> + 'a>>;

/// As many replies as commands, to be awaited.
pub(crate) type RepliesTo<'a, const N: usize> =
    Pin<Box<dyn Future<Output = Result<[Value; N], StoreError>> + 'a>>;

/// Records under a prefix of a database.
pub struct Records<D> {
    database: D,
    keys: Keys,
    budget: OnceCell<Budget>,
}

impl<D: Database> Records<D> {
    /// In `database`, under `keys`.
    pub const fn new(database: D, keys: Keys) -> Self {
        Self {
            database,
            keys,
            budget: OnceCell::new(),
        }
    }

    /// Counts every command that is run from now on in `budget`. A second call changes nothing.
    pub fn share(&self, budget: Budget) {
        let _ = self.budget.set(budget);
    }

    /// The database.
    pub const fn database(&self) -> &D {
        &self.database
    }

    /// What may be spent, if that is bounded.
    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.get()
    }

    /// Pays for commands that are run next.
    ///
    /// # Errors
    ///
    /// [`StoreError::OverCap`].
    pub(crate) fn prepay(&self, commands: usize, now: Timestamp) -> Result<(), StoreError> {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        let paid =
            (self.budget()).is_none_or(|budget| budget.prepay(commands, Purpose::Records, now));
        paid.then_some(()).ok_or(StoreError::OverCap)
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

    /// A key's whole text.
    #[must_use]
    pub fn key(&self, key: RedisKey<'_>) -> String {
        self.keys.text(key)
    }

    /// Exactly as many replies as commands. Boxed, like [`run_all`](Self::run_all).
    pub(crate) fn run<const N: usize>(
        &self,
        commands: [Command; N],
        now: Timestamp,
    ) -> RepliesTo<'_, N> {
        let replies = self.run_all(commands.into(), now);
        Box::pin(async move {
            let replies = replies.await?;
            replies.try_into().map_err(|_| StoreError::Malformed)
        })
    }

    /// Exactly as many replies as commands. In a cluster what is of one slot is one step, and one slot comes after the
    /// other, in the order in which each is first named; if one fails, those before it have run. Boxed: its many callers are not the larger for it.
    pub(crate) fn run_all(&self, commands: Vec<Command>, now: Timestamp) -> Replies<'_> {
        Box::pin(async move {
            if commands.is_empty() {
                return Ok(Vec::new());
            }
            let parts = self.parts(commands);
            self.count(parts.sizes().map(|size| self.cost(size)).sum(), now);
            self.run_parts(parts, now).await
        })
    }

    /// The parts in which commands run: in a cluster one for each slot, else one.
    pub(crate) fn parts(&self, commands: Vec<Command>) -> SlotBatches {
        match self.is_clustered() {
            true => SlotBatches::by_slot(commands),
            false => SlotBatches::whole(commands),
        }
    }

    /// Runs parts, one after the other: exactly as many replies as commands. None is counted in the budget.
    pub(crate) fn run_parts(&self, mut parts: SlotBatches, now: Timestamp) -> Replies<'_> {
        Box::pin(async move {
            let mut number = 0;
            while let Some(commands) = parts.take(number) {
                let replies = self.database.run(commands, now).await?;
                parts.put(number, replies).ok_or(StoreError::Malformed)?;
                number += 1;
            }
            Ok(parts.replies())
        })
    }

    /// As [`run_all`](Self::run_all), but a part that fails keeps none behind it from running: its replies are null. With
    /// why the first one failed. Where [several](FAILURES_IN_A_ROW) in a row fail, those behind them do not run.
    pub(crate) async fn run_each(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> (Vec<Value>, Option<StoreError>) {
        let mut parts = self.parts(commands);
        self.count(parts.sizes().map(|size| self.cost(size)).sum(), now);
        let (mut number, mut failures, mut error) = (0, 0, None);
        while failures < FAILURES_IN_A_ROW
            && let Some(commands) = parts.take(number)
        {
            let ran = match self.database.run(commands, now).await {
                Ok(replies) => parts.put(number, replies).ok_or(StoreError::Malformed),
                Err(error) => Err(error),
            };
            failures = if ran.is_ok() { 0 } else { failures + 1 };
            error = error.or(ran.err());
            number += 1;
        }
        (parts.replies(), error)
    }

    /// Whether keys of one caller, and those of no caller, are in slots apart: what is of several slots is several steps.
    #[must_use]
    pub const fn is_clustered(&self) -> bool {
        self.keys.is_clustered()
    }

    /// What `commands` in one step cost: several are a script, which is billed as well.
    pub(crate) fn cost(&self, commands: usize) -> usize {
        commands + usize::from(commands > 1 && self.is_shared())
    }

    /// Counts commands in the budget: those of a call, or that a script in it runs.
    pub(crate) fn count(&self, commands: usize, now: Timestamp) {
        if let Some(budget) = self.budget() {
            budget.count(u32::try_from(commands).unwrap_or(u32::MAX), now);
        }
    }

    /// As [`Database::script_form`].
    pub(crate) fn script_form(&self) -> Option<ScriptForm> {
        self.database.script_form()
    }

    /// Deletes keys; how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn delete(&self, keys: &[RedisKey<'_>], now: Timestamp) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let [deleted] = self.run([self.deletion(keys)], now).await?;
        Ok(whole(&deleted))
    }

    /// The pattern that all of the limiter's keys match.
    pub(crate) fn pattern(&self) -> String {
        self.keys.pattern()
    }

    pub(crate) fn deletion(&self, keys: &[RedisKey<'_>]) -> Command {
        let keys = keys.iter().map(|key| self.key(*key));
        ["DEL".to_owned()].into_iter().chain(keys).collect()
    }
}
