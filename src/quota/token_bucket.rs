//! The token bucket as GCRA: a burst and a sustained rate apart, in exact integers.
//!
//! GCRA usually keeps a theoretical arrival time, which moves by `period / limit` per unit: not a
//! whole number of milliseconds, and zero for high rates. Here the state is a *debt* in ms x units:
//! a unit adds `period`, a millisecond takes off `limit`, and the bucket is full at `burst x period`.
//! Source of the algorithm: ITU-T I.371, the Generic Cell Rate Algorithm.

use super::clock::decided_at;
use super::decision::{Decided, Decision, Outcome};
use super::definition::Quota;
use super::state::{State, TokenBucket};
use crate::time::{Millis, Timestamp};

fn of_period(state: &State, period: Millis) -> Option<&TokenBucket> {
    match state {
        State::TokenBucket(state) if state.period == period => Some(state),
        _ => None,
    }
}

/// What a state says at the time of a decision.
struct Held {
    period: Millis,
    rate: u64,
    full: u64,
    at: Timestamp,
    believed: bool,
    debt: u64,
}

impl Held {
    fn at(quota: &Quota, state: Option<&State>, now: Timestamp) -> Self {
        let period = quota.window();
        let rate = u64::from(quota.limit());
        let full = u64::from(quota.capacity()) * period.get();
        let state = state.and_then(|state| of_period(state, period));
        let (clock, debt) = state.map_or_else(Default::default, |state| (state.clock, state.debt));
        let (at, believed) = decided_at(clock, now);
        Self {
            period,
            rate,
            full,
            at,
            believed,
            // More than a full bucket's debt is left from a larger burst: nobody pays for that for
            // long. Of a clock that ran ahead, no time has passed.
            debt: drained(debt.min(full), at.since(clock), rate),
        }
    }

    fn keep(&self, debt: u64) -> State {
        State::TokenBucket(TokenBucket {
            period: self.period,
            clock: self.at,
            debt,
        })
    }
}

pub(super) fn decide(quota: &Quota, state: Option<&State>, cost: u32, now: Timestamp) -> Decided {
    let held = Held::at(quota, state, now);
    let Held {
        period,
        rate,
        full,
        at,
        debt,
        ..
    } = held;
    // It overflows only for a cost far above the capacity, which is impossible whatever its price.
    let price = u64::from(cost).saturating_mul(period.get());
    let outcome = if cost > quota.capacity() {
        Outcome::Impossible
    } else if debt + price <= full {
        Outcome::Allowed
    } else {
        Outcome::Denied {
            retry_at: at + Millis::new((debt + price - full).div_ceil(rate)),
        }
    };
    let repaired = (!held.believed && debt > 0).then(|| held.keep(debt));
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
        admitted: (spent > 0).then(|| held.keep(debt)),
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

pub(super) fn lease(
    quota: &Quota,
    state: Option<&State>,
    units: u32,
    ends: Timestamp,
    now: Timestamp,
) -> State {
    let held = Held::at(quota, state, now);
    let drains = ends.since(held.at).get() * held.rate;
    held.keep(held.debt.max(drains) + u64::from(units) * held.period.get())
}

pub(super) fn absorb(
    quota: &Quota,
    state: Option<&State>,
    owed: &State,
    now: Timestamp,
) -> Option<State> {
    let held = Held::at(quota, state, now);
    let owed = of_period(owed, held.period)?;
    let left = drained(owed.debt, held.at.since(owed.clock), held.rate);
    let added = left.min(held.full - held.debt);
    (added > 0).then(|| held.keep(held.debt + added))
}

pub(super) fn newer(quota: &Quota, owed: &State, counted: &State) -> Option<State> {
    let period = quota.window();
    let mut owed = *of_period(owed, period)?;
    if let Some(counted) = of_period(counted, period) {
        let since = owed.clock.since(counted.clock);
        let left = drained(counted.debt, since, u64::from(quota.limit()));
        owed.debt = owed.debt.saturating_sub(left);
    }
    (owed.debt > 0).then_some(State::TokenBucket(owed))
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
    let held = Held::at(quota, Some(state), now);
    let state = of_period(state, held.period)?;
    if !held.believed || held.at < admitted_at {
        return None;
    }
    let price = u64::from(units).saturating_mul(held.period.get());
    let weighs = drained(price, held.at.since(admitted_at), held.rate);
    // Of more than a full bucket's debt, what is above it goes first: a decision counts none of that.
    let debt = drained(state.debt, held.at.since(state.clock), held.rate).saturating_sub(weighs);
    (weighs > 0).then(|| held.keep(debt.min(held.debt)))
}
