//! The outcomes of the requests of a trace.

use crate::network::Micros;

/// The outcome of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SimulatedOutcome {
    pub(crate) admitted: bool,
    /// How long the request waited for the decision.
    pub(crate) waited: Micros,
}

impl SimulatedOutcome {
    /// The outcome of a request that is decided without waiting.
    pub(crate) const fn at_once(admitted: bool) -> Self {
        Self {
            admitted,
            waited: 0,
        }
    }
}

/// The outcomes of all requests, and the load on the databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// In the order of the trace.
    pub(crate) outcomes: Vec<SimulatedOutcome>,
    /// The number of round trips to a database, including those in the background.
    pub(crate) calls: u64,
    /// The number of billed commands, for modes that call the limiter's script.
    pub(crate) billed: u64,
    /// The number of requests that did not wait for a database.
    pub(crate) answered_at_once: u64,
}
