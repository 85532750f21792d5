//! The blocks' records: set, lifted, looked up, listed, copied.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::copy::Known;
use super::{Block, Target};
use crate::client::range::{Range, RangeMap};
use crate::database::{Command, Database, Records, command, pairs, whole};
use crate::error::StoreError;
use crate::store::AddressBlock;
use crate::store::upstash::address_block;
use crate::time::Timestamp;

/// Ranges that may be blocked at a time, and addresses that an isolate's copy holds.
pub const MOST: u64 = 10_000;

/// Addresses that an operator may block at a time in a shared database; in an isolate, [`MOST`].
pub const MOST_ADDRESSES: u64 = 100_000;

/// A score beyond every time, for blocks without an end. What is added keeps them apart.
const ENDLESS: u64 = 5_000_000_000_000_000;

const ADDRESSES: &str = "blocked_ips";
const RANGES: &str = "blocked_ranges";
const VERSION: &str = "blocked_ranges:version";
const POLICIES: &str = "blocked_policies";

pub(crate) fn record_of(address: &str) -> String {
    format!("blocked:{address}")
}

/// Where it is counted how often the escalation has blocked an address.
pub(crate) fn repetitions_of(address: &str) -> String {
    format!("escalated:{address}")
}

/// Where the store keeps the block that a quota has set.
fn blocked(quota: &str) -> String {
    format!("{quota}:blocked")
}

/// Why a block was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSet {
    /// There are so many already.
    Full(u64),
    /// The database failed.
    Failed(StoreError),
}

impl From<StoreError> for NotSet {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A page of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The blocks with their targets.
    pub blocks: Vec<(String, Block)>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// Where a page begins: addresses by the end of their blocks, then ranges as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// So many after this score.
    Addresses(u64, usize),
    /// Behind this range.
    Ranges(String),
}

impl Cursor {
    /// The beginning.
    pub const FIRST: Self = Self::Addresses(0, 0);

    /// As it stands in a URL.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Addresses(score, skipped) => format!("a{score}-{skipped}"),
            Self::Ranges(after) => format!("r{after}"),
        }
    }

    /// What [`text`](Self::text) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(after) = text.strip_prefix('r') {
            return Range::parse(after).map(|_| Self::Ranges(after.to_owned()));
        }
        let (score, skipped) = text.strip_prefix('a')?.split_once('-')?;
        let (score, skipped) = (score.parse().ok()?, skipped.parse().ok()?);
        (score <= 2 * ENDLESS && skipped as u64 <= MOST_ADDRESSES)
            .then_some(Self::Addresses(score, skipped))
    }
}

/// A policy's own block of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyBlock {
    /// `{policy}:{caller}`.
    pub key: String,
    /// When it ends, in ms since the epoch.
    pub until: u64,
}

impl<D: Database> Records<D> {
    /// Sets a block in place of one that is there.
    ///
    /// # Errors
    ///
    /// [`NotSet`].
    pub async fn block(
        &self,
        target: &Target,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), NotSet> {
        let record = block.to_record();
        let (addresses, ranges) = (self.key(ADDRESSES), self.key(RANGES));
        let (count, most) = match target {
            Target::Address(_) => {
                let tidy = tidy(&addresses, now);
                let [_, count] = self
                    .run([tidy, command(["ZCARD", &addresses])], now)
                    .await?;
                let shared = self.is_shared();
                (whole(&count), if shared { MOST_ADDRESSES } else { MOST })
            }
            Target::Range(_) => {
                let [count] = self.run([command(["HLEN", &ranges])], now).await?;
                let count = match whole(&count) {
                    // Those that have ended count until somebody looks.
                    MOST.. => self.ranges(now).await?.len() as u64,
                    fewer => fewer,
                };
                (count, MOST)
            }
        };
        if count >= most && self.look_up(target, now).await?.is_none() {
            return Err(NotSet::Full(most));
        }
        let changed = command(["INCRBY", &self.key(VERSION), "1"]);
        match target {
            Target::Address(address) => {
                let [set, listed] = self.set_address(address, block, now);
                self.run([set, listed, changed], now).await?;
            }
            Target::Range(range) => {
                let set = command(["HSET", &ranges, &range.to_string(), &record]);
                self.run([set, changed], now).await?;
            }
        }
        Ok(())
    }

    /// The commands that block an address and list it, without a word to other isolates' copies.
    pub(crate) fn set_address(&self, address: &str, block: &Block, now: Timestamp) -> [Command; 2] {
        let key = self.key(&record_of(address));
        let record = block.to_record();
        let (set, score) = match block.until {
            Some(until) => {
                let ms = until.saturating_sub(now.as_millis()).max(1).to_string();
                (command(["SET", &key, &record, "PX", &ms]), until)
            }
            None => (command(["SET", &key, &record]), ENDLESS + block.since),
        };
        [
            set,
            command(["ZADD", &self.key(ADDRESSES), &score.to_string(), address]),
        ]
    }

