//! The control plane: what an operator sees and does, over HTTP.
//!
//! Every path except health and the operators' page needs a token ([`access`]). Input is hostile until [`input`] has
//! read it: a name becomes part of a key only in a form that this crate has written itself. Answers are JSON, except
//! metrics and the page. Times are in milliseconds since the epoch.

use std::borrow::Cow;
use std::future::ready;
use std::pin::Pin;

use serde::Serialize;

use crate::client::{CF_WORKER, Caller};
use crate::config::{Compiled, Config, Secret};
use crate::credentials::{bearer, bearer_or_password};
use crate::effects::Effects;
use crate::events::{Details, EventKey, EventKind};
use crate::gate;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::response::Response;
use crate::store::StoreError;
use crate::store::shared::Partitioned;
use crate::store::stack::Stack;
use crate::time::Timestamp;

pub mod access;
pub mod bad_input;
pub mod input;

mod application;
mod blocked;
mod caller_key;
mod check;
mod fields;
mod health;
mod log;
mod metrics;
mod operations;
mod page;
mod usage;

use access::{Access, AccessToken, TokenGuard, too_many};
pub(crate) use application::ApplicationKeys;
use bad_input::BadInput;
use health::Dependencies;
use input::Input;

/// The path under which the control plane answers.
pub const ROOT: &str = "/_limiter";

/// The longest body that the control plane accepts, in bytes.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// A request to the control plane.
#[derive(Clone, Debug, Default)]
pub struct AdminRequest {
    /// The method as sent.
    pub method: String,
    /// The path as sent, without [`ROOT`]: `/events`.
    pub path: String,
    /// The query as sent, without its question mark.
    pub query: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// The header that names the sender's address (`CLIENT_IP_HEADER`).
    pub client_ip: Option<String>,
    /// The `CF-Worker` header.
    pub worker_zone: Option<String>,
    /// The body. A host reads it only once the request is authorized.
    pub body: RequestBody,
}

/// A request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// It is UTF-8 text. Without a body, the text is empty.
    Text(String),
    /// It is longer than [`MAX_BODY_BYTES`].
    TooLong,
    /// It is not UTF-8.
    NotText,
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl AdminRequest {
    /// Whether the control plane reads the body of this request.
    #[must_use]
    pub fn takes_body(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST")
    }
}

/// The result of checking a request's token.
pub enum Authorization {
    /// The token is right. [`ControlPlane::answer`] takes this as proof.
    Granted(Authorized),
    /// The request ends with this answer: a refusal, health, or a file of the page.
    Answered(Response),
}

/// Proof that a request carries a token for its path, or comes from the application itself.
pub struct Authorized(Actor);

/// Who makes a call. The operator log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// An operator, over HTTP.
    Admin,
    /// The application that runs the limiter.
    Application,
}

/// A call of the control plane that the application makes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlaneCall {
    /// The method.
    pub method: String,
    /// The path after [`ROOT`], and the query: `/events?limit=5`. Both are percent-encoded, as in a URL.
    pub path_and_query: String,
    /// The body. Empty means that there is none.
    pub body: String,
}

impl ControlPlaneCall {
    fn into_request(self) -> AdminRequest {
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, query)) => (path.to_owned(), query.to_owned()),
            None => (self.path_and_query, String::new()),
        };
        AdminRequest {
            method: self.method,
            path,
            query,
            body: match self.body.len() > MAX_BODY_BYTES {
                true => RequestBody::TooLong,
                false => RequestBody::Text(self.body),
            },
            ..AdminRequest::default()
        }
    }
}

/// Answers calls of the control plane, with the state of one isolate.
pub struct ControlPlane<'a, S, D, E> {
    /// The configuration and its problems.
    pub compiled: &'a Compiled,
    /// The stack of stores. It decides, and holds what the isolate remembers.
    pub stack: &'a Stack<S, D, E>,
    /// Checks tokens and limits wrong ones.
    pub token_guard: &'a TokenGuard,
    /// Records events, wrong tokens among them, and gives access to the records: blocks, events and counts.
    pub journal: &'a Journal<D>,
    /// Since when the identity provider's keys cannot be fetched, and why. `None` while they can.
    pub key_set: Option<(Timestamp, String)>,
    /// Counts requests and decisions.
    pub metrics: &'a Metrics,
}

