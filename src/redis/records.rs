//! Records other than quotas: blocks, events and counts of denials, under one prefix of a database.
//!
//! Decisions do not use them ([`crate::store`] does that). Operators' calls do, and duties that run after
//! the response is sent.

use std::cell::OnceCell;
use std::pin::Pin;

use serde_json::Value;

use super::keys::{Keys, RedisKey};
use super::script::ScriptForm;
use super::slots::SlotBatches;
use super::{Command, Database, number_of};
use crate::budget::{Budget, Purpose};
use crate::error::StoreError;
use crate::time::Timestamp;

/// How many steps in a row may fail before the others are not tried. Each may take as long as a timeout.
pub(crate) const MAX_FAILURES_IN_A_ROW: u32 = 5;

/// A future of the replies to commands.
pub(crate) type Replies<'a> = Pin<Box<dyn Future<Output = Result<Vec<Value>, StoreError>> + 'a>>;

/// A future of exactly `N` replies.
pub(crate) type RepliesTo<'a, const N: usize> =
    Pin<Box<dyn Future<Output = Result<[Value; N], StoreError>> + 'a>>;

/// Records under a prefix of a database.
pub struct Records<D> {
    database: D,
    keys: Keys,
    budget: OnceCell<Budget>,
}

impl<D: Database> Records<D> {
    /// Records in `database`, whose keys `keys` spells.
    pub const fn new(database: D, keys: Keys) -> Self {
        Self {
            database,
            keys,
            budget: OnceCell::new(),
        }
    }

    /// Counts every command from now on in `budget`. Only the first call has an effect.
    pub fn share_budget(&self, budget: Budget) {
        let _ = self.budget.set(budget);
    }

    /// The database.
    pub const fn database(&self) -> &D {
        &self.database
    }

    /// The budget that commands are counted in, if there is one.
    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.get()
    }

    /// Counts commands in the budget before they run.
    ///
    /// # Errors
    ///
    /// [`StoreError::OverCap`] if the budget does not allow them.
    pub(crate) fn prepay(&self, commands: usize, now: Timestamp) -> Result<(), StoreError> {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        let paid =
            (self.budget()).is_none_or(|budget| budget.prepay(commands, Purpose::Records, now));
        paid.then_some(()).ok_or(StoreError::OverCap)
    }

    /// Who uses the records: `shared` if all isolates do, `isolate` if only this one does.
    #[must_use]
    pub fn scope(&self) -> &'static str {
        if self.database.is_shared() {
            "shared"
        } else {
            "isolate"
        }
    }

    /// Whether other isolates use the same records.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    /// A key's whole text.
    #[must_use]
    pub fn key(&self, key: RedisKey<'_>) -> String {
        self.keys.text(key)
    }

    /// Runs commands like [`run_all`](Self::run_all), and returns exactly one reply for each.
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

    /// Runs commands, and returns exactly one reply for each. In a cluster the commands of one slot are one
    /// step, and the slots run one after the other, in the order in which they first occur. If one fails,
    /// those before it have run. The future is boxed, so that its many callers do not grow in size.
    pub(crate) fn run_all(&self, commands: Vec<Command>, now: Timestamp) -> Replies<'_> {
        Box::pin(async move {
            if commands.is_empty() {
                return Ok(Vec::new());
            }
            let batches = self.batches(commands);
            self.count(batches.sizes().map(|size| self.cost(size)).sum(), now);
            self.run_batches(batches, now).await
        })
    }

    /// Splits commands into the batches in which they run: in a cluster one for each slot, else one.
    pub(crate) fn batches(&self, commands: Vec<Command>) -> SlotBatches {
        match self.is_clustered() {
            true => SlotBatches::by_slot(commands),
            false => SlotBatches::single(commands),
        }
    }

    /// Runs batches one after the other, and returns exactly one reply for each command. It counts nothing in
    /// the budget.
    pub(crate) fn run_batches(&self, mut batches: SlotBatches, now: Timestamp) -> Replies<'_> {
        Box::pin(async move {
            let mut number = 0;
            while let Some(commands) = batches.take(number) {
                let replies = self.database.run(commands, now).await?;
                batches.put(number, replies).ok_or(StoreError::Malformed)?;
                number += 1;
            }
            Ok(batches.replies())
        })
    }

    /// Runs commands like [`run_all`](Self::run_all), but goes on after a batch that fails: its replies are
    /// `null`. Also returns the first error. After [several](MAX_FAILURES_IN_A_ROW) failures in a row, the
    /// remaining batches do not run.
    pub(crate) async fn run_each(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> (Vec<Value>, Option<StoreError>) {
        let mut batches = self.batches(commands);
        self.count(batches.sizes().map(|size| self.cost(size)).sum(), now);
        let (mut number, mut failures, mut error) = (0, 0, None);
        while failures < MAX_FAILURES_IN_A_ROW
            && let Some(commands) = batches.take(number)
        {
            let ran = match self.database.run(commands, now).await {
                Ok(replies) => batches.put(number, replies).ok_or(StoreError::Malformed),
                Err(error) => Err(error),
            };
            failures = if ran.is_ok() { 0 } else { failures + 1 };
            error = error.or(ran.err());
            number += 1;
        }
        (batches.replies(), error)
    }

    /// Whether the keys are for a Redis Cluster: those of each caller are in one slot, those of no caller in
    /// another. Commands of several slots are several steps.
    #[must_use]
    pub const fn is_clustered(&self) -> bool {
        self.keys.is_clustered()
    }

    /// How many commands are billed for `commands` in one step. Several run as a script, which is billed as
    /// one more.
    pub(crate) fn cost(&self, commands: usize) -> usize {
        commands + usize::from(commands > 1 && self.is_shared())
    }

    /// Counts commands in the budget: those that are sent, and those that a script runs.
    pub(crate) fn count(&self, commands: usize, now: Timestamp) {
        if let Some(budget) = self.budget() {
            budget.count(u32::try_from(commands).unwrap_or(u32::MAX), now);
        }
    }

    /// The same as [`Database::script_form`].
    pub(crate) fn script_form(&self) -> Option<ScriptForm> {
        self.database.script_form()
    }

    /// Deletes keys, and returns how many existed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn delete(&self, keys: &[RedisKey<'_>], now: Timestamp) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let [deleted] = self.run([self.deletion(keys)], now).await?;
        Ok(number_of(&deleted))
    }

    /// The pattern that all of the limiter's keys match.
    pub(crate) fn pattern(&self) -> String {
        self.keys.pattern()
    }

    /// The command that deletes keys.
    pub(crate) fn deletion(&self, keys: &[RedisKey<'_>]) -> Command {
        let keys = keys.iter().map(|key| self.key(*key));
        ["DEL".to_owned()].into_iter().chain(keys).collect()
    }
}
