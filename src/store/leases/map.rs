//! The leased units of all quotas, and how many more to ask for.

use super::Prefetch;
use super::quota::LeasedQuota;
use crate::generations::Generations;
use crate::seed::Seed;
use crate::store::shared::{Question, StoreReply};
use crate::store::{Charge, Check, Source, StoreError, Verdict};
use crate::time::{Deadline, Millis, Timestamp};

/// How long a quota that is not used is remembered. No lease lasts as long.
const REMEMBERED_FOR: Millis = Millis::new(10_000);

/// How long nothing is leased after a call that failed but may have run. Such calls lease units that nobody can spend.
const PAUSED_FOR: Millis = Millis::new(10_000);

pub(super) struct LeaseMap {
    quotas: Generations<String, LeasedQuota>,
    /// Until when nothing is leased.
    paused_until: Deadline,
}

impl LeaseMap {
    pub(super) fn new(entries: usize, seed: &Seed) -> Self {
        Self {
            quotas: Generations::new(entries, Some(REMEMBERED_FOR), seed),
            paused_until: Deadline::OVER,
        }
    }

    /// Admits the request from leased units, if every quota has enough of them. If few are left, it also returns what to
    /// prefetch.
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

    /// What to prefetch, once less than half of the units worth leasing is left.
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

    /// Whether to lease units for a check: only if every enforced quota may grant some. Otherwise requests could not spend
    /// the units that the other quotas grant.
    fn may_ask(&mut self, check: &Check, now: Timestamp) -> bool {
        let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
        !self.paused_until.is_pending(now)
            && enforced.all(|charge| {
                let quota = self.quotas.get(&charge.key, now);
                quota.is_some_and(|quota| quota.may_grant(now))
            })
    }

    /// The units to lease from each quota of the check; `None` if there are none to lease.
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
            // Including the units of the request, at most the policy's lease.
            let most = target.min(lease.saturating_sub(check.cost));
            *units = most.saturating_sub(quota.units(now));
            if *units > 0 {
                quota.begin_asking(now);
            }
        }
        leases.iter().any(|units| *units > 0).then_some(leases)
    }

    /// Takes over the store's reply, and adds the units that were leased before to its answers.
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
            let leased = reply
                .stored_charges
                .get(place)
                .map_or(0, |stored| stored.leased);
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

    /// Records that a call has failed: another may ask. If the failed call may have run, nothing is leased for a while.
    pub(super) fn learn_failure(
        &mut self,
        question: &Question<'_>,
        error: &StoreError,
        now: Timestamp,
    ) {
        if error.may_have_run() {
            self.paused_until = Deadline::after(PAUSED_FOR, now);
        }
        for (place, charge) in question.check.charges.iter().enumerate() {
            if question.extra(place).lease > 0
                && let Some(quota) = self.quotas.get(&charge.key, now)
            {
                quota.end_asking();
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

/// The most units to lease from a charge. A shadow quota without a lease uses the largest lease of the check: it counts what
/// leases admit, so it has to be leased as well, and it never denies.
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
