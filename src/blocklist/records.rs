//! The records of blocks: sets, lifts, looks up and restores them, and reads them for an isolate's copy.

use serde_json::{Map, Value};

use super::block::{AddressBlock, Block, BlockedBy};
use super::change::{Condition, GuardedCommands, VersionChange};
#[cfg(test)]
use super::copy::BlocklistCopy;
use super::target::BlockTarget;
use super::version::{FIELD, StoredRanges};
use crate::client::AddressPrefix;
use crate::client::range::{Range, RangeMap};
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, number_of, pairs};
use crate::time::{Millis, Timestamp};

/// The most ranges that can be blocked at a time, and the most addresses in an isolate's copy.
pub const MAX_RANGES: u64 = 10_000;

/// The most addresses that operators can block at a time in a shared database, and the most in the list. Without
/// Redis it is [`MAX_RANGES`].
pub const MAX_ADDRESSES: u64 = 100_000;

/// How many commands bound the list of addresses.
pub(crate) const BOUNDS_COMMANDS: usize = 5;

/// The lowest score of blocks without an end, later than every time. The time at which the block was set is added
/// to it.
pub(super) const ENDLESS_SCORE: u64 = 5_000_000_000_000_000;

/// The score of an address whose block without an end is being lifted in a cluster. It is later than every time, and
/// its record is not restored.
pub(super) const LIFTING_SCORE: u64 = ENDLESS_SCORE - 1;

/// How long after its end an entry stays in a list, so that an isolate whose clock is ahead removes no block that is
/// in force.
pub(super) const TIDIED_AFTER: Millis = Millis::from_secs(24 * 60 * 60);

/// The TTL of a list after its last change: longer than the longest block.
pub(super) const LIST_TTL: Millis = Millis::from_secs(400 * 24 * 60 * 60);

/// How long a lifted range is remembered, so that no isolate restores it. It is much longer than an isolate's copy
/// counts as [reliable](super::copy::RELIABLE_FOR).
const LIFTED_TTL: Millis = Millis::from_secs(24 * 60 * 60);

/// How often a change is attempted if other changes come between.
pub(super) const ATTEMPTS: usize = 3;

/// How many ranges one command writes or removes. A command in a script can have a few thousand words at most.
const RANGES_PER_COMMAND: usize = 1000;

/// How many addresses' records are restored at a time.
pub(crate) const RESTORED_AT_A_TIME: usize = 100;

/// How many addresses of the list an isolate reads at a time.
const ADDRESSES_PER_READ: usize = 1000;

/// Why a block was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// This many are blocked already, which is the maximum.
    Full(u64),
    /// The database failed.
    Failed(StoreError),
}

impl From<StoreError> for BlockError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A part of the list of addresses. Blocks that end last come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedAddresses {
    /// The addresses with their blocks.
    pub addresses: Vec<(String, AddressBlock)>,
    /// Addresses that are being lifted, or whose lift failed early.
    pub lifting: Vec<String>,
    /// The entry after which the next part begins: its score and its address. `None` in the last part.
    pub next: Option<(u64, String)>,
}

impl<D: Database> Records<D> {
    /// Sets a block, and replaces any earlier one.
    ///
    /// # Errors
    ///
    /// [`BlockError::Full`] if the maximum is reached. [`BlockError::Failed`] if the database fails.
    pub async fn block(
        &self,
        target: &BlockTarget,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), BlockError> {
        match target {
            BlockTarget::Address(network) => self.block_address(*network, block, now).await,
            BlockTarget::Range(range) => self.block_range(*range, block, now).await,
        }
    }

