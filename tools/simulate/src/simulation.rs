//! Replays a trace over regions, with isolates that ask, messages that travel, and databases that decide.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use edge_limiter::quota::Quota;
use edge_limiter::store::shared::Question;
use edge_limiter::store::{Charge, Check};

use crate::database::SimulatedDatabase;
use crate::event_queue::EventQueue;
use crate::failure::Failure;
use crate::isolate::SimulatedIsolate;
use crate::mode::SimulatedMode;
use crate::network::{DatabaseLocation, Micros};
use crate::outcome::{Run, SimulatedOutcome};
use crate::remote::RemoteQuestion;
use crate::replicas;
use crate::setting::Setting;
use crate::trace::{Trace, TraceRequest};

/// Replays `trace` in one mode.
pub(crate) fn replay(
    mode: SimulatedMode,
    trace: &Trace,
    setting: &Setting,
) -> Result<Run, Failure> {
    if mode == SimulatedMode::Replicated {
        return Ok(replicas::replay(trace, setting));
    }
    Simulation::new(mode, trace, setting)?.run()
}

/// The work of an isolate, which may wait for a reply. It returns whether a request is admitted, or `None` for
/// work in the background.
type SimulatedFuture = Pin<Box<dyn Future<Output = Result<Option<bool>, Failure>>>>;

struct SimulatedTask {
    future: SimulatedFuture,
    isolate: Rc<SimulatedIsolate>,
    /// The request's index in the trace and its time of arrival. `None` for work in the background.
    request: Option<(usize, Micros)>,
    /// Whether it has waited for a reply.
    waited: bool,
}

enum SimulationEvent {
    /// A question reaches the database.
    Asked(SimulatedTask, RemoteQuestion),
    /// The reply reaches the isolate.
    Answered(SimulatedTask),
}

struct Simulation<'a> {
    trace: &'a Trace,
    setting: &'a Setting,
    quota: Quota,
    lease: u32,
    location: DatabaseLocation,
    isolates: Vec<Rc<SimulatedIsolate>>,
    databases: Vec<SimulatedDatabase>,
    queue: EventQueue<SimulationEvent>,
    messages: u64,
    run: Run,
}

impl<'a> Simulation<'a> {
    fn new(mode: SimulatedMode, trace: &'a Trace, setting: &'a Setting) -> Result<Self, Failure> {
        let regions = setting.network.regions.len();
        let isolate = |region, number| {
            let ahead = setting.ahead(region, number);
            Ok(Rc::new(match mode {
                SimulatedMode::Memory => SimulatedIsolate::alone(region, ahead)?,
                SimulatedMode::TwoCounter | SimulatedMode::IdealLog => {
                    SimulatedIsolate::bare(region, ahead)?
                }
                _ => SimulatedIsolate::deployed(region, ahead)?,
            }))
        };
        let isolates = (0..regions)
            .flat_map(|region| (0..usize::from(setting.isolates)).map(move |one| (region, one)))
            .map(|(region, one)| isolate(region, one))
            .collect::<Result<_, Failure>>()?;
        let databases = match mode {
            SimulatedMode::Regional | SimulatedMode::Divided => (0..regions)
                .map(|_| SimulatedDatabase::limiter())
                .collect::<Result<_, _>>()?,
            SimulatedMode::TwoCounter => vec![SimulatedDatabase::two_counters()],
            SimulatedMode::IdealLog => vec![SimulatedDatabase::logs()],
            _ => vec![SimulatedDatabase::limiter()?],
        };
        Ok(Self {
            trace,
            setting,
            quota: match mode {
                SimulatedMode::Divided => setting.divided()?,
                _ => setting.quota,
            },
            lease: match mode {
                SimulatedMode::Lease => setting.lease,
                _ => 0,
            },
            location: match mode {
                SimulatedMode::Regional | SimulatedMode::Divided => DatabaseLocation::Near,
                _ => DatabaseLocation::Primary,
            },
            isolates,
            databases,
            queue: EventQueue::default(),
            messages: 0,
            run: Run {
                outcomes: vec![SimulatedOutcome::default(); trace.requests.len()],
                ..Run::default()
            },
        })
    }

