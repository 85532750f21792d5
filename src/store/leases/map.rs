//! What an isolate holds of each quota, and how much of it is asked for.

use super::Prefetch;
use super::quota::LeasedQuota;
use crate::generations::Generations;
use crate::seed::Seed;
use crate::store::shared::{Question, StoreReply};
use crate::store::{Charge, Check, Source, StoreError, Verdict};
use crate::time::{Deadline, Millis, Timestamp};

/// Nothing is held for as long; and nothing is asked for in advance for as long after a call that may
/// have run although it failed: each would be counted, and be of no use.
const LONG: Millis = Millis::new(10_000);

pub(super) struct LeaseMap {
    quotas: Generations<String, LeasedQuota>,
    /// Nothing is asked for in advance until then.
    paused: Deadline,
}

impl LeaseMap {
    pub(super) fn new(entries: usize, seed: &Seed) -> Self {
        Self {
            quotas: Generations::new(entries, Some(LONG), seed),
            paused: Deadline::OVER,
        }
    }

    /// Admits the request from what is held, if all of its quotas can be drawn on; with what to ask
    /// for in the background, if little is left.
    pub(super) fn spend(
        &mut self,
        check: &Check,
        now: Timestamp,
    ) -> Option<(Verdict, Option<Prefetch>)> {
        for charge in &check.charges {
            let quota = self.quotas.get(&charge.key, now)?;
            let enough = quota.units(now) >= check.cost;
            if !enough && quota.known_denial(charge, check.cost, now).is_none() {
                return None;
            }
        }
        let mut verdict = Verdict {
            source: Source::Lease,
            ..Verdict::default()
        };
        for charge in &check.charges {
            let quota = self.quotas.get(&charge.key, now)?;
            let answer = if quota.units(now) >= check.cost {
                quota.spend(check.cost, &charge.quota, now);
                Some(quota.answer(now))
            } else {
                quota.known_denial(charge, check.cost, now)
            };
            verdict.answers.push(answer);
        }
        let prefetch = self.prefetch(check, now);
        Some((verdict, prefetch))
    }

    /// Asks for more once half of what is worth holding has been spent.
    fn prefetch(&mut self, check: &Check, now: Timestamp) -> Option<Prefetch> {
        let mut low = false;
        for charge in &check.charges {
            let quota = self.quotas.get(&charge.key, now)?;
            let target = quota.target(&charge.quota, lease_of(charge, check), now);
            low |= quota.can_ask(now) && quota.units(now) < target.div_ceil(2);
        }
        let leases = if low { self.ask(check, now) } else { None };
        leases.map(|leases| Prefetch {
            check: Check {
                cost: 0,
                ..check.clone()
            },
            leases,
        })
    }

    /// Whether units may be asked for in advance: of every quota that can deny, or those of the others
    /// would be counted for nothing.
    fn may_ask(&mut self, check: &Check, now: Timestamp) -> bool {
        let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
        !self.paused.is_pending(now)
            && enforced.all(|charge| {
                let quota = self.quotas.get(&charge.key, now);
                quota.is_some_and(|quota| quota.may_give(now))
            })
    }

    /// The units that each quota of the check is to give in advance, if any is to give some.
    pub(super) fn ask(&mut self, check: &Check, now: Timestamp) -> Option<Vec<u32>> {
        if !self.may_ask(check, now) {
            return None;
        }
        let mut leases = vec![0; check.charges.len()];
        for (charge, units) in check.charges.iter().zip(&mut leases) {
            let lease = lease_of(charge, check);
            let Some(quota) = self.quotas.get(&charge.key, now) else {
                continue;
            };
            if !quota.can_ask(now) {
                continue;
            }
            let target = quota.target(&charge.quota, lease, now);
            // With those of the request, no more than the lease.
            let most = target.min(lease.saturating_sub(check.cost));
            *units = most.saturating_sub(quota.units(now));
            if *units > 0 {
                quota.asks(now);
            }
        }
        leases.iter().any(|units| *units > 0).then_some(leases)
    }

    /// Takes over what the store has answered, and adds to the answers what is held beside them.
    pub(super) fn learn(
        &mut self,
        question: &Question<'_>,
        reply: &mut StoreReply,
        now: Timestamp,
    ) {
        let check = question.check;
        let verdict = &mut reply.verdict;
        let admitted = verdict.allows(check);
        let blocked = verdict.address_block.is_some();
        let answers = check.charges.iter().zip(&mut verdict.answers);
        for (place, (charge, answer)) in answers.enumerate() {
            let Some(answer) = answer else { continue };
            if blocked || answer.blocked_until.is_some() {
                self.quotas.remove(&charge.key);
                continue;
            }
            let leased = reply.holdings.get(place).map_or(0, |held| held.leased);
            let asked = question.extra(place).lease;
            let lease = lease_of(charge, check);
            self.entry(&charge.key, now).learn(
                charge,
                (answer, leased),
                (check.cost, asked, lease),
                admitted,
                now,
            );
        }
    }

    /// The one that asked has failed: another may ask, unless what it took may have been counted.
    pub(super) fn learn_failure(
        &mut self,
        question: &Question<'_>,
        error: &StoreError,
        now: Timestamp,
    ) {
        if error.may_have_run() {
            self.paused = Deadline::after(LONG, now);
        }
        for (place, charge) in question.check.charges.iter().enumerate() {
            if question.extra(place).lease > 0
                && let Some(quota) = self.quotas.get(&charge.key, now)
            {
                quota.asked();
            }
        }
    }

    pub(super) fn forget(&mut self, key: &str) {
        self.quotas.remove(key);
    }

    fn entry(&mut self, key: &str, now: Timestamp) -> &mut LeasedQuota {
        self.quotas.get_or_default(key, now)
    }
}

/// A shadow without a lease of its own has the largest of those beside it: it counts what is
/// admitted, and asks nothing of anybody.
fn lease_of(charge: &Charge, check: &Check) -> u32 {
    if charge.enforced || charge.lease > 1 {
        return charge.lease;
    }
    let leases = check.charges.iter().map(|charge| charge.lease);
    leases.max().unwrap_or_default()
}

#[cfg(test)]
impl LeaseMap {
    pub(super) fn len(&self) -> usize {
        self.quotas.len()
    }

    pub(super) fn grants(&self) -> usize {
        self.quotas.values().map(LeasedQuota::grants).sum()
    }
}
