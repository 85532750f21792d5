//! Remembered denials: a caller that is known to be denied costs no I/O.
//!
//! A denial by quota is exact until its retry time, since others of the same key can only consume
//! more; so an isolate may repeat it until then. Never for longer than [`MAX_AGE`] without asking
//! again, so that an unblock, a reset or a refund made elsewhere takes effect. One request asks, and
//! the others get what is remembered meanwhile: a flood costs one question, however wide it is. If
//! the store does not answer it, the denial stands, but for a quota's that a failing store lets admit
//! ([`OnFailure::Allow`]): blocks outlast an outage.
//!
//! A request that is denied from memory by one policy does not reach the store, so it sets no block
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

/// How long a denial is repeated without asking the store again.
pub const MAX_AGE: Millis = Millis::new(10_000);

/// How long the others wait for the answer to the one that asks again, before another does.
const REVALIDATING: Millis = Millis::new(2000);

/// Of a denial that time does not end: a block to be lifted by hand, a cost that can never be met.
const ENDLESS: Millis = Millis::from_secs(24 * 60 * 60);

/// Denials that an isolate remembers unless told otherwise; one is about 200 bytes.
pub const DEFAULT_ENTRIES: usize = 20_000;

/// A store that repeats its inner store's denials from memory.
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
                most: entries.max(1),
                denials: HashMap::with_hasher(seed),
                by_end: BTreeSet::new(),
            }),
        }
    }

    /// Forgets the denials of a quota's key, or of an address: the store is asked again.
    pub fn forget(&self, key: &str) {
        self.remembered.borrow_mut().forget(key);
    }

    /// The store that is asked.
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
                // The others of the key wait for the answer.
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
                if error == StoreError::OverCap || outlasts(&remembered, check, now) =>
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

/// Whether a denial is one that a failing store does not lift.
fn outlasts(known: &Verdict, check: &Check, now: Timestamp) -> bool {
    let stands = |(charge, answer): (&Charge, Option<&QuotaAnswer>)| {
        answer.is_some_and(|answer| {
            let blocked = answer.blocked_until.is_some_and(|until| until > now);
            blocked || charge.on_failure != OnFailure::Allow
        })
    };
    known.address_block.is_some() || known.enforced(check).any(stands)
}

#[derive(Clone, Copy)]
enum RememberedBy {
    Address(AddressBlock),
    Quota(QuotaAnswer),
}

/// Whether the request at hand asks the store if a denial still stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Revalidation {
    /// No revalidation is due, or one is in flight.
    NotDue,
    /// This request revalidates.
    Due,
}

/// A denial of one cost: requests of other costs are asked for themselves.
#[derive(Clone, Copy)]
struct Remembered {
    cost: u32,
    denial: RememberedBy,
    ends: Timestamp,
    /// Until then it is repeated without asking.
    fresh: Deadline,
}

/// The denials of one key.
struct DenialEntry {
    per_cost: Vec<Remembered>,
    ends: Timestamp,
}

struct DenialMap {
    most: usize,
    denials: HashMap<Rc<str>, DenialEntry, Seed>,
    by_end: BTreeSet<(Timestamp, Rc<str>)>,
}

/// Costs of a key of which a denial is remembered.
const COSTS: usize = 8;

/// An address's block denies any cost.
const ANY_COST: u32 = 0;

impl DenialMap {
    /// What [`find`](Self::find) finds. Where a revalidation is due, the one who asks is to do it.
    fn verdict(&mut self, check: &Check, now: Timestamp) -> Option<(Verdict, Revalidation)> {
        let (verdict, revalidation) = self.find(check, now)?;
        if revalidation == Revalidation::Due {
            let address = check.address.as_deref().map(|address| (address, ANY_COST));
            let keys = check
                .charges
                .iter()
                .map(|charge| (charge.key.as_str(), check.cost));
            for (key, cost) in keys.chain(address) {
                self.revalidates(key, cost, now);
            }
        }
        Some((verdict, revalidation))
    }

