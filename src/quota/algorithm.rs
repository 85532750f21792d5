//! The algorithms by name.

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
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::SlidingWindow, Self::TokenBucket, Self::FixedWindow]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}
