//! One request, from its fields to what becomes of it; and what there is to do afterwards.
//!
//! A host turns a platform's request into a [`Request`], calls [`Limiter::handle`], and answers or
//! forwards as it says. An application that serves the request itself calls [`Limiter::limit`]. The host then runs each [duty](Limiter::next_duty) apart from any request, so that no client ends one
//! by disconnecting.

use std::fmt;
use std::rc::Rc;

use crate::admin::access::TokenGuard;
use crate::admin::{
    self, Application, Authorization, Body, ControlPlane, MAX_BODY_BYTES, Operation,
};
use crate::budget::Budget;
use crate::client::CF_WORKER;
use crate::config::{Compiled, Config, HostCapabilities, Origin, StoreConfig, Vars};
use crate::effects::{Effects, LogLevel};
use crate::events::EventKind;
use crate::gate::{self, Arrival, GateRequest as _, Preflights, Report, Undecided};
use crate::headers::LOOP_GUARD;
use crate::journal::Journal;
use crate::loop_guard;
use crate::metrics::{Metrics, RequestOutcome, StoreCounts};
use crate::quota::QuotaError;
use crate::redis::connection::Connection;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::rest::RestClient;
use crate::response::{BodyFormat, Response, headers};
use crate::route;
use crate::seed::Seed;
use crate::store::StoreError;
use crate::store::redis::RedisStore;
use crate::store::retries::Retries;
use crate::store::stack::{Sizes, Stack};
use crate::time::Timestamp;
use crate::user::Users;
use crate::user::proofs;

mod duty;
mod forward;
mod request;
mod tokens;
mod verdict;

pub use crate::headers::MAX_HEADER_BYTES;
pub use duty::Duty;
pub use forward::{Forward, ForwardTarget, Sample};
pub use request::{Location, Request};
pub use verdict::LimitVerdict;

use request::Incoming;
use tokens::OwnTokens;

/// A path that can be read in several ways is matched in each of them; a hostile one of a URL's
/// greatest length would cost milliseconds of CPU. The query does not count.
const MAX_PATH_BYTES: usize = 4096;

/// Separators in a path that servers differ on.
const MAX_AMBIGUOUS_SEPARATORS: usize = 64;

