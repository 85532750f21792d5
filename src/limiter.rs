//! The limiter: takes one request's fields, and returns an answer or a forward.
//!
//! A host turns a platform's request into a [`Request`], calls [`Limiter::handle`], and sends the answer or the
//! forward that it returns. An application that serves the request itself calls [`Limiter::limit`]. The host then runs
//! each [duty](Limiter::next_duty) in its own task, so that a client that disconnects does not end it.

use std::fmt;
use std::rc::Rc;

use crate::admin::access::TokenGuard;
use crate::admin::{
    self, ApplicationKeys, Authorization, ControlPlane, ControlPlaneCall, MAX_BODY_BYTES,
    RequestBody,
};
use crate::budget::Budget;
use crate::client::CF_WORKER;
use crate::config::{Compiled, Config, HostCapabilities, Origin, StoreConfig, Vars};
use crate::effects::{Effects, LogLevel};
use crate::events::EventKind;
use crate::gate::{self, Arrival, GateError, GateRequest as _, Preflights, RequestVerdict};
use crate::headers::LOOP_GUARD;
use crate::headers::MAX_PATH_BYTES;
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
use crate::store::stack::{MaxEntries, Stack};
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

/// The most separators in a path that some servers read as `/` and others do not.
const MAX_AMBIGUOUS_SEPARATORS: usize = 64;

/// The limiter of one environment. It holds everything that outlives a request.
pub struct Limiter<E> {
    compiled: Compiled,
    effects: E,
    stack: Stack<RedisStore<RestClient<E>>, Connection<E>, E>,
    journal: Journal<Connection<E>>,
    application: ApplicationKeys<Connection<E>>,
    metrics: Metrics,
    token_guard: TokenGuard,
    preflights: Preflights,
    users: Users<E>,
    /// The name that this deployment adds to the loop guard's header.
    name: String,
    own_tokens: OwnTokens,
    /// Whether the host has a binding `ORIGIN` to forward to.
    has_origin_binding: bool,
}

/// What a host does with a request.
#[derive(Debug)]
pub enum Handled {
    /// Send this answer to the client. The request goes no further.
    Answer(Response),
    /// Send the request to the origin, and the origin's response to the client.
    Forward(Box<Forward>),
}

/// The decision about a request, whether the origin or the application serves it.
enum RequestDecision {
    /// The limiter answers it. The report is that of a denial, `None` for any other answer.
    Answered(Response, Option<RequestVerdict>),
    /// The request may go ahead.
    Admitted(RequestVerdict),
}

impl From<Response> for RequestDecision {
    fn from(response: Response) -> Self {
        Self::Answered(response, None)
    }
}

