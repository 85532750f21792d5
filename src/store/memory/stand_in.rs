//! Memory in the place of a shared store that does not decide.

use std::hash::BuildHasher;

use super::Memory;
use crate::quota::{Quota, State};
use crate::store::settle::Record;
use crate::store::{Charge, Check, Owed, Verdict};
use crate::time::Timestamp;

impl Memory {
    /// Decides while the shared store does not, each charge by the quota that `stand_in` names for
    /// it. What is admitted is owed to the shared store until that has counted it, unless it `may_be`
    /// counted already: the store may have decided, and its answer have been lost. What a cost can
    /// never meet in its own quota, it does not meet in another; and an admitted request is told
    /// where it stands in its own.
    pub fn stand_in(
        &self,
        check: &Check,
        may_be_counted: bool,
        now: Timestamp,
        stand_in: impl Fn(&Charge) -> Quota,
    ) -> Verdict {
        let standing = |charge: &Charge| {
            let possible = check.cost <= charge.quota.capacity();
            let quota = possible.then(|| stand_in(charge));
            Charge {
                quota: quota.unwrap_or(charge.quota),
                ..charge.clone()
            }
        };
        let own = check.charges.iter().map(standing);
        let stood_in = Check {
            charges: own.clone().chain(own.map(alone)).collect(),
            ..check.clone()
        };
        let mut map = self.map.borrow_mut();
        let mut settled = map.settle(&stood_in, now);
        let admitted = (stood_in.charges.iter().zip(&settled))
            .all(|(charge, (answer, _))| !charge.enforced || answer.allows());

        let alone = settled.split_off(check.charges.len());
        let charges_alone = stood_in.charges.iter().skip(check.charges.len());
        for ((own, _), (charge, (answer, record))) in
            settled.iter_mut().zip(charges_alone.zip(alone))
        {
            map.keep(charge, record, &answer, now);
            if answer.retry_at() > own.retry_at() {
                own.decision = answer.decision;
            }
        }
        let mut verdict = Verdict {
            degraded: true,
            ..Verdict::default()
        };
        for (charge, (mut answer, record)) in check.charges.iter().zip(settled) {
            if answer.decision.allowed() {
                let own = charge.quota.decide(record.state.as_ref(), 0, now).decision;
                answer.decision.remaining = own.remaining;
                answer.decision.reset_at = own.reset_at;
            }
            map.keep(charge, record, &answer, now);
            if admitted && !may_be_counted && check.cost > 0 && answer.decision.allowed() {
                map.owe(charge, check.cost, answer.decision.at, || self.name());
            }
            verdict.answers.push(Some(answer));
        }
        verdict
    }

    /// `check` with what is owed to its charges, if anything is.
    #[must_use]
    pub fn with_owed(&self, check: &Check) -> Option<Check> {
        let map = self.map.borrow();
        if !map.owes() {
            return None;
        }
        let owed: Vec<Option<Owed>> = check
            .charges
            .iter()
            .map(|charge| map.owing(&charge.key)?.owed())
            .collect();
        if owed.iter().all(Option::is_none) {
            return None;
        }
        let mut check = check.clone();
        for (charge, owed) in check.charges.iter_mut().zip(owed) {
            charge.owed = owed;
        }
        Some(check)
    }

    /// Takes over what the shared store holds after it has decided `check`, so that this memory can
    /// stand in for it from there.
    pub fn learn(&self, check: &Check, verdict: &Verdict, now: Timestamp) {
        let mut map = self.map.borrow_mut();
        let answers = check
            .charges
            .iter()
            .zip(&verdict.answers)
            .zip(&verdict.states);
        for ((charge, answer), told) in answers {
            let Some(answer) = answer else { continue };
            let held = map.record(&charge.key, now);
            let state = if let Some(owing) = map.owing(&charge.key) {
                let (state, settled) = owing.counted(told.clone(), charge.owed.as_ref(), now);
                if settled {
                    map.settled(&charge.key);
                }
                state
            } else {
                later(&charge.quota, held.state, told.clone())
            };
            // Of a block that was not asked about nothing is learnt.
            let blocked_until = if charge.blocks() {
                answer.blocked_until
            } else {
                held.blocked_until
            };
            let record = Record {
                state,
                blocked_until,
            };
            map.keep(charge, record, answer, now);
        }
    }

    /// Whether anything is owed to the shared store.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.map.borrow().owes()
    }

    /// A check that takes nothing, of at most `most` keys to which something is owed: for the shared
    /// store to count it, should their callers not come back here.
    #[must_use]
    pub fn debts(&self, most: usize, now: Timestamp) -> Option<Check> {
        let charges = self.map.borrow_mut().debtors(most, now);
        (!charges.is_empty()).then_some(Check {
            address: None,
            charges,
            cost: 0,
        })
    }

    /// A name that nobody else gives.
    fn name(&self) -> String {
        let number = self.named.replace(self.named.get() + 1);
        format!("{:016x}", self.seed.hash_one(number))
    }
}

/// The same quota for what memory admits by itself, which no answer of the shared store touches:
/// that holds no more than the limit, and without this each outage would grant the excess anew.
fn alone(charge: Charge) -> Charge {
    Charge {
        key: format!("alone/{}", charge.key),
        block: None,
        ..charge
    }
}

/// Of what is held and what the store tells, the later form: answers may come out of order.
fn later(quota: &Quota, held: Option<State>, told: Option<State>) -> Option<State> {
    match (held, told) {
        (Some(held), Some(told))
            if told.clock() <= held.clock()
                && quota.newer(&held, &told).is_some()
                && quota.newer(&told, &held).is_none() =>
        {
            Some(held)
        }
        (_, told) => told,
    }
}
