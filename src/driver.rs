//! The driver runs the limiter one step at a time, for hosts that cannot await Rust's futures.
//!
//! A host [configures](Driver::configure) the driver with its environment and [begins](Driver::begin) each request. It
//! performs the effect that each [`TaskStep`] asks for, until there is a [`TaskOutcome`]. It runs [duties](Driver::next_duty)
//! the same way. A duty belongs to no request. [`wire`](crate::wire) encodes steps for hosts on the other side of WebAssembly.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::admin::{ControlPlaneCall, RequestBody};
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

/// What a host does immediately, without a step. The methods about a request read the request of the running task.
pub trait Platform {
    /// As [`Effects::now`].
    fn now(&self) -> Timestamp;
    /// As [`Effects::random`].
    fn random(&self) -> u32;
    /// As [`Effects::log`].
    fn log(&self, level: LogLevel, line: &str);
    /// As [`Effects::outlive_client`], for the running task.
    fn outlive_client(&self) {}
    /// As [`Request::header`]. `name` is lower case.
    fn header(&self, name: &str) -> Option<String>;
    /// As [`Request::method_overrides`].
    fn method_overrides(&self) -> Option<String> {
        headers::method_overrides(&|name| self.header(name))
    }
    /// As [`Request::header_names`].
    fn header_names(&self) -> Option<String> {
        None
    }
    /// As [`Request::location`].
    fn location(&self) -> Location;
    /// As [`Request::has_body`].
    fn has_body(&self) -> bool;
    /// As [`Request::data_center`].
    fn data_center(&self) -> Option<String> {
        None
    }
}

/// The effects of a task, which asks for them through its mailbox.
#[derive(Clone, Debug)]
pub struct TaskEffects<P> {
    platform: P,
    mailbox: Rc<Mailbox>,
    /// The [number](HostSetup::number) of the configuration.
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
        let effect = Effect::Redis {
            setup: self.setup,
            body,
            timeout,
        };
        match self.mailbox.ask(effect).await {
            EffectResult::Redis(response) => response,
            _ => Err(StoreError::Unreachable),
        }
    }

    async fn sleep(&self, length: Millis) {
        self.mailbox.ask(Effect::Sleep(length)).await;
    }

    async fn verify(&self, key: VerificationKey<'_>, signed: &str, signature: &[u8]) -> bool {
        let effect = Effect::Verify {
            algorithm: key.algorithm,
            material: key.material.to_owned(),
            signed: signed.to_owned(),
            signature: signature.to_owned(),
        };
        matches!(self.mailbox.ask(effect).await, EffectResult::Verified(true))
    }

    async fn fetch_key_set(&self, url: &str) -> Result<String, KeySetError> {
        let url = url.to_owned();
        match self.mailbox.ask(Effect::KeySet { url }).await {
            EffectResult::KeySet(text) => text,
            _ => Err(KeySetError::Unreachable),
        }
    }
}

/// The fields that every request needs. Other fields are read through [`Platform`] when they are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFields {
    /// The method as sent.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The value of the [header](Config::client_ip_header) with the caller's address. Empty: the header is absent.
    pub address: String,
    /// The value of the loop guard's header. Empty: the header is absent.
    pub loop_guard: String,
}

struct DrivenRequest<P> {
    fields: RequestFields,
    address_header: Rc<str>,
    effects: TaskEffects<P>,
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
            return self.effects.platform.header(name);
        };
        (!known.is_empty()).then(|| known.clone())
    }

    fn method_overrides(&self) -> Option<String> {
        self.effects.platform.method_overrides()
    }

    fn header_names(&self) -> Option<String> {
        self.effects.platform.header_names()
    }

    fn location(&self) -> Location {
        self.effects.platform.location()
    }

    fn has_body(&self) -> bool {
        self.effects.platform.has_body()
    }

    fn data_center(&self) -> Option<String> {
        self.effects.platform.data_center()
    }

    async fn body(&self, most: usize) -> RequestBody {
        match self.effects.mailbox.ask(Effect::Body { most }).await {
            EffectResult::Body(body) => body,
            _ => RequestBody::NotText,
        }
    }
}

/// The outcome of a task.
#[derive(Debug)]
pub enum TaskOutcome {
    /// The limiter answers the request.
    Answer(Response),
    /// The request goes to the origin. The number is for [`Driver::forwarded`]. `None`: the request is not in the sample.
    Forward(Box<Forward>, Option<u32>),
    /// The application serves the request, or sends the answer in the verdict.
    Verdict(Box<LimitVerdict>),
    /// A duty has ended.
    Done,
}

/// The most requests in the sample whose origin has not answered yet. Beyond them, the oldest is recorded without a status.
const MAX_SAMPLES: usize = 1000;

/// The most environments whose limiters are kept. An isolate has one. An application may have several limiters.
const MAX_ENVIRONMENTS: usize = 100;

