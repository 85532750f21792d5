//! Rules by which requests are counted, other than the library's, and a store with one rule for each caller.

use std::cell::RefCell;
use std::collections::HashMap;

use edge_limiter::quota::{Decision, Quota, QuotaOutcome, QuotaState};
use edge_limiter::store::shared::{Question, SharedStore, StoreReply};
use edge_limiter::store::{QuotaAnswer, StoreError, Verdict};
use edge_limiter::time::{Millis, Timestamp};

/// Decides for one caller, and counts the units that it admits.
pub(crate) trait Rule: Default {
    /// Whether `cost` units are admitted at `now`. If so, they are counted.
    fn admits(&mut self, quota: &Quota, cost: u32, now: Timestamp) -> bool;
}

/// The library's rule, for the quota's algorithm.
#[derive(Debug, Default)]
pub(crate) struct LibraryRule(Option<QuotaState>);

impl Rule for LibraryRule {
    fn admits(&mut self, quota: &Quota, cost: u32, now: Timestamp) -> bool {
        let decided = quota.decide(self.0.as_ref(), cost, now);
        let admitted = decided.decision.allowed();
        if let Some(state) = decided.admitted.or(decided.repaired) {
            self.0 = Some(state);
        }
        admitted
    }
}

/// A store with one rule for each key, for checks of one charge. Its answers say whether a request is admitted,
/// but not how many units remain or when more are available.
#[derive(Debug, Default)]
pub(crate) struct RuleStore<R>(RefCell<HashMap<String, R>>);

impl<R: Rule> SharedStore for RuleStore<R> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let check = question.check;
        let mut rules = self.0.borrow_mut();
        let answers = check.charges.iter().map(|charge| {
            let rule = rules.entry(charge.key.clone()).or_default();
            let allowed = rule.admits(&charge.quota, check.cost, now);
            let soon = now + Millis::new(1);
            let outcome = match allowed {
                true => QuotaOutcome::Allowed,
                false => QuotaOutcome::Denied { retry_at: soon },
            };
            Some(QuotaAnswer {
                decision: Decision {
                    outcome,
                    remaining: 0,
                    reset_at: soon,
                    at: now,
                },
                blocked_until: None,
            })
        });
        let verdict = Verdict {
            answers: answers.collect(),
            ..Verdict::default()
        };
        Ok(verdict.into())
    }
}
