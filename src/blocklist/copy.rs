//! The copy of the blocks that an isolate keeps.

use std::collections::HashMap;

use super::Target;
use crate::client::range::{Range, RangeMap};
use crate::store::AddressBlock;
use crate::time::{Millis, Timestamp};

/// How long the copy stands without a word from the store that it is the latest.
const FRESH: Millis = Millis::new(5000);

/// How long others keep from asking, and from loading, while one does.
const UNDER_WAY: Millis = Millis::new(2000);

/// What an isolate knows of the blocks.
#[derive(Clone, Debug, Default)]
pub struct Known {
    version: Option<String>,
    ranges: RangeMap<AddressBlock>,
    addresses: HashMap<String, AddressBlock>,
    /// When it was last known to be the latest.
    checked: Timestamp,
    asking_until: Timestamp,
    loading_until: Timestamp,
}

impl Known {
    /// What a database holds at `version`.
    #[must_use]
    pub fn new(
        version: Option<String>,
        ranges: RangeMap<AddressBlock>,
        addresses: HashMap<String, AddressBlock>,
    ) -> Self {
        Self {
            version,
            ranges,
            addresses,
            ..Self::default()
        }
    }

    /// The version that it is a copy of.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The longest block of a range that holds the caller of that canonical address.
    #[must_use]
    pub fn range(&self, address: &str, now: Timestamp) -> Option<(Range, AddressBlock)> {
        if self.ranges.is_empty() {
            return None;
        }
        let first = Range::parse(address)?.first();
        let standing = (self.ranges.holding(first))
            .map(|(range, block)| (range, *block))
            .filter(|(_, block)| stands(block, now));
        standing.max_by_key(|(_, block)| ends(*block))
    }

    /// The longest of these and of a block of the address itself.
    #[must_use]
    pub fn any(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        let own = self
            .addresses
            .get(address)
            .filter(|block| stands(block, now));
        let range = self.range(address, now).map(|(_, block)| block);
        longer(own.copied(), range)
    }

    /// Adds a block that the database could not be told of.
    pub fn add(&mut self, target: &Target, block: AddressBlock) {
        match target {
            Target::Address(address) => {
                self.addresses.insert(address.clone(), block);
            }
            Target::Range(added) => {
                let known = self.ranges.iter().map(|(range, block)| (range, *block));
                self.ranges = known.chain([(*added, block)]).collect();
            }
        }
    }

    /// Takes what was loaded at `now`.
    pub fn replace(&mut self, loaded: Self, now: Timestamp) {
        *self = Self {
            checked: now,
            ..loaded
        };
    }

    /// The store says which version is the latest: `true` where this copy is older and the one who
    /// asks is to load it.
    pub fn compare(&mut self, version: Option<&str>, now: Timestamp) -> bool {
        if self.version.as_deref() == version {
            self.checked = now;
            return false;
        }
        let free = is_over(self.loading_until, now);
        if free {
            self.loading_until = now + UNDER_WAY;
        }
        free
    }

    /// Whether the copy has to be compared before it denies again, by the one who asks.
    pub fn should_ask(&mut self, now: Timestamp) -> bool {
        let fresh = now.since(self.checked) < FRESH && self.checked <= now + FRESH;
        let due = !fresh && is_over(self.asking_until, now);
        if due {
            self.asking_until = now + UNDER_WAY;
        }
        due
    }
}

/// The one that ends last.
#[must_use]
pub fn longer(one: Option<AddressBlock>, other: Option<AddressBlock>) -> Option<AddressBlock> {
    one.into_iter()
        .chain(other)
        .max_by_key(|block| ends(*block))
}

fn ends(block: AddressBlock) -> u64 {
    block.until.map_or(u64::MAX, Timestamp::as_millis)
}

fn stands(block: &AddressBlock, now: Timestamp) -> bool {
    block.until.is_none_or(|until| until > now)
}

/// A deadline that a clock has left behind by stepping back is over as well.
fn is_over(deadline: Timestamp, now: Timestamp) -> bool {
    deadline <= now || deadline > now + UNDER_WAY
}
