//! A block, and its record in Redis.

use serde::Serialize;

use crate::json;
use crate::time::Timestamp;

/// A block of an address everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    /// When it ends; `None`: when an operator lifts it.
    pub until: Option<Timestamp>,
}

impl AddressBlock {
    /// What a record says to a decision. It starts with `{"until":MILLISECONDS` if the block has an end;
    /// the script reads it the same way. Any other record blocks until it is lifted.
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

    /// Whether it stands at `now`.
    #[must_use]
    pub fn stands(self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// When it ends, one without an end last.
    #[must_use]
    pub fn ends(self) -> u64 {
        self.until.map_or(u64::MAX, Timestamp::as_millis)
    }

    /// Of two, the one that ends last.
    #[must_use]
    pub fn longer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter()
            .chain(other)
            .max_by_key(|block| block.ends())
    }
}

/// Who or what blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockedBy {
    /// Somebody with the admin token.
    Operator,
    /// Too many denials.
    Escalation,
}

/// A block, as its record has it. The end comes first: the script reads it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Block {
    /// When it ends, in ms since the epoch; `None`: when it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// When it was set, in ms since the epoch.
    pub since: u64,
    /// Who or what set it.
    pub by: BlockedBy,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Block {
    /// The record's text.
    #[must_use]
    pub fn to_record(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a record says. One that cannot be read blocks until it is lifted, as the script has it,
    /// unless it begins with an end.
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

    /// Whether it stands.
    #[must_use]
    pub fn stands(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressBlock, Block, BlockedBy};
    use crate::time::Timestamp;

    #[test]
    fn the_script_reads_the_end_of_a_record() {
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
