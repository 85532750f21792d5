//! Keys of the callers that a request names.

use super::bad::Bad;
use crate::client::range::Range;
use crate::client::{CallerKey, Ipv6Prefix, Network};

/// The key of a caller that an operator names: an address, `user:NAME`, `id:NAME`, or any other key
/// as lists show it.
pub(super) fn caller_key(text: &str, prefix: Ipv6Prefix) -> Result<CallerKey, Bad> {
    const RULE: &str = "The caller must be an address, `unknown`, `global`, `user:NAME`, `id:NAME`, or a key as lists show \
                        it, such as `user-` and 32 hexadecimal digits.";
    match text.split_once(':') {
        Some(("user", subject)) => return not_empty(subject).map(CallerKey::user),
        Some(("id", name)) => return not_empty(name).map(CallerKey::id),
        _ => {}
    }
    if let Some(address) = address(text, prefix) {
        return Ok(address);
    }
    match CallerKey::parse(text) {
        // A network that is not one caller under the configured prefix.
        None | Some(CallerKey::Address(_)) => Err(Bad::from(RULE)),
        Some(key) => Ok(key),
    }
}

/// The key of an identifier that a server names: an address, `user:NAME`, or any other text.
pub(super) fn identified(text: &str, prefix: Ipv6Prefix) -> Result<CallerKey, Bad> {
    if let Some(address) = address(text, prefix) {
        return Ok(address);
    }
    match text.split_once(':') {
        Some(("user", subject)) => not_empty(subject).map(CallerKey::user),
        _ => not_empty(text).map(CallerKey::id),
    }
}

/// The limits of bodies and paths bound a name's length.
fn not_empty(name: &str) -> Result<&str, Bad> {
    if name.is_empty() {
        return Err(Bad::from("A name must not be empty."));
    }
    Ok(name)
}

/// One address, or a network that is one caller, in the form in which lists show it.
fn address(text: &str, prefix: Ipv6Prefix) -> Option<CallerKey> {
    let range = Range::parse(text)?;
    let network = Network::of(range.first(), prefix);
    let is_caller = network.range() == range || !text.contains('/');
    is_caller.then_some(CallerKey::Address(network))
}

#[cfg(test)]
mod tests {
    use super::{caller_key, identified};
    use crate::client::{CallerKey, Ipv6Prefix};

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
            let named = caller_key(text, prefix).map(|key| key.to_string());
            assert_eq!(named.as_deref(), Ok(key));
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
        let long = "x".repeat(5000);
        assert_eq!(
            caller_key(&format!("user:{long}"), prefix),
            Ok(CallerKey::user(&long))
        );
        let id = CallerKey::id("a:*\r\n b");
        assert_eq!(caller_key("id:a:*\r\n b", prefix), Ok(id));
        assert_eq!(identified("a:*\r\n b", prefix), Ok(id));
        assert_eq!(
            identified("user:alice", prefix),
            Ok(CallerKey::user("alice"))
        );
        assert_eq!(identified("unknown", prefix), Ok(CallerKey::id("unknown")));
        assert_eq!(
            identified("192.0.2.1", prefix),
            caller_key("192.0.2.1", prefix)
        );
        assert!(identified("", prefix).is_err());
    }
}
