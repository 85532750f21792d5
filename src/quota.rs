//! The pure decision: `(state, quota, cost, now)` to a [`Decision`] and the state to keep.
//!
//! Three algorithms share one shape. The whole state of one quota for one caller is one value
//! ([`State`]), written to a store as one short text. `store/decide.lua` is the same function
//! where Redis can run it atomically; shared vectors and a differential test hold the two together.
//!
//! # Clocks
//!
//! `now` is the asking isolate's clock. A state remembers the latest time at which a caller was
//! admitted or units were absorbed (its *clock*), and a decision is made at the later of the two, so that an isolate whose
//! clock is a little behind cannot reopen a window. A state whose clock is more than
//! [`CLOCK_TOLERANCE`] ahead of `now` was written by a faulty clock: that clock is ignored, and what
//! the state has counted is taken as counted no later than `now` (it was, in real time), so that a
//! bad clock costs a caller at most one window and admits nobody twice. Such a state is *repaired*
//! in the store even when the request is denied, which keeps the announced retry time exact.
//!
//! Isolates whose clocks are further apart than the tolerance are outside the bound: taking turns,
//! each can find the other's state over. So stores keep a state for the tolerance longer than its
//! window, for those that are within it and behind.

use std::fmt;
use std::num::NonZeroU32;

use crate::time::{Millis, Timestamp};

mod decision;
mod fixed_window;
#[cfg(test)]
pub(crate) mod laws;
mod lease;
mod sliding_window;
mod state;
mod token_bucket;

use decision::decided_at;
pub use decision::{Decided, Decision, Outcome};
pub use lease::{LEAST_LEASED, Lease};
pub use state::{FixedWindow, SlidingWindow, State, SubWindow, TokenBucket};

/// How far a state's clock may be ahead of the asking isolate's before it is taken for a fault.
pub const CLOCK_TOLERANCE: Millis = Millis::new(2000);

/// The longest window: 366 days. Sub-window numbers and sums of times stay far below 2^53, the
/// last integer that Lua's numbers hold exactly.
pub const MAX_WINDOW: Millis = Millis::new(366 * 24 * 60 * 60 * 1000);

/// The largest debt a token bucket may stand for, in ms x units: sums of two of them stay exact
/// integers in Lua, whose numbers are exact up to 2^53.
const MAX_DEBT: u64 = 1 << 51;

/// How a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Counts per sub-window of a sixtieth of the window: no interval of the window's length ever
    /// holds more than the limit. A caller waits at most one sub-window longer than an ideal log
    /// would have it wait.
    #[default]
    SlidingWindow,
    /// GCRA: a burst and a sustained rate apart.
    TokenBucket,
    /// Windows aligned to the epoch. Around a boundary up to twice the limit can pass within one
    /// window's length.
    FixedWindow,
}

impl Algorithm {
    /// Its name in `RATE_LIMIT_POLICIES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding-window",
            Self::TokenBucket => "token-bucket",
            Self::FixedWindow => "fixed-window",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::SlidingWindow, Self::TokenBucket, Self::FixedWindow]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}

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
    limit: NonZeroU32,
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
            .is_some_and(|debt| debt <= MAX_DEBT);
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

    /// Decides a request of `cost` units at `now`. A state of another shape counts as absent.
    /// Nothing is consumed until the caller keeps [`Decided::admitted`].
    #[must_use]
    pub fn decide(&self, state: Option<&State>, cost: u32, now: Timestamp) -> Decided {
        match self.algorithm {
            Algorithm::SlidingWindow => sliding_window::decide(self, state, cost, now),
            Algorithm::TokenBucket => token_bucket::decide(self, state, cost, now),
            Algorithm::FixedWindow => fixed_window::decide(self, state, cost, now),
        }
    }

    /// Adds to `state` what was admitted elsewhere: `owed` is what a quota that admitted nothing
    /// else would hold. Units are added at the time at which they were admitted, the earliest first,
    /// as far as there is room; what no longer counts at `now` is nothing, and what is later than
    /// the decision's time counts as admitted then. The result's clock is that time, and a faulty
    /// one is repaired. With no `state` it is the owed units by themselves, so that what is owed can
    /// be gathered.
    ///
    /// A bucket's two debts have both been drained until `now`, as they were apart.
    ///
    /// `None`: there is nothing to add (an owed state of another shape is nothing), keep the state
    /// as it is.
    #[must_use]
    pub fn absorb(&self, state: Option<&State>, owed: &State, now: Timestamp) -> Option<State> {
        match self.algorithm {
            Algorithm::SlidingWindow => sliding_window::absorb(self, state, owed, now),
            Algorithm::TokenBucket => token_bucket::absorb(self, state, owed, now),
            Algorithm::FixedWindow => fixed_window::absorb(self, state, owed, now),
        }
    }

    /// What of `owed` is not in `counted`, an earlier form of it: what has been admitted since.
    /// `None`: nothing.
    #[must_use]
    pub fn newer(&self, owed: &State, counted: &State) -> Option<State> {
        match self.algorithm {
            Algorithm::SlidingWindow => sliding_window::newer(self, owed, counted),
            Algorithm::TokenBucket => token_bucket::newer(self, owed, counted),
            Algorithm::FixedWindow => fixed_window::newer(self, owed, counted),
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
            Algorithm::TokenBucket => MAX_DEBT / self.window.get(),
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

    /// Takes back `units` of an admission made at `admitted_at` (its [`Decision::at`]).
    /// What that admission no longer weighs is not given back, so the algorithm's bound holds for
    /// what remains consumed. `None`: there is nothing to take back, keep the state as it is.
    #[must_use]
    pub fn refund(
        &self,
        state: &State,
        units: u32,
        admitted_at: Timestamp,
        now: Timestamp,
    ) -> Option<State> {
        match self.algorithm {
            Algorithm::SlidingWindow => sliding_window::refund(self, state, units, admitted_at),
            Algorithm::TokenBucket => token_bucket::refund(self, state, units, admitted_at, now),
            Algorithm::FixedWindow => fixed_window::refund(self, state, units, admitted_at),
        }
    }
}
