//! Escalation: who is denied too often is blocked everywhere, for longer each time.

use serde_json::Value;

use super::{DenialCounts, Event, EventBatch, EventKind};
use crate::blocklist::records::BOUNDS_COMMANDS;
use crate::blocklist::{Block, BlockedBy, Condition, GuardedCommands, VersionChange};
use crate::budget::Budget;
use crate::client::{CallerKey, Network};
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::{MAX_FAILURES_IN_A_ROW, Records};
use crate::redis::{Database, command, number_of};
use crate::time::{Millis, Timestamp};

/// Parts of the time in which denials are counted: a denial counts for up to one of them longer.
const PARTS: u64 = 10;

/// Counters of an address that are read.
const COUNTERS: usize = PARTS as usize + 1;

/// What it costs, in commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// The counting, for each address.
    pub(crate) per_address: usize,
    /// The counting, for all of them together, the script among them.
    pub(crate) together: usize,
    /// A block at most, unless others change it meanwhile.
    pub(crate) per_block: usize,
}

impl Costs {
    pub(crate) const TOGETHER: Self = Self {
        per_address: 2,
        together: 2,
        per_block: 10,
    };

    /// In a cluster: the counting is a script for each address, a block some scripts and what they read.
    pub(crate) const APART: Self = Self {
        per_address: 4,
        together: 0,
        per_block: 37,
    };
}

/// The longest block that it sets: a day.
pub const LONGEST: Millis = Millis::from_secs(24 * 60 * 60);

/// How long a repetition is remembered.
const REMEMBERED: Millis = Millis::from_secs(2 * 24 * 60 * 60);

/// When to block, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// More denials than these.
    pub denials: u32,
    /// In this time.
    pub window: Millis,
    /// The first block. Each further one is twice as long as the one before, up to [`LONGEST`].
    pub block: Millis,
}

/// What came of counting denials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Escalated {
    /// The addresses that were blocked.
    pub blocks: Vec<(Network, Block)>,
    /// Those that are still to be blocked.
    pub due: Vec<Network>,
    /// Why others were not counted or blocked, where the database failed.
    pub error: Option<StoreError>,
}

impl Escalation {
    fn part(&self) -> u64 {
        self.window.get().div_ceil(PARTS).max(1)
    }

    /// The counter of denials at `at`.
    fn counter<'a>(&self, address: &'a str, at: Timestamp) -> RedisKey<'a> {
        RedisKey::Escalation(address, at.as_millis() / self.part())
    }

    fn counters<'a>(&self, address: &'a str, now: Timestamp) -> Vec<RedisKey<'a>> {
        let latest = now.as_millis() / self.part();
        let parts = 0..=PARTS;
        parts
            .map(|back| RedisKey::Escalation(address, latest.saturating_sub(back)))
            .collect()
    }

    fn block_of(&self, repetition: u64) -> Millis {
        let doublings = u32::try_from(repetition.saturating_sub(1))
            .unwrap_or(u32::MAX)
            .min(40);
        let length = self.block.get().saturating_mul(1 << doublings);
        Millis::new(length.min(LONGEST.get()))
    }
}

/// The denials in a batch that count towards a block, by address. An address that unrelated callers
/// share is not blocked; and denials that took longer to be written than the time in which they count, in
/// an outage for one, are over.
fn denials<'a>(
    batch: &'a EventBatch,
    rule: &Escalation,
    now: Timestamp,
) -> impl Iterator<Item = (Network, &'a DenialCounts)> {
    let window = rule.window;
    batch
        .denials
        .iter()
        .filter_map(move |tally| match tally.caller {
            CallerKey::Address(network) if !network.is_shared() => {
                (now.since(tally.since) <= window).then_some((network, tally))
            }
            _ => None,
        })
}

impl<D: Database> Records<D> {
    /// What the escalation costs. Of a block no more is paid for beforehand than there can be for records at all: else none
    /// would be set. The rest is counted as it is spent.
    pub(crate) fn escalation_costs(&self) -> Costs {
        let mut costs = match self.is_clustered() {
            true => Costs::APART,
            false => Costs::TOGETHER,
        };
        if let Some(most) = self.budget().and_then(Budget::most_for_records) {
            costs.per_block = costs.per_block.min(most as usize);
        }
        costs
    }

