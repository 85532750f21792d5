//! A quota: a limit, a window, and the algorithm that counts.

use std::fmt;
use std::num::NonZeroU32;

use super::algorithm::Algorithm;
use crate::time::Millis;

/// The longest window: 366 days. With it, sub-window numbers and sums of times stay far below 2^53,
/// up to which Lua's numbers are exact integers.
pub const MAX_WINDOW: Millis = Millis::new(366 * 24 * 60 * 60 * 1000);

/// The highest level that a token bucket may have, in ms x units. The sum of two levels stays an exact
/// integer in Lua, whose numbers are exact up to 2^53.
pub(super) const MAX_LEVEL: u64 = 1 << 51;

/// Why a quota cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaError {
    /// The window is zero or longer than [`MAX_WINDOW`].
    Window,
    /// `limit x window` or `burst x window` is too large for exact arithmetic (2^51 ms x units).
    Product,
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Window => "the window must be between 1 second and 366 days",
            Self::Product => {
                "the limit (or burst) times the window is too large for exact counting; \
                 use a shorter window"
            }
        })
    }
}

impl std::error::Error for QuotaError {}

/// A limit of units per window, and the algorithm that counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    algorithm: Algorithm,
    pub(super) limit: NonZeroU32,
    window: Millis,
    burst: NonZeroU32,
}

impl Quota {
    /// A quota of `limit` units per `window`. A token bucket's burst is the limit unless
    /// [`with_burst`](Self::with_burst) sets another.
    ///
    /// # Errors
    ///
    /// [`QuotaError::Window`] if the window is zero or longer than [`MAX_WINDOW`].
    /// [`QuotaError::Product`] if `limit x window` of a token bucket is above 2^51 ms x units.
    pub fn new(
        algorithm: Algorithm,
        limit: NonZeroU32,
        window: Millis,
    ) -> Result<Self, QuotaError> {
        if window == Millis::ZERO || window > MAX_WINDOW {
            return Err(QuotaError::Window);
        }
        Self {
            algorithm,
            limit,
            window,
            burst: limit,
        }
        .checked()
    }

    /// The same quota with another burst. Only a token bucket uses the burst.
    ///
    /// # Errors
    ///
    /// [`QuotaError::Product`] if `burst x window` of a token bucket is above 2^51 ms x units.
    pub fn with_burst(mut self, burst: NonZeroU32) -> Result<Self, QuotaError> {
        self.burst = burst;
        self.checked()
    }

    fn checked(self) -> Result<Self, QuotaError> {
        let most = u64::from(self.limit.max(self.burst).get());
        let fits = most
            .checked_mul(self.window.get())
            .is_some_and(|level| level <= MAX_LEVEL);
        if self.algorithm == Algorithm::TokenBucket && !fits {
            return Err(QuotaError::Product);
        }
        Ok(self)
    }

    /// The algorithm that counts.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Units per window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// The window's length. For a token bucket: the time in which `limit` units come back.
    #[must_use]
    pub const fn window(&self) -> Millis {
        self.window
    }

    /// The most units that can be admitted at once: a token bucket's burst, otherwise the limit.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket => self.burst.get(),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => self.limit.get(),
        }
    }

    /// The time in which the whole [`capacity`](Self::capacity) comes back.
    #[must_use]
    pub fn refill(&self) -> Millis {
        match self.algorithm {
            Algorithm::TokenBucket => Millis::new(
                (u64::from(self.burst.get()) * self.window.get()).div_ceil(u64::from(self.limit())),
            ),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => self.window,
        }
    }

    /// The quota with limit and burst times `thousandths / 1000`, each rounded down and at least 1. The
    /// quota unchanged if these are too large for exact counting.
    #[must_use]
    pub fn scaled(&self, thousandths: u32) -> Self {
        let scale = |number: NonZeroU32| {
            let scaled = u64::from(number.get()) * u64::from(thousandths) / 1000;
            let scaled = u32::try_from(scaled).unwrap_or(u32::MAX);
            NonZeroU32::new(scaled).unwrap_or(NonZeroU32::MIN)
        };
        let scaled = Self {
            limit: scale(self.limit),
            burst: scale(self.burst),
            ..*self
        };
        scaled.checked().unwrap_or(*self)
    }

    /// The quota with as many units as can be counted exactly. It counts, and denies nobody.
    #[must_use]
    pub fn boundless(&self) -> Self {
        let most = match self.algorithm {
            Algorithm::TokenBucket => MAX_LEVEL / self.window.get(),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => u64::from(u32::MAX),
        };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        // A bucket's rate stays the same. With a higher one, the level would drain at once.
        let limit = match self.algorithm {
            Algorithm::TokenBucket => self.limit,
            Algorithm::SlidingWindow | Algorithm::FixedWindow => most,
        };
        Self {
            limit,
            burst: most,
            ..*self
        }
    }
}
