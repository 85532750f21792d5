//! The copy of the blocks that an isolate keeps.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::block::AddressBlock;
use super::records::{ListedAddresses, MAX_RANGES};
use super::target::BlockTarget;
use super::version::{Agreement, StoredRanges, epoch_of, ranges_of, same_ranges};
use crate::client::range::{Range, RangeMap};
use crate::time::{Deadline, Millis, Timestamp};

/// How long the copy counts as the latest without a word from the store.
const FRESH: Millis = Millis::new(5000);

/// How long others keep from asking, and from loading, while one does.
const UNDER_WAY: Millis = Millis::new(2000);

/// How long after the store confirmed it a copy counts as known: what it has and the store lost is
/// restored.
pub const KNOWN_FOR: Millis = Millis::from_secs(60 * 60);

/// The least time between two reads of the list of addresses, and between two parts of it. What it is
/// for can wait: a listed address's own record is part of each decision.
const LIST_READ_AFTER: Millis = Millis::from_secs(30);
const READ_ON_AFTER: Millis = Millis::from_secs(1);

/// How long after an isolate's first question, and after each look, it looks whether the database still
/// holds what it says.
const FIRST_LOOK_AFTER: Millis = Millis::from_secs(60);
const LOOK_AFTER: Millis = Millis::from_secs(10 * 60);

/// What an isolate knows of the blocks.
#[derive(Clone, Debug, Default)]
pub struct BlocklistCopy {
    version: Option<String>,
    /// Whether the ranges were all that the version stands for.
    whole: bool,
    ranges: RangeMap<AddressBlock>,
    addresses: HashMap<String, AddressBlock>,
    /// IPv6 networks among the addresses, some perhaps of another length than callers have now.
    networks: RangeMap<AddressBlock>,
    /// Whether one of them has denied a caller of another length: it may have been lifted meanwhile.
    denied: Cell<bool>,
    /// The list of addresses as far as it has been read anew.
    reading: Option<ListRead>,
    /// Whether the store has told of another version of the ranges.
    behind: bool,
    /// While it counts as the latest.
    fresh: Deadline,
    /// While it counts as known.
    known: Deadline,
    asking: Deadline,
    loading: Deadline,
    /// Until the list of addresses may be read again.
    listing: Deadline,
    /// Until it is to look again. `None`: it was never asked.
    looking: Option<Deadline>,
}

#[derive(Clone, Debug, Default)]
struct ListRead {
    addresses: HashMap<String, AddressBlock>,
    after: (u64, String),
}

/// What is to be done about the ranges that a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangesAction {
    /// They are the latest.
    Take,
    /// These are lost, and known here.
    Restore(Vec<(Range, AddressBlock)>),
    /// Nothing is known to be lost but the version.
    Renew,
    /// Some are lost, and nothing of them is known here.
    Lost,
}

impl BlocklistCopy {
    /// The version that it is a copy of.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The longest block of a range that holds the caller of that canonical address. IPv6 networks of
    /// another length than the caller's count as ranges: the length that makes a caller has changed since
    /// they were blocked.
    #[must_use]
    pub fn range(&self, address: &str, now: Timestamp) -> Option<(Range, AddressBlock)> {
        let networks = !self.networks.is_empty() && address.contains(':');
        if self.ranges.is_empty() && !networks {
            return None;
        }
        let caller = Range::parse(address)?;
        let mut longest: Option<(Range, AddressBlock)> = None;
        let mut by_network = false;
        let ranges = self.ranges.overlapping(caller);
        let others = ranges.len();
        let all = ranges.into_iter().chain(self.networks.overlapping(caller));
        for (place, (range, block)) in all.enumerate() {
            let is_network = place >= others;
            if block.stands(now) && !(is_network && range == caller) {
                by_network |= is_network;
                if longest.is_none_or(|(_, longest)| block.ends() >= longest.ends()) {
                    longest = Some((range, *block));
                }
            }
        }
        if by_network {
            self.denied.set(true);
        }
        longest
    }

    /// The longest of these and of a block of the address itself.
    #[must_use]
    pub fn any(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        let own = self.addresses.get(address).copied();
        let range = self.range(address, now).map(|(_, block)| block);
        AddressBlock::longer(own.filter(|block| block.stands(now)), range)
    }

    /// Adds a block that has been set, or that could not be written to the database.
    pub fn add(&mut self, target: &BlockTarget, block: AddressBlock, now: Timestamp) {
        match target {
            BlockTarget::Address(network) => {
                let address = network.to_string();
                if self.addresses.len() as u64 >= 2 * MAX_RANGES {
                    self.addresses.retain(|_, block| block.stands(now));
                    if self.addresses.len() as u64 >= 2 * MAX_RANGES {
                        return;
                    }
                }
                if let Some(reading) = &mut self.reading {
                    reading.addresses.insert(address.clone(), block);
                }
                self.addresses.insert(address, block);
            }
            BlockTarget::Range(added) => {
                let mut ranges = listed(&self.ranges);
                ranges.push((*added, block));
                self.ranges = mapped(ranges);
            }
        }
    }

    /// Removes a block that has been lifted.
    pub fn remove(&mut self, target: &BlockTarget) {
        match target {
            BlockTarget::Address(network) => {
                let address = network.to_string();
                if let Some(reading) = &mut self.reading {
                    reading.addresses.remove(&address);
                }
                self.addresses.remove(&address);
                self.networks = without(&self.networks, network.range());
            }
            BlockTarget::Range(range) => self.ranges = without(&self.ranges, *range),
        }
    }

