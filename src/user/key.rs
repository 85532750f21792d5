//! Keys that verify the signatures of tokens.

use serde_json::{Map, Value, json};

use super::algorithm::{RSA_MODULUS_BYTES, SignatureAlgorithm};
use super::base64url;
use super::token::Jwt;

/// A key that verifies signatures of one algorithm only. If a public key could serve as an HMAC secret,
/// anybody could sign.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey {
    /// The one algorithm whose signatures it verifies.
    pub algorithm: SignatureAlgorithm,
    id: Option<String>,
    material: String,
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.algorithm.name())
    }
}

/// Why a key in a document is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableKey {
    /// It is neither a public RSA key of 2048 to 8192 bits for RS256, nor a public key over P-256 for ES256.
    Unsupported,
    /// It contains its private part.
    Private,
}

impl JwtKey {
    /// An HMAC key: a secret that issuer and verifier share.
    #[must_use]
    pub fn secret(secret: &str) -> Self {
        Self {
            algorithm: SignatureAlgorithm::Hs256,
            id: None,
            material: secret.to_owned(),
        }
    }

    /// A public key, read from a JWK (RFC 7517).
    ///
    /// # Errors
    ///
    /// [`UnusableKey::Private`] if the JWK contains a private part, [`UnusableKey::Unsupported`] if it is
    /// no key that this limiter can use.
    pub fn public(jwk: &Value) -> Result<Self, UnusableKey> {
        let jwk = jwk.as_object().ok_or(UnusableKey::Unsupported)?;
        if ["d", "p", "q", "k"]
            .iter()
            .any(|part| jwk.contains_key(*part))
        {
            return Err(UnusableKey::Private);
        }
        Self::read(jwk).ok_or(UnusableKey::Unsupported)
    }

    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let part = |name: &str| {
            text(name)
                .and_then(base64url::decode)
                .map_or(0, |part| part.len())
        };
        // Only the members that verification needs are kept. Any other could make the import of the key fail.
        let (algorithm, material) = match text("kty")? {
            "RSA" if RSA_MODULUS_BYTES.contains(&part("n")) && (1..=8).contains(&part("e")) => (
                SignatureAlgorithm::Rs256,
                json!({"kty": "RSA", "n": text("n"), "e": text("e")}),
            ),
            "EC" if text("crv") == Some("P-256") && part("x") == 32 && part("y") == 32 => (
                SignatureAlgorithm::Es256,
                json!({"kty": "EC", "crv": "P-256", "x": text("x"), "y": text("y")}),
            ),
            _ => return None,
        };
        let is_for = text("use").is_none_or(|purpose| purpose == "sig")
            && text("alg").is_none_or(|named| named == algorithm.name());
        is_for.then(|| Self {
            algorithm,
            id: text("kid").map(str::to_owned),
            material: material.to_string(),
        })
    }

    /// The secret, or a JWK with only the members that verification needs.
    #[must_use]
    pub fn material(&self) -> &str {
        &self.material
    }

    /// Whether this key may have signed the token, by the algorithm and by the key's id if both have one.
    pub(super) fn may_have_signed(&self, token: &Jwt) -> bool {
        let ids = self.id.as_ref().zip(token.key_id.as_ref());
        self.algorithm == token.algorithm && ids.is_none_or(|(key, token)| key == token)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::{JwtKey, UnusableKey};

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn p256() -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": encode([7; 32]), "y": encode([8; 32])})
    }

    #[test]
    fn only_public_keys_of_a_supported_kind_are_accepted() {
        for (name, value) in [
            ("use", json!("sig")),
            ("alg", json!("ES256")),
            ("x5c", json!(["x"])),
        ] {
            let mut key = p256();
            key[name] = value;
            assert!(JwtKey::public(&key).is_ok());
        }
        for (name, value, why) in [
            ("use", json!("enc"), UnusableKey::Unsupported),
            ("alg", json!("RS256"), UnusableKey::Unsupported),
            ("alg", json!("HS256"), UnusableKey::Unsupported),
            ("crv", json!("P-384"), UnusableKey::Unsupported),
            ("x", json!("AQ"), UnusableKey::Unsupported),
            ("kty", json!("OKP"), UnusableKey::Unsupported),
            ("d", json!("AQ"), UnusableKey::Private),
            ("k", json!("AQ"), UnusableKey::Private),
        ] {
            let mut key = p256();
            key[name] = value;
            assert_eq!(JwtKey::public(&key), Err(why), "{name}");
        }
        for n in [encode([1; 255]), encode([1; 1025]), "=".repeat(400)] {
            assert!(JwtKey::public(&json!({"kty": "RSA", "n": n, "e": "AQAB"})).is_err());
        }
    }
}
