//! Atomic changes of the blocks. The conditions of a change are checked in the same step that writes it, so
//! that no other change comes between.

use std::pin::Pin;

use serde_json::Value;

use super::version::{self, epoch_of, ranges_of};
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::script::{Script, ScriptCall};
use crate::redis::{Command, Database, command, run};
use crate::seed::Seed;
use crate::time::Timestamp;

/// The script that makes changes in Redis. A test checks the SHA-1s.
const SCRIPT: Script = Script {
    text: include_str!("change.lua"),
    sha1: "d90a2cfd39b9de9a6ab462e736054f5f9cff47a6",
    plain_sha1: "dab96cebb0bcf53735c4ac14ec4ef97bd5a44164",
};

/// Commands that run only if every guard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuardedCommands {
    guards: Vec<(Command, Condition)>,
    commands: Vec<Command>,
    version_change: VersionChange,
}

/// How guarded commands change the [`version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VersionChange {
    /// The version stays: nothing changes that isolates copy.
    #[default]
    Nothing,
    /// The list of addresses gets a new version.
    Addresses,
    /// The ranges get a new version.
    Ranges,
}

/// The condition that the reply to a guard's command must meet. The command runs only if all guards before it
/// held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The reply is this text or number.
    Is(String),
    /// There is no reply.
    Absent,
    /// The reply is a number above this.
    Above(u64),
    /// The reply is a number below this.
    Below(u64),
}

impl GuardedCommands {
    /// Commands without guards.
    pub(crate) fn new(commands: impl Into<Vec<Command>>, version_change: VersionChange) -> Self {
        Self {
            guards: Vec::new(),
            commands: commands.into(),
            version_change,
        }
    }

    /// Adds a guard.
    pub(crate) fn only_if(mut self, guard: Command, condition: Condition) -> Self {
        self.guards.push((guard, condition));
        self
    }

    /// How many commands it runs at most.
    pub(crate) fn commands(&self) -> usize {
        let version_commands = match self.version_change {
            VersionChange::Nothing => 0,
            VersionChange::Addresses => 2,
            VersionChange::Ranges => 4,
        };
        self.guards.len() + self.commands.len() + version_commands
    }

    /// Every command that it may run, except those that change the version.
    fn all(&self) -> impl Iterator<Item = &Command> {
        let guards = self.guards.iter().map(|(read, _)| read);
        guards.chain(&self.commands)
    }

    /// Adds the guard that `read` still has the same reply as before.
    pub(crate) fn only_if_still(self, read: Command, before: Option<&str>) -> Self {
        let condition = before.map_or(Condition::Absent, |text| Condition::Is(text.to_owned()));
        self.only_if(read, condition)
    }
}

impl VersionChange {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Addresses => "addresses",
            Self::Ranges => "ranges",
        }
    }
}

