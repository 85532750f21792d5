//! What an isolate holds of one quota.

use super::demand::Demand;
use crate::quota::{Decision, LEASE_DIVISOR, Quota, QuotaOutcome};
use crate::store::{Charge, QuotaAnswer};
use crate::time::{Deadline, Millis, Timestamp};

/// How long the others wait for the answer to the one that asks for units, before another does.
const ASKING: Millis = Millis::new(2000);

/// Units leased together.
struct Grant {
    units: u32,
    /// While they may be spent.
    lasts: Deadline,
}

/// What an isolate holds of one quota, and what it knows of the rest.
#[derive(Default)]
pub(super) struct LeasedQuota {
    /// In the order in which they were handed out.
    grants: Vec<Grant>,
    /// The store's latest answer, and to what cost; its remaining units are those beside what is held.
    latest: Option<(u32, QuotaAnswer)>,
    demand: Demand,
    asking: Deadline,
    /// The quota has given nothing: until then nobody asks for more.
    scarce: Deadline,
}

impl LeasedQuota {
    /// Units that can be spent now.
    pub(super) fn units(&self, now: Timestamp) -> u32 {
        let standing = self.grants.iter();
        let standing = standing.filter(|grant| grant.lasts.is_pending(now));
        standing.map(|grant| grant.units).sum()
    }

    /// Takes units of which there are enough, the oldest first.
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

    /// Half of what is expected, so that most of what is held is spent.
    pub(super) fn target(&self, quota: &Quota, lease: u32, now: Timestamp) -> u32 {
        lease.min(self.demand.expected(quota.lease_time(), now) / 2)
    }

    /// A shadow's denial of `cost` that stands: it counts nothing until then.
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

    /// Whether the quota may have units to lease, as far as is known.
    pub(super) fn may_give(&self, now: Timestamp) -> bool {
        let little = |(_, answer): (u32, QuotaAnswer)| answer.decision.remaining < LEASE_DIVISOR;
        !self.scarce.is_pending(now) && !self.latest.is_some_and(little)
    }

    /// Whether a request for more makes sense, and no other is under way.
    pub(super) fn can_ask(&self, now: Timestamp) -> bool {
        !self.asking.is_pending(now) && self.may_give(now)
    }

    /// A request for more is under way from now on.
    pub(super) fn asks(&mut self, now: Timestamp) {
        self.asking = Deadline::after(ASKING, now);
    }

    /// The request for more has ended.
    pub(super) fn asked(&mut self) {
        self.asking = Deadline::OVER;
    }

    /// The answer to a request that is admitted from what is held.
    pub(super) fn answer(&self, now: Timestamp) -> QuotaAnswer {
        let latest = self.latest.map(|(_, answer)| answer.decision);
        let beside = latest.map_or(0, |latest| latest.remaining);
        QuotaAnswer {
            decision: Decision {
                outcome: QuotaOutcome::Allowed,
                remaining: beside.saturating_add(self.units(now)),
                reset_at: latest.map_or(now, |latest| latest.reset_at),
                at: now,
            },
            blocked_until: None,
        }
    }

    /// Takes over what the store answered to a request of `cost`, with `leased` of the units that were
    /// `asked` for. Of several that asked, because the first took long, no more than `lease` is kept.
    pub(super) fn learn(
        &mut self,
        charge: &Charge,
        (answer, leased): (&mut QuotaAnswer, u32),
        (cost, asked, lease): (u32, u32, u32),
        admitted: bool,
        now: Timestamp,
    ) {
        self.drop_ended(now);
        let held = self.units(now);
        let mut latest = *answer;
        latest.decision.remaining -= leased.min(latest.decision.remaining);
        // A read does not lift what denies.
        if cost > 0 || self.known_denial(charge, u32::MAX, now).is_none() {
            self.latest = Some((cost, latest));
        }
        let period = charge.quota.lease_time();
        if asked > 0 {
            self.asked();
            if leased == 0 {
                self.scarce = Deadline::after(Millis::new(period.get() / 2), now);
            }
        }
        if admitted && answer.decision.allowed() {
            self.demand.add(cost, period, now);
        }
        let units = leased.min(lease.saturating_sub(held));
        if units > 0 {
            let ends = charge.quota.lease_ends(answer.decision.at, now);
            self.grants.push(Grant {
                units,
                lasts: Deadline::after(ends.since(now), now),
            });
        }
        if answer.decision.allowed() {
            let remaining = answer.decision.remaining.saturating_add(held);
            answer.decision.remaining = remaining.min(charge.quota.capacity());
        }
    }

    fn drop_ended(&mut self, now: Timestamp) {
        self.grants.retain(|grant| grant.lasts.is_pending(now));
    }
}

#[cfg(test)]
impl LeasedQuota {
    pub(super) fn grants(&self) -> usize {
        self.grants.len()
    }
}
