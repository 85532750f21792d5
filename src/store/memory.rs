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
use super::{Check, Store, StoreError, Verdict};
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

    /// These bytes, for a measurement that is to be the same every time. They are no secret.
    #[must_use]
    pub const fn known(bytes: [u8; 16]) -> Self {
        Self(bytes)
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
    /// Names given so far to what is owed.
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

    /// When `check` would be admitted, if not at `now`, by what is held: nothing is consumed.
    #[must_use]
    pub fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        let settled = self.map.borrow().settle(check, now);
        let answers = settled.iter().filter_map(|(answer, _)| answer.retry_at());
        answers.max()
    }

    /// Forgets what is held under `key`.
    pub fn forget(&self, key: &str) {
        self.map.borrow_mut().forget(key);
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
mod stand_in;

#[cfg(test)]
impl Seed {
    /// Any seed, for tests.
    pub(crate) const fn fixed() -> Self {
        Self::known([7; 16])
    }
}

#[cfg(test)]
mod tests;