    /// Counts the denials of a batch, and blocks who has too many, and who is due, as far as the budget has
    /// the commands for it. In a cluster, an address whose slot fails keeps no other from being counted or blocked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database, where nothing was counted. Whatever fails after that is in [`Escalated::error`].
    pub async fn escalate(
        &self,
        batch: &EventBatch,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<Escalated, StoreError> {
        let mut escalated = Escalated::default();
        let (counted, error) = self.count_denials(batch, rule, now).await;
        let most_failures = match (self.is_clustered(), error) {
            (false, Some(error)) => return Err(error),
            (false, None) => 1,
            (true, error) => {
                escalated.error = error;
                MAX_FAILURES_IN_A_ROW
            }
        };
        let per_block = self.escalation_costs().per_block;
        let mut failures = 0;
        for network in batch.due.iter().copied().chain(counted) {
            if failures == most_failures || (self.prepay(per_block, now)).is_err() {
                escalated.due.push(network);
                continue;
            }
            match self.block_denied(network, rule, now).await {
                Ok(block) => {
                    failures = 0;
                    escalated.blocks.extend(block.map(|block| (network, block)));
                }
                Err(error) => {
                    failures += 1;
                    escalated.due.push(network);
                    escalated.error.get_or_insert(error);
                }
            }
        }
        // Else with later blocks.
        if failures < most_failures
            && !escalated.blocks.is_empty()
            && (self.prepay(BOUNDS_COMMANDS, now)).is_ok()
            && let Err(error) = self.bound_addresses(now).await
        {
            escalated.error.get_or_insert(error);
        }
        Ok(escalated)
    }

    /// Counts the denials of a batch: the addresses that have too many, as far as they could be counted, and why others
    /// could not.
    async fn count_denials(
        &self,
        batch: &EventBatch,
        rule: &Escalation,
        now: Timestamp,
    ) -> (Vec<Network>, Option<StoreError>) {
        let denials: Vec<(Network, &DenialCounts)> = denials(batch, rule, now).collect();
        if denials.is_empty() {
            return (Vec::new(), None);
        }
        let mut commands = Vec::with_capacity(2 * denials.len() + 1);
        let mut read = vec!["MGET".to_owned()];
        let expiry = (rule.window + Millis::new(2 * rule.part()))
            .get()
            .to_string();
        for (network, tally) in &denials {
            let address = network.to_string();
            // No later than they were, so that none counts for longer than it does.
            let counter = rule.counter(&address, tally.since.min(now));
            let counter = self.key(counter);
            commands.push(command(["INCRBY", &counter, &tally.count().to_string()]));
            commands.push(command(["PEXPIRE", &counter, &expiry]));
            let counters = rule.counters(&address, now);
            read.extend(counters.iter().map(|key| self.key(*key)));
        }
        commands.push(read);
        let (replies, error) = self.run_each(commands, now).await;
        let counted = replies.last().and_then(Value::as_array);
        let counted = counted.map(Vec::as_slice).unwrap_or_default();
        let counted = denials.iter().zip(counted.chunks(COUNTERS));
        let has_too_many = counted.filter(|(_, counters)| {
            let sum: u64 = counters.iter().map(number_of).sum();
            sum > u64::from(rule.denials)
        });
        let due = has_too_many.map(|((network, _), _)| *network).collect();
        (due, error)
    }

    /// Blocks `network`, unless another isolate does, or it is blocked already: in one step, so that an
    /// operator's block that comes at this moment stays as it is, record and list alike.
    async fn block_denied(
        &self,
        network: Network,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<Option<Block>, StoreError> {
        let address = network.to_string();
        let repetitions = self.key(RedisKey::Escalated(&address));
        let [earlier] = self.run([command(["GET", &repetitions])], now).await?;
        let repetition = number_of(&earlier).saturating_add(1);
        let until = (now + rule.block_of(repetition)).as_millis();
        let block = Block {
            until: Some(until),
            since: now.as_millis(),
            by: BlockedBy::Escalation,
            reason: Some(format!(
                "denied more than {} times in {} s",
                rule.denials,
                rule.window.secs_ceil()
            )),
        };
        let [mut set, list] = self.set_address(&address, &block, now);
        set.push("NX".to_owned());
        let remembered = REMEMBERED.get().to_string();
        let repeated = repetition.to_string();
        let remember = command(["SET", &repetitions, &repeated, "PX", &remembered]);
        let mut listing = vec![list];
        listing.extend(self.append_one(&escalation(network, &block)));
        // Whoever takes the counters away is the one who blocks. Where a block stands, they are taken away
        // as well: what is told of denials from before it does not count after it.
        let counters = self.deletion(&rule.counters(&address, now));
        let step = |commands, mark| {
            GuardedCommands::new(commands, mark)
                .only_if(counters, Condition::Above(0))
                .only_if(set, Condition::Is("OK".to_owned()))
        };
        if self.is_clustered() {
            // As an operator's (src/blocklist/apart.rs), for the counters and the record in one step.
            self.list_address(&address, &block, None, now).await?;
            let step = step(vec![remember], VersionChange::Nothing);
            let outcomes = self.change(vec![step], now).await?;
            let done = outcomes.first().is_some_and(Option::is_some);
            let (record, event) = match done {
                true => (Some(block.to_record()), listing.split_off(1)),
                false => (self.record_of(&address, now).await?, Vec::new()),
            };
            self.sync_list(&address, record, event, now).await?;
            return Ok(done.then_some(block));
        }
        let mut commands = vec![remember];
        commands.append(&mut listing);
        let outcomes = self
            .change(vec![step(commands, VersionChange::Addresses)], now)
            .await?;
        let done = outcomes.first().is_some_and(Option::is_some);
        Ok(done.then_some(block))
    }
}

fn escalation(network: Network, block: &Block) -> Event {
    Event {
        id: format!("escalation-{}-{network}", block.since),
        time: block.since,
        last: block.since,
        kind: EventKind::Escalated,
        caller: CallerKey::Address(network),
        address: None,
        policy: super::records::BLOCKED.to_owned(),
        method: String::new(),
        path: String::new(),
        status: 0,
        count: 1,
        ray: None,
        country: None,
        asn: None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures_util::FutureExt;
    use serde_json::Value;

    use super::{Escalated, Escalation, LONGEST};
    use crate::blocklist::{Block, BlockTarget, BlockedBy};
    use crate::client::Network;
    use crate::error::StoreError;
    use crate::events::tests::{ALL, denied};
    use crate::events::{EventBatch, Recorder};
    use crate::redis::emulator::Emulator;
    use crate::redis::keys::Keys;
    use crate::redis::records::{MAX_FAILURES_IN_A_ROW, Records};
    use crate::redis::run::keys_of;
    use crate::redis::{Command, Database};
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::{Millis, Timestamp};

    const RULE: Escalation = Escalation {
        denials: 5,
        window: Millis::from_secs(60),
        block: Millis::from_secs(30),
    };

    fn at(seconds: u32) -> Timestamp {
        START + Millis::from_secs(seconds)
    }

    fn batch(caller: &str, policy: &str, count: u32) -> EventBatch {
        let recorder = Recorder::new(Seed::fixed());
        for _ in 0..count {
            recorder.count_denial(denied(caller, policy).caller, policy, START);
        }
        recorder.take(ALL)
    }

    /// The length of the block that so many denials just now lead to, in seconds.
    fn blocks(records: &Records<Emulator>, batch: &EventBatch, seconds: u32) -> Option<u64> {
        let mut batch = batch.clone();
        for tally in &mut batch.denials {
            tally.since = at(seconds);
        }
        blocks_late(records, &batch, seconds)
    }

    /// The same of denials at the start, which are written so late.
    fn blocks_late(records: &Records<Emulator>, batch: &EventBatch, seconds: u32) -> Option<u64> {
        let escalated = records.escalate(batch, &RULE, at(seconds)).now_or_never();
        let escalated = escalated.unwrap().unwrap();
        let until = escalated.blocks.first()?.1.until.unwrap();
        Some((until - at(seconds).as_millis()) / 1000)
    }

    fn records() -> Records<Emulator> {
        Records::new(Emulator::default(), Keys::new("t:"))
    }

    #[test]
    fn more_than_so_many_in_the_time_block() {
        let records = records();
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 5), 0), None);
        assert_eq!(
            blocks(&records, &batch("192.0.2.2", "auth", 1), 0),
            None,
            "another caller"
        );
        assert_eq!(
            blocks(&records, &batch("192.0.2.1", "auth", 1), 59),
            Some(30)
        );
        let known = records
            .blocklist_copy(at(60))
            .now_or_never()
            .unwrap()
            .unwrap();
        assert!(known.longest_block("192.0.2.1", at(60)).is_some());
        assert!(known.longest_block("192.0.2.1", at(89)).is_none());
        assert!(known.longest_block("192.0.2.2", at(60)).is_none());
    }

