//! Memory in the place of a shared store that does not decide, and in step with one that does.

use std::hash::BuildHasher;

use super::Memory;
use super::map::DecidedCharge;
use crate::quota::{Quota, QuotaState};
use crate::store::decide::Record;
use crate::store::shared::{Backlog, Question, StoredCharge};
use crate::store::{Charge, Check, Source, Verdict};
use crate::time::Timestamp;

impl Memory {
    /// Decides while the shared store does not, each charge by the quota that `substitute` names for
    /// it. What is admitted is in the backlog until the shared store has counted it, but for the charges at the places
    /// that `may_be_counted` already: the store may have decided about them, and its answer have been lost. A cost above the quota's
    /// capacity stays impossible, even if the substitute is larger; and the answer to an admitted
    /// request says where it stands in its own quota.
    pub fn decide_alone(
        &self,
        check: &Check,
        may_be_counted: impl Fn(usize) -> bool,
        now: Timestamp,
        substitute: impl Fn(&Charge) -> Quota,
    ) -> Verdict {
        let substituted = |charge: &Charge| {
            let possible = check.cost <= charge.quota.capacity();
            let quota = possible.then(|| substitute(charge));
            Charge {
                quota: quota.unwrap_or(charge.quota),
                ..charge.clone()
            }
        };
        let own = check.charges.iter().map(substituted);
        let substitutes = Check {
            charges: own.clone().chain(own.map(alone)).collect(),
            ..check.clone()
        };
        let mut map = self.map.borrow_mut();
        let mut ruled = map.decide(&Question::new(&substitutes), now);
        let admitted = (substitutes.charges.iter().zip(&ruled))
            .all(|(charge, ruled)| !charge.enforced || ruled.answer.allows());

        let alone = ruled.split_off(check.charges.len());
        let charges_alone = substitutes.charges.iter().skip(check.charges.len());
        for (own, (charge, alone)) in ruled.iter_mut().zip(charges_alone.zip(alone)) {
            map.keep(charge, alone.record, &alone.answer, now);
            if alone.answer.retry_at() > own.answer.retry_at() {
                own.answer.decision = alone.answer.decision;
            }
        }
        let mut verdict = Verdict {
            degraded: true,
            source: Source::Memory,
            ..Verdict::default()
        };
        for (place, (charge, ruled)) in check.charges.iter().zip(ruled).enumerate() {
            let DecidedCharge {
                mut answer, record, ..
            } = ruled;
            if answer.decision.allowed() {
                let own = charge.quota.decide(record.state.as_ref(), 0, now).decision;
                answer.decision.remaining = own.remaining;
                answer.decision.reset_at = own.reset_at;
            }
            map.keep(charge, record, &answer, now);
            let is_taken = admitted && check.cost > 0 && answer.decision.allowed();
            if is_taken && !may_be_counted(place) {
                map.add_to_backlog(charge, check.cost, answer.decision.at, || self.name());
            }
            verdict.answers.push(Some(answer));
        }
        verdict
    }

    /// Adds to a question what the shared store has not counted of its quotas.
    pub fn add_backlog(&self, question: &mut Question<'_>) {
        let map = self.map.borrow();
        if !map.has_backlog() {
            return;
        }
        let check = question.check;
        let backlogs: Vec<Option<Backlog>> = check
            .charges
            .iter()
            .map(|charge| map.unreconciled(&charge.key)?.backlog())
            .collect();
        if backlogs.iter().all(Option::is_none) {
            return;
        }
        for (extra, backlog) in question.extras_mut().iter_mut().zip(backlogs) {
            extra.backlog = backlog;
        }
    }

    /// Takes over what the shared store holds after it has given `verdict` to `question`, so that this
    /// memory can go on from there.
    pub fn learn(
        &self,
        question: &Question<'_>,
        verdict: &Verdict,
        holdings: Vec<StoredCharge>,
        now: Timestamp,
    ) {
        let mut map = self.map.borrow_mut();
        let charges = question.check.charges.iter().zip(&verdict.answers);
        for (place, ((charge, answer), holding)) in charges.zip(holdings).enumerate() {
            let Some(answer) = answer else { continue };
            let held = map.held(&charge.key, now);
            // Of a block that was not asked about nothing is learnt.
            let blocked_until = if charge.blocks() {
                answer.blocked_until
            } else {
                held.and_then(|held| held.blocked_until)
            };
            let state = if let Some(unreconciled) = map.unreconciled(&charge.key) {
                let sent = question.extra(place).backlog.as_ref();
                let (state, reconciled) = unreconciled.counted(holding.state, sent, now);
                if reconciled {
                    map.reconciled(&charge.key);
                }
                state
            } else {
                let held = held.and_then(|held| held.state.as_ref());
                later(&charge.quota, held, holding.state)
            };
            let record = Record {
                state,
                blocked_until,
            };
            map.keep(charge, record, answer, now);
        }
    }

    /// Whether the shared store has not counted everything.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.map.borrow().has_backlog()
    }

    /// A check that takes nothing, of at most `most` quotas with a backlog: for the shared store to
    /// count it, should their callers not come back here.
    #[must_use]
    pub fn check_to_reconcile(&self, most: usize, now: Timestamp) -> Option<Check> {
        let charges = self.map.borrow_mut().next_to_reconcile(most, now);
        (!charges.is_empty()).then_some(Check {
            address: None,
            charges,
            cost: 0,
        })
    }

    /// What a [check to reconcile](Self::check_to_reconcile) asks about cannot be reconciled now: the next is about
    /// others, as long as there are any.
    pub fn reconcile_behind(&self, check: &Check) {
        if let Some(last) = check.charges.last() {
            self.map.borrow_mut().reconcile_behind(&last.key);
        }
    }

    /// A name that nobody else gives.
    fn name(&self) -> String {
        let number = self.named.replace(self.named.get() + 1);
        format!("{:016x}", self.seed.hash_one(number))
    }
}

/// The same quota for what memory admits alone, which no answer of the shared store touches: that
/// holds no more than the limit, and without this each outage would grant the excess anew.
fn alone(charge: Charge) -> Charge {
    Charge {
        key: format!("alone/{}", charge.key),
        block: None,
        ..charge
    }
}

/// Of what is held and what the store answers, the later form: answers may come out of order.
fn later(quota: &Quota, held: Option<&QuotaState>, told: Option<QuotaState>) -> Option<QuotaState> {
    let is_later = |held: &QuotaState, told: &QuotaState| {
        told.clock() <= held.clock()
            && quota.newer(held, told).is_some()
            && quota.newer(told, held).is_none()
    };
    match (held, &told) {
        (Some(held), Some(known)) if is_later(held, known) => Some(held.clone()),
        _ => told,
    }
}
