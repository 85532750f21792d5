//! Remembered denials: a caller that is known to be denied costs no I/O.
//!
//! A denial by quota is exact until its retry time, since others of the same key can only consume
//! more; so an isolate may repeat it until then. Never longer, and never for longer than
//! [`LONGEST`] without asking again, so that an unblock, a reset or a refund made elsewhere takes
//! effect.
//!
//! A request that is denied from memory by one policy does not reach the store, so it sets no block
//! of another policy that would have denied it as well.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::memory::Seed;
use super::{AddressBlock, Answer, Check, Store, StoreError, Verdict};
use crate::quota::Outcome;
use crate::time::{Millis, Timestamp};

/// How long a denial is repeated without asking the store again.
pub const LONGEST: Millis = Millis::new(10_000);

/// Denials that an isolate remembers unless told otherwise; one is about 200 bytes.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// A store that repeats its inner store's denials from memory.
pub struct Denials<S> {
    inner: S,
    known: RefCell<Known>,
}

impl<S> Denials<S> {
    /// Remembers up to `entries` denials (at least one) of `inner`.
    #[must_use]
    pub fn new(inner: S, entries: usize, seed: Seed) -> Self {
        Self {
            inner,
            known: RefCell::new(Known {
                most: entries.max(1),
                denials: HashMap::with_hasher(seed),
                by_end: BTreeSet::new(),
            }),
        }
    }
}

impl<S: Store> Store for Denials<S> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        if check.cost > 0
            && let Some(verdict) = self.known.borrow().verdict(check, now)
        {
            return Ok(verdict);
        }
        let verdict = self.inner.decide(check, now).await?;
        if check.cost > 0 && !verdict.allows(check) {
            self.known.borrow_mut().learn(check, &verdict, now);
        }
        Ok(verdict)
    }
}

#[derive(Clone, Copy)]
enum Denial {
    Address(AddressBlock),
    Quota(Answer),
}

/// The denials of one key, one per cost: requests of other costs are asked for themselves.
struct Remembered {
    per_cost: Vec<(u32, Denial, Timestamp)>,
    ends: Timestamp,
}

struct Known {
    most: usize,
    denials: HashMap<Rc<str>, Remembered, Seed>,
    by_end: BTreeSet<(Timestamp, Rc<str>)>,
}

/// An address's block denies any cost.
const ANY_COST: u32 = 0;

impl Known {
    /// The denial of `check`, if one is known to hold at `now`.
    fn verdict(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        let mut verdict = Verdict {
            answers: vec![None; check.charges.len()],
            ..Verdict::default()
        };
        let mut denied = false;
        if let Some(address) = &check.address
            && let Some(Denial::Address(block)) = self.get(address, ANY_COST, now)
        {
            verdict.address_block = Some(block);
            denied = true;
        }
        for (charge, answer) in check.charges.iter().zip(&mut verdict.answers) {
            if charge.enforced
                && let Some(Denial::Quota(known)) = self.get(&charge.key, check.cost, now)
                // A block that another caller of the key set is none of one that may not be blocked.
                && (known.blocked_until.is_none() || charge.blocks())
            {
                *answer = Some(known);
                denied = true;
            }
        }
        denied.then_some(verdict)
    }

    fn get(&self, key: &str, cost: u32, now: Timestamp) -> Option<Denial> {
        self.denials
            .get(key)?
            .per_cost
            .iter()
            .find(|(known, _, end)| *known == cost && *end > now)
            .map(|(_, denial, _)| *denial)
    }

    fn learn(&mut self, check: &Check, verdict: &Verdict, now: Timestamp) {
        if let (Some(address), Some(block)) = (&check.address, verdict.address_block) {
            let end = block.until.unwrap_or(now + LONGEST);
            self.remember(address, ANY_COST, Denial::Address(block), end, now);
        }
        for (charge, answer) in verdict.enforced(check) {
            if let Some(answer) = answer.filter(|answer| !answer.allows()) {
                // A cost that can never be met is denied for as long as the configuration stands.
                let end = match answer.decision.outcome {
                    Outcome::Impossible => Some(now + LONGEST),
                    Outcome::Allowed | Outcome::Denied { .. } => answer.retry_at(),
                };
                let end = end.unwrap_or(now);
                self.remember(&charge.key, check.cost, Denial::Quota(*answer), end, now);
            }
        }
    }

    fn remember(&mut self, key: &str, cost: u32, denial: Denial, end: Timestamp, now: Timestamp) {
        let end = end.min(now + LONGEST);
        let mut per_cost = self.forget(key);
        per_cost.retain(|(known, _, end)| *known != cost && *end > now);
        per_cost.push((cost, denial, end));
        // Ended ones make room first; then those that end soonest, which save the least.
        while let Some((ends, first)) = self.by_end.first().cloned() {
            if ends > now && self.denials.len() < self.most {
                break;
            }
            self.forget(&first);
        }
        let key: Rc<str> = key.into();
        let ends = per_cost.iter().map(|(_, _, end)| *end).max().unwrap_or(end);
        self.by_end.insert((ends, Rc::clone(&key)));
        self.denials.insert(key, Remembered { per_cost, ends });
    }

    fn forget(&mut self, key: &str) -> Vec<(u32, Denial, Timestamp)> {
        match self.denials.remove_entry(key) {
            Some((key, remembered)) => {
                self.by_end.remove(&(remembered.ends, key));
                remembered.per_cost
            }
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
