//! Decides one request against one quota: a pure function of state, quota, cost and `now`, which
//! returns a [`Decision`] and the state to keep.
//!
//! Three algorithms have the same interface. The whole state of one quota for one caller is one value
//! ([`QuotaState`]). A store keeps it as one short text, next to the states of other versions of the
//! policy ([`States`]). `store/decide.lua` is the same function in Lua, which Redis runs atomically. Shared
//! test vectors and a differential test check that the two agree.
//!
//! # Clocks
//!
//! `now` is the asking isolate's clock. A state's *clock* is the latest time at which a caller was
//! admitted or units were absorbed. A decision is made at the later of the two, so that an isolate
//! whose clock is a little behind cannot reopen a window.
//!
//! A state whose clock is more than [`CLOCK_TOLERANCE`] ahead of `now` was written by a faulty clock.
//! The decision ignores that clock, and takes the state's units as counted no later than `now`, which
//! is true in real time. So a faulty clock costs a caller at most one window and admits nobody twice.
//! The store keeps the *repaired* state even when the request is denied, which keeps the announced
//! retry time exact.
//!
//! The bound does not cover isolates whose clocks are further apart than the tolerance: if they take
//! turns, each can find that the other's state has expired. Stores keep a state for the tolerance
//! longer than its window, for isolates whose clocks are behind by no more than the tolerance.

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
pub use lease::{LEASE_DIVISOR, Lease};
pub use state::{FixedWindow, QuotaState, SlidingWindow, SubWindow, TokenBucket};
pub use states::{MAX_OTHERS, States};
