//! Base64url, as JSON Web Tokens and keys use it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The bytes of `text`, which must be strictly base64url without padding (RFC 7515, 2).
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