const TOO_MANY: &str = "This process uses more than 100 configurations. The least recently used one is dropped, with what it counted \
    in memory. Create each limiter once and reuse it (logged once)";

/// The limiter, and the tasks that run in it.
pub struct Driver<P> {
    effects: TaskEffects<P>,
    tasks: Tasks<TaskResult<P>>,
    /// Environments in the order of their use. The last one is in force.
    environments: Vec<Environment<P>>,
    /// How many environments have been configured.
    configured: u32,
    /// Whether an environment has been dropped.
    has_dropped: bool,
    /// The header with the caller's address.
    address_header: Rc<str>,
    samples: VecDeque<(u32, DrivenLimiter<P>, Sample)>,
    /// The number of the latest sample.
    sampled: u32,
}

type DrivenLimiter<P> = Rc<Limiter<TaskEffects<P>>>;

/// What a task returns. It becomes a [`TaskOutcome`] once the driver has kept its sample, with the limiter that took it.
enum TaskResult<P> {
    Answer(Response),
    Forward(Box<Forward>, DrivenLimiter<P>),
    Verdict(Box<LimitVerdict>),
    Done,
}

/// An environment and its limiter. While another environment is in force, the limiter keeps its counts and what it still has
/// to write.
struct Environment<P> {
    vars: Vars,
    host: HostCapabilities,
    limiter: DrivenLimiter<P>,
    setup: HostSetup,
}

/// What a host needs to know about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSetup {
    /// The number of the configuration. Each call of Redis has it ([`Effect::Redis`]), since duties of an earlier
    /// configuration continue after a change.
    pub number: u32,
    /// The name of the header with the caller's address, in lower case.
    pub client_ip_header: String,
    /// Headers of which no [other spelling](crate::headers::is_forwarded) is forwarded: those with the caller's address, and
    /// those that are keys of policies.
    pub other_spellings_not_forwarded: Vec<String>,
    /// How to reach Redis. `None`: no Redis is configured.
    pub redis: Option<Server>,
}

impl HostSetup {
    fn of(config: &Config, number: u32) -> Self {
        Self {
            number,
            client_ip_header: config.client_ip_header.clone(),
            other_spellings_not_forwarded: headers::other_spellings_not_forwarded(
                &config.client_ip_header,
            )
            .chain(config.key_headers().filter(|name| headers::is_plain(name)))
            .map(str::to_owned)
            .collect(),
            redis: config.store.server().cloned(),
        }
    }
}

