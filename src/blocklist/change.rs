//! Changes of the blocks, in one atomic step: what depends on what is there is checked where it is
//! written, so that nothing comes between.

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

/// Changes as a Redis script; a test holds its names to its texts.
const SCRIPT: Script = Script {
    text: include_str!("change.lua"),
    sha1: "147a5f645f569476570aba339307da6687baef55",
    plain_sha1: "ab0f8484b60e97460fc5de4bd62f66b75f299ae5",
};

/// Commands that run where every guard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuardedCommands {
    guards: Vec<(Command, Condition)>,
    commands: Vec<Command>,
    mark: VersionChange,
}

/// How guarded commands change the [`version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VersionChange {
    /// Nothing that isolates copy.
    #[default]
    Nothing,
    /// The list of addresses.
    Addresses,
    /// The ranges.
    Ranges,
}

/// What a guard's command has to reply. It is run where the guards before it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// This text or number.
    Is(String),
    /// None.
    Absent,
    /// A number above this.
    Above(u64),
    /// A number below this.
    Below(u64),
}

impl GuardedCommands {
    /// Without guards.
    pub(crate) fn new(commands: impl Into<Vec<Command>>, mark: VersionChange) -> Self {
        Self {
            guards: Vec::new(),
            commands: commands.into(),
            mark,
        }
    }

    /// With one guard more.
    pub(crate) fn only_if(mut self, guard: Command, wanted: Condition) -> Self {
        self.guards.push((guard, wanted));
        self
    }

    /// How many commands it runs at most.
    pub(crate) fn commands(&self) -> usize {
        let marks = match self.mark {
            VersionChange::Nothing => 0,
            VersionChange::Addresses => 2,
            VersionChange::Ranges => 4,
        };
        self.guards.len() + self.commands.len() + marks
    }

    /// Every command that it may run, but for its mark.
    fn all(&self) -> impl Iterator<Item = &Command> {
        let guards = self.guards.iter().map(|(read, _)| read);
        guards.chain(&self.commands)
    }

    /// With the guard that `read` replies what it replied before.
    pub(crate) fn only_if_still(self, read: Command, before: Option<&str>) -> Self {
        let wanted = before.map_or(Condition::Absent, |text| Condition::Is(text.to_owned()));
        self.only_if(read, wanted)
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
            Self::Above(than) => number().is_some_and(|number| number > *than),
            Self::Below(than) => number().is_some_and(|number| number < *than),
        }
    }
}

/// A step's replies; `None` where a guard did not hold.
pub(crate) type GuardedReplies = Option<Vec<Value>>;

/// What steps came to, to be awaited.
pub(crate) type ChangeFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<GuardedReplies>, StoreError>> + 'a>>;

