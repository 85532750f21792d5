//! Traces of traffic: requests in the order in which they arrive.

use std::collections::HashMap;

use crate::failure::Failure;
use crate::network::Region;
use crate::rng::Rng;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceRequest {
    /// When the request arrives, in milliseconds of true time since the epoch.
    pub(crate) at: u64,
    pub(crate) region: u8,
    /// The index of the isolate in its region.
    pub(crate) isolate: u16,
    /// Index in [`Trace::callers`].
    pub(crate) caller: u32,
    pub(crate) cost: u32,
}

/// Requests in the order of arrival, and the names of their callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) requests: Vec<TraceRequest>,
    pub(crate) callers: Vec<String>,
}

const COLUMNS: &str = "millis,region,isolate,caller,cost";

impl Trace {
    /// Sorts requests by arrival. Requests of the same millisecond stay in their order.
    pub(crate) fn sorted(mut requests: Vec<TraceRequest>, callers: Vec<String>) -> Self {
        requests.sort_by_key(|request| request.at);
        Self { requests, callers }
    }

    /// Reads lines of `millis,region,isolate,caller,cost`. The first line may consist of these names. If the
    /// isolate is empty, `seed` determines a random one of the region. If the cost is empty, it is 1.
    pub(crate) fn read(
        text: &str,
        regions: &[Region],
        isolates: u16,
        seed: u64,
    ) -> Result<Self, Failure> {
        let mut requests = Vec::new();
        let mut callers: Vec<String> = Vec::new();
        let mut known: HashMap<&str, u32> = HashMap::new();
        let mut rng = Rng::of(seed, 0x7ace);
        for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            if line.trim().is_empty() || (number == 1 && line.trim() == COLUMNS) {
                continue;
            }
            let wrong = |what: &str| {
                Failure::new(format!(
                    "the trace's line {number}: {what}; a line is {COLUMNS}, such as \
                     1764000000123,{},0,192.0.2.1,1",
                    regions.first().map_or("iad", |region| &region.name)
                ))
            };
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let &[at, region, isolate, caller, cost] = fields.as_slice() else {
                return Err(wrong("five fields are needed"));
            };
            let at: u64 = at.parse().map_err(|_| wrong("the time is not a number"))?;
            if at > 1 << 45 {
                return Err(wrong("the time is later than the year 3000"));
            }
            let region = regions
                .iter()
                .position(|one| one.name == region)
                .and_then(|place| u8::try_from(place).ok())
                .ok_or_else(|| wrong("the region is not one of --regions"))?;
            let isolate = match isolate {
                "" => drawn(&mut rng, isolates),
                text => text
                    .parse()
                    .ok()
                    .filter(|isolate| *isolate < isolates)
                    .ok_or_else(|| wrong("the isolate is not a number less than --isolates"))?,
            };
            let cost = match cost {
                "" => 1,
                text => (text.parse().ok())
                    .filter(|cost| *cost > 0)
                    .ok_or_else(|| wrong("the cost is not a number of at least 1"))?,
            };
            if caller.is_empty() {
                return Err(wrong("the caller is missing"));
            }
            let caller = *known.entry(caller).or_insert_with(|| {
                callers.push(caller.to_owned());
                u32::try_from(callers.len() - 1).unwrap_or(u32::MAX)
            });
            requests.push(TraceRequest {
                at,
                region,
                isolate,
                caller,
                cost,
            });
        }
        if requests.is_empty() {
            return Err(Failure::new("the trace contains no requests"));
        }
        Ok(Self::sorted(requests, callers))
    }
}

/// The index of a random one of `isolates` isolates.
pub(crate) fn drawn(rng: &mut Rng, isolates: u16) -> u16 {
    u16::try_from(rng.below(u64::from(isolates))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Trace, TraceRequest};
    use crate::network::SimulatedNetwork;

    fn read(text: &str) -> Result<Trace, String> {
        let regions = SimulatedNetwork::regions("iad=2,fra=90").unwrap();
        Trace::read(text, &regions, 4, 1).map_err(|failure| failure.0)
    }

    #[test]
    fn the_requests_of_a_trace_are_sorted_by_arrival() {
        let trace =
            read("millis,region,isolate,caller,cost\n20,fra,3,a,2\n\n10,iad,0,b,\n").unwrap();
        assert_eq!(trace.callers, ["a", "b"]);
        let first = TraceRequest {
            at: 10,
            region: 0,
            isolate: 0,
            caller: 1,
            cost: 1,
        };
        assert_eq!(trace.requests[0], first);
        assert_eq!(trace.requests[1].cost, 2);
        assert!(read("10,iad,,b,1").unwrap().requests[0].isolate < 4);
    }

    #[test]
    fn the_error_of_a_bad_trace_names_the_line_and_the_rule() {
        for (text, what) in [
            ("10,iad,0,b", "line 1: five fields"),
            (
                "10,iad,0,b,1\nx,iad,0,b,1",
                "line 2: the time is not a number",
            ),
            ("99999999999999,iad,0,b,1", "later than the year 3000"),
            ("10,lhr,0,b,1", "the region is not one of --regions"),
            (
                "10,iad,4,b,1",
                "the isolate is not a number less than --isolates",
            ),
            ("10,iad,0,,1", "the caller is missing"),
            ("10,iad,0,b,0", "the cost is not a number of at least 1"),
            ("\n", "the trace contains no requests"),
        ] {
            let failure = read(text).unwrap_err();
            assert!(failure.contains(what), "{failure}");
        }
    }
}
