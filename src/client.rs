//! Who the caller is: one canonical form of an address, the same for counters and for blocks.
//!
//! The address comes from a header that the *platform* sets (`CF-Connecting-IP`), never from one
//! that a client can write. What is not unambiguously one address is no address: its sender joins
//! the shared, tight bucket of the unidentified, which is never blocked. So a broken header is
//! neither a bypass nor a way to lock others out.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

pub mod range;

/// The key of the bucket that all callers without a usable address share.
const UNIDENTIFIED: &str = "unknown";

/// `2a06:98c0:3600::103`: what Cloudflare puts into `CF-Connecting-IP` where a Worker of *another*
/// zone makes the request. Every such Worker of every customer shares it, so that blocking it for
/// what one of them did would lock out all the others.
/// <https://developers.cloudflare.com/fundamentals/reference/http-headers/>
const CLOUDFLARE_WORKERS: Ipv6Addr = Ipv6Addr::new(0x2a06, 0x98c0, 0x3600, 0, 0, 0, 0, 0x103);

/// The longest header value that is looked at, in bytes. The longest address takes 45, brackets and
/// a port 8; the rest is room for a zone.
const LONGEST_VALUE: usize = 128;

/// How many bytes of a SHA-256 [`hashed`] keeps: 128 bits, beyond finding two values that collide.
const HASH_BYTES: usize = 16;

/// How many leading bits of an IPv6 address name one caller: 1 to 128, by default 64.
///
/// A subscriber is handed at least a /64 and can take a fresh address out of it for each request.
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

    fn mask(self, address: Ipv6Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(self.0))))
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

/// Who sent a request, as far as the platform's header tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller(Origin);

/// Where a caller's identity came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Origin {
    /// The header held one address; `key` is its network in canonical form.
    Address { exact: IpAddr, key: String },
    /// The header was missing or not an address.
    Unidentified,
}

impl Caller {
    /// The address that strangers share, and that is never blocked.
    pub const SHARED: IpAddr = IpAddr::V6(CLOUDFLARE_WORKERS);

    /// The caller that `header`, the value of the platform's header, names.
    ///
    /// # Example
    ///
    /// ```
    /// # use edge_limiter::client::{Caller, Ipv6Prefix};
    /// let caller = Caller::identify(Some("2001:db8::1"), Ipv6Prefix::default());
    /// assert_eq!(caller.key(), "2001:db8::/64");
    /// assert_eq!(Caller::identify(None, Ipv6Prefix::default()).key(), "unknown");
    /// ```
    #[must_use]
    pub fn identify(header: Option<&str>, prefix: Ipv6Prefix) -> Self {
        Self(match header.and_then(parse_address) {
            Some(exact) => Origin::Address {
                exact,
                key: canonical_network(exact, prefix),
            },
            None => Origin::Unidentified,
        })
    }

    /// What names the caller in Redis keys, for counters and for blocks alike: a network as
    /// [`canonical_network`] writes it, or `unknown` for the bucket of all who are unidentified.
    #[must_use]
    pub fn key(&self) -> &str {
        match &self.0 {
            Origin::Address { key, .. } => key,
            Origin::Unidentified => UNIDENTIFIED,
        }
    }

    /// The exact address, not masked: what the origin is told. `None` for the unidentified.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match &self.0 {
            Origin::Address { exact, .. } => Some(*exact),
            Origin::Unidentified => None,
        }
    }

    /// Whether a block may be set on this caller or may stop it. Not where strangers share the
    /// identity: the unidentified, and all Workers that call across zones.
    #[must_use]
    pub fn may_be_blocked(&self) -> bool {
        self.address()
            .is_some_and(|address| address != Self::SHARED)
    }
}

/// The one address that a header's value holds, or `None` where it is not unambiguously one.
///
/// Around the address, white space, a port (`192.0.2.1:80`, `[2001:db8::1]:443`), brackets and a
/// zone (`fe80::1%eth0`) are stripped. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, however
/// written) is the IPv4 address. Lists, IPv4 with leading zeros, in hex or with fewer than four
/// parts (parsers differ on what these are), ports that are none, and brackets or a zone around
/// IPv4 are refused. A value longer than 128 bytes is refused unread.
///
/// # Design
///
/// Only mapped addresses are unwrapped: they are how a dual-stack socket *shows* an IPv4 peer. An
/// IPv4-compatible (`::192.0.2.1`), 6to4 (`2002::/16`) or NAT64 (`64:ff9b::/96`) address was really
/// on the wire as IPv6 and says nothing proven about the IPv4 address inside it; trusting that
/// would let a sender pick the victim.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    if text.len() > LONGEST_VALUE {
        return None;
    }
    let text = text.trim_ascii();
    if let Some(opened) = text.strip_prefix('[') {
        let (inside, after) = opened.split_once(']')?;
        let is_bare = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        return if is_bare { parse_ipv6(inside) } else { None };
    }
    // One colon is never IPv6, so it can only begin a port. Without brackets, `2001:db8::1:443` is
    // an address.
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

/// A port number; `u16::from_str` alone would take `+80` too.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// RFC 6874's `ZoneID`, so that no comma or space, hence no list, hides in a zone.
fn is_zone(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// The network that stands for `ip`: IPv4 whole (`192.0.2.1`), IPv6 masked to `prefix` and written
/// as in RFC 5952 with its length (`2001:db8:0:1::/64`).
///
/// A prefix of 128 leaves the whole address, which like IPv4 carries no length: `2001:db8::1`. An
/// IPv4-mapped address counts as IPv4 here too, so that an operator's block and the caller it means
/// always meet.
#[must_use]
pub fn canonical_network(ip: IpAddr, prefix: Ipv6Prefix) -> String {
    match ip.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) if prefix.bits() == 128 => address.to_string(),
        IpAddr::V6(address) => format!("{}/{}", prefix.mask(address), prefix.bits()),
    }
}

/// What a caller supplied, made fit for a Redis key: `{kind}-{32 hex digits}`, the first 128 bits
/// of a SHA-256 over the whole of `value`, whatever its length and bytes.
///
/// `kind` is the limiter's own word, never a caller's (`user`, or a header's name in lower case).
/// It is hashed as well, so that equal values of two kinds share no digits and cannot be linked.
#[must_use]
pub fn hashed(kind: &str, value: impl AsRef<[u8]>) -> String {
    // A NUL ends the kind: no header's name can hold one, so no (kind, value) runs into another.
    let digest = Sha256::new()
        .chain_update(kind)
        .chain_update([0])
        .chain_update(value.as_ref())
        .finalize();
    let mut key = String::with_capacity(kind.len() + 1 + 2 * HASH_BYTES);
    key.push_str(kind);
    key.push('-');
    for byte in digest.iter().take(HASH_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests;