/// The limiter as one environment configures it: everything that outlives a request.
pub struct Limiter<E> {
    compiled: Compiled,
    effects: E,
    stack: Stack<RedisStore<RestClient<E>>, Connection<E>, E>,
    journal: Journal<Connection<E>>,
    application: Application<Connection<E>>,
    metrics: Metrics,
    doorkeeper: TokenGuard,
    preflights: Preflights,
    users: Users<E>,
    /// What this deployment writes into the loop guard.
    name: String,
    own_tokens: OwnTokens,
    /// Whether the host has a binding `ORIGIN` to forward to.
    has_origin_binding: bool,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Handled {
    /// The limiter answers it.
    Answer(Response),
    /// It goes to the origin, whose response goes to the client.
    Forward(Box<Forward>),
}

/// What is decided of a request, before it is known who serves it.
enum RequestDecision {
    /// The limiter answers it: with the report of a denial, or without one.
    Answered(Response, Option<Report>),
    /// It may go ahead.
    Admitted(Report),
}

impl From<Response> for RequestDecision {
    fn from(response: Response) -> Self {
        Self::Answered(response, None)
    }
}

/// Why a limiter cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimiterError {
    /// The platform has no randomness to give. Workers have it only while a request is being served.
    NoRandomness,
    /// The quota of the control plane's door cannot be counted.
    Quota(QuotaError),
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRandomness => {
                f.write_str("the platform has no randomness to give: start within a request")
            }
            Self::Quota(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LimiterError {}

impl<E: Effects + Clone> Limiter<E> {
    /// The limiter of an environment. What is wrong in that is logged, and stricter readings are in
    /// force.
    ///
    /// # Errors
    ///
    /// [`LimiterError`].
    pub fn new(vars: &Vars, host: &HostCapabilities, effects: E) -> Result<Self, LimiterError> {
        let compiled = Config::compile_on(vars, host);
        for problem in &compiled.problems {
            effects.log(LogLevel::Error, &format!("configuration: {problem}"));
        }
        let config = &compiled.config;
        let seed = Seed::random().map_err(|_| LimiterError::NoRandomness)?;
        let (stack, records, application) = compose(config, &seed, &effects);
        Ok(Self {
            stack,
            application,
            journal: Journal::new(records, &config.abuse, seed.clone()),
            metrics: Metrics::new(config, &seed),
            doorkeeper: TokenGuard::new(config, seed.clone()).map_err(LimiterError::Quota)?,
            preflights: Preflights::new(seed.clone()),
            users: Users::new(
                config.users.clone(),
                effects.clone(),
                proofs::DEFAULT_ENTRIES,
                seed.clone(),
            ),
            name: loop_guard::name(config),
            own_tokens: OwnTokens::new(config),
            has_origin_binding: host.has_origin_binding,
            effects,
            compiled,
        })
    }

    /// The configuration in force.
    pub const fn config(&self) -> &Config {
        &self.compiled.config
    }

    /// Decides a request, and answers it or says how it is forwarded.
    pub async fn handle(&self, request: &impl Request) -> Handled {
        let incoming = Incoming::new(request);
        let now = self.effects.now();
        match self.decide(&incoming, now).await {
            RequestDecision::Answered(response, _) => Handled::Answer(response),
            RequestDecision::Admitted(report) => {
                let loop_guard = request.header(LOOP_GUARD);
                let loop_guard = loop_guard::pass(loop_guard.as_deref(), &self.name);
                self.admit(report, &incoming, loop_guard, now)
            }
        }
    }

    /// Decides a request that the caller of this serves itself, and counts and records it as [`handle`](Self::handle) does.
    /// Nothing is forwarded: no origin is needed, and the loop guard is not looked at. A request to the
    /// control plane is answered by it.
    pub async fn limit(&self, request: &impl Request) -> LimitVerdict {
        let incoming = Incoming::new(request);
        let now = self.effects.now();
        let config = self.config();
        match self.decide(&incoming, now).await {
            RequestDecision::Answered(response, report) => {
                LimitVerdict::answered(response, report.as_ref(), config)
            }
            RequestDecision::Admitted(report) => {
                if self.record_admitted(&report, &incoming, now) {
                    let details = &mut || incoming.details();
                    (self.journal).record(EventKind::Admitted, 0, &report, now, details);
                }
                LimitVerdict::admitted(&report, config, now)
            }
        }
    }

    /// The control plane's answer to a request; 404 to one that is not beneath its root.
    pub async fn control_plane(&self, request: &impl Request) -> Response {
        let incoming = Incoming::new(request);
        match self.own_path(&incoming).await {
            Some(answer) => answer,
            None => admin::not_found(),
        }
    }

    /// An operator's call that the application makes itself: no token is asked for, and none is looked at. No request's
    /// path leads here.
    pub async fn operate(&self, operation: Operation) -> Response {
        self.effects.outlive_client();
        self.plane().operate(operation, self.effects.now()).await
    }

    /// A call of the application's for its own keys, or an event that it reports: a JSON list of the call's name and its
    /// arguments. The answer is `{"result": ...}`, or an error with a `code`.
    ///
    /// - `["get", key]`: the value, or `null`;
    /// - `["set", key, value]`, or with seconds from 1 to 315,360,000 (ten years) until it expires: `"OK"`;
    /// - `["incr", key]`: the number that is then the value, from -2^63 to 2^63 - 1; a key that does not exist counts as 0;
    /// - `["expire", key, seconds]`: whether the key exists, which then expires in so many seconds;
    /// - `["del", key, ...]`: how many of up to 1,000 keys existed;
    /// - `["log", identifier, policy, method, path]`: `null`. The event is of the kind `reported`, and held against nobody.
    ///
    /// A key has 1 to 512 bytes and no control characters, a value up to 64 KiB. Without Redis, this isolate keeps 10,000 keys
    /// and 8 MiB: what expires soonest goes first, then what was written longest ago. All calls but `incr` are
    /// repeated after a failure that may pass, as `REDIS_RETRY_COUNT` says; while Redis is known not to answer, none is made.
    pub async fn application(&self, call: &str) -> Response {
        self.plane().apply(&self.application, call).await
    }

    /// The answer to a request to the control plane; `None`: it is traffic.
    async fn own_path(&self, incoming: &Incoming<'_, impl Request>) -> Option<Response> {
        let path = incoming.raw_path();
        let rest = path.strip_prefix(admin::ROOT)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        if path.len() > MAX_PATH_BYTES {
            return Some(Response::too_long(BodyFormat::Json));
        }
        // Apart, so that what waits for a decision is not the larger for it.
        Some(Box::pin(self.ask_plane(rest, incoming)).await)
    }

    /// Decides a request, in the order that the crate's documentation gives. What is not admitted is counted and recorded.
    async fn decide(
        &self,
        incoming: &Incoming<'_, impl Request>,
        now: Timestamp,
    ) -> RequestDecision {
        let form = || form_of(incoming);
        let own = |response| RequestDecision::from(self.own(response, incoming));
        if let Some(answer) = self.own_path(incoming).await {
            return answer.into();
        }
        if incoming.raw_path().len() > MAX_PATH_BYTES {
            return own(Response::too_long(form()));
        }
        let config = self.config();
        // Callers that are known to be denied cost nothing else.
        let arrival = match gate::arrive(config, &self.stack, incoming, now) {
            Arrival::Decided(report) if !report.admitted => {
                return self.deny(*report, incoming, now);
            }
            arrival => arrival,
        };
        let path = incoming.path();
        if path.len() > MAX_PATH_BYTES {
            return own(Response::too_long(form()));
        }
        if route::ambiguous_separators(path) > MAX_AMBIGUOUS_SEPARATORS {
            return own(Response::too_ambiguous(form()));
        }
        let root = admin::ROOT.trim_start_matches('/');
        if incoming.readings().lead_to(root, path) {
            return admin::not_found().into();
        }
        let decided = match arrival {
            Arrival::Decided(report) => Ok(*report),
            Arrival::Preflight(terms) => {
                (self.preflights)
                    .decide(config, &self.stack, incoming, &terms, now)
                    .await
            }
            Arrival::Undecided(terms) => {
                let is_counted = terms.exempt().is_none() && config.routes.name_methods();
                if is_counted && incoming.overrides().is_none() {
                    return own(Response::too_many_methods(form()));
                }
                gate::decide_for(config, &self.stack, &self.users, incoming, &terms, now).await
            }
        };
        match decided {
            Ok(report) if !report.admitted => self.deny(report, incoming, now),
            Ok(report) => RequestDecision::Admitted(report),
            Err(Undecided::TooManyValues) => own(Response::too_many_values(form())),
            // A policy says `deny`.
            Err(Undecided::Store(error)) => {
                let route = incoming.classify(&config.routes).route;
                self.metrics
                    .count_request(route, RequestOutcome::Unavailable);
                let retry_at = match error {
                    StoreError::Open { until } => Some(until),
                    _ => None,
                };
                own(Response::unavailable(form(), retry_at, now))
            }
        }
    }

    /// The limiter's own answer to traffic, as its client may read it.
    fn own(&self, mut response: Response, incoming: &Incoming<'_, impl Request>) -> Response {
        let Config { cors, dialect, .. } = self.config();
        response.allow_cors(cors, *dialect, &|| incoming.header("origin"));
        response
    }

    /// The 502 to a forwarded request whose origin has no answer: `interim` is the status of the interim response (1xx)
    /// that came in its place, 0 where the origin cannot be reached. The headers of its [`Forward`] belong on it.
    pub fn bad_gateway(&self, request: &impl Request, interim: u16) -> Response {
        let incoming = Incoming::new(request);
        let form = form_of(&incoming);
        let response = match interim {
            0 => Response::origin_unreachable(form),
            status => Response::origin_interim(form, status),
        };
        self.own(response, &incoming)
    }

    /// Counts and records a request that is denied.
    fn deny(
        &self,
        report: Report,
        incoming: &Incoming<'_, impl Request>,
        now: Timestamp,
    ) -> RequestDecision {
        self.metrics.count(&report, now);
        self.journal.record_shadow(&report, now);
        if let Some(kind) = self.journal.kind(&report) {
            let details = &mut || incoming.details();
            self.journal.record(kind, 429, &report, now, details);
        }
        let dialect = self.config().dialect;
        let response = Response::denied(form_of(incoming), &report, dialect, now);
        RequestDecision::Answered(self.own(response, incoming), Some(report))
    }

    /// Counts a request that is admitted, and records it as far as that does not depend on who serves it. Whether the
    /// sample takes it, and what became of it is still to be noted.
    fn record_admitted(
        &self,
        report: &Report,
        incoming: &Incoming<'_, impl Request>,
        now: Timestamp,
    ) -> bool {
        self.metrics.count(report, now);
        self.journal.record_shadow(report, now);
        let kind = self.journal.kind(report);
        if kind == Some(EventKind::Bypassed) {
            let details = &mut || incoming.details();
            self.journal
                .record(EventKind::Bypassed, 0, report, now, details);
        }
        kind == Some(EventKind::Admitted)
    }

    /// What becomes of a request that is admitted, where the host forwards it.
    fn admit(
        &self,
        report: Report,
        incoming: &Incoming<'_, impl Request>,
        loop_guard: Option<String>,
        now: Timestamp,
    ) -> Handled {
        let config = self.config();
        let sampled = self.record_admitted(&report, incoming, now);
        let limits = headers::of(&report, config.dialect, now);
        // The pass that is cut has been charged as those before it.
        let loop_guard = loop_guard.ok_or_else(|| Response::loop_detected(form_of(incoming)));
        let target = match &config.origin {
            Origin::Nowhere => Err(Response::no_origin(form_of(incoming))),
            Origin::Url(base) => Ok(ForwardTarget::url(base, incoming)),
            Origin::AnyRoute => Ok(ForwardTarget::Route),
            Origin::Route if self.has_origin_binding => Ok(ForwardTarget::Binding),
            Origin::Route if incoming.is_local() => Err(Response::admitted(&report)),
            Origin::Route if incoming.is_at_edge() => Ok(ForwardTarget::Route),
            Origin::Route => Err(Response::no_route(form_of(incoming))),
        };
        match loop_guard.and_then(|loop_guard| Ok((target?, loop_guard))) {
            Ok((target, loop_guard)) => {
                let mut forward =
                    Forward::new(target, incoming, config, &report, loop_guard, limits);
                if self.carries_own_token(incoming) {
                    forward.removed_from_request.push("authorization");
                }
                if sampled {
                    forward.sample = Some(Sample::new(report, incoming));
                }
                Handled::Forward(Box::new(forward))
            }
            Err(mut own) => {
                if sampled {
                    let details = &mut || incoming.details();
                    (self.journal).record(EventKind::Admitted, own.status, &report, now, details);
                }
                own.headers.extend(limits);
                Handled::Answer(self.own(own, incoming))
            }
        }
    }

    /// Commands of Redis that this isolate has sent, at most.
    fn commands(&self) -> u64 {
        self.journal.records().budget().map_or(0, Budget::sent)
    }

    /// What is sent with the counts of requests.
    fn store_counts(&self) -> StoreCounts {
        let records = self.journal.records();
        StoreCounts {
            calls: records.database().calls(),
            commands: self.commands(),
            transitions: self.stack.transitions(),
            left_out: self.journal.left_out(),
        }
    }

    /// Whether the origin would get a token that opens the limiter.
    fn carries_own_token(&self, incoming: &Incoming<'_, impl Request>) -> bool {
        let given = || incoming.header("authorization");
        !self.own_tokens.is_empty() && given().is_some_and(|given| self.own_tokens.are_in(&given))
    }

    /// Notes what came of a request that was forwarded and is in the sample: its answer's status, be
    /// it that of [`bad_gateway`](Self::bad_gateway).
    pub fn forwarded(&self, sample: Sample, status: u16) {
        let Sample {
            report,
            mut details,
        } = sample;
        let details = &mut || std::mem::take(&mut details);
        let now = self.effects.now();
        self.journal
            .record(EventKind::Admitted, status, &report, now, details);
    }

    fn plane(&self) -> ControlPlane<'_, RedisStore<RestClient<E>>, Connection<E>, E> {
        ControlPlane {
            compiled: &self.compiled,
            stack: &self.stack,
            token_guard: &self.doorkeeper,
            journal: &self.journal,
            key_set: self.users.key_set_failure(),
            metrics: &self.metrics,
        }
    }

    async fn ask_plane(&self, path: &str, incoming: &Incoming<'_, impl Request>) -> Response {
        let config = self.config();
        let mut asked = admin::AdminRequest {
            method: incoming.method().to_owned(),
            path: path.to_owned(),
            query: incoming.raw_query().to_owned(),
            authorization: incoming.header("authorization"),
            accept: incoming.header("accept"),
            client_ip: incoming.header(&config.client_ip_header),
            worker_zone: incoming.header(CF_WORKER),
            body: Body::default(),
        };
        let plane = self.plane();
        let admitted = match plane.authorize(&asked, self.effects.now()).await {
            Authorization::Answered(answer) => return answer,
            Authorization::Granted(admitted) => admitted,
        };
        if asked.takes_body() {
            asked.body = incoming.body(MAX_BODY_BYTES).await;
        }
        // An operator's call that changes something in several steps is finished.
        self.effects.outlive_client();
        plane.answer(admitted, &asked, self.effects.now()).await
    }
}

/// The form that the client prefers for an answer.
fn form_of(incoming: &Incoming<'_, impl Request>) -> BodyFormat {
    BodyFormat::preferred(incoming.header("accept").as_deref())
}

type Composed<E> = (
    Stack<RedisStore<RestClient<E>>, Connection<E>, E>,
    Rc<Records<Connection<E>>>,
    Application<Connection<E>>,
);

/// The stack that the configuration asks for, the records beside it, and the application's keys.
fn compose<E: Effects + Clone>(config: &Config, seed: &Seed, effects: &E) -> Composed<E> {
    let sizes = Sizes::default();
    match &config.store {
        StoreConfig::Memory => {
            let emulator = Connection::Emulator(Emulator::default());
            let records = Rc::new(Records::new(emulator, Keys::new("")));
            let stack = Stack::in_memory(Rc::clone(&records), sizes, seed, effects.clone());
            let keys = Connection::Emulator(Emulator::for_application());
            let keys = Rc::new(Records::new(keys, Keys::new("")));
            (stack, records, Application::new(keys, Retries::NONE))
        }
        StoreConfig::Redis {
            server,
            prefix,
            rules,
        } => {
            let keys = match server.is_cluster() {
                true => Keys::clustered(prefix.clone()),
                false => Keys::new(prefix.clone()),
            };
            let rest = RestClient::new(effects.clone(), rules.timeout);
            let store = RedisStore::new(rest.clone(), keys.clone());
            let records = Rc::new(Records::new(Connection::Rest(rest), keys));
            let effects = effects.clone();
            let stack = Stack::new(store, Rc::clone(&records), *rules, sizes, seed, effects);
            let application = Application::new(Rc::clone(&records), rules.retries);
            (stack, records, application)
        }
    }
}

#[cfg(test)]
mod tests;
