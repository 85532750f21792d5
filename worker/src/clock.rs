//! The isolate's clock, and waiting.

use std::time::Duration;

use edge_limiter::store::backoff::Pause;
use edge_limiter::time::{Clock, Millis, Timestamp};
use worker::Delay;

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

/// `setTimeout`.
pub(crate) struct Timer;

impl Pause for Timer {
    async fn pause(&self, length: Millis) {
        Delay::from(Duration::from_millis(length.get())).await;
    }
}
