//! Where decisions are made.

/// A way to run a limiter over several regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedMode {
    /// Every decision at one primary database, denials remembered by the isolates.
    Strict,
    /// The same, with units leased to the isolates.
    Lease,
    /// A database per region, each with the whole limit.
    Regional,
    /// A database per region, each with its share of the limit.
    Divided,
    /// Decided on a replica in the region, counted at the primary afterwards.
    Replicated,
    /// Each isolate for itself.
    Memory,
    /// The two-counter estimate at one primary database.
    TwoCounter,
    /// An exact log at one primary database.
    IdealLog,
}

impl SimulatedMode {
    pub(crate) const ALL: [Self; 8] = [
        Self::Strict,
        Self::Lease,
        Self::Regional,
        Self::Divided,
        Self::Replicated,
        Self::Memory,
        Self::TwoCounter,
        Self::IdealLog,
    ];

    /// Those that edge-limiter has.
    pub(crate) const OF_THE_LIMITER: [Self; 5] = [
        Self::Strict,
        Self::Lease,
        Self::Regional,
        Self::Divided,
        Self::Memory,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lease => "lease",
            Self::Regional => "regional",
            Self::Divided => "regional, divided",
            Self::Replicated => "replicated",
            Self::Memory => "memory",
            Self::TwoCounter => "two-counter",
            Self::IdealLog => "ideal log",
        }
    }
}
