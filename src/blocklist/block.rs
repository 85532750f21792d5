//! A block, and its record in Redis.

use serde::Serialize;

use crate::json;
use crate::time::Timestamp;

/// A block of an address or a range, as decisions need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    /// When the block ends. `None` if it lasts until it is lifted.
    pub until: Option<Timestamp>,
}

impl AddressBlock {
    /// Reads a record as a decision does, in the same way as the script. It starts with
    /// `{"until":MILLISECONDS` if the block has an end. Any other record blocks until it is lifted.
    #[must_use]
    pub fn from_record(record: &str) -> Self {
        let digits = record.strip_prefix("{\"until\":").map(|rest| {
            let end = rest.find(|digit: char| !digit.is_ascii_digit());
            &rest[..end.unwrap_or(rest.len())]
        });
        Self {
            until: digits
                .filter(|digits| digits.len() <= 15)
                .and_then(|digits| digits.parse().ok())
                .map(Timestamp::from_millis),
        }
    }

    /// Whether the block is in force at `now`.
    #[must_use]
    pub fn is_in_force(self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// When the block ends, in ms since the epoch. The largest number if it has no end.
    #[must_use]
    pub fn ends(self) -> u64 {
        self.until.map_or(u64::MAX, Timestamp::as_millis)
    }

    /// The one of two blocks that ends later. `None` if there is neither.
    #[must_use]
    pub fn longer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter()
            .chain(other)
            .max_by_key(|block| block.ends())
    }
}

/// Who set a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockedBy {
    /// An operator, with an admin token.
    Operator,
    /// The escalation, after too many denials.
    Escalation,
}

/// A block with all fields of its record. `until` comes first, because the script reads it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Block {
    /// When the block ends, in ms since the epoch. `None` if it lasts until it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// When the block was set, in ms since the epoch.
    pub since: u64,
    /// Who set the block.
    pub by: BlockedBy,
    /// The reason that the operator gave. `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Block {
    /// The record's text.
    #[must_use]
    pub fn to_record(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a record. One that cannot be read as JSON still blocks, like in the script: until the end with
    /// which it starts, or else until it is lifted.
    #[must_use]
    pub fn from_record(record: &str) -> Self {
        let value = json::value(record).unwrap_or_default();
        let escalated = value["by"] == "escalation";
        Self {
            until: AddressBlock::from_record(record)
                .until
                .map(Timestamp::as_millis),
            since: value["since"].as_u64().unwrap_or_default(),
            by: if escalated {
                BlockedBy::Escalation
            } else {
                BlockedBy::Operator
            },
            reason: value["reason"].as_str().map(str::to_owned),
        }
    }

    /// Whether the block is in force at `now`.
    #[must_use]
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressBlock, Block, BlockedBy};
    use crate::time::Timestamp;

    #[test]
    fn the_text_of_who_blocked_does_not_follow_its_name_in_the_code() {
        for (by, text) in [
            (BlockedBy::Operator, "operator"),
            (BlockedBy::Escalation, "escalation"),
        ] {
            assert_eq!(serde_json::to_value(by).unwrap(), text);
        }
    }

    #[test]
    fn the_end_of_a_block_is_read_from_its_record() {
        let mut block = Block {
            until: Some(1_764_000_000_000),
            since: 5,
            by: BlockedBy::Escalation,
            reason: Some("\"until\":7 }\u{2028}<b>".to_owned()),
        };
        for until in [Some(1_764_000_000_000), None] {
            block.until = until;
            let record = block.to_record();
            assert_eq!(Block::from_record(&record), block);
            assert_eq!(
                AddressBlock::from_record(&record).until,
                until.map(Timestamp::from_millis)
            );
        }
        for (garbage, until) in [("", None), ("{\"until\":5,", Some(5)), ("[1]", None)] {
            assert_eq!(Block::from_record(garbage).until, until);
        }
    }
}
