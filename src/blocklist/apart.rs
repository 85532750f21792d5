//! Blocks of addresses in a cluster, where an address's record is in its caller's slot and the list in the records': a
//! change is several steps, and it may end after each of them.
//!
//! The record is what denies. The order of the steps keeps it listed while it does:
//!
//! - To set a block: the list has the address for at least as long as the new block, then the record is set, then the list has
//!   it for exactly as long. Ended early, an entry stands for longer than its record, or without one: where it has an end, it
//!   is not shown; where it has none, isolates restore the record, as if the call had come to its end without an answer.
//! - To lift one: what is listed without an end is listed as [being lifted](LIFTING), so that no isolate restores it, then
//!   the record is deleted, then the entry. Ended early, such an entry blocks nobody: isolates leave it out of their copies,
//!   and an isolate that reads the list removes it once it has no record.
//! - Whoever changed a record reads it again once the list is written: where another change came between, the list is
//!   written anew, so that the last one writes what the record says.
//! - A record is restored for a minute first, and for good if its address is still listed without an end then. Until then
//!   the list does not follow it: a lifted block would come back.

use super::block::Block;
use super::change::{Condition, GuardedCommands, VersionChange};
use super::records::{
    ATTEMPTS, BlockError, ENDLESS, LIFTING, ListedAddresses, bound, restored, score_of, tidy,
};
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::{FAILURES_IN_A_ROW, Records};
use crate::redis::{Command, Database, command, number_of};
use crate::seed::Seed;
use crate::time::{Millis, Timestamp};

/// Listed addresses whose records are looked at with each part of the list that is read: each is a call of its own.
const LOOKED_AT: usize = 20;

/// How long a restored record stays if nobody makes it one for good.
const RESTORING: Millis = Millis::from_secs(60);

impl<D: Database> Records<D> {
    /// Sets a block of an address in place of one that is there.
    pub(super) async fn block_apart(
        &self,
        address: &str,
        block: &Block,
        now: Timestamp,
    ) -> Result<(), BlockError> {
        let most = self.most_addresses();
        if !self.list(address, block, Some(most), now).await? {
            return Err(BlockError::Full(most));
        }
        let [set, _] = self.set_address(address, block, now);
        self.run([set], now).await?;
        let record = Some(block.to_record());
        self.settle(address, record, Vec::new(), now).await?;
        Ok(())
    }

    /// Lists an address for at least as long as `block`, if there are fewer than `most` others; whether it is.
    pub(crate) async fn list(
        &self,
        address: &str,
        block: &Block,
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let list = self.key(RedisKey::BlockedAddresses);
        let score = score_of(block);
        let is_listed = |step: GuardedCommands, wanted| {
            step.only_if(command(["ZSCORE", &list, address]), wanted)
        };
        let set = || {
            let mut commands = self.listing_of(address, score).to_vec();
            commands.extend([tidy(&list, now), bound(&list, self.most_addresses())]);
            GuardedCommands::new(commands, VersionChange::Addresses)
        };
        let new = |wanted| {
            let step = is_listed(set(), wanted);
            let standing = command(["ZCOUNT", &list, &format!("({}", now.as_millis()), "+inf"]);
            match most {
                Some(most) => step.only_if(standing, Condition::Below(most)),
                None => step,
            }
        };
        let later = is_listed(set(), Condition::Above(now.as_millis()));
        let steps = vec![
            is_listed(
                GuardedCommands::new([], VersionChange::Nothing),
                Condition::Above(score - 1),
            ),
            is_listed(later, Condition::Below(score)),
            new(Condition::Absent),
            new(Condition::Below(now.as_millis() + 1)),
            self.end_of_list(),
        ];
        let outcomes = self.change(steps, now).await?;
        Ok(outcomes.iter().take(4).any(Option::is_some))
    }

    /// The commands that list an address.
    fn listing_of(&self, address: &str, score: u64) -> Vec<Command> {
        let list = self.key(RedisKey::BlockedAddresses);
        let mut commands = vec![command(["ZADD", &list, &score.to_string(), address])];
        if score >= ENDLESS {
            commands.push(command(["PERSIST", &list]));
        }
        commands
    }

