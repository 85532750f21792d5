//! Effects for tests: a clock that tests set, calls that tests answer, and a record of all calls.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

/// A host that a test controls. Clones are the same host.
#[derive(Clone, Default)]
pub(crate) struct TestEffects(Rc<ManualState>);

#[derive(Default)]
struct ManualState {
    /// The time since [`START`], in ms.
    elapsed: Cell<u64>,
    /// How long each call of Redis takes, in ms.
    latency: Cell<u64>,
    random: Cell<u32>,
    replies: RefCell<VecDeque<Result<RedisResponse, StoreError>>>,
    calls: RefCell<Vec<(String, Millis)>>,
    key_set: RefCell<Option<Result<String, KeySetError>>>,
    slept: RefCell<Vec<Millis>>,
    lines: RefCell<Vec<String>>,
    outlives: Cell<bool>,
}

impl TestEffects {
    /// Sets the clock to `ms` milliseconds after [`START`].
    pub(crate) fn set(&self, ms: u64) {
        self.0.elapsed.set(ms);
    }

    /// Lets each call of Redis take `ms` milliseconds from now on.
    pub(crate) fn set_latency(&self, ms: u64) {
        self.0.latency.set(ms);
    }

    /// Sets what [`Effects::random`] returns from now on.
    pub(crate) fn set_random(&self, random: u32) {
        self.0.random.set(random);
    }

    /// Queues the answer to the next call of Redis that has no answer queued yet.
    pub(crate) fn reply(&self, reply: Result<RedisResponse, StoreError>) {
        self.0.replies.borrow_mut().push_back(reply);
    }

    /// Removes the queued answers that no call has used.
    pub(crate) fn take_replies(&self) -> VecDeque<Result<RedisResponse, StoreError>> {
        self.0.replies.take()
    }

    /// Sets the key set that the provider publishes from now on.
    pub(crate) fn publish(&self, key_set: Result<String, KeySetError>) {
        *self.0.key_set.borrow_mut() = Some(key_set);
    }

    /// Returns and clears the calls of Redis, each with its timeout.
    pub(crate) fn calls(&self) -> Vec<(String, Millis)> {
        self.0.calls.take()
    }

    /// Returns and clears the lengths of the sleeps.
    pub(crate) fn slept(&self) -> Vec<Millis> {
        self.0.slept.take()
    }

    /// Returns and clears whether a task asked to outlive its client.
    pub(crate) fn outlived(&self) -> bool {
        self.0.outlives.take()
    }

    /// Returns and clears the log lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lines.take()
    }
}

impl Effects for TestEffects {
    fn now(&self) -> Timestamp {
        START + Millis::new(self.0.elapsed.get())
    }

    fn random(&self) -> u32 {
        self.0.random.get()
    }

    fn log(&self, _: LogLevel, line: &str) {
        self.0.lines.borrow_mut().push(line.to_owned());
    }

    fn outlive_client(&self) {
        self.0.outlives.set(true);
    }

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        self.0.calls.borrow_mut().push((body, timeout));
        let latency = self.0.latency.get();
        self.0.elapsed.set(self.0.elapsed.get() + latency);
        let reply = self.0.replies.borrow_mut().pop_front();
        reply.unwrap_or(Err(StoreError::Unreachable))
    }

    async fn sleep(&self, length: Millis) {
        self.0.slept.borrow_mut().push(length);
        self.0.elapsed.set(self.0.elapsed.get() + length.get());
    }

    /// A signature is valid if it equals the key's material.
    async fn verify(&self, key: VerificationKey<'_>, _: &str, signature: &[u8]) -> bool {
        signature == key.material.as_bytes()
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        let published = self.0.key_set.borrow().clone();
        published.unwrap_or(Err(KeySetError::Unreachable))
    }
}