impl Condition {
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Is(text) => ("is", text.clone()),
            Self::Absent => ("absent", String::new()),
            Self::Above(number) => ("above", number.to_string()),
            Self::Below(number) => ("below", number.to_string()),
        }
    }

    fn holds(&self, reply: Option<&str>) -> bool {
        let number = || reply.and_then(|text| text.parse::<u64>().ok());
        match self {
            Self::Is(text) => reply == Some(text),
            Self::Absent => reply.is_none(),
            Self::Above(bound) => number().is_some_and(|number| number > *bound),
            Self::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// The replies to a step's commands. `None` if a guard did not hold.
pub(crate) type GuardedReplies = Option<Vec<Value>>;

/// A future of the outcomes of steps.
pub(crate) type ChangeFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<GuardedReplies>, StoreError>> + 'a>>;

impl<D: Database> Records<D> {
    /// Runs steps in order as one atomic step, and returns an outcome for each. Replies are texts. In a cluster all
    /// keys must be in one slot. For steps that change the version, that is the slot of the records.
    pub(crate) fn change(&self, steps: Vec<GuardedCommands>, now: Timestamp) -> ChangeFuture<'_> {
        Box::pin(async move {
            let token = token(now);
            let expected = steps.len();
            let outcomes = if self.script_form().is_some() {
                self.change_remotely(&steps, &token, now).await?
            } else {
                self.change_locally(steps, &token, now).await?
            };
            if outcomes.len() == expected {
                Ok(outcomes)
            } else {
                Err(StoreError::Malformed)
            }
        })
    }

    /// Runs steps with the script, in Redis.
    async fn change_remotely(
        &self,
        steps: &[GuardedCommands],
        token: &str,
        now: Timestamp,
    ) -> Result<Vec<GuardedReplies>, StoreError> {
        let in_script: usize = steps.iter().map(GuardedCommands::commands).sum();
        self.count(in_script + 1, now);
        let call = self.call(steps, token);
        let answer = self.database().run_script_for_value(&SCRIPT, &call).await?;
        read(answer).ok_or(StoreError::Malformed)
    }

    fn call(&self, steps: &[GuardedCommands], token: &str) -> ScriptCall {
        let mut call = ScriptCall::default();
        // In a cluster, steps that leave the version alone may be in another slot.
        let changes_version =
            |step: &GuardedCommands| step.version_change != VersionChange::Nothing;
        if !self.is_clustered() || steps.iter().any(changes_version) {
            for key in [RedisKey::BlockedRangesVersion, RedisKey::BlockedRanges] {
                call.keys.push(&self.key(key));
            }
        }
        call.arguments.push(token);
        for step in steps {
            call.arguments.push(step.version_change.name());
            call.arguments.push_number(step.guards.len() as u64);
            for (read, condition) in &step.guards {
                let (relation, value) = condition.words();
                call.arguments.push(relation);
                call.arguments.push(&value);
                run::push_words(&mut call.arguments, read);
            }
            call.arguments.push_number(step.commands.len() as u64);
            for words in &step.commands {
                run::push_words(&mut call.arguments, words);
            }
        }
        run::push_keys(&mut call.keys, steps.iter().flat_map(GuardedCommands::all));
        call
    }

    /// Does what the script does, in a database in this isolate.
    async fn change_locally(
        &self,
        steps: Vec<GuardedCommands>,
        token: &str,
        now: Timestamp,
    ) -> Result<Vec<GuardedReplies>, StoreError> {
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            let mut holds = true;
            for (guard, condition) in step.guards {
                if holds {
                    let reply = self.run_all(vec![guard], now).await?;
                    let reply = reply.first().and_then(text);
                    holds = condition.holds(reply.as_deref());
                }
            }
            if !holds {
                outcomes.push(None);
                continue;
            }
            let mut replies = self.run_all(step.commands, now).await?;
            for reply in &mut replies {
                *reply = text(reply).unwrap_or_default().into();
            }
            outcomes.push(Some(replies));
            if step.version_change != VersionChange::Nothing {
                let versions = self.run_all(self.read_version().into(), now).await?;
                let commands = self.version_commands(step.version_change, &versions, token);
                self.run_all(commands, now).await?;
            }
        }
        Ok(outcomes)
    }

    /// The commands that change the version. `versions` are the blocks' version and the one in the ranges' hash
    /// before the change.
    fn version_commands(
        &self,
        change: VersionChange,
        versions: &[Value],
        token: &str,
    ) -> Vec<Command> {
        let [version, hash] =
            [RedisKey::BlockedRangesVersion, RedisKey::BlockedRanges].map(|key| self.key(key));
        let stored = versions.first().and_then(text).unwrap_or_default();
        let carried = versions.get(1).and_then(text);
        let ranges = ranges_of(&stored);
        let carried = carried.as_deref().filter(|text| epoch_of(text).is_some());
        let short = &token[..token.len().min(8)];
        let mut commands = Vec::with_capacity(2);
        let changed = if change == VersionChange::Addresses {
            format!("{}-{short}", ranges.or(carried).unwrap_or("0-0"))
        } else {
            let kept = carried.filter(|carried| ranges.is_none_or(|ranges| ranges == *carried));
            let epoch = kept.and_then(epoch_of).unwrap_or(short);
            let addresses = ranges.and_then(|ranges| stored.get(ranges.len() + 1..));
            let changed_ranges = format!("{epoch}-{token}");
            commands.push(command(["HSET", &hash, version::FIELD, &changed_ranges]));
            format!("{changed_ranges}-{}", addresses.unwrap_or(short))
        };
        commands.push(command(["SET", &version, &changed]));
        commands
    }

    /// The commands that read the blocks' version, as a list of one, and the version in the ranges' hash.
    pub(super) fn read_version(&self) -> [Command; 2] {
        [
            // MGET, because GET fails if the key has a value of another type. MGET answers nil then.
            command(["MGET", &self.key(RedisKey::BlockedRangesVersion)]),
            command(["HGET", &self.key(RedisKey::BlockedRanges), version::FIELD]),
        ]
    }
}

/// A reply as text. For a list, that of its first item.
fn text(reply: &Value) -> Option<String> {
    match reply {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) => text(list.first()?),
        Value::Bool(_) | Value::Object(_) => None,
    }
}

/// Reads the script's answer. `None` if it has another form.
fn read(answer: Value) -> Option<Vec<GuardedReplies>> {
    let Value::Array(steps) = answer else {
        return None;
    };
    let outcome = |step| match step {
        Value::Array(mut replies) if !replies.is_empty() => {
            let guards_held = replies.remove(0) == "1";
            Some(guards_held.then_some(replies))
        }
        _ => None,
    };
    steps.into_iter().map(outcome).collect()
}

/// 64 random bits as hexadecimal digits.
fn token(now: Timestamp) -> String {
    // Without randomness, use the time. It does not repeat easily either.
    let bits = Seed::random_bits().unwrap_or(now.as_millis());
    format!("{bits:016x}")
}

#[cfg(test)]
mod tests;
