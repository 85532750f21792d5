//! The token bucket as GCRA: a burst and a sustained rate apart, in exact integers.
//!
//! GCRA usually keeps a theoretical arrival time, which moves by `period / limit` per unit: not a
//! whole number of milliseconds, and zero for high rates. Here the state is a *debt* in ms x units:
//! a unit adds `period`, a millisecond takes off `limit`, and the bucket is full at `burst x period`.
//! Source of the algorithm: ITU-T I.371, the Generic Cell Rate Algorithm.

use super::state::{State, TokenBucket};
use super::{Decided, Decision, Outcome, Quota, decided_at};
use crate::time::{Millis, Timestamp};

pub(super) fn decide(quota: &Quota, state: Option<&State>, cost: u32, now: Timestamp) -> Decided {
    let period = quota.window();
    let rate = u64::from(quota.limit());
    let full = u64::from(quota.capacity()) * period.get();
    let (clock, owed) = match state {
        Some(State::TokenBucket(state)) if state.period == period => (state.clock, state.debt),
        _ => (Timestamp::default(), 0),
    };
    // More than a full bucket's debt is left from a larger burst: nobody pays for that for long.
    let owed = owed.min(full);
    let (at, believed) = decided_at(clock, now);
    let debt = if believed {
        drained(owed, at.since(clock), rate)
    } else {
        owed
    };

    let price = u64::from(cost) * period.get();
    let outcome = if cost > quota.capacity() {
        Outcome::Impossible
    } else if debt + price <= full {
        Outcome::Allowed
    } else {
        Outcome::Denied {
            retry_at: at + Millis::new((debt + price - full).div_ceil(rate)),
        }
    };
    let keep = |debt| {
        State::TokenBucket(TokenBucket {
            period,
            clock: at,
            debt,
        })
    };
    let repaired = (!believed && debt > 0).then(|| keep(debt));
    let spent = if outcome == Outcome::Allowed {
        price
    } else {
        0
    };
    let debt = debt + spent;
    Decided {
        decision: Decision {
            outcome,
            remaining: u32::try_from(full.saturating_sub(debt) / period.get()).unwrap_or(u32::MAX),
            reset_at: at + Millis::new(debt.div_ceil(rate)),
            at,
        },
        admitted: (spent > 0).then(|| keep(debt)),
        repaired,
    }
}

/// What is left of a debt after `time`. Compared before it is multiplied: `time x rate` of a long
/// forgotten state would not be an exact integer in Lua.
fn drained(debt: u64, time: Millis, rate: u64) -> u64 {
    if time.get() >= debt.div_ceil(rate) {
        0
    } else {
        debt - time.get() * rate
    }
}

/// A bucket does not tell whose tokens have come back since, so only what this admission must still
/// weigh is taken off: had it never been made, the debt could be smaller by no less than that.
pub(super) fn refund(
    quota: &Quota,
    state: &State,
    units: u32,
    admitted_at: Timestamp,
    now: Timestamp,
) -> Option<State> {
    let State::TokenBucket(state) = state else {
        return None;
    };
    let (at, believed) = decided_at(state.clock, now);
    if state.period != quota.window() || !believed || at < admitted_at {
        return None;
    }
    let rate = u64::from(quota.limit());
    let price = u64::from(units) * state.period.get();
    let weighs = drained(price, at.since(admitted_at), rate);
    if weighs == 0 {
        return None;
    }
    Some(State::TokenBucket(TokenBucket {
        period: state.period,
        clock: at,
        debt: drained(state.debt, at.since(state.clock), rate).saturating_sub(weighs),
    }))
}
