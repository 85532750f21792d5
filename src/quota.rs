//! The pure decision: `(state, quota, cost, now)` to a [`Decision`] and the state to keep.
//!
//! Three algorithms share one shape. The whole state of one quota for one caller is one value
//! ([`QuotaState`]), written to a store as one short text, next to those of other versions of the policy
//! ([`States`]). `store/decide.lua` is the same function where Redis can run it atomically; shared
//! vectors and a differential test hold the two together.
//!
//! # Clocks
//!
//! `now` is the asking isolate's clock. A state remembers the latest time at which a caller was
//! admitted or units were absorbed (its *clock*), and a decision is made at the later of the two, so that an isolate whose
//! clock is a little behind cannot reopen a window. A state whose clock is more than
//! [`CLOCK_TOLERANCE`] ahead of `now` was written by a faulty clock: that clock is ignored, and what
//! the state has counted is taken as counted no later than `now` (it was, in real time), so that a
//! bad clock costs a caller at most one window and admits nobody twice. Such a state is *repaired*
//! in the store even when the request is denied, which keeps the announced retry time exact.
//!
//! Isolates whose clocks are further apart than the tolerance are outside the bound: taking turns,
//! each can find the other's state over. So stores keep a state for the tolerance longer than its
//! window, for those that are within it and behind.

mod algorithm;
mod clock;
mod decision;
mod definition;
mod dispatch;
mod fixed_window;
#[cfg(test)]
pub(crate) mod laws;
mod lease;
mod lease_time;
mod sliding_window;
mod state;
mod states;
mod token_bucket;

pub use algorithm::Algorithm;
pub use clock::CLOCK_TOLERANCE;
pub use decision::{Decision, Evaluation, QuotaOutcome};
pub use definition::{MAX_WINDOW, Quota, QuotaError};
pub use lease::{LEAST_LEASED, Lease};
pub use state::{FixedWindow, QuotaState, SlidingWindow, SubWindow, TokenBucket};
pub use states::{MAX_OTHERS, States};
