//! Quotas in this isolate's memory: without configuration, and while the shared store is out.
//!
//! Bounded: when it is full, what has expired goes first, then the callers that have used the least
//! share of their limit (the longest untouched first), and callers that are limited or blocked right
//! now only when nobody else is left. Forgetting a caller hands it a fresh quota, so with `n`
//! entries for more than `n` active callers the bound on a caller is its limit per stay in the map.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

use self::map::Map;
use super::settle::Record;
use super::{Charge, Check, Owed, Store, StoreError, Verdict};
use crate::quota::Quota;
use crate::time::Timestamp;

/// Entries that an isolate keeps unless told otherwise. One is about 300 bytes, and 1.3 KB at the
/// most (a sliding window with every sub-window in use), of an isolate's 128 MB.
pub const DEFAULT_ENTRIES: usize = 50_000;

/// A secret for the map's hasher, so that nobody can choose keys that collide.
///
/// `wasm32-unknown-unknown` has no source of its own behind std's `RandomState`, whose keys are
/// predictable there.
#[derive(Clone)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A fresh secret. Workers have randomness only while a request is being served.
    ///
    /// # Errors
    ///
    /// When the platform has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl BuildHasher for Seed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

/// The store in memory.
pub struct Memory {
    map: RefCell<Map>,
    seed: Seed,
    named: Cell<u64>,
}

impl Memory {
    /// An empty store that holds at most `entries` (at least one).
    #[must_use]
    pub fn new(entries: usize, seed: Seed) -> Self {
        Self {
            map: RefCell::new(Map::new(entries, seed.clone())),
            seed,
            named: Cell::new(0),
        }
    }

    /// Entries held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.borrow().len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what is held under `key`.
    pub fn forget(&self, key: &str) {
        self.map.borrow_mut().forget(key);
    }

    /// Decides while the shared store does not, each charge by the quota that `stand_in` names for
    /// it, and keeps in mind what it admits until the shared store has counted it. What a cost can
    /// never meet in its own quota, it does not meet in another; and an admitted request is told
    /// where it stands in its own.
    pub fn stand_in(
        &self,
        check: &Check,
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
        let stood_in = Check {
            charges: check.charges.iter().map(standing).collect(),
            ..check.clone()
        };
        let mut map = self.map.borrow_mut();
        let settled = map.settle(&stood_in, now);
        let mut verdict = Verdict {
            degraded: true,
            ..Verdict::default()
        };
        let enforced = || {
            stood_in
                .charges
                .iter()
                .zip(&settled)
                .filter(|(charge, _)| charge.enforced)
        };
        let admitted = check.cost > 0 && enforced().all(|(_, (answer, _))| answer.allows());
        for (charge, (mut answer, record)) in check.charges.iter().zip(settled) {
            if answer.decision.allowed() {
                let own = charge.quota.decide(record.state.as_ref(), 0, now).decision;
                answer.decision.remaining = own.remaining;
                answer.decision.reset_at = own.reset_at;
            }
            map.keep(charge, record, &answer, now);
            if admitted && answer.decision.allowed() {
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
        for ((charge, answer), state) in answers {
            let Some(answer) = answer else { continue };
            let mut state = state.clone();
            if let Some(owing) = map.owing(&charge.key) {
                let (with_rest, settled) = owing.counted(state, charge.owed.as_ref(), now);
                state = with_rest;
                if settled {
                    map.settled(&charge.key);
                }
            }
            // Of a block that was not asked about nothing is learnt.
            let blocked_until = if charge.blocks() {
                answer.blocked_until
            } else {
                map.record(&charge.key, now).blocked_until
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

impl Store for Memory {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let mut map = self.map.borrow_mut();
        let mut answers = Vec::with_capacity(check.charges.len());
        for (charge, (answer, record)) in check.charges.iter().zip(map.settle(check, now)) {
            answers.push(Some(answer));
            map.keep(charge, record, &answer, now);
        }
        Ok(Verdict {
            answers,
            ..Verdict::default()
        })
    }
}

mod map;
mod owing;

#[cfg(test)]
impl Seed {
    /// Any seed, for tests.
    pub(crate) const fn fixed() -> Self {
        Self([7; 16])
    }
}

#[cfg(test)]
mod tests;
