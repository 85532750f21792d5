//! The isolate's clock.

use edge_limiter::time::{Clock, Timestamp};

/// `Date.now()`, which deployed Workers advance only after I/O.
#[derive(Clone, Copy)]
pub(crate) struct IsolateClock;

impl Clock for IsolateClock {
    fn now(&self) -> Timestamp {
        // Whole milliseconds well below 2^53: the conversion is exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let ms = js_sys::Date::now() as u64;
        Timestamp::from_millis(ms)
    }
}
