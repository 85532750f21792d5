//! Compares the algorithms without regions: every request is decided when it arrives.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::Timestamp;

use crate::exact_log::ExactLog;
use crate::failure::Failure;
use crate::outcome::SimulatedOutcome;
use crate::rule::{LibraryRule, Rule};
use crate::trace::{Trace, TraceRequest};
use crate::two_counter::TwoCounter;

/// An algorithm that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    IdealLog,
    TwoCounter,
    Library(Algorithm),
}

impl Contestant {
    pub(crate) const ALL: [Self; 5] = [
        Self::IdealLog,
        Self::Library(Algorithm::SlidingWindow),
        Self::TwoCounter,
        Self::Library(Algorithm::FixedWindow),
        Self::Library(Algorithm::TokenBucket),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::IdealLog => "ideal log",
            Self::TwoCounter => "two-counter estimate",
            Self::Library(algorithm) => algorithm.name(),
        }
    }

    /// The outcomes of the requests of `trace`.
    pub(crate) fn outcomes(
        self,
        trace: &Trace,
        quota: &Quota,
    ) -> Result<Vec<SimulatedOutcome>, Failure> {
        Ok(match self {
            Self::IdealLog => play::<ExactLog>(trace, quota),
            Self::TwoCounter => play::<TwoCounter>(trace, quota),
            Self::Library(algorithm) => play::<LibraryRule>(trace, &of(quota, algorithm)?),
        })
    }
}

/// The same limit and window with another algorithm. The burst of a token bucket is the limit.
fn of(quota: &Quota, algorithm: Algorithm) -> Result<Quota, Failure> {
    NonZeroU32::new(quota.limit())
        .and_then(|limit| Quota::new(algorithm, limit, quota.window()).ok())
        .ok_or_else(|| Failure::new("--limit and --window are too large for a token bucket"))
}

fn play<R: Rule>(trace: &Trace, quota: &Quota) -> Vec<SimulatedOutcome> {
    let mut callers: Vec<R> = trace.callers.iter().map(|_| R::default()).collect();
    let decide = |request: &TraceRequest| {
        let now = Timestamp::from_millis(request.at);
        SimulatedOutcome::at_once(callers[request.caller as usize].admits(quota, request.cost, now))
    };
    trace.requests.iter().map(decide).collect()
}

#[cfg(test)]
mod tests;