    /// The denial of `check`, if one is known to stand at `now`, and whether it is to be revalidated.
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
        let mut stands = |remembered: &Remembered| {
            let fresh = remembered.fresh.is_pending(now);
            let not_due = fresh || revalidation == Some(Revalidation::NotDue);
            revalidation = Some(if not_due {
                Revalidation::NotDue
            } else {
                Revalidation::Due
            });
        };
        if let Some(address) = &check.address
            && let Some(known) = self.get(address, ANY_COST, now)
            && let RememberedBy::Address(block) = known.denial
        {
            verdict.address_block = Some(block);
            stands(known);
        }
        for (charge, answer) in check.charges.iter().zip(&mut verdict.answers) {
            if charge.enforced
                && let Some(known) = self.get(&charge.key, check.cost, now)
                && let RememberedBy::Quota(denial) = known.denial
                // A block that another caller of the key set is none of one that may not be blocked.
                && (denial.blocked_until.is_none() || charge.blocks())
            {
                *answer = Some(denial);
                stands(known);
            }
        }
        Some((verdict, revalidation?))
    }

    fn get(&self, key: &str, cost: u32, now: Timestamp) -> Option<&Remembered> {
        let entry = self.denials.get(key)?;
        let mut per_cost = entry.per_cost.iter();
        per_cost.find(|known| known.cost == cost && known.ends > now)
    }

    /// A deadline, not a flag: a request that is cancelled never says that it is over.
    fn revalidates(&mut self, key: &str, cost: u32, now: Timestamp) {
        let known = self.denials.get_mut(key).map(|entry| &mut entry.per_cost);
        for known in known.into_iter().flatten() {
            if known.cost == cost {
                known.fresh = Deadline::after(REVALIDATING, now);
            }
        }
    }

    fn learn(&mut self, check: &Check, verdict: &Verdict, now: Timestamp) {
        if let Some(address) = &check.address {
            let until = |block: AddressBlock| block.until.unwrap_or(now + ENDLESS);
            let denial = verdict
                .address_block
                .map(|block| (RememberedBy::Address(block), until(block)));
            self.remember(address, ANY_COST, denial, now);
        }
        for (charge, answer) in verdict.enforced(check) {
            let Some(answer) = answer else { continue };
            let ends = match answer.decision.outcome {
                QuotaOutcome::Impossible => Some(now + ENDLESS),
                QuotaOutcome::Allowed | QuotaOutcome::Denied { .. } => answer.retry_at(),
            };
            let denial = ends.map(|ends| (RememberedBy::Quota(*answer), ends));
            self.remember(&charge.key, check.cost, denial, now);
        }
    }

    /// Forgets what is known of the quotas of `check`.
    fn forget_quotas(&mut self, check: &Check, now: Timestamp) {
        for charge in &check.charges {
            self.remember(&charge.key, check.cost, None, now);
        }
    }

    /// Remembers what the store says now, be it that there is no denial any more.
    fn remember(
        &mut self,
        key: &str,
        cost: u32,
        denial: Option<(RememberedBy, Timestamp)>,
        now: Timestamp,
    ) {
        let mut per_cost = self.forget(key);
        per_cost.retain(|known| known.cost != cost && known.ends > now);
        if per_cost.len() >= COSTS {
            per_cost.remove(0);
        }
        per_cost.extend(denial.map(|(denial, ends)| Remembered {
            cost,
            denial,
            ends,
            fresh: Deadline::after(MAX_AGE, now),
        }));
        let Some(ends) = per_cost.iter().map(|known| known.ends).max() else {
            return;
        };
        // Ended ones make room first, then those that end soonest, which save the least; two at a
        // time, so that no request pays for many.
        for _ in 0..2 {
            if let Some((ends, first)) = self.by_end.first().cloned()
                && (ends <= now || self.denials.len() >= self.most)
            {
                self.forget(&first);
            }
        }
        let key: Rc<str> = key.into();
        self.by_end.insert((ends, Rc::clone(&key)));
        self.denials.insert(key, DenialEntry { per_cost, ends });
    }

    fn forget(&mut self, key: &str) -> Vec<Remembered> {
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
