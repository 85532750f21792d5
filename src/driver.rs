//! The limiter driven from outside, one step at a time: for hosts that cannot await Rust's futures.
//!
//! A host [configures](Driver::configure) it with its environment, [begins](Driver::begin) each request, and
//! performs what each [`TaskStep`] asks until there is a [`TaskOutcome`]. It runs [duties](Driver::next_duty) the same way,
//! apart from any request. `wire` writes steps down for hosts on the other side of WebAssembly.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::admin::{Body, Operation};
use crate::config::{Config, HostCapabilities, Server, Vars};
use crate::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::headers::{self, LOOP_GUARD};
use crate::limiter::{
    Duty, Forward, Handled, LimitVerdict, Limiter, LimiterError, Location, Request, Sample,
};
use crate::response::{BodyFormat, Response};
use crate::tasks::{Effect, EffectResult, Mailbox, TaskId, TaskStep, Tasks};
use crate::time::{Millis, Timestamp};

/// What a host does at once. `header` and `location` are of the request whose task runs.
pub trait Platform {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// Any `u32`, each as likely as the others.
    fn random(&self) -> u32;
    /// Writes a line to the log.
    fn log(&self, level: LogLevel, line: &str);
    /// [`Effects::outlive_client`], of the task that runs.
    fn outlive_client(&self) {}
    /// A header of the request; `name` is lower case.
    fn header(&self, name: &str) -> Option<String>;
    /// [`Request::method_overrides`] of the request.
    fn method_overrides(&self) -> Option<String> {
        headers::method_overrides(&|name| self.header(name))
    }
    /// [`Request::header_names`] of the request.
    fn header_names(&self) -> Option<String> {
        None
    }
    /// Where the request came from.
    fn location(&self) -> Location;
    /// Whether the request has a body that is not empty.
    fn has_body(&self) -> bool;
    /// Cloudflare's data centre that took the request, by the platform's word.
    fn data_center(&self) -> Option<String> {
        None
    }
}

/// Effects that a task asks for through its mailbox.
#[derive(Clone, Debug)]
pub struct TaskEffects<P> {
    platform: P,
    mailbox: Rc<Mailbox>,
    /// [`Setup::number`].
    setup: u32,
}

impl<P: Platform> Effects for TaskEffects<P> {
    fn now(&self) -> Timestamp {
        self.platform.now()
    }

    fn random(&self) -> u32 {
        self.platform.random()
    }

    fn log(&self, level: LogLevel, line: &str) {
        self.platform.log(level, line);
    }

    fn outlive_client(&self) {
        self.platform.outlive_client();
    }

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        let ask = Effect::Redis {
            setup: self.setup,
            body,
            timeout,
        };
        match self.mailbox.ask(ask).await {
            EffectResult::Redis(reply) => reply,
            _ => Err(StoreError::Unreachable),
        }
    }

    async fn sleep(&self, length: Millis) {
        self.mailbox.ask(Effect::Sleep(length)).await;
    }

    async fn verify(&self, key: VerificationKey<'_>, signed: &str, signature: &[u8]) -> bool {
        let ask = Effect::Verify {
            algorithm: key.algorithm,
            material: key.material.to_owned(),
            signed: signed.to_owned(),
            signature: signature.to_owned(),
        };
        matches!(self.mailbox.ask(ask).await, EffectResult::Verified(true))
    }

    async fn fetch_key_set(&self, url: &str) -> Result<String, KeySetError> {
        let url = url.to_owned();
        match self.mailbox.ask(Effect::KeySet { url }).await {
            EffectResult::KeySet(text) => text,
            _ => Err(KeySetError::Unreachable),
        }
    }
}

/// The fields of a request that are read in any case; the others are asked for when they are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFields {
    /// The method as sent.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The value of the [header](Config::client_ip_header) with the caller's address; empty: there is
    /// none.
    pub address: String,
    /// The value of the loop guard; empty: there is none.
    pub loop_guard: String,
}

struct DrivenRequest<P> {
    fields: RequestFields,
    address_header: Rc<str>,
    asked: TaskEffects<P>,
}

impl<P: Platform> Request for DrivenRequest<P> {
    fn method(&self) -> &str {
        &self.fields.method
    }

    fn url(&self) -> &str {
        &self.fields.url
    }