    /// Lets the list say of an address what its record does, which is `record` as far as is known, and runs `more` with that.
    pub(crate) async fn settle(
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
                Some(record) => self.listing_of(address, score_of(&Block::from_record(record))),
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
            let held = self.record_of(address, now).await?;
            if held == record {
                break;
            }
            // Whoever changes it next writes the list after this.
            record = held;
        }
        Ok(())
    }

    /// The record of an address, as it is.
    pub(crate) async fn record_of(
        &self,
        address: &str,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let read = command(["GET", &self.key(RedisKey::BlockedAddress(address))]);
        let [record] = self.run([read], now).await?;
        Ok(record.as_str().map(str::to_owned))
    }

    /// Lifts the block of an address; whether there was one.
    pub(super) async fn lift_apart(
        &self,
        address: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let list = self.key(RedisKey::BlockedAddresses);
        let lifting = LIFTING.to_string();
        let step = GuardedCommands::new(
            [command(["ZADD", &list, &lifting, address])],
            VersionChange::Nothing,
        )
        .only_if(
            command(["ZSCORE", &list, address]),
            Condition::Above(LIFTING - 1),
        );
        let outcomes = self.change(vec![step], now).await?;
        let was_endless = outcomes.iter().any(Option::is_some);
        // Lifted, it begins anew.
        let [deleted, _] = self
            .run(
                [
                    self.deletion(&[RedisKey::BlockedAddress(address)]),
                    self.deletion(&[RedisKey::Escalated(address)]),
                ],
                now,
            )
            .await?;
        self.settle(address, None, Vec::new(), now).await?;
        Ok(was_endless || number_of(&deleted) > 0)
    }

    /// Looks at [some](LOOKED_AT) listed addresses, chosen at random: writes the records back that blocks without an end have
    /// lost, and takes out of the list what was being lifted and has no record; how many were restored. An address
    /// that fails keeps no other from it; where all do, why the first did.
    pub(super) async fn look_apart(
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
        // Each for itself, some perhaps twice: while many have lost their records, each look finds one. Without randomness, by
        // the time.
        let chosen = |number: usize| {
            let bits = Seed::random_bits().unwrap_or(now.as_millis() + number as u64);
            usize::try_from(bits % all.len() as u64).unwrap_or_default()
        };
        let places = 0..all.len().min(LOOKED_AT);
        let places = places.map(|number| match all.len() {
            0..=LOOKED_AT => number,
            _ => chosen(number),
        });
        let (mut restored, mut failures, mut looked_at, mut error) = (0, 0, 0, None);
        for (address, is_lifted) in places.filter_map(|place| all.get(place)) {
            let looked = match is_lifted {
                true => self.drop_lifted(address, now).await.map(|()| false),
                false => self.restore_apart(address, now).await,
            };
            match looked {
                Ok(is_restored) => {
                    (failures, looked_at) = (0, looked_at + 1);
                    restored += usize::from(is_restored);
                }
                Err(why) => {
                    failures += 1;
                    error.get_or_insert(why);
                }
            }
            if failures == FAILURES_IN_A_ROW {
                break;
            }
        }
        match error {
            Some(error) if looked_at == 0 => Err(error),
            _ => Ok(restored),
        }
    }

    /// Takes an address out of the list that was being lifted, unless it has a record.
    async fn drop_lifted(&self, address: &str, now: Timestamp) -> Result<(), StoreError> {
        if self.record_of(address, now).await?.is_some() {
            return Ok(());
        }
        let list = self.key(RedisKey::BlockedAddresses);
        let step =
            GuardedCommands::new([command(["ZREM", &list, address])], VersionChange::Nothing)
                .only_if(
                    command(["ZSCORE", &list, address]),
                    Condition::Is(LIFTING.to_string()),
                );
        self.change(vec![step], now).await?;
        match self.record_of(address, now).await? {
            None => Ok(()),
            // Somebody blocked it meanwhile.
            record => self.settle(address, record, Vec::new(), now).await,
        }
    }

    /// Writes back the record of an address that is listed without an end, unless it has one; whether it did.
    async fn restore_apart(&self, address: &str, now: Timestamp) -> Result<bool, StoreError> {
        let key = self.key(RedisKey::BlockedAddress(address));
        let [at, until] = [now, now + RESTORING].map(Timestamp::as_millis);
        let record = format!("{{\"until\":{until},\"since\":{at},\"restored\":true}}");
        let ms = RESTORING.get().to_string();
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
        let is_listed = number_of(&score) >= ENDLESS;
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

/// Whether a record is one that stays for a minute only. No operator's reason makes a record one.
fn is_restored(record: &str) -> bool {
    json::value(record).is_some_and(|record| record["restored"] == true)
}

#[cfg(test)]
mod tests;
