//! The fixed window, aligned to the epoch: one count, which starts again at zero in each window.
//!
//! It is the cheapest algorithm and the easiest to reason about. Around a boundary, up to twice the
//! limit can pass within one window's length.

use super::clock::decided_at;
use super::decision::{Decision, Evaluation, QuotaOutcome};
use super::definition::Quota;
use super::state::{FixedWindow, QuotaState};
use crate::time::{Millis, Timestamp};

fn index(at: Timestamp, window: Millis) -> u64 {
    at.as_millis() / window.get()
}

/// The end of the window that contains `at`.
pub(super) fn ends(at: Timestamp, window: Millis) -> Timestamp {
    Timestamp::from_millis((index(at, window) + 1) * window.get())
}

fn of_window(state: &QuotaState, window: Millis) -> Option<&FixedWindow> {
    match state {
        QuotaState::FixedWindow(state) if state.window == window => Some(state),
        _ => None,
    }
}

pub(super) fn fits(quota: &Quota, state: &QuotaState) -> bool {
    of_window(state, quota.window()).is_some()
}

/// The window that contains the time of a decision.
struct CurrentWindow {
    window: Millis,
    at: Timestamp,
    clock_trusted: bool,
    used: u32,
}

impl CurrentWindow {
    fn at(quota: &Quota, state: Option<&QuotaState>, now: Timestamp) -> Self {
        let window = quota.window();
        let state = state.and_then(|state| of_window(state, window));
        let (clock, count) =
            state.map_or_else(Default::default, |state| (state.clock, state.count));
        let (at, clock_trusted) = decided_at(clock, now);
        let mut current = Self {
            window,
            at,
            clock_trusted,
            used: 0,
        };
        if current.counts(clock) {
            current.used = count;
        }
        current
    }

    /// Whether units that were counted at `clock` are in this window. They are if `clock` is ahead of
    /// the decision, because they were taken no later than now.
    fn counts(&self, clock: Timestamp) -> bool {
        clock > self.at || index(clock, self.window) == index(self.at, self.window)
    }

    /// The state to keep with this count.
    fn state_with(&self, count: u32) -> QuotaState {
        QuotaState::FixedWindow(FixedWindow {
            window: self.window,
            clock: self.at,
            count,
        })
    }
}

pub(super) fn decide(
    quota: &Quota,
    state: Option<&QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Evaluation {
    let current = CurrentWindow::at(quota, state, now);
    let CurrentWindow {
        window, at, used, ..
    } = current;
    let ends = ends(at, window);
    let limit = quota.limit();
    let outcome = if cost > limit {
        QuotaOutcome::Impossible
    } else if u64::from(used) + u64::from(cost) <= u64::from(limit) {
        QuotaOutcome::Allowed
    } else {
        QuotaOutcome::Denied { retry_at: ends }
    };
    let repaired = (!current.clock_trusted && used > 0).then(|| current.state_with(used));
    let spent = if outcome == QuotaOutcome::Allowed {
        cost
    } else {
        0
    };
    let used = used + spent;
    Evaluation {
        decision: Decision {
            outcome,
            remaining: limit.saturating_sub(used),
            reset_at: if used > 0 { ends } else { now },
            at,
        },
        admitted: (spent > 0).then(|| current.state_with(used)),
        repaired,
    }
}

/// Takes leased units like any others, because a lease ends with its window.
pub(super) fn lease(
    quota: &Quota,
    state: Option<&QuotaState>,
    units: u32,
    now: Timestamp,
) -> QuotaState {
    let current = CurrentWindow::at(quota, state, now);
    current.state_with(current.used + units)
}

pub(super) fn absorb(
    quota: &Quota,
    state: Option<&QuotaState>,
    backlog: &QuotaState,
    now: Timestamp,
) -> Option<QuotaState> {
    let current = CurrentWindow::at(quota, state, now);
    let backlog =
        of_window(backlog, current.window).filter(|backlog| current.counts(backlog.clock))?;
    let room = quota.limit().saturating_sub(current.used);
    let added = backlog.count.min(room);
    (added > 0).then(|| current.state_with(current.used + added))
}

pub(super) fn newer(
    quota: &Quota,
    backlog: &QuotaState,
    counted: &QuotaState,
) -> Option<QuotaState> {
    let window = quota.window();
    let mut backlog = *of_window(backlog, window)?;
    let same_window =
        |counted: &&FixedWindow| index(counted.clock, window) == index(backlog.clock, window);
    let counted = of_window(counted, window).filter(same_window);
    backlog.count = backlog
        .count
        .saturating_sub(counted.map_or(0, |counted| counted.count));
    (backlog.count > 0).then_some(QuotaState::FixedWindow(backlog))
}

pub(super) fn refund(
    quota: &Quota,
    state: &QuotaState,
    units: u32,
    admitted_at: Timestamp,
) -> Option<QuotaState> {
    let window = quota.window();
    let mut state = *of_window(state, window)?;
    let same_window = index(admitted_at, window) == index(state.clock, window);
    if !same_window || units == 0 || state.count == 0 {
        return None;
    }
    state.count = state.count.saturating_sub(units);
    Some(QuotaState::FixedWindow(state))
}
