//! The caller's part of a quota's key, `{policy}:{caller}`: the kinds of callers, and their text.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::network::AddressPrefix;
use super::range::Range;

const UNIDENTIFIED: &str = "unknown";
const GLOBAL: &str = "global";
const USER: &str = "user";
const HEADER: &str = "header";
const ID: &str = "id";
const ZONE: &str = "zone";
const NETWORK: &str = "network";

/// The longest name of a zone and the longest of its labels, in bytes (RFC 1035).
const MAX_ZONE_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The key that names a caller in Redis, in events and in answers.
///
/// # Example
///
/// ```
/// # use edge_limiter::client::CallerKey;
/// let alice = CallerKey::user("alice");
/// assert_eq!(alice.to_string(), "user-61e53a32f777fee6b9ea613099951c77");
/// assert_eq!(CallerKey::parse("user-61e53a32f777fee6b9ea613099951c77"), Some(alice));
/// ```
///
/// # Design
///
/// Every value that a caller supplies is hashed, so that its text never gets into a key. So no value
/// is too long, and none can imitate another key. The kind is hashed as well, so that equal values of
/// two kinds have different digits and cannot be linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// An address, by its network: `192.0.2.1`, `2001:db8::/64`.
    Address(AddressPrefix),
    /// `unknown`: all callers without a usable address.
    Unidentified,
    /// `global`: everybody.
    Global,
    /// `user-{hash}`: the verified subject of a JWT.
    User(CallerHash),
    /// `header-{hash}`: a request header's name and value.
    Header(CallerHash),
    /// `id-{hash}`: an identifier that a server chose for `/_limiter/check`.
    Id(CallerHash),
    /// `zone-{hash}`: the Workers of one Cloudflare zone. The Workers of all zones share one address.
    Zone(CallerHash),
    /// `network-2001:db8:1::/48`: all callers of a network together.
    Network(Range),
}

impl CallerKey {
    /// The length of the longest key, in bytes: `network-`, an IPv6 address of eight full groups, and
    /// `/127`.
    pub const MAX_BYTES: usize = 51;

    /// The key of a user, by the subject of its token.
    #[must_use]
    pub fn user(subject: &str) -> Self {
        Self::User(CallerHash::of(USER, &[subject]))
    }

    /// The key of everybody who sends `value` in the header `name`, which is in lower case.
    #[must_use]
    pub fn header(name: &str, value: &str) -> Self {
        // A header's name has no colon, so two different pairs never have the same text.
        Self::Header(CallerHash::of(HEADER, &[name, ":", value]))
    }

    /// The key of an identifier that is neither an address nor a user.
    #[must_use]
    pub fn id(name: &str) -> Self {
        Self::Id(CallerHash::of(ID, &[name]))
    }

    /// The key of the Workers of a zone, by its name in any case. `None` if it is not a domain name.
    #[must_use]
    pub fn zone(name: &str) -> Option<Self> {
        if !is_zone_name(name) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        Some(Self::Zone(CallerHash::of(ZONE, &[&name])))
    }

    /// Parses exactly what `Display` writes. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            UNIDENTIFIED => return Some(Self::Unidentified),
            GLOBAL => return Some(Self::Global),
            _ => {}
        }
        match text.split_once('-') {
            Some((USER, digits)) => CallerHash::parse(digits).map(Self::User),
            Some((HEADER, digits)) => CallerHash::parse(digits).map(Self::Header),
            Some((ID, digits)) => CallerHash::parse(digits).map(Self::Id),
            Some((ZONE, digits)) => CallerHash::parse(digits).map(Self::Zone),
            Some((NETWORK, network)) => {
                let range = Range::parse(network)?;
                (range.to_string() == network).then_some(Self::Network(range))
            }
            _ => AddressPrefix::parse(text).map(Self::Address),
        }
    }
}

impl fmt::Display for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(network) => network.fmt(f),
            Self::Unidentified => f.write_str(UNIDENTIFIED),
            Self::Global => f.write_str(GLOBAL),
            Self::User(hash) => write!(f, "{USER}-{hash}"),
            Self::Header(hash) => write!(f, "{HEADER}-{hash}"),
            Self::Id(hash) => write!(f, "{ID}-{hash}"),
            Self::Zone(hash) => write!(f, "{ZONE}-{hash}"),
            Self::Network(range) => write!(f, "{NETWORK}-{range}"),
        }
    }
}

/// Whether `name` is an ASCII domain name of two labels or more, not an address, a list or a name with a port.
fn is_zone_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let Some((_, last)) = name.rsplit_once('.') else {
        return false;
    };
    name.len() <= MAX_ZONE_BYTES
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl Serialize for CallerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The first 128 bits of a SHA-256, too many for anybody to find two values that collide. It prints as
/// 32 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerHash([u8; Self::BYTES]);

impl CallerHash {
    const BYTES: usize = 16;

    /// The hash of `parts`, one after the other, as a value of `kind`.
    fn of(kind: &str, parts: &[&str]) -> Self {
        // A NUL ends the kind. No kind contains one, so two different pairs never have the same text.
        let mut hash = Sha256::new().chain_update(kind).chain_update([0]);
        for part in parts {
            hash.update(part);
        }
        let mut first = [0; Self::BYTES];
        first
            .iter_mut()
            .zip(hash.finalize())
            .for_each(|(to, from)| *to = from);
        Self(first)
    }

    fn parse(digits: &str) -> Option<Self> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 2 * Self::BYTES || !digits.bytes().all(is_digit) {
            return None;
        }
        let number = u128::from_str_radix(digits, 16).ok()?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for CallerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::{CallerHash, CallerKey};
    use crate::client::range::Range;
    use crate::client::{AddressPrefix, Ipv6Prefix};

