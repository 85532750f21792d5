//! The algorithms and their names.

/// How a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Counts in sub-windows of a sixtieth of the window. No interval of the window's length ever
    /// holds more than the limit. A caller waits at most one sub-window longer than with an ideal
    /// log of all requests.
    #[default]
    SlidingWindow,
    /// GCRA: limits the burst and the sustained rate separately.
    TokenBucket,
    /// Counts in windows aligned to the epoch. Around a boundary, up to twice the limit can pass
    /// within one window's length.
    FixedWindow,
}

impl Algorithm {
    /// The algorithm's name in `RATE_LIMIT_POLICIES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding-window",
            Self::TokenBucket => "token-bucket",
            Self::FixedWindow => "fixed-window",
        }
    }

    /// The algorithm with this name. `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::SlidingWindow, Self::TokenBucket, Self::FixedWindow]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}
