//! The version of the blocks. It identifies the ranges and the list of addresses in a database.
//!
//! Its text is `{epoch}-{ranges}-{addresses}`, in hexadecimal digits. Each change of a range replaces
//! `ranges` with 64 random bits, and each change of an address replaces `addresses` with 32. So no version
//! repeats, whatever the database loses.
//!
//! The hash of ranges also contains `{epoch}-{ranges}`. If the two differ, the database has lost one of
//! them. A change keeps the epoch if both agreed before it. A new epoch means that ranges of the
//! previous epoch may be lost.

use crate::blocklist::AddressBlock;
use crate::client::range::Range;

/// The field of the ranges' hash that contains their version.
pub const FIELD: &str = "version";

/// The ranges' version before any range was blocked.
const NO_RANGES: &str = "0-0";

/// The part `{epoch}-{ranges}` of a version's text. `None` if the text is not a version.
#[must_use]
pub fn ranges_of(version: &str) -> Option<&str> {
    let (ranges, addresses) = version.rsplit_once('-')?;
    (is_part(addresses) && epoch_of(ranges).is_some()).then_some(ranges)
}

/// The epoch in `{epoch}-{ranges}`. `None` if the text does not have this form.
#[must_use]
pub fn epoch_of(ranges: &str) -> Option<&str> {
    let (epoch, latest) = ranges.split_once('-')?;
    (is_part(epoch) && is_part(latest)).then_some(epoch)
}

/// Whether two texts are versions of the same ranges. `None` stands for a store without a version.
#[must_use]
pub fn same_ranges(one: Option<&str>, other: Option<&str>) -> bool {
    fn ranges(version: Option<&str>) -> Option<&str> {
        let ranges = version.map(|version| ranges_of(version).unwrap_or(version));
        ranges.filter(|ranges| *ranges != NO_RANGES)
    }
    one == other || ranges(one) == ranges(other)
}

fn is_part(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The ranges in a database, and their version as the database has it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRanges {
    /// The text of the blocks' version. `None` if there is none.
    pub version: Option<String>,
    /// The version in the ranges' hash. `None` if there is none.
    pub hash_version: Option<String>,
    /// The ranges whose block is in force.
    pub ranges: Vec<(Range, AddressBlock)>,
}

/// Whether the ranges in a database are those of their version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement<'a> {
    /// The ranges are those of this version, `{epoch}-{ranges}`.
    Whole(&'a str),
    /// There are no ranges, and no version of ranges.
    Empty,
    /// The ranges' hash has this version. The version's own key is missing, or has no version.
    VersionLost(&'a str),
    /// The ranges are missing, or are others than those of the version.
    RangesLost,
    /// There are ranges without a version, or a text that is no version. So it is unknown which ranges there
    /// should be.
    Unknown,
}

impl StoredRanges {
    /// Whether the ranges are exactly those of their version.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.agreement(), Agreement::Whole(_) | Agreement::Empty)
    }

    /// Whether the ranges are those of their version.
    #[must_use]
    pub fn agreement(&self) -> Agreement<'_> {
        let version = self.version.as_deref().and_then(ranges_of);
        let carried = self.hash_version.as_deref();
        let carried = carried.filter(|carried| epoch_of(carried).is_some());
        match (version, carried) {
            (Some(version), Some(carried)) if version == carried => Agreement::Whole(carried),
            (None, Some(carried)) => Agreement::VersionLost(carried),
            (Some(NO_RANGES), None) if self.ranges.is_empty() => Agreement::Empty,
            (None, None) if self.ranges.is_empty() && self.version.is_none() => Agreement::Empty,
            (Some(NO_RANGES) | None, None) => Agreement::Unknown,
            (Some(_), _) => Agreement::RangesLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Agreement, StoredRanges, epoch_of, ranges_of, same_ranges};
    use crate::blocklist::AddressBlock;
    use crate::client::range::Range;

    #[test]
    fn a_version_has_three_hexadecimal_parts() {
        assert_eq!(ranges_of("0a-1b-2c"), Some("0a-1b"));
        assert_eq!(epoch_of("0a-1b"), Some("0a"));
        for text in [
            "", "7", "a-b", "a--b", "-a-b", "a-b-", "a-b-x", "a-b-c-d", "a-b-c ",
        ] {
            assert_eq!(ranges_of(text), None, "{text}");
        }
    }

    #[test]
    fn versions_of_the_same_ranges_differ_only_in_their_addresses() {
        for (one, other, same) in [
            (None, None, true),
            (None, Some("0-0-5"), true),
            (Some("a-b-1"), Some("a-b-2"), true),
            (Some("a-b-1"), Some("a-c-1"), false),
            (Some("a-b-1"), None, false),
            (Some("a-b-1"), Some("0-0-1"), false),
            (Some("7"), None, false),
            (Some("7"), Some("7"), true),
            (Some("7"), Some("8"), false),
        ] {
            assert_eq!(same_ranges(one, other), same, "{one:?} {other:?}");
            assert_eq!(same_ranges(other, one), same, "{other:?} {one:?}");
        }
    }

    #[test]
    fn the_two_copies_of_the_version_tell_what_is_lost() {
        let some = || {
            vec![(
                Range::parse("10.0.0.0/8").unwrap(),
                AddressBlock { until: None },
            )]
        };
        for (version, carried, ranges, agreement) in [
            (None, None, vec![], Agreement::Empty),
            (Some("0-0-1"), None, vec![], Agreement::Empty),
            (Some("a-b-1"), Some("a-b"), some(), Agreement::Whole("a-b")),
            (Some("a-b-1"), Some("a-b"), vec![], Agreement::Whole("a-b")),
            (None, Some("a-b"), some(), Agreement::VersionLost("a-b")),
            (
                Some("x"),
                Some("a-b"),
                vec![],
                Agreement::VersionLost("a-b"),
            ),
            (Some("a-b-1"), None, vec![], Agreement::RangesLost),
            (Some("a-b-1"), Some("a-c"), some(), Agreement::RangesLost),
            (Some("0-0-1"), Some("a-c"), some(), Agreement::RangesLost),
            (Some("7"), None, vec![], Agreement::Unknown),
            (None, None, some(), Agreement::Unknown),
            (Some("0-0-1"), None, some(), Agreement::Unknown),
        ] {
            let stored = StoredRanges {
                version: version.map(str::to_owned),
                hash_version: carried.map(str::to_owned),
                ranges,
            };
            assert_eq!(stored.agreement(), agreement, "{stored:?}");
        }
    }
}