    fn header(&self, name: &str) -> Option<String> {
        let known = if name == LOOP_GUARD {
            &self.fields.loop_guard
        } else if name == &*self.address_header {
            &self.fields.address
        } else {
            return self.asked.platform.header(name);
        };
        (!known.is_empty()).then(|| known.clone())
    }

    fn method_overrides(&self) -> Option<String> {
        self.asked.platform.method_overrides()
    }

    fn header_names(&self) -> Option<String> {
        self.asked.platform.header_names()
    }

    fn location(&self) -> Location {
        self.asked.platform.location()
    }

    fn has_body(&self) -> bool {
        self.asked.platform.has_body()
    }

    fn data_center(&self) -> Option<String> {
        self.asked.platform.data_center()
    }

    async fn body(&self, most: usize) -> Body {
        match self.asked.mailbox.ask(Effect::Body { most }).await {
            EffectResult::Body(body) => body,
            _ => Body::NotText,
        }
    }
}

/// What a task came to.
#[derive(Debug)]
pub enum TaskOutcome {
    /// The limiter answers the request.
    Answer(Response),
    /// The request goes to the origin. If it is in the sample, the number to pass
    /// to [`Driver::forwarded`].
    Forward(Box<Forward>, Option<u32>),
    /// The application serves the request, or answers it as this says.
    Verdict(Box<LimitVerdict>),
    /// A duty has been done.
    Done,
}

/// Requests in the sample whose origin has not answered yet. The oldest beyond them is recorded without a status.
const MAX_SAMPLES: usize = 1000;

/// Environments whose limiters are kept. An isolate has one; an application may have several limiters.
const MAX_ENVIRONMENTS: usize = 100;

const TOO_MANY: &str = "more than 100 configurations take turns in this process: the one least recently in force is given up, and \
    what it counted in memory starts afresh (logged once)";

/// The limiter, and the tasks that run in it.
pub struct Driver<P> {
    asked: TaskEffects<P>,
    tasks: Tasks<Ended<P>>,
    /// The one in force last.
    environments: Vec<Environment<P>>,
    configured: u32,
    /// Whether an environment has had to go.
    has_dropped: bool,
    /// The header with the caller's address.
    address_header: Rc<str>,
    samples: VecDeque<(u32, DrivenLimiter<P>, Sample)>,
    sampled: u32,
}

type DrivenLimiter<P> = Rc<Limiter<TaskEffects<P>>>;

/// What a task came to, before its sample is kept. A sample belongs to the limiter that took it.
enum Ended<P> {
    Answer(Response),
    Forward(Box<Forward>, DrivenLimiter<P>),
    Verdict(Box<LimitVerdict>),
    Done,
}

/// An environment and its limiter. What that counts and still has to write outlasts a change to another environment.
struct Environment<P> {
    vars: Vars,
    host: HostCapabilities,
    limiter: DrivenLimiter<P>,
    setup: Setup,
}

/// What a host needs of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Which configuration it is: calls of Redis name it ([`Effect::Redis`]), since duties of one that was in force before
    /// run on.
    pub number: u32,
    /// The header to read the caller's address from, lower case.
    pub client_ip_header: String,
    /// Headers of which no [other spelling](crate::headers::is_forwarded) is sent on: the platform's for the address, and the
    /// policies' keys.
    pub one_spelling: Vec<String>,
    /// How Redis is reached, if there is one.
    pub redis: Option<Server>,
}

impl Setup {
    fn of(config: &Config, number: u32) -> Self {
        Self {
            number,
            client_ip_header: config.client_ip_header.clone(),
            one_spelling: headers::other_spellings_not_forwarded(&config.client_ip_header)
                .chain(config.key_headers().filter(|name| headers::is_plain(name)))
                .map(str::to_owned)
                .collect(),
            redis: config.store.server().cloned(),
        }
    }
}

