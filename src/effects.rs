//! The effects that only a host can perform, as one small trait: time, randomness, the log, calls of Redis, sleep,
//! signatures and key sets.
//!
//! Everything else is library code, including the composition of the stores. A host implements the trait once. Wrappers
//! that need a clock, randomness or a connection own a clone of it.

use std::rc::Rc;

use crate::error::{KeySetError, StoreError};
use crate::time::{Millis, Timestamp};

/// A response of Redis in the form of Upstash's REST API. A host may use another transport, and then gives its answers
/// this form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisResponse {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

/// A key with which signatures are verified.
#[derive(Clone, Copy)]
pub struct VerificationKey<'a> {
    /// The algorithm's name in RFC 7518: `HS256`, `RS256` or `ES256`.
    pub algorithm: &'static str,
    /// The secret of an HMAC, or a public key as a JWK (RFC 7517).
    pub material: &'a str,
}

/// The severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something that an operator may want to know.
    Info,
    /// Some of the limiter's guarantees do not hold for a time.
    Warn,
    /// Something that an operator has to correct.
    Error,
}

/// What a host does for the limiter.
///
/// Each asynchronous method is awaited alone: nothing in the library joins or selects futures. So a host may serve one
/// effect at a time for each task ([`crate::tasks`]).
#[allow(async_fn_in_trait)]
pub trait Effects {
    /// The current time. In deployed Workers it advances only after I/O.
    fn now(&self) -> Timestamp;

    /// A random `u32`, evenly distributed. It is used for jitter, never for secrets.
    fn random(&self) -> u32;

    /// Writes a line to the host's log. The line never contains a secret.
    fn log(&self, level: LogLevel, line: &str);

    /// Sends `body`, one command as a JSON array, once to the configured Redis. The host may use any transport: REST, TCP or
    /// the application's own client. If the whole answer takes longer than `timeout`, the host abandons it. Over REST it
    /// follows no redirect, and aborts the connection of an abandoned call.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if the answer takes too long, and [`StoreError::Unreachable`] if there is no connection or
    /// it breaks.
    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError>;

    /// Asks the host to run the current task to its end, even if the client of its request disconnects, because the task
    /// now works for other requests too. Only a host that drops a disconnected client's task implements this.
    fn outlive_client(&self) {}

    /// Waits for `length`.
    async fn sleep(&self, length: Millis);

    /// Whether `signature` is the signature of `signed` by `key`.
    async fn verify(&self, key: VerificationKey<'_>, signed: &str, signature: &[u8]) -> bool;

    /// Fetches an identity provider's key set from `url`. It reads no more than 64 KiB and follows no redirect.
    ///
    /// # Errors
    ///
    /// [`KeySetError`], except the variants about the content: [`NotJson`](KeySetError::NotJson),
    /// [`NotASet`](KeySetError::NotASet) and [`NoUsableKey`](KeySetError::NoUsableKey).
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

/// A host for benches and fuzz targets: its clock stands still at that time, and it reaches no server.
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
