//! Targets of blocks: addresses and ranges.

use std::net::IpAddr;

use crate::client::range::{Range, RangeMap};
use crate::client::{AddressPrefix, Ipv6Prefix};

/// The shortest prefixes of ranges that can be blocked, in bits. With a wider range a typing mistake could block
/// a continent.
const MIN_PREFIX_V4: u8 = 8;
const MIN_PREFIX_V6: u8 = 16;

/// The target of a block, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockTarget {
    /// One caller.
    Address(AddressPrefix),
    /// All callers in a range.
    Range(Range),
}

/// Why a target must not be blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The target is on the allow-list, or is a caller with an address on it. It would still be admitted.
    OnAllowList,
    /// The range is too wide.
    TooWide,
    /// The target is the address that all Workers of other zones share.
    Shared,
}

impl Refusal {
    /// The message to the operator.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::OnAllowList => {
                "This, or an address of the same caller, is on RATE_LIMIT_ALLOWLIST, which a block does not touch; \
                 take it off the list first."
            }
            Self::TooWide => {
                "This range is too wide: /8 is the widest for IPv4, /16 for IPv6. Block what is narrower."
            }
            Self::Shared => {
                "This is 2a06:98c0:3600::103, the address that every Worker of other zones has: it is never \
                 blocked, since a block would stop strangers."
            }
        }
    }
}

impl BlockTarget {
    /// Reads an address or a range. `prefix` is the length of an IPv6 caller, in bits. `None` if `text` is
    /// neither.
    #[must_use]
    pub fn parse(text: &str, prefix: Ipv6Prefix) -> Option<Self> {
        let range = Range::parse(text)?;
        let caller = AddressPrefix::of(range.first(), prefix);
        Some(if caller.range().covers(range) {
            Self::Address(caller)
        } else {
            Self::Range(range)
        })
    }

    /// All targets as which `text` may be listed: the one that it [parses](Self::parse) to, and those with
    /// another length of IPv6 callers, which may have been configured earlier.
    #[must_use]
    pub fn listed_as(text: &str, prefix: Ipv6Prefix) -> Vec<Self> {
        let Some(range) = Range::parse(text) else {
            return Vec::new();
        };
        let mut targets: Vec<Self> = Self::parse(text, prefix).into_iter().collect();
        if range.first().is_ipv6() {
            let network = AddressPrefix::parse(&range.to_string()).map(Self::Address);
            for literal in [Some(Self::Range(range)), network].into_iter().flatten() {
                if !targets.contains(&literal) {
                    targets.push(literal);
                }
            }
        }
        targets
    }

