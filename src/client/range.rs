//! Ranges of addresses (CIDR), and a map that finds the ranges that contain an address.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest text that is parsed, in bytes. The longest address takes 45 bytes, a prefix length 4.
const MAX_TEXT_BYTES: usize = 64;

/// The bits before the IPv4 part of an IPv4-mapped IPv6 address.
const MAPPED_BITS: u8 = 96;

/// A network: the addresses that share their first `bits` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first address: all bits after the prefix are zero. Never IPv4-mapped.
    first: IpAddr,
    bits: u8,
}

impl Range {
    /// Parses a range: an address, which is a range of one, or `ADDRESS/BITS`. Bits of the address
    /// after the prefix are ignored. An IPv4-mapped range becomes the IPv4 range. `None` for
    /// anything else, such as a port, brackets, a zone or leading zeros.
    ///
    /// # Example
    ///
    /// ```
    /// # use edge_limiter::client::range::Range;
    /// let range = Range::parse("10.1.2.3/8").unwrap();
    /// assert_eq!(range.to_string(), "10.0.0.0/8");
    /// assert!(range.contains("10.255.0.1".parse().unwrap()));
    /// assert_eq!(Range::parse("::ffff:10.0.0.0/104"), Some(range));
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_loosely(text).map(|(range, _)| range)
    }

    /// [Parses](Self::parse) a range, and returns whether its address has bits after the prefix, as in
    /// `10.9.8.7/8`. Its author may have meant another range then.
    #[must_use]
    pub fn parse_loosely(text: &str) -> Option<(Self, bool)> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(number(bits)?)),
        };
        let written: IpAddr = address.parse().ok()?;
        let canonical = written.to_canonical();
        let bits = match bits {
            None => width(canonical),
            Some(bits) if written == canonical => bits,
            Some(bits) => bits.checked_sub(MAPPED_BITS)?,
        };
        let range = Self::new(canonical, bits)?;
        Some((range, range.first != canonical))
    }

    /// The range of the addresses that share their first `bits` bits with `address`. `None` if an
    /// address of its family has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let address = address.to_canonical();
        (bits <= width(address)).then(|| Self::masked(address, bits))
    }

    /// The same as [`new`](Self::new), for a canonical address that has at least `bits` bits.
    pub(super) fn masked(address: IpAddr, bits: u8) -> Self {
        let free = u32::from(width(address).saturating_sub(bits));
        let first = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(free).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(free).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { first, bits }
    }

    /// The first address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The length of the prefix that its addresses share, in bits: up to 32, for IPv6 up to 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether the range contains `address`.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.bits).is_some_and(|range| range == self)
    }

    /// Whether the range contains every address of `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.contains(other.first)
    }

    /// The first and the last address as numbers.
    fn span(self) -> (u128, u128) {
        let first = number_of(self.first);
        let free = u32::from(width(self.first) - self.bits);
        let rest = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        (first, first | rest)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            IpAddr::V4(address) => write_ipv4(f, address)?,
            IpAddr::V6(address) => write!(f, "{address}")?,
        }
        if self.bits < width(self.first) {
            write!(f, "/{}", self.bits)?;
        }
        Ok(())
    }
}

