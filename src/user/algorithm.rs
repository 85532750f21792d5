//! The signature algorithms that a token may use.

/// The lengths of an RSA modulus that are accepted, in bytes: 2048 to 8192 bits.
pub(super) const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed. No other algorithm is supported. `none` in particular is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// HMAC with SHA-256, with a secret that issuer and verifier share.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
}

impl SignatureAlgorithm {
    /// The algorithm that RFC 7518 gives this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }

    /// The name that RFC 7518 gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }

    /// Whether a signature by this algorithm can be `length` bytes long.
    pub(super) fn may_sign(self, length: usize) -> bool {
        match self {
            Self::Hs256 => length == 32,
            Self::Rs256 => RSA_MODULUS_BYTES.contains(&length),
            Self::Es256 => length == 64,
        }
    }
}