impl<P: Platform + Clone + 'static> Driver<P> {
    /// Creates a driver without a configuration.
    pub fn new(platform: P) -> Self {
        let mailbox = Rc::new(Mailbox::default());
        Self {
            tasks: Tasks::new(Rc::clone(&mailbox)),
            effects: TaskEffects {
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

    /// Puts an environment in force. Requests and duties in progress end with the environment in which they began. An
    /// environment that equals an earlier one continues with that one's limiter.
    ///
    /// # Errors
    ///
    /// [`LimiterError`], as [`Limiter::new`]. The environment in force stays in force.
    pub fn configure(
        &mut self,
        vars: &Vars,
        host: HostCapabilities,
    ) -> Result<HostSetup, LimiterError> {
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
                self.effects.platform.log(LogLevel::Warn, TOO_MANY);
            }
        }
        self.put_in_force(environment);
        Ok(setup)
    }

    fn put_in_force(&mut self, environment: Environment<P>) {
        self.address_header = environment.setup.client_ip_header.as_str().into();
        self.environments.push(environment);
    }

    /// Puts an environment in force that was configured before, by its [number](HostSetup::number). Returns `false` and changes
    /// nothing if that environment is no longer kept.
    pub fn select(&mut self, number: u32) -> bool {
        let mut known = self.environments.iter();
        let Some(place) = known.position(|known| known.setup.number == number) else {
            return false;
        };
        // The environment in force, which is the usual one, needs no change.
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
        let effects = TaskEffects {
            setup: self.configured,
            ..self.effects.clone()
        };
        let limiter = Limiter::new(vars, &host, effects)?;
        let setup = HostSetup::of(limiter.config(), self.configured);
        self.configured += 1;
        Ok(Environment {
            vars: vars.clone(),
            host,
            limiter: Rc::new(limiter),
            setup,
        })
    }

    /// Begins [`Limiter::handle`]. The answer is 503 if the driver is not configured.
    pub fn begin(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(
            async move |limiter: DrivenLimiter<P>| match limiter.handle(&request).await {
                Handled::Answer(response) => TaskResult::Answer(response),
                Handled::Forward(forward) => TaskResult::Forward(forward, limiter),
            },
        )
    }

    /// Begins [`Limiter::limit`]. It ends in a [`LimitVerdict`], or is answered 503 like [`begin`](Self::begin).
    pub fn limit(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(async move |limiter: DrivenLimiter<P>| {
            TaskResult::Verdict(Box::new(limiter.limit(&request).await))
        })
    }

    /// Begins [`Limiter::control_plane`].
    pub fn control_plane(&mut self, fields: RequestFields) -> TaskStep<TaskOutcome> {
        let request = self.request(fields);
        self.start(async move |limiter: DrivenLimiter<P>| {
            TaskResult::Answer(limiter.control_plane(&request).await)
        })
    }

    /// Begins [`Limiter::call_control_plane`].
    pub fn operate(&mut self, operation: ControlPlaneCall) -> TaskStep<TaskOutcome> {
        self.start(async move |limiter: DrivenLimiter<P>| {
            TaskResult::Answer(limiter.call_control_plane(operation).await)
        })
    }

    /// Begins [`Limiter::run_application_command`].
    pub fn application(&mut self, call: String) -> TaskStep<TaskOutcome> {
        self.start(async move |limiter: DrivenLimiter<P>| {
            TaskResult::Answer(limiter.run_application_command(&call).await)
        })
    }

    /// Starts a task of the limiter in force.
    fn start(
        &mut self,
        task: impl AsyncFnOnce(DrivenLimiter<P>) -> TaskResult<P> + 'static,
    ) -> TaskStep<TaskOutcome> {
        let now = self.effects.platform.now();
        let Some(Environment { limiter, .. }) = self.environments.last() else {
            return TaskStep::Done(TaskOutcome::Answer(unavailable(now)));
        };
        let limiter = Rc::clone(limiter);
        let step = self.tasks.start(async move { task(limiter).await }, now);
        self.finish(step)
    }

    fn request(&self, fields: RequestFields) -> DrivenRequest<P> {
        DrivenRequest {
            fields,
            address_header: Rc::clone(&self.address_header),
            effects: self.effects.clone(),
        }
    }

    /// Returns the answer to a forwarded request whose origin does not answer, as [`Limiter::bad_gateway`].
    /// [`Platform::header`] reads the headers of that request.
    pub fn bad_gateway(&self, interim: u16) -> Response {
        match self.environments.last() {
            Some(Environment { limiter, .. }) => {
                limiter.bad_gateway(&self.request(RequestFields::default()), interim)
            }
            None => Response::origin_unreachable(BodyFormat::Json),
        }
    }

    /// Continues a task with the result of the effect that it asked for.
    pub fn resume(&mut self, id: TaskId, result: EffectResult) -> TaskStep<TaskOutcome> {
        let step = self.tasks.resume(id, result, self.effects.platform.now());
        self.finish(step)
    }

    /// Begins a [run of the schedule](Duty::RunSchedule) in the environment in force, for the host to drive like a duty.
    /// `None`: the run has ended already, or the driver is not configured.
    pub fn run_schedule(&mut self) -> Option<TaskStep<TaskOutcome>> {
        let limiter = Rc::clone(&self.environments.last()?.limiter);
        self.start_duty(limiter, Duty::RunSchedule)
    }

    fn start_duty(
        &mut self,
        limiter: DrivenLimiter<P>,
        duty: Duty,
    ) -> Option<TaskStep<TaskOutcome>> {
        let now = self.effects.platform.now();
        let task = async move {
            limiter.run(duty).await;
            TaskResult::Done
        };
        match self.tasks.start(task, now) {
            TaskStep::Asks(id, effect) => Some(TaskStep::Asks(id, effect)),
            _ => None,
        }
    }

    /// Begins the next duty that is due and needs an effect. The host drives it like a request's task, but it belongs to no
    /// request. Runs duties that need no effect to their end. `None`: no further duty is due.
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

    /// Records the status with which a sampled request was answered, as [`Limiter::forwarded`].
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

    /// Turns a task's result into its outcome: keeps its sample, and answers 503 in place of a task that was dropped.
    fn finish(&mut self, step: TaskStep<TaskResult<P>>) -> TaskStep<TaskOutcome> {
        TaskStep::Done(match step {
            TaskStep::Asks(id, effect) => return TaskStep::Asks(id, effect),
            TaskStep::Done(TaskResult::Answer(response)) => TaskOutcome::Answer(response),
            TaskStep::Done(TaskResult::Forward(mut forward, limiter)) => {
                let sample = forward.sample.take();
                let number = sample.map(|sample| self.keep(sample, limiter));
                TaskOutcome::Forward(forward, number)
            }
            TaskStep::Done(TaskResult::Verdict(verdict)) => TaskOutcome::Verdict(verdict),
            TaskStep::Done(TaskResult::Done) => TaskOutcome::Done,
            TaskStep::Unknown | TaskStep::Stuck => {
                TaskOutcome::Answer(unavailable(self.effects.platform.now()))
            }
        })
    }
}

/// The 503 to a request that no limiter decides.
fn unavailable(now: Timestamp) -> Response {
    Response::unavailable(BodyFormat::Json, None, now)
}

#[cfg(test)]
mod tests;
