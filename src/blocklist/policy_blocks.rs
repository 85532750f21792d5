//! The list of policies' own blocks of their callers.

use super::records::{LIST_TTL, MAX_RANGES, bound, latest, tidy};
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, number_of, pairs};
use crate::time::Timestamp;

/// A policy's own block of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyBlock {
    /// `{policy}:{caller}`.
    pub key: String,
    /// When the block ends, in ms since the epoch.
    pub until: u64,
}

impl<D: Database> Records<D> {
    /// Up to `most` of the policies' own blocks that have been recorded. Those that end last come first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn policy_blocks(
        &self,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<PolicyBlock>, StoreError> {
        let key = self.key(RedisKey::BlockedPolicies);
        let [listed] = self.run([latest(&key, most)], now).await?;
        let listed = pairs(&listed).into_iter().map(|(key, until)| PolicyBlock {
            key: key.to_owned(),
            until: until.parse().unwrap_or_default(),
        });
        let listed: Vec<PolicyBlock> = listed
            .filter(|block| block.until > now.as_millis())
            .collect();
        if listed.is_empty() || !self.is_shared() {
            return Ok(listed);
        }
        // An isolate that remembers a block may have listed it after another lifted it, so the list alone
        // proves nothing.
        let keys = listed
            .iter()
            .map(|block| self.key(RedisKey::QuotaBlock(&block.key)));
        let read: Command = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let [records] = self.run([read], now).await?;
        let records = records.as_array().map(Vec::as_slice).unwrap_or_default();
        let with_records = listed.into_iter().zip(records);
        Ok(with_records
            .filter(|(_, record)| !record.is_null())
            .map(|(block, _)| block)
            .collect())
    }

    /// Lifts policies' own blocks by their keys `{policy}:{caller}`, and returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn lift_policy_blocks(
        &self,
        keys: &[String],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let names: Vec<RedisKey> = keys.iter().map(|key| RedisKey::QuotaBlock(key)).collect();
        let head = ["ZREM".to_owned(), self.key(RedisKey::BlockedPolicies)];
        let unlist: Command = head.into_iter().chain(keys.iter().cloned()).collect();
        let [removed, unlisted] = self.run([self.deletion(&names), unlist], now).await?;
        // Without Redis the blocks are in the memory store, and this database has only the list.
        Ok(number_of(&removed).max(if self.is_shared() {
            0
        } else {
            number_of(&unlisted)
        }))
    }

    /// The commands that add policies' blocks to the list and keep the list to its bounds.
    pub(crate) fn policy_list_commands(
        &self,
        blocks: &[(String, u64)],
        now: Timestamp,
    ) -> [Command; 4] {
        let key = self.key(RedisKey::BlockedPolicies);
        let pairs = blocks
            .iter()
            .flat_map(|(key, until)| [until.to_string(), key.clone()]);
        let add = ["ZADD".to_owned(), key.clone()];
        [
            add.into_iter().chain(pairs).collect(),
            tidy(&key, now),
            bound(&key, MAX_RANGES),
            command(["PEXPIRE", &key, &LIST_TTL.get().to_string()]),
        ]
    }
}
