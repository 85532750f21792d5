//! A wrapper that caps what one isolate spends on decisions, in commands that the store bills.

use std::cell::Cell;

use super::StoreError;
use super::shared::{ChargeExtra, Question, SharedStore, StoreReply};
use crate::budget::{Budget, Purpose};
use crate::effects::{Effects, LogLevel};
use crate::time::{Deadline, Millis, Timestamp};

/// A store that is not asked once its isolate has spent its commands.
pub struct Capped<S, E> {
    inner: S,
    effects: E,
    budget: Budget,
    silent_until: Cell<Deadline>,
}

/// How long the cap may be reached again without another log line.
const SILENT_FOR: Millis = Millis::from_secs(60);

impl<S, E: Effects> Capped<S, E> {
    /// Wraps `inner`, which spends from `budget`. While the budget is not enough, this is logged once a minute.
    #[must_use]
    pub fn new(inner: S, budget: Budget, effects: E) -> Self {
        Self {
            inner,
            effects,
            budget,
            silent_until: Cell::default(),
        }
    }

    /// The wrapped store.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    fn log(&self, now: Timestamp) {
        if !self.silent_until.get().is_pending(now) {
            self.silent_until.set(Deadline::after(SILENT_FOR, now));
            self.effects.log(
                LogLevel::Warn,
                "Redis: this isolate reached REDIS_MAX_COMMANDS_PER_SECOND, so its memory decides further requests of this second; raise the cap if this recurs (logged once a minute)",
            );
        }
    }
}

impl<S: SharedStore, E: Effects> SharedStore for Capped<S, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let reconciles = reconciles(question);
        let purpose = match reconciles {
            true => Purpose::Records,
            false => Purpose::Decision,
        };
        if !self
            .budget
            .spend(self.inner.most_commands(question), purpose, now)
        {
            if reconciles {
                // Reconciliation tries again, and the budget keeps some commands for that.
                let _ = self.budget.left_for_records(now);
            }
            self.log(now);
            return Err(StoreError::OverCap);
        }
        self.inner.ask(question, now).await
    }
}

/// Whether a question only reconciles: it reports to the store what memory admitted, and no request waits for the answer.
fn reconciles(question: &Question<'_>) -> bool {
    let check = question.check;
    let mut extras = (0..check.charges.len()).map(|place| question.extra(place));
    let has_backlog = |extra: &ChargeExtra| extra.backlog.is_some();
    check.cost == 0 && extras.clone().any(has_backlog) && extras.all(|extra| extra.lease == 0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU32;

    use futures_util::FutureExt;

    use super::Capped;
    use crate::budget::Budget;
    use crate::effects::testing::TestEffects;
    use crate::quota::Algorithm;
    use crate::seed::Seed;
    use crate::store::conformance::{self, START, charge, check};
    use crate::store::fallback::QUOTAS_PER_CALL;
    use crate::store::memory::Memory;
    use crate::store::shared::{Backlog, ChargeExtra, Question, SharedStore, StoreReply};
    use crate::store::{Store, StoreError, Verdict};
    use crate::time::{Millis, Timestamp};

    /// A store that counts the questions that it is asked.
    struct QuestionCounter(Cell<u32>);

    impl SharedStore for QuestionCounter {
        async fn ask(&self, _: &Question<'_>, _: Timestamp) -> Result<StoreReply, StoreError> {
            self.0.set(self.0.get() + 1);
            Ok(StoreReply::default())
        }
    }

    #[tokio::test]
    async fn conforms() {
        let memory = || Memory::new(1000, Seed::fixed());
        conformance::shared(&Capped::new(
            memory(),
            Budget::default(),
            TestEffects::default(),
        ))
        .await;
        let plenty = Budget::new(NonZeroU32::new(1_000_000));
        conformance::shared(&Capped::new(memory(), plenty, TestEffects::default())).await;
    }

    #[test]
    fn no_more_commands_than_the_cap_are_spent_in_any_second() {
        let effects = TestEffects::default();
        let counted = QuestionCounter(Cell::new(0));
        let store = Capped::new(counted, Budget::new(NonZeroU32::new(30)), effects.clone());
        // Each costs three commands: the script, the read, and the write of the state.
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
        // Nearly the whole cap is used: the same commands are free again after a second and a sub-window.
        assert_eq!(asked_at.len(), 50);
        assert_eq!(effects.lines().len(), 1);
    }

    /// One full call of a reconciliation fits into the records' share of the smallest cap, which is
    /// 50, and leaves the rest to decisions.
    #[test]
    fn reconciliation_spends_the_share_of_the_records() {
        let counted = QuestionCounter(Cell::new(0));
        let store = Capped::new(
            counted,
            Budget::new(NonZeroU32::new(50)),
            TestEffects::default(),
        );
        let quotas: Vec<_> = (0..QUOTAS_PER_CALL)
            .map(|number| charge(&format!("p:{number}"), Algorithm::SlidingWindow, 100))
            .collect();
        let reconciled = check(&quotas, 0);
        let state = quotas[0].quota.decide(None, 1, START).admitted.unwrap();
        let extra = ChargeExtra {
            lease: 0,
            backlog: Some(Backlog {
                name: "0f".to_owned(),
                state,
            }),
        };
        let extras = vec![extra; QUOTAS_PER_CALL];
        let reconcile = |ms| {
            let question = Question::with(&reconciled, &extras);
            let asked = store.ask(&question, START + Millis::new(ms)).now_or_never();
            asked.unwrap().is_ok()
        };
        assert_eq!([0, 0, 500, 1100].map(reconcile), [true, false, false, true]);
        let one = check(&[charge("p:a", Algorithm::SlidingWindow, 100)], 1);
        let decide = || store.decide(&one, START + Millis::new(1100)).now_or_never();
        let decided = std::iter::repeat_with(decide)
            .take_while(|decided| decided == &Some(Ok(Verdict::default())));
        // Of 50 commands the reconciliation has spent 18, and two more are kept for records.
        assert_eq!(decided.count(), 10);
    }

    /// The log is not silent for the hour by which a clock was set back.
    #[test]
    fn reaching_the_cap_is_logged_once_a_minute_even_by_a_clock_set_back() {
        let effects = TestEffects::default();
        let counted = QuestionCounter(Cell::new(0));
        let store = Capped::new(counted, Budget::new(NonZeroU32::new(2)), effects.clone());
        // It costs three commands, which the cap of two never allows.
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