/// Why a call fails.
enum AdminError {
    /// The request breaks a rule.
    BadArgument(BadInput),
    /// The named caller, address or range is not valid.
    BadIdentifier(BadInput),
    /// No policy has that name. Carries the answer's status: 404 if the path names the policy, 400 if the body does.
    UnknownPolicy(u16),
    NotFound,
    /// The path does not accept the method. Carries the methods that it accepts.
    MethodNotAllowed(&'static str),
    /// The body is longer than [`MAX_BODY_BYTES`].
    TooLarge,
    /// The application's key is empty, too long, or has a control character.
    BadKey,
    /// The value of the application's key is not a whole number, or is the highest one.
    NotANumber,
    /// The request is valid, but must not take effect.
    Refused(String),
    /// The store failed. The call may be repeated.
    StoreFailed(StoreError),
    /// The store failed during a call of the application.
    ApplicationCallFailed(StoreError),
    /// The store failed. The block is in force in this isolate alone.
    InForceHereOnly,
}

impl From<BadInput> for AdminError {
    fn from(bad: BadInput) -> Self {
        Self::BadArgument(bad)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::StoreFailed(error)
    }
}

impl AdminError {
    fn response(self) -> Response {
        let coded = |status, error, message: &str, code| {
            Response::coded_error(status, error, message, Some(code))
        };
        let bad = |message: &str, code| coded(400, "bad_request", message, code);
        match self {
            Self::BadArgument(BadInput(message)) => bad(&message, "bad_argument"),
            Self::BadIdentifier(BadInput(message)) => bad(&message, "bad_identifier"),
            Self::UnknownPolicy(status) => {
                let error = match status {
                    404 => "not_found",
                    _ => "bad_request",
                };
                coded(status, error, UNKNOWN_POLICY, "unknown_policy")
            }
            Self::NotFound => Response::error(
                404,
                "not_found",
                "The control plane has no such path, or the token or feature that it needs is not configured.",
            ),
            Self::MethodNotAllowed(allowed) => {
                let message = format!("Use {allowed}.");
                let mut response = Response::error(405, "method_not_allowed", &message);
                response.headers.push(("Allow", allowed.to_owned()));
                response
            }
            Self::TooLarge => {
                let message = format!("The body must have at most {MAX_BODY_BYTES} bytes.");
                coded(413, "too_large", &message, "bad_argument")
            }
            Self::BadKey => bad(
                "The key must have 1 to 512 bytes and no control characters.",
                "bad_key",
            ),
            Self::NotANumber => coded(
                409,
                "refused",
                "The key's value cannot be incremented: it is not a whole number, or it is the highest possible one.",
                "not_a_number",
            ),
            Self::ApplicationCallFailed(error) => {
                let outcome = match error.may_have_run() {
                    true => "The call may have taken effect.",
                    false => "The call has not taken effect.",
                };
                let message = format!("The shared store failed: {error}. {outcome}");
                coded(503, UNAVAILABLE, &message, UNAVAILABLE)
            }
            Self::Refused(message) => coded(409, "refused", &message, "refused"),
            Self::StoreFailed(error) => {
                let message = format!("The shared store failed: {error}. Try again.");
                coded(503, UNAVAILABLE, &message, UNAVAILABLE)
            }
            Self::InForceHereOnly => coded(
                503,
                UNAVAILABLE,
                "The shared store failed, so only one isolate enforces the block. Send the request again.",
                UNAVAILABLE,
            ),
        }
    }
}

const UNAVAILABLE: &str = "store_unavailable";
const UNKNOWN_POLICY: &str =
    "`policy` must be the name of a configured policy; GET /_limiter/policies lists them.";

type AdminResult = Result<Response, AdminError>;

fn ok(body: &impl Serialize) -> AdminResult {
    Ok(Response::json(200, body))
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    /// Checks the request's token, without its body. Answers health, the page, and paths that no configured token opens.
    pub async fn authorize(&self, request: &AdminRequest, now: Timestamp) -> Authorization {
        let config = &self.compiled.config;
        let caller = self.caller(request);
        let segments = Input::read(request).segments;
        let is_health = segments == ["health"];
        let tokens = tokens(config, &segments);
        if tokens.is_empty() && !is_health {
            return Authorization::Answered(AdminError::NotFound.response());
        }
        if let Some(answer) = page::answer(request) {
            return Authorization::Answered(answer);
        }
        let is_metrics = segments == ["metrics"];
        let authorization = request.authorization.as_deref();
        let sent = match is_metrics {
            true => authorization.and_then(bearer_or_password),
            false => authorization.and_then(bearer).map(Cow::Borrowed),
        };
        let access = (self
            .token_guard
            .access(&tokens, sent.as_deref(), &caller, now))
        .await;
        if matches!(access, Access::WrongToken | Access::TooMany { .. }) {
            self.record_wrong_token(&caller, request, now);
        }
        Authorization::Answered(match access {
            _ if is_health => self.health(&request.method, access, now),
            Access::Granted => return Authorization::Granted(Authorized(Actor::Admin)),
            Access::Public => unauthorized("", is_metrics),
            Access::WrongToken => unauthorized(", error=\"invalid_token\"", is_metrics),
            Access::TooMany { retry_at } => too_many(retry_at, now),
        })
    }

    fn health(&self, method: &str, access: Access, now: Timestamp) -> Response {
        let dependencies = Dependencies {
            store: self.stack.health(),
            script: self.journal.records().script_form(),
            lost: self.stack.blocks_lost_since(),
            blocks: self.stack.blocks_failure(),
            records: self.journal.write_failure(),
            key_set: self.key_set.clone(),
        };
        health::answer(method, self.compiled, dependencies, access, now)
    }

    /// Answers a call of the application, without a token. No request over HTTP may reach this function.
    pub(crate) async fn operate(&self, operation: ControlPlaneCall, now: Timestamp) -> Response {
        let request = operation.into_request();
        if Input::read(&request).segments == ["health"] {
            return self.health(&request.method, Access::Granted, now);
        }
        let authorized = Authorized(Actor::Application);
        self.answer(authorized, &request, now).await
    }

    /// Answers a request that [`authorize`](Self::authorize) has granted.
    pub async fn answer(
        &self,
        authorized: Authorized,
        request: &AdminRequest,
        now: Timestamp,
    ) -> Response {
        let Authorized(actor) = authorized;
        let input = Input::read(request);
        let segments: Vec<&str> = input.segments.iter().map(String::as_str).collect();
        let result = match self.route(&segments, request, &input, now) {
            Ok(call) => call.await,
            Err(error) => Err(error),
        };
        let outcome = operations::outcome(&result);
        if let Some(outcome) = outcome {
            let operation = (actor, outcome);
            (self.record_operation(&segments, request, &input, operation, now)).await;
        }
        result.unwrap_or_else(AdminError::response)
    }

    fn caller(&self, request: &AdminRequest) -> Caller {
        gate::caller(self.config(), &|name| match name {
            CF_WORKER => request.worker_zone.clone(),
            _ => request.client_ip.clone(),
        })
    }

    /// The call that answers the request, not yet started.
    fn route<'a>(
        &'a self,
        segments: &[&'a str],
        request: &'a AdminRequest,
        input: &'a Input,
        now: Timestamp,
    ) -> Result<Pin<Box<dyn Future<Output = AdminResult> + 'a>>, AdminError> {
        let method = request.method.as_str();
        let reads = matches!(method, "GET" | "HEAD");
        Ok(match *segments {
            _ if input.unreadable => {
                let rule = "The path and the query must be percent-encoded UTF-8.";
                return Err(BadInput::from(rule).into());
            }
            ["blocked"] if reads => Box::pin(self.list_blocked(input, now)),
            ["blocked"] => return Err(AdminError::MethodNotAllowed("GET, HEAD")),
            ["blocked", target] => match method {
                _ if reads => Box::pin(self.look_up(target, input, now)),
                "PUT" => Box::pin(self.block(target, input, request, now)),
                "DELETE" => Box::pin(self.lift(target, input, now)),
                _ => return Err(AdminError::MethodNotAllowed("GET, HEAD, PUT, DELETE")),
            },
            ["events"] => match method {
                _ if reads => Box::pin(self.events(input, now)),
                "DELETE" => Box::pin(self.forget_events(input, now)),
                _ => return Err(AdminError::MethodNotAllowed("GET, HEAD, DELETE")),
            },
            ["suspicious"] if reads => Box::pin(self.suspicious(input, now)),
            ["policies"] if reads => Box::pin(ready(self.policies(input))),
            ["metrics"] if reads => Box::pin(self.metrics(input, request, now)),
            ["series"] if reads => Box::pin(self.series(input, now)),
            ["store"] if reads => Box::pin(self.store(input, now)),
            ["operations"] if reads => Box::pin(self.operations(input, now)),
            ["suspicious" | "policies" | "metrics" | "series" | "store" | "operations"] => {
                return Err(AdminError::MethodNotAllowed("GET, HEAD"));
            }
            ["usage", policy, caller] => match method {
                _ if reads => Box::pin(self.usage(policy, caller, input, now)),
                "DELETE" => Box::pin(self.reset(policy, caller, input, now)),
                _ => return Err(AdminError::MethodNotAllowed("GET, HEAD, DELETE")),
            },
            ["check"] if method == "POST" => Box::pin(self.check(input, request, now)),
            ["check"] => return Err(AdminError::MethodNotAllowed("POST")),
            _ => return Err(AdminError::NotFound),
        })
    }

