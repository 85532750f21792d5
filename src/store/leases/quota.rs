//! The leased units of one quota.

use super::demand::Demand;
use crate::quota::{Decision, LEASE_DIVISOR, Quota, QuotaOutcome};
use crate::store::{Charge, QuotaAnswer};
use crate::time::{Deadline, Millis, Timestamp};

/// How long a call for more units may take before another request asks for some.
const ASKING_FOR: Millis = Millis::new(2000);

/// Units leased by one call.
struct Grant {
    units: u32,
    /// Until when they may be spent.
    spend_until: Deadline,
}

/// The leased units of one quota, and what the isolate knows of the rest of it.
#[derive(Default)]
pub(super) struct LeasedQuota {
    /// The oldest first.
    grants: Vec<Grant>,
    /// The cost of the latest question and the store's answer to it. Its remaining units exclude the leased ones.
    latest: Option<(u32, QuotaAnswer)>,
    demand: Demand,
    /// Until when a call for more units counts as under way.
    asking_until: Deadline,
    /// Until when nobody asks for more, because the quota granted nothing.
    retry_after: Deadline,
}

impl LeasedQuota {
    /// Units that can be spent now.
    pub(super) fn units(&self, now: Timestamp) -> u32 {
        let grants = self.grants.iter();
        let valid = grants.filter(|grant| grant.spend_until.is_pending(now));
        valid.map(|grant| grant.units).sum()
    }

    /// Spends leased units, the oldest first. The caller has checked that there are enough.
    pub(super) fn spend(&mut self, units: u32, quota: &Quota, now: Timestamp) {
        self.drop_ended(now);
        let mut due = units;
        for grant in &mut self.grants {
            let part = due.min(grant.units);
            grant.units -= part;
            due -= part;
        }
        self.grants.retain(|grant| grant.units > 0);
        self.demand.add(units, quota.lease_time(), now);
    }

    /// The units worth leasing: half of the expected demand, so that most of them are spent, and at most `lease`.
    pub(super) fn target(&self, quota: &Quota, lease: u32, now: Timestamp) -> u32 {
        lease.min(self.demand.expected(quota.lease_time(), now) / 2)
    }

    /// The denial of `cost` by a shadow quota, if it still applies. Until its retry time the quota would count nothing.
    pub(super) fn known_denial(
        &self,
        charge: &Charge,
        cost: u32,
        now: Timestamp,
    ) -> Option<QuotaAnswer> {
        let (denied, answer) = self.latest.filter(|_| !charge.enforced)?;
        match answer.decision.outcome {
            QuotaOutcome::Denied { retry_at } if retry_at > now && cost >= denied => Some(answer),
            QuotaOutcome::Impossible if cost >= denied => Some(answer),
            _ => None,
        }
    }

    /// Whether the quota may have units to lease, as far as the isolate knows.
    pub(super) fn may_grant(&self, now: Timestamp) -> bool {
        let few = |(_, answer): (u32, QuotaAnswer)| answer.decision.remaining < LEASE_DIVISOR;
        !self.retry_after.is_pending(now) && !self.latest.is_some_and(few)
    }

    /// Whether the quota may have units to lease, and no call for them is under way.
    pub(super) fn can_ask(&self, now: Timestamp) -> bool {
        !self.asking_until.is_pending(now) && self.may_grant(now)
    }

    /// Records that a call for more units begins.
    pub(super) fn begin_asking(&mut self, now: Timestamp) {
        self.asking_until = Deadline::after(ASKING_FOR, now);
    }

    /// Records that the call for more units has ended.
    pub(super) fn end_asking(&mut self) {
        self.asking_until = Deadline::OVER;
    }

    /// The answer to a request that leased units admit.
    pub(super) fn answer(&self, now: Timestamp) -> QuotaAnswer {
        let latest = self.latest.map(|(_, answer)| answer.decision);
        let not_leased = latest.map_or(0, |latest| latest.remaining);
        QuotaAnswer {
            decision: Decision {
                outcome: QuotaOutcome::Allowed,
                remaining: not_leased.saturating_add(self.units(now)),
                reset_at: latest.map_or(now, |latest| latest.reset_at),
                at: now,
            },
            blocked_until: None,
        }
    }

    /// Takes over the store's answer to a request of `cost`, which leased `leased` of the `asked` units. It adds the units
    /// that were leased before to the answer. It keeps at most `lease` units in all: several calls may have asked, if the
    /// first took long.
    pub(super) fn learn(
        &mut self,
        charge: &Charge,
        (answer, leased): (&mut QuotaAnswer, u32),
        (cost, asked, lease): (u32, u32, u32),
        admitted: bool,
        now: Timestamp,
    ) {
        self.drop_ended(now);
        let leased_before = self.units(now);
        let mut latest = *answer;
        latest.decision.remaining -= leased.min(latest.decision.remaining);
        // An answer to a read does not replace a denial that still applies.
        if cost > 0 || self.known_denial(charge, u32::MAX, now).is_none() {
            self.latest = Some((cost, latest));
        }
        let period = charge.quota.lease_time();
        if asked > 0 {
            self.end_asking();
            if leased == 0 {
                self.retry_after = Deadline::after(Millis::new(period.get() / 2), now);
            }
        }
        if admitted && answer.decision.allowed() {
            self.demand.add(cost, period, now);
        }
        let units = leased.min(lease.saturating_sub(leased_before));
        if units > 0 {
            let ends = charge.quota.lease_ends(answer.decision.at, now);
            self.grants.push(Grant {
                units,
                spend_until: Deadline::after(ends.since(now), now),
            });
        }
        if answer.decision.allowed() {
            let remaining = answer.decision.remaining.saturating_add(leased_before);
            answer.decision.remaining = remaining.min(charge.quota.capacity());
        }
    }

    fn drop_ended(&mut self, now: Timestamp) {
        self.grants
            .retain(|grant| grant.spend_until.is_pending(now));
    }
}

#[cfg(test)]
impl LeasedQuota {
    pub(super) fn grants(&self) -> usize {
        self.grants.len()
    }
}
