//! Reads a JWK Set (RFC 7517, 5), the document in which an identity provider publishes its keys.

use serde_json::Value;

use super::key::{JwtKey, UnusableKey};
use crate::error::KeySetError;
use crate::json;

/// The most keys of a document that are read. Later ones are ignored.
const MAX_KEYS: usize = 100;

/// The keys of a document, and for each unusable key the reason. `None` if the document is not a JWK Set.
#[must_use]
pub fn read(document: &Value) -> Option<Vec<Result<JwtKey, UnusableKey>>> {
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().take(MAX_KEYS).map(JwtKey::public).collect())
}

/// The usable keys of a published document.
///
/// A byte order mark is ignored. A parser may do so (RFC 8259, 8.1), and decoders of text on the web do. A
/// single JWK is not a set, because a set must have an array `keys` (RFC 7517, 5). Its URL is probably not the
/// one that was meant.
///
/// # Errors
///
/// [`KeySetError::NotJson`] if the text is not JSON, and [`KeySetError::NotASet`] if it is not a JWK Set.
pub(super) fn published(text: &str) -> Result<Vec<JwtKey>, KeySetError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = json::value(text).ok_or(KeySetError::NotJson)?;
    let keys = read(&document).ok_or(KeySetError::NotASet)?;
    Ok(keys.into_iter().filter_map(Result::ok).collect())
}
