//! The sliding window: a count per sub-window, each counting in full until it has wholly left.
//!
//! A window is cut into sub-windows of `ceil(window / 60)` ms, numbered from the epoch. Sub-window
//! `i` of width `s` counts until `(i + 1) * s + window <= now`. Any interval of the window's length
//! that holds an admission therefore lies inside the span over which that admission is counted, and
//! never holds more than the limit; the price is that a caller waits up to one sub-window longer
//! than an ideal log would have it wait. (The usual two-counter estimate is cheaper by some bytes
//! and admits 197 of a limit of 100 inside 59 s of a minute.)

use super::state::{SlidingWindow, State, SubWindow};
use super::{Decided, Decision, Outcome, Quota, decided_at};
use crate::time::{Millis, Timestamp};

/// Sub-windows to a window. Sixty keeps the longest state under 600 bytes and the extra wait
/// under a sixtieth of the window.
const PARTS: u64 = 60;

pub(super) fn width(window: Millis) -> Millis {
    Millis::new(window.get().div_ceil(PARTS))
}

/// The moment from which a sub-window no longer counts.
fn leaves_at(index: u64, width: Millis, window: Millis) -> Timestamp {
    Timestamp::from_millis((index + 1) * width.get() + window.get())
}

pub(super) fn decide(quota: &Quota, state: Option<&State>, cost: u32, now: Timestamp) -> Decided {
    let window = quota.window();
    let width = width(window);
    let (clock, mut counts) = match state {
        Some(State::SlidingWindow(state)) if state.width == width => {
            (state.clock, state.counts.clone())
        }
        _ => (Timestamp::default(), Vec::new()),
    };
    let (at, believed) = decided_at(clock, now);
    let here = at.as_millis() / width.get();
    if !believed {
        bring_back(&mut counts, here);
    }
    counts.retain(|sub| leaves_at(sub.index, width, window) > at);

    let used: u64 = counts.iter().map(|sub| u64::from(sub.count)).sum();
    let limit = u64::from(quota.limit());
    let outcome = if u64::from(cost) > limit {
        Outcome::Impossible
    } else if used + u64::from(cost) <= limit {
        Outcome::Allowed
    } else {
        Outcome::Denied {
            retry_at: room_at(&counts, used + u64::from(cost) - limit, width, window),
        }
    };
    let keep = |counts: Vec<SubWindow>| {
        State::SlidingWindow(SlidingWindow {
            width,
            clock: at,
            counts,
        })
    };
    let repaired = (!believed && !counts.is_empty()).then(|| keep(counts.clone()));
    let spent = if outcome == Outcome::Allowed { cost } else { 0 };
    if spent > 0 {
        add(&mut counts, here, spent);
    }
    let left = limit.saturating_sub(used + u64::from(spent));
    let reset_at = counts
        .last()
        .map_or(now, |last| leaves_at(last.index, width, window));
    Decided {
        decision: Decision {
            outcome,
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            reset_at,
            at,
        },
        admitted: (spent > 0).then(|| keep(counts)),
        repaired,
    }
}

/// Counts of sub-windows later than `here` were written by a clock that ran ahead: they were taken
/// no later than now.
fn bring_back(counts: &mut Vec<SubWindow>, here: u64) {
    let first = counts.partition_point(|sub| sub.index <= here);
    for late in counts.split_off(first) {
        add(counts, here, late.count);
    }
}

fn add(counts: &mut Vec<SubWindow>, index: u64, units: u32) {
    let place = counts.partition_point(|sub| sub.index < index);
    match counts.get_mut(place) {
        Some(sub) if sub.index == index => sub.count = sub.count.saturating_add(units),
        _ => counts.insert(
            place,
            SubWindow {
                index,
                count: units,
            },
        ),
    }
}

/// When enough sub-windows have left for `need` units.
fn room_at(counts: &[SubWindow], need: u64, width: Millis, window: Millis) -> Timestamp {
    let mut freed = 0;
    let mut at = Timestamp::default();
    for sub in counts {
        at = leaves_at(sub.index, width, window);
        freed += u64::from(sub.count);
        if freed >= need {
            break;
        }
    }
    at
}

pub(super) fn refund(
    quota: &Quota,
    state: &State,
    units: u32,
    admitted_at: Timestamp,
) -> Option<State> {
    let width = width(quota.window());
    let State::SlidingWindow(state) = state else {
        return None;
    };
    let index = admitted_at.as_millis() / width.get();
    let place = state.counts.iter().position(|sub| sub.index == index)?;
    if state.width != width || units == 0 {
        return None;
    }
    let mut state = state.clone();
    let sub = state.counts.get_mut(place)?;
    sub.count = sub.count.saturating_sub(units);
    if sub.count == 0 {
        state.counts.remove(place);
    }
    Some(State::SlidingWindow(state))
}
