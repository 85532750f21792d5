//! The isolate's copy of the blocks.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::block::AddressBlock;
use super::records::{ListedAddresses, MAX_RANGES};
use super::target::BlockTarget;
use super::version::{Agreement, StoredRanges, epoch_of, ranges_of, same_ranges};
use crate::client::range::{Range, RangeMap};
use crate::time::{Deadline, Millis, Timestamp};

/// How long the copy counts as the latest after the store confirmed its version.
const FRESH_FOR: Millis = Millis::new(5000);

/// For how long one request keeps others from comparing or loading the copy as well.
const IN_FLIGHT_FOR: Millis = Millis::new(2000);

/// How long after the store confirmed its version a copy counts as reliable. Ranges that it has and the store
/// has lost are then restored.
pub const RELIABLE_FOR: Millis = Millis::from_secs(60 * 60);

/// The shortest time between two reads of the list of addresses. The list is not urgent, because each decision
/// reads the record of its own address.
const READ_LIST_AFTER: Millis = Millis::from_secs(30);

/// The shortest time between two parts of one read of the list.
const READ_NEXT_PART_AFTER: Millis = Millis::from_secs(1);

/// When an isolate first checks that the database still has the blocks of its version: this long after its first
/// comparison.
const FIRST_CHECK_AFTER: Millis = Millis::from_secs(60);

/// The time between two such checks.
const CHECK_AFTER: Millis = Millis::from_secs(10 * 60);

/// An isolate's copy of the blocks.
#[derive(Clone, Debug, Default)]
pub struct BlocklistCopy {
    version: Option<String>,
    /// Whether the ranges were exactly those of the version.
    was_complete: bool,
    ranges: RangeMap<AddressBlock>,
    addresses: HashMap<String, AddressBlock>,
    /// The IPv6 networks among the addresses. Some may have another length than callers have now.
    networks: RangeMap<AddressBlock>,
    /// Whether one of these networks has denied a caller of another length. It may have been lifted meanwhile,
    /// so the list is read again.
    denied_by_network: Cell<bool>,
    /// The part of the list of addresses that the current read has read.
    reading: Option<ListRead>,
    /// Whether the store has reported another version of the ranges.
    behind: bool,
    /// Until when the copy counts as the latest.
    fresh: Deadline,
    /// Until when the copy counts as reliable.
    reliable: Deadline,
    /// Until when a comparison counts as in flight.
    comparing: Deadline,
    /// Until when a load counts as in flight.
    loading: Deadline,
    /// Until when the list of addresses is not read again.
    next_list_read: Deadline,
    /// Until when the database is not checked again. `None` before the first comparison.
    next_check: Option<Deadline>,
}

/// A read of the list of addresses in parts.
#[derive(Clone, Debug, Default)]
struct ListRead {
    addresses: HashMap<String, AddressBlock>,
    /// The last entry that was read: its score and its address.
    after: (u64, String),
}

/// What to do about the ranges in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangesAction {
    /// Copy them: they are the latest.
    Take,
    /// Write these ranges back: the database has lost them, and this copy has them.
    Restore(Vec<(Range, AddressBlock)>),
    /// Write a new version. As far as this copy knows, nothing else is lost.
    Renew,
    /// Copy them, and report a loss: ranges are lost, and this copy does not have them either.
    Lost,
}

