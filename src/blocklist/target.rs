//! What can be blocked.

use std::net::IpAddr;

use crate::client::range::{Range, RangeMap};
use crate::client::{Ipv6Prefix, Network};

/// Ranges wider than these are refused: a slip of the finger would lock out a continent.
const LEAST_BITS_V4: u8 = 8;
const LEAST_BITS_V6: u8 = 16;

/// What is blocked, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockTarget {
    /// One caller.
    Address(Network),
    /// All callers in a range.
    Range(Range),
}

/// Why something must not be blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is on the allow-list, and would stay admitted; or it is one caller with an address that is.
    Allowed,
    /// It holds too many callers.
    TooWide,
    /// It is the address that all Workers of other zones share.
    Shared,
}

impl Refusal {
    /// What to tell the operator.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Allowed => {
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
    /// What `text`, an address or a range, means where an IPv6 caller is `prefix` bits.
    #[must_use]
    pub fn parse(text: &str, prefix: Ipv6Prefix) -> Option<Self> {
        let range = Range::parse(text)?;
        let caller = Network::of(range.first(), prefix);
        Some(if caller.range().covers(range) {
            Self::Address(caller)
        } else {
            Self::Range(range)
        })
    }

    /// What `text` may be listed as: what it [means](Self::parse), and what it meant where an IPv6 caller
    /// was of another length.
    #[must_use]
    pub fn listed_as(text: &str, prefix: Ipv6Prefix) -> Vec<Self> {
        let Some(range) = Range::parse(text) else {
            return Vec::new();
        };
        let mut targets: Vec<Self> = Self::parse(text, prefix).into_iter().collect();
        if range.first().is_ipv6() {
            let network = Network::parse(&range.to_string()).map(Self::Address);
            for literal in [Some(Self::Range(range)), network].into_iter().flatten() {
                if !targets.contains(&literal) {
                    targets.push(literal);
                }
            }
        }
        targets
    }

    /// How it is written.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Address(network) => network.to_string(),
            Self::Range(range) => range.to_string(),
        }
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(&self) -> Range {
        match self {
            Self::Address(network) => network.range(),
            Self::Range(range) => *range,
        }
    }

    /// Whether it holds more callers than anybody can mean.
    #[must_use]
    pub fn is_too_wide(&self) -> bool {
        let range = self.range();
        range.bits()
            < match range.first() {
                IpAddr::V4(_) => LEAST_BITS_V4,
                IpAddr::V6(_) => LEAST_BITS_V6,
            }
    }

    /// Why it must not be blocked, if it must not. `allowed` is the allow-list.
    #[must_use]
    pub fn refusal(&self, allowed: &RangeMap<()>) -> Option<Refusal> {
        if self.is_too_wide() {
            return Some(Refusal::TooWide);
        }
        // In a wider range it is passed over: `Caller::may_be_blocked`.
        if matches!(self, Self::Address(network) if network.is_shared()) {
            return Some(Refusal::Shared);
        }
        let range = self.range();
        // A range names many callers, of whom those on the list stay admitted.
        let is_caller = matches!(self, Self::Address(_));
        let mut list = allowed.iter();
        let is_allowed =
            list.any(|(allowed, ())| allowed.covers(range) || (is_caller && range.covers(allowed)));
        is_allowed.then_some(Refusal::Allowed)
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
    fn a_target_is_a_caller_or_holds_many() {
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
    fn a_target_is_found_under_the_name_that_it_was_listed_by() {
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
    fn what_must_not_be_blocked_is_refused() {
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
            ("10.1.2.3", Some(Refusal::Allowed)),
            ("10.0.0.0/8", Some(Refusal::Allowed)),
            ("2001:db8:7::/48", Some(Refusal::Allowed)),
            ("2001::/16", None),
            // One caller with an address of the list.
            ("2001:db9:88::1", Some(Refusal::Allowed)),
            ("2001:db9:88::2", Some(Refusal::Allowed)),
            ("2001:db9:88::/64", Some(Refusal::Allowed)),
            ("2001:db9:88:1::1", None),
            // Many callers, of whom some stay admitted.
            ("2001:db9:88::/63", None),
            ("192.0.2.0/24", None),
            ("192.0.2.2", None),
        ] {
            assert_eq!(target(text).refusal(&allowed), refusal, "{text}");
        }
    }
}
