//! Environment variables as the platform passes them: text, numbers, booleans, and tables as objects or JSON text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::Problems;
use crate::json::{self, UNUSABLE};

/// Environment variables and secrets by name, without bindings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vars(BTreeMap<String, Value>);

/// Shows the names only, since values can be secrets.
impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, Value)> for Vars {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(vars: I) -> Self {
        // Inserts one by one: `collect` sorts first, and that code would only add to the size of the module.
        let mut map = BTreeMap::new();
        map.extend(vars);
        Self(map)
    }
}

impl Vars {
    /// Reads variables from one JSON object. A variable that the object has twice gets a value that no reader accepts,
    /// so that it becomes an error of the configuration.
    ///
    /// # Errors
    ///
    /// If `json` is not a JSON object.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        match json::parse(json)?.value {
            Value::Object(vars) => Ok(Self::from_iter(vars)),
            _ => Err(serde::de::Error::custom("not an object")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// What follows `prefix` in the names that start with it.
    pub(super) fn names_after<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .keys()
            .filter_map(move |name| name.strip_prefix(prefix))
    }

    /// The trimmed text of a variable. An empty text counts as unset, as in a shell. A value of another type is read as
    /// [`UNUSABLE`], never as its JSON text, so that no number or list can become a secret.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        text(self.get(name)?)
    }

    /// The text of a variable that holds a number or a flag. TOML may pass these with their own types.
    fn scalar(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            scalar @ (Value::Number(_) | Value::Bool(_)) => Some(scalar.to_string()),
            other => text(other),
        }
    }

    /// A list of trimmed texts. The variable may be a list, the JSON text of one, or a text whose entries are separated by
    /// `separator`. An entry of another type is read as [`UNUSABLE`]. `Err` if the variable is none of these.
    pub(super) fn list(
        &self,
        name: &str,
        separator: Option<char>,
        problems: &mut Problems,
    ) -> Option<Result<Vec<String>, ()>> {
        match self.get(name)? {
            Value::String(list) if !list.trim_start().starts_with('[') => {
                let list = text(&Value::String(list.clone()))?;
                let entries = list.split(|letter| Some(letter) == separator);
                Some(Ok(entries.map(|entry| entry.trim().to_owned()).collect()))
            }
            _ => Some(match self.table(name, problems)? {
                Ok(Value::Array(list)) => Ok(list
                    .iter()
                    .map(|entry| text(entry).unwrap_or_default())
                    .collect()),
                _ => Err(()),
            }),
        }
    }

    /// A variable that is `true` or `false`. Another value is a problem and means `default`.
    pub(super) fn flag(&self, name: &str, default: bool, problems: &mut Problems) -> bool {
        match self.scalar(name).as_deref() {
            None => default,
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if text.eq_ignore_ascii_case("false") => false,
            Some(_) => {
                problems.error(
                    name,
                    format!("must be `true` or `false`; until then, `{default}` is in force"),
                );
                default
            }
        }
    }

    /// A whole number in `range`, or `default` if the variable is unset. Another value is a problem and means `strict`.
    /// `unit` says in the problem what the number counts.
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<u32>,
        [default, strict]: [u32; 2],
        unit: &str,
        problems: &mut Problems,
    ) -> u32 {
        let Some(text) = self.scalar(name) else {
            return default;
        };
        match whole(&text).filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let (min, max) = range.into_inner();
                problems.error(
                    name,
                    format!("must be a whole number from {min} to {max} ({unit}); until then, {strict} is in force"),
                );
                strict
            }
        }
    }

    /// A table or a list, as such or as JSON text. A name that a table in JSON text has twice is a problem, and its
    /// value is read as [`UNUSABLE`]. `Err` if a text is not JSON.
    pub(super) fn table(&self, name: &str, problems: &mut Problems) -> Option<Result<Value, ()>> {
        let text = match self.get(name)? {
            Value::String(text) if text.trim().is_empty() => return None,
            Value::String(text) => text,
            other => return Some(Ok(other.clone())),
        };
        let Ok(parsed) = json::parse(text) else {
            return Some(Err(()));
        };
        if parsed.has_duplicates {
            problems.error(
                name,
                "has a name twice in one table; until you remove one, neither value is used, and the stricter \
                 reading is in force",
            );
        }
        Some(Ok(parsed.value))
    }

    /// A decimal number with at most three decimals, in thousandths. `None` if the variable is unset, `Err` if it is
    /// anything else.
    pub(super) fn thousandths(&self, name: &str) -> Option<Result<u32, ()>> {
        Some(thousandths(&self.scalar(name)?).ok_or(()))
    }
}

/// Reads a whole number that consists of digits only, without a sign or spaces.
pub(super) fn whole(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The trimmed text of a value, [`UNUSABLE`] for another type. `None` if the text is empty.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str().unwrap_or(UNUSABLE).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads a decimal number with at most three decimals, in thousandths.
pub(crate) fn thousandths(text: &str) -> Option<u32> {
    let (units, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let places = u32::try_from(decimals.len())
        .ok()
        .filter(|places| *places <= 3)?;
    let decimals = whole(decimals)? * 10_u32.pow(3 - places);
    whole(units)?.checked_mul(1000)?.checked_add(decimals)
}

/// Reads a whole number from JSON, where it may be a number or text.
pub(super) fn whole_value(value: &Value) -> Option<u32> {
    match value {
        Value::String(text) => whole(text.trim()),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    }
}

/// An absolute `http` or `https` URL.
pub(super) struct HttpUrl {
    /// The URL as parsers normalize it: `https:a.io\b` becomes `https://a.io/b`.
    pub(super) text: String,
    /// Whether the scheme is `http`, without TLS.
    pub(super) is_plaintext: bool,
    /// Whether the host is this machine.
    pub(super) is_loopback: bool,
    /// Whether the URL has a user or a password.
    pub(super) has_credentials: bool,
    /// Whether the URL has a query or a fragment.
    pub(super) has_query: bool,
}

/// Parses an absolute `http` or `https` URL.
pub(super) fn http_url(text: &str) -> Option<HttpUrl> {
    let url = reqwest::Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = url.host_str()?;
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    Some(HttpUrl {
        is_plaintext: url.scheme() == "http",
        is_loopback: host == "localhost" || address.is_ok_and(|address| address.is_loopback()),
        has_credentials: !url.username().is_empty() || url.password().is_some(),
        has_query: url.query().is_some() || url.fragment().is_some(),
        text: url.into(),
    })
}

/// Whether an HTTP header can carry the text: it is not empty, and has visible ASCII characters only.
pub(super) fn fits_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the text is the name of an HTTP header (RFC 9110, `token`) of at most 64 bytes.
pub(super) fn is_header_name(text: &str) -> bool {
    // `tchar` is RFC 9110's name for a character of a token.
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(tchar)
}