    /// What is to be done about the ranges that a database holds.
    #[must_use]
    pub fn judge(&self, held: &StoredRanges, now: Timestamp) -> RangesAction {
        let known = self.whole && self.known.is_pending(now);
        let own = self.version.as_deref();
        let own_epoch = own.and_then(ranges_of).and_then(epoch_of);
        let otherwise = match held.agreement() {
            Agreement::Whole(ranges) if !known || own_epoch == epoch_of(ranges) => {
                return RangesAction::Take;
            }
            Agreement::VersionLost(_) => return RangesAction::Renew,
            Agreement::Whole(_) | Agreement::Empty => RangesAction::Take,
            Agreement::Unknown => RangesAction::Renew,
            // All that there was has ended, if this copy is of the latest.
            Agreement::RangesLost if known && same_ranges(own, held.version.as_deref()) => {
                RangesAction::Renew
            }
            Agreement::RangesLost => RangesAction::Lost,
        };
        let missing = if known {
            self.missing(held, now)
        } else {
            Vec::new()
        };
        if missing.is_empty() {
            otherwise
        } else {
            RangesAction::Restore(missing)
        }
    }

    /// Its ranges that stand and are not among those held.
    fn missing(&self, held: &StoredRanges, now: Timestamp) -> Vec<(Range, AddressBlock)> {
        let there = mapped(held.ranges.clone());
        let mut missing = listed(&self.ranges);
        missing.retain(|(range, block)| block.stands(now) && !there.contains(*range));
        missing
    }

    /// Whether ranges of this copy's version are as whole in the database as they were when they were
    /// loaded. The ranges of `held` are not looked at.
    #[must_use]
    pub fn agrees(&self, held: &StoredRanges) -> bool {
        match held.agreement() {
            Agreement::Whole(_) | Agreement::Empty => self.whole,
            Agreement::RangesLost => !self.whole,
            Agreement::VersionLost(_) | Agreement::Unknown => false,
        }
    }

    /// Takes the ranges that a database holds.
    pub fn take_ranges(&mut self, held: StoredRanges, now: Timestamp) {
        self.whole = held.is_whole();
        self.version = held.version;
        self.ranges = mapped(held.ranges);
        self.behind = false;
        self.fresh = Deadline::after(FRESH, now);
        self.known = Deadline::after(KNOWN_FOR, now);
        self.looking = Some(Deadline::after(LOOK_AFTER, now));
    }

    /// Takes addresses of the list, which `begins` with them; whether there are more to be read.
    pub fn take_listed(&mut self, listed: ListedAddresses, begins: bool, now: Timestamp) -> bool {
        let mut reading = self.reading.take().unwrap_or_default();
        if begins {
            reading = ListRead::default();
        }
        reading.addresses.extend(listed.addresses);
        let full = reading.addresses.len() as u64 >= MAX_RANGES;
        if let Some(after) = listed.next.filter(|after| !full && *after != reading.after) {
            reading.after = after;
            self.reading = Some(reading);
            self.listing = Deadline::after(READ_ON_AFTER, now);
            return true;
        }
        let networks = reading.addresses.iter().filter_map(|(address, block)| {
            let range = Range::parse(address)?;
            matches!(range.first(), IpAddr::V6(_)).then_some((range, *block))
        });
        self.networks = mapped(networks.collect());
        self.addresses = reading.addresses;
        self.listing = Deadline::after(LIST_READ_AFTER, now);
        false
    }

    /// Behind which entry the list is to be read on, if it has been read in part.
    #[must_use]
    pub fn reads_on(&self) -> Option<&(u64, String)> {
        self.reading.as_ref().map(|reading| &reading.after)
    }

    /// Takes the version at which the list begins to be read.
    pub fn lists_at(&mut self, version: Option<String>, now: Timestamp) {
        self.version = version;
        self.looking = Some(Deadline::after(LOOK_AFTER, now));
    }

    /// The list has to be read again.
    pub fn looks_again(&mut self) {
        self.looking = Some(Deadline::OVER);
    }

    /// The store says which version is the latest: `true` where this copy is older and the one who
    /// asks is to [load](Self::is_behind) what it lacks.
    pub fn compare(&mut self, version: Option<&str>, now: Timestamp) -> bool {
        let due = if same_ranges(self.version.as_deref(), version) {
            self.fresh = Deadline::after(FRESH, now);
            self.known = Deadline::after(KNOWN_FOR, now);
            let looking = *(self.looking).get_or_insert(Deadline::after(FIRST_LOOK_AFTER, now));
            let is_same = self.version.as_deref() == version;
            let due = self.reading.is_some() || !is_same || !looking.is_pending(now);
            due && (!self.listing.is_pending(now) || self.denied.take())
        } else {
            self.behind = true;
            true
        };
        due && begin(&mut self.loading, now)
    }

    /// Whether the ranges are to be loaded, else the list of addresses alone.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// Whether [`should_ask`](Self::should_ask) would say so.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        !self.fresh.is_pending(now) && !self.asking.is_pending(now)
    }

    /// Whether the copy has to be compared before it denies again, by the one who asks.
    pub fn should_ask(&mut self, now: Timestamp) -> bool {
        !self.fresh.is_pending(now) && begin(&mut self.asking, now)
    }
}

fn without(map: &RangeMap<AddressBlock>, removed: Range) -> RangeMap<AddressBlock> {
    let mut ranges = listed(map);
    ranges.retain(|(range, _)| *range != removed);
    mapped(ranges)
}

fn listed(map: &RangeMap<AddressBlock>) -> Vec<(Range, AddressBlock)> {
    map.iter().map(|(range, block)| (range, *block)).collect()
}

fn mapped(ranges: Vec<(Range, AddressBlock)>) -> RangeMap<AddressBlock> {
    ranges.into_iter().collect()
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
