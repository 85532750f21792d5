//! Escalation: an address with too many denials is blocked everywhere, twice as long each time.

use serde_json::Value;

use super::{DenialCounts, Event, EventBatch, EventKind};
use crate::blocklist::records::BOUNDS_COMMANDS;
use crate::blocklist::{Block, BlockedBy, Condition, GuardedCommands, VersionChange};
use crate::budget::Budget;
use crate::client::{AddressPrefix, CallerKey};
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::{MAX_FAILURES_IN_A_ROW, Records};
use crate::redis::{Database, command, number_of};
use crate::time::{Millis, Timestamp};

/// The parts into which the window is divided. Each part has a counter, so a denial counts for up to one part too long.
const WINDOW_PARTS: u64 = 10;

/// The counters of an address that are read.
const COUNTERS: usize = WINDOW_PARTS as usize + 1;

/// The cost of the escalation, in commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// The cost of counting, for each address.
    pub(crate) per_address: usize,
    /// The cost of counting, once for all addresses, with the script.
    pub(crate) once: usize,
    /// The most that a block costs. It costs more if others change the block at the same time.
    pub(crate) per_block: usize,
}

impl Costs {
    /// The costs on a single server: one script counts the denials of all addresses.
    pub(crate) const SINGLE_SERVER: Self = Self {
        per_address: 2,
        once: 2,
        per_block: 10,
    };

    /// The costs in a cluster: counting takes a script for each address, and a block takes several scripts and their reads.
    pub(crate) const CLUSTER: Self = Self {
        per_address: 4,
        once: 0,
        per_block: 37,
    };
}

/// The longest block that the escalation sets: a day.
pub const MAX_BLOCK: Millis = Millis::from_secs(24 * 60 * 60);

/// How long the number of an address's earlier blocks is remembered.
const COUNT_TTL: Millis = Millis::from_secs(2 * 24 * 60 * 60);

/// The rule that says when to block an address, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// An address with more denials than this in the window is blocked.
    pub denials: u32,
    /// The time in which denials are counted.
    pub window: Millis,
    /// The length of the first block. Each further block is twice as long as the one before, up to [`MAX_BLOCK`].
    pub block: Millis,
}

/// The result of [`Records::escalate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EscalationResult {
    /// The addresses that were blocked.
    pub blocks: Vec<(AddressPrefix, Block)>,
    /// The addresses that are still to be blocked.
    pub due: Vec<AddressPrefix>,
    /// Why other addresses were not counted or blocked. `None`: the database did not fail.
    pub error: Option<StoreError>,
}

impl Escalation {
    /// The length of a part of the window, in ms.
    fn part(&self) -> u64 {
        self.window.get().div_ceil(WINDOW_PARTS).max(1)
    }

    /// The counter for denials at `at`.
    fn counter<'a>(&self, address: &'a str, at: Timestamp) -> RedisKey<'a> {
        RedisKey::EscalationDenials(address, at.as_millis() / self.part())
    }

    fn counters<'a>(&self, address: &'a str, now: Timestamp) -> Vec<RedisKey<'a>> {
        let latest = now.as_millis() / self.part();
        let parts = 0..=WINDOW_PARTS;
        parts
            .map(|back| RedisKey::EscalationDenials(address, latest.saturating_sub(back)))
            .collect()
    }

    fn block_of(&self, repetition: u64) -> Millis {
        let doublings = u32::try_from(repetition.saturating_sub(1))
            .unwrap_or(u32::MAX)
            .min(40);
        let length = self.block.get().saturating_mul(1 << doublings);
        Millis::new(length.min(MAX_BLOCK.get()))
    }
}

/// The denials in a batch that count towards a block, by address. Two kinds are left out. An address that unrelated
/// callers share is never blocked. And denials that are older than the window no longer count, as after an outage.
fn denials<'a>(
    batch: &'a EventBatch,
    rule: &Escalation,
    now: Timestamp,
) -> impl Iterator<Item = (AddressPrefix, &'a DenialCounts)> {
    let window = rule.window;
    batch
        .denials
        .iter()
        .filter_map(move |denials| match denials.caller {
            CallerKey::Address(network) if !network.is_shared() => {
                (now.since(denials.since) <= window).then_some((network, denials))
            }
            _ => None,
        })
}

impl<D: Database> Records<D> {
    /// Returns the cost of the escalation. The cost of a block is capped at what records may spend in a second: a higher
    /// cost could never be paid beforehand, and no block would be set. The rest is counted as it is spent.
    pub(crate) fn escalation_costs(&self) -> Costs {
        let mut costs = match self.is_clustered() {
            true => Costs::CLUSTER,
            false => Costs::SINGLE_SERVER,
        };
        if let Some(most) = self.budget().and_then(Budget::most_for_records) {
            costs.per_block = costs.per_block.min(most as usize);
        }
        costs
    }

