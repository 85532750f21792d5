//! Time as a value: every pure function takes `now`, and none reads a clock.

use std::ops::{Add, Sub};

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `ms` milliseconds.
    #[must_use]
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    /// `seconds` seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds as u64 * 1000)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded up, so that a `Retry-After` does not invite a
    /// caller back too early.
    #[must_use]
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }
}

/// A moment: milliseconds since the Unix epoch, on the clock of the isolate that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `ms` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Seconds since the Unix epoch, rounded up: no earlier than the moment itself.
    #[must_use]
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Millis {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }
}

impl Add<Millis> for Timestamp {
    type Output = Self;

    fn add(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Sub<Millis> for Timestamp {
    type Output = Self;

    fn sub(self, length: Millis) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

/// A deadline that a clock set back does not postpone.
///
/// An isolate's clock can be set back by hours. A moment that was set before then would lie hours ahead, and whatever
/// waits for it would wait for hours. A deadline knows its length: if it is further ahead than that, it is over.
///
/// A deadline is also used in place of a flag to say that something is in progress. A request that is cancelled never
/// clears a flag, but a deadline ends.
///
/// # Example
///
/// ```
/// # use edge_limiter::time::{Deadline, Millis, Timestamp};
/// let now = Timestamp::from_millis(1_764_000_000_000);
/// let deadline = Deadline::after(Millis::new(2000), now);
/// assert!(deadline.is_pending(now + Millis::new(1999)));
/// assert!(!deadline.is_pending(now + Millis::new(2000)));
/// assert!(!deadline.is_pending(now - Millis::new(1)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    at: Timestamp,
    length: Millis,
}

impl Deadline {
    /// A deadline that is over.
    pub const OVER: Self = Self {
        at: Timestamp(0),
        length: Millis::ZERO,
    };

    /// The deadline `length` after `now`.
    #[must_use]
    pub fn after(length: Millis, now: Timestamp) -> Self {
        Self {
            at: now + length,
            length,
        }
    }

    /// Whether the deadline is still ahead at `now`.
    #[must_use]
    pub fn is_pending(self, now: Timestamp) -> bool {
        self.at > now && self.at <= now + self.length
    }

    /// When the deadline ends, on the clock by which it was set.
    #[must_use]
    pub const fn at(self) -> Timestamp {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{Deadline, Millis, Timestamp};

    proptest! {
        /// With a clock that goes forward, it is pending for exactly its length. With any clock, never for longer.
        #[test]
        fn a_deadline_is_pending_for_its_length_alone(set in 0..10_000u64, length in 0..5000u64, now in 0..20_000u64) {
            let deadline = Deadline::after(Millis::new(length), Timestamp::from_millis(set));
            let expected = now >= set && now < set + length;
            prop_assert_eq!(deadline.is_pending(Timestamp::from_millis(now)), expected);
        }
    }
}
