//! What an isolate holds of each quota, and how much of it is asked for.

use std::collections::HashMap;

use crate::quota::{Decision, LEAST_LEASED, Outcome, Quota};
use crate::seed::Seed;
use crate::store::{Answer, Charge, Check, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

/// How long the others wait for the answer to the one that asks for units, before another does. A
/// deadline, not a flag: a request that is cancelled never says that it is over.
const ASKING: Millis = Millis::new(2000);

/// Nothing is held for as long; and nothing is asked for in advance for as long after a call that may
/// have run although it failed: each would be counted, and be of no use.
const LONG: Millis = Millis::new(10_000);

/// Whether a time that was set to no more than `most` ahead is still to come. One further ahead was
/// set by a clock that has stepped back since.
fn to_come(until: Timestamp, most: Millis, now: Timestamp) -> bool {
    until > now && until <= now + most
}

/// Two generations: what has not been touched for one is forgotten with the older, whether time or
/// the number of callers ends it.
pub(super) struct Held {
    most: usize,
    current: HashMap<String, Holding, Seed>,
    previous: HashMap<String, Holding, Seed>,
    since: Timestamp,
    /// Nothing is asked for in advance until then.
    paused_until: Timestamp,
}

/// Units handed out together.
struct Grant {
    units: u32,
    ends: Timestamp,
}

#[derive(Default)]
struct Holding {
    /// In the order in which they were handed out.
    grants: Vec<Grant>,
    /// The store's latest answer, and to what cost; its remaining units are those beside what is held.
    latest: Option<(u32, Answer)>,
    demand: Demand,
    asking_until: Timestamp,
    /// The quota has given nothing: until then nobody asks for more.
    scarce_until: Timestamp,
}

/// Units admitted in the current period, as long as a lease, and in the one before.
#[derive(Default)]
struct Demand {
    since: Timestamp,
    current: u32,
    before: u32,
}

impl Demand {
    fn add(&mut self, units: u32, period: Millis, now: Timestamp) {
        let age = now.since(self.since);
        if age >= period || self.since > now {
            let adjoins = self.since <= now && age.get() < 2 * period.get();
            self.before = if adjoins { self.current } else { 0 };
            self.current = 0;
            self.since = if adjoins { self.since + period } else { now };
        }
        self.current = self.current.saturating_add(units);
    }

    /// What is asked for in a lease's time, if it goes on.
    fn expected(&self, period: Millis, now: Timestamp) -> u32 {
        let age = now.since(self.since).get();
        if age < period.get() {
            self.current.max(self.before)
        } else if age < 2 * period.get() {
            self.current
        } else {
            0
        }
    }
}

impl Holding {
    fn units(&self, quota: &Quota, now: Timestamp) -> u32 {
        let time = quota.lease_time();
        let standing = self.grants.iter();
        let standing = standing.filter(|grant| to_come(grant.ends, time, now));
        standing.map(|grant| grant.units).sum()
    }

    fn drop_ended(&mut self, quota: &Quota, now: Timestamp) {
        let time = quota.lease_time();
        self.grants.retain(|grant| to_come(grant.ends, time, now));
    }

    /// Takes what there is enough of: the oldest first.
    fn take(&mut self, units: u32, quota: &Quota, now: Timestamp) {
        self.drop_ended(quota, now);
        let mut due = units;
        for grant in &mut self.grants {
            let part = due.min(grant.units);
            grant.units -= part;
            due -= part;
        }
        self.grants.retain(|grant| grant.units > 0);
    }

    /// How many units are worth holding: half of what is expected, so that most of what is held is
    /// spent.
    fn target(&self, quota: &Quota, lease: u32, now: Timestamp) -> u32 {
        lease.min(self.demand.expected(quota.lease_time(), now) / 2)
    }

    /// A shadow's denial of `cost` that stands: it counts nothing until then.
    fn known_denial(&self, charge: &Charge, cost: u32, now: Timestamp) -> Option<Answer> {
        let (denied, answer) = self.latest.filter(|_| !charge.enforced)?;
        match answer.decision.outcome {
            Outcome::Denied { retry_at } if retry_at > now && cost >= denied => Some(answer),
            Outcome::Impossible if cost >= denied => Some(answer),
            _ => None,
        }
    }

    fn is_asked(&self, now: Timestamp) -> bool {
        to_come(self.asking_until, ASKING, now)
    }

    /// Whether there is something to be had in advance, as far as is known.
    fn may_give(&self, now: Timestamp) -> bool {
        let little = |(_, answer): (u32, Answer)| answer.decision.remaining < LEAST_LEASED;
        !to_come(self.scarce_until, LONG, now) && !self.latest.is_some_and(little)
    }

    fn answer(&self, quota: &Quota, now: Timestamp) -> Answer {
        let latest = self.latest.map(|(_, answer)| answer.decision);
        let beside = latest.map_or(0, |latest| latest.remaining);
        Answer {
            decision: Decision {
                outcome: Outcome::Allowed,
                remaining: beside.saturating_add(self.units(quota, now)),
                reset_at: latest.map_or(now, |latest| latest.reset_at),
                at: now,
            },
            advanced: 0,
            blocked_until: None,
        }
    }
}

impl Held {
    pub(super) fn new(entries: usize, seed: &Seed) -> Self {
        Self {
            most: entries.div_ceil(2).max(1),
            current: HashMap::with_hasher(seed.clone()),
            previous: HashMap::with_hasher(seed.clone()),
            since: Timestamp::default(),
            paused_until: Timestamp::default(),
        }
    }

    /// Admits the request from what is held, if all of its quotas can be drawn on; with what to ask
    /// for in the background, if little is left.
    pub(super) fn spend(
        &mut self,
        check: &Check,
        now: Timestamp,
    ) -> Option<(Verdict, Option<Check>)> {
        for charge in &check.charges {
            let holding = self.get(&charge.key, now)?;
            let enough = holding.units(&charge.quota, now) >= check.cost;
            if !enough && holding.known_denial(charge, check.cost, now).is_none() {
                return None;
            }
        }
        let mut verdict = Verdict::default();
        for charge in &check.charges {
            let holding = self.get(&charge.key, now)?;
            let answer = if holding.units(&charge.quota, now) >= check.cost {
                holding.take(check.cost, &charge.quota, now);
                let period = charge.quota.lease_time();
                holding.demand.add(check.cost, period, now);
                Some(holding.answer(&charge.quota, now))
            } else {
                holding.known_denial(charge, check.cost, now)
            };
            verdict.answers.push(answer);
        }
        let wish = self.wish(check, now);
        Some((verdict, wish))
    }

    /// Asks for more once half of what is worth holding has been spent.
    fn wish(&mut self, check: &Check, now: Timestamp) -> Option<Check> {
        let mut low = false;
        for charge in &check.charges {
            let holding = self.get(&charge.key, now)?;
            let target = holding.target(&charge.quota, lease_of(charge, check), now);
            let waits = holding.is_asked(now) || !holding.may_give(now);
            low |= !waits && holding.units(&charge.quota, now) < target.div_ceil(2);
        }
        if !low {
            return None;
        }
        let mut wish = self.asking(check, now);
        wish.cost = 0;
        let asks = wish.charges.iter().any(|charge| charge.advance > 0);
        asks.then_some(wish)
    }

    /// Whether units may be asked for in advance: of every quota that can deny, or those of the others
    /// would be counted for nothing.
    fn may_ask(&mut self, check: &Check, now: Timestamp) -> bool {
        let paused = to_come(self.paused_until, LONG, now);
        let mut enforced = check.charges.iter().filter(|charge| charge.enforced);
        !paused
            && enforced.all(|charge| {
                self.get(&charge.key, now)
                    .is_some_and(|it| it.may_give(now))
            })
    }

    /// The check, with the units that each of its quotas is to give in advance.
    pub(super) fn asking(&mut self, check: &Check, now: Timestamp) -> Check {
        let mut asking = check.clone();
        if !self.may_ask(check, now) {
            return asking;
        }
        for charge in &mut asking.charges {
            let lease = lease_of(charge, check);
            let Some(holding) = self.get(&charge.key, now) else {
                continue;
            };
            if holding.is_asked(now) || !holding.may_give(now) {
                continue;
            }
            let target = holding.target(&charge.quota, lease, now);
            // With those of the request, no more than the lease.
            let most = target.min(lease.saturating_sub(check.cost));
            charge.advance = most.saturating_sub(holding.units(&charge.quota, now));
            if charge.advance > 0 {
                holding.asking_until = now + ASKING;
            }
        }
        asking
    }

    /// Takes over what the store has answered, and adds to the answers what is held beside them.
    pub(super) fn learn(&mut self, check: &Check, verdict: &mut Verdict, now: Timestamp) {
        let admitted = verdict.allows(check);
        let blocked = verdict.address_block.is_some();
        for (charge, answer) in check.charges.iter().zip(&mut verdict.answers) {
            let Some(answer) = answer else { continue };
            if blocked || answer.blocked_until.is_some() {
                self.current.remove(&charge.key);
                self.previous.remove(&charge.key);
                continue;
            }
            let holding = self.entry(&charge.key, now);
            holding.drop_ended(&charge.quota, now);
            let held = holding.units(&charge.quota, now);
            let mut latest = *answer;
            latest.decision.remaining -= answer.advanced.min(latest.decision.remaining);
            // A read does not lift what denies.
            let reads = check.cost == 0;
            if !reads || holding.known_denial(charge, u32::MAX, now).is_none() {
                holding.latest = Some((check.cost, latest));
            }
            if charge.advance > 0 {
                holding.asking_until = Timestamp::default();
                if answer.advanced == 0 {
                    let period = charge.quota.lease_time();
                    holding.scarce_until = now + Millis::new(period.get() / 2);
                }
            }
            if admitted && answer.decision.allowed() {
                let period = charge.quota.lease_time();
                holding.demand.add(check.cost, period, now);
            }
            // Of several that asked, because the first took long, no more than a lease is kept.
            let most = lease_of(charge, check).saturating_sub(held);
            let units = answer.advanced.min(most);
            if units > 0 {
                holding.grants.push(Grant {
                    units,
                    ends: charge.quota.lease_ends(answer.decision.at, now),
                });
            }
            if answer.decision.allowed() {
                let remaining = answer.decision.remaining.saturating_add(held);
                answer.decision.remaining = remaining.min(charge.quota.capacity());
            }
        }
    }

    /// The one that asked has failed: another may ask, unless what it took may have been counted.
    pub(super) fn learn_failure(&mut self, check: &Check, error: &StoreError, now: Timestamp) {
        if error.may_have_run() {
            self.paused_until = now + LONG;
        }
        for charge in check.charges.iter().filter(|charge| charge.advance > 0) {
            if let Some(holding) = self.get(&charge.key, now) {
                holding.asking_until = Timestamp::default();
            }
        }
    }

    pub(super) fn forget(&mut self, key: &str) {
        self.current.remove(key);
        self.previous.remove(key);
    }

    fn get(&mut self, key: &str, now: Timestamp) -> Option<&mut Holding> {
        self.turn(now);
        if !self.current.contains_key(key)
            && let Some((key, holding)) = self.previous.remove_entry(key)
        {
            self.current.insert(key, holding);
        }
        self.current.get_mut(key)
    }

    fn entry(&mut self, key: &str, now: Timestamp) -> &mut Holding {
        self.get(key, now);
        self.current.entry(key.to_owned()).or_default()
    }

    fn turn(&mut self, now: Timestamp) {
        let over = now.since(self.since) >= LONG || self.since > now;
        if over || self.current.len() >= self.most {
            self.previous = std::mem::replace(
                &mut self.current,
                HashMap::with_hasher(self.previous.hasher().clone()),
            );
            self.since = now;
        }
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
impl Held {
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    pub(super) fn grants(&self) -> usize {
        let held = self.current.values().chain(self.previous.values());
        held.map(|holding| holding.grants.len()).sum()
    }
}
