//! The blocks' records: set, lifted, looked up, copied.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::block::{AddressBlock, Block};
use super::copy::BlocklistCopy;
use super::target::Target;
use crate::client::range::{Range, RangeMap};
use crate::error::StoreError;
use crate::redis::keys::Key;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, pairs, whole};
use crate::time::Timestamp;

/// Ranges that may be blocked at a time, and addresses that an isolate's copy holds.
pub const MAX_RANGES: u64 = 10_000;

/// Addresses that an operator may block at a time in a shared database; in an isolate,
/// [`MAX_RANGES`].
pub const MAX_ADDRESSES: u64 = 100_000;

/// Commands that an isolate's copy costs.
pub(crate) const COPY_COMMANDS: usize = 3;

/// A score beyond every time, for blocks without an end. What is added keeps them apart.
pub(super) const ENDLESS: u64 = 5_000_000_000_000_000;

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
        let (addresses, ranges) = (
            self.key(Key::BlockedAddresses),
            self.key(Key::BlockedRanges),
        );
        let (count, most) = match target {
            Target::Address(_) => {
                let tidy = tidy(&addresses, now);
                let [_, count] = self
                    .run([tidy, command(["ZCARD", &addresses])], now)
                    .await?;
                let shared = self.is_shared();
                (
                    whole(&count),
                    if shared { MAX_ADDRESSES } else { MAX_RANGES },
                )
            }
            Target::Range(_) => {
                let [count] = self.run([command(["HLEN", &ranges])], now).await?;
                let count = match whole(&count) {
                    // Those that have ended count until somebody looks.
                    MAX_RANGES.. => self.ranges(now).await?.len() as u64,
                    fewer => fewer,
                };
                (count, MAX_RANGES)
            }
        };
        if count >= most && self.look_up(target, now).await?.is_none() {
            return Err(NotSet::Full(most));
        }
        let changed = command(["INCRBY", &self.key(Key::BlockedRangesVersion), "1"]);
        match target {
            Target::Address(network) => {
                let [set, listed] = self.set_address(&network.to_string(), block, now);
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
        let key = self.key(Key::BlockedAddress(address));
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
            command([
                "ZADD",
                &self.key(Key::BlockedAddresses),
                &score.to_string(),
                address,
            ]),
        ]
    }

    /// Lifts a block; whether there was one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn lift(&self, target: &Target, now: Timestamp) -> Result<bool, StoreError> {
        let changed = command(["INCRBY", &self.key(Key::BlockedRangesVersion), "1"]);
        let removed = match target {
            Target::Address(network) => {
                let address = network.to_string();
                let remove = command(["DEL", &self.key(Key::BlockedAddress(&address))]);
                let unlist = command(["ZREM", &self.key(Key::BlockedAddresses), &address]);
                // Lifted, it begins anew.
                let pardon = command(["DEL", &self.key(Key::Escalated(&address))]);
                let commands = [remove, unlist, pardon, changed];
                let [removed, _, _, _] = self.run(commands, now).await?;
                removed
            }
            Target::Range(range) => {
                let remove = command(["HDEL", &self.key(Key::BlockedRanges), &range.to_string()]);
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
            Target::Address(network) => {
                let address = network.to_string();
                command(["GET", &self.key(Key::BlockedAddress(&address))])
            }
            Target::Range(range) => {
                command(["HGET", &self.key(Key::BlockedRanges), &range.to_string()])
            }
        };
        let [record] = self.run([read], now).await?;
        let block = record.as_str().map(Block::from_record);
        Ok(block.filter(|block| block.stands(now)))
    }

    /// All ranges, as they are written.
    pub(super) async fn ranges(&self, now: Timestamp) -> Result<Map<String, Value>, StoreError> {
        let [held] = self
            .run([command(["HGETALL", &self.key(Key::BlockedRanges)])], now)
            .await?;
        let (standing, ended) = read_ranges(&held, now);
        self.drop_ranges(&ended, now).await?;
        Ok(standing)
    }

    async fn drop_ranges(&self, ended: &[String], now: Timestamp) -> Result<(), StoreError> {
        if ended.is_empty() {
            return Ok(());
        }
        let head = ["HDEL".to_owned(), self.key(Key::BlockedRanges)];
        let removal: Command = head.into_iter().chain(ended.iter().cloned()).collect();
        self.run([removal], now).await.map(drop)
    }

    /// All that an isolate keeps a copy of.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn blocklist_copy(&self, now: Timestamp) -> Result<BlocklistCopy, StoreError> {
        let most = usize::try_from(MAX_RANGES).unwrap_or(usize::MAX);
        let [version, ranges, addresses] = self
            .run(
                [
                    command(["GET", &self.key(Key::BlockedRangesVersion)]),
                    command(["HGETALL", &self.key(Key::BlockedRanges)]),
                    // Those that end last, should there be more than fit.
                    latest(&self.key(Key::BlockedAddresses), most),
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
                let block = AddressBlock::from_record(record.as_str()?);
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
        Ok(BlocklistCopy::new(version_of(&version), ranges, known))
    }
}

/// The command that takes what has ended out of a list.
pub(super) fn tidy(key: &str, now: Timestamp) -> Command {
    command([
        "ZREMRANGEBYSCORE",
        key,
        "-inf",
        &now.as_millis().to_string(),
    ])
}

/// The command that reads those of a list that end last.
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

/// Ranges' records that stand, and those that have ended.
fn read_ranges(held: &Value, now: Timestamp) -> (Map<String, Value>, Vec<String>) {
    let (mut standing, mut ended) = (Map::new(), Vec::new());
    for (range, record) in pairs(held) {
        let range = range.to_owned();
        if AddressBlock::from_record(record).stands(now) {
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
