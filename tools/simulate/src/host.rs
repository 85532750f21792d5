//! The host of a simulated isolate, which has nothing but a clock.

use std::cell::Cell;

use edge_limiter::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use edge_limiter::error::KeySetError;
use edge_limiter::store::StoreError;
use edge_limiter::time::{Millis, Timestamp};

use crate::network::Micros;

/// A host whose clock the simulation sets.
pub(crate) struct SimulatedHost {
    now: Cell<Micros>,
    /// How far the clock is ahead of true time.
    ahead: Millis,
}

impl SimulatedHost {
    pub(crate) const fn new(ahead: Millis) -> Self {
        Self {
            now: Cell::new(0),
            ahead,
        }
    }

    /// Sets the true time.
    pub(crate) fn set(&self, at: Micros) {
        self.now.set(at);
    }
}

impl Effects for SimulatedHost {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.get() / 1000) + self.ahead
    }

    /// Nothing in the simulation depends on random numbers, because the limiter uses them only after failures.
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
