//! How long a lease's units are held, and how far ahead its record can lie.

use super::definition::Quota;
use crate::time::Millis;

/// The longest time for which units may be held.
const MAX_LEASE_TIME: Millis = Millis::new(5000);

impl Quota {
    /// How long units are held: 5 seconds at the most, and a tenth of the window and of the time in
    /// which a bucket fills.
    #[must_use]
    pub fn lease_time(&self) -> Millis {
        let tenth = self.window().min(self.refill()).get() / 10;
        MAX_LEASE_TIME.min(Millis::new(tenth))
    }
}

/// How many sub-windows of `width` the end of a lease can be ahead of its beginning. A window is at
/// most sixty of them, and a tenth of that is six.
pub(super) fn lead(width: Millis) -> u64 {
    MAX_LEASE_TIME.get().div_ceil(width.get()).min(6)
}
