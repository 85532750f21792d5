//! Blocks of addresses in a Redis Cluster. The record of an address is in the caller's slot, and the list of
//! addresses in the slot of the records. So a change takes several steps, and it may fail after each of them.
//!
//! The record is what denies. The order of the steps keeps its address listed for as long as it denies:
//!
//! - To set a block: first the list gets the address for at least as long as the new block. Then the record is
//!   set. Then the list gets the address for exactly as long. If the change fails early, the entry lasts longer
//!   than its record, or has none. An entry with an end is then not shown. For an entry without an end, isolates
//!   restore the record, as if the call had succeeded and its answer was lost.
//! - To lift a block: first an entry without an end is marked as [being lifted](LIFTING_SCORE), so that no isolate
//!   restores its record. Then the record is deleted, then the entry. If the change fails early, a marked entry
//!   blocks nobody: isolates leave it out of their copies, and an isolate that reads the list removes it once it
//!   has no record.
//! - After a change has written the list, it reads the record again. If another change came between, it writes
//!   the list again. So the last change makes the list agree with the record.
//! - A record is first restored for a minute. It is made permanent if its address is still listed without an end
//!   then. Until it is, the list does not follow the restored record, or a lifted block would come back.

use super::block::Block;
use super::change::{Condition, GuardedCommands, VersionChange};
use super::records::{
    ATTEMPTS, BlockError, ENDLESS_SCORE, LIFTING_SCORE, ListedAddresses, bound, restored, score_of,
    tidy,
};
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::{MAX_FAILURES_IN_A_ROW, Records};
use crate::redis::{Command, Database, command, number_of};
use crate::seed::Seed;
use crate::time::{Millis, Timestamp};

/// How many listed addresses are checked for their records with each part of the list that is read. Each check is
/// a separate call.
const CHECKED_PER_READ: usize = 20;

/// How long a restored record lasts if it is not made permanent.
const RESTORED_FOR: Millis = Millis::from_secs(60);

impl<D: Database> Records<D> {
    /// Sets a block of an address, and replaces any earlier one.
    pub(super) async fn block_clustered(
        &self,
        address: &str,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), BlockError> {
        let max = self.max_addresses();
        if !self.list_address(address, block, Some(max), now).await? {
            return Err(BlockError::Full(max));
        }
        let [set, _] = self.set_address(address, block, now);
        self.run([set], now).await?;
        let record = Some(block.to_record());
        self.sync_list(address, record, Vec::new(), now).await?;
        Ok(())
    }

    /// Lists an address for at least as long as `block`, if there are fewer than `max` others. Returns whether it is
    /// listed.
    pub(crate) async fn list_address(
        &self,
        address: &str,
        block: &Block,
        max: Option<u64>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let list = self.key(RedisKey::BlockedAddresses);
        let score = score_of(block);
        let if_score = |step: GuardedCommands, condition| {
            step.only_if(command(["ZSCORE", &list, address]), condition)
        };
        let set = || {
            let mut commands = self.listing_commands(address, score);
            commands.extend([tidy(&list, now), bound(&list, self.max_addresses())]);
            GuardedCommands::new(commands, VersionChange::Addresses)
        };
        let add = |condition| {
            let step = if_score(set(), condition);
            let in_force = command(["ZCOUNT", &list, &format!("({}", now.as_millis()), "+inf"]);
            match max {
                Some(max) => step.only_if(in_force, Condition::Below(max)),
                None => step,
            }
        };
        let prolong = if_score(set(), Condition::Above(now.as_millis()));
        let steps = vec![
            // It is listed for long enough.
            if_score(
                GuardedCommands::new([], VersionChange::Nothing),
                Condition::Above(score - 1),
            ),
            if_score(prolong, Condition::Below(score)),
            // It is not listed, or its block has ended.
            add(Condition::Absent),
            add(Condition::Below(now.as_millis() + 1)),
            self.end_of_list(),
        ];
        let outcomes = self.change(steps, now).await?;
        Ok(outcomes.iter().take(4).any(Option::is_some))
    }

    /// The commands that list an address.
    fn listing_commands(&self, address: &str, score: u64) -> Vec<Command> {
        let list = self.key(RedisKey::BlockedAddresses);
        let mut commands = vec![command(["ZADD", &list, &score.to_string(), address])];
        if score >= ENDLESS_SCORE {
            commands.push(command(["PERSIST", &list]));
        }
        commands
    }

    /// Makes the list agree with the record of an address. `record` is the record as last read or written. It runs
    /// the commands `more` in the same step.
    pub(crate) async fn sync_list(
        &self,
        address: &str,
        mut record: Option<String>,
        mut more: Vec<Command>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let list = self.key(RedisKey::BlockedAddresses);
        for _ in 0..ATTEMPTS {
            let mut commands = match &record {
                Some(record) if is_restored(record) => Vec::new(),
                Some(record) => {
                    self.listing_commands(address, score_of(&Block::from_record(record)))
                }
                None => vec![command(["ZREM", &list, address])],
            };
            commands.append(&mut more);
            if !commands.is_empty() {
                let steps = vec![
                    GuardedCommands::new(commands, VersionChange::Addresses),
                    self.end_of_list(),
                ];
                self.change(steps, now).await?;
            }
            let current = self.record_of(address, now).await?;
            if current == record {
                break;
            }
            // Another change came between. A change that comes later writes the list itself.
            record = current;
        }
        Ok(())
    }

    /// The text of an address's record. `None` if it has none.
    pub(crate) async fn record_of(
        &self,
        address: &str,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let read = command(["GET", &self.key(RedisKey::BlockedAddress(address))]);
        let [record] = self.run([read], now).await?;
        Ok(record.as_str().map(str::to_owned))
    }

