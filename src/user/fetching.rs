//! When an identity provider's keys are fetched.

use crate::time::{Deadline, Millis, Timestamp};

/// How long fetched keys are used before they are fetched again, in the background.
const REFRESH_AFTER: Millis = Millis::from_secs(600);

/// How long after a fetch a token with an unknown key may cause another.
const UNKNOWN_KEY_AFTER: Millis = Millis::from_secs(60);

/// How long other requests do not fetch while one does: longer than a fetch can take.
const MAX_FETCH_TIME: Millis = Millis::from_secs(5);

/// How long no request fetches after a failure. It doubles with each failure, up to the longest.
const FIRST_WAIT: Millis = Millis::from_secs(10);
const LONGEST_WAIT: Millis = Millis::from_secs(320);

/// Decides which request fetches the provider's document.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FetchSchedule {
    /// There are keys.
    has_keys: bool,
    /// They are used without fetching them again.
    fresh: Deadline,
    /// No key can have been published since.
    latest: Deadline,
    /// No request fetches.
    held_back: Deadline,
    failures: u32,
}

impl FetchSchedule {
    /// Whether there are keys that are due to be fetched again, or the last fetch has failed.
    pub(super) fn is_due(self, now: Timestamp) -> bool {
        self.failures > 0 || self.has_keys && !self.fresh.is_pending(now)
    }

    /// Whether an unknown key may have been published since the last fetch.
    pub(super) fn may_have_news(self, now: Timestamp) -> bool {
        !self.latest.is_pending(now)
    }

    /// Whether this request fetches. If so, no other does until it ends or takes too long.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let free = !self.held_back.is_pending(now);
        if free {
            self.held_back = Deadline::after(MAX_FETCH_TIME, now);
        }
        free
    }

    /// Records how a fetch ended.
    pub(super) fn end(&mut self, succeeded: bool, now: Timestamp) {
        if succeeded {
            *self = Self {
                has_keys: true,
                fresh: Deadline::after(REFRESH_AFTER, now),
                latest: Deadline::after(UNKNOWN_KEY_AFTER, now),
                held_back: Deadline::OVER,
                failures: 0,
            };
        } else {
            let wait = FIRST_WAIT.get() << self.failures.min(5);
            let wait = Millis::new(wait.min(LONGEST_WAIT.get()));
            self.held_back = Deadline::after(wait, now);
            self.failures += 1;
        }
    }
}
