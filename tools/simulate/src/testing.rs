//! Fixtures that the tests share.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::{Millis, Timestamp};

use crate::network::SimulatedNetwork;
use crate::rng::Rng;
use crate::setting::Setting;
use crate::trace::{Trace, TraceRequest};

/// The start of a window, for all windows in the tests.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);

pub(crate) fn quota(algorithm: Algorithm, limit: u32, window: u64) -> Quota {
    Quota::new(
        algorithm,
        NonZeroU32::new(limit).unwrap(),
        Millis::new(window),
    )
    .unwrap()
}

/// A setting with these regions, and four isolates in each of them.
pub(crate) fn setting(regions: &str, limit: u32, window: u64) -> Setting {
    Setting {
        network: SimulatedNetwork {
            regions: SimulatedNetwork::regions(regions).unwrap(),
            local: 2000,
            jitter: 25,
            seed: 1,
        },
        quota: quota(Algorithm::SlidingWindow, limit, window),
        lease: 20,
        isolates: 4,
        skew: 0,
        lag: 0,
        seed: 1,
    }
}

/// Requests of one caller at one isolate: one of cost 1 at each of `times`, in milliseconds after [`START`].
pub(crate) fn one_caller(times: impl IntoIterator<Item = u64>) -> Trace {
    let requests = times.into_iter().map(|after| TraceRequest {
        at: START.as_millis() + after,
        region: 0,
        isolate: 0,
        caller: 0,
        cost: 1,
    });
    Trace::sorted(requests.collect(), vec!["a".to_owned()])
}

/// Requests of three callers in bursts and pauses, at random isolates of three regions, at costs of 1 to 3 units.
pub(crate) fn random(seed: u64, requests: u32, window: u64) -> Trace {
    let mut rng = Rng::of(seed, 0);
    let mut at = START.as_millis() + rng.below(window);
    let requests = (0..requests).map(|_| {
        at += match rng.below(30) {
            0 => rng.below(window),
            1..=8 => rng.below(window / 50),
            _ => rng.below(3),
        };
        TraceRequest {
            at,
            region: u8::try_from(rng.below(3)).unwrap(),
            isolate: u16::try_from(rng.below(4)).unwrap(),
            caller: u32::try_from(rng.below(3)).unwrap(),
            cost: 1 + u32::try_from(rng.below(3)).unwrap(),
        }
    });
    let callers = ["a", "b", "c"].map(str::to_owned).to_vec();
    Trace::sorted(requests.collect(), callers)
}
