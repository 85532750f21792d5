//! Continuity between the shared store and this isolate's memory, both ways.

use std::rc::Rc;

use super::memory::Memory;
use super::{Check, Store, StoreError, Verdict};
use crate::time::Timestamp;

/// A store whose answers keep a memory current, so that the memory can stand in for it from where it
/// stopped; and which is told, with the next decision about a caller, what the memory admitted in
/// its place.
pub struct Mirror<S> {
    inner: S,
    memory: Rc<Memory>,
}

impl<S> Mirror<S> {
    /// `memory` is the one that stands in for `inner`.
    pub const fn new(inner: S, memory: Rc<Memory>) -> Self {
        Self { inner, memory }
    }
}

impl<S: Store> Store for Mirror<S> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let with_owed = self.memory.with_owed(check);
        let check = with_owed.as_ref().unwrap_or(check);
        let verdict = self.inner.decide(check, now).await?;
        self.memory.learn(check, &verdict, now);
        Ok(verdict)
    }
}
