//! What an isolate of the simulation has of its host: a clock.

use std::cell::Cell;

use edge_limiter::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use edge_limiter::error::KeySetError;
use edge_limiter::store::StoreError;
use edge_limiter::time::{Millis, Timestamp};

use crate::network::Micros;

/// A host whose clock the world sets, and on which nothing fails.
pub(crate) struct SimulatedHost {
    now: Cell<Micros>,
    /// How far its clock is ahead of true time.
    ahead: Millis,
}

impl SimulatedHost {
    pub(crate) const fn new(ahead: Millis) -> Self {
        Self {
            now: Cell::new(0),
            ahead,
        }
    }

    /// True time is `at` from now on.
    pub(crate) fn set(&self, at: Micros) {
        self.now.set(at);
    }
}

impl Effects for SimulatedHost {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.get() / 1000) + self.ahead
    }

    /// Only what follows a failure depends on it.
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