    async fn block_address(
        &self,
        network: AddressPrefix,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), BlockError> {
        let max = self.max_addresses();
        let address = network.to_string();
        if self.is_clustered() {
            return self.block_clustered(&address, block, now).await;
        }
        let list = self.key(RedisKey::BlockedAddresses);
        let set = || {
            let mut commands = self.set_address(&address, block, now).to_vec();
            commands.extend(self.bounds(now));
            if block.until.is_none() {
                commands.push(command(["PERSIST", &list]));
            }
            GuardedCommands::new(commands, VersionChange::Addresses)
        };
        let in_force = command(["ZCOUNT", &list, &format!("({}", now.as_millis()), "+inf"]);
        let listed = command(["ZSCORE", &list, &address]);
        let steps = vec![
            set().only_if(listed, Condition::Above(now.as_millis())),
            set().only_if(in_force, Condition::Below(max)),
            self.end_of_list(),
        ];
        let outcomes = self.change(steps, now).await?;
        if outcomes.iter().take(2).any(Option::is_some) {
            Ok(())
        } else {
            Err(BlockError::Full(max))
        }
    }

    async fn block_range(
        &self,
        range: Range,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), BlockError> {
        let (name, hash) = (range.to_string(), self.key(RedisKey::BlockedRanges));
        let set = || {
            let set = command(["HSET", &hash, &name, &block.to_record()]);
            let unlift = command(["ZREM", &self.key(RedisKey::LiftedRanges), &name]);
            GuardedCommands::new([set, unlift], VersionChange::Ranges)
        };
        let blocked = command(["HEXISTS", &hash, &name]);
        let count = command(["HLEN", &hash]);
        for _ in 0..ATTEMPTS {
            let steps = vec![
                set().only_if(blocked.clone(), Condition::Is("1".to_owned())),
                // One more, because the version is a field of the hash as well.
                set().only_if(count.clone(), Condition::Below(MAX_RANGES + 1)),
            ];
            let outcomes = self.change(steps, now).await?;
            if outcomes.iter().any(Option::is_some) {
                return Ok(());
            }
            if !self.drop_ended_ranges(now).await? {
                break;
            }
        }
        Err(BlockError::Full(MAX_RANGES))
    }

    /// The most addresses that can be blocked.
    pub(super) fn max_addresses(&self) -> u64 {
        if self.is_shared() {
            MAX_ADDRESSES
        } else {
            MAX_RANGES
        }
    }

    /// The commands that block an address and list it.
    pub(crate) fn set_address(&self, address: &str, block: &Block, now: Timestamp) -> [Command; 2] {
        let key = self.key(RedisKey::BlockedAddress(address));
        let list = self.key(RedisKey::BlockedAddresses);
        let record = block.to_record();
        let set = match block.until {
            Some(until) => {
                let ms = until.saturating_sub(now.as_millis()).max(1).to_string();
                command(["SET", &key, &record, "PX", &ms])
            }
            None => command(["SET", &key, &record]),
        };
        let score = score_of(block).to_string();
        [set, command(["ZADD", &list, &score, address])]
    }

    /// The commands that bound the list of addresses.
    fn bounds(&self, now: Timestamp) -> [Command; 2] {
        let list = self.key(RedisKey::BlockedAddresses);
        [tidy(&list, now), bound(&list, self.max_addresses())]
    }