    fn record_wrong_token(&self, caller: &Caller, request: &AdminRequest, now: Timestamp) {
        let event = EventKey {
            kind: EventKind::WrongToken,
            caller: caller.key(),
            policy: "admin",
            status: 401,
        };
        self.journal
            .recorder()
            .record(&event, now, &mut || Details {
                method: request.method.clone(),
                path: format!("{ROOT}{}", request.path),
                ..Details::default()
            });
    }

    fn records(&self) -> &Records<D> {
        self.journal.records()
    }

    /// Writes the events that this isolate has gathered, so that lists contain all of them.
    async fn write_events(&self, now: Timestamp) {
        self.journal.write(self.stack, now).await;
    }

    fn config(&self) -> &Config {
        &self.compiled.config
    }
}

/// A token of the control plane, and the paths that it opens.
struct TokenScope {
    name: &'static str,
    /// The token, if it is configured.
    secret: fn(&Config) -> Option<&Secret>,
    /// Whether the token opens a path, given by its segments.
    opens: fn(&[String]) -> bool,
}

const TOKEN_SCOPES: [TokenScope; 3] = [
    TokenScope {
        name: "admin",
        secret: |config| config.admin_token.as_ref(),
        opens: |_| true,
    },
    TokenScope {
        name: "check",
        secret: |config| config.check_token.as_ref(),
        opens: |segments| *segments == ["check"],
    },
    TokenScope {
        name: "metrics",
        secret: |config| config.metrics_token.as_ref(),
        opens: |segments| *segments == ["metrics"],
    },
];

