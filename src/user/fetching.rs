//! When an identity provider's keys are fetched.

use crate::time::{Millis, Timestamp};

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
pub(super) struct Fetching {
    fetched: Option<Timestamp>,
    /// No request fetches before this time.
    next: Timestamp,
    failures: u32,
}

impl Fetching {
    /// Whether there are keys that are due to be fetched again.
    pub(super) fn is_old(self, now: Timestamp) -> bool {
        self.fetched
            .is_some_and(|at| is_past(at, REFRESH_AFTER, now))
    }

    /// Whether an unknown key may have been published since the last fetch.
    pub(super) fn may_be_news(self, now: Timestamp) -> bool {
        self.fetched
            .is_none_or(|at| is_past(at, UNKNOWN_KEY_AFTER, now))
    }

    /// Whether this request fetches. If so, no other does until it ends or takes too long.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        // If the clock has stepped back, `next` may lie further ahead than any wait.
        let free = self.next <= now || self.next > now + LONGEST_WAIT;
        if free {
            self.next = now + MAX_FETCH_TIME;
        }
        free
    }

    /// Records how a fetch ended.
    pub(super) fn end(&mut self, succeeded: bool, now: Timestamp) {
        if succeeded {
            (self.fetched, self.next, self.failures) = (Some(now), now, 0);
        } else {
            let wait = FIRST_WAIT.get() << self.failures.min(5);
            self.next = now + Millis::new(wait.min(LONGEST_WAIT.get()));
            self.failures += 1;
        }
    }
}

/// Whether `time` has passed since `at`, or the clock has stepped back by more than that.
fn is_past(at: Timestamp, time: Millis, now: Timestamp) -> bool {
    now >= at + time || at > now + time
}