/// Writes an address as `Ipv4Addr` displays it. A decision writes an address several times, and the formatter, which writes
/// four numbers and three dots, costs several times as much.
fn write_ipv4(f: &mut fmt::Formatter<'_>, address: Ipv4Addr) -> fmt::Result {
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let leading = usize::from(octet < 100) + usize::from(octet < 10);
        text.extend(
            digits
                .iter()
                .skip(leading)
                .map(|digit| char::from(b'0' + digit)),
        );
    }
    f.write_str(&text)
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Parses a number in its one canonical spelling. `u8::from_str` would accept `+8` and `08` too.
fn number(text: &str) -> Option<u8> {
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A map from ranges to values, which finds all ranges that contain an address.
///
/// # Design
///
/// Two ranges are either disjoint, or one contains the other. So the entries are sorted by their
/// first address, and each entry knows the narrowest range around it. A lookup is a binary search and
/// a walk outwards, with at most one step per bit of the address.
#[derive(Clone, Debug)]
pub struct RangeMap<T> {
    v4: Vec<RangeEntry>,
    v6: Vec<RangeEntry>,
    values: Vec<T>,
}

#[derive(Clone, Debug)]
struct RangeEntry {
    range: Range,
    last: u128,
    /// The index of the narrowest range around it.
    around: Option<usize>,
    /// The index of its value.
    value: usize,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<T> FromIterator<(Range, T)> for RangeMap<T> {
    /// If a range occurs twice, its last value counts.
    fn from_iter<I: IntoIterator<Item = (Range, T)>>(ranges: I) -> Self {
        let mut map = Self::default();
        for (range, value) in ranges {
            let entry = RangeEntry {
                range,
                last: range.span().1,
                around: None,
                value: map.values.len(),
            };
            map.values.push(value);
            match range.first() {
                IpAddr::V4(_) => map.v4.push(entry),
                IpAddr::V6(_) => map.v6.push(entry),
            }
        }
        nest(&mut map.v4);
        nest(&mut map.v6);
        map
    }
}

/// Sorts the entries, removes duplicates, and sets `around` of each.
fn nest(entries: &mut Vec<RangeEntry>) {
    // The last of equal ranges sorts first, so that `dedup` keeps it.
    entries.sort_unstable_by_key(|entry| {
        let (first, bits) = (number_of(entry.range.first()), entry.range.bits());
        (first, bits, Reverse(entry.value))
    });
    entries.dedup_by_key(|entry| entry.range);
    let mut open: Vec<usize> = Vec::new();
    for place in 0..entries.len() {
        let first = number_of(entries[place].range.first());
        while open
            .last()
            .is_some_and(|outer| entries[*outer].last < first)
        {
            open.pop();
        }
        entries[place].around = open.last().copied();
        open.push(place);
    }
}

impl<T> RangeMap<T> {
    /// The ranges that contain `address` with their values, the narrowest first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (Range, &T)> {
        let address = address.to_canonical();
        let number = number_of(address);
        let entries = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let after = entries.partition_point(|entry| number_of(entry.range.first()) <= number);
        let mut next = after.checked_sub(1);
        std::iter::from_fn(move || {
            let entry = entries.get(next?)?;
            next = entry.around;
            Some(entry)
        })
        .filter(move |entry| entry.last >= number)
        .filter_map(|entry| Some((entry.range, self.values.get(entry.value)?)))
    }

    /// The ranges that share addresses with `range`, with their values: first those that contain it, the
    /// narrowest first, then those within it.
    #[must_use]
    pub fn overlapping(&self, range: Range) -> Vec<(Range, &T)> {
        let (first, last) = range.span();
        let entries = match range.first() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let mut found = Vec::new();
        let mut take = |entry: &RangeEntry| {
            let value = self.values.get(entry.value);
            found.extend(value.map(|value| (entry.range, value)));
        };
        let after = entries.partition_point(|entry| number_of(entry.range.first()) <= first);
        let mut next = after.checked_sub(1);
        while let Some(entry) = next.and_then(|place| entries.get(place)) {
            if entry.last >= first {
                take(entry);
            }
            next = entry.around;
        }
        // Ranges with the same first address have been found above: they contain that address.
        for entry in entries.iter().skip(after) {
            if number_of(entry.range.first()) > last {
                break;
            }
            take(entry);
        }
        found
    }

    /// Whether the map has an entry for exactly this range.
    #[must_use]
    pub fn contains(&self, range: Range) -> bool {
        let entries = match range.first() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let place = |range: Range| (number_of(range.first()), range.bits());
        entries
            .binary_search_by_key(&place(range), |entry| place(entry.range))
            .is_ok()
    }

    /// The number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether the map has no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ranges with their values, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Range, &T)> {
        let entries = self.v4.iter().chain(&self.v6);
        entries.filter_map(|entry| Some((entry.range, self.values.get(entry.value)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::{Range, RangeMap};

    #[test]
    fn an_ipv4_address_is_written_as_the_standard_library_writes_it() {
        for octet in 0..=u8::MAX {
            let address = Ipv4Addr::new(octet, u8::MAX - octet, 0, octet);
            let range = Range::parse(&address.to_string()).unwrap();
            assert_eq!(range.to_string(), address.to_string());
        }
    }

    #[test]
    fn only_an_address_with_an_optional_prefix_length_is_a_range() {
        for (text, canonical) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.1/0", "0.0.0.0/0"),
            ("192.0.2.130/25", "192.0.2.128/25"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1/120", "192.0.2.0/24"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("::/0", "::/0"),
        ] {
            let range = Range::parse(text).unwrap();
            assert_eq!(range.to_string(), canonical, "{text}");
            assert_eq!(Range::parse(canonical), Some(range));
        }
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.0/256",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0 /8",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            "::1/129",
            "::ffff:10.0.0.1/8",
            "*",
            "localhost",
        ] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    /// Addresses with few distinct prefixes, so that ranges often contain one another.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let v4 = prop::sample::select(vec![0x0A00_0000_u32, 0x0A00_00FF, 0x0A01_0000, 0xC000_0201]);
        let v6 = prop::sample::select(vec![0x2001_0db8_u128 << 96, (0x2001_0db8_u128 << 96) | 7]);
        prop_oneof![
            (v4, 0_u32..4).prop_map(|(base, more)| IpAddr::V4(Ipv4Addr::from_bits(base ^ more))),
            (v6, 0_u128..4).prop_map(|(base, more)| IpAddr::V6(Ipv6Addr::from_bits(base ^ more))),
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        ]
    }

    fn ranges() -> impl Strategy<Value = Range> {
        (addresses(), 0_u8..=128)
            .prop_filter_map("too many bits", |(address, bits)| Range::new(address, bits))
    }

    proptest! {
        #[test]
        fn the_map_finds_what_a_scan_finds(
            entries in prop::collection::vec((ranges(), any::<u8>()), 0..60),
            address in addresses(),
        ) {
            let map: RangeMap<u8> = entries.iter().copied().collect();
            let mut last_first = entries.clone();
            last_first.reverse();
            let mut scanned: Vec<(Range, u8)> = Vec::new();
            for (range, value) in last_first {
                if range.contains(address) && scanned.iter().all(|(known, _)| *known != range) {
                    scanned.push((range, value));
                }
            }
            scanned.sort_by_key(|(range, _)| std::cmp::Reverse(range.bits()));
            let found: Vec<(Range, u8)> =
                map.holding(address).map(|(range, value)| (range, *value)).collect();
            prop_assert_eq!(found, scanned);
        }

        #[test]
        fn the_map_finds_the_ranges_that_overlap(
            entries in prop::collection::vec((ranges(), any::<u8>()), 0..60),
            asked in ranges(),
        ) {
            let map: RangeMap<u8> = entries.iter().copied().collect();
            let overlaps = |range: Range| range.covers(asked) || asked.covers(range);
            let mut scanned: Vec<Range> = entries.iter().map(|(range, _)| *range).collect();
            scanned.retain(|range| overlaps(*range));
            scanned.sort_unstable();
            scanned.dedup();
            let mut found: Vec<Range> = map.overlapping(asked).iter().map(|(range, _)| *range).collect();
            found.sort_unstable();
            prop_assert_eq!(found, scanned);
            for (range, _) in &entries {
                prop_assert!(map.contains(*range));
            }
            prop_assert_eq!(map.contains(asked), entries.iter().any(|(range, _)| *range == asked));
        }

        #[test]
        fn a_range_covers_another_exactly_if_it_contains_all_its_addresses(outer in ranges(), inner in ranges()) {
            let (first, last) = inner.span();
            let same = outer.first().is_ipv4() == inner.first().is_ipv4();
            let (outer_first, outer_last) = outer.span();
            prop_assert_eq!(
                outer.covers(inner),
                same && outer_first <= first && last <= outer_last
            );
        }
    }
}
