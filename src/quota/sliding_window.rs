//! The sliding window: a count per sub-window. Each counts in full until it has left the window wholly.
//!
//! A window is cut into sub-windows of `ceil(window / 60)` ms, numbered from the epoch. Sub-window
//! `i` of width `s` counts until `(i + 1) * s + window <= now`. So an admission counts for at least a
//! window's length after it, and no interval of the window's length holds more than the limit. The
//! price is that a caller waits up to one sub-window longer than with an ideal log of all requests.
//! (The usual two-counter estimate saves some bytes, and admits 197 requests within 59 s with a limit of
//! 100 a minute.)

use super::clock::decided_at;
use super::decision::{Decision, Evaluation, QuotaOutcome};
use super::definition::Quota;
use super::lease_time::max_lead;
use super::state::{PARTS, QuotaState, SlidingWindow, SubWindow};
use crate::time::{Millis, Timestamp};

/// The longest window whose sub-windows have this width.
pub(super) fn longest_window(width: Millis) -> Millis {
    Millis::new(width.get() * PARTS)
}

/// The width of a sub-window.
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

/// When the last sub-window no longer counts, for the longest window with sub-windows of this width.
pub(super) fn ends(state: &SlidingWindow) -> Timestamp {
    let last = state.counts.last();
    last.map_or(state.clock, |last| {
        leaves_at(last.index, state.width, longest_window(state.width))
    })
}

/// The counts of the sub-windows that count at the time of a decision.
struct WindowCounts {
    window: Millis,
    width: Millis,
    at: Timestamp,
    clock_trusted: bool,
    counts: Vec<SubWindow>,
}

impl WindowCounts {
    fn at(quota: &Quota, state: Option<&QuotaState>, now: Timestamp) -> Self {
        let window = quota.window();
        let width = width(window);
        let state = state.and_then(|state| of_width(state, width));
        let clock = state.map_or_else(Timestamp::default, |state| state.clock);
        let (at, clock_trusted) = decided_at(clock, now);
        let mut current = Self {
            window,
            width,
            at,
            clock_trusted,
            counts: Vec::new(),
        };
        if let Some(state) = state {
            let mut counts = state.counts.clone();
            if !clock_trusted {
                current.move_to_present(&mut counts, Some(clock.as_millis() / width.get() + 1));
            }
            current.counts = current.still_counting(counts);
        }
        current
    }

    /// The sub-window that contains the time of the decision.
    fn current_index(&self) -> u64 {
        self.at.as_millis() / self.width.get()
    }

    /// The sub-windows of `counts` that still count.
    fn still_counting(&self, mut counts: Vec<SubWindow>) -> Vec<SubWindow> {
        counts.retain(|sub| leaves_at(sub.index, self.width, self.window) > self.at);
        counts
    }

    /// Moves counts of sub-windows later than the decision's to the decision's own sub-window. A clock
    /// that ran ahead wrote them, but they were taken no later than now.
    ///
    /// Counts from sub-window `leased` on are later than that clock as well, because they are leased. They
    /// stay as far ahead of the decision as they were ahead of that clock, or one sub-window further: the
    /// decision may be later within its sub-window than that clock was within its own.
    fn move_to_present(&self, counts: &mut Vec<SubWindow>, leased: Option<u64>) {
        let current_index = self.current_index();
        let first = counts.partition_point(|sub| sub.index <= current_index);
        for late in counts.split_off(first) {
            let ahead = leased.and_then(|leased| late.index.checked_sub(leased));
            let ahead = ahead.map_or(0, |ahead| (ahead + 2).min(max_lead(self.width)));
            add(counts, current_index + ahead, late.count);
        }
    }

    fn used(&self) -> u64 {
        self.counts.iter().map(|sub| u64::from(sub.count)).sum()
    }

    /// The state to keep with these counts.
    fn state_with(&self, counts: Vec<SubWindow>) -> QuotaState {
        QuotaState::SlidingWindow(SlidingWindow {
            width: self.width,
            clock: self.at,
            counts,
        })
    }
}

/// How many of `limit` units are left.
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
            retry_at: freed_at(&counts, used + u64::from(cost) - limit, width, window),
        }
    };
    let repaired =
        (!current.clock_trusted && !counts.is_empty()).then(|| current.state_with(counts.clone()));
    let spent = if outcome == QuotaOutcome::Allowed {
        cost
    } else {
        0
    };
    if spent > 0 {
        add(&mut counts, current.current_index(), spent);
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
        admitted: (spent > 0).then(|| current.state_with(counts)),
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
    current.state_with(counts)
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
    current.move_to_present(&mut counts, None);
    for sub in current.still_counting(counts) {
        let units = sub.count.min(room);
        if units == 0 {
            break;
        }
        add(&mut current.counts, sub.index, units);
        room -= units;
    }
    let counts = std::mem::take(&mut current.counts);
    (room < all).then(|| current.state_with(counts))
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
        let mut counted = counted.iter().flat_map(|counted| &counted.counts);
        let counted = counted.find(|counted| counted.index == sub.index);
        sub.count = sub
            .count
            .saturating_sub(counted.map_or(0, |counted| counted.count));
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

/// When so many sub-windows have left that at least `need` units are free.
fn freed_at(counts: &[SubWindow], need: u64, width: Millis, window: Millis) -> Timestamp {
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