    /// Bounds the list of addresses, and sets its TTL if all blocks in it have an end.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub(crate) async fn bound_addresses(&self, now: Timestamp) -> Result<(), StoreError> {
        let bounds = GuardedCommands::new(self.bounds(now), VersionChange::Nothing);
        let steps = vec![bounds, self.end_of_list()];
        self.change(steps, now).await.map(drop)
    }

    /// The step after a change of the list of addresses. It sets the list's TTL if all blocks in it have an end.
    pub(super) fn end_of_list(&self) -> GuardedCommands {
        let list = self.key(RedisKey::BlockedAddresses);
        let endless = command(["ZCOUNT", &list, &ENDLESS_SCORE.to_string(), "+inf"]);
        let end = command(["PEXPIRE", &list, &LIST_TTL.get().to_string()]);
        GuardedCommands::new([end], VersionChange::Nothing)
            .only_if(endless, Condition::Is("0".to_owned()))
    }

    /// Lifts a block. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn lift(&self, target: &BlockTarget, now: Timestamp) -> Result<bool, StoreError> {
        let steps = match target {
            BlockTarget::Address(network) => {
                let address = network.to_string();
                if self.is_clustered() {
                    return self.lift_clustered(&address, now).await;
                }
                let commands = [
                    command(["DEL", &self.key(RedisKey::BlockedAddress(&address))]),
                    command(["ZREM", &self.key(RedisKey::BlockedAddresses), &address]),
                    // After a lift, the escalation starts again with its shortest block.
                    command(["DEL", &self.key(RedisKey::EscalationCount(&address))]),
                ];
                vec![
                    GuardedCommands::new(commands, VersionChange::Addresses),
                    self.end_of_list(),
                ]
            }
            BlockTarget::Range(range) => {
                let (range, lifted) = (range.to_string(), self.key(RedisKey::LiftedRanges));
                let at = now.as_millis().to_string();
                let commands = [
                    command(["HDEL", &self.key(RedisKey::BlockedRanges), &range]),
                    command(["ZADD", &lifted, &at, &range]),
                    tidy(&lifted, now),
                    bound(&lifted, MAX_RANGES),
                    command(["PEXPIRE", &lifted, &LIFTED_TTL.get().to_string()]),
                ];
                vec![GuardedCommands::new(commands, VersionChange::Ranges)]
            }
        };
        let outcomes = self.change(steps, now).await?;
        let removed = outcomes.first().and_then(Option::as_ref);
        let removed = removed.and_then(|replies| replies.first());
        Ok(removed.is_some_and(|removed| number_of(removed) > 0))
    }

    /// The block of exactly this target. `None` if none is in force.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn look_up(
        &self,
        target: &BlockTarget,
        now: Timestamp,
    ) -> Result<Option<Block>, StoreError> {
        let read = match target {
            BlockTarget::Address(network) => {
                let address = network.to_string();
                command(["GET", &self.key(RedisKey::BlockedAddress(&address))])
            }
            BlockTarget::Range(range) => command([
                "HGET",
                &self.key(RedisKey::BlockedRanges),
                &range.to_string(),
            ]),
        };
        let [record] = self.run([read], now).await?;
        let block = record.as_str().map(Block::from_record);
        Ok(block.filter(|block| block.is_in_force(now)))
    }

    /// All ranges whose block is in force, by their texts, with their records.
    pub(super) async fn ranges(&self, now: Timestamp) -> Result<Map<String, Value>, StoreError> {
        let [hash] = self.run([self.read_ranges()], now).await?;
        let mut in_force = Map::new();
        for (range, record) in read_ranges(&hash) {
            if AddressBlock::from_record(record).is_in_force(now) {
                in_force.insert(range.to_string(), record.into());
            }
        }
        Ok(in_force)
    }

    fn read_ranges(&self) -> Command {
        command(["HGETALL", &self.key(RedisKey::BlockedRanges)])
    }

    /// Removes ranges whose block has ended by the clocks of this isolate and of the database. Returns whether there
    /// were any.
    async fn drop_ended_ranges(&self, now: Timestamp) -> Result<bool, StoreError> {
        let [read_version, read_carried] = self.read_version();
        let [time, version, carried, ranges] = self
            .run(
                [
                    command(["TIME"]),
                    read_version,
                    read_carried,
                    self.read_ranges(),
                ],
                now,
            )
            .await?;
        let earlier = pairs(&time).first().map_or(now, |(seconds, micros)| {
            let [seconds, micros] = [seconds, micros].map(|text| text.parse::<u64>());
            let ms = seconds.unwrap_or_default() * 1000 + micros.unwrap_or_default() / 1000;
            now.min(Timestamp::from_millis(ms))
        });
        let ended: Vec<String> = read_ranges(&ranges)
            .filter(|(_, record)| !AddressBlock::from_record(record).is_in_force(earlier))
            .map(|(range, _)| range.to_string())
            .collect();
        if ended.is_empty() {
            return Ok(false);
        }
        let hash = self.key(RedisKey::BlockedRanges);
        let removals: Vec<Command> = ended
            .chunks(RANGES_PER_COMMAND)
            .map(|ended| command_of(["HDEL", &hash], ended))
            .collect();
        // Only if no range was changed meanwhile.
        let step = self.unchanged(
            GuardedCommands::new(removals, VersionChange::Nothing),
            version[0].as_str(),
            carried.as_str(),
        );
        self.change(vec![step], now).await?;
        Ok(true)
    }

    /// Adds the guards that the blocks' version and the one in the ranges' hash are still these.
    fn unchanged(
        &self,
        step: GuardedCommands,
        version: Option<&str>,
        carried: Option<&str>,
    ) -> GuardedCommands {
        let [read_version, read_carried] = self.read_version();
        step.only_if_still(read_version, version)
            .only_if_still(read_carried, carried)
    }

    /// Reads the ranges that are in force with their version, and the first part of the list of addresses.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn stored_blocks(
        &self,
        now: Timestamp,
    ) -> Result<(StoredRanges, ListedAddresses), StoreError> {
        let [version, _] = self.read_version();
        let commands = [version, self.read_ranges(), self.read_listed(None)];
        let [version, ranges, listed] = self.run(commands, now).await?;
        Ok((
            stored_ranges(&version, &ranges, now),
            listed_addresses(&listed, None, now),
        ))
    }

    /// Reads the text of the blocks' version. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub(crate) async fn blocks_version(
        &self,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let [read, _] = self.read_version();
        let [version] = self.run([read], now).await?;
        Ok(version[0].as_str().map(str::to_owned))
    }

    /// Reads the part of the list of addresses that comes after the entry `after`. Also returns the text of the
    /// blocks' version, and the version in the ranges' hash.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn listed(
        &self,
        after: Option<&(u64, String)>,
        now: Timestamp,
    ) -> Result<(ListedAddresses, [Option<String>; 2]), StoreError> {
        let [version, carried] = self.read_version();
        let commands = [version, carried, self.read_listed(after)];
        let [version, carried, listed] = self.run(commands, now).await?;
        let version = version[0].as_str().map(str::to_owned);
        let carried = carried.as_str().map(str::to_owned);
        Ok((listed_addresses(&listed, after, now), [version, carried]))
    }

    /// Reads a copy of all blocks, as many as an isolate's copy can hold.
    #[cfg(test)]
    pub(crate) async fn blocklist_copy(&self, now: Timestamp) -> Result<BlocklistCopy, StoreError> {
        let (stored, mut listed) = self.stored_blocks(now).await?;
        let mut copy = BlocklistCopy::default();
        copy.take_ranges(stored, now);
        let mut begins = true;
        while copy.take_listed(listed, begins, now) {
            begins = false;
            (listed, _) = self.listed(copy.read_list_after(), now).await?;
        }
        Ok(copy)
    }

    /// Writes back `ranges` that the database lost, and changes the version. It does so only if the version is
    /// still that of `stored`. It leaves out ranges that an operator has lifted in the last day. Returns how many
    /// ranges were written. `None` if the version has changed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails. Some ranges may have been written.
    pub(crate) async fn restore(
        &self,
        stored: &StoredRanges,
        ranges: &[(Range, AddressBlock)],
        change: VersionChange,
        now: Timestamp,
    ) -> Result<Option<usize>, StoreError> {
        let mut words = Vec::new();
        if !ranges.is_empty() {
            let lifted = latest(&self.key(RedisKey::LiftedRanges), MAX_RANGES as usize);
            let [lifted] = self.run([lifted], now).await?;
            let lifted = lifted_ranges(&lifted);
            for (range, block) in ranges {
                if !lifted.contains(*range) {
                    words.push(range.to_string());
                    let until = block.until.map(Timestamp::as_millis);
                    words.push(restored(until, now).to_record());
                }
            }
            if words.is_empty() && stored.is_whole() {
                return Ok(Some(0));
            }
        }
        let hash = self.key(RedisKey::BlockedRanges);
        let writes: Vec<Command> = (words.chunks(2 * RANGES_PER_COMMAND))
            .map(|words| command_of(["HSET", &hash], words))
            .collect();
        let step = self.unchanged(
            GuardedCommands::new(writes, change),
            stored.version.as_deref(),
            stored.hash_version.as_deref(),
        );
        let outcomes = self.change(vec![step], now).await?;
        let done = outcomes.iter().any(Option::is_some);
        Ok(done.then_some(words.len() / 2))
    }

    /// Writes back lost records of listed addresses that are blocked without an end. Returns how many. A missing
    /// record of a block with an end may have expired, so it is not restored. In a cluster this checks only some
    /// addresses, and removes those from the list whose lift failed early.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails. Some records may have been written. In a cluster, only if every checked
    /// address fails.
    pub async fn restore_addresses(
        &self,
        listed: &ListedAddresses,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        if self.is_clustered() {
            return self.restore_clustered(listed, now).await;
        }
        let endless = listed.addresses.iter();
        let endless: Vec<&str> = endless
            .filter(|(_, block)| block.until.is_none())
            .map(|(address, _)| address.as_str())
            .collect();
        let missing = self.without_record(&endless, now).await?;
        if missing.is_empty() {
            return Ok(0);
        }
        let list = self.key(RedisKey::BlockedAddresses);
        let record = restored(None, now).to_record();
        let steps = missing.into_iter().map(|address| {
            let key = self.key(RedisKey::BlockedAddress(address));
            GuardedCommands::new([command(["SET", &key, &record])], VersionChange::Nothing)
                .only_if(command(["EXISTS", &key]), Condition::Is("0".to_owned()))
                // It was neither lifted meanwhile nor blocked for a time.
                .only_if(
                    command(["ZSCORE", &list, address]),
                    Condition::Above(ENDLESS_SCORE - 1),
                )
        });
        let outcomes = self.change(steps.collect(), now).await?;
        Ok(outcomes.iter().filter(|outcome| outcome.is_some()).count())
    }

    /// Up to [`RESTORED_AT_A_TIME`] of `addresses` that have no record.
    async fn without_record<'a>(
        &self,
        addresses: &[&'a str],
        now: Timestamp,
    ) -> Result<Vec<&'a str>, StoreError> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let keys = addresses
            .iter()
            .map(|address| self.key(RedisKey::BlockedAddress(address)));
        let read: Command = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let [records] = self.run([read], now).await?;
        let records = records.as_array().map(Vec::as_slice).unwrap_or_default();
        let missing = addresses.iter().zip(records);
        let missing = missing.filter(|(_, record)| record.is_null());
        Ok(missing
            .map(|(address, _)| *address)
            .take(RESTORED_AT_A_TIME)
            .collect())
    }

    /// The commands that remove ended blocks from the lists.
    pub(crate) fn block_tidy_commands(&self, now: Timestamp) -> Vec<Command> {
        let lists = [RedisKey::BlockedAddresses, RedisKey::BlockedPolicies];
        lists.map(|list| tidy(&self.key(list), now)).into()
    }

    fn read_listed(&self, after: Option<&(u64, String)>) -> Command {
        let key = self.key(RedisKey::BlockedAddresses);
        let from = after.map_or("+inf".to_owned(), |(score, _)| score.to_string());
        let most = ADDRESSES_PER_READ.to_string();
        command([
            "ZREVRANGEBYSCORE",
            &key,
            &from,
            "-inf",
            "WITHSCORES",
            "LIMIT",
            "0",
            &most,
        ])
    }
}

