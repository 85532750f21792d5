//! The schedule by which an identity provider's keys are fetched.

use crate::time::{Deadline, Millis, Timestamp};

/// How long fetched keys are used before they are fetched again, in the background.
const REFRESH_AFTER: Millis = Millis::from_secs(600);

/// How long after a fetch a token with an unknown key may cause another fetch.
const UNKNOWN_KEY_AFTER: Millis = Millis::from_secs(60);

/// How long other requests do not fetch while one does. It is longer than a fetch can take.
const MAX_FETCH_TIME: Millis = Millis::from_secs(5);

/// How long no request fetches after a first failure. The time doubles with each further failure in a
/// row, up to [`MAX_WAIT`].
const FIRST_WAIT: Millis = Millis::from_secs(10);
const MAX_WAIT: Millis = Millis::from_secs(320);

/// Decides which request fetches the provider's document.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FetchSchedule {
    /// Keys have been fetched.
    has_keys: bool,
    /// Until when the keys are used without fetching them again.
    fresh: Deadline,
    /// Until when an unknown key does not cause a fetch.
    no_new_keys: Deadline,
    /// Until when no request fetches.
    no_fetch: Deadline,
    /// Failures in a row.
    failures: u32,
}

impl FetchSchedule {
    /// Whether the keys are due to be fetched again, or the last fetch has failed.
    pub(super) fn is_due(self, now: Timestamp) -> bool {
        self.failures > 0 || self.has_keys && !self.fresh.is_pending(now)
    }

    /// Whether the provider may have published a new key since the last fetch.
    pub(super) fn may_have_new_keys(self, now: Timestamp) -> bool {
        !self.no_new_keys.is_pending(now)
    }

    /// Whether this request may fetch. If so, no other request does until the fetch ends or takes too long.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let may_fetch = !self.no_fetch.is_pending(now);
        if may_fetch {
            self.no_fetch = Deadline::after(MAX_FETCH_TIME, now);
        }
        may_fetch
    }

    /// Records how a fetch ended.
    pub(super) fn end(&mut self, succeeded: bool, now: Timestamp) {
        if succeeded {
            *self = Self {
                has_keys: true,
                fresh: Deadline::after(REFRESH_AFTER, now),
                no_new_keys: Deadline::after(UNKNOWN_KEY_AFTER, now),
                no_fetch: Deadline::OVER,
                failures: 0,
            };
        } else {
            let wait = FIRST_WAIT.get() << self.failures.min(5);
            let wait = Millis::new(wait.min(MAX_WAIT.get()));
            self.no_fetch = Deadline::after(wait, now);
            self.failures += 1;
        }
    }
}
