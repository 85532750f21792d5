//! What came in, read: path segments, a query's parameters, a body.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::{Body, Failed, Request};
use crate::client::range::Range;
use crate::client::{Caller, Ipv6Prefix, hashed};
use crate::policy::Policy;

/// Something that the caller can mend: what it should be. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad(pub String);

impl From<&str> for Bad {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

/// Digits of a hash in a key.
const DIGITS: usize = 32;

/// A path and a query.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The path's segments, decoded.
    pub segments: Vec<String>,
    /// Some of it is no UTF-8 once decoded.
    pub unreadable: bool,
    parameters: Vec<(String, String)>,
}

impl Input {
    /// Reads a request's path and query.
    #[must_use]
    pub fn read(request: &Request) -> Self {
        let path = request.path.strip_prefix('/').unwrap_or(&request.path);
        let mut unreadable = false;
        let segments = path.split('/').map(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8();
            unreadable |= decoded.is_err();
            decoded.unwrap_or_default().into_owned()
        });
        let segments = segments.collect();
        let parameters = form_urlencoded::parse(request.query.as_bytes());
        let parameters: Vec<_> = parameters.into_owned().collect();
        // What is no UTF-8 comes out as this.
        unreadable |= parameters
            .iter()
            .any(|(name, value)| name.contains('\u{fffd}') || value.contains('\u{fffd}'));
        Self {
            segments,
            unreadable,
            parameters,
        }
    }

    /// That there are no parameters but these, and none twice.
    ///
    /// # Errors
    ///
    /// [`Bad`] says which there are.
    pub fn only(&self, known: &[&str]) -> Result<(), Bad> {
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &self.parameters {
            if !known.contains(&name.as_str()) || seen.contains(&name.as_str()) {
                return Err(Bad(match known {
                    [] => "This takes no parameters.".to_owned(),
                    known => format!(
                        "The parameters are {}, each at most once.",
                        known.join(", ")
                    ),
                }));
            }
            seen.push(name);
        }
        Ok(())
    }

    /// A parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A whole number from `least` to `most`; `default` where it is not given.
    ///
    /// # Errors
    ///
    /// [`Bad`] for anything else.
    pub fn number(
        &self,
        name: &str,
        [least, most]: [u32; 2],
        default: Option<u32>,
    ) -> Result<u32, Bad> {
        let rule = || out_of_range(name, [least, most]);
        let Some(text) = self.parameter(name) else {
            return default.ok_or_else(rule);
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(rule)
    }

    /// A cursor as an earlier page told it.
    ///
    /// # Errors
    ///
    /// [`Bad`] for anything else.
    pub fn cursor<C>(&self, parse: impl Fn(&str) -> Option<C>) -> Result<Option<C>, Bad> {
        let Some(text) = self.parameter("cursor") else {
            return Ok(None);
        };
        let cursor =
            parse(text).ok_or(Bad::from("`cursor` must be one that the page before told."))?;
        Ok(Some(cursor))
    }
}

/// A JSON object, field by field.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The object that a body is; an empty body is an object without fields where `may_be_empty`.
    pub(super) fn of_body(request: &Request, may_be_empty: bool) -> Result<Self, Failed> {
        let text = match &request.body {
            Body::Text(text) => text,
            Body::TooLong => return Err(Failed::TooLarge),
            Body::NotText => return Err(Bad::from("The body must be UTF-8.").into()),
        };
        if may_be_empty && text.is_empty() {
            return Ok(Self(Map::new()));
        }
        // What serde says can show what was sent.
        let value = serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Bad(format!(
                "The body must be JSON: see line {line}, column {column}."
            ))
        })?;
        Ok(Self::of(value)?)
    }

    pub(super) fn of(value: Value) -> Result<Self, Bad> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(Bad::from("A JSON object is expected.")),
        }
    }

    /// That there are no fields but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Bad> {
        if self.0.keys().all(|name| known.contains(&name.as_str())) {
            return Ok(());
        }
        Err(Bad(format!("The fields are {}.", known.join(", "))))
    }

    /// A text, if it is there.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Bad> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Bad(format!("`{name}` must be a text."))),
        }
    }

    /// A whole number from `least` to `most`, if it is there.
    pub(super) fn number(
        &mut self,
        name: &str,
        [least, most]: [u32; 2],
    ) -> Result<Option<u32>, Bad> {
        let number = match self.0.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        let fits = number.filter(|number| (least..=most).contains(number));
        let rule = || out_of_range(name, [least, most]);
        fits.map(Some).ok_or_else(rule)
    }

    /// A list, if it is there.
    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Bad> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(Bad(format!("`{name}` must be a list."))),
        }
    }
}

fn out_of_range(name: &str, [least, most]: [u32; 2]) -> Bad {
    Bad(format!(
        "`{name}` must be a whole number from {least} to {most}."
    ))
}

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

/// The key of an identifier that a server names: an address's own, a user's, or a hash.
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

/// However long a name is, it is hashed; that it has an end, the bounds of bodies and paths see to.
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
    // A network that is one caller, as lists show it, or one address.
    let one = alone == address.key() || !text.contains('/');
    one.then(|| address.key().to_owned())
}

fn is_hashed(text: &str) -> bool {
    ["user-", "header-", "id-"].into_iter().any(|kind| {
        text.strip_prefix(kind).is_some_and(|digits| {
            digits.len() == DIGITS
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    })
}

/// The policy of that name.
pub(super) fn policy<'a>(policies: &'a [Policy], name: &str) -> Option<&'a Policy> {
    policies.iter().find(|policy| policy.name == name)
}

#[cfg(test)]
mod tests {
    use super::{Bad, Input, caller_key, identified};
    use crate::admin::Request;
    use crate::client::Ipv6Prefix;

    fn input(path: &str, query: &str) -> Input {
        Input::read(&Request {
            path: path.to_owned(),
            query: query.to_owned(),
            ..Request::default()
        })
    }

    #[test]
    fn segments_are_decoded_after_they_are_parted() {
        assert_eq!(
            input("/blocked/10.0.0.0%2F8", "").segments,
            ["blocked", "10.0.0.0/8"]
        );
        assert_eq!(
            input("/blocked/..%2fevents", "").segments,
            ["blocked", "../events"]
        );
        assert_eq!(input("//blocked", "").segments, ["", "blocked"]);
        assert!(input("/usage/auth/%ff", "").unreadable);
        assert!(input("/events", "cursor=%ff").unreadable);
    }

    #[test]
    fn parameters_are_known_and_come_once() {
        let rule = |query| input("/", query).only(&["limit", "hours"]).is_ok();
        assert!(rule("") && rule("limit=1") && rule("limit=1&hours=2"));
        assert!(!rule("limit=1&limit=1") && !rule("other=1") && !rule("limit%00=1"));
    }

    #[test]
    fn a_number_is_digits_in_a_range() {
        let read = |query: &str| input("/", query).number("limit", [1, 100], Some(7));
        assert_eq!(
            [read(""), read("limit=1"), read("limit=100")],
            [Ok(7), Ok(1), Ok(100)]
        );
        for bad in [
            "",
            "0",
            "101",
            "-1",
            "+1",
            "1.5",
            "1e1",
            "NaN",
            "99999999999",
            " 1",
            "0x1",
        ] {
            assert!(
                matches!(
                    read(&format!("limit={}", bad.replace('+', "%2B"))),
                    Err(Bad(_))
                ),
                "{bad}"
            );
        }
        assert!(input("/", "").number("limit", [1, 100], None).is_err());
    }

    #[test]
    fn a_caller_is_named_in_a_form_of_our_own() {
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
