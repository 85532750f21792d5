//! Identifies the caller: one canonical form of its address, the same for counters and for blocks.
//!
//! The address comes from a header that the *platform* sets (`CF-Connecting-IP`), never from one
//! that a client can write. A value that is not unambiguously one address counts as no address: its
//! sender shares the tight quota of all unidentified callers, which is never blocked. So a broken
//! header is neither a bypass nor a way to lock others out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use range::RangeMap;

mod key;
mod network;
pub mod range;

pub use key::{CallerHash, CallerKey};
pub use network::{AddressPrefix, Ipv6Prefix, NetworkPrefixes};

/// The header with the caller's address on Cloudflare.
pub const CF_CONNECTING_IP: &str = "cf-connecting-ip";

/// The header with the name of the zone whose Worker sent the request, on Cloudflare.
/// <https://developers.cloudflare.com/fundamentals/reference/http-headers/#cf-worker>
pub const CF_WORKER: &str = "cf-worker";

/// `2a06:98c0:3600::103`: what Cloudflare puts into `CF-Connecting-IP` when a Worker of *another*
/// zone makes the request. Every such Worker of every customer shares this address. A block on it
/// because of one Worker would lock out all the others.
/// <https://developers.cloudflare.com/fundamentals/reference/http-headers/>
const CLOUDFLARE_WORKERS: Ipv6Addr = Ipv6Addr::new(0x2a06, 0x98c0, 0x3600, 0, 0, 0, 0, 0x103);

/// The longest header value that is parsed, in bytes. The longest address takes 45 bytes, brackets
/// and a port take 8, and the rest leaves space for a zone.
const MAX_VALUE_BYTES: usize = 128;

/// The caller that a request came from, according to the platform's header, or that a server names
/// in a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller(CallerSource);

/// Where a caller's identity came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CallerSource {
    /// The header contained one address.
    Address {
        exact: IpAddr,
        network: AddressPrefix,
    },
    /// A Worker of this zone, at the address that the Workers of all zones share.
    Zone(CallerHash),
    /// A check named a whole network that counts as one caller.
    AddressPrefix(AddressPrefix),
    /// The header was missing or not an address.
    Unidentified,
    /// A check named a user, or another caller without an address, by its key.
    Named(CallerKey),
}

impl Caller {
    /// The address that unrelated callers share, and that is never blocked.
    pub const SHARED: IpAddr = IpAddr::V6(CLOUDFLARE_WORKERS);

    /// The caller whose address is `header`, the value of the platform's header. Without one
    /// unambiguous address in it, the caller is unidentified.
    ///
    /// # Example
    ///
    /// ```
    /// # use edge_limiter::client::{Caller, Ipv6Prefix};
    /// let caller = Caller::identify(Some("2001:db8::1"), Ipv6Prefix::default());
    /// assert_eq!(caller.key().to_string(), "2001:db8::/64");
    /// let nobody = Caller::identify(None, Ipv6Prefix::default());
    /// assert_eq!(nobody.key().to_string(), "unknown");
    /// ```
    #[must_use]
    pub fn identify(header: Option<&str>, prefix: Ipv6Prefix) -> Self {
        Self(match header.and_then(parse_address) {
            Some(exact) => CallerSource::Address {
                exact,
                network: AddressPrefix::of(exact, prefix),
            },
            None => CallerSource::Unidentified,
        })
    }

    /// The caller, identified by its zone if it is a Worker of another zone. `zone` is the value of
    /// `CF-Worker`, by which Cloudflare names the zone. It is ignored for every address but the one
    /// that all such Workers share, because any other client could write the header. It is ignored
    /// as well if it is not one domain name.
    #[must_use]
    pub fn in_zone(self, zone: Option<&str>) -> Self {
        if self.address() != Some(Self::SHARED) {
            return self;
        }
        match zone.and_then(CallerKey::zone) {
            Some(CallerKey::Zone(zone)) => Self(CallerSource::Zone(zone)),
            _ => self,
        }
    }

    /// The caller with this key, for a call of the control plane that names a caller without a request.
    #[must_use]
    pub const fn of_key(key: CallerKey) -> Self {
        Self(match key {
            CallerKey::Address(network) => CallerSource::AddressPrefix(network),
            CallerKey::Unidentified => CallerSource::Unidentified,
            other => CallerSource::Named(other),
        })
    }

    /// The caller's key, for counters and for blocks alike.
    #[must_use]
    pub const fn key(&self) -> CallerKey {
        match &self.0 {
            CallerSource::Address { network, .. } | CallerSource::AddressPrefix(network) => {
                CallerKey::Address(*network)
            }
            CallerSource::Zone(zone) => CallerKey::Zone(*zone),
            CallerSource::Unidentified => CallerKey::Unidentified,
            CallerSource::Named(key) => *key,
        }
    }

