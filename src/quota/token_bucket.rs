//! The token bucket as GCRA, in exact integers: it limits the burst and the sustained rate separately.
//!
//! GCRA usually keeps a theoretical arrival time, which moves by `period / limit` per unit. That is not
//! a whole number of milliseconds, and would round to zero for high rates. Here the state is the
//! bucket's *level* in ms x units: a unit adds `period`, a millisecond drains `limit`, and the bucket
//! is full at `burst x period`.
//!
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

/// When the level has drained to zero.
pub(super) fn empty_at(state: &TokenBucket) -> Timestamp {
    state.clock + Millis::new(state.level.div_ceil(u64::from(state.limit.get())))
}

/// A bucket, drained to the time of a decision.
struct Bucket {
    period: Millis,
    limit: NonZeroU32,
    rate: u64,
    full: u64,
    at: Timestamp,
    clock_trusted: bool,
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
        let (at, clock_trusted) = decided_at(clock, now);
        Self {
            period,
            limit: quota.limit,
            rate,
            full,
            at,
            clock_trusted,
            // A quota with a larger burst may have left a level above full, which counts as full. If
            // the state's clock is ahead, nothing has drained yet.
            level: drained(level.min(full), at.since(clock), rate),
        }
    }

    /// The state to keep with this level.
    fn state_with(&self, level: u64) -> QuotaState {
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
    // The product is too large only if the cost is above the capacity, which is impossible anyway.
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
    let repaired = (!bucket.clock_trusted && level > 0).then(|| bucket.state_with(level));
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
        admitted: (spent > 0).then(|| bucket.state_with(level)),
        repaired,
    }
}

/// The level after draining for `time`. It compares before it multiplies: for a state that is very old,
/// `time x rate` would not be an exact integer in Lua.
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
    bucket.state_with(bucket.level.max(drains) + u64::from(units) * bucket.period.get())
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
    (added > 0).then(|| bucket.state_with(bucket.level + added))
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

/// Gives back only the units of this admission that certainly have not drained since. A bucket does not
/// record whose units have drained. Without the admission, the level would be lower by at least what this
/// gives back. The rest stays taken; it is at most what drains between the admission and the refund.
/// (Knowing the level before the admission would not help: it may contain units of other admissions that
/// have been given back since.)
pub(super) fn refund(
    quota: &Quota,
    state: &QuotaState,
    units: u32,
    admitted_at: Timestamp,
    now: Timestamp,
) -> Option<QuotaState> {
    let bucket = Bucket::at(quota, Some(state), now);
    let state = of_period(state, bucket.period)?;
    if !bucket.clock_trusted || bucket.at < admitted_at {
        return None;
    }
    let price = u64::from(units).saturating_mul(bucket.period.get());
    let refunded = drained(price, bucket.at.since(admitted_at), bucket.rate);
    // The part of the level above full is subtracted first, because no decision counts it.
    let level =
        drained(state.level, bucket.at.since(state.clock), bucket.rate).saturating_sub(refunded);
    (refunded > 0).then(|| bucket.state_with(level.min(bucket.level)))
}