impl BlocklistCopy {
    /// The version of the copied blocks. `None` if there was none.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The longest block in force of a range that contains the caller with this canonical address. IPv6
    /// networks of another length than the caller's count as ranges: the length of callers was configured
    /// differently when they were blocked.
    #[must_use]
    pub fn longest_range(&self, address: &str, now: Timestamp) -> Option<(Range, AddressBlock)> {
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
            if block.is_in_force(now) && !(is_network && range == caller) {
                by_network |= is_network;
                if longest.is_none_or(|(_, longest)| block.ends() >= longest.ends()) {
                    longest = Some((range, *block));
                }
            }
        }
        if by_network {
            self.denied_by_network.set(true);
        }
        longest
    }

    /// The longest block in force of the address itself or of a [range](Self::longest_range).
    #[must_use]
    pub fn longest_block(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        let own = self.addresses.get(address).copied();
        let range = self.longest_range(address, now).map(|(_, block)| block);
        AddressBlock::longer(own.filter(|block| block.is_in_force(now)), range)
    }

    /// Adds a block that was set in the database, or that could not be written there.
    pub fn add(&mut self, target: &BlockTarget, block: AddressBlock, now: Timestamp) {
        match target {
            BlockTarget::Address(network) => {
                let address = network.to_string();
                if self.addresses.len() as u64 >= 2 * MAX_RANGES {
                    self.addresses.retain(|_, block| block.is_in_force(now));
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
                let mut ranges = to_list(&self.ranges);
                ranges.push((*added, block));
                self.ranges = to_map(ranges);
            }
        }
    }

    /// Removes a block that was lifted.
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

    /// What to do about the ranges in a database.
    #[must_use]
    pub fn action_for(&self, stored: &StoredRanges, now: Timestamp) -> RangesAction {
        let reliable = self.was_complete && self.reliable.is_pending(now);
        let own = self.version.as_deref();
        let own_epoch = own.and_then(ranges_of).and_then(epoch_of);
        let otherwise = match stored.agreement() {
            Agreement::Whole(ranges) if !reliable || own_epoch == epoch_of(ranges) => {
                return RangesAction::Take;
            }
            Agreement::VersionLost(_) => return RangesAction::Renew,
            Agreement::Whole(_) | Agreement::Empty => RangesAction::Take,
            Agreement::Unknown => RangesAction::Renew,
            // If this copy is of the same version, all ranges that it had have ended or are there.
            Agreement::RangesLost if reliable && same_ranges(own, stored.version.as_deref()) => {
                RangesAction::Renew
            }
            Agreement::RangesLost => RangesAction::Lost,
        };
        let missing = if reliable {
            self.missing(stored, now)
        } else {
            Vec::new()
        };
        if missing.is_empty() {
            otherwise
        } else {
            RangesAction::Restore(missing)
        }
    }

    /// The ranges of this copy that are in force and missing in the database.
    fn missing(&self, stored: &StoredRanges, now: Timestamp) -> Vec<(Range, AddressBlock)> {
        let present = to_map(stored.ranges.clone());
        let mut missing = to_list(&self.ranges);
        missing.retain(|(range, block)| block.is_in_force(now) && !present.contains(*range));
        missing
    }

    /// Whether the database has the ranges of this copy's version as complete, or as incomplete, as when they
    /// were loaded. The list of ranges in `stored` does not matter.
    #[must_use]
    pub fn agrees(&self, stored: &StoredRanges) -> bool {
        match stored.agreement() {
            Agreement::Whole(_) | Agreement::Empty => self.was_complete,
            Agreement::RangesLost => !self.was_complete,
            Agreement::VersionLost(_) | Agreement::Unknown => false,
        }
    }

    /// Replaces the copied ranges with those of the database.
    pub fn take_ranges(&mut self, stored: StoredRanges, now: Timestamp) {
        self.was_complete = stored.is_whole();
        self.version = stored.version;
        self.ranges = to_map(stored.ranges);
        self.behind = false;
        self.fresh = Deadline::after(FRESH_FOR, now);
        self.reliable = Deadline::after(RELIABLE_FOR, now);
        self.next_check = Some(Deadline::after(CHECK_AFTER, now));
    }

    /// Takes a part of the list of addresses, the first one if it `begins` the list. Returns whether more parts
    /// have to be read. After the last part, the addresses read replace the copied ones.
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
            self.next_list_read = Deadline::after(READ_NEXT_PART_AFTER, now);
            return true;
        }
        let networks = reading.addresses.iter().filter_map(|(address, block)| {
            let range = Range::parse(address)?;
            matches!(range.first(), IpAddr::V6(_)).then_some((range, *block))
        });
        self.networks = to_map(networks.collect());
        self.addresses = reading.addresses;
        self.next_list_read = Deadline::after(READ_LIST_AFTER, now);
        false
    }

    /// The entry after which to continue reading the list of addresses. `None` if no read is in progress.
    #[must_use]
    pub fn read_list_after(&self) -> Option<&(u64, String)> {
        self.reading.as_ref().map(|reading| &reading.after)
    }

    /// Takes the version of the blocks at the beginning of a read of the list.
    pub fn begin_list_read(&mut self, version: Option<String>, now: Timestamp) {
        self.version = version;
        self.next_check = Some(Deadline::after(CHECK_AFTER, now));
    }

    /// Makes the next comparison read the list again.
    pub fn check_again(&mut self) {
        self.next_check = Some(Deadline::OVER);
    }

    /// Compares the copy with the latest version, as the store reports it. Returns whether this request has to load
    /// the ranges or the list ([`is_behind`](Self::is_behind)). Only one request at a time has to.
    pub fn compare(&mut self, version: Option<&str>, now: Timestamp) -> bool {
        let due = if same_ranges(self.version.as_deref(), version) {
            self.fresh = Deadline::after(FRESH_FOR, now);
            self.reliable = Deadline::after(RELIABLE_FOR, now);
            let first_check = Deadline::after(FIRST_CHECK_AFTER, now);
            let next_check = *self.next_check.get_or_insert(first_check);
            let is_same = self.version.as_deref() == version;
            let due = self.reading.is_some() || !is_same || !next_check.is_pending(now);
            due && (!self.next_list_read.is_pending(now) || self.denied_by_network.take())
        } else {
            self.behind = true;
            true
        };
        due && begin(&mut self.loading, now)
    }

    /// Whether a load has to read the ranges and the list of addresses. Otherwise it reads only the list.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// Whether [`should_ask`](Self::should_ask) would return `true`.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        !self.fresh.is_pending(now) && !self.comparing.is_pending(now)
    }

    /// Whether this request has to compare the copy with the store before the copy denies again. Only one request at
    /// a time has to.
    pub fn should_ask(&mut self, now: Timestamp) -> bool {
        !self.fresh.is_pending(now) && begin(&mut self.comparing, now)
    }
}

