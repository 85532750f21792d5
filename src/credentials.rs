//! Parses the credentials of an `Authorization` header (RFC 9110, 11.4).
//!
//! All code that reads credentials uses this module: the authorization of the control plane, the proof of users, the
//! search for the limiter's own tokens in forwarded requests, and quotas that are keyed by the header.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::steps;

/// Optional whitespace (RFC 9110, 5.6.3).
const BLANKS: [char; 2] = [' ', '\t'];

/// The encoding of Basic credentials (RFC 7617), with padding or without.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest Basic credentials whose password is read, in bytes of their encoded form.
const MAX_BASIC_BYTES: usize = 4096;

/// Removes the blanks around a header's value. They do not belong to the value (RFC 9110, 5.5), but not
/// every platform removes them.
#[must_use]
pub fn trim(value: &str) -> &str {
    value.trim_matches(BLANKS)
}

/// Credentials: a scheme and its value. All spellings print in one form, with the scheme in lower case and one space.
///
/// # Example
///
/// ```
/// # use edge_limiter::credentials::Credentials;
/// let credentials = Credentials::read("BEARER  of.the.user ").unwrap();
/// assert!(credentials.have_scheme("Bearer"));
/// assert_eq!(credentials.value, "of.the.user");
/// assert_eq!(credentials.to_string(), "bearer of.the.user");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    scheme: &'a str,
    /// A token or parameters, without surrounding blanks, and never empty. It is neither decoded nor checked, because
    /// an operator's token may have characters that are not allowed in `token68`.
    pub value: &'a str,
}

impl<'a> Credentials<'a> {
    /// Parses a header's value. `None` if it is not a scheme followed by a value.
    ///
    /// # Design
    ///
    /// The header may contain one set of credentials. A platform joins several lines by commas, and parameters and
    /// tokens may contain commas too. So several lines are parsed as one scheme with a value that equals no
    /// token.
    #[must_use]
    pub fn read(header: &'a str) -> Option<Self> {
        let (scheme, value) = trim(header).split_once(BLANKS)?;
        // The text is trimmed at its end, so the value is not empty.
        let value = value.trim_start_matches(BLANKS);
        Some(Self { scheme, value })
    }

    /// Whether the credentials have this scheme, in any case (RFC 9110, 11.1).
    #[must_use]
    pub fn have_scheme(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }
}

impl fmt::Display for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.scheme.to_ascii_lowercase(), self.value)
    }
}

/// The token of a header's Bearer credentials (RFC 6750, 2.1).
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let credentials = Credentials::read(header).filter(|given| given.have_scheme("bearer"));
    credentials.map(|given| given.value)
}

/// The token of a header's Bearer credentials, or the password of its Basic credentials (RFC 7617) with any user name.
/// Some scrapers can only send Basic credentials.
#[must_use]
pub fn bearer_or_password(header: &str) -> Option<Cow<'_, str>> {
    if let Some(token) = bearer(header) {
        return Some(Cow::Borrowed(token));
    }
    let credentials = Credentials::read(header).filter(|given| given.have_scheme("basic"))?;
    if credentials.value.len() > MAX_BASIC_BYTES {
        return None;
    }
    let decoded = String::from_utf8(decode_basic(credentials.value)?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    (!password.is_empty()).then(|| Cow::Owned(password.to_owned()))
}

/// Decodes Basic credentials to the user name and the password, with a colon between them. `None` if they are not
/// Base64.
#[must_use]
pub fn decode_basic(encoded: &str) -> Option<Vec<u8>> {
    steps::count(encoded.len());
    BASIC.decode(encoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Credentials, bearer, bearer_or_password};

    #[test]
    fn a_scheme_in_any_case_and_any_blanks_are_the_same_credentials() {
        for header in [
            "Bearer a.b",
            "bearer a.b",
            "BEARER a.b",
            "bEaReR  a.b",
            "Bearer \t a.b",
            " Bearer a.b",
            "Bearer a.b ",
            "\tBearer a.b \t ",
        ] {
            assert_eq!(bearer(header), Some("a.b"), "{header:?}");
            let printed = Credentials::read(header).map(|given| given.to_string());
            assert_eq!(printed.as_deref(), Some("bearer a.b"), "{header:?}");
        }
    }

    #[test]
    fn a_password_is_accepted_in_place_of_a_token() {
        for (header, expected) in [
            ("Bearer a.b", Some("a.b")),
            // `prometheus:s3cret:with:colons`
            (
                "Basic cHJvbWV0aGV1czpzM2NyZXQ6d2l0aDpjb2xvbnM=",
                Some("s3cret:with:colons"),
            ),
            // `:a`
            ("basic  OmE= ", Some("a")),
            // `a:`, `a`, not Base64, and not UTF-8 (`a:` and a byte FF).
            ("Basic YTo=", None),
            ("Basic YQ==", None),
            ("Basic ?", None),
            ("Basic YTr/", None),
            ("Digest OmE=", None),
            ("OmE=", None),
        ] {
            assert_eq!(bearer_or_password(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn a_header_without_a_scheme_or_a_value_has_no_credentials() {
        for header in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            " bearer\t",
            "a.b",
            "Bearer\u{a0}a.b",
        ] {
            assert_eq!(Credentials::read(header), None, "{header:?}");
        }
        for header in ["Basic a.b", "Bearers a.b", "Bearer, a.b", "\"Bearer\" a.b"] {
            assert_eq!(bearer(header), None, "{header:?}");
            assert!(Credentials::read(header).is_some(), "{header:?}");
        }
    }

    #[test]
    fn several_lines_are_not_split_into_tokens() {
        for (joined, value) in [
            ("Bearer a, Bearer b", "a, Bearer b"),
            ("Bearer a, ", "a,"),
            ("Bearer a b", "a b"),
        ] {
            assert_eq!(bearer(joined), Some(value), "{joined}");
        }
        assert_eq!(bearer("Basic a, Bearer b"), None);
    }

    proptest! {
        #[test]
        fn printed_credentials_are_parsed_as_the_same(header in "[ \t]{0,2}[A-Za-z,]{0,8}[ \t]{0,3}[ -~]{0,20}") {
            if let Some(given) = Credentials::read(&header) {
                prop_assert!(!given.value.is_empty());
                let printed = given.to_string();
                let again = Credentials::read(&printed).map(|given| given.to_string());
                prop_assert_eq!(again, Some(printed));
            }
        }
    }
}
