//! A quota's answer to a request, and the states to keep.

use super::state::QuotaState;
use crate::time::Timestamp;

/// What a quota says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaOutcome {
    /// There is room for the request's cost.
    Allowed,
    /// There is none now.
    Denied {
        /// The first moment, on the asking isolate's clock, at which the same request would be
        /// admitted if nobody else consumed: denied strictly before it, allowed at it.
        retry_at: Timestamp,
    },
    /// The cost exceeds the quota's capacity: waiting will not help.
    Impossible,
}

/// One quota's answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether there is room.
    pub outcome: QuotaOutcome,
    /// Units left; after this request if it is allowed.
    pub remaining: u32,
    /// When the quota is whole again if nobody consumes any more.
    pub reset_at: Timestamp,
    /// The time at which the decision was made: the later of the asking clock and the state's.
    /// A refund of this admission names it.
    pub at: Timestamp,
}

impl Decision {
    /// Whether the quota has room for the request.
    #[must_use]
    pub const fn allowed(&self) -> bool {
        matches!(self.outcome, QuotaOutcome::Allowed)
    }
}

/// A decision and the states to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The answer.
    pub decision: Decision,
    /// The state to keep if the request goes ahead; `None` when it may not, or costs nothing.
    pub admitted: Option<QuotaState>,
    /// The state to keep if the request does not go ahead: only where a faulty clock had to be
    /// taken out of it.
    pub repaired: Option<QuotaState>,
}