    /// Lifts the block of an address. Returns whether there was one.
    pub(super) async fn lift_clustered(
        &self,
        address: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let list = self.key(RedisKey::BlockedAddresses);
        let lifting = LIFTING_SCORE.to_string();
        let mark = GuardedCommands::new(
            [command(["ZADD", &list, &lifting, address])],
            VersionChange::Nothing,
        )
        .only_if(
            command(["ZSCORE", &list, address]),
            Condition::Above(LIFTING_SCORE - 1),
        );
        let outcomes = self.change(vec![mark], now).await?;
        let was_endless = outcomes.iter().any(Option::is_some);
        // After a lift, the escalation starts again with its shortest block.
        let [deleted, _] = self
            .run(
                [
                    self.deletion(&[RedisKey::BlockedAddress(address)]),
                    self.deletion(&[RedisKey::EscalationCount(address)]),
                ],
                now,
            )
            .await?;
        self.sync_list(address, None, Vec::new(), now).await?;
        Ok(was_endless || number_of(&deleted) > 0)
    }

    /// Checks [some](CHECKED_PER_READ) listed addresses, chosen at random. It restores lost records of blocks without
    /// an end, and removes addresses from the list that are being lifted and have no record. Returns how many
    /// records were restored. A failure does not keep the other addresses from being checked. If all fail, the
    /// first error is returned.
    pub(super) async fn restore_clustered(
        &self,
        listed: &ListedAddresses,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let endless = listed.addresses.iter();
        let endless = endless.filter(|(_, block)| block.until.is_none());
        let endless = endless.map(|(address, _)| (address.as_str(), false));
        let lifting = listed.lifting.iter();
        let all: Vec<(&str, bool)> = endless
            .chain(lifting.map(|address| (address.as_str(), true)))
            .collect();
        // Each is chosen independently, so some may be checked twice. While many records are lost, each check finds
        // one. Without randomness, the time chooses.
        let choose = |number: usize| {
            let bits = Seed::random_bits().unwrap_or(now.as_millis() + number as u64);
            usize::try_from(bits % all.len() as u64).unwrap_or_default()
        };
        let places = 0..all.len().min(CHECKED_PER_READ);
        let places = places.map(|number| match all.len() {
            0..=CHECKED_PER_READ => number,
            _ => choose(number),
        });
        let (mut restored, mut failures, mut checked, mut error) = (0, 0, 0, None);
        for (address, is_being_lifted) in places.filter_map(|place| all.get(place)) {
            let result = match is_being_lifted {
                true => self.drop_lifted(address, now).await.map(|()| false),
                false => self.restore_record(address, now).await,
            };
            match result {
                Ok(is_restored) => {
                    (failures, checked) = (0, checked + 1);
                    restored += usize::from(is_restored);
                }
                Err(failure) => {
                    failures += 1;
                    error.get_or_insert(failure);
                }
            }
            if failures == MAX_FAILURES_IN_A_ROW {
                break;
            }
        }
        match error {
            Some(error) if checked == 0 => Err(error),
            _ => Ok(restored),
        }
    }

    /// Removes an address that is being lifted from the list, unless it has a record.
    async fn drop_lifted(&self, address: &str, now: Timestamp) -> Result<(), StoreError> {
        if self.record_of(address, now).await?.is_some() {
            return Ok(());
        }
        let list = self.key(RedisKey::BlockedAddresses);
        let step =
            GuardedCommands::new([command(["ZREM", &list, address])], VersionChange::Nothing)
                .only_if(
                    command(["ZSCORE", &list, address]),
                    Condition::Is(LIFTING_SCORE.to_string()),
                );
        self.change(vec![step], now).await?;
        match self.record_of(address, now).await? {
            None => Ok(()),
            // It was blocked meanwhile.
            record => self.sync_list(address, record, Vec::new(), now).await,
        }
    }

    /// Writes back the record of an address that is listed without an end, unless it has one. Returns whether it
    /// did.
    async fn restore_record(&self, address: &str, now: Timestamp) -> Result<bool, StoreError> {
        let key = self.key(RedisKey::BlockedAddress(address));
        let [at, until] = [now, now + RESTORED_FOR].map(Timestamp::as_millis);
        let record = format!("{{\"until\":{until},\"since\":{at},\"restored\":true}}");
        let ms = RESTORED_FOR.get().to_string();
        if self.record_of(address, now).await?.is_some() {
            return Ok(false);
        }
        let set = command(["SET", &key, &record, "PX", &ms, "NX"]);
        let [set] = self.run([set], now).await?;
        if set.is_null() {
            return Ok(false);
        }
        let list = self.key(RedisKey::BlockedAddresses);
        let [score] = self.run([command(["ZSCORE", &list, address])], now).await?;
        let is_listed = number_of(&score) >= ENDLESS_SCORE;
        let keep = match is_listed {
            true => command(["SET", &key, &restored(None, now).to_record()]),
            false => command(["DEL", &key]),
        };
        let step = GuardedCommands::new([keep], VersionChange::Nothing)
            .only_if_still(command(["GET", &key]), Some(&record));
        let outcomes = self.change(vec![step], now).await?;
        Ok(is_listed && outcomes.iter().any(Option::is_some))
    }
}

/// Whether a record is a restored one that lasts a minute. An operator cannot set this field.
fn is_restored(record: &str) -> bool {
    json::value(record).is_some_and(|record| record["restored"] == true)
}

#[cfg(test)]
mod tests;
