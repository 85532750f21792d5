//! Reads the callers that a request to the control plane names.

use super::bad_input::BadInput;
use crate::client::range::Range;
use crate::client::{AddressPrefix, Caller, CallerKey, Ipv6Prefix};

/// The caller that an operator names: an address, `user:NAME`, `id:NAME`, `zone:NAME`, or any other key in the form that
/// lists show.
pub(super) fn caller(text: &str, prefix: Ipv6Prefix) -> Result<Caller, BadInput> {
    const RULE: &str = "The caller must be an address, `unknown`, `global`, `user:NAME`, `id:NAME`, `zone:NAME`, or a key \
                        as lists show it, such as `user-` followed by 32 hexadecimal digits.";
    if let Some(caller) = named(text, prefix)? {
        return Ok(caller);
    }
    match CallerKey::parse(text) {
        // An address key here is a network that is not one caller under the configured prefix.
        None | Some(CallerKey::Address(_)) => Err(BadInput::from(RULE)),
        Some(key) => Ok(Caller::of_key(key)),
    }
}

/// The caller that a server names: an address, `user:NAME`, `id:NAME` or `zone:NAME`. Any other text `NAME` means
/// `id:NAME`.
pub(super) fn operator_caller(text: &str, prefix: Ipv6Prefix) -> Result<Caller, BadInput> {
    match named(text, prefix)? {
        Some(caller) => Ok(caller),
        None => Ok(Caller::of_key(CallerKey::id(not_empty(text)?))),
    }
}

/// The caller of a check, named by the text that the check sent, or by the key that lists show.
pub(super) fn checked(text: &str, prefix: Ipv6Prefix) -> Result<Caller, BadInput> {
    match CallerKey::parse(text) {
        // Keys with a hash or a range contain a hyphen. Other texts are names.
        Some(key) if text.contains('-') => Ok(Caller::of_key(key)),
        _ => operator_caller(text, prefix),
    }
}

/// The caller in one of the forms that operators and servers share. `None` if the text has none of them.
fn named(text: &str, prefix: Ipv6Prefix) -> Result<Option<Caller>, BadInput> {
    let key = match text.split_once(':') {
        Some(("user", subject)) => CallerKey::user(not_empty(subject)?),
        Some(("id", name)) => CallerKey::id(not_empty(name)?),
        Some(("zone", name)) => CallerKey::zone(name)
            .ok_or(BadInput::from("`zone:` must be followed by a domain name."))?,
        _ => return Ok(address(text, prefix)),
    };
    Ok(Some(Caller::of_key(key)))
}

/// Checks that a name is not empty. Its length needs no bound here: the limits of bodies and paths bound it.
fn not_empty(name: &str) -> Result<&str, BadInput> {
    if name.is_empty() {
        return Err(BadInput::from("The caller's name must not be empty."));
    }
    Ok(name)
}

/// The caller of one address as requests carry it, or of a network that is one caller, as lists show it.
fn address(text: &str, prefix: Ipv6Prefix) -> Option<Caller> {
    if !text.contains('/') {
        let caller = Caller::identify(Some(text), prefix);
        return caller.address().map(|_| caller);
    }
    let range = Range::parse(text)?;
    let network = AddressPrefix::of(range.first(), prefix);
    (network.range() == range).then(|| Caller::of_key(CallerKey::Address(network)))
}

#[cfg(test)]
mod tests {
    use super::{caller, checked, operator_caller};
    use crate::client::{Caller, CallerKey, Ipv6Prefix};

    #[test]
    fn every_named_caller_has_a_key_in_the_limiters_own_form() {
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
            let named = caller(text, prefix).map(|caller| caller.key().to_string());
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
            assert!(caller(text, prefix).is_err(), "{text}");
        }
        let long = "x".repeat(5000);
        let key = |named: Result<Caller, _>| named.map(|caller| caller.key());
        assert_eq!(
            key(caller(&format!("user:{long}"), prefix)),
            Ok(CallerKey::user(&long))
        );
        let id = CallerKey::id("a:*\r\n b");
        assert_eq!(key(caller("id:a:*\r\n b", prefix)), Ok(id));
        assert_eq!(key(operator_caller("a:*\r\n b", prefix)), Ok(id));
        let unknown = CallerKey::id("unknown");
        assert_eq!(key(operator_caller("unknown", prefix)), Ok(unknown));
        for empty in ["", "id:", "user:"] {
            assert!(operator_caller(empty, prefix).is_err(), "{empty}");
        }
    }

    #[test]
    fn the_caller_of_a_check_is_found_by_the_name_that_the_check_sent() {
        let prefix = Ipv6Prefix::default();
        for text in [
            "everybody",
            "ada@example.org",
            "unknown",
            "global",
            "user:ada",
            "192.0.2.1",
            "2001:db8::1",
            "a-b",
        ] {
            assert_eq!(
                checked(text, prefix),
                operator_caller(text, prefix),
                "{text}"
            );
        }
        let listed = CallerKey::user("ada").to_string();
        assert_eq!(checked(&listed, prefix), caller(&listed, prefix));
        assert!(checked("", prefix).is_err());
    }

    #[test]
    fn operators_servers_and_requests_name_the_same_caller() {
        let prefix = Ipv6Prefix::default();
        for text in [
            "192.0.2.1",
            "192.0.2.1:443",
            " 192.0.2.1 ",
            "::ffff:192.0.2.1",
            "2001:db8::7",
            "[2001:DB8::7]:443",
            "fe80::1%eth0",
        ] {
            let of_request = Caller::identify(Some(text), prefix);
            assert_eq!(caller(text, prefix), Ok(of_request), "{text}");
            assert_eq!(operator_caller(text, prefix), Ok(of_request), "{text}");
        }
        for text in [
            "2001:db8::/64",
            "user:alice",
            "id:card:4242",
            "zone:example.com",
            "id:192.0.2.1",
        ] {
            assert_eq!(
                caller(text, prefix),
                operator_caller(text, prefix),
                "{text}"
            );
        }
        assert_eq!(
            operator_caller("card:4242", prefix),
            operator_caller("id:card:4242", prefix)
        );
    }
}
