//! A wrapper that remembers denials: a caller that is known to be denied costs no I/O.
//!
//! A denial by a quota holds until its retry time, since other requests of the same key can only consume
//! more. So an isolate may repeat it until then. It does so for at most [`MAX_AGE`] before it asks the store
//! again, so that an unblock, a reset or a refund made elsewhere takes effect. One request asks, and
//! the others get the remembered denial meanwhile: a flood costs one question, however many requests it has. If
//! the store does not answer, the isolate keeps repeating the denial. The exception is a denial by a quota that admits while
//! the store fails ([`OnFailure::Allow`]); but a block stays in force during an outage.
//!
//! A request that is denied from memory by one policy does not reach the store. So it sets no block
//! of another policy that would have denied it as well.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::shared::{Question, SharedStore, StoreReply};
use super::{Charge, Check, OnFailure, QuotaAnswer, Source, StoreError, Verdict};
use crate::blocklist::AddressBlock;
use crate::effects::Effects;
use crate::quota::QuotaOutcome;
use crate::seed::Seed;
use crate::time::{Deadline, Millis, Timestamp};

/// The longest that a denial is repeated without asking the store again.
pub const MAX_AGE: Millis = Millis::new(10_000);

/// How long a revalidation may take before another request revalidates.
const REVALIDATING_FOR: Millis = Millis::new(2000);

/// How long to remember a denial that has no end: a block without an end, or a cost above the quota's capacity.
const REMEMBER_ENDLESS_FOR: Millis = Millis::from_secs(24 * 60 * 60);

/// The default for the most denials that an isolate remembers. One takes about 200 bytes.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// A store that repeats the denials of the store that it wraps from memory.
pub struct Denials<S, E> {
    inner: S,
    effects: E,
    remembered: RefCell<DenialMap>,
}

impl<S, E> Denials<S, E> {
    /// Remembers up to `entries` denials (at least one) of `inner`.
    #[must_use]
    pub fn new(inner: S, entries: usize, seed: Seed, effects: E) -> Self {
        Self {
            inner,
            effects,
            remembered: RefCell::new(DenialMap {
                max_entries: entries.max(1),
                denials: HashMap::with_hasher(seed),
                by_end: BTreeSet::new(),
            }),
        }
    }

    /// Forgets the denials of a quota's key or of an address, so that the store is asked again.
    pub fn forget(&self, key: &str) {
        self.remembered.borrow_mut().forget(key);
    }

    /// The wrapped store.
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: SharedStore, E: Effects> SharedStore for Denials<S, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let check = question.check;
        if check.cost == 0 {
            return self.inner.ask(question, now).await;
        }
        let remembered = self.remembered.borrow_mut().verdict(check, now);
        let remembered = match remembered {
            Some((verdict, Revalidation::NotDue)) => return Ok(verdict.into()),
            Some((verdict, Revalidation::Due)) => {
                // Other requests of the key depend on the answer.
                self.effects.outlive_client();
                Some(verdict)
            }
            None => None,
        };
        match (self.inner.ask(question, now).await, remembered) {
            (Ok(reply), _) => {
                let mut remembered = self.remembered.borrow_mut();
                remembered.learn(check, &reply.verdict, now);
                Ok(reply)
            }
            (Err(error), Some(remembered))
                if error == StoreError::OverCap || outlasts_outage(&remembered, check, now) =>
            {
                Ok(remembered.into())
            }
            (Err(error), Some(_)) => {
                self.remembered.borrow_mut().forget_quotas(check, now);
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn remembers_denial(&self, check: &Check, now: Timestamp) -> bool {
        self.remembered.borrow().find(check, now).is_some()
    }

    fn remembered_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        if check.cost == 0 {
            return None;
        }
        match self.remembered.borrow().find(check, now)? {
            (verdict, Revalidation::NotDue) => Some(verdict),
            (_, Revalidation::Due) => None,
        }
    }
}

/// Whether a remembered denial still applies while the store fails.
fn outlasts_outage(remembered: &Verdict, check: &Check, now: Timestamp) -> bool {
    let applies = |(charge, answer): (&Charge, Option<&QuotaAnswer>)| {
        answer.is_some_and(|answer| {
            let blocked = answer.blocked_until.is_some_and(|until| until > now);
            blocked || charge.on_failure != OnFailure::Allow
        })
    };
    remembered.address_block.is_some() || remembered.enforced(check).any(applies)
}

/// What denies.
#[derive(Clone, Copy)]
enum DeniedBy {
    Address(AddressBlock),
    Quota(QuotaAnswer),
}

/// Whether this request asks the store if a denial still applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Revalidation {
    /// No revalidation is due, or one is in flight.
    NotDue,
    /// This request revalidates.
    Due,
}

/// A denial of one cost. It says nothing about requests of other costs.
#[derive(Clone, Copy)]
struct RememberedDenial {
    cost: u32,
    denial: DeniedBy,
    ends: Timestamp,
    /// Until when it is repeated without asking the store.
    fresh_until: Deadline,
}

/// The denials of one key.
struct DenialEntry {
    per_cost: Vec<RememberedDenial>,
    ends: Timestamp,
}

/// The remembered denials by key: a quota's key or an address.
struct DenialMap {
    max_entries: usize,
    denials: HashMap<Rc<str>, DenialEntry, Seed>,
    by_end: BTreeSet<(Timestamp, Rc<str>)>,
}

/// The most costs of one key whose denials are remembered.
const MAX_COSTS_PER_KEY: usize = 8;

/// The cost under which the block of an address is remembered: it denies any cost.
const ANY_COST: u32 = 0;