/// Why [`Limiter::new`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimiterError {
    /// The platform offers no randomness. Workers have it only while a request is being served.
    NoRandomness,
    /// The quota of wrong tokens at the control plane is invalid.
    Quota(QuotaError),
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRandomness => {
                f.write_str("the platform offers no randomness here: create the limiter while a request is being served")
            }
            Self::Quota(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LimiterError {}

impl<E: Effects + Clone> Limiter<E> {
    /// Composes the limiter of an environment. A problem of the configuration is logged, and the stricter reading of the
    /// variable is in force.
    ///
    /// # Errors
    ///
    /// [`LimiterError`], if the platform offers no randomness or a quota is invalid.
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
            journal: Journal::new(records, &config.protection, seed.clone()),
            metrics: Metrics::new(config, &seed),
            token_guard: TokenGuard::new(config, seed.clone()).map_err(LimiterError::Quota)?,
            preflights: Preflights::new(seed.clone()),
            users: Users::new(
                config.users.clone(),
                effects.clone(),
                proofs::DEFAULT_ENTRIES,
                seed.clone(),
            ),
            name: loop_guard::deployment_name(config),
            own_tokens: OwnTokens::new(config),
            has_origin_binding: host.has_origin_binding,
            effects,
            compiled,
        })
    }

    /// Returns the configuration in force.
    pub const fn config(&self) -> &Config {
        &self.compiled.config
    }

    /// Decides a request, and returns the limiter's answer or how to forward the request.
    pub async fn handle(&self, request: &impl Request) -> Handled {
        let incoming = Incoming::new(request);
        let now = self.effects.now();
        match self.decide(&incoming, now).await {
            RequestDecision::Answered(response, _) => Handled::Answer(response),
            RequestDecision::Admitted(report) => {
                let loop_guard = request.header(LOOP_GUARD);
                let loop_guard = loop_guard::append_name(loop_guard.as_deref(), &self.name);
                self.admit(report, &incoming, loop_guard, now)
            }
        }
    }

    /// Decides a request that the application serves itself, and counts and records it as [`handle`](Self::handle) does.
    /// Nothing is forwarded, so no origin is needed and the loop guard does not apply. A request to the control plane gets
    /// the control plane's answer.
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

    /// Returns the control plane's answer to a request, or 404 if the path is not beneath `/_limiter`.
    pub async fn control_plane(&self, request: &impl Request) -> Response {
        let incoming = Incoming::new(request);
        match self.control_plane_answer(&incoming).await {
            Some(answer) => answer,
            None => admin::not_found(),
        }
    }

    /// Makes a call of the control plane that the application asks for itself. It needs no token, and no request can
    /// reach it by its path.
    pub async fn call_control_plane(&self, operation: ControlPlaneCall) -> Response {
        self.effects.outlive_client();
        self.admin_api()
            .operate(operation, self.effects.now())
            .await
    }

    /// Makes a call for the application's own keys, or records an event that the application reports. `call` is a JSON
    /// list: the call's name, then its arguments. The answer is `{"result": ...}`, or an error with a `code`.
    ///
    /// - `["get", key]` returns the value, or `null`.
    /// - `["set", key, value]` returns `"OK"`. A fourth item sets when the key expires, in 1 to 315,360,000 seconds (ten
    ///   years).
    /// - `["incr", key]` adds 1 and returns the new value, from -2^63 to 2^63 - 1. A key that does not exist counts as 0.
    /// - `["expire", key, seconds]` lets the key expire in so many seconds, and returns whether the key exists.
    /// - `["del", key, ...]` deletes up to 1,000 keys, and returns how many of them existed.
    /// - `["log", identifier, policy, method, path]` records an event of the kind `reported`, and returns `null`. The event
    ///   counts towards no escalation.
    ///
    /// A key has 1 to 512 bytes and no control characters. A value has up to 64 KiB. Without Redis, this isolate keeps
    /// 10,000 keys and 8 MiB. When that is full, the keys that expire soonest go first, then those written longest ago.
    /// All calls but `incr` are repeated after a transient failure, as `REDIS_RETRY_COUNT` says. While the breaker is
    /// open, no call is made.
    pub async fn run_application_command(&self, call: &str) -> Response {
        self.admin_api().run_command(&self.application, call).await
    }

    /// Answers a request to the control plane. `None`: the request is traffic.
    async fn control_plane_answer(
        &self,
        incoming: &Incoming<'_, impl Request>,
    ) -> Option<Response> {
        let path = incoming.raw_path();
        let rest = path.strip_prefix(admin::ROOT)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        if path.len() > MAX_PATH_BYTES {
            return Some(Response::too_long(BodyFormat::Json));
        }
        // Boxed, so that the future of a decision, which never needs it, stays small.
        Some(Box::pin(self.control_plane_response(rest, incoming)).await)
    }

    /// Decides a request, in the order that the crate's documentation gives. Counts and records a request that is denied.
    async fn decide(
        &self,
        incoming: &Incoming<'_, impl Request>,
        now: Timestamp,
    ) -> RequestDecision {
        let format = || body_format(incoming);
        let answer = |response| RequestDecision::from(self.with_cors(response, incoming));
        if let Some(response) = self.control_plane_answer(incoming).await {
            return response.into();
        }
        if incoming.raw_path().len() > MAX_PATH_BYTES {
            return answer(Response::too_long(format()));
        }
        let config = self.config();
        // A caller whose denial is known is answered before the path is parsed.
        let arrival = match gate::arrive(config, &self.stack, incoming, now) {
            Arrival::Decided(report) if !report.admitted => {
                return self.deny(*report, incoming, now);
            }
            arrival => arrival,
        };
        let path = incoming.path();
        if path.len() > MAX_PATH_BYTES {
            return answer(Response::too_long(format()));
        }
        if route::ambiguous_separators(path) > MAX_AMBIGUOUS_SEPARATORS {
            return answer(Response::too_ambiguous(format()));
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
                    return answer(Response::too_many_methods(format()));
                }
                gate::decide_for(config, &self.stack, &self.users, incoming, &terms, now).await
            }
        };
        match decided {
            Ok(report) if !report.admitted => self.deny(report, incoming, now),
            Ok(report) => RequestDecision::Admitted(report),
            Err(GateError::TooManyValues) => answer(Response::too_many_values(format())),
            // A policy has `on_store_failure` = `deny`.
            Err(GateError::Store(error)) => {
                let route = incoming.classify(&config.routes).route;
                self.metrics
                    .count_request(route, RequestOutcome::Unavailable);
                let retry_at = match error {
                    StoreError::Open { until } => Some(until),
                    _ => None,
                };
                answer(Response::unavailable(format(), retry_at, now))
            }
        }
    }

    /// Adds the CORS headers that let a page of the client read the limiter's own answer.
    fn with_cors(&self, mut response: Response, incoming: &Incoming<'_, impl Request>) -> Response {
        let Config { cors, dialect, .. } = self.config();
        response.allow_cors(cors, *dialect, &|| incoming.header("origin"));
        response
    }

    /// Returns the 502 to a forwarded request whose origin does not answer. `interim` is the status of the interim
    /// response (1xx) that came in place of an answer, or 0 if the origin cannot be reached. The host applies the headers
    /// of the request's [`Forward`] to it.
    pub fn bad_gateway(&self, request: &impl Request, interim: u16) -> Response {
        let incoming = Incoming::new(request);
        let format = body_format(&incoming);
        let response = match interim {
            0 => Response::origin_unreachable(format),
            status => Response::origin_interim(format, status),
        };
        self.with_cors(response, &incoming)
    }

    /// Counts and records a denied request, and returns its answer.
    fn deny(
        &self,
        report: RequestVerdict,
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
        let response = Response::denied(body_format(incoming), &report, dialect, now);
        RequestDecision::Answered(self.with_cors(response, incoming), Some(report))
    }

    /// Counts an admitted request, and records it as far as that does not depend on who serves it. Returns whether the
    /// request is in the sample of admitted requests: the caller then records its status.
    fn record_admitted(
        &self,
        report: &RequestVerdict,
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

    /// Counts and records an admitted request, and returns how the host forwards it. Returns an answer if there is nowhere
    /// to forward it, or if the loop guard stops it.
    fn admit(
        &self,
        report: RequestVerdict,
        incoming: &Incoming<'_, impl Request>,
        loop_guard: Option<String>,
        now: Timestamp,
    ) -> Handled {
        let config = self.config();
        let sampled = self.record_admitted(&report, incoming, now);
        let limits = headers::of(&report, config.dialect, now);
        // The pass at which a loop is cut has been charged like those before it.
        let loop_guard = loop_guard.ok_or_else(|| Response::loop_detected(body_format(incoming)));
        let target = match &config.origin {
            Origin::Nowhere => Err(Response::no_origin(body_format(incoming))),
            Origin::Url(base) => Ok(ForwardTarget::url(base, incoming)),
            Origin::AnyRoute => Ok(ForwardTarget::Route),
            Origin::Route if self.has_origin_binding => Ok(ForwardTarget::Binding),
            Origin::Route if incoming.is_local() => Err(Response::admitted(&report)),
            Origin::Route if incoming.is_at_edge() => Ok(ForwardTarget::Route),
            Origin::Route => Err(Response::no_route(body_format(incoming))),
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
            Err(mut response) => {
                if sampled {
                    let details = &mut || incoming.details();
                    let status = response.status;
                    (self.journal).record(EventKind::Admitted, status, &report, now, details);
                }
                response.headers.extend(limits);
                Handled::Answer(self.with_cors(response, incoming))
            }
        }
    }

    /// An upper bound of the Redis commands that this isolate has sent.
    fn commands(&self) -> u64 {
        self.journal.records().budget().map_or(0, Budget::sent)
    }

    /// The counts of the store that are sent with the counts of requests.
    fn store_counts(&self) -> StoreCounts {
        let records = self.journal.records();
        StoreCounts {
            calls: records.database().calls(),
            commands: self.commands(),
            transitions: self.stack.transitions(),
            left_out: self.journal.left_out(),
        }
    }

    /// Whether the request carries one of the limiter's own tokens, which the origin must not get.
    fn carries_own_token(&self, incoming: &Incoming<'_, impl Request>) -> bool {
        let given = || incoming.header("authorization");
        !self.own_tokens.is_empty() && given().is_some_and(|given| self.own_tokens.are_in(&given))
    }

    /// Records a forwarded request that is in the sample, with the status of its response. If the origin did not answer,
    /// that is the status of [`bad_gateway`](Self::bad_gateway).
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

    fn admin_api(&self) -> ControlPlane<'_, RedisStore<RestClient<E>>, Connection<E>, E> {
        ControlPlane {
            compiled: &self.compiled,
            stack: &self.stack,
            token_guard: &self.token_guard,
            journal: &self.journal,
            key_set: self.users.key_set_failure(),
            metrics: &self.metrics,
        }
    }

    /// Authorizes and answers a request to the control plane. `path` is the path beneath `/_limiter`.
    async fn control_plane_response(
        &self,
        path: &str,
        incoming: &Incoming<'_, impl Request>,
    ) -> Response {
        let config = self.config();
        let mut request = admin::AdminRequest {
            method: incoming.method().to_owned(),
            path: path.to_owned(),
            query: incoming.raw_query().to_owned(),
            authorization: incoming.header("authorization"),
            accept: incoming.header("accept"),
            client_ip: incoming.header(&config.client_ip_header),
            worker_zone: incoming.header(CF_WORKER),
            body: RequestBody::default(),
        };
        let admin_api = self.admin_api();
        let authorized = match admin_api.authorize(&request, self.effects.now()).await {
            Authorization::Answered(answer) => return answer,
            Authorization::Granted(authorized) => authorized,
        };
        if request.takes_body() {
            request.body = incoming.body(MAX_BODY_BYTES).await;
        }
        // A call may change something in several steps. They all run, even if the client disconnects.
        self.effects.outlive_client();
        admin_api
            .answer(authorized, &request, self.effects.now())
            .await
    }
}

