//! The time at which a decision is made.

use crate::time::{Millis, Timestamp};

/// How far a state's clock may be ahead of the asking isolate's clock. A clock further ahead
/// is faulty.
pub const CLOCK_TOLERANCE: Millis = Millis::new(2000);

/// The time of a decision over a state whose clock is `clock`, and whether that clock is trusted.
pub(super) fn decided_at(clock: Timestamp, now: Timestamp) -> (Timestamp, bool) {
    if clock > now + CLOCK_TOLERANCE {
        (now, false)
    } else {
        (now.max(clock), true)
    }
}