/// The configured tokens that open a path.
fn tokens<'a>(config: &'a Config, segments: &[String]) -> Vec<AccessToken<'a>> {
    let scopes = TOKEN_SCOPES.iter().filter(|scope| (scope.opens)(segments));
    let tokens = scopes.filter_map(|TokenScope { name, secret, .. }| {
        let secret = secret(config)?;
        Some(AccessToken { name, secret })
    });
    tokens.collect()
}

/// The answer for a path that does not exist, with status 404.
#[must_use]
pub fn not_found() -> Response {
    AdminError::NotFound.response()
}

/// The answer to a request without a right token, with a challenge as in RFC 6750, section 3. `error` is the challenge's
/// parameter that reports a wrong token, or empty. If `takes_password`, a challenge as in RFC 7617 follows.
fn unauthorized(error: &str, takes_password: bool) -> Response {
    let mut response = Response::error(
        401,
        "unauthorized",
        "Send the token as `Authorization: Bearer TOKEN`.",
    );
    let challenge = format!("Bearer realm=\"edge-limiter\"{error}");
    let challenge = match takes_password {
        true => format!("{challenge}, Basic realm=\"edge-limiter\", charset=\"UTF-8\""),
        false => challenge,
    };
    response.headers.push(("WWW-Authenticate", challenge));
    response
}

#[cfg(test)]
mod tests;
