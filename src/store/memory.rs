//! The store in this isolate's memory. It decides if no shared store is configured, and while the shared store is out.
//!
//! The store is bounded. When it is full, expired entries go first. Then it evicts the callers that have used the smallest
//! share of their limit, the longest unused first. Callers that are limited or blocked at the moment go last. A caller that
//! is evicted begins with a fresh quota. So with more active callers than entries, a caller is bounded by its limit for each
//! time that it enters the map.

use std::cell::{Cell, RefCell};

use self::map::Map;
use super::decide::Record;
use super::shared::{Question, SharedStore, StoreReply, StoredCharge};
use super::{Charge, Check, Source, StoreError, Verdict};
use crate::seed::Seed;
use crate::time::Timestamp;

/// The default for the most entries that an isolate keeps. One takes about 300 bytes of an isolate's 128 MB, and at most
/// 1.3 KB (a sliding window with every sub-window in use).
pub const DEFAULT_ENTRIES: usize = 50_000;

/// The store in memory.
pub struct Memory {
    map: RefCell<Map>,
    seed: Seed,
    /// The number of backlogs that were given a name.
    backlogs_named: Cell<u64>,
}

impl Memory {
    /// An empty store that holds at most `entries` (at least one).
    #[must_use]
    pub fn new(entries: usize, seed: Seed) -> Self {
        Self {
            map: RefCell::new(Map::new(entries, seed.clone())),
            seed,
            backlogs_named: Cell::new(0),
        }
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.borrow().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When this memory would admit `check`; `None` if it would at `now`, or never. It consumes nothing.
    #[must_use]
    pub fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        let decided = self.map.borrow().decide(&Question::new(check), now);
        let answers = decided.iter().filter_map(|charge| charge.answer.retry_at());
        answers.max()
    }

    /// Forgets the entry of `key`.
    pub fn forget(&self, key: &str) {
        self.map.borrow_mut().forget(key);
    }
}

impl Memory {
    /// Decides `check` where there is no shared store.
    pub fn decide_here(&self, check: &Check, now: Timestamp) -> Verdict {
        let mut map = self.map.borrow_mut();
        let all_decided = map.decide(&Question::new(check), now);
        let mut answers = Vec::with_capacity(all_decided.len());
        for (charge, decided) in check.charges.iter().zip(all_decided) {
            answers.push(Some(decided.answer));
            map.keep(charge, decided.record, &decided.answer, now);
        }
        Verdict {
            answers,
            source: Source::Memory,
            ..Verdict::default()
        }
    }
}

/// Acts as a shared store: its replies carry the states.
impl SharedStore for Memory {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let mut map = self.map.borrow_mut();
        let all_decided = map.decide(question, now);
        let mut reply = StoreReply::default();
        for (charge, decided) in question.check.charges.iter().zip(all_decided) {
            reply.verdict.answers.push(Some(decided.answer));
            reply.stored_charges.push(StoredCharge {
                leased: decided.leased,
                state: decided.record.state.clone(),
            });
            map.keep(charge, decided.record, &decided.answer, now);
        }
        Ok(reply)
    }

    fn remembered_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        let map = self.map.borrow();
        // A denial that would set a block has to be decided, or the block would not be set.
        let sets_no_block = |charge: &Charge| {
            let is_blocked =
                |record: &Record| record.blocked_until.is_some_and(|until| until > now);
            charge.block.is_none() || map.record(&charge.key, now).is_some_and(is_blocked)
        };
        if check.charges.is_empty() || !check.charges.iter().all(sets_no_block) {
            return None;
        }
        let decided = map.decide(&Question::new(check), now);
        let answers = decided.into_iter().map(|charge| Some(charge.answer));
        let verdict = Verdict {
            answers: answers.collect(),
            ..Verdict::default()
        };
        (!verdict.allows(check)).then_some(verdict)
    }
}

mod backlog;
mod map;
mod outage;

#[cfg(test)]
mod tests;
