//! How long a lease lasts, and how far in the future its units can be recorded.

use super::definition::Quota;
use crate::time::Millis;

/// The longest time for which an isolate may hold leased units.
const MAX_LEASE_TIME: Millis = Millis::new(5000);

impl Quota {
    /// How long an isolate may hold leased units: a tenth of the window or of the
    /// [`refill`](Self::refill) time, whichever is shorter, and 5 seconds at most.
    #[must_use]
    pub fn lease_time(&self) -> Millis {
        let tenth = self.window().min(self.refill()).get() / 10;
        MAX_LEASE_TIME.min(Millis::new(tenth))
    }
}

/// How many sub-windows of `width` can lie between the start of a lease and its end. A window has at
/// most sixty sub-windows, and a lease lasts at most a tenth of the window, which is six.
pub(super) fn max_lead(width: Millis) -> u64 {
    MAX_LEASE_TIME.get().div_ceil(width.get()).min(6)
}
