//! Keys of the callers that a request names.

use super::bad::Bad;
use crate::client::range::Range;
use crate::client::{Caller, Ipv6Prefix, hashed};

/// Hexadecimal digits of the hash in a key.
const HASH_DIGITS: usize = 32;

/// The key of a caller that an operator names: an address, `unknown`, `global`, `id:NAME`, or a hash
/// as lists show it.
pub(super) fn caller_key(text: &str, prefix: Ipv6Prefix) -> Result<String, Bad> {
    const RULE: &str = "The caller must be an address, `unknown`, `global`, `user:NAME`, `id:NAME`, or a key as lists show \
                        it, such as `user-` and 32 hexadecimal digits.";
    if matches!(text, "unknown" | "global") || is_hashed(text) {
        return Ok(text.to_owned());
    }
    match text.split_once(':') {
        Some(("user", name)) => return named_key("user", name),
        Some(("id", name)) => return named_key("id", name),
        _ => {}
    }
    address_key(text, prefix).ok_or(Bad::from(RULE))
}

/// The key of an identifier that a server names: an address's own, a user's, or a hash; and whether
/// it is an address.
pub(super) fn identified(text: &str, prefix: Ipv6Prefix) -> Result<(String, bool), Bad> {
    if let Some(key) = address_key(text, prefix) {
        return Ok((key, true));
    }
    let key = match text.split_once(':') {
        Some(("user", name)) => named_key("user", name),
        _ => named_key("id", text),
    };
    Ok((key?, false))
}

/// A name of any length is hashed. The limits of bodies and paths bound its length.
fn named_key(kind: &str, name: &str) -> Result<String, Bad> {
    if name.is_empty() {
        return Err(Bad::from("A name must not be empty."));
    }
    Ok(hashed(kind, name))
}

fn address_key(text: &str, prefix: Ipv6Prefix) -> Option<String> {
    let range = Range::parse(text)?;
    let address = Caller::identify(Some(&range.first().to_string()), prefix);
    let alone = Range::new(range.first(), range.bits())?.to_string();
    // One address, or a network that is one caller, in the form in which lists show it.
    let one = alone == address.key() || !text.contains('/');
    one.then(|| address.key().to_owned())
}

fn is_hashed(text: &str) -> bool {
    ["user-", "header-", "id-"].into_iter().any(|kind| {
        text.strip_prefix(kind).is_some_and(|digits| {
            digits.len() == HASH_DIGITS
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{caller_key, identified};
    use crate::client::Ipv6Prefix;

    #[test]
    fn a_caller_key_has_a_form_of_our_own() {
        let prefix = Ipv6Prefix::default();
        for (text, key) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8::7", "2001:db8::/64"),
            ("2001:db8::/64", "2001:db8::/64"),
            ("unknown", "unknown"),
            ("global", "global"),
            (
                "user-0123456789abcdef0123456789abcdef",
                "user-0123456789abcdef0123456789abcdef",
            ),
        ] {
            assert_eq!(caller_key(text, prefix).as_deref(), Ok(key));
        }
        for text in [
            "",
            "*",
            "10.0.0.0/8",
            "2001:db8::/32",
            "a b",
            "a\nb",
            "user-*",
            "user-",
            "id:",
            "user:",
            "Unknown",
            "user-0123456789ABCDEF0123456789abcdef",
            "192.0.2.1:blocked",
            "{192.0.2.1}",
            "%",
        ] {
            assert!(caller_key(text, prefix).is_err(), "{text}");
        }
        let long = caller_key(&format!("user:{}", "x".repeat(5000)), prefix).unwrap();
        assert!(long.starts_with("user-") && long.len() == 37);
        let hashed = caller_key("id:a:*\r\n b", prefix).unwrap();
        assert!(hashed.starts_with("id-") && hashed.len() == 35);
        assert_eq!(identified("a:*\r\n b", prefix), Ok((hashed, false)));
        assert_eq!(
            identified("192.0.2.1", prefix),
            Ok(("192.0.2.1".to_owned(), true))
        );
        assert!(identified("", prefix).is_err());
    }
}
