//! Measures how accurately a run enforces the limit, with an exact log of each caller's requests in the order
//! of arrival.
//!
//! Times are the true times at which requests arrive at their isolates. A window is a half-open interval of the
//! quota's length.
//!
//! - *Worst interval*: the most units of one caller that were admitted in any interval of the window's length.
//! - *Excess*: the smallest number of admitted requests without which the rest keeps to the limit. An exact log
//!   that sees only the admitted requests would deny these.
//! - *Denied with room*: denied requests that were within the limit. Such a request fits together with two other
//!   sums of units: those that the same run had admitted to the caller in the window before it, and those of
//!   requests that arrived while it waited for its answer, which may have overtaken it.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::{Millis, Timestamp};

use crate::exact_log::ExactLog;
use crate::outcome::SimulatedOutcome;
use crate::trace::Trace;

/// How accurately a run enforced the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accuracy {
    pub(crate) requests: u64,
    pub(crate) admitted: u64,
    /// The units in the worst interval.
    pub(crate) worst: u64,
    /// The number of requests in excess.
    pub(crate) excess: u64,
    /// The number of requests denied with room.
    pub(crate) denied_with_room: u64,
}

impl Accuracy {
    pub(crate) const fn denied(&self) -> u64 {
        self.requests - self.admitted
    }
}

/// Measures a run, of which `outcomes` are the outcomes of the requests of `trace`.
pub(crate) fn judge(trace: &Trace, quota: &Quota, outcomes: &[SimulatedOutcome]) -> Accuracy {
    let mut accuracy = Accuracy {
        requests: trace.requests.len() as u64,
        ..Accuracy::default()
    };
    let mut callers: Vec<CallerHistory> = trace
        .callers
        .iter()
        .map(|_| CallerHistory::default())
        .collect();
    for (request, outcome) in trace.requests.iter().zip(outcomes) {
        let now = Timestamp::from_millis(request.at);
        let caller = &mut callers[request.caller as usize];
        if outcome.admitted {
            caller.history.add(request.cost, now);
            accuracy.admitted += 1;
            accuracy.worst = accuracy.worst.max(caller.history.units(quota, now));
            if caller.packed.has_room(quota, request.cost, now) {
                caller.packed.add(request.cost, now);
            } else {
                accuracy.excess += 1;
            }
            caller.admitted.push((request.at, request.cost));
        } else {
            caller.denied.push(SimulatedDenial {
                at: request.at,
                until: request.at + outcome.waited / 1000,
                cost: request.cost,
                before: caller.admitted.len(),
                units: caller.history.units(quota, now),
            });
        }
    }
    accuracy.denied_with_room = callers.iter().map(|caller| caller.had_room(quota)).sum();
    accuracy
}

/// The requests of one caller.
#[derive(Default)]
struct CallerHistory {
    history: ExactLog,
    packed: ExactLog,
    /// The times and the units of admitted requests.
    admitted: Vec<(u64, u32)>,
    denied: Vec<SimulatedDenial>,
}

struct SimulatedDenial {
    at: u64,
    /// When it got its answer.
    until: u64,
    cost: u32,
    /// The number of requests that had been admitted before it.
    before: usize,
    /// The units that had been admitted in the window before it.
    units: u64,
}

impl CallerHistory {
    /// The number of requests denied with room.
    fn had_room(&self, quota: &Quota) -> u64 {
        let had_room = |denied: &&SimulatedDenial| {
            let later = self.admitted[denied.before..].iter();
            let overtaking: u64 = later
                .take_while(|(at, _)| denied.until > denied.at && *at <= denied.until)
                .map(|(_, units)| u64::from(*units))
                .sum();
            let units = denied.units + overtaking + u64::from(denied.cost);
            units <= u64::from(quota.limit())
        };
        self.denied.iter().filter(had_room).count() as u64
    }
}

/// The most units in any interval of `length`. `None` if `length` is no valid window.
pub(crate) fn worst_within(
    trace: &Trace,
    quota: &Quota,
    outcomes: &[SimulatedOutcome],
    length: Millis,
) -> Option<u64> {
    let limit = NonZeroU32::new(quota.limit())?;
    let shorter = Quota::new(Algorithm::SlidingWindow, limit, length).ok()?;
    Some(judge(trace, &shorter, outcomes).worst)
}

#[cfg(test)]
mod tests;