    /// Lifts a block; whether there was one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn lift(&self, target: &Target, now: Timestamp) -> Result<bool, StoreError> {
        let changed = command(["INCRBY", &self.key(VERSION), "1"]);
        let removed = match target {
            Target::Address(address) => {
                let remove = command(["DEL", &self.key(&record_of(address))]);
                let unlist = command(["ZREM", &self.key(ADDRESSES), address]);
                // Lifted, it begins anew.
                let pardon = command(["DEL", &self.key(&repetitions_of(address))]);
                let commands = [remove, unlist, pardon, changed];
                let [removed, _, _, _] = self.run(commands, now).await?;
                removed
            }
            Target::Range(range) => {
                let remove = command(["HDEL", &self.key(RANGES), &range.to_string()]);
                let [removed, _] = self.run([remove, changed], now).await?;
                removed
            }
        };
        Ok(whole(&removed) > 0)
    }

    /// The block of exactly this target.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn look_up(
        &self,
        target: &Target,
        now: Timestamp,
    ) -> Result<Option<Block>, StoreError> {
        let read = match target {
            Target::Address(address) => command(["GET", &self.key(&record_of(address))]),
            Target::Range(range) => command(["HGET", &self.key(RANGES), &range.to_string()]),
        };
        let [record] = self.run([read], now).await?;
        let block = record.as_str().map(Block::from_record);
        Ok(block.filter(|block| block.stands(now)))
    }

    /// At most `most` blocks from `cursor` on. What has ended is tidied away.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn blocks(
        &self,
        cursor: &Cursor,
        most: usize,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut after = None;
        match cursor {
            Cursor::Addresses(score, skipped) => {
                let listed = self.addresses(*score, *skipped, most + 1, now).await?;
                let (mut last, mut same) = (*score, *skipped);
                for (address, score) in listed.iter().take(most) {
                    same = if *score == last { same + 1 } else { 1 };
                    last = *score;
                    page.blocks.push((address.clone(), Block::from_record("")));
                }
                self.fill(&mut page.blocks, now).await?;
                if listed.len() > most {
                    page.next = Some(Cursor::Addresses(last, same));
                    return Ok(page);
                }
            }
            Cursor::Ranges(known) => after = Some(known.as_str()),
        }
        let left = most.saturating_sub(page.blocks.len());
        let ranges = self.ranges(now).await?;
        let mut rest = ranges
            .into_iter()
            .filter(|(range, _)| after.is_none_or(|after| range.as_str() > after))
            .peekable();
        let records = rest.by_ref().take(left);
        page.blocks.extend(records.map(|(range, record)| {
            let block = Block::from_record(record.as_str().unwrap_or_default());
            (range, block)
        }));
        if rest.peek().is_some() {
            let last = page.blocks.last().filter(|_| left > 0);
            page.next = Some(match (last, after) {
                (Some((range, _)), _) => Cursor::Ranges(range.clone()),
                (None, Some(after)) => Cursor::Ranges(after.to_owned()),
                // Before every range, as text goes.
                (None, None) => Cursor::Ranges("0.0.0.0".to_owned()),
            });
        }
        Ok(page)
    }

    async fn addresses(
        &self,
        from: u64,
        skipped: usize,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let key = self.key(ADDRESSES);
        let commands = [tidy(&key, now), page_of(&key, from, skipped, most)];
        let [_, listed] = self.run(commands, now).await?;
        let scored = pairs(&listed).into_iter();
        Ok(scored
            .map(|(address, score)| (address.to_owned(), score.parse().unwrap_or_default()))
            .collect())
    }

    /// Reads the records of listed addresses; those that have none any more are left out.
    async fn fill(
        &self,
        listed: &mut Vec<(String, Block)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if listed.is_empty() {
            return Ok(());
        }
        let keys = listed
            .iter()
            .map(|(address, _)| self.key(&record_of(address)));
        let read: Command = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let [records] = self.run([read], now).await?;
        let records = records.as_array().cloned().unwrap_or_default();
        let filled = listed
            .drain(..)
            .zip(records)
            .filter_map(|((address, _), record)| {
                let block = Block::from_record(record.as_str()?);
                block.stands(now).then_some((address, block))
            });
        *listed = filled.collect();
        Ok(())
    }

    /// All ranges, as they are written.
    async fn ranges(&self, now: Timestamp) -> Result<Map<String, Value>, StoreError> {
        let [held] = self
            .run([command(["HGETALL", &self.key(RANGES)])], now)
            .await?;
        let (standing, ended) = read_ranges(&held, now);
        self.drop_ranges(&ended, now).await?;
        Ok(standing)
    }

    async fn drop_ranges(&self, ended: &[String], now: Timestamp) -> Result<(), StoreError> {
        if ended.is_empty() {
            return Ok(());
        }
        let head = ["HDEL".to_owned(), self.key(RANGES)];
        let removal: Command = head.into_iter().chain(ended.iter().cloned()).collect();
        self.run([removal], now).await.map(drop)
    }

    /// All that an isolate keeps a copy of.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn known_blocks(&self, now: Timestamp) -> Result<Known, StoreError> {
        let most = usize::try_from(MOST).unwrap_or(usize::MAX);
        let [version, ranges, addresses] = self
            .run(
                [
                    command(["GET", &self.key(VERSION)]),
                    command(["HGETALL", &self.key(RANGES)]),
                    // Those that end last, should there be more than fit.
                    latest(&self.key(ADDRESSES), most),
                ],
                now,
            )
            .await?;
        let block = |until: Option<u64>| AddressBlock {
            until: until.map(Timestamp::from_millis),
        };
        let (standing, _) = read_ranges(&ranges, now);
        let ranges: RangeMap<AddressBlock> = standing
            .into_iter()
            .filter_map(|(range, record)| {
                let block = address_block(record.as_str()?);
                Some((Range::parse(&range)?, block))
            })
            .collect();
        let mut known = HashMap::new();
        for (address, score) in pairs(&addresses) {
            let until = score.parse().ok().filter(|score| *score < ENDLESS);
            if until.is_none_or(|until| until > now.as_millis()) {
                known.insert(address.to_owned(), block(until));
            }
        }
        Ok(Known::new(version_of(&version), ranges, known))
    }

    /// The policies' own blocks, as far as they have been recorded, those that end last first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn policy_blocks(
        &self,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<PolicyBlock>, StoreError> {
        let key = self.key(POLICIES);
        let commands = [tidy(&key, now), latest(&key, most)];
        let [_, listed] = self.run(commands, now).await?;
        let listed = pairs(&listed).into_iter().map(|(key, until)| PolicyBlock {
            key: key.to_owned(),
            until: until.parse().unwrap_or_default(),
        });
        let listed: Vec<PolicyBlock> = listed.collect();
        if listed.is_empty() || !self.is_shared() {
            return Ok(listed);
        }
        // An isolate that remembers a block may have listed it after it was lifted elsewhere.
        let keys = listed.iter().map(|block| self.key(&blocked(&block.key)));
        let read: Command = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let [records] = self.run([read], now).await?;
        let records = records.as_array().map(Vec::as_slice).unwrap_or_default();
        let standing = listed.into_iter().zip(records);
        Ok(standing
            .filter(|(_, record)| !record.is_null())
            .map(|(block, _)| block)
            .collect())
    }

    /// Lifts policies' own blocks of `{policy}:{caller}` keys; how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn lift_policies(&self, keys: &[String], now: Timestamp) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let names: Vec<String> = keys.iter().map(|key| blocked(key)).collect();
        let head = ["ZREM".to_owned(), self.key(POLICIES)];
        let unlist: Command = head.into_iter().chain(keys.iter().cloned()).collect();
        let [removed, unlisted] = self.run([self.deletion(&names), unlist], now).await?;
        // In an isolate's memory the blocks are in the quotas' map, and only the list is here.
        Ok(whole(&removed).max(if self.is_shared() {
            0
        } else {
            whole(&unlisted)
        }))
    }

    /// The command that lists a policy's block.
    pub(crate) fn listing(&self, blocks: &[(String, u64)]) -> Command {
        let pairs = blocks
            .iter()
            .flat_map(|(key, until)| [until.to_string(), key.clone()]);
        ["ZADD".to_owned(), self.key(POLICIES)]
            .into_iter()
            .chain(pairs)
            .collect()
    }

    /// Keeps the list of policies' blocks to its latest.
    pub(crate) fn listing_bound(&self) -> Command {
        command([
            "ZREMRANGEBYRANK",
            &self.key(POLICIES),
            "0",
            &format!("-{}", MOST + 1),
        ])
    }
}

