//! A JWK Set (RFC 7517, 5): the document in which keys are published.

use serde_json::Value;

use super::key::{Key, Unusable};
use crate::json;

/// Only the first keys of a document are read, up to this many.
const MAX_KEYS: usize = 100;

/// The keys of a document, or what is wrong with each. `None`: the document is not a JWK Set.
#[must_use]
pub fn read(document: &Value) -> Option<Vec<Result<Key, Unusable>>> {
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().take(MAX_KEYS).map(Key::public).collect())
}

/// The usable keys of a published document. `None`: the document is not a JWK Set.
pub(super) fn published(text: &str) -> Option<Vec<Key>> {
    let keys = read(&json::value(text)?)?;
    Some(keys.into_iter().filter_map(Result::ok).collect())
}
