//! Networks: the addresses that count as one caller, and the larger networks that a policy limits as a whole.

use std::fmt;
use std::net::IpAddr;

use super::Caller;
use super::range::Range;

/// How many leading bits of an IPv6 address name one caller: 1 to 128, by default 64.
///
/// A subscriber gets at least a /64 and can use a fresh address from it for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Prefix(u8);

impl Ipv6Prefix {
    /// A prefix of `bits` bits; `None` outside 1 to 128.
    #[must_use]
    pub const fn new(bits: u8) -> Option<Self> {
        if matches!(bits, 1..=128) {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The number of bits, 1 to 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

/// How many leading bits of an address name the network that a policy limits as a whole. By default these
/// are 24 bits of IPv4 and 48 bits of IPv6, which is what a site gets from its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPrefixes {
    /// The bits of an IPv4 address: 1 to 32.
    pub ipv4: u8,
    /// The bits of an IPv6 address: 1 to 128.
    pub ipv6: u8,
}

impl Default for NetworkPrefixes {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 48 }
    }
}

/// The addresses that count as one caller: one IPv4 address, or the IPv6 addresses that share an
/// [`Ipv6Prefix`].
///
/// It prints in canonical form: IPv4 whole (`192.0.2.1`), IPv6 as in RFC 5952 with its prefix length
/// (`2001:db8:0:1::/64`). With a prefix of 128 bits it prints the whole address without a length, as
/// for IPv4: `2001:db8::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPrefix(Range);

impl AddressPrefix {
    /// The network of `address`. An IPv4-mapped address counts as IPv4 here too, so that an
    /// operator's block always applies to the caller that it names.
    #[must_use]
    pub fn of(address: IpAddr, prefix: Ipv6Prefix) -> Self {
        let address = address.to_canonical();
        let bits = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => prefix.bits(),
        };
        Self(Range::masked(address, bits))
    }

    /// Parses exactly what `Display` writes, for every prefix. `None` for anything else.
    ///
    /// # Example
    ///
    /// ```
    /// # use edge_limiter::client::AddressPrefix;
    /// assert!(AddressPrefix::parse("2001:db8::/64").is_some());
    /// assert_eq!(AddressPrefix::parse("2001:DB8::/64"), None, "not canonical");
    /// assert_eq!(AddressPrefix::parse("192.0.2.0/24"), None, "many callers");
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let range = Range::parse(text)?;
        let is_caller = match range.first() {
            IpAddr::V4(_) => range.bits() == 32,
            IpAddr::V6(_) => Ipv6Prefix::new(range.bits()).is_some(),
        };
        (is_caller && range.to_string() == text).then_some(Self(range))
    }

    /// Whether the prefix contains [`Caller::SHARED`], the address that Workers of other zones share
    /// and that is never blocked.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.0.contains(Caller::SHARED)
    }

    /// The enclosing network that has these prefixes. A longer prefix than the network's own does not
    /// narrow it.
    #[must_use]
    pub fn around(self, prefixes: NetworkPrefixes) -> Range {
        let first = self.0.first();
        let bits = match first {
            IpAddr::V4(_) => prefixes.ipv4,
            IpAddr::V6(_) => prefixes.ipv6,
        };
        Range::masked(first, bits.min(self.0.bits()))
    }

    /// The range of its addresses.
    #[must_use]
    pub const fn range(self) -> Range {
        self.0
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
