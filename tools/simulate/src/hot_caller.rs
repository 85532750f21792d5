//! Measures how many round trips leases save. One caller sends requests to one isolate, within its limit and
//! at several rates, in the region that is farthest from the primary database.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::Millis;

use crate::document::Section;
use crate::failure::Failure;
use crate::mode::SimulatedMode;
use crate::rng::Rng;
use crate::setting::Setting;
use crate::simulation::replay;
use crate::table::{MarkdownTable, count, decimal, percent};
use crate::trace::{Trace, TraceRequest};

/// The rates that are compared, in requests a second.
const RATES: [u32; 6] = [1, 2, 5, 10, 50, 100];

/// The length of the trace for each rate, in minutes.
const MINUTES: u32 = 2;

/// The leases that are compared, in units.
const LEASES: [u32; 3] = [10, 50, 200];

/// The start of a window, in milliseconds since the epoch.
const START: u64 = 1_764_000_000_000;

/// The table of round trips and waits by rate and lease.
pub(crate) fn leases(setting: &Setting) -> Result<Section, Failure> {
    let per_lease = LEASES.map(|lease| format!("lease of {lease}: round trips, waiting"));
    let mut table = MarkdownTable::new(
        [
            "requests a second",
            "limit a minute",
            "without a lease: round trips",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(per_lease),
    );
    for rate in RATES {
        let trace = trace_of(rate, farthest(setting), setting.seed);
        let requests = trace.requests.len() as u128;
        // The limit is a quarter more than the caller's requests a minute.
        let limit = rate * 75;
        let quota = NonZeroU32::new(limit)
            .and_then(|limit| {
                let window = Millis::from_secs(60);
                Quota::new(Algorithm::SlidingWindow, limit, window).ok()
            })
            .ok_or_else(|| Failure::new(format!("{limit} a minute is not a valid limit")))?;
        let with = |lease| Setting {
            quota,
            lease,
            ..setting.clone()
        };
        let strict = replay(SimulatedMode::Strict, &trace, &with(0))?;
        let mut cells = vec![
            count(rate.into()),
            count(limit.into()),
            decimal(strict.calls.into(), requests, 2),
        ];
        for lease in LEASES {
            let run = replay(SimulatedMode::Lease, &trace, &with(lease))?;
            let waiting = trace.requests.len() as u64 - run.answered_at_once;
            let calls = decimal(run.calls.into(), requests, 2);
            cells.push(format!("{calls}, {}", percent(waiting, requests as u64)));
        }
        table.row(cells);
    }
    Ok(Section {
        name: "the leases",
        text: table.markdown(),
    })
}

/// The index of the region that is farthest from the primary database.
fn farthest(setting: &Setting) -> u8 {
    let regions = setting.network.regions.iter().zip(0..);
    let farthest = regions.max_by_key(|(region, _)| region.to_primary);
    farthest.map_or(0, |(_, place)| place)
}

/// A trace of one caller, whose requests are evenly distributed at random, at the first isolate of the region.
fn trace_of(rate: u32, region: u8, seed: u64) -> Trace {
    let mut rng = Rng::of(seed, u64::from(rate));
    let length = u64::from(MINUTES) * 60_000;
    let requests = (0..rate * MINUTES * 60).map(|_| TraceRequest {
        at: START + rng.below(length),
        region,
        isolate: 0,
        caller: 0,
        cost: 1,
    });
    Trace::sorted(requests.collect(), vec!["hot".to_owned()])
}

#[cfg(test)]
mod tests {
    use super::leases;
    use crate::testing::setting;

    #[test]
    fn the_share_of_waiting_requests_falls_as_the_rate_of_a_caller_rises() {
        let text = leases(&setting("iad=2,fra=90", 100, 60_000)).unwrap().text;
        let waiting: Vec<f64> = text
            .lines()
            .skip(2)
            .filter_map(|line| {
                let last = line.trim_end_matches(" % |").rsplit(", ").next()?;
                last.trim_start_matches("< ").parse().ok()
            })
            .collect();
        assert_eq!(waiting.len(), 6, "{text}");
        assert!(waiting.is_sorted_by(|one, next| one >= next), "{text}");
        assert!(waiting[0] > 5.0 && waiting[5] < 1.0, "{text}");
    }
}
