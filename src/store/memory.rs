//! Quotas in this isolate's memory: without configuration, and while the shared store is out.
//!
//! Bounded: when it is full, what has expired goes first, then the callers that have used the least
//! share of their limit (the longest untouched first), and callers that are limited or blocked right
//! now only when nobody else is left. Forgetting a caller hands it a fresh quota, so with `n`
//! entries for more than `n` active callers the bound on a caller is its limit per stay in the map.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::rc::Rc;

use siphasher::sip::SipHasher13;

use super::settle::{Record, Settled, settle};
use super::{Check, Store, StoreError, Verdict};
use crate::quota::{CLOCK_TOLERANCE, Outcome};
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
}

impl Memory {
    /// An empty store that holds at most `entries` (at least one).
    #[must_use]
    pub fn new(entries: usize, seed: Seed) -> Self {
        Self {
            map: RefCell::new(Map {
                most: entries.max(1),
                places: HashMap::with_hasher(seed),
                entries: Vec::new(),
                free: Vec::new(),
                by_worth: BTreeSet::new(),
                by_expiry: BTreeSet::new(),
                touches: 0,
            }),
        }
    }

    /// Entries held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.borrow().places.len()
    }

    /// Forgets what is held under `key`.
    pub fn forget(&self, key: &str) {
        let mut map = self.map.borrow_mut();
        if let Some(place) = map.places.get(key).copied() {
            map.remove(place);
        }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Store for Memory {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let mut map = self.map.borrow_mut();
        let records: Vec<Record> = check
            .charges
            .iter()
            .map(|charge| map.record(&charge.key, now))
            .collect();
        let settled = settle(check, &records, false, now);
        let mut answers = Vec::with_capacity(settled.len());
        for ((charge, record), settled) in check.charges.iter().zip(records).zip(settled) {
            answers.push(Some(settled.answer));
            map.keep(charge, record, settled, now);
        }
        Ok(Verdict {
            answers,
            ..Verdict::default()
        })
    }
}

/// What forgetting an entry would cost, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Has room: by the share of its limit in use (in 255ths), then by the last touch.
    Room { share: u8, touched: u64 },
    /// Is limited or blocked until then.
    Limited { until: Timestamp },
}

struct Entry {
    key: Rc<str>,
    record: Record,
    expires: Timestamp,
    share: u8,
    worth: Worth,
}

struct Map {
    most: usize,
    places: HashMap<Rc<str>, u32, Seed>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_worth: BTreeSet<(Worth, u32)>,
    by_expiry: BTreeSet<(Timestamp, u32)>,
    touches: u64,
}

impl Map {
    fn record(&self, key: &str, now: Timestamp) -> Record {
        self.places
            .get(key)
            .and_then(|place| self.entries.get(*place as usize)?.as_ref())
            .filter(|entry| entry.expires > now)
            .map_or_else(Record::default, |entry| entry.record.clone())
    }

    /// Writes down what was settled. A denial changes no state, but the caller is limited from now
    /// on as far as eviction goes.
    fn keep(&mut self, charge: &super::Charge, record: Record, settled: Settled, now: Timestamp) {
        let decision = settled.answer.decision;
        let known = record.state.is_some() || record.blocked_until.is_some();
        if !known && settled.state.is_none() && settled.block.is_none() {
            return;
        }
        let state = settled.state.or(record.state);
        let blocked_until = settled.answer.blocked_until.or(record.blocked_until);
        let used = u64::from(charge.quota.capacity().saturating_sub(decision.remaining));
        let share = used * 255 / u64::from(charge.quota.capacity());
        // With nothing left, the next request will be denied.
        let next = || {
            let spent = decision.remaining == 0;
            let next = spent.then(|| charge.quota.decide(state.as_ref(), 1, now).decision);
            match next?.outcome {
                Outcome::Denied { retry_at } => Some(retry_at),
                Outcome::Allowed | Outcome::Impossible => None,
            }
        };
        // A shadow denies nobody, so nothing is lost with it.
        let until = if charge.enforced {
            settled.answer.retry_at().or_else(next)
        } else {
            None
        };
        self.touches += 1;
        let share = u8::try_from(share).unwrap_or(u8::MAX);
        let worth = match until {
            Some(until) => Worth::Limited { until },
            None => Worth::Room {
                share,
                touched: self.touches,
            },
        };
        // As long as in Redis: a clock that steps back a little finds the state still there.
        let whole = decision.reset_at + CLOCK_TOLERANCE;
        let expires = blocked_until.map_or(whole, |until| until.max(whole));
        self.put(
            Entry {
                key: charge.key.as_str().into(),
                record: Record {
                    state,
                    blocked_until,
                },
                expires,
                share,
                worth,
            },
            now,
        );
    }

    fn put(&mut self, entry: Entry, now: Timestamp) {
        if let Some(place) = self.places.get(&entry.key).copied() {
            self.remove(place);
        }
        self.drop_expired(now);
        while self.places.len() >= self.most {
            self.evict(now);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        self.by_worth.insert((entry.worth, place));
        self.by_expiry.insert((entry.expires, place));
        self.places.insert(Rc::clone(&entry.key), place);
        if let Some(slot) = self.entries.get_mut(place as usize) {
            *slot = Some(entry);
        }
    }

    fn remove(&mut self, place: u32) {
        let slot = self.entries.get_mut(place as usize);
        if let Some(entry) = slot.and_then(Option::take) {
            self.places.remove(&entry.key);
            self.by_worth.remove(&(entry.worth, place));
            self.by_expiry.remove(&(entry.expires, place));
            self.free.push(place);
        }
    }

    /// Expiry without timers: everything when the map is full, otherwise two entries for each one
    /// that is written, so that no request pays for many.
    fn drop_expired(&mut self, now: Timestamp) {
        let full = self.places.len() >= self.most;
        let mut left = if full { usize::MAX } else { 2 };
        while let Some((expires, place)) = self.by_expiry.first().copied() {
            if expires > now || left == 0 {
                break;
            }
            self.remove(place);
            left -= 1;
        }
    }

    fn evict(&mut self, now: Timestamp) {
        // Those whose limit has passed since have room again and take their place among the rest.
        let first_limited = (
            Worth::Limited {
                until: Timestamp::default(),
            },
            0,
        );
        let released: Vec<u32> = self
            .by_worth
            .range(first_limited..)
            .take_while(|(worth, _)| matches!(worth, Worth::Limited { until } if *until <= now))
            .map(|(_, place)| *place)
            .collect();
        for place in released {
            let slot = self.entries.get_mut(place as usize);
            if let Some(entry) = slot.and_then(Option::as_mut) {
                self.by_worth.remove(&(entry.worth, place));
                entry.worth = Worth::Room {
                    share: entry.share,
                    touched: self.touches,
                };
                self.by_worth.insert((entry.worth, place));
            }
        }
        if let Some((_, place)) = self.by_worth.first().copied() {
            self.remove(place);
        }
    }
}

#[cfg(test)]
impl Seed {
    /// Any seed, for tests.
    pub(crate) const fn fixed() -> Self {
        Self([7; 16])
    }
}

#[cfg(test)]
mod tests;
