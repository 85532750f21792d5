//! The fixed window, aligned to the epoch: one count, forgotten at the window's end.
//!
//! Cheapest to read and to reason about; around a boundary up to twice the limit can pass within
//! one window's length.

use super::state::{FixedWindow, State};
use super::{Decided, Decision, Outcome, Quota, decided_at};
use crate::time::{Millis, Timestamp};

fn index(at: Timestamp, window: Millis) -> u64 {
    at.as_millis() / window.get()
}

pub(super) fn decide(quota: &Quota, state: Option<&State>, cost: u32, now: Timestamp) -> Decided {
    let window = quota.window();
    let (clock, count) = match state {
        Some(State::FixedWindow(state)) if state.window == window => (state.clock, state.count),
        _ => (Timestamp::default(), 0),
    };
    let (at, believed) = decided_at(clock, now);
    // A clock that ran ahead counted what was taken no later than now.
    let current = !believed || index(clock, window) == index(at, window);
    let used = if current { count } else { 0 };

    let ends = Timestamp::from_millis((index(at, window) + 1) * window.get());
    let limit = quota.limit();
    let outcome = if cost > limit {
        Outcome::Impossible
    } else if u64::from(used) + u64::from(cost) <= u64::from(limit) {
        Outcome::Allowed
    } else {
        Outcome::Denied { retry_at: ends }
    };
    let keep = |count| {
        State::FixedWindow(FixedWindow {
            window,
            clock: at,
            count,
        })
    };
    let repaired = (!believed && used > 0).then(|| keep(used));
    let spent = if outcome == Outcome::Allowed { cost } else { 0 };
    let used = used + spent;
    Decided {
        decision: Decision {
            outcome,
            remaining: limit.saturating_sub(used),
            reset_at: if used > 0 { ends } else { now },
            at,
        },
        admitted: (spent > 0).then(|| keep(used)),
        repaired,
    }
}

pub(super) fn refund(
    quota: &Quota,
    state: &State,
    units: u32,
    admitted_at: Timestamp,
) -> Option<State> {
    let State::FixedWindow(state) = state else {
        return None;
    };
    let window = quota.window();
    let same = state.window == window && index(admitted_at, window) == index(state.clock, window);
    if !same || units == 0 || state.count == 0 {
        return None;
    }
    let mut state = *state;
    state.count = state.count.saturating_sub(units);
    Some(State::FixedWindow(state))
}
