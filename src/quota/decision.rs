//! A quota's decision about a request, and the states to keep.

use super::state::QuotaState;
use crate::time::Timestamp;

/// Whether a quota admits a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaOutcome {
    /// Enough units are left for the request's cost.
    Allowed,
    /// Too few units are left now.
    Denied {
        /// The first moment, on the asking isolate's clock, at which the same request is admitted
        /// if nobody else consumes. It is denied strictly before this moment, and allowed at it.
        retry_at: Timestamp,
    },
    /// The cost exceeds the quota's capacity: waiting will not help.
    Impossible,
}

/// One quota's decision about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request is admitted.
    pub outcome: QuotaOutcome,
    /// Units left, after this request if it is allowed.
    pub remaining: u32,
    /// When all units are available again if nobody consumes any more.
    pub reset_at: Timestamp,
    /// The time at which the decision was made: the later of the asking isolate's clock and the
    /// state's clock. A refund of this admission needs it.
    pub at: Timestamp,
}

impl Decision {
    /// Whether the outcome is [`QuotaOutcome::Allowed`].
    #[must_use]
    pub const fn allowed(&self) -> bool {
        matches!(self.outcome, QuotaOutcome::Allowed)
    }
}

/// A decision and the states to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The decision.
    pub decision: Decision,
    /// The state to keep if the request goes ahead. `None` if it is not allowed, or costs nothing.
    pub admitted: Option<QuotaState>,
    /// The state to keep if the request does not go ahead. `None` unless the state had a faulty
    /// clock, which this one corrects.
    pub repaired: Option<QuotaState>,
}