    /// The text of the target.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Address(network) => network.to_string(),
            Self::Range(range) => range.to_string(),
        }
    }

    /// The addresses of the target.
    #[must_use]
    pub const fn range(&self) -> Range {
        match self {
            Self::Address(network) => network.range(),
            Self::Range(range) => *range,
        }
    }

    /// Whether the range is wider than an operator can have intended.
    #[must_use]
    pub fn is_too_wide(&self) -> bool {
        let range = self.range();
        range.bits()
            < match range.first() {
                IpAddr::V4(_) => MIN_PREFIX_V4,
                IpAddr::V6(_) => MIN_PREFIX_V6,
            }
    }

    /// Why the target must not be blocked. `None` if it may be. `allowed` is the allow-list.
    #[must_use]
    pub fn refusal(&self, allowed: &RangeMap<()>) -> Option<Refusal> {
        if self.is_too_wide() {
            return Some(Refusal::TooWide);
        }
        // A wider range that contains it may be blocked, and does not block it: `Caller::may_be_blocked`.
        if matches!(self, Self::Address(network) if network.is_shared()) {
            return Some(Refusal::Shared);
        }
        let range = self.range();
        // A range that contains listed addresses may be blocked: it has many callers, and those on the list
        // are still admitted.
        let is_caller = matches!(self, Self::Address(_));
        let mut list = allowed.iter();
        let is_allowed =
            list.any(|(allowed, ())| allowed.covers(range) || (is_caller && range.covers(allowed)));
        is_allowed.then_some(Refusal::OnAllowList)
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockTarget, Refusal};
    use crate::client::Ipv6Prefix;
    use crate::client::range::Range;

    fn target(text: &str) -> BlockTarget {
        BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
    }

    #[test]
    fn a_target_is_one_caller_or_a_range() {
        for (text, canonical, one) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/31", "192.0.2.0/31", false),
            ("2001:db8::1", "2001:db8::/64", true),
            ("2001:db8::1/96", "2001:db8::/64", true),
            ("2001:db8::1/63", "2001:db8::/63", false),
        ] {
            let target = target(text);
            assert_eq!(target.text(), canonical);
            assert_eq!(matches!(target, BlockTarget::Address(_)), one, "{text}");
            assert_eq!(
                BlockTarget::parse(canonical, Ipv6Prefix::default()),
                Some(target)
            );
        }
    }

    #[test]
    fn a_target_is_found_under_the_text_under_which_it_was_listed() {
        let prefix = Ipv6Prefix::new(56).unwrap();
        let listed = |text| {
            let targets = BlockTarget::listed_as(text, prefix);
            let names = targets.iter().map(|target| match target {
                BlockTarget::Address(network) => format!("address {network}"),
                BlockTarget::Range(range) => format!("range {range}"),
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(listed("192.0.2.1"), ["address 192.0.2.1"]);
        assert_eq!(listed("192.0.2.1/24"), ["range 192.0.2.0/24"]);
        for (text, caller, literal) in [
            ("2001:db8::/64", "address 2001:db8::/56", "2001:db8::/64"),
            ("2001:db8::/56", "address 2001:db8::/56", "2001:db8::/56"),
            ("2001:db8::1", "address 2001:db8::/56", "2001:db8::1"),
            ("2001:db8::/48", "range 2001:db8::/48", "2001:db8::/48"),
        ] {
            let named = listed(text);
            assert_eq!(named[0], caller);
            for kind in ["address", "range"] {
                assert!(
                    named.contains(&format!("{kind} {literal}")),
                    "{text}: {named:?}"
                );
            }
            assert!(named.len() <= 3);
        }
        assert_eq!(listed("nonsense"), Vec::<String>::new());
    }

    #[test]
    fn a_target_that_must_not_be_blocked_is_refused() {
        let allowed = ["10.0.0.0/8", "2001:db8::/32", "2001:db9:88::1", "192.0.2.1"];
        let allowed = allowed.map(|text| (Range::parse(text).unwrap(), ()));
        let allowed = allowed.into_iter().collect();
        for (text, refusal) in [
            ("0.0.0.0/0", Some(Refusal::TooWide)),
            ("::/0", Some(Refusal::TooWide)),
            ("11.0.0.0/7", Some(Refusal::TooWide)),
            ("11.0.0.0/8", None),
            ("2a06::/15", Some(Refusal::TooWide)),
            ("2a06::/16", None),
            ("2a06:98c0:3600::/64", Some(Refusal::Shared)),
            ("2a06:98c0:3600::103", Some(Refusal::Shared)),
            ("2a06:98c0:3600:1::/64", None),
            ("10.1.2.3", Some(Refusal::OnAllowList)),
            ("10.0.0.0/8", Some(Refusal::OnAllowList)),
            ("2001:db8:7::/48", Some(Refusal::OnAllowList)),
            ("2001::/16", None),
            // A caller with an address on the list.
            ("2001:db9:88::1", Some(Refusal::OnAllowList)),
            ("2001:db9:88::2", Some(Refusal::OnAllowList)),
            ("2001:db9:88::/64", Some(Refusal::OnAllowList)),
            ("2001:db9:88:1::1", None),
            // Ranges of many callers, some of whom are on the list.
            ("2001:db9:88::/63", None),
            ("192.0.2.0/24", None),
            ("192.0.2.2", None),
        ] {
            assert_eq!(target(text).refusal(&allowed), refusal, "{text}");
        }
    }
}