fn without(map: &RangeMap<AddressBlock>, removed: Range) -> RangeMap<AddressBlock> {
    let mut ranges = to_list(map);
    ranges.retain(|(range, _)| *range != removed);
    to_map(ranges)
}

fn to_list(map: &RangeMap<AddressBlock>) -> Vec<(Range, AddressBlock)> {
    map.iter().map(|(range, block)| (range, *block)).collect()
}

fn to_map(ranges: Vec<(Range, AddressBlock)>) -> RangeMap<AddressBlock> {
    ranges.into_iter().collect()
}

/// Whether nothing is in flight. If so, this request begins, and counts as in flight from now on.
fn begin(in_flight: &mut Deadline, now: Timestamp) -> bool {
    let free = !in_flight.is_pending(now);
    if free {
        *in_flight = Deadline::after(IN_FLIGHT_FOR, now);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::BlocklistCopy;
    use crate::store::conformance::START;
    use crate::time::Millis;

    /// Each deadline is set by a clock an hour ahead. None is pending by the right clock.
    #[test]
    fn a_clock_set_back_delays_no_comparison_and_no_load() {
        let ahead = START + Millis::from_secs(3600);
        let soon = ahead + Millis::new(1);
        let mut fresh = BlocklistCopy::default();
        assert!(!fresh.compare(None, ahead));
        assert!(!fresh.should_ask(soon));
        assert!(fresh.should_ask(START));

        let mut comparing = BlocklistCopy::default();
        assert!(comparing.should_ask(ahead) && !comparing.should_ask(soon));
        assert!(comparing.should_ask(START));

        let mut loading = BlocklistCopy::default();
        let mut load = |now| loading.compare(Some("2"), now);
        assert!(load(ahead) && !load(soon));
        assert!(load(START));
    }
}
