//! What a run did to the limit, by an exact log of each caller's requests in the order of arrival.
//!
//! Times are those at which requests arrive at their isolates, in true time; a window is a half-open
//! interval of the quota's length.
//!
//! - *Worst interval*: the most units that any caller was admitted in any interval of the window's
//!   length.
//! - *Excess*: of the admitted requests, those that an exact log refuses which is shown only these,
//!   and counts what it accepts: as few as can be taken away so that the rest keeps to the limit.
//! - *SimulatedDenial with room*: requests denied although their cost, the units that the same run had admitted
//!   to the caller in the window before them, and those of requests that arrived while this one waited
//!   for its answer and may have overtaken it, are together within the limit.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::{Millis, Timestamp};

use crate::exact_log::ExactLog;
use crate::ruling::SimulatedOutcome;
use crate::trace::Trace;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accuracy {
    pub(crate) requests: u64,
    pub(crate) admitted: u64,
    /// Units in the worst interval.
    pub(crate) worst: u64,
    /// Requests in excess of an exact log.
    pub(crate) excess: u64,
    /// Requests denied although there was room.
    pub(crate) denied_with_room: u64,
}

impl Accuracy {
    pub(crate) const fn denied(&self) -> u64 {
        self.requests - self.admitted
    }
}

/// Judges a run: one ruling per request of `trace`.
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

/// What became of one caller's requests.
#[derive(Default)]
struct CallerHistory {
    history: ExactLog,
    packed: ExactLog,
    /// Times and units.
    admitted: Vec<(u64, u32)>,
    denied: Vec<SimulatedDenial>,
}

struct SimulatedDenial {
    at: u64,
    /// When it had its answer.
    until: u64,
    cost: u32,
    /// How many requests had been admitted before it.
    before: usize,
    /// Units admitted in the window before it.
    units: u64,
}

impl CallerHistory {
    /// How many requests were denied although there was room.
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

/// The most units in any interval of `length`; `None` for one of no length.
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
