//! What all modes have in common.

use std::num::NonZeroU32;

use edge_limiter::quota::Quota;
use edge_limiter::time::Millis;

use crate::failure::Failure;
use crate::network::{Micros, SimulatedNetwork};
use crate::rng::Rng;

/// What all modes have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) network: SimulatedNetwork,
    pub(crate) quota: Quota,
    /// Units that an isolate may hold in lease mode.
    pub(crate) lease: u32,
    /// Isolates per region.
    pub(crate) isolates: u16,
    /// The greatest difference between two isolates' clocks, in ms.
    pub(crate) skew: u64,
    /// How much longer than a message a replica takes to show a write.
    pub(crate) lag: Micros,
    pub(crate) seed: u64,
}

impl Setting {
    /// How far an isolate's clock is ahead of true time.
    pub(crate) fn ahead(&self, region: usize, isolate: usize) -> Millis {
        let number = region * usize::from(self.isolates) + isolate;
        let mut rng = Rng::of(self.seed, (1 << 62) + number as u64);
        Millis::new(rng.below(self.skew + 1))
    }

    /// The quota with its share of the limit for one of the regions; at least 1.
    pub(crate) fn divided(&self) -> Result<Quota, Failure> {
        let regions = u32::try_from(self.network.regions.len()).unwrap_or(u32::MAX);
        let share = NonZeroU32::new(self.quota.limit() / regions).unwrap_or(NonZeroU32::MIN);
        Quota::new(self.quota.algorithm(), share, self.quota.window())
            .map_err(|error| Failure::new(error.to_string()))
    }
}
