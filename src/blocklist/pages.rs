//! The list of blocks, in pages.

use super::block::{Block, BlockedBy};
use super::records::ENDLESS_SCORE;
use crate::client::AddressPrefix;
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
    /// Where the next page begins. `None` on the last page.
    pub next: Option<BlockCursor>,
}

/// Where a page begins. Addresses come first, by the end of their blocks, then ranges in the order of their
/// texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockCursor {
    /// After this entry of the list of addresses: its score and its address.
    Addresses(u64, String),
    /// After this range.
    Ranges(String),
}

impl BlockCursor {
    /// The beginning of the first page.
    pub const FIRST: Self = Self::Addresses(0, String::new());

    /// The cursor's text in a URL.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Addresses(score, address) => format!("a{score}-{address}"),
            Self::Ranges(after) => format!("r{after}"),
        }
    }

    /// Parses a [`text`](Self::text). `None` if it is no cursor.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(after) = text.strip_prefix('r') {
            return Range::parse(after).map(|_| Self::Ranges(after.to_owned()));
        }
        let (score, address) = text.strip_prefix('a')?.split_once('-')?;
        let score = score
            .parse()
            .ok()
            .filter(|score| *score <= 2 * ENDLESS_SCORE)?;
        (address.is_empty() || AddressPrefix::parse(address).is_some())
            .then(|| Self::Addresses(score, address.to_owned()))
    }
}

impl<D: Database> Records<D> {
    /// At most `most` blocks from `cursor` on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
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
                let after = (*score, address.as_str());
                let mut listed = self.addresses(after, most + 1, now).await?;
                if listed.len() > most {
                    listed.truncate(most);
                    let last = listed.last().cloned();
                    page.next = last.map(|(address, score)| BlockCursor::Addresses(score, address));
                }
                page.blocks = self.with_records(listed, now).await?;
                if page.next.is_some() {
                    return Ok(page);
                }
            }
            BlockCursor::Ranges(range) => after = Some(range.as_str()),
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
                // As a text, this comes before every range.
                (None, None) => BlockCursor::Ranges("0.0.0.0".to_owned()),
            });
        }
        Ok(page)
    }

    /// The first `most` addresses with their scores whose blocks have not ended, after a score and an address.
    async fn addresses(
        &self,
        after: (u64, &str),
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let key = self.key(RedisKey::BlockedAddresses);
        let from = after.0.max(now.as_millis() + 1);
        let mut found = Vec::new();
        // Entries with one score are in the order of their addresses. Those up to the cursor's address are
        // skipped here, and not by their number, since some may have been lifted meanwhile.
        let mut skipped = 0;
        loop {
            let [listed] = self.run([page_of(&key, from, skipped, most)], now).await?;
            let listed = pairs(&listed);
            skipped += listed.len();
            let scored = listed.iter().map(|(address, score)| {
                let score = score.parse().unwrap_or_default();
                (*address, score)
            });
            let rest = scored.filter(|(address, score)| (*score, *address) > after);
            found.extend(rest.map(|(address, score)| (address.to_owned(), score)));
            if listed.len() < most || found.len() >= most {
                found.truncate(most);
                return Ok(found);
            }
        }
    }

    /// Reads the records of listed addresses. If a record is missing, the block has ended. If that block has no
    /// end, the database has lost the record.
    async fn with_records(
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
                block.is_in_force(now).then_some((address, block))
            });
        Ok(filled.collect())
    }
}

/// The block to show for a listed address without a record, if its score is that of a block without an end.
fn without_record(score: u64) -> Option<Block> {
    Some(Block {
        until: None,
        since: score.checked_sub(ENDLESS_SCORE)?,
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
