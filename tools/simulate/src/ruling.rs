//! What became of the requests of a trace.

use crate::network::Micros;

/// What became of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SimulatedOutcome {
    pub(crate) admitted: bool,
    /// How long it waited for that.
    pub(crate) waited: Micros,
}

impl SimulatedOutcome {
    /// Decided without waiting.
    pub(crate) const fn at_once(admitted: bool) -> Self {
        Self {
            admitted,
            waited: 0,
        }
    }
}

/// What became of all of them, in the trace's order, and what was asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) outcomes: Vec<SimulatedOutcome>,
    /// Round trips to a database, those in the background included.
    pub(crate) calls: u64,
    /// Commands billed, where the limiter's script was called.
    pub(crate) billed: u64,
    /// Requests that waited for no answer.
    pub(crate) answered_at_once: u64,
}