impl DenialMap {
    /// What [`find`](Self::find) returns. If a revalidation is due, the caller has to make it: for others it is in flight.
    fn verdict(&mut self, check: &Check, now: Timestamp) -> Option<(Verdict, Revalidation)> {
        let (verdict, revalidation) = self.find(check, now)?;
        if revalidation == Revalidation::Due {
            let address = check.address.as_deref().map(|address| (address, ANY_COST));
            let keys = check
                .charges
                .iter()
                .map(|charge| (charge.key.as_str(), check.cost));
            for (key, cost) in keys.chain(address) {
                self.begin_revalidation(key, cost, now);
            }
        }
        Some((verdict, revalidation))
    }

    /// The denial of `check`, if one is remembered that applies at `now`, and whether it has to be revalidated.
    fn find(&self, check: &Check, now: Timestamp) -> Option<(Verdict, Revalidation)> {
        if self.denials.is_empty() {
            return None;
        }
        let mut verdict = Verdict {
            answers: vec![None; check.charges.len()],
            source: Source::Remembered,
            ..Verdict::default()
        };
        let mut revalidation = None;
        let mut applies = |remembered: &RememberedDenial| {
            let fresh = remembered.fresh_until.is_pending(now);
            let not_due = fresh || revalidation == Some(Revalidation::NotDue);
            revalidation = Some(if not_due {
                Revalidation::NotDue
            } else {
                Revalidation::Due
            });
        };
        if let Some(address) = &check.address
            && let Some(known) = self.get(address, ANY_COST, now)
            && let DeniedBy::Address(block) = known.denial
        {
            verdict.address_block = Some(block);
            applies(known);
        }
        for (charge, answer) in check.charges.iter().zip(&mut verdict.answers) {
            if charge.enforced
                && let Some(known) = self.get(&charge.key, check.cost, now)
                && let DeniedBy::Quota(denial) = known.denial
                // A block that another request of the key set does not apply to a charge that sets no block.
                && (denial.blocked_until.is_none() || charge.blocks())
            {
                *answer = Some(denial);
                applies(known);
            }
        }
        Some((verdict, revalidation?))
    }

    fn get(&self, key: &str, cost: u32, now: Timestamp) -> Option<&RememberedDenial> {
        let entry = self.denials.get(key)?;
        let mut per_cost = entry.per_cost.iter();
        per_cost.find(|known| known.cost == cost && known.ends > now)
    }

    /// Lets other requests repeat the denial meanwhile. It is a deadline, not a flag, because a cancelled request never
    /// reports its end.
    fn begin_revalidation(&mut self, key: &str, cost: u32, now: Timestamp) {
        let known = self.denials.get_mut(key).map(|entry| &mut entry.per_cost);
        for known in known.into_iter().flatten() {
            if known.cost == cost {
                known.fresh_until = Deadline::after(REVALIDATING_FOR, now);
            }
        }
    }

    /// Remembers the denials of a verdict, and forgets those that the verdict contradicts.
    fn learn(&mut self, check: &Check, verdict: &Verdict, now: Timestamp) {
        if let Some(address) = &check.address {
            let until = |block: AddressBlock| block.until.unwrap_or(now + REMEMBER_ENDLESS_FOR);
            let denial = verdict
                .address_block
                .map(|block| (DeniedBy::Address(block), until(block)));
            self.remember(address, ANY_COST, denial, now);
        }
        for (charge, answer) in verdict.enforced(check) {
            let Some(answer) = answer else { continue };
            let ends = match answer.decision.outcome {
                QuotaOutcome::Impossible => Some(now + REMEMBER_ENDLESS_FOR),
                QuotaOutcome::Allowed | QuotaOutcome::Denied { .. } => answer.retry_at(),
            };
            let denial = ends.map(|ends| (DeniedBy::Quota(*answer), ends));
            self.remember(&charge.key, check.cost, denial, now);
        }
    }

    /// Forgets the denials by the quotas of `check` at its cost.
    fn forget_quotas(&mut self, check: &Check, now: Timestamp) {
        for charge in &check.charges {
            self.remember(&charge.key, check.cost, None, now);
        }
    }

    /// Replaces the denial of a key and a cost by the store's latest answer; `None`: it no longer denies.
    fn remember(
        &mut self,
        key: &str,
        cost: u32,
        denial: Option<(DeniedBy, Timestamp)>,
        now: Timestamp,
    ) {
        let mut per_cost = self.forget(key);
        per_cost.retain(|known| known.cost != cost && known.ends > now);
        if per_cost.len() >= MAX_COSTS_PER_KEY {
            per_cost.remove(0);
        }
        per_cost.extend(denial.map(|(denial, ends)| RememberedDenial {
            cost,
            denial,
            ends,
            fresh_until: Deadline::after(MAX_AGE, now),
        }));
        let Some(ends) = per_cost.iter().map(|known| known.ends).max() else {
            return;
        };
        // Forget ended denials first, then those that end soonest, which save the least. At most two at a
        // time, so that no request pays for many.
        for _ in 0..2 {
            if let Some((ends, first)) = self.by_end.first().cloned()
                && (ends <= now || self.denials.len() >= self.max_entries)
            {
                self.forget(&first);
            }
        }
        let key: Rc<str> = key.into();
        self.by_end.insert((ends, Rc::clone(&key)));
        self.denials.insert(key, DenialEntry { per_cost, ends });
    }

    /// Forgets the denials of a key, and returns them.
    fn forget(&mut self, key: &str) -> Vec<RememberedDenial> {
        match self.denials.remove_entry(key) {
            Some((key, entry)) => {
                self.by_end.remove(&(entry.ends, key));
                entry.per_cost
            }
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