    /// The key of the network that contains the caller's address. A caller without an own address
    /// keeps its own key.
    #[must_use]
    pub fn network_key(&self, prefixes: NetworkPrefixes) -> CallerKey {
        match self.key() {
            CallerKey::Address(network) => CallerKey::Network(network.around(prefixes)),
            key => key,
        }
    }

    /// The exact, unmasked address, which the origin receives. `None` if the caller has no single address.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match &self.0 {
            CallerSource::Address { exact, .. } => Some(*exact),
            CallerSource::Zone(_) => Some(Self::SHARED),
            CallerSource::AddressPrefix(_)
            | CallerSource::Unidentified
            | CallerSource::Named(_) => None,
        }
    }

    /// Whether one of `ranges` contains the caller: its address, or all addresses of its network.
    #[must_use]
    pub fn is_in(&self, ranges: &RangeMap<()>) -> bool {
        match &self.0 {
            CallerSource::Address { exact, .. } => ranges.holding(*exact).next().is_some(),
            CallerSource::AddressPrefix(network) => {
                let network = network.range();
                let mut holding = ranges.holding(network.first());
                holding.any(|(range, ())| range.covers(network))
            }
            CallerSource::Zone(_) => ranges.holding(Self::SHARED).next().is_some(),
            CallerSource::Unidentified | CallerSource::Named(_) => false,
        }
    }

    /// Whether a policy may block this caller. An identity that unrelated callers share is never
    /// blocked: the unidentified, all Workers that call across zones, and everybody who sends one
    /// header value. A zone is never blocked either, because one header would be the only evidence.
    #[must_use]
    pub fn may_be_blocked(&self) -> bool {
        match &self.0 {
            CallerSource::Address { exact, .. } => *exact != Self::SHARED,
            CallerSource::AddressPrefix(network) => !network.is_shared(),
            CallerSource::Named(CallerKey::User(_) | CallerKey::Id(_)) => true,
            CallerSource::Named(CallerKey::Network(range)) => !range.contains(Self::SHARED),
            CallerSource::Named(_) | CallerSource::Zone(_) | CallerSource::Unidentified => false,
        }
    }

    /// The canonical address under which the caller may be blocked in all policies. `None` if it
    /// must not be blocked.
    #[must_use]
    pub fn block_address(&self) -> Option<String> {
        match self.key() {
            CallerKey::Address(network) if self.may_be_blocked() => Some(network.to_string()),
            _ => None,
        }
    }
}

/// Parses the one address in a header's value. `None` if the value is not unambiguously one address.
///
/// White space, a port (`192.0.2.1:80`, `[2001:db8::1]:443`), brackets and a zone (`fe80::1%eth0`)
/// are stripped from the address. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, in any spelling)
/// becomes the IPv4 address. Rejected are:
///
/// - lists;
/// - IPv4 with leading zeros, in hex or with fewer than four parts, because parsers disagree on them;
/// - invalid ports;
/// - brackets or a zone around IPv4;
/// - values longer than 128 bytes, without parsing them.
///
/// # Design
///
/// Only mapped addresses are unwrapped, because a dual-stack socket *shows* an IPv4 peer in that
/// form. An IPv4-compatible (`::192.0.2.1`), 6to4 (`2002::/16`) or NAT64 (`64:ff9b::/96`) address
/// really was IPv6 on the wire. It proves nothing about the IPv4 address inside it, and a limiter
/// that trusted it would let a sender pick a victim.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    if text.len() > MAX_VALUE_BYTES {
        return None;
    }
    let text = text.trim_ascii();
    if let Some(opened) = text.strip_prefix('[') {
        let (inside, after) = opened.split_once(']')?;
        let ends_well = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        return if ends_well { parse_ipv6(inside) } else { None };
    }
    // IPv6 has two colons or more, so a single colon can only begin a port. Without brackets,
    // `2001:db8::1:443` is an address.
    match text.split_once(':') {
        None => parse_ipv4(text),
        Some((host, port)) if !port.contains(':') => parse_ipv4(host).filter(|_| is_port(port)),
        Some(_) => parse_ipv6(text),
    }
}

fn parse_ipv4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        None => text,
        Some((address, zone)) if is_zone(zone) => address,
        Some(_) => return None,
    };
    address
        .parse::<Ipv6Addr>()
        .ok()
        .map(|address| IpAddr::V6(address).to_canonical())
}

/// Whether the text is a port number. `u16::from_str` alone would accept `+80` too.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Whether the text is a `ZoneID` of RFC 6874. It has no comma and no space, so a zone cannot hide a list.
fn is_zone(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests;
