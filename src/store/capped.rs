//! A cap on what one isolate may spend, in commands that the store bills.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;

use super::StoreError;
use super::shared::{Question, Reply, SharedStore};
use crate::effects::{Effects, Level};
use crate::quota::{Algorithm, Quota, State};
use crate::time::{Deadline, Millis, Timestamp};

/// A store that is not asked once its isolate has spent its commands.
pub struct Capped<S, E> {
    inner: S,
    effects: E,
    cap: Option<Quota>,
    spent: RefCell<Option<State>>,
    silent: Cell<Deadline>,
}

/// How long the cap may be reached again without another log line.
const SILENCE: Millis = Millis::from_secs(60);

impl<S, E: Effects> Capped<S, E> {
    /// At most `per_second` commands in any second; `None`: as many as it takes. That there were more
    /// is logged, once a minute while there are.
    #[must_use]
    pub fn new(inner: S, per_second: Option<NonZeroU32>, effects: E) -> Self {
        // A window of a second is one for any limit.
        let quota = |limit| Quota::new(Algorithm::SlidingWindow, limit, Millis::from_secs(1)).ok();
        Self {
            inner,
            effects,
            cap: per_second.and_then(quota),
            spent: RefCell::new(None),
            silent: Cell::default(),
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

    fn log(&self, now: Timestamp) {
        if !self.silent.get().is_pending(now) {
            self.silent.set(Deadline::after(SILENCE, now));
            self.effects.log(
                Level::Warn,
                "REDIS_MAX_COMMANDS_PER_SECOND is reached; memory decides what is beyond it (told once a minute)",
            );
        }
    }
}

impl<S: SharedStore, E: Effects> SharedStore for Capped<S, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Reply, StoreError> {
        if !self.spend(most_commands(question), now) {
            self.log(now);
            return Err(StoreError::OverCap);
        }
        self.inner.ask(question, now).await
    }
}

/// The most commands that a decision can cost: the script and its one read, and per quota the
/// state, a block, and the name of a backlog. (Loading the script, one more, is once in a store's
/// lifetime.)
fn most_commands(question: &Question<'_>) -> u32 {
    let charges = question.check.charges.iter().enumerate();
    let writes = charges.map(|(place, charge)| {
        let backlog = question.extra(place).backlog.is_some();
        1 + u32::from(charge.blocks()) + u32::from(backlog)
    });
    2 + writes.sum::<u32>()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use futures_util::FutureExt;

    use super::Capped;
    use crate::effects::testing::Manual;
    use crate::quota::Algorithm;
    use crate::seed::Seed;
    use crate::store::conformance::{self, START, charge, check};
    use crate::store::memory::Memory;
    use crate::store::shared::{Question, Reply, SharedStore};
    use crate::store::{Store, StoreError};
    use crate::time::{Millis, Timestamp};

    /// Counts what reaches the store behind.
    struct Counted(Cell<u32>);

    impl SharedStore for Counted {
        async fn ask(&self, _: &Question<'_>, _: Timestamp) -> Result<Reply, StoreError> {
            self.0.set(self.0.get() + 1);
            Ok(Reply::default())
        }
    }

    #[tokio::test]
    async fn conforms() {
        let memory = || Memory::new(1000, Seed::fixed());
        conformance::shared(&Capped::new(memory(), None, Manual::default())).await;
        let plenty = NonZeroU32::new(1_000_000);
        conformance::shared(&Capped::new(memory(), plenty, Manual::default())).await;
    }

    #[test]
    fn no_second_holds_more_than_the_cap() {
        let effects = Manual::default();
        let counted = Counted(Cell::new(0));
        let store = Capped::new(counted, NonZeroU32::new(30), effects.clone());
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
        assert_eq!(effects.lines().len(), 1);
    }

    /// Nor is it silent for the hour by which a clock was set back.
    #[test]
    fn it_is_logged_once_a_minute_by_a_clock_set_back_as_well() {
        let effects = Manual::default();
        let counted = Counted(Cell::new(0));
        let store = Capped::new(counted, NonZeroU32::new(2), effects.clone());
        // Three commands, which the cap never allows.
        let check = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        let logs = |seconds| {
            let now = START + Millis::from_secs(seconds);
            let decided = store.decide(&check, now).now_or_never();
            assert_eq!(decided, Some(Err(StoreError::OverCap)));
            effects.lines().len()
        };
        assert_eq!([3600, 3659, 3660].map(logs), [1, 0, 1]);
        assert_eq!([0, 59, 60].map(logs), [1, 0, 1]);
    }
}