impl<D: Database> Records<D> {
    /// Runs steps in order, without anything in between: an outcome for each. Their replies are texts. In a cluster all are of
    /// one slot, and what marks a change is of the records'.
    pub(crate) fn change(&self, steps: Vec<GuardedCommands>, now: Timestamp) -> ChangeFuture<'_> {
        Box::pin(async move {
            let token = token(now);
            let wanted = steps.len();
            let outcomes = if self.script_form().is_some() {
                self.change_there(&steps, &token, now).await?
            } else {
                self.change_here(steps, &token, now).await?
            };
            if outcomes.len() == wanted {
                Ok(outcomes)
            } else {
                Err(StoreError::Malformed)
            }
        })
    }

    /// By the script.
    async fn change_there(
        &self,
        steps: &[GuardedCommands],
        token: &str,
        now: Timestamp,
    ) -> Result<Vec<GuardedReplies>, StoreError> {
        let inside: usize = steps.iter().map(GuardedCommands::commands).sum();
        self.count(inside + 1, now);
        let call = self.call(steps, token);
        let answer = self.database().run_script_for_value(&SCRIPT, &call).await?;
        read(answer).ok_or(StoreError::Malformed)
    }

    fn call(&self, steps: &[GuardedCommands], token: &str) -> ScriptCall {
        let mut call = ScriptCall::default();
        // In a cluster, what marks nothing may be of another slot.
        if !self.is_clustered() || steps.iter().any(|step| step.mark != VersionChange::Nothing) {
            for key in [RedisKey::BlockedRangesVersion, RedisKey::BlockedRanges] {
                call.keys.push(&self.key(key));
            }
        }
        call.arguments.push(token);
        for step in steps {
            call.arguments.push(step.mark.name());
            call.arguments.push_number(step.guards.len() as u64);
            for (read, wanted) in &step.guards {
                let (relation, value) = wanted.words();
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

    /// As the script, in a database in this isolate.
    async fn change_here(
        &self,
        steps: Vec<GuardedCommands>,
        token: &str,
        now: Timestamp,
    ) -> Result<Vec<GuardedReplies>, StoreError> {
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            let mut holds = true;
            for (guard, wanted) in step.guards {
                if holds {
                    let reply = self.run_all(vec![guard], now).await?;
                    let reply = reply.first().and_then(text);
                    holds = wanted.holds(reply.as_deref());
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
            if step.mark != VersionChange::Nothing {
                let versions = self.run_all(self.read_version().into(), now).await?;
                let marks = self.marks(step.mark, &versions, token);
                self.run_all(marks, now).await?;
            }
        }
        Ok(outcomes)
    }

    /// The commands that mark a change, where the blocks' version and the one that the ranges carry are
    /// `versions`.
    fn marks(&self, mark: VersionChange, versions: &[Value], token: &str) -> Vec<Command> {
        let [version, hash] =
            [RedisKey::BlockedRangesVersion, RedisKey::BlockedRanges].map(|key| self.key(key));
        let held = versions.first().and_then(text).unwrap_or_default();
        let carried = versions.get(1).and_then(text);
        let ranges = ranges_of(&held);
        let carried = carried.as_deref().filter(|text| epoch_of(text).is_some());
        let short = &token[..token.len().min(8)];
        let mut commands = Vec::with_capacity(2);
        let marked = if mark == VersionChange::Addresses {
            format!("{}-{short}", ranges.or(carried).unwrap_or("0-0"))
        } else {
            let kept = carried.filter(|carried| ranges.is_none_or(|ranges| ranges == *carried));
            let epoch = kept.and_then(epoch_of).unwrap_or(short);
            let addresses = ranges.and_then(|ranges| held.get(ranges.len() + 1..));
            let marked = format!("{epoch}-{token}");
            commands.push(command(["HSET", &hash, version::FIELD, &marked]));
            format!("{marked}-{}", addresses.unwrap_or(short))
        };
        commands.push(command(["SET", &version, &marked]));
        commands
    }

    /// The commands that read the blocks' version, in a list, and the version that the ranges carry.
    pub(super) fn read_version(&self) -> [Command; 2] {
        [
            // Not GET: what is no text counts as none, rather than to fail.
            command(["MGET", &self.key(RedisKey::BlockedRangesVersion)]),
            command(["HGET", &self.key(RedisKey::BlockedRanges), version::FIELD]),
        ]
    }
}

/// A reply as text, of a list its first.
fn text(reply: &Value) -> Option<String> {
    match reply {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) => text(list.first()?),
        Value::Bool(_) | Value::Object(_) => None,
    }
}

fn read(answer: Value) -> Option<Vec<GuardedReplies>> {
    let Value::Array(steps) = answer else {
        return None;
    };
    let outcome = |step| match step {
        Value::Array(mut replies) if !replies.is_empty() => {
            let held = replies.remove(0) == "1";
            Some(held.then_some(replies))
        }
        _ => None,
    };
    steps.into_iter().map(outcome).collect()
}

/// 64 random bits in hexadecimal digits.
fn token(now: Timestamp) -> String {
    // Without randomness, the time: it does not repeat easily either.
    let bits = Seed::random_bits().unwrap_or(now.as_millis());
    format!("{bits:016x}")
}

#[cfg(test)]
mod tests;