impl<P: Platform + Clone + 'static> Driver<P> {
    /// Not configured yet.
    pub fn new(platform: P) -> Self {
        let mailbox = Rc::new(Mailbox::default());
        Self {
            tasks: Tasks::new(Rc::clone(&mailbox)),
            asked: TaskEffects {
                platform,
                mailbox,
                setup: 0,
            },
            environments: Vec::new(),
            configured: 0,
            has_dropped: false,
            address_header: "".into(),
            samples: VecDeque::new(),
            sampled: 0,
        }
    }

    /// Takes an environment. Requests and duties that are under way end as they began. An environment like one before
    /// goes on with its limiter.
    ///
    /// # Errors
    ///
    /// [`LimiterError`]; what was configured before stays in force.
    pub fn configure(
        &mut self,
        vars: &Vars,
        host: HostCapabilities,
    ) -> Result<Setup, LimiterError> {
        let known = self
            .environments
            .iter()
            .position(|known| known.vars == *vars && known.host == host);
        let environment = match known {
            Some(place) => self.environments.remove(place),
            None => self.compose(vars, host)?,
        };
        let setup = environment.setup.clone();
        if self.environments.len() >= MAX_ENVIRONMENTS {
            self.environments.remove(0);
            if !self.has_dropped {
                self.has_dropped = true;
                self.asked.platform.log(LogLevel::Warn, TOO_MANY);
            }
        }
        self.put_in_force(environment);
        Ok(setup)
    }

    fn put_in_force(&mut self, environment: Environment<P>) {
        self.address_header = environment.setup.client_ip_header.as_str().into();
        self.environments.push(environment);
    }

    /// Puts an environment that was configured before in force, by its [number](Setup::number), in place of configuring it
    /// again. `false`: it is not kept any more, and what is in force stays so.
    pub fn select(&mut self, number: u32) -> bool {
        let mut known = self.environments.iter();
        let Some(place) = known.position(|known| known.setup.number == number) else {
            return false;
        };
        // The usual one needs no change.
        if place + 1 < self.environments.len() {
            let environment = self.environments.remove(place);
            self.put_in_force(environment);
        }
        true
    }

    fn compose(
        &mut self,
        vars: &Vars,
        host: HostCapabilities,
    ) -> Result<Environment<P>, LimiterError> {
        let asked = TaskEffects {
            setup: self.configured,
            ..self.asked.clone()
        };
        let limiter = Limiter::new(vars, &host, asked)?;
        let setup = Setup::of(limiter.config(), self.configured);
        self.configured += 1;
        Ok(Environment {
            vars: vars.clone(),
            host,
            limiter: Rc::new(limiter),
            setup,
        })
    }

    /// Begins a request. Before the driver is configured it is answered 503.
    pub fn begin(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(
            async move |limiter: DrivenLimiter<P>| match limiter.handle(&request).await {
                Handled::Answer(response) => Ended::Answer(response),
                Handled::Forward(forward) => Ended::Forward(forward, limiter),
            },
        )
    }

    /// Begins a request that the application serves: it ends in a [`LimitVerdict`], or is answered 503 like those of
    /// [`begin`](Self::begin).
    pub fn limit(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(async move |limiter: DrivenLimiter<P>| {
            Ended::Verdict(Box::new(limiter.limit(&request).await))
        })
    }

    /// Begins a request that is for the control plane alone.
    pub fn control_plane(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(async move |limiter: DrivenLimiter<P>| {
            Ended::Answer(limiter.control_plane(&request).await)
        })
    }

    /// Begins a call of the control plane that the application makes itself.
    pub fn operate(&mut self, operation: Operation) -> TaskStep<TaskOutcome> {
        self.start(async move |limiter: DrivenLimiter<P>| {
            Ended::Answer(limiter.operate(operation).await)
        })
    }

    /// Begins a call of the application's, as [`Limiter::application`] reads it.
    pub fn application(&mut self, call: String) -> TaskStep<TaskOutcome> {
        self.start(async move |limiter: DrivenLimiter<P>| {
            Ended::Answer(limiter.application(&call).await)
        })
    }

    /// Starts what the limiter in force does.
    fn start(
        &mut self,
        does: impl AsyncFnOnce(DrivenLimiter<P>) -> Ended<P> + 'static,
    ) -> TaskStep<TaskOutcome> {
        let now = self.asked.platform.now();
        let Some(Environment { limiter, .. }) = self.environments.last() else {
            return TaskStep::Done(TaskOutcome::Answer(unavailable(now)));
        };
        let limiter = Rc::clone(limiter);
        let step = self.tasks.start(async move { does(limiter).await }, now);
        self.finish(step)
    }

    fn request(&self, fields: RequestFields) -> DrivenRequest<P> {
        DrivenRequest {
            fields,
            address_header: Rc::clone(&self.address_header),
            asked: self.asked.clone(),
        }
    }

    /// The answer to the request whose headers [`Platform::header`] reads, where its origin has none: `interim` is the
    /// status of the interim response in its place, 0 where there is none either.
    pub fn bad_gateway(&self, interim: u16) -> Response {
        match self.environments.last() {
            Some(Environment { limiter, .. }) => {
                limiter.bad_gateway(&self.request(RequestFields::default()), interim)
            }
            None => Response::origin_unreachable(BodyFormat::Json),
        }
    }

    /// Goes on with the answer to what a task asked.
    pub fn resume(&mut self, id: TaskId, answer: EffectResult) -> TaskStep<TaskOutcome> {
        let step = self.tasks.resume(id, answer, self.asked.platform.now());
        self.finish(step)
    }

    /// Begins what the platform's schedule asks for, in the environment in force: to be driven like a duty. `None`: it has
    /// ended already, or nothing is configured.
    pub fn run_schedule(&mut self) -> Option<TaskStep<TaskOutcome>> {
        let limiter = Rc::clone(&self.environments.last()?.limiter);
        self.start_duty(limiter, Duty::RunSchedule)
    }

    fn start_duty(
        &mut self,
        limiter: DrivenLimiter<P>,
        duty: Duty,
    ) -> Option<TaskStep<TaskOutcome>> {
        let now = self.asked.platform.now();
        let task = async move {
            limiter.run(duty).await;
            Ended::Done
        };
        match self.tasks.start(task, now) {
            TaskStep::Asks(id, ask) => Some(TaskStep::Asks(id, ask)),
            _ => None,
        }
    }

    /// Begins a duty that is due and waits for something, if any is: to be driven like a request, apart
    /// from any. Those that end at once are done.
    pub fn next_duty(&mut self) -> Option<TaskStep<TaskOutcome>> {
        for place in (0..self.environments.len()).rev() {
            while let Some((limiter, duty)) = self.due_duty(place) {
                if let Some(step) = self.start_duty(limiter, duty) {
                    return Some(step);
                }
            }
        }
        None
    }

    fn due_duty(&self, place: usize) -> Option<(DrivenLimiter<P>, Duty)> {
        let limiter = &self.environments.get(place)?.limiter;
        Some((Rc::clone(limiter), limiter.next_duty()?))
    }

    /// Takes the status with which a sampled request was answered.
    pub fn forwarded(&mut self, sample: u32, status: u16) {
        let place = self.samples.iter().position(|(known, ..)| *known == sample);
        let sample = place.and_then(|place| self.samples.remove(place));
        if let Some((_, limiter, sample)) = sample {
            limiter.forwarded(sample, status);
        }
    }

    /// Keeps a sample until its status is known, and returns its number.
    fn keep(&mut self, sample: Sample, limiter: DrivenLimiter<P>) -> u32 {
        self.sampled = self.sampled.wrapping_add(1).max(1);
        if self.samples.len() >= MAX_SAMPLES
            && let Some((_, limiter, oldest)) = self.samples.pop_front()
        {
            limiter.forwarded(oldest, 0);
        }
        self.samples.push_back((self.sampled, limiter, sample));
        self.sampled
    }

    /// Keeps a sample here, and answers for tasks that are lost.
    fn finish(&mut self, step: TaskStep<Ended<P>>) -> TaskStep<TaskOutcome> {
        TaskStep::Done(match step {
            TaskStep::Asks(id, ask) => return TaskStep::Asks(id, ask),
            TaskStep::Done(Ended::Answer(response)) => TaskOutcome::Answer(response),
            TaskStep::Done(Ended::Forward(mut forward, limiter)) => {
                let sample = forward.sample.take();
                let number = sample.map(|sample| self.keep(sample, limiter));
                TaskOutcome::Forward(forward, number)
            }
            TaskStep::Done(Ended::Verdict(verdict)) => TaskOutcome::Verdict(verdict),
            TaskStep::Done(Ended::Done) => TaskOutcome::Done,
            TaskStep::Unknown | TaskStep::Stuck => {
                TaskOutcome::Answer(unavailable(self.asked.platform.now()))
            }
        })
    }
}

/// The answer where no limiter decides.
fn unavailable(now: Timestamp) -> Response {
    Response::unavailable(BodyFormat::Json, None, now)
}

#[cfg(test)]
mod tests;
