//! The token bucket as GCRA: a burst and a sustained rate apart, in exact integers.
//!
//! GCRA usually keeps a theoretical arrival time, which moves by `period / limit` per unit: not a
//! whole number of milliseconds, and zero for high rates. Here the state is the bucket's *level* in
//! ms x units: a unit adds `period`, a millisecond drains `limit`, and the bucket is full at
//! `burst x period`.
//! Source of the algorithm: ITU-T I.371, the Generic Cell Rate Algorithm.

use std::num::NonZeroU32;

use super::clock::decided_at;
use super::decision::{Decision, Evaluation, QuotaOutcome};
use super::definition::Quota;
use super::state::{QuotaState, TokenBucket};
use crate::time::{Millis, Timestamp};

fn of_period(state: &QuotaState, period: Millis) -> Option<&TokenBucket> {
    match state {
        QuotaState::TokenBucket(state) if state.period == period => Some(state),
        _ => None,
    }
}

pub(super) fn fits(quota: &Quota, state: &QuotaState) -> bool {
    of_period(state, quota.window()).is_some()
}

/// When nothing is left of the level.
pub(super) fn empty_at(state: &TokenBucket) -> Timestamp {
    state.clock + Millis::new(state.level.div_ceil(u64::from(state.limit.get())))
}

/// The bucket at the time of a decision.
struct Bucket {
    period: Millis,
    limit: NonZeroU32,
    rate: u64,
    full: u64,
    at: Timestamp,
    believed: bool,
    level: u64,
}

impl Bucket {
    fn at(quota: &Quota, state: Option<&QuotaState>, now: Timestamp) -> Self {
        let period = quota.window();
        let rate = u64::from(quota.limit());
        let full = u64::from(quota.capacity()) * period.get();
        let state = state.and_then(|state| of_period(state, period));
        let (clock, level) =
            state.map_or_else(Default::default, |state| (state.clock, state.level));
        let (at, believed) = decided_at(clock, now);
        Self {
            period,
            limit: quota.limit,
            rate,
            full,
            at,
            believed,
            // A level above full was left by a larger burst, and counts as full. If the state's clock
            // is ahead, nothing has drained yet.
            level: drained(level.min(full), at.since(clock), rate),
        }
    }

    fn keep(&self, level: u64) -> QuotaState {
        QuotaState::TokenBucket(TokenBucket {
            period: self.period,
            clock: self.at,
            level,
            limit: self.limit,
        })
    }
}

pub(super) fn decide(
    quota: &Quota,
    state: Option<&QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Evaluation {
    let bucket = Bucket::at(quota, state, now);
    let Bucket {
        period,
        rate,
        full,
        at,
        level,
        ..
    } = bucket;
    // It overflows only for a cost far above the capacity, which is impossible whatever its price.
    let price = u64::from(cost).saturating_mul(period.get());
    let outcome = if cost > quota.capacity() {
        QuotaOutcome::Impossible
    } else if level + price <= full {
        QuotaOutcome::Allowed
    } else {
        QuotaOutcome::Denied {
            retry_at: at + Millis::new((level + price - full).div_ceil(rate)),
        }
    };
    let repaired = (!bucket.believed && level > 0).then(|| bucket.keep(level));
    let spent = if outcome == QuotaOutcome::Allowed {
        price
    } else {
        0
    };
    let level = level + spent;
    Evaluation {
        decision: Decision {
            outcome,
            remaining: u32::try_from(full.saturating_sub(level) / period.get()).unwrap_or(u32::MAX),
            reset_at: at + Millis::new(level.div_ceil(rate)),
            at,
        },
        admitted: (spent > 0).then(|| bucket.keep(level)),
        repaired,
    }
}

/// The level after `time` has drained it. Compared before it is multiplied: `time x rate` of a long
/// forgotten state would not be an exact integer in Lua.
fn drained(level: u64, time: Millis, rate: u64) -> u64 {
    if time.get() >= level.div_ceil(rate) {
        0
    } else {
        level - time.get() * rate
    }
}

pub(super) fn lease(
    quota: &Quota,
    state: Option<&QuotaState>,
    units: u32,
    ends: Timestamp,
    now: Timestamp,
) -> QuotaState {
    let bucket = Bucket::at(quota, state, now);
    let drains = ends.since(bucket.at).get() * bucket.rate;
    bucket.keep(bucket.level.max(drains) + u64::from(units) * bucket.period.get())
}

pub(super) fn absorb(
    quota: &Quota,
    state: Option<&QuotaState>,
    backlog: &QuotaState,
    now: Timestamp,
) -> Option<QuotaState> {
    let bucket = Bucket::at(quota, state, now);
    let backlog = of_period(backlog, bucket.period)?;
    let left = drained(backlog.level, bucket.at.since(backlog.clock), bucket.rate);
    let added = left.min(bucket.full - bucket.level);
    (added > 0).then(|| bucket.keep(bucket.level + added))
}

pub(super) fn newer(
    quota: &Quota,
    backlog: &QuotaState,
    counted: &QuotaState,
) -> Option<QuotaState> {
    let period = quota.window();
    let mut backlog = *of_period(backlog, period)?;
    if let Some(counted) = of_period(counted, period) {
        let since = backlog.clock.since(counted.clock);
        let left = drained(counted.level, since, u64::from(quota.limit()));
        backlog.level = backlog.level.saturating_sub(left);
    }
    (backlog.level > 0).then_some(QuotaState::TokenBucket(backlog))
}

/// A bucket does not tell whose tokens have come back since, so only what this admission must still
/// weigh is taken off: had it never been made, the level would be lower by at least that. The rest stays taken, at most what
/// drains in the time from the admission to the refund. (The level before the admission would not say more: it may
/// hold units of others that have been given back since.)
pub(super) fn refund(
    quota: &Quota,
    state: &QuotaState,
    units: u32,
    admitted_at: Timestamp,
    now: Timestamp,
) -> Option<QuotaState> {
    let bucket = Bucket::at(quota, Some(state), now);
    let state = of_period(state, bucket.period)?;
    if !bucket.believed || bucket.at < admitted_at {
        return None;
    }
    let price = u64::from(units).saturating_mul(bucket.period.get());
    let weighs = drained(price, bucket.at.since(admitted_at), bucket.rate);
    // A refund first takes off what lies above full, which no decision counts.
    let level =
        drained(state.level, bucket.at.since(state.clock), bucket.rate).saturating_sub(weighs);
    (weighs > 0).then(|| bucket.keep(level.min(bucket.level)))
}
