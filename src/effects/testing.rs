//! Effects for tests: a clock that tests set, calls that tests answer, and a record of what was asked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

/// A host in a test's hands. Clones are the same host.
#[derive(Clone, Default)]
pub(crate) struct Manual(Rc<State>);

#[derive(Default)]
struct State {
    /// After [`START`].
    passed: Cell<u64>,
    latency: Cell<u64>,
    chance: Cell<u32>,
    replies: RefCell<VecDeque<Result<RedisResponse, StoreError>>>,
    calls: RefCell<Vec<(String, Millis)>>,
    key_set: RefCell<Option<Result<String, KeySetError>>>,
    slept: RefCell<Vec<Millis>>,
    lines: RefCell<Vec<String>>,
    outlives: Cell<bool>,
}

impl Manual {
    /// Sets the clock to so many ms after [`START`].
    pub(crate) fn set(&self, ms: u64) {
        self.0.passed.set(ms);
    }

    /// Lets each call of Redis take so many ms from now on.
    pub(crate) fn set_latency(&self, ms: u64) {
        self.0.latency.set(ms);
    }

    /// Lets [`Effects::random`] return this from now on.
    pub(crate) fn set_random(&self, random: u32) {
        self.0.chance.set(random);
    }

    /// The answer to the next call of Redis that has none yet.
    pub(crate) fn reply(&self, reply: Result<RedisResponse, StoreError>) {
        self.0.replies.borrow_mut().push_back(reply);
    }

    /// The answers that no call has taken.
    pub(crate) fn take_replies(&self) -> VecDeque<Result<RedisResponse, StoreError>> {
        self.0.replies.take()
    }

    /// What a provider publishes from now on.
    pub(crate) fn publish(&self, key_set: Result<String, KeySetError>) {
        *self.0.key_set.borrow_mut() = Some(key_set);
    }

    /// The calls of Redis since this was last asked.
    pub(crate) fn calls(&self) -> Vec<(String, Millis)> {
        self.0.calls.take()
    }

    /// The waits since this was last asked.
    pub(crate) fn slept(&self) -> Vec<Millis> {
        self.0.slept.take()
    }

    /// Whether a task was to outlive its client since this was last asked.
    pub(crate) fn outlived(&self) -> bool {
        self.0.outlives.take()
    }

    /// The log lines since this was last asked.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lines.take()
    }
}

impl Effects for Manual {
    fn now(&self) -> Timestamp {
        START + Millis::new(self.0.passed.get())
    }

    fn random(&self) -> u32 {
        self.0.chance.get()
    }

    fn log(&self, _: LogLevel, line: &str) {
        self.0.lines.borrow_mut().push(line.to_owned());
    }

    fn outlive_client(&self) {
        self.0.outlives.set(true);
    }

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        self.0.calls.borrow_mut().push((body, timeout));
        let took = self.0.latency.get();
        self.0.passed.set(self.0.passed.get() + took);
        let reply = self.0.replies.borrow_mut().pop_front();
        reply.unwrap_or(Err(StoreError::Unreachable))
    }

    async fn sleep(&self, length: Millis) {
        self.0.slept.borrow_mut().push(length);
        self.0.passed.set(self.0.passed.get() + length.get());
    }

    /// A signature is its key's material, byte for byte.
    async fn verify(&self, key: VerificationKey<'_>, _: &str, signature: &[u8]) -> bool {
        signature == key.material.as_bytes()
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        let published = self.0.key_set.borrow().clone();
        published.unwrap_or(Err(KeySetError::Unreachable))
    }
}
