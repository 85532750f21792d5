//! What the library cannot do without a host: one small trait.
//!
//! Everything else, the composition of the stores included, is library code. A host implements this
//! once; wrappers that need a clock, chance or a connection hold a clone of it.

use std::rc::Rc;

use crate::error::{KeySetError, StoreError};
use crate::time::{Millis, Timestamp};

/// An HTTP answer of the Redis that is spoken to over REST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisResponse {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

/// A key that signatures are verified with.
#[derive(Clone, Copy)]
pub struct VerificationKey<'a> {
    /// As RFC 7518 names it: `HS256`, `RS256` or `ES256`.
    pub algorithm: &'static str,
    /// The secret of an HMAC, or a public key as a JWK (RFC 7517).
    pub material: &'a str,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something that an operator may want to know.
    Info,
    /// Something that limits what the limiter promises, until it passes.
    Warn,
    /// Something that an operator has to mend.
    Error,
}

/// What a host does for the limiter.
///
/// Each of the asynchronous ones is awaited alone: nothing in the library joins or selects, so a host
/// may serve one effect at a time for each task ([`crate::tasks`]).
#[allow(async_fn_in_trait)]
pub trait Effects {
    /// The time now. Deployed Workers advance it only after I/O.
    fn now(&self) -> Timestamp;

    /// Any `u32`, each as likely as the others: for jitter, not for secrets.
    fn random(&self) -> u32;

    /// Writes a line to the host's log. It never holds a secret.
    fn log(&self, level: LogLevel, line: &str);

    /// Posts `body`, one command as JSON, once to the configured REST URL with its token, following no redirect. An answer,
    /// body included, that takes longer than `timeout` is abandoned and its connection aborted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] or [`StoreError::Unreachable`].
    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError>;

    /// The task that runs does something on behalf of others: from here on the host runs it to its end, even if the
    /// client of its request disconnects. Only a host that drops a disconnected client's task implements this.
    fn outlive_client(&self) {}

    /// Waits.
    async fn sleep(&self, length: Millis);

    /// Whether `signature` is that of `key` over `signed`.
    async fn verify(&self, key: VerificationKey<'_>, signed: &str, signature: &[u8]) -> bool;

    /// The text at `url`, an identity provider's key set, read no further than 64 KiB. No redirect is followed.
    ///
    /// # Errors
    ///
    /// [`KeySetError`], but those of what the text says.
    async fn fetch_key_set(&self, url: &str) -> Result<String, KeySetError>;
}

impl<E: Effects> Effects for Rc<E> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn random(&self) -> u32 {
        (**self).random()
    }

    fn log(&self, level: LogLevel, line: &str) {
        (**self).log(level, line);
    }

    fn outlive_client(&self) {
        (**self).outlive_client();
    }

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        (**self).call_redis(body, timeout).await
    }

    async fn sleep(&self, length: Millis) {
        (**self).sleep(length).await;
    }

    async fn verify(&self, key: VerificationKey<'_>, signed: &str, signature: &[u8]) -> bool {
        (**self).verify(key, signed, signature).await
    }

    async fn fetch_key_set(&self, url: &str) -> Result<String, KeySetError> {
        (**self).fetch_key_set(url).await
    }
}

/// A host whose clock stands at that time and that reaches nobody: for benches and fuzz targets.
#[derive(Clone, Copy, Debug)]
pub struct OfflineEffects(pub Timestamp);

impl Effects for OfflineEffects {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, _: &str) {}

    async fn call_redis(&self, _: String, _: Millis) -> Result<RedisResponse, StoreError> {
        Err(StoreError::Unreachable)
    }

    async fn sleep(&self, _: Millis) {}

    async fn verify(&self, _: VerificationKey<'_>, _: &str, _: &[u8]) -> bool {
        false
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        Err(KeySetError::Unreachable)
    }
}

#[cfg(test)]
pub(crate) mod testing;