    /// A cluster that does not answer for the slots of some addresses.
    #[derive(Default)]
    struct Failing {
        held: Emulator,
        fails: RefCell<Vec<&'static str>>,
        all: Cell<bool>,
        calls: Cell<u32>,
    }

    impl Database for Failing {
        async fn run(
            &self,
            commands: Vec<Command>,
            now: Timestamp,
        ) -> Result<Vec<Value>, StoreError> {
            self.calls.set(self.calls.get() + 1);
            let fails = self.fails.borrow().clone();
            let fails = |key: &String| fails.iter().any(|of| key.contains(&format!("{{{of}}}")));
            if self.all.get() || commands.iter().flat_map(keys_of).any(fails) {
                return Err(StoreError::Timeout);
            }
            self.held.run(commands, now).await
        }

        fn is_shared(&self) -> bool {
            true
        }
    }

    const ALL_FOUR: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];

    fn many(callers: &[&str]) -> EventBatch {
        let denials = callers.iter().map(|caller| batch(caller, "auth", 6));
        let denials = denials.flat_map(|batch| batch.denials);
        EventBatch {
            denials: denials.collect(),
            ..EventBatch::default()
        }
    }

    fn escalated(records: &Records<Failing>, batch: &EventBatch) -> (Vec<String>, Escalated) {
        let escalated = records.escalate(batch, &RULE, at(0)).now_or_never();
        let escalated = escalated.unwrap().unwrap();
        let blocked = escalated.blocks.iter().map(|(it, _)| it.to_string());
        (blocked.collect(), escalated)
    }

    #[test]
    fn in_a_cluster_a_slot_that_fails_keeps_no_other_address_from_its_block() {
        for failing in ALL_FOUR {
            let records = Records::new(Failing::default(), Keys::clustered("t:"));
            let database = records.database();
            database.fails.replace(vec![failing]);
            let others: Vec<&str> = ALL_FOUR.into_iter().filter(|it| *it != failing).collect();
            let (blocked, escalated) = escalated(&records, &many(&ALL_FOUR));
            assert_eq!(blocked, others);
            let expected = (vec![], Some(StoreError::Timeout));
            assert_eq!((escalated.due, escalated.error), expected);
        }
    }

    /// It was counted before its slot failed, and is the first of those that are due.
    #[test]
    fn in_a_cluster_one_that_is_due_and_cannot_be_blocked_stays_due_and_keeps_nobody() {
        let records = Records::new(Failing::default(), Keys::clustered("t:"));
        records.database().fails.replace(vec!["192.0.2.1"]);
        let mut batch = many(&ALL_FOUR[1..]);
        batch.due.push(Network::parse("192.0.2.1").unwrap());
        let (blocked, failed) = escalated(&records, &batch);
        assert_eq!(blocked, ALL_FOUR[1..]);
        assert_eq!(
            (&failed.due, failed.error),
            (&batch.due, Some(StoreError::Timeout))
        );
        // The list cannot be written.
        records.database().fails.replace(vec!["records"]);
        let (blocked, failed) = escalated(&records, &many(&["192.0.2.9"]));
        assert_eq!((blocked.len(), failed.due.len()), (0, 1));
    }

    #[test]
    fn in_a_cluster_that_is_out_few_addresses_are_tried() {
        let names: Vec<String> = (0..100).map(|number| format!("192.0.2.{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let records = Records::new(Failing::default(), Keys::clustered("t:"));
        let database = records.database();
        database.all.set(true);
        let (blocked, failed) = escalated(&records, &many(&names));
        assert_eq!(
            (blocked.len(), failed.error),
            (0, Some(StoreError::Timeout))
        );
        assert_eq!(database.calls.get(), MAX_FAILURES_IN_A_ROW);
    }

    #[test]
    fn what_is_long_past_does_not() {
        let records = records();
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 5), 0), None);
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 1), 67), None);
    }

    /// As after an outage of the database.
    #[test]
    fn denials_that_are_written_late_count_from_when_they_were() {
        let records = records();
        let late = batch("192.0.2.1", "auth", 5);
        assert_eq!(blocks_late(&records, &late, 50), None);
        let more = batch("192.0.2.1", "auth", 1);
        assert_eq!(blocks(&records, &more, 67), None, "the five are over");
        let many = batch("192.0.2.2", "auth", 100);
        assert_eq!(blocks_late(&records, &many, 3600), None, "an hour late");
        assert_eq!(blocks_late(&records, &many, 60), Some(30));
        // By a clock that was set back meanwhile.
        let records = self::records();
        let mut ahead = batch("192.0.2.3", "auth", 6);
        ahead.denials[0].since = at(3600);
        assert_eq!(blocks_late(&records, &ahead, 0), Some(30));
    }

    #[test]
    fn each_time_twice_as_long_up_to_a_day() {
        let records = records();
        let lengths: Vec<u64> = (0..14_u32)
            .filter_map(|time| {
                // Each after the block before it.
                let after = time * 90_000;
                blocks(&records, &batch("192.0.2.1", "auth", 6), after)
            })
            .collect();
        let day = LONGEST.secs_ceil();
        let expected: Vec<u64> = (0..14).map(|time| (30_u64 << time).min(day)).collect();
        assert_eq!(lengths, expected);
    }

    #[test]
    fn who_is_pardoned_begins_anew() {
        let records = records();
        let denied = batch("192.0.2.1", "auth", 6);
        assert_eq!(blocks(&records, &denied, 0), Some(30));
        assert_eq!(blocks(&records, &denied, 31), Some(60));
        let target = BlockTarget::Address(Network::parse("192.0.2.1").unwrap());
        let lifted = records.lift(&target, at(40)).now_or_never().unwrap();
        assert_eq!(lifted, Ok(true));
        assert_eq!(blocks(&records, &denied, 41), Some(30));
    }

    #[test]
    fn denials_that_are_told_late_are_no_repetition() {
        let records = records();
        let late = batch("192.0.2.1", "auth", 6);
        assert_eq!(blocks(&records, &late, 0), Some(30));
        // As other isolates tell of the same flood, or this one of what it has denied from memory.
        for seconds in 0..10 {
            assert_eq!(blocks(&records, &late, seconds), None);
        }
        assert_eq!(blocks(&records, &late, 90), Some(60));
    }

    #[test]
    fn strangers_that_share_a_name_are_not_blocked() {
        let records = records();
        for caller in ["unknown", "2a06:98c0:3600::/64"] {
            assert_eq!(
                blocks(&records, &batch(caller, "auth", 100), 0),
                None,
                "{caller}"
            );
        }
    }

    #[test]
    fn a_longer_block_of_an_operators_stays() {
        let records = records();
        let own = Block {
            until: None,
            since: 0,
            by: BlockedBy::Operator,
            reason: None,
        };
        let target = BlockTarget::Address(Network::parse("192.0.2.1").unwrap());
        records
            .block(&target, &own, START)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 100), 0), None);
        let held = records
            .look_up(&target, START)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(held, Some(own));
    }
}
