//! Policies' own blocks of their callers, as they are listed.

use super::records::{LIST_KEPT, MAX_RANGES, bound, latest, tidy};
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
    /// When it ends, in ms since the epoch.
    pub until: u64,
}

impl<D: Database> Records<D> {
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
        // An isolate that remembers a block may have listed it after it was lifted elsewhere.
        let keys = listed
            .iter()
            .map(|block| self.key(RedisKey::QuotaBlock(&block.key)));
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
        let names: Vec<RedisKey> = keys.iter().map(|key| RedisKey::QuotaBlock(key)).collect();
        let head = ["ZREM".to_owned(), self.key(RedisKey::BlockedPolicies)];
        let unlist: Command = head.into_iter().chain(keys.iter().cloned()).collect();
        let [removed, unlisted] = self.run([self.deletion(&names), unlist], now).await?;
        // In an isolate's memory the blocks are in the quotas' map, and only the list is here.
        Ok(number_of(&removed).max(if self.is_shared() {
            0
        } else {
            number_of(&unlisted)
        }))
    }

    /// The commands that list policies' blocks and keep the list to its bounds.
    pub(crate) fn listing(&self, blocks: &[(String, u64)], now: Timestamp) -> [Command; 4] {
        let key = self.key(RedisKey::BlockedPolicies);
        let pairs = blocks
            .iter()
            .flat_map(|(key, until)| [until.to_string(), key.clone()]);
        let add = ["ZADD".to_owned(), key.clone()];
        [
            add.into_iter().chain(pairs).collect(),
            tidy(&key, now),
            bound(&key, MAX_RANGES),
            command(["PEXPIRE", &key, &LIST_KEPT.get().to_string()]),
        ]
    }
}
