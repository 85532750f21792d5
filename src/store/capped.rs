//! A cap on what one isolate may spend, in commands that the store bills.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;

use super::{Check, Store, StoreError, Verdict};
use crate::quota::{Algorithm, Quota, State};
use crate::time::{Millis, Timestamp};

/// A store that is not asked once its isolate has spent its commands.
pub struct Capped<S> {
    inner: S,
    cap: Option<Quota>,
    on_reached: fn(),
    spent: RefCell<Option<State>>,
    told: Cell<Option<Timestamp>>,
}

/// How long the cap may be reached again without another word of it.
const SILENCE: Millis = Millis::from_secs(60);

impl<S> Capped<S> {
    /// At most `per_second` commands in any second; `None`: as many as it takes. `on_reached` is told
    /// that there were more, once a minute while there are.
    #[must_use]
    pub fn new(inner: S, per_second: Option<NonZeroU32>, on_reached: fn()) -> Self {
        // A window of a second is one for any limit.
        let quota = |limit| Quota::new(Algorithm::SlidingWindow, limit, Millis::from_secs(1)).ok();
        Self {
            inner,
            cap: per_second.and_then(quota),
            on_reached,
            spent: RefCell::new(None),
            told: Cell::new(None),
        }
    }

    /// Whether `commands` more may be spent; if so, they are.
    fn spend(&self, commands: u32, now: Timestamp) -> bool {
        let Some(cap) = &self.cap else { return true };
        let mut spent = self.spent.borrow_mut();
        let decided = cap.decide(spent.as_ref(), commands, now);
        if let Some(state) = decided.admitted.or(decided.repaired) {
            *spent = Some(state);
        }
        decided.decision.allowed()
    }
}

impl<S: Store> Store for Capped<S> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        if !self.spend(most_commands(check), now) {
            let told = self.told.get();
            if told.is_none_or(|told| now.since(told) >= SILENCE) {
                self.told.set(Some(now));
                (self.on_reached)();
            }
            return Err(StoreError::OverCap);
        }
        self.inner.decide(check, now).await
    }
}

/// The most commands that deciding `check` can cost: the script and its one read, and per quota the
/// state, a block, and the name of what was owed. (Loading the script, one more, is once in a
/// store's lifetime.)
fn most_commands(check: &Check) -> u32 {
    let writes =
        |charge: &super::Charge| 1 + u32::from(charge.blocks()) + u32::from(charge.owed.is_some());
    2 + check.charges.iter().map(writes).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use futures_util::FutureExt;

    use super::Capped;
    use crate::quota::Algorithm;
    use crate::seed::Seed;
    use crate::store::conformance::{self, START, charge, check};
    use crate::store::memory::Memory;
    use crate::store::{Check, Store, StoreError, Verdict};
    use crate::time::{Millis, Timestamp};

    /// Counts what reaches the store behind.
    struct Counted(Cell<u32>);

    impl Store for Counted {
        async fn decide(&self, _: &Check, _: Timestamp) -> Result<Verdict, StoreError> {
            self.0.set(self.0.get() + 1);
            Ok(Verdict::default())
        }
    }

    #[tokio::test]
    async fn conforms() {
        let memory = || Memory::new(1000, Seed::fixed());
        conformance::all(&Capped::new(memory(), None, || {})).await;
        let plenty = NonZeroU32::new(1_000_000);
        conformance::all(&Capped::new(memory(), plenty, || {})).await;
    }

    thread_local! {
        static TOLD: Cell<u32> = const { Cell::new(0) };
    }

    #[test]
    fn no_second_holds_more_than_the_cap() {
        let store = Capped::new(Counted(Cell::new(0)), NonZeroU32::new(30), || {
            TOLD.set(TOLD.get() + 1)
        });
        // Three commands each: the script, the read, the state.
        let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        let mut asked_at = Vec::new();
        for ms in 0..5000 {
            let before = store.inner.0.get();
            let decided = store.decide(&check, START + Millis::new(ms)).now_or_never();
            match decided.unwrap() {
                Ok(_) => assert_eq!(store.inner.0.get(), before + 1),
                Err(error) => {
                    assert_eq!((error, store.inner.0.get()), (StoreError::OverCap, before));
                }
            }
            if store.inner.0.get() > before {
                asked_at.push(ms);
            }
        }
        for (place, first) in asked_at.iter().enumerate() {
            let within = asked_at[place..]
                .iter()
                .take_while(|ms| **ms < first + 1000);
            assert!(within.count() <= 10);
        }
        // Hardly less than the cap, either: a second and a sub-window apart.
        assert_eq!(asked_at.len(), 50);
        assert_eq!(TOLD.get(), 1);
    }
}