/// The score of a block in the list of addresses.
pub(super) fn score_of(block: &Block) -> u64 {
    block.until.unwrap_or(ENDLESS_SCORE + block.since)
}

/// The block that replaces one whose record is lost. The original reason is lost as well.
pub(super) fn restored(until: Option<u64>, now: Timestamp) -> Block {
    Block {
        until,
        since: now.as_millis(),
        by: BlockedBy::Operator,
        reason: Some("restored: the database had lost its record".to_owned()),
    }
}

/// The command that removes entries from a list that ended more than [`TIDIED_AFTER`] ago.
pub(super) fn tidy(key: &str, now: Timestamp) -> Command {
    let latest = (now - TIDIED_AFTER).as_millis().to_string();
    command(["ZREMRANGEBYSCORE", key, "-inf", &latest])
}

/// The command that keeps only the `most` entries of a list that end last.
pub(super) fn bound(key: &str, most: u64) -> Command {
    command(["ZREMRANGEBYRANK", key, "0", &format!("-{}", most + 1)])
}

/// The command that reads the `most` entries of a list that end last.
pub(super) fn latest(key: &str, most: usize) -> Command {
    command([
        "ZREVRANGEBYSCORE",
        key,
        "+inf",
        "-inf",
        "WITHSCORES",
        "LIMIT",
        "0",
        &most.to_string(),
    ])
}

