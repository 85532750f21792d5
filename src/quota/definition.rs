//! A quota: how much, over how long, counted how.

use std::fmt;
use std::num::NonZeroU32;

use super::algorithm::Algorithm;
use crate::time::Millis;

/// The longest window: 366 days. Sub-window numbers and sums of times stay far below 2^53, the
/// last integer that Lua's numbers hold exactly.
pub const MAX_WINDOW: Millis = Millis::new(366 * 24 * 60 * 60 * 1000);

/// The highest level that a token bucket may have, in ms x units: sums of two levels stay exact
/// integers in Lua, whose numbers are exact up to 2^53.
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

/// How much, over how long, counted how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    algorithm: Algorithm,
    pub(super) limit: NonZeroU32,
    window: Millis,
    burst: NonZeroU32,
}

impl Quota {
    /// `limit` units per `window`. A token bucket's burst is the limit unless
    /// [`with_burst`](Self::with_burst) says otherwise.
    ///
    /// # Errors
    ///
    /// [`QuotaError::Window`] or [`QuotaError::Product`] when out of range.
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

    /// The same with another burst; only a token bucket has one, the others ignore it.
    ///
    /// # Errors
    ///
    /// [`QuotaError::Product`] when out of range.
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

    /// How it counts.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Units per window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// The window's length (token bucket: the period in which `limit` units come back).
    #[must_use]
    pub const fn window(&self) -> Millis {
        self.window
    }

    /// The most that can be admitted at once: a token bucket's burst, otherwise the limit.
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

    /// The same at `thousandths` of the size, rounded down and at least 1; as it is where that would
    /// be too large for exact counting.
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

    /// The same with as many units as can be counted: it denies nobody, and counts.
    #[must_use]
    pub fn boundless(&self) -> Self {
        let most = match self.algorithm {
            Algorithm::TokenBucket => MAX_LEVEL / self.window.get(),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => u64::from(u32::MAX),
        };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        // A bucket's rate stays, or what it counts would be gone at once.
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