    /// Counts the denials of a batch. Blocks the addresses that have too many, and those that are due, as far as the
    /// budget pays for it. In a cluster, an address whose slot fails does not keep others from being counted or blocked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database, if nothing was counted. A later failure is in [`EscalationResult::error`].
    pub async fn escalate(
        &self,
        batch: &EventBatch,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<EscalationResult, StoreError> {
        let mut escalated = EscalationResult::default();
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
        // If this is skipped or fails, later blocks bound the list.
        if failures < most_failures
            && !escalated.blocks.is_empty()
            && (self.prepay(BOUNDS_COMMANDS, now)).is_ok()
            && let Err(error) = self.bound_addresses(now).await
        {
            escalated.error.get_or_insert(error);
        }
        Ok(escalated)
    }

    /// Counts the denials of a batch. Returns the addresses that have too many, and why others could not be counted.
    async fn count_denials(
        &self,
        batch: &EventBatch,
        rule: &Escalation,
        now: Timestamp,
    ) -> (Vec<AddressPrefix>, Option<StoreError>) {
        let denials: Vec<(AddressPrefix, &DenialCounts)> = denials(batch, rule, now).collect();
        if denials.is_empty() {
            return (Vec::new(), None);
        }
        let mut commands = Vec::with_capacity(2 * denials.len() + 1);
        let mut read = vec!["MGET".to_owned()];
        let expiry = (rule.window + Millis::new(2 * rule.part()))
            .get()
            .to_string();
        for (network, counts) in &denials {
            let address = network.to_string();
            // Counted from the first of them on, so that no denial counts for too long.
            let counter = rule.counter(&address, counts.since.min(now));
            let counter = self.key(counter);
            commands.push(command(["INCRBY", &counter, &counts.count().to_string()]));
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

    /// Blocks `network`, unless it is blocked already or another isolate blocks it now. It is one step, so that an
    /// operator's block of the same moment stays unchanged, both its record and its entry in the list.
    async fn block_denied(
        &self,
        network: AddressPrefix,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<Option<Block>, StoreError> {
        let address = network.to_string();
        let repetitions = self.key(RedisKey::EscalationCount(&address));
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
        let remembered = COUNT_TTL.get().to_string();
        let repeated = repetition.to_string();
        let remember = command(["SET", &repetitions, &repeated, "PX", &remembered]);
        let mut listing = vec![list];
        listing.extend(self.append_one(&escalation(network, &block)));
        // The isolate that deletes the counters is the one that blocks. If the address is blocked already, the counters are
        // deleted as well, so that late reports of denials from before the block do not count after it.
        let counters = self.deletion(&rule.counters(&address, now));
        let step = |commands, mark| {
            GuardedCommands::new(commands, mark)
                .only_if(counters, Condition::Above(0))
                .only_if(set, Condition::Is("OK".to_owned()))
        };
        if self.is_clustered() {
            // As for an operator's block (src/blocklist/cluster.rs). The counters and the record are one step.
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

fn escalation(network: AddressPrefix, block: &Block) -> Event {
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

    use super::{Escalation, EscalationResult, MAX_BLOCK};
    use crate::blocklist::{Block, BlockTarget, BlockedBy};
    use crate::client::AddressPrefix;
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

    /// Writes the batch's denials as if they happened at `seconds`. Returns the length of the resulting block, in seconds.
    fn blocks(records: &Records<Emulator>, batch: &EventBatch, seconds: u32) -> Option<u64> {
        let mut batch = batch.clone();
        for denials in &mut batch.denials {
            denials.since = at(seconds);
        }
        blocks_late(records, &batch, seconds)
    }

    /// Writes at `seconds` the batch's denials, which happened at the start. Returns the length of the resulting block, in
    /// seconds.
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
    fn an_address_with_more_denials_than_the_rule_allows_in_the_window_is_blocked() {
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

    /// A cluster in which the slots of some addresses fail.
    #[derive(Default)]
    struct Failing {
        inner: Emulator,
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
            self.inner.run(commands, now).await
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

    fn escalated(
        records: &Records<Failing>,
        batch: &EventBatch,
    ) -> (Vec<String>, EscalationResult) {
        let escalated = records.escalate(batch, &RULE, at(0)).now_or_never();
        let escalated = escalated.unwrap().unwrap();
        let blocked = escalated.blocks.iter().map(|(it, _)| it.to_string());
        (blocked.collect(), escalated)
    }

    #[test]
    fn in_a_cluster_a_failing_slot_does_not_keep_other_addresses_from_being_blocked() {
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

    /// The address was counted before its slot failed, and is the first that is due.
    #[test]
    fn in_a_cluster_a_due_address_that_cannot_be_blocked_stays_due_and_others_are_blocked() {
        let records = Records::new(Failing::default(), Keys::clustered("t:"));
        records.database().fails.replace(vec!["192.0.2.1"]);
        let mut batch = many(&ALL_FOUR[1..]);
        batch.due.push(AddressPrefix::parse("192.0.2.1").unwrap());
        let (blocked, failed) = escalated(&records, &batch);
        assert_eq!(blocked, ALL_FOUR[1..]);
        assert_eq!(
            (&failed.due, failed.error),
            (&batch.due, Some(StoreError::Timeout))
        );
        // The slot of the list fails.
        records.database().fails.replace(vec!["records"]);
        let (blocked, failed) = escalated(&records, &many(&["192.0.2.9"]));
        assert_eq!((blocked.len(), failed.due.len()), (0, 1));
    }

    #[test]
    fn in_a_cluster_that_does_not_answer_only_a_few_addresses_are_tried() {
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
    fn denials_older_than_the_window_do_not_count() {
        let records = records();
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 5), 0), None);
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 1), 67), None);
    }

    /// Denials are written late after an outage of the database.
    #[test]
    fn denials_that_are_written_late_count_from_when_they_happened() {
        let records = records();
        let late = batch("192.0.2.1", "auth", 5);
        assert_eq!(blocks_late(&records, &late, 50), None);
        let more = batch("192.0.2.1", "auth", 1);
        assert_eq!(
            blocks(&records, &more, 67),
            None,
            "the five earlier denials no longer count"
        );
        let many = batch("192.0.2.2", "auth", 100);
        assert_eq!(
            blocks_late(&records, &many, 3600),
            None,
            "denials that are written an hour late do not count"
        );
        assert_eq!(blocks_late(&records, &many, 60), Some(30));
        // The clock was set back after the denials.
        let records = self::records();
        let mut ahead = batch("192.0.2.3", "auth", 6);
        ahead.denials[0].since = at(3600);
        assert_eq!(blocks_late(&records, &ahead, 0), Some(30));
    }

    #[test]
    fn each_block_is_twice_as_long_as_the_one_before_up_to_a_day() {
        let records = records();
        let lengths: Vec<u64> = (0..14_u32)
            .filter_map(|time| {
                // Each batch comes after the end of the block before.
                let after = time * 90_000;
                blocks(&records, &batch("192.0.2.1", "auth", 6), after)
            })
            .collect();
        let day = MAX_BLOCK.secs_ceil();
        let expected: Vec<u64> = (0..14).map(|time| (30_u64 << time).min(day)).collect();
        assert_eq!(lengths, expected);
    }

    #[test]
    fn after_an_operator_lifts_its_block_an_addresss_next_block_is_a_first_one() {
        let records = records();
        let denied = batch("192.0.2.1", "auth", 6);
        assert_eq!(blocks(&records, &denied, 0), Some(30));
        assert_eq!(blocks(&records, &denied, 31), Some(60));
        let target = BlockTarget::Address(AddressPrefix::parse("192.0.2.1").unwrap());
        let lifted = records.lift(&target, at(40)).now_or_never().unwrap();
        assert_eq!(lifted, Ok(true));
        assert_eq!(blocks(&records, &denied, 41), Some(30));
    }

    #[test]
    fn late_reports_of_denials_from_before_a_block_lead_to_no_second_block() {
        let records = records();
        let late = batch("192.0.2.1", "auth", 6);
        assert_eq!(blocks(&records, &late, 0), Some(30));
        // Other isolates report the same flood, or this one reports denials from memory.
        for seconds in 0..10 {
            assert_eq!(blocks(&records, &late, seconds), None);
        }
        assert_eq!(blocks(&records, &late, 90), Some(60));
    }

    #[test]
    fn an_address_that_unrelated_callers_share_is_never_blocked() {
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
    fn a_longer_block_by_an_operator_stays() {
        let records = records();
        let own = Block {
            until: None,
            since: 0,
            by: BlockedBy::Operator,
            reason: None,
        };
        let target = BlockTarget::Address(AddressPrefix::parse("192.0.2.1").unwrap());
        records
            .block(&target, &own, START)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(blocks(&records, &batch("192.0.2.1", "auth", 100), 0), None);
        let stored = records
            .look_up(&target, START)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(stored, Some(own));
    }
}
