//! The sliding window: a count per sub-window, each counting in full until it has wholly left.
//!
//! A window is cut into sub-windows of `ceil(window / 60)` ms, numbered from the epoch. Sub-window
//! `i` of width `s` counts until `(i + 1) * s + window <= now`. Any interval of the window's length
//! that holds an admission therefore lies inside the span over which that admission is counted, and
//! never holds more than the limit; the price is that a caller waits up to one sub-window longer
//! than an ideal log would have it wait. (The usual two-counter estimate is cheaper by some bytes
//! and admits 197 of a limit of 100 inside 59 s of a minute.)

use super::clock::decided_at;
use super::decision::{Decision, Evaluation, QuotaOutcome};
use super::definition::Quota;
use super::lease_time::lead;
use super::state::{PARTS, QuotaState, SlidingWindow, SubWindow};
use crate::time::{Millis, Timestamp};

/// The longest window that has sub-windows of `width`.
pub(super) fn longest(width: Millis) -> Millis {
    Millis::new(width.get() * PARTS)
}

pub(super) fn width(window: Millis) -> Millis {
    Millis::new(window.get().div_ceil(PARTS))
}

/// The moment from which a sub-window no longer counts.
fn leaves_at(index: u64, width: Millis, window: Millis) -> Timestamp {
    Timestamp::from_millis((index + 1) * width.get() + window.get())
}

fn of_width(state: &QuotaState, width: Millis) -> Option<&SlidingWindow> {
    match state {
        QuotaState::SlidingWindow(state) if state.width == width => Some(state),
        _ => None,
    }
}

pub(super) fn fits(quota: &Quota, state: &QuotaState) -> bool {
    of_width(state, width(quota.window())).is_some()
}

/// When the last sub-window has left, of the longest window that the state may be of.
pub(super) fn ends(state: &SlidingWindow) -> Timestamp {
    let last = state.counts.last();
    last.map_or(state.clock, |last| {
        leaves_at(last.index, state.width, longest(state.width))
    })
}

/// The counts that are in the window at the time of a decision.
struct WindowCounts {
    window: Millis,
    width: Millis,
    at: Timestamp,
    believed: bool,
    counts: Vec<SubWindow>,
}

impl WindowCounts {
    fn at(quota: &Quota, state: Option<&QuotaState>, now: Timestamp) -> Self {
        let window = quota.window();
        let width = width(window);
        let state = state.and_then(|state| of_width(state, width));
        let clock = state.map_or_else(Timestamp::default, |state| state.clock);
        let (at, believed) = decided_at(clock, now);
        let mut current = Self {
            window,
            width,
            at,
            believed,
            counts: Vec::new(),
        };
        if let Some(state) = state {
            let mut counts = state.counts.clone();
            if !believed {
                current.bring_back(&mut counts, Some(clock.as_millis() / width.get() + 1));
            }
            current.counts = current.counting(counts);
        }
        current
    }

    /// The sub-window of the decision.
    fn here(&self) -> u64 {
        self.at.as_millis() / self.width.get()
    }

    /// Those of `counts` that have not left yet.
    fn counting(&self, mut counts: Vec<SubWindow>) -> Vec<SubWindow> {
        counts.retain(|sub| leaves_at(sub.index, self.width, self.window) > self.at);
        counts
    }

    /// Counts of sub-windows later than the decision's were written by a clock that ran ahead: they
    /// were taken no later than now, but for those from `leased` on, which are later than that clock as
    /// well. They are as far ahead of now as they were of it, or one more: the part of a sub-window
    /// that is over may be larger now than it was then.
    fn bring_back(&self, counts: &mut Vec<SubWindow>, leased: Option<u64>) {
        let here = self.here();
        let first = counts.partition_point(|sub| sub.index <= here);
        for late in counts.split_off(first) {
            let ahead = leased.and_then(|leased| late.index.checked_sub(leased));
            let ahead = ahead.map_or(0, |ahead| (ahead + 2).min(lead(self.width)));
            add(counts, here + ahead, late.count);
        }
    }

    fn used(&self) -> u64 {
        self.counts.iter().map(|sub| u64::from(sub.count)).sum()
    }

