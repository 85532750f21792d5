//! Variables as the platform hands them: text, numbers, booleans, and tables as objects or JSON text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::Problems;
use crate::json::{self, UNUSABLE};

/// The environment's plain variables and secrets, by name. Bindings are left out.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vars(BTreeMap<String, Value>);

/// The names alone.
impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, Value)> for Vars {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(vars: I) -> Self {
        // One by one: `collect` sorts first, by code that nothing else here needs.
        let mut map = BTreeMap::new();
        map.extend(vars);
        Self(map)
    }
}

impl Vars {
    /// Reads one JSON object of variables. One that has a name twice is an error of the variable, as a value
    /// that cannot be taken.
    ///
    /// # Errors
    ///
    /// When `json` is not an object.
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

    /// A variable of text, trimmed; an empty one counts as unset, as in a shell. Another type is
    /// [`UNUSABLE`], never its JSON text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        text(self.get(name)?)
    }

    /// The text of a variable that is a number or a flag, which TOML has types for.
    fn scalar(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            plain @ (Value::Number(_) | Value::Bool(_)) => Some(plain.to_string()),
            other => text(other),
        }
    }

    /// A list of texts, trimmed: a list, its JSON text, or a text in which `separator` stands between
    /// them. An entry of another type is [`UNUSABLE`]. `Err`: none of these.
    pub(super) fn list(
        &self,
        name: &str,
        separator: Option<char>,
        problems: &mut Problems,
    ) -> Option<Result<Vec<String>, ()>> {
        match self.get(name)? {
            Value::String(given) if !given.trim_start().starts_with('[') => {
                let given = text(&Value::String(given.clone()))?;
                let parts = given.split(|letter| Some(letter) == separator);
                Some(Ok(parts.map(|part| part.trim().to_owned()).collect()))
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

    /// `true` or `false`; anything else is a problem and means `default`.
    pub(super) fn flag(&self, name: &str, default: bool, problems: &mut Problems) -> bool {
        match self.scalar(name).as_deref() {
            None => default,
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if text.eq_ignore_ascii_case("false") => false,
            Some(_) => {
                problems.error(
                    name,
                    format!("must be `true` or `false`; `{default}` is in force"),
                );
                default
            }
        }
    }

    /// A whole number in `range`; `default` where it is unset; anything else is a problem and means
    /// `strict`.
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
                let (least, most) = range.into_inner();
                problems.error(
                    name,
                    format!("must be a whole number of {unit} from {least} to {most}; {strict} is in force"),
                );
                strict
            }
        }
    }

    /// A table: an object or array, or the JSON text of one, in which a name that stands twice is a
    /// problem and its value [`UNUSABLE`]. `Err`: neither.
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
                "has a name twice in one table; nothing that it is given for is in use, and the stricter \
                 reading is in force",
            );
        }
        Some(Ok(parsed.value))
    }

    /// A decimal number with at most three decimals, in thousandths. `None`: it is unset. `Err`: it is none.
    pub(super) fn thousandths(&self, name: &str) -> Option<Result<u32, ()>> {
        Some(thousandths(&self.scalar(name)?).ok_or(()))
    }
}

/// A whole number without sign, space or leading plus.
pub(super) fn whole(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A text, trimmed; `None` if it is empty.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str().unwrap_or(UNUSABLE).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A decimal number with at most three decimals, in thousandths.
pub(crate) fn thousandths(text: &str) -> Option<u32> {
    let (units, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let places = u32::try_from(decimals.len())
        .ok()
        .filter(|places| *places <= 3)?;
    let decimals = whole(decimals)? * 10_u32.pow(3 - places);
    whole(units)?.checked_mul(1000)?.checked_add(decimals)
}

/// A whole number in JSON, as a number or as text.
pub(super) fn whole_value(value: &Value) -> Option<u32> {
    match value {
        Value::String(text) => whole(text.trim()),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    }
}

/// What matters of an absolute `http` or `https` URL.
pub(super) struct HttpUrl {
    /// As URL parsers write it: `https:a.io\b` is `https://a.io/b`.
    pub(super) text: String,
    /// `http`, not `https`.
    pub(super) plain: bool,
    /// To this machine.
    pub(super) loopback: bool,
    pub(super) has_credentials: bool,
    pub(super) has_query: bool,
}

pub(super) fn http_url(text: &str) -> Option<HttpUrl> {
    let url = reqwest::Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = url.host_str()?;
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    Some(HttpUrl {
        plain: url.scheme() == "http",
        loopback: host == "localhost" || address.is_ok_and(|address| address.is_loopback()),
        has_credentials: !url.username().is_empty() || url.password().is_some(),
        has_query: url.query().is_some() || url.fragment().is_some(),
        text: url.into(),
    })
}

/// Whether an HTTP header can carry it as a token.
pub(super) fn fits_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether it is an HTTP field name (RFC 9110, token).
pub(super) fn is_header_name(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(tchar)
}
