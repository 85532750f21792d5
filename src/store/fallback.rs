//! Another store for the requests that the first one fails to decide.

use std::cell::Cell;

use super::{Check, Store, StoreError, Verdict};
use crate::time::Timestamp;

/// Asks `first`; what it fails to decide, `second` does.
pub struct Fallback<A, B> {
    first: A,
    second: B,
    on_change: fn(Change<'_>),
    failing_since: Cell<Option<Timestamp>>,
}

/// The first store began to fail, or answers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It failed, having answered before.
    Failed(&'a StoreError),
    /// It answered, having failed before.
    Recovered,
}

impl<A, B> Fallback<A, B> {
    /// `on_change` is told when `first` begins to fail and when it answers again, not each failure.
    #[must_use]
    pub const fn new(first: A, second: B, on_change: fn(Change<'_>)) -> Self {
        Self {
            first,
            second,
            on_change,
            failing_since: Cell::new(None),
        }
    }

    /// Since when the first store fails; `None` while it answers.
    #[must_use]
    pub const fn failing_since(&self) -> Option<Timestamp> {
        self.failing_since.get()
    }
}

impl<A: Store, B: Store> Store for Fallback<A, B> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        match self.first.decide(check, now).await {
            Ok(verdict) => {
                if self.failing_since.take().is_some() {
                    (self.on_change)(Change::Recovered);
                }
                Ok(verdict)
            }
            Err(error) => {
                if self.failing_since.get().is_none() {
                    self.failing_since.set(Some(now));
                    (self.on_change)(Change::Failed(&error));
                }
                self.second.decide(check, now).await
            }
        }
    }
}
