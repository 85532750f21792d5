//! Generates a random trace like the traffic of a public API, with callers that are hard to limit.
//!
//! - *Ordinary callers* send most of the requests. Their rates follow Zipf's law: the k-th caller sends 1/k as
//!   many requests as the first. Each has a home region and sometimes uses another. Regions differ in size, and
//!   each has quiet and busy times. A third of the requests start a burst.
//! - *Hot callers* send about as many requests as they may: 0.7 to 1.6 times the limit.
//! - *Edge attackers* use the edges of windows. They send a whole limit in the last 1/120 of the window before
//!   every second edge, then a steady stream until the next edge.
//! - *Spread attackers* send the limit to every region at once, within 20 ms, in every other window.
//! - *Floods* send twice the limit per isolate and window, to all isolates, during a quarter of the time.

use crate::failure::Failure;
use crate::rng::Rng;
use crate::trace::{Trace, TraceRequest, drawn};

/// The start of a window, for every window length that divides a minute, in milliseconds since the epoch.
const START: u64 = 1_764_000_000_000;

/// The share of an ordinary caller's requests that come through a random region, in percent.
const ROAMING: u64 = 2;

/// The parameters of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) requests: u32,
    pub(crate) minutes: u32,
    /// The number of ordinary callers. The next four are the numbers of the other kinds of callers.
    pub(crate) callers: u32,
    pub(crate) hot: u32,
    pub(crate) edge: u32,
    pub(crate) spread: u32,
    pub(crate) floods: u32,
    pub(crate) regions: u8,
    pub(crate) isolates: u16,
    pub(crate) limit: u32,
    /// The length of the window in milliseconds.
    pub(crate) window: u64,
    pub(crate) seed: u64,
}

impl Traffic {
    /// Generates a trace with exactly [`requests`](Self::requests) requests.
    pub(crate) fn trace(&self) -> Result<Trace, Failure> {
        let mut maker = Maker {
            traffic: self,
            rng: Rng::of(self.seed, 0x7aff),
            requests: Vec::with_capacity(self.requests as usize),
            callers: Vec::new(),
        };
        for number in 0..self.hot {
            maker.hot(number);
        }
        for _ in 0..self.edge {
            maker.edge();
        }
        for _ in 0..self.spread {
            maker.spread();
        }
        for _ in 0..self.floods {
            maker.flood();
        }
        let wanted = self.requests as usize;
        if maker.requests.len() > wanted {
            return Err(Failure::new(format!(
                "in {} minutes, hot callers and attackers alone send {} requests: give more \
                 --requests or fewer --minutes",
                self.minutes,
                maker.requests.len()
            )));
        }
        maker.ordinary(wanted);
        Ok(Trace::sorted(maker.requests, maker.callers))
    }

    fn length(&self) -> u64 {
        u64::from(self.minutes) * 60_000
    }
}

struct Maker<'a> {
    traffic: &'a Traffic,
    rng: Rng,
    requests: Vec<TraceRequest>,
    callers: Vec<String>,
}

