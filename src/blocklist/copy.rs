//! The copy of the blocks that an isolate keeps.

use std::collections::HashMap;

use super::block::AddressBlock;
use super::target::Target;
use crate::client::range::{Range, RangeMap};
use crate::time::{Deadline, Millis, Timestamp};

/// How long the copy counts as the latest without a word from the store.
const FRESH: Millis = Millis::new(5000);

/// How long others keep from asking, and from loading, while one does.
const UNDER_WAY: Millis = Millis::new(2000);

/// What an isolate knows of the blocks.
#[derive(Clone, Debug, Default)]
pub struct BlocklistCopy {
    version: Option<String>,
    ranges: RangeMap<AddressBlock>,
    addresses: HashMap<String, AddressBlock>,
    /// While it counts as the latest.
    fresh: Deadline,
    asking: Deadline,
    loading: Deadline,
}

impl BlocklistCopy {
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
            .filter(|(_, block)| block.stands(now));
        standing.max_by_key(|(_, block)| block.ends())
    }

    /// The longest of these and of a block of the address itself.
    #[must_use]
    pub fn any(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        let own = self.addresses.get(address).copied();
        let range = self.range(address, now).map(|(_, block)| block);
        AddressBlock::longer(own.filter(|block| block.stands(now)), range)
    }

    /// Adds a block that could not be written to the database.
    pub fn add(&mut self, target: &Target, block: AddressBlock) {
        match target {
            Target::Address(network) => {
                self.addresses.insert(network.to_string(), block);
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
            fresh: Deadline::after(FRESH, now),
            ..loaded
        };
    }

    /// The store says which version is the latest: `true` where this copy is older and the one who
    /// asks is to load it.
    pub fn compare(&mut self, version: Option<&str>, now: Timestamp) -> bool {
        if self.version.as_deref() == version {
            self.fresh = Deadline::after(FRESH, now);
            return false;
        }
        begin(&mut self.loading, now)
    }

    /// Whether the copy has to be compared before it denies again, by the one who asks.
    pub fn should_ask(&mut self, now: Timestamp) -> bool {
        !self.fresh.is_pending(now) && begin(&mut self.asking, now)
    }
}

/// Whether nobody is at it; then the one who asks is.
fn begin(under_way: &mut Deadline, now: Timestamp) -> bool {
    let free = !under_way.is_pending(now);
    if free {
        *under_way = Deadline::after(UNDER_WAY, now);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::BlocklistCopy;
    use crate::store::conformance::START;
    use crate::time::Millis;

    /// Each of its deadlines, set by a clock an hour ahead: none holds by the clock that is set right.
    #[test]
    fn a_clock_set_back_keeps_nobody_from_asking_or_loading() {
        let ahead = START + Millis::from_secs(3600);
        let soon = ahead + Millis::new(1);
        let mut fresh = BlocklistCopy::default();
        assert!(!fresh.compare(None, ahead));
        assert!(!fresh.should_ask(soon));
        assert!(fresh.should_ask(START));

        let mut asking = BlocklistCopy::default();
        assert!(asking.should_ask(ahead) && !asking.should_ask(soon));
        assert!(asking.should_ask(START));

        let mut loading = BlocklistCopy::default();
        let mut load = |now| loading.compare(Some("2"), now);
        assert!(load(ahead) && !load(soon));
        assert!(load(START));
    }
}