    fn keep(&self, counts: Vec<SubWindow>) -> QuotaState {
        QuotaState::SlidingWindow(SlidingWindow {
            width: self.width,
            clock: self.at,
            counts,
        })
    }
}

/// Of `limit` units, what `used` leaves.
fn left(limit: u32, used: u64) -> u32 {
    u32::try_from(u64::from(limit).saturating_sub(used)).unwrap_or(u32::MAX)
}

pub(super) fn decide(
    quota: &Quota,
    state: Option<&QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Evaluation {
    let mut current = WindowCounts::at(quota, state, now);
    let used = current.used();
    let mut counts = std::mem::take(&mut current.counts);
    let WindowCounts {
        window, width, at, ..
    } = current;
    let limit = u64::from(quota.limit());
    let outcome = if u64::from(cost) > limit {
        QuotaOutcome::Impossible
    } else if used + u64::from(cost) <= limit {
        QuotaOutcome::Allowed
    } else {
        QuotaOutcome::Denied {
            retry_at: room_at(&counts, used + u64::from(cost) - limit, width, window),
        }
    };
    let repaired = (!current.believed && !counts.is_empty()).then(|| current.keep(counts.clone()));
    let spent = if outcome == QuotaOutcome::Allowed {
        cost
    } else {
        0
    };
    if spent > 0 {
        add(&mut counts, current.here(), spent);
    }
    let reset_at = counts
        .last()
        .map_or(now, |last| leaves_at(last.index, width, window));
    Evaluation {
        decision: Decision {
            outcome,
            remaining: left(quota.limit(), used + u64::from(spent)),
            reset_at,
            at,
        },
        admitted: (spent > 0).then(|| current.keep(counts)),
        repaired,
    }
}

pub(super) fn lease(
    quota: &Quota,
    state: Option<&QuotaState>,
    units: u32,
    ends: Timestamp,
    now: Timestamp,
) -> QuotaState {
    let mut current = WindowCounts::at(quota, state, now);
    let mut counts = std::mem::take(&mut current.counts);
    add(&mut counts, ends.as_millis() / current.width.get(), units);
    current.keep(counts)
}

pub(super) fn absorb(
    quota: &Quota,
    state: Option<&QuotaState>,
    backlog: &QuotaState,
    now: Timestamp,
) -> Option<QuotaState> {
    let mut current = WindowCounts::at(quota, state, now);
    let backlog = of_width(backlog, current.width)?;
    let all = left(quota.limit(), current.used());
    let mut room = all;
    let mut counts = backlog.counts.clone();
    current.bring_back(&mut counts, None);
    for sub in current.counting(counts) {
        let units = sub.count.min(room);
        if units == 0 {
            break;
        }
        add(&mut current.counts, sub.index, units);
        room -= units;
    }
    let counts = std::mem::take(&mut current.counts);
    (room < all).then(|| current.keep(counts))
}

pub(super) fn newer(
    quota: &Quota,
    backlog: &QuotaState,
    counted: &QuotaState,
) -> Option<QuotaState> {
    let width = width(quota.window());
    let mut backlog = of_width(backlog, width)?.clone();
    let counted = of_width(counted, width);
    for sub in &mut backlog.counts {
        let mut known = counted.iter().flat_map(|counted| &counted.counts);
        let known = known.find(|known| known.index == sub.index);
        sub.count = sub
            .count
            .saturating_sub(known.map_or(0, |known| known.count));
    }
    backlog.counts.retain(|sub| sub.count > 0);
    (!backlog.counts.is_empty()).then_some(QuotaState::SlidingWindow(backlog))
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
    state: &QuotaState,
    units: u32,
    admitted_at: Timestamp,
) -> Option<QuotaState> {
    let width = width(quota.window());
    let state = of_width(state, width)?;
    let index = admitted_at.as_millis() / width.get();
    let place = state.counts.iter().position(|sub| sub.index == index)?;
    if units == 0 {
        return None;
    }
    let mut state = state.clone();
    let sub = state.counts.get_mut(place)?;
    sub.count = sub.count.saturating_sub(units);
    if sub.count == 0 {
        state.counts.remove(place);
    }
    Some(QuotaState::SlidingWindow(state))
}
