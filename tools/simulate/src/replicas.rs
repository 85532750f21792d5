//! What a limiter would be that reads the replica in its region and counts at the primary.
//!
//! Each request reads its caller's state from the near replica and is decided on that. What is
//! admitted is written to the primary, and from there to every replica, while the request goes
//! ahead. The counting is the library's: what is written is added with no regard to the limit, as
//! an `INCRBY` would.

use edge_limiter::quota::{Quota, QuotaState};
use edge_limiter::time::Timestamp;

use crate::agenda::Agenda;
use crate::network::{DatabaseLocation, Micros};
use crate::ruling::{Run, SimulatedOutcome};
use crate::setting::Setting;
use crate::trace::Trace;

/// Units that were admitted.
#[derive(Clone, Copy)]
struct Write {
    caller: u32,
    units: u32,
    at: Timestamp,
}

enum Event {
    /// A request's question is at its region's replica.
    Read(usize),
    /// What was admitted is at the primary.
    Written(Write),
    /// It is at a region's replica as well.
    Copied(usize, Write),
}

/// Every caller's state, as one replica has it.
type Replica = Vec<Option<QuotaState>>;

pub(crate) fn replay(trace: &Trace, setting: &Setting) -> Run {
    let regions = setting.network.regions.len();
    let mut play = Play {
        trace,
        setting,
        counting: setting.quota.boundless(),
        replicas: vec![vec![None; trace.callers.len()]; regions],
        agenda: Agenda::default(),
        messages: 0,
        run: Run {
            outcomes: vec![SimulatedOutcome::default(); trace.requests.len()],
            ..Run::default()
        },
    };
    for (place, request) in trace.requests.iter().enumerate() {
        let at = request.at * 1000;
        play.until(at);
        let there = at + play.travel(usize::from(request.region), DatabaseLocation::Near);
        play.agenda.enter(there, Event::Read(place));
    }
    play.until(Micros::MAX);
    play.run
}

struct Play<'a> {
    trace: &'a Trace,
    setting: &'a Setting,
    counting: Quota,
    replicas: Vec<Replica>,
    agenda: Agenda<Event>,
    messages: u64,
    run: Run,
}

impl Play<'_> {
    fn until(&mut self, until: Micros) {
        while let Some((at, event)) = self.agenda.next_before(until) {
            match event {
                Event::Read(place) => self.decide(place, at),
                Event::Written(write) => {
                    for region in 0..self.replicas.len() {
                        let there =
                            at + self.travel(region, DatabaseLocation::Primary) + self.setting.lag;
                        self.agenda.enter(there, Event::Copied(region, write));
                    }
                }
                Event::Copied(region, write) => self.add(region, write),
            }
        }
    }

    fn decide(&mut self, place: usize, at: Micros) {
        let request = &self.trace.requests[place];
        let region = usize::from(request.region);
        let ahead = self.setting.ahead(region, usize::from(request.isolate));
        let now = Timestamp::from_millis(request.at) + ahead;
        let state = self.replicas[region][request.caller as usize].as_ref();
        let decision = self.setting.quota.decide(state, request.cost, now).decision;
        let back = at + self.travel(region, DatabaseLocation::Near);
        self.run.outcomes[place] = SimulatedOutcome {
            admitted: decision.allowed(),
            waited: back - request.at * 1000,
        };
        self.run.calls += 1;
        if decision.allowed() {
            let there = back + self.travel(region, DatabaseLocation::Primary);
            let write = Write {
                caller: request.caller,
                units: request.cost,
                at: now,
            };
            self.agenda.enter(there, Event::Written(write));
            self.run.calls += 1;
        }
    }

    fn add(&mut self, region: usize, write: Write) {
        let state = &mut self.replicas[region][write.caller as usize];
        let added = self.counting.decide(state.as_ref(), write.units, write.at);
        *state = added.admitted.or(state.take());
    }

    fn travel(&mut self, region: usize, place: DatabaseLocation) -> Micros {
        self.messages += 1;
        self.setting.network.one_way(region, place, self.messages)
    }
}
