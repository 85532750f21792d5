//! Escalation: who is denied too often is blocked everywhere, for longer each time.

use serde_json::Value;

use super::{Batch, Event, Kind, Tally};
use crate::blocklist::records::BOUNDS_COMMANDS;
use crate::blocklist::{Block, By, Mark, Step, Wanted};
use crate::client::{CallerKey, Network};
use crate::error::StoreError;
use crate::redis::keys::Key;
use crate::redis::records::Records;
use crate::redis::{Database, command, whole};
use crate::time::{Millis, Timestamp};

/// Parts of the time in which denials are counted: a denial counts for up to one of them longer.
const PARTS: u64 = 10;

/// Counters of an address that are read.
const COUNTERS: usize = PARTS as usize + 1;

/// What the counting costs, in commands: for each address, and for all of them together, the script among them.
pub(super) const COMMANDS_PER_ADDRESS: usize = 2;
pub(super) const COMMANDS: usize = 2;

/// What a block costs at most, in commands.
pub(crate) const COMMANDS_PER_BLOCK: usize = 10;

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
    /// Why the others were not, where the database failed.
    pub error: Option<StoreError>,
}

impl Escalation {
    fn part(&self) -> u64 {
        self.window.get().div_ceil(PARTS).max(1)
    }

    /// The counter of denials at `at`.
    fn counter<'a>(&self, address: &'a str, at: Timestamp) -> Key<'a> {
        Key::Escalation(address, at.as_millis() / self.part())
    }

    fn counters<'a>(&self, address: &'a str, now: Timestamp) -> Vec<Key<'a>> {
        let latest = now.as_millis() / self.part();
        let parts = 0..=PARTS;
        parts
            .map(|back| Key::Escalation(address, latest.saturating_sub(back)))
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
    batch: &'a Batch,
    rule: &Escalation,
    now: Timestamp,
) -> impl Iterator<Item = (Network, &'a Tally)> {
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
    /// Counts the denials of a batch, and blocks who has too many, and who is due, as far as the budget has
    /// the commands for it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn escalate(
        &self,
        batch: &Batch,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<Escalated, StoreError> {
        let mut due = batch.due.clone();
        due.extend(self.count_denials(batch, rule, now).await?);
        let mut escalated = Escalated::default();
        let mut due = due.into_iter();
        while let Some(network) = due.next() {
            if (self.prepay(COMMANDS_PER_BLOCK, now)).is_err() {
                escalated.due.push(network);
                continue;
            }
            match self.block_denied(network, rule, now).await {
                Ok(block) => escalated.blocks.extend(block.map(|block| (network, block))),
                Err(error) => {
                    escalated.due.push(network);
                    escalated.due.extend(due);
                    escalated.error = Some(error);
                    return Ok(escalated);
                }
            }
        }
        // Else with later blocks.
        if !escalated.blocks.is_empty() && (self.prepay(BOUNDS_COMMANDS, now)).is_ok() {
            self.bound_addresses(now).await?;
        }
        Ok(escalated)
    }

    /// Counts the denials of a batch: the addresses that have too many.
    async fn count_denials(
        &self,
        batch: &Batch,
        rule: &Escalation,
        now: Timestamp,
    ) -> Result<Vec<Network>, StoreError> {
        let denials: Vec<(Network, &Tally)> = denials(batch, rule, now).collect();
        if denials.is_empty() {
            return Ok(Vec::new());
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
        let replies = self.run_all(commands, now).await?;
        let counted = replies.last().and_then(Value::as_array);
        let counted = counted.map(Vec::as_slice).unwrap_or_default();
        let counted = denials.iter().zip(counted.chunks(COUNTERS));
        let has_too_many = counted.filter(|(_, counters)| {
            let sum: u64 = counters.iter().map(whole).sum();
            sum > u64::from(rule.denials)
        });
        Ok(has_too_many.map(|((network, _), _)| *network).collect())
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
        let repetitions = self.key(Key::Escalated(&address));
        let [earlier] = self.run([command(["GET", &repetitions])], now).await?;
        let repetition = whole(&earlier).saturating_add(1);
        let until = (now + rule.block_of(repetition)).as_millis();
        let block = Block {
            until: Some(until),
            since: now.as_millis(),
            by: By::Escalation,
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
            Step::new(commands, mark)
                .only_if(counters, Wanted::Above(0))
                .only_if(set, Wanted::Is("OK".to_owned()))
        };
        if self.is_clustered() {
            // As an operator's (src/blocklist/apart.rs), for the counters and the record in one step.
            self.list(&address, &block, None, now).await?;
            let step = step(vec![remember], Mark::Nothing);
            let outcomes = self.change(vec![step], now).await?;
            let done = outcomes.first().is_some_and(Option::is_some);
            let (record, event) = match done {
                true => (Some(block.to_record()), listing.split_off(1)),
                false => (self.record_of(&address, now).await?, Vec::new()),
            };
            self.settle(&address, record, event, now).await?;
            return Ok(done.then_some(block));
        }
        let mut commands = vec![remember];
        commands.append(&mut listing);
        let outcomes = self
            .change(vec![step(commands, Mark::Addresses)], now)
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
        kind: Kind::Escalated,
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
    use futures_util::FutureExt;

    use super::{Escalation, LONGEST};
    use crate::blocklist::{Block, By, Target};
    use crate::client::Network;
    use crate::events::tests::{ALL, denied};
    use crate::events::{Batch, Recorder};
    use crate::redis::emulator::Emulator;
    use crate::redis::keys::Keys;
    use crate::redis::records::Records;
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

    fn batch(caller: &str, policy: &str, count: u32) -> Batch {
        let recorder = Recorder::new(Seed::fixed());
        for _ in 0..count {
            recorder.note_denial(denied(caller, policy).caller, policy, START);
        }
        recorder.take(ALL)
    }

    /// The length of the block that so many denials just now lead to, in seconds.
    fn blocks(records: &Records<Emulator>, batch: &Batch, seconds: u32) -> Option<u64> {
        let mut batch = batch.clone();
        for tally in &mut batch.denials {
            tally.since = at(seconds);
        }
        blocks_late(records, &batch, seconds)
    }

    /// The same of denials at the start, which are written so late.
    fn blocks_late(records: &Records<Emulator>, batch: &Batch, seconds: u32) -> Option<u64> {
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
        assert!(known.any("192.0.2.1", at(60)).is_some());
        assert!(known.any("192.0.2.1", at(89)).is_none());
        assert!(known.any("192.0.2.2", at(60)).is_none());
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
        let target = Target::Address(Network::parse("192.0.2.1").unwrap());
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
            by: By::Operator,
            reason: None,
        };
        let target = Target::Address(Network::parse("192.0.2.1").unwrap());
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
