//! The setting of a simulation, which all modes share.

use std::num::NonZeroU32;

use edge_limiter::quota::Quota;
use edge_limiter::time::Millis;

use crate::failure::Failure;
use crate::network::{Micros, SimulatedNetwork};
use crate::rng::Rng;

/// The parameters that all modes share.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) network: SimulatedNetwork,
    pub(crate) quota: Quota,
    /// How many units an isolate may lease in lease mode.
    pub(crate) lease: u32,
    /// The number of isolates in each region.
    pub(crate) isolates: u16,
    /// The greatest difference between the clocks of two isolates, in milliseconds.
    pub(crate) skew: u64,
    /// How long a replica takes to show a write, in addition to the time of the message.
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

    /// The quota of one region, with the region's equal share of the limit. The share is at least 1 unit.
    pub(crate) fn divided(&self) -> Result<Quota, Failure> {
        let regions = u32::try_from(self.network.regions.len()).unwrap_or(u32::MAX);
        let share = NonZeroU32::new(self.quota.limit() / regions).unwrap_or(NonZeroU32::MIN);
        Quota::new(self.quota.algorithm(), share, self.quota.window())
            .map_err(|error| Failure::new(error.to_string()))
    }
}