impl Maker<'_> {
    fn caller(&mut self, kind: &str) -> u32 {
        self.callers.push(format!("{kind}-{}", self.callers.len()));
        u32::try_from(self.callers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Adds a request through a random isolate of the region, `after` milliseconds after the start. A request
    /// after the end of the trace is not added.
    fn ask(&mut self, caller: u32, region: u8, after: u64) {
        if after < self.traffic.length() {
            let isolate = drawn(&mut self.rng, self.traffic.isolates);
            self.requests.push(TraceRequest {
                at: START + after,
                region,
                isolate,
                caller,
                cost: 1,
            });
        }
    }

    /// A random region. The second region is half as likely as the first, the third a third as likely, and so on.
    fn region(&mut self) -> u8 {
        let regions = u64::from(self.traffic.regions);
        let weights = (1..=regions).map(|number| 720_720 / number);
        let mut drawn = self.rng.below(weights.clone().sum());
        for (region, weight) in (0..self.traffic.regions).zip(weights) {
            if drawn < weight {
                return region;
            }
            drawn -= weight;
        }
        0
    }

    fn hot(&mut self, number: u32) {
        let caller = self.caller("hot");
        let home = self.region();
        // The rates of hot callers are evenly spaced from 0.7 to 1.6 times the limit.
        let percent = 70 + u64::from(number) * 90 / u64::from(self.traffic.hot.max(2) - 1);
        let units = u64::from(self.traffic.limit) * percent / 100;
        let times = units * self.traffic.length() / self.traffic.window;
        for _ in 0..times {
            let after = self.rng.below(self.traffic.length());
            self.ask(caller, home, after);
        }
    }

    fn edge(&mut self) {
        let caller = self.caller("edge");
        let home = self.region();
        let (window, limit) = (self.traffic.window, u64::from(self.traffic.limit));
        let mut edge = window;
        while edge < self.traffic.length() {
            for _ in 0..limit {
                let after = edge - 1 - self.rng.below(window / 120);
                self.ask(caller, home, after);
            }
            for number in 0..limit + limit / 4 {
                let after = edge + number * window / (limit + limit / 4);
                self.ask(caller, home, after);
            }
            edge += 2 * window;
        }
    }

    fn spread(&mut self) {
        let caller = self.caller("spread");
        let window = self.traffic.window;
        let mut from = self.rng.below(window);
        while from < self.traffic.length() {
            for region in 0..self.traffic.regions {
                for _ in 0..self.traffic.limit {
                    let after = from + self.rng.below(20);
                    self.ask(caller, region, after);
                }
            }
            from += 2 * window;
        }
    }

    fn flood(&mut self) {
        let caller = self.caller("flood");
        let isolates = u64::from(self.traffic.isolates) * u64::from(self.traffic.regions);
        let span = self.traffic.length() / 4;
        let from = self.rng.below(self.traffic.length() - span);
        let times = 2 * u64::from(self.traffic.limit) * isolates * span / self.traffic.window;
        for _ in 0..times {
            let after = from + self.rng.below(span);
            let region = u8::try_from(self.rng.below(u64::from(self.traffic.regions)));
            self.ask(caller, region.unwrap_or_default(), after);
        }
    }

    /// Adds requests of ordinary callers until there are `wanted` requests.
    fn ordinary(&mut self, wanted: usize) {
        let first = self.callers.len();
        let mut ranks: Vec<f64> = Vec::new();
        let mut homes = Vec::new();
        let mut sum = 0.0;
        for rank in 1..=self.traffic.callers {
            self.caller("caller");
            homes.push(self.region());
            sum += 1.0 / f64::from(rank);
            ranks.push(sum);
        }
        while self.requests.len() < wanted {
            let drawn = self.rng.share() * sum;
            let rank = ranks.partition_point(|until| *until <= drawn);
            let (Some(home), Ok(caller)) = (homes.get(rank), u32::try_from(first + rank)) else {
                continue;
            };
            let region = match self.rng.percent(ROAMING) {
                true => self.region(),
                false => *home,
            };
            let mut after = self.time_of_day(region);
            self.ask(caller, region, after);
            if self.rng.percent(33) {
                for _ in 0..1 + self.rng.below(8) {
                    after += self.rng.below(250);
                    if self.requests.len() < wanted {
                        self.ask(caller, region, after);
                    }
                }
            }
        }
    }

    /// A random time, which is more likely where the region is busier. Each region's load rises once from half
    /// of its mean to one and a half and falls back. The regions peak one after the other.
    fn time_of_day(&mut self, region: u8) -> u64 {
        let length = self.traffic.length();
        let shift = length * u64::from(region) / u64::from(self.traffic.regions);
        loop {
            let after = self.rng.below(length);
            let phase = (after + shift) % length;
            let height = length - (2 * phase).abs_diff(length);
            if self.rng.below(3 * length) < length + 2 * height {
                return after;
            }
        }
    }
}

#[cfg(test)]
mod tests;
