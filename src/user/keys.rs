//! Keys that tokens are signed with, and when an identity provider's are fetched.

use serde_json::{Map, Value, json};

use super::token::{Token, bytes};
use crate::time::{Millis, Timestamp};

/// Keys of one document that are looked at.
const MOST: usize = 100;

/// Bits of an RSA modulus, at least and at most.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How long fetched keys are used before they are fetched anew, in the background.
const FRESH: Millis = Millis::from_secs(600);

/// How often a token whose key is not known may have them fetched.
const NEWS: Millis = Millis::from_secs(60);

/// How long others keep from fetching while one does: longer than a fetch can take.
const UNDER_WAY: Millis = Millis::from_secs(5);

/// How long nobody fetches after a failure, doubling up to the longest.
const AFTER_FAILURE: Millis = Millis::from_secs(10);
const LONGEST_WAIT: Millis = Millis::from_secs(320);

/// How a token is signed. Others are not supported, `none` least of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256, by a secret that both sides have.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// By the name that RFC 7518 gives it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
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

    /// Whether its signatures can have so many bytes.
    pub(super) fn may_sign(self, length: usize) -> bool {
        match self {
            Self::Hs256 => length == 32,
            Self::Rs256 => RSA_BYTES.contains(&length),
            Self::Es256 => length == 64,
        }
    }
}

/// A key. It verifies what its own algorithm signs and nothing else: a public key is no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is for.
    pub algorithm: Algorithm,
    id: Option<String>,
    material: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.algorithm.name())
    }
}

/// Why a key of a document is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not a public RSA key of 2048 to 8192 bits or one over P-256, to verify RS256 or ES256.
    Unsupported,
    /// Its private part is in it.
    Private,
}

impl Key {
    /// The key that `secret` is.
    #[must_use]
    pub fn secret(secret: &str) -> Self {
        Self {
            algorithm: Algorithm::Hs256,
            id: None,
            material: secret.to_owned(),
        }
    }

    /// A public key, as RFC 7517 writes it.
    ///
    /// # Errors
    ///
    /// [`Unusable`] says why it is none.
    pub fn public(jwk: &Value) -> Result<Self, Unusable> {
        let jwk = jwk.as_object().ok_or(Unusable::Unsupported)?;
        if ["d", "p", "q", "k"]
            .iter()
            .any(|part| jwk.contains_key(*part))
        {
            return Err(Unusable::Private);
        }
        Self::read(jwk).ok_or(Unusable::Unsupported)
    }

    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let part = |name: &str| text(name).and_then(bytes).map_or(0, |part| part.len());
        // Only what matters, so that nothing else in it can keep it from being imported.
        let (algorithm, material) = match text("kty")? {
            "RSA" if RSA_BYTES.contains(&part("n")) && (1..=8).contains(&part("e")) => (
                Algorithm::Rs256,
                json!({"kty": "RSA", "n": text("n"), "e": text("e")}),
            ),
            "EC" if text("crv") == Some("P-256") && part("x") == 32 && part("y") == 32 => (
                Algorithm::Es256,
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

    /// The secret, or a JWK with the parts that matter, for the one who verifies.
    #[must_use]
    pub fn material(&self) -> &str {
        &self.material
    }

    /// Whether the token may be signed with it.
    pub(super) fn fits(&self, token: &Token) -> bool {
        let named = self.id.as_ref().zip(token.key_id.as_ref());
        self.algorithm == token.algorithm && named.is_none_or(|(mine, theirs)| mine == theirs)
    }
}

/// The keys of a document (a JWK Set), or what is wrong with each. `None`: it is no such document.
#[must_use]
pub fn read_set(document: &Value) -> Option<Vec<Result<Key, Unusable>>> {
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().take(MOST).map(Key::public).collect())
}

/// The usable keys of a published document. `None`: it is none.
pub(super) fn published(text: &str) -> Option<Vec<Key>> {
    let keys = read_set(&serde_json::from_str(text).ok()?)?;
    Some(keys.into_iter().filter_map(Result::ok).collect())
}

/// When the provider's document is fetched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fetching {
    fetched: Option<Timestamp>,
    /// Nobody fetches before.
    next: Timestamp,
    failures: u32,
}

impl Fetching {
    /// Whether there are keys, and they are old.
    pub(super) fn is_old(self, now: Timestamp) -> bool {
        self.fetched.is_some_and(|at| is_past(at, FRESH, now))
    }

    /// Whether a key that is not known may have been published.
    pub(super) fn may_be_news(self, now: Timestamp) -> bool {
        self.fetched.is_none_or(|at| is_past(at, NEWS, now))
    }

    /// Whether the one who asks is to fetch.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        // A clock that has stepped back would have nobody fetch for as long.
        let free = self.next <= now || self.next > now + LONGEST_WAIT;
        if free {
            self.next = now + UNDER_WAY;
        }
        free
    }

    pub(super) fn end(&mut self, well: bool, now: Timestamp) {
        if well {
            (self.fetched, self.next, self.failures) = (Some(now), now, 0);
        } else {
            let wait = AFTER_FAILURE.get() << self.failures.min(5);
            self.next = now + Millis::new(wait.min(LONGEST_WAIT.get()));
            self.failures += 1;
        }
    }
}

/// Whether so much time has passed since `at`, be the clock set back.
fn is_past(at: Timestamp, time: Millis, now: Timestamp) -> bool {
    now >= at + time || at > now + time
}