    fn run(mut self) -> Result<Run, Failure> {
        for index in 0..self.trace.requests.len() {
            let at = self.trace.requests[index].at * 1000;
            self.play_until(at)?;
            self.arrive(index, at)?;
        }
        self.play_until(Micros::MAX)?;
        self.run.calls = self.databases.iter().map(SimulatedDatabase::calls).sum();
        self.run.billed = self.databases.iter().map(SimulatedDatabase::billed).sum();
        Ok(self.run)
    }

    fn play_until(&mut self, until: Micros) -> Result<(), Failure> {
        while let Some((at, event)) = self.queue.next_before(until) {
            match event {
                SimulationEvent::Asked(task, sent) => {
                    let region = task.isolate.region;
                    let database = match self.location {
                        DatabaseLocation::Primary => 0,
                        DatabaseLocation::Near => region,
                    };
                    let question = Question::with(&sent.check, &sent.extras);
                    let reply = self.databases[database].decide(&question, sent.now)?;
                    task.isolate.channel.deliver(sent.number, reply);
                    let back = at + self.travel(region);
                    self.queue.schedule(back, SimulationEvent::Answered(task));
                }
                SimulationEvent::Answered(task) => self.advance(task, at)?,
            }
        }
        Ok(())
    }

    fn arrive(&mut self, index: usize, at: Micros) -> Result<(), Failure> {
        let request = &self.trace.requests[index];
        let isolate = self.isolate_of(request);
        let check = self.check(request);
        let asking = Rc::clone(&isolate);
        self.advance(
            SimulatedTask {
                future: Box::pin(async move {
                    let decided = asking.decide(&check).await;
                    let verdict = decided.map_err(|error| Failure::new(error.to_string()))?;
                    Ok(Some(verdict.allows(&check)))
                }),
                isolate,
                request: Some((index, at)),
                waited: false,
            },
            at,
        )
    }

    /// Runs a task until it ends or waits for the reply to a question, which is then sent.
    fn advance(&mut self, mut task: SimulatedTask, at: Micros) -> Result<(), Failure> {
        task.isolate.wake(at);
        let polled = task
            .future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(done) = polled else {
            let sent = (task.isolate.channel.collect())
                .ok_or_else(|| Failure::new("a store waits, but has not sent a question"))?;
            task.waited = true;
            let arrival = at + self.travel(task.isolate.region);
            self.queue
                .schedule(arrival, SimulationEvent::Asked(task, sent));
            return Ok(());
        };
        if let (Some(admitted), Some((index, arrived))) = (done?, task.request) {
            self.run.outcomes[index] = SimulatedOutcome {
                admitted,
                waited: at - arrived,
            };
            self.run.answered_at_once += u64::from(!task.waited);
            self.prefetch(&task.isolate, at)?;
        }
        Ok(())
    }

    /// Prefetches leased units if any are due, as the Worker does after each decision.
    fn prefetch(&mut self, isolate: &Rc<SimulatedIsolate>, at: Micros) -> Result<(), Failure> {
        let Some(prefetch) = isolate.next_prefetch() else {
            return Ok(());
        };
        let asking = Rc::clone(isolate);
        self.advance(
            SimulatedTask {
                future: Box::pin(async move {
                    asking.prefetch(&prefetch).await;
                    Ok(None)
                }),
                isolate: Rc::clone(isolate),
                request: None,
                waited: false,
            },
            at,
        )
    }

    fn travel(&mut self, region: usize) -> Micros {
        self.messages += 1;
        self.setting
            .network
            .one_way(region, self.location, self.messages)
    }

    fn isolate_of(&self, request: &TraceRequest) -> Rc<SimulatedIsolate> {
        let first = usize::from(request.region) * usize::from(self.setting.isolates);
        Rc::clone(&self.isolates[first + usize::from(request.isolate)])
    }

    fn check(&self, request: &TraceRequest) -> Check {
        let caller = &self.trace.callers[request.caller as usize];
        Check {
            address: None,
            charges: vec![Charge {
                lease: self.lease,
                ..Charge::new(format!("policy:{caller}"), self.quota)
            }],
            cost: request.cost,
        }
    }
}

#[cfg(test)]
mod tests;
