//! The list of blocks, in pages.

use super::block::Block;
use super::records::{ENDLESS, MAX_ADDRESSES, tidy};
use crate::client::range::Range;
use crate::error::StoreError;
use crate::redis::keys::Key;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, pairs};
use crate::time::Timestamp;

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
        (score <= 2 * ENDLESS && skipped as u64 <= MAX_ADDRESSES)
            .then_some(Self::Addresses(score, skipped))
    }
}

impl<D: Database> Records<D> {
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
        let key = self.key(Key::BlockedAddresses);
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
            .map(|(address, _)| self.key(Key::BlockedAddress(address)));
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
