//! The modes that are compared: where and how a limiter decides.

/// A way to run a limiter over several regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedMode {
    /// One primary database makes every decision, and the isolates remember denials.
    Strict,
    /// As in `Strict`, and the isolates lease units.
    Lease,
    /// Each region has a database with the whole limit.
    Regional,
    /// Each region has a database with its share of the limit.
    Divided,
    /// A replica in the region makes the decision, and the primary database counts it afterwards.
    Replicated,
    /// Each isolate decides alone.
    Memory,
    /// One primary database decides by the two-counter estimate.
    TwoCounter,
    /// One primary database decides by an exact log.
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

    /// The modes that edge-limiter offers.
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