    #[test]
    fn every_kind_of_key_has_its_own_text() {
        for text in [
            "192.0.2.1",
            "2001:db8::/64",
            "2001:db8::1",
            "::/1",
            "unknown",
            "global",
            "user-0123456789abcdef0123456789abcdef",
            "header-00000000000000000000000000000000",
            "id-ffffffffffffffffffffffffffffffff",
            "zone-0123456789abcdef0123456789abcdef",
            "network-192.0.2.0/24",
            "network-2001:db8:1::/48",
            "network-192.0.2.1",
            "network-::/0",
        ] {
            let key = CallerKey::parse(text).unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(serde_json::to_value(key).unwrap(), text);
        }
    }

    #[test]
    fn a_text_that_no_key_prints_is_rejected() {
        for text in [
            "",
            "*",
            "Unknown",
            "global ",
            "user",
            "user-",
            "user-*",
            "user:alice",
            "user-0123456789ABCDEF0123456789abcdef",
            "user-0123456789abcdef0123456789abcde",
            "user-0123456789abcdef0123456789abcdef0",
            "user-+123456789abcdef0123456789abcdef",
            "group-0123456789abcdef0123456789abcdef",
            "zone-example.com",
            "network-",
            "network-192.0.2.1/24",
            "network-192.0.2.1/32",
            "network-2001:DB8:1::/48",
            "network-unknown",
            "192.0.2.1 ",
            "192.0.2.1/32",
            "192.0.2.0/24",
            "192.0.2.1:80",
            "::ffff:192.0.2.1",
            "2001:DB8::/64",
            "2001:db8::1/64",
            "2001:db8:0::/64",
            "2001:db8::1/128",
            "[2001:db8::1]",
            "::/0",
        ] {
            assert_eq!(CallerKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_hash_depends_on_kind_and_value_and_hides_its_length() {
        // The first 128 bits of SHA-256("user\0alice") and of SHA-256("header\0x-api-key:alice"),
        // computed by another implementation.
        for (key, text) in [
            (
                CallerKey::user("alice"),
                "user-61e53a32f777fee6b9ea613099951c77",
            ),
            (
                CallerKey::header("x-api-key", "alice"),
                "header-622ebcd00f8b3fe7f05feca916684bec",
            ),
            (
                CallerKey::id("alice"),
                "id-c364f41306b5ee6a92e7a8670f8fc59c",
            ),
        ] {
            assert_eq!(key.to_string(), text);
        }
        assert_ne!(CallerKey::header("a", "bc"), CallerKey::header("ab", "c"));
        let long = |length| CallerKey::user(&"a".repeat(length));
        assert_ne!(long(100_000), long(100_001));
        for value in ["", "\0*\r\n:\u{fc}"] {
            assert_eq!(CallerKey::user(value).to_string().len(), "user-".len() + 32);
        }
    }

    #[test]
    fn a_zone_is_a_domain_name_in_any_case() {
        // The first 128 bits of SHA-256("zone\0evil.example").
        let zone = CallerKey::zone("Evil.Example").unwrap();
        assert_eq!(zone.to_string(), "zone-8803b1be43bfdb8a3e5717f23c9440f6");
        assert_eq!(zone, CallerKey::zone("evil.example").unwrap());
        assert_ne!(zone, CallerKey::zone("good.example").unwrap());
        let long = [["a"; 60].join("."), "a".repeat(63)].join(".");
        assert!(CallerKey::zone(&long).is_some());
        let longer = [["a"; 126].join("."), "aa".to_owned()].join(".");
        for name in [
            "",
            ".",
            "example",
            "a..b",
            "a.b.",
            "a b.c",
            "a.b:80",
            "a,b.c",
            "192.0.2.1",
            &longer,
        ] {
            assert_eq!(CallerKey::zone(name), None, "{name}");
        }
    }

    fn keys() -> impl Strategy<Value = CallerKey> {
        let hash = any::<[u8; CallerHash::BYTES]>().prop_map(CallerHash);
        let network = (any::<IpAddr>(), 1..=128_u8)
            .prop_map(|(address, bits)| AddressPrefix::of(address, Ipv6Prefix::new(bits).unwrap()));
        let range = (any::<IpAddr>(), 0..=128_u8)
            .prop_filter_map("too many bits", |(address, bits)| Range::new(address, bits));
        prop_oneof![
            4 => network.prop_map(CallerKey::Address),
            1 => Just(CallerKey::Unidentified),
            1 => Just(CallerKey::Global),
            1 => hash.clone().prop_map(CallerKey::User),
            1 => hash.clone().prop_map(CallerKey::Header),
            1 => hash.clone().prop_map(CallerKey::Id),
            1 => hash.prop_map(CallerKey::Zone),
            2 => range.prop_map(CallerKey::Network),
        ]
    }

    proptest! {
        #[test]
        fn a_printed_key_parses_as_itself(key in keys()) {
            let text = key.to_string();
            prop_assert!(text.len() <= CallerKey::MAX_BYTES);
            // The text is the hash tag of keys in a Redis Cluster.
            let has_braces = text.contains(['{', '}']);
            prop_assert!(!text.is_empty() && !has_braces);
            prop_assert_eq!(CallerKey::parse(&text), Some(key));
        }

        #[test]
        fn only_a_text_that_a_key_prints_is_accepted(
            text in prop_oneof![any::<String>(), "[0-9a-f:.]{1,20}(/[0-9]{1,3})?", "(user|header|id|zone)-[0-9a-fA-F+]{31,33}", "network-[0-9a-f:.]{1,20}(/[0-9]{1,3})?"],
        ) {
            if let Some(key) = CallerKey::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
