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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures_util::FutureExt;

    use super::{Change, Fallback};
    use crate::quota::Algorithm;
    use crate::store::conformance::{self, START, charge, check};
    use crate::store::memory::{Memory, Seed};
    use crate::store::{Check, Store, StoreError, Verdict};
    use crate::time::{Millis, Timestamp};

    /// Fails on demand, without having decided.
    struct Faulty {
        inner: Memory,
        fails: Cell<bool>,
    }

    impl Store for Faulty {
        async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
            if self.fails.get() {
                return Err(StoreError::Timeout);
            }
            self.inner.decide(check, now).await
        }
    }

    fn store(on_change: fn(Change<'_>)) -> Fallback<Faulty, Memory> {
        let memory = || Memory::new(1000, Seed::fixed());
        let faulty = Faulty {
            inner: memory(),
            fails: Cell::new(false),
        };
        Fallback::new(faulty, memory(), on_change)
    }

    #[tokio::test]
    async fn conforms_with_a_store_that_answers() {
        conformance::all(&store(|_| {})).await;
    }

    #[tokio::test]
    async fn conforms_with_a_store_that_fails() {
        let store = store(|_| {});
        store.first.fails.set(true);
        conformance::all(&store).await;
    }

    thread_local! {
        static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn each_change_is_told_once() {
        let store = store(|change| TOLD.with_borrow_mut(|told| told.push(format!("{change:?}"))));
        let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        let ask = |ms| store.decide(&check, START + Millis::new(ms)).now_or_never();
        for (ms, fails) in [
            (0, false),
            (1, true),
            (2, true),
            (3, true),
            (4, false),
            (5, false),
        ] {
            store.first.fails.set(fails);
            assert!(ask(ms).unwrap().is_ok());
            let since = fails.then(|| START + Millis::new(1));
            assert_eq!(store.failing_since(), since);
        }
        assert_eq!(TOLD.take(), ["Failed(Timeout)", "Recovered"]);
    }
}
