//! Simulates a limiter that reads from the replica in its region and counts at the primary database.
//!
//! Each request reads its caller's state from the near replica, which decides it. An admitted request
//! is written to the primary, and from there to every replica, while the request already continues.
//! The library does the counting. A write is added regardless of the limit, as an `INCRBY` would be.

use edge_limiter::quota::{Quota, QuotaState};
use edge_limiter::time::Timestamp;

use crate::event_queue::EventQueue;
use crate::network::{DatabaseLocation, Micros};
use crate::outcome::{Run, SimulatedOutcome};
use crate::setting::Setting;
use crate::trace::Trace;

/// The admitted units of one request.
#[derive(Clone, Copy)]
struct ReplicatedWrite {
    caller: u32,
    units: u32,
    at: Timestamp,
}

enum ReplicaEvent {
    /// The question of the request with this index reaches the replica of its region.
    Read(usize),
    /// A write reaches the primary.
    Written(ReplicatedWrite),
    /// A write reaches the replica of the region with this index.
    Copied(usize, ReplicatedWrite),
}

/// The states of all callers in one replica.
type Replica = Vec<Option<QuotaState>>;

pub(crate) fn replay(trace: &Trace, setting: &Setting) -> Run {
    let regions = setting.network.regions.len();
    let mut simulation = ReplicaSimulation {
        trace,
        setting,
        counting: setting.quota.boundless(),
        replicas: vec![vec![None; trace.callers.len()]; regions],
        queue: EventQueue::default(),
        messages: 0,
        run: Run {
            outcomes: vec![SimulatedOutcome::default(); trace.requests.len()],
            ..Run::default()
        },
    };
    for (index, request) in trace.requests.iter().enumerate() {
        let at = request.at * 1000;
        simulation.until(at);
        let arrival = at + simulation.travel(usize::from(request.region), DatabaseLocation::Near);
        simulation
            .queue
            .schedule(arrival, ReplicaEvent::Read(index));
    }
    simulation.until(Micros::MAX);
    simulation.run
}

struct ReplicaSimulation<'a> {
    trace: &'a Trace,
    setting: &'a Setting,
    counting: Quota,
    replicas: Vec<Replica>,
    queue: EventQueue<ReplicaEvent>,
    messages: u64,
    run: Run,
}

impl ReplicaSimulation<'_> {
    fn until(&mut self, until: Micros) {
        while let Some((at, event)) = self.queue.next_before(until) {
            match event {
                ReplicaEvent::Read(index) => self.decide(index, at),
                ReplicaEvent::Written(write) => {
                    for region in 0..self.replicas.len() {
                        let arrival =
                            at + self.travel(region, DatabaseLocation::Primary) + self.setting.lag;
                        self.queue
                            .schedule(arrival, ReplicaEvent::Copied(region, write));
                    }
                }
                ReplicaEvent::Copied(region, write) => self.add(region, write),
            }
        }
    }

    fn decide(&mut self, index: usize, at: Micros) {
        let request = &self.trace.requests[index];
        let region = usize::from(request.region);
        let ahead = self.setting.ahead(region, usize::from(request.isolate));
        let now = Timestamp::from_millis(request.at) + ahead;
        let state = self.replicas[region][request.caller as usize].as_ref();
        let decision = self.setting.quota.decide(state, request.cost, now).decision;
        let back = at + self.travel(region, DatabaseLocation::Near);
        self.run.outcomes[index] = SimulatedOutcome {
            admitted: decision.allowed(),
            waited: back - request.at * 1000,
        };
        self.run.calls += 1;
        if decision.allowed() {
            let arrival = back + self.travel(region, DatabaseLocation::Primary);
            let write = ReplicatedWrite {
                caller: request.caller,
                units: request.cost,
                at: now,
            };
            self.queue.schedule(arrival, ReplicaEvent::Written(write));
            self.run.calls += 1;
        }
    }

    fn add(&mut self, region: usize, write: ReplicatedWrite) {
        let state = &mut self.replicas[region][write.caller as usize];
        let added = self.counting.decide(state.as_ref(), write.units, write.at);
        *state = added.admitted.or(state.take());
    }

    fn travel(&mut self, region: usize, location: DatabaseLocation) -> Micros {
        self.messages += 1;
        self.setting
            .network
            .one_way(region, location, self.messages)
    }
}
