//! A JWK Set (RFC 7517, 5): the document in which keys are published.

use serde_json::Value;

use super::key::{JwtKey, UnusableKey};
use crate::error::KeySetError;
use crate::json;

/// Only the first keys of a document are read, up to this many.
const MAX_KEYS: usize = 100;

/// The keys of a document, or what is wrong with each. `None`: the document is not a JWK Set.
#[must_use]
pub fn read(document: &Value) -> Option<Vec<Result<JwtKey, UnusableKey>>> {
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().take(MAX_KEYS).map(JwtKey::public).collect())
}

/// The usable keys of a published document.
///
/// A byte order mark is ignored, as a parser may do (RFC 8259, 8.1) and what decodes text for the web does. A
/// single JWK is no set, whose array `keys` has to be there (RFC 7517, 5): the URL is likely another one than meant.
///
/// # Errors
///
/// [`KeySetError::NotJson`] and [`KeySetError::NotASet`].
pub(super) fn published(text: &str) -> Result<Vec<JwtKey>, KeySetError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = json::value(text).ok_or(KeySetError::NotJson)?;
    let keys = read(&document).ok_or(KeySetError::NotASet)?;
    Ok(keys.into_iter().filter_map(Result::ok).collect())
}
