//! The list of blocks, in pages.

use super::block::{Block, BlockedBy};
use super::records::ENDLESS;
use crate::client::Network;
use crate::client::range::Range;
use crate::error::StoreError;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, pairs};
use crate::time::Timestamp;

/// A page of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockPage {
    /// The blocks with their targets.
    pub blocks: Vec<(String, Block)>,
    /// Where the next page begins, if there is one.
    pub next: Option<BlockCursor>,
}

/// Where a page begins: addresses by the end of their blocks, then ranges as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockCursor {
    /// Behind this entry of the list, a score and an address.
    Addresses(u64, String),
    /// Behind this range.
    Ranges(String),
}

impl BlockCursor {
    /// The beginning.
    pub const FIRST: Self = Self::Addresses(0, String::new());

    /// As it stands in a URL.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Addresses(score, address) => format!("a{score}-{address}"),
            Self::Ranges(after) => format!("r{after}"),
        }
    }

    /// What [`text`](Self::text) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(after) = text.strip_prefix('r') {
            return Range::parse(after).map(|_| Self::Ranges(after.to_owned()));
        }
        let (score, address) = text.strip_prefix('a')?.split_once('-')?;
        let score = score.parse().ok().filter(|score| *score <= 2 * ENDLESS)?;
        (address.is_empty() || Network::parse(address).is_some())
            .then(|| Self::Addresses(score, address.to_owned()))
    }
}

impl<D: Database> Records<D> {
    /// At most `most` blocks from `cursor` on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn blocks(
        &self,
        cursor: &BlockCursor,
        most: usize,
        now: Timestamp,
    ) -> Result<BlockPage, StoreError> {
        let mut page = BlockPage::default();
        let mut after = None;
        match cursor {
            BlockCursor::Addresses(score, address) => {
                let behind = (*score, address.as_str());
                let mut listed = self.addresses(behind, most + 1, now).await?;
                if listed.len() > most {
                    listed.truncate(most);
                    let last = listed.last().cloned();
                    page.next = last.map(|(address, score)| BlockCursor::Addresses(score, address));
                }
                page.blocks = self.fill(listed, now).await?;
                if page.next.is_some() {
                    return Ok(page);
                }
            }
            BlockCursor::Ranges(known) => after = Some(known.as_str()),
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
                (Some((range, _)), _) => BlockCursor::Ranges(range.clone()),
                (None, Some(after)) => BlockCursor::Ranges(after.to_owned()),
                // Before every range, as text goes.
                (None, None) => BlockCursor::Ranges("0.0.0.0".to_owned()),
            });
        }
        Ok(page)
    }

    /// The first `most` entries behind a score and an address, of those that have not ended.
    async fn addresses(
        &self,
        behind: (u64, &str),
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let key = self.key(RedisKey::BlockedAddresses);
        let from = behind.0.max(now.as_millis() + 1);
        let mut found = Vec::new();
        // Entries of one moment are in the order of their addresses. Those up to the one behind which the
        // page begins are passed over, however many of them have been lifted since.
        let mut skipped = 0;
        loop {
            let [listed] = self.run([page_of(&key, from, skipped, most)], now).await?;
            let listed = pairs(&listed);
            skipped += listed.len();
            let scored = listed.iter().map(|(address, score)| {
                let score = score.parse().unwrap_or_default();
                (*address, score)
            });
            let rest = scored.filter(|(address, score)| (*score, *address) > behind);
            found.extend(rest.map(|(address, score)| (address.to_owned(), score)));
            if listed.len() < most || found.len() >= most {
                found.truncate(most);
                return Ok(found);
            }
        }
    }

    /// Reads the records of listed addresses. Without one a block has ended, unless it has no end: then
    /// the database has lost the record.
    async fn fill(
        &self,
        listed: Vec<(String, u64)>,
        now: Timestamp,
    ) -> Result<Vec<(String, Block)>, StoreError> {
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let keys = listed
            .iter()
            .map(|(address, _)| self.key(RedisKey::BlockedAddress(address)));
        let read: Command = ["MGET".to_owned()].into_iter().chain(keys).collect();
        let [records] = self.run([read], now).await?;
        let records = records.as_array().cloned().unwrap_or_default();
        let filled = listed
            .into_iter()
            .zip(records)
            .filter_map(|((address, score), record)| {
                let block = match record.as_str() {
                    Some(record) => Block::from_record(record),
                    None => without_record(score)?,
                };
                block.stands(now).then_some((address, block))
            });
        Ok(filled.collect())
    }
}

/// The block without an end that the list has at this score, if it is one.
fn without_record(score: u64) -> Option<Block> {
    Some(Block {
        until: None,
        since: score.checked_sub(ENDLESS)?,
        by: BlockedBy::Operator,
        reason: Some("not in force until an isolate restores its record, which is lost".to_owned()),
    })
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