/// The format that the client prefers for the body of an answer.
fn body_format(incoming: &Incoming<'_, impl Request>) -> BodyFormat {
    BodyFormat::preferred(incoming.header("accept").as_deref())
}

type Composed<E> = (
    Stack<RedisStore<RestClient<E>>, Connection<E>, E>,
    Rc<Records<Connection<E>>>,
    ApplicationKeys<Connection<E>>,
);

/// Composes the stack of stores that the configuration asks for, the records, and the application's keys.
fn compose<E: Effects + Clone>(config: &Config, seed: &Seed, effects: &E) -> Composed<E> {
    let sizes = MaxEntries::default();
    match &config.store {
        StoreConfig::Memory => {
            let emulator = Connection::Emulator(Emulator::default());
            let records = Rc::new(Records::new(emulator, Keys::new("")));
            let stack = Stack::in_memory(Rc::clone(&records), sizes, seed, effects.clone());
            let keys = Connection::Emulator(Emulator::for_application());
            let keys = Rc::new(Records::new(keys, Keys::new("")));
            (stack, records, ApplicationKeys::new(keys, Retries::NONE))
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
            let application = ApplicationKeys::new(Rc::clone(&records), rules.retries);
            (stack, records, application)
        }
    }
}

#[cfg(test)]
mod tests;