/// The command that takes what has ended out of a list.
fn tidy(key: &str, now: Timestamp) -> Command {
    command([
        "ZREMRANGEBYSCORE",
        key,
        "-inf",
        &now.as_millis().to_string(),
    ])
}

/// The command that reads those of a list that end last.
fn latest(key: &str, most: usize) -> Command {
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

fn page_of(key: &str, from: u64, skipped: usize, most: usize) -> Command {
    let [from, skipped, most] = [from.to_string(), skipped.to_string(), most.to_string()];
    command([
        "ZRANGEBYSCORE",
        key,
        &from,
        "+inf",
        "WITHSCORES",
        "LIMIT",
        &skipped,
        &most,
    ])
}

fn stands(record: &str, now: Timestamp) -> bool {
    let AddressBlock { until } = address_block(record);
    until.is_none_or(|until| until > now)
}

/// Ranges' records that stand, and those that have ended.
fn read_ranges(held: &Value, now: Timestamp) -> (Map<String, Value>, Vec<String>) {
    let (mut standing, mut ended) = (Map::new(), Vec::new());
    for (range, record) in pairs(held) {
        let range = range.to_owned();
        if stands(record, now) {
            standing.insert(range, record.into());
        } else {
            ended.push(range);
        }
    }
    (standing, ended)
}

fn version_of(reply: &Value) -> Option<String> {
    match reply {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
