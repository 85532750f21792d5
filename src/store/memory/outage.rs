//! How memory decides in place of a shared store that is out, and follows one that decides.

use std::hash::BuildHasher;

use super::Memory;
use super::map::DecidedCharge;
use crate::quota::{Quota, QuotaState};
use crate::store::decide::Record;
use crate::store::shared::{Backlog, Question, StoredCharge};
use crate::store::{Charge, Check, Source, Verdict};
use crate::time::Timestamp;

impl Memory {
    /// Decides while the shared store does not, each charge by the quota that `substitute` returns for it.
    ///
    /// Admitted units are in the backlog until the shared store has counted them. The exceptions are charges whose places
    /// `may_be_counted` accepts: the store may have counted them although its answer was lost. A cost above the
    /// quota's capacity stays impossible, even if the substitute is larger. The answer to an admitted
    /// request reports the remaining units and the reset of the charge's own quota.
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
        let charges = check.charges.iter().map(substituted);
        let substitutes = Check {
            charges: charges.clone().chain(charges.map(alone)).collect(),
            ..check.clone()
        };
        let mut map = self.map.borrow_mut();
        let mut decided = map.decide(&Question::new(&substitutes), now);
        let admitted = (substitutes.charges.iter().zip(&decided))
            .all(|(charge, decided)| !charge.enforced || decided.answer.allows());

        let decided_alone = decided.split_off(check.charges.len());
        let charges_alone = substitutes.charges.iter().skip(check.charges.len());
        for (own, (charge, alone)) in decided.iter_mut().zip(charges_alone.zip(decided_alone)) {
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
        for (place, (charge, decided)) in check.charges.iter().zip(decided).enumerate() {
            let DecidedCharge {
                mut answer, record, ..
            } = decided;
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

    /// Adds the backlogs of its quotas to a question.
    pub fn add_backlog(&self, question: &mut Question<'_>) {
        let map = self.map.borrow();
        if !map.has_backlog() {
            return;
        }
        let check = question.check;
        let backlogs: Vec<Option<Backlog>> = check
            .charges
            .iter()
            .map(|charge| map.backlog(&charge.key)?.to_send())
            .collect();
        if backlogs.iter().all(Option::is_none) {
            return;
        }
        for (extra, backlog) in question.extras_mut().iter_mut().zip(backlogs) {
            extra.backlog = backlog;
        }
    }

    /// Takes over the states that the shared store holds after it has answered `question` with `verdict`, so that this
    /// memory can go on from there.
    pub fn learn(
        &self,
        question: &Question<'_>,
        verdict: &Verdict,
        stored_charges: Vec<StoredCharge>,
        now: Timestamp,
    ) {
        let mut map = self.map.borrow_mut();
        let charges = question.check.charges.iter().zip(&verdict.answers);
        for (place, ((charge, answer), stored_charge)) in charges.zip(stored_charges).enumerate() {
            let Some(answer) = answer else { continue };
            let known = map.record(&charge.key, now);
            // The store was not asked about a block of another charge, so what is known of it stays.
            let blocked_until = if charge.blocks() {
                answer.blocked_until
            } else {
                known.and_then(|record| record.blocked_until)
            };
            let state = if let Some(backlog) = map.backlog(&charge.key) {
                let sent = question.extra(place).backlog.as_ref();
                let (state, is_reconciled) = backlog.merge(stored_charge.state, sent, now);
                if is_reconciled {
                    map.remove_backlog(&charge.key);
                }
                state
            } else {
                let known = known.and_then(|record| record.state.as_ref());
                later(&charge.quota, known, stored_charge.state)
            };
            let record = Record {
                state,
                blocked_until,
            };
            map.keep(charge, record, answer, now);
        }
    }

    /// Whether any quota has a backlog.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.map.borrow().has_backlog()
    }

    /// A check at a cost of 0 of at most `max_quotas` quotas with a backlog; `None` if no quota has one. When the shared store
    /// is asked this check, it counts the backlogs, even if their callers do not come back here.
    #[must_use]
    pub fn check_to_reconcile(&self, max_quotas: usize, now: Timestamp) -> Option<Check> {
        let charges = self.map.borrow_mut().next_to_reconcile(max_quotas, now);
        (!charges.is_empty()).then_some(Check {
            address: None,
            charges,
            cost: 0,
        })
    }

    /// Moves the quotas of a [check to reconcile](Self::check_to_reconcile) that failed behind the others: the next check is
    /// about other quotas, as long as there are any.
    pub fn reconcile_behind(&self, check: &Check) {
        if let Some(last) = check.charges.last() {
            self.map.borrow_mut().reconcile_behind(&last.key);
        }
    }

    /// A unique name for a backlog, which no other isolate gives.
    fn name(&self) -> String {
        let number = (self.backlogs_named).replace(self.backlogs_named.get() + 1);
        format!("{:016x}", self.seed.hash_one(number))
    }
}

/// A second charge of the same quota, which counts only what memory admits alone. Answers of the shared store do not change
/// it. The store counts no more than the limit, so without this charge each outage would grant the excess again.
fn alone(charge: Charge) -> Charge {
    Charge {
        key: format!("alone/{}", charge.key),
        block: None,
        ..charge
    }
}

/// The later of the known state and the one that the store answered: answers may arrive out of order.
fn later(
    quota: &Quota,
    known: Option<&QuotaState>,
    answered: Option<QuotaState>,
) -> Option<QuotaState> {
    let is_later = |known: &QuotaState, answered: &QuotaState| {
        answered.clock() <= known.clock()
            && quota.newer(known, answered).is_some()
            && quota.newer(answered, known).is_none()
    };
    match (known, &answered) {
        (Some(known), Some(other)) if is_later(known, other) => Some(known.clone()),
        _ => answered,
    }
}
