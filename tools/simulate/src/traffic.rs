//! A trace by chance: what a public API sees, with those in it who make it hard to limit.
//!
//! - *Ordinary callers*, most of the requests: Zipf-distributed (the k-th caller asks 1/k as often as
//!   the first), each at home in a region and now and then elsewhere; regions are unequal, and each
//!   has its quiet and its busy time; a third of the requests bring a burst with them.
//! - *Hot callers* ask about as often as they may: 0.7 to 1.6 times the limit.
//! - *Edge attackers* know the windows' edges: a whole limit in the last half second before every
//!   second edge, then one request after another until the next.
//! - *Spread attackers* ask for the limit in every region at once, within 20 ms, every other window.
//! - *Floods* ask for twice the limit per isolate and window, everywhere, during a quarter of the time.

use crate::failure::Failure;
use crate::rng::Rng;
use crate::trace::{Trace, TraceRequest, drawn};

/// At an edge of every window that divides a minute.
const START: u64 = 1_764_000_000_000;

/// How often an ordinary caller's request comes through another region than its own, in hundredths.
const ROAMING: u64 = 2;

/// What kind of traffic to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) requests: u32,
    pub(crate) minutes: u32,
    /// Ordinary callers.
    pub(crate) callers: u32,
    pub(crate) hot: u32,
    pub(crate) edge: u32,
    pub(crate) spread: u32,
    pub(crate) floods: u32,
    pub(crate) regions: u8,
    pub(crate) isolates: u16,
    pub(crate) limit: u32,
    /// In milliseconds.
    pub(crate) window: u64,
    pub(crate) seed: u64,
}

impl Traffic {
    /// Makes the trace: exactly as many requests as were ordered.
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
                "{} minutes hold {} requests of hot callers and attackers alone: order more \
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

    /// Through any isolate of the region; nothing once the time is over.
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

    /// The first region has the most, the second half of that, the third a third.
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
        // From 0.7 to 1.6 of the limit, evenly.
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

    /// Fills up with ordinary callers.
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

    /// A time at which the region is as busy as it is likely: from half to one and a half of its
    /// mean, up and down once, the regions one after the other.
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