/// The ranges in the hash of ranges, with their records.
fn read_ranges(hash: &Value) -> impl Iterator<Item = (Range, &str)> {
    pairs(hash)
        .into_iter()
        .filter_map(|(field, record)| Some((Range::parse(field)?, record)))
}

/// The lifted ranges in the reply.
fn lifted_ranges(reply: &Value) -> RangeMap<AddressBlock> {
    let ranges = pairs(reply).into_iter();
    let ranges = ranges.filter_map(|(range, _)| Range::parse(range));
    let endless = AddressBlock { until: None };
    let ranges: Vec<_> = ranges.map(|range| (range, endless)).collect();
    ranges.into_iter().collect()
}

fn command_of(head: [&str; 2], rest: &[String]) -> Command {
    let mut words = command(head);
    words.extend_from_slice(rest);
    words
}

/// The ranges that are in force, of the replies with the version and the hash of ranges.
fn stored_ranges(version: &Value, hash: &Value, now: Timestamp) -> StoredRanges {
    let mut ranges = Vec::new();
    for (range, record) in read_ranges(hash) {
        let block = AddressBlock::from_record(record);
        if block.is_in_force(now) {
            ranges.push((range, block));
        }
    }
    let carried = pairs(hash).into_iter().find(|(field, _)| *field == FIELD);
    StoredRanges {
        version: version[0].as_str().map(str::to_owned),
        hash_version: carried.map(|(_, version)| version.to_owned()),
        ranges,
    }
}

/// The part of the list of addresses in the reply, after the entry `after`.
fn listed_addresses(
    reply: &Value,
    after: Option<&(u64, String)>,
    now: Timestamp,
) -> ListedAddresses {
    let entries = pairs(reply);
    let mut listed = ListedAddresses::default();
    for (address, score) in &entries {
        let score: u64 = score.parse().unwrap_or_default();
        if after.is_some_and(|(last, member)| score == *last && *address >= member.as_str()) {
            continue;
        }
        if score == LIFTING_SCORE {
            listed.lifting.push((*address).to_owned());
            listed.next = Some((score, (*address).to_owned()));
            continue;
        }
        let until = Some(score).filter(|score| *score < ENDLESS_SCORE);
        if until.is_some_and(|until| until <= now.as_millis()) {
            // All further blocks have ended as well.
            return listed;
        }
        let until = until.map(Timestamp::from_millis);
        let block = AddressBlock { until };
        listed.addresses.push(((*address).to_owned(), block));
        listed.next = Some((score, (*address).to_owned()));
    }
    if entries.len() < ADDRESSES_PER_READ {
        listed.next = None;
    }
    listed
}

#[cfg(test)]
mod tests;
