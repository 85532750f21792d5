//! The control plane: what an operator sees and does, over HTTP.
//!
//! Everything but health and the operators' page needs a token ([`access`]). What comes in is hostile until it has been read
//! ([`input`]): a name becomes part of a key only in a form that this crate has written itself. What
//! goes out is JSON. Times are in milliseconds since the epoch.

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
pub(crate) use application::Application;
use bad_input::BadInput;
use health::Dependencies;
use input::Input;

/// Where the control plane is.
pub const ROOT: &str = "/_limiter";

/// The longest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// A request to the control plane.
#[derive(Clone, Debug, Default)]
pub struct AdminRequest {
    /// The method as sent.
    pub method: String,
    /// The path as sent, beneath [`ROOT`].
    pub path: String,
    /// The query as sent, without its question mark.
    pub query: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// Who asks.
    pub client_ip: Option<String>,
    /// The `CF-Worker` header.
    pub worker_zone: Option<String>,
    /// The body, read once the request has been let in.
    pub body: Body,
}

/// A request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// It is a text, or there is none.
    Text(String),
    /// It is longer than [`MAX_BODY_BYTES`].
    TooLong,
    /// It is not UTF-8.
    NotText,
}

impl Default for Body {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl AdminRequest {
    /// Whether its body is looked at.
    #[must_use]
    pub fn takes_body(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST")
    }
}

/// What becomes of a request at the door.
pub enum Authorization {
    /// It is let in, to [`ControlPlane::answer`].
    Granted(Authorized),
    /// This is its answer.
    Answered(Response),
}

/// That a request came with a token that opens what it asks for, or from the application itself.
pub struct Authorized(Actor);

/// Who makes a call, as the operator log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// An operator, over HTTP.
    Admin,
    /// The application that runs the limiter.
    Application,
}

/// A call of the control plane that the application makes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// The method.
    pub method: String,
    /// The path beneath [`ROOT`], and the query: `/events?limit=5`. Percent-encoded, as in a URL.
    pub path_and_query: String,
    /// The body; empty: there is none.
    pub body: String,
}

impl Operation {
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
                true => Body::TooLong,
                false => Body::Text(self.body),
            },
            ..AdminRequest::default()
        }
    }
}

/// All that the control plane works with.
pub struct ControlPlane<'a, S, D, E> {
    /// The configuration.
    pub compiled: &'a Compiled,
    /// What decides, and what the isolate knows.
    pub stack: &'a Stack<S, D, E>,
    /// Who checks tokens.
    pub token_guard: &'a TokenGuard,
    /// Where wrong tokens are noted; blocks, events and counts.
    pub journal: &'a Journal<D>,
    /// Since when the identity provider's keys cannot be fetched, and why.
    pub key_set: Option<(Timestamp, String)>,
    /// What is counted.
    pub metrics: &'a Metrics,
}

/// Why a request is not answered with what it asks for.
enum AdminError {
    Bad(BadInput),
    /// A caller, an address or a range that cannot be one.
    Identifier(BadInput),
    /// No policy has that name. With the answer's status: 404 where the path names it.
    UnknownPolicy(u16),
    NotFound,
    Method(&'static str),
    TooLarge,
    /// No key of the application's.
    Key,
    /// The value of the application's key is no whole number, or the highest.
    NotANumber,
    Refused(String),
    Store(StoreError),
    /// The database failed, and the application's call with it.
    NotDone(StoreError),
    /// The database failed, and what was asked is in force in this isolate alone.
    OnlyHere,
}

impl From<BadInput> for AdminError {
    fn from(bad: BadInput) -> Self {
        Self::Bad(bad)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl AdminError {
    fn response(self) -> Response {
        let coded = |status, error, message: &str, code| {
            Response::coded_error(status, error, message, Some(code))
        };
        let bad = |message: &str, code| coded(400, "bad_request", message, code);
        match self {
            Self::Bad(BadInput(message)) => bad(&message, "bad_argument"),
            Self::Identifier(BadInput(message)) => bad(&message, "bad_identifier"),
            Self::UnknownPolicy(status) => {
                let error = match status {
                    404 => "not_found",
                    _ => "bad_request",
                };
                coded(status, error, UNKNOWN_POLICY, "unknown_policy")
            }
            Self::NotFound => Response::error(404, "not_found", "There is nothing here."),
            Self::Method(allowed) => {
                let message = format!("Use {allowed}.");
                let mut response = Response::error(405, "method_not_allowed", &message);
                response.headers.push(("Allow", allowed.to_owned()));
                response
            }
            Self::TooLarge => {
                let message = format!("The body must have at most {MAX_BODY_BYTES} bytes.");
                coded(413, "too_large", &message, "bad_argument")
            }
            Self::Key => bad(
                "A key has 1 to 512 bytes, and no control characters.",
                "bad_key",
            ),
            Self::NotANumber => coded(
                409,
                "refused",
                "The value of the key is no whole number, or the highest that there is.",
                "not_a_number",
            ),
            Self::NotDone(error) => {
                let outcome = match error.may_have_run() {
                    true => "It may have taken effect.",
                    false => "It has not taken effect.",
                };
                let message = format!("The shared store does not answer: {error}. {outcome}");
                coded(503, UNAVAILABLE, &message, UNAVAILABLE)
            }
            Self::Refused(message) => coded(409, "refused", &message, "refused"),
            Self::Store(error) => {
                let message = format!("The shared store does not answer: {error}. Try again.");
                coded(503, UNAVAILABLE, &message, UNAVAILABLE)
            }
            Self::OnlyHere => coded(
                503,
                UNAVAILABLE,
                "The shared store does not answer: this is in force in one isolate alone. Send it again.",
                UNAVAILABLE,
            ),
        }
    }
}

const UNAVAILABLE: &str = "store_unavailable";
const UNKNOWN_POLICY: &str =
    "`policy` must be one that is configured; GET /_limiter/policies lists them.";

type AdminResult = Result<Response, AdminError>;

fn ok(body: &impl Serialize) -> AdminResult {
    Ok(Response::json(200, body))
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    /// Looks at the token. The body is not needed for it.
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
        let given = match is_metrics {
            true => authorization.and_then(bearer_or_password),
            false => authorization.and_then(bearer).map(Cow::Borrowed),
        };
        let access = (self
            .token_guard
            .access(&tokens, given.as_deref(), &caller, now))
        .await;
        if matches!(access, Access::Refused | Access::TooMany { .. }) {
            self.note_refusal(&caller, request, now);
        }
        Authorization::Answered(match access {
            _ if is_health => self.health(&request.method, access, now),
            Access::Granted => return Authorization::Granted(Authorized(Actor::Admin)),
            Access::Public => unauthorized("", is_metrics),
            Access::Refused => unauthorized(", error=\"invalid_token\"", is_metrics),
            Access::TooMany { retry_at } => too_many(retry_at, now),
        })
    }

    fn health(&self, method: &str, access: Access, now: Timestamp) -> Response {
        let parts = Dependencies {
            store: self.stack.health(),
            script: self.journal.records().script_form(),
            lost: self.stack.blocks_lost_since(),
            blocks: self.stack.blocks_trouble(),
            records: self.journal.trouble(),
            key_set: self.key_set.clone(),
        };
        health::answer(method, self.compiled, parts, access, now)
    }

    /// Answers a call of the application, without a token: no request over HTTP may come to this.
    pub(crate) async fn operate(&self, operation: Operation, now: Timestamp) -> Response {
        let request = operation.into_request();
        if Input::read(&request).segments == ["health"] {
            return self.health(&request.method, Access::Granted, now);
        }
        let admitted = Authorized(Actor::Application);
        self.answer(admitted, &request, now).await
    }

    /// Answers a request that [`authorize`](Self::authorize) has let in.
    pub async fn answer(
        &self,
        admitted: Authorized,
        request: &AdminRequest,
        now: Timestamp,
    ) -> Response {
        let Authorized(who) = admitted;
        let input = Input::read(request);
        let segments: Vec<&str> = input.segments.iter().map(String::as_str).collect();
        let answered = match self.route(&segments, request, &input, now) {
            Ok(answer) => answer.await,
            Err(failed) => Err(failed),
        };
        let outcome = operations::outcome(&answered);
        if let Some(outcome) = outcome {
            let operation = (who, outcome);
            (self.note_operation(&segments, request, &input, operation, now)).await;
        }
        answered.unwrap_or_else(AdminError::response)
    }

    fn caller(&self, request: &AdminRequest) -> Caller {
        gate::caller(self.config(), &|name| match name {
            CF_WORKER => request.worker_zone.clone(),
            _ => request.client_ip.clone(),
        })
    }

    /// Whoever answers the request.
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
                let rule = "The path or query must be UTF-8 under its percent-encoding.";
                return Err(BadInput::from(rule).into());
            }
            ["blocked"] if reads => Box::pin(self.list_blocked(input, now)),
            ["blocked"] => return Err(AdminError::Method("GET, HEAD")),
            ["blocked", target] => match method {
                _ if reads => Box::pin(self.look_up(target, input, now)),
                "PUT" => Box::pin(self.block(target, input, request, now)),
                "DELETE" => Box::pin(self.lift(target, input, now)),
                _ => return Err(AdminError::Method("GET, HEAD, PUT, DELETE")),
            },
            ["events"] => match method {
                _ if reads => Box::pin(self.events(input, now)),
                "DELETE" => Box::pin(self.forget_events(input, now)),
                _ => return Err(AdminError::Method("GET, HEAD, DELETE")),
            },
            ["suspicious"] if reads => Box::pin(self.suspicious(input, now)),
            ["policies"] if reads => Box::pin(ready(self.policies(input))),
            ["metrics"] if reads => Box::pin(self.metrics(input, request, now)),
            ["series"] if reads => Box::pin(self.series(input, now)),
            ["store"] if reads => Box::pin(self.store(input, now)),
            ["operations"] if reads => Box::pin(self.operations(input, now)),
            ["suspicious" | "policies" | "metrics" | "series" | "store" | "operations"] => {
                return Err(AdminError::Method("GET, HEAD"));
            }
            ["usage", policy, caller] => match method {
                _ if reads => Box::pin(self.usage(policy, caller, input, now)),
                "DELETE" => Box::pin(self.reset(policy, caller, input, now)),
                _ => return Err(AdminError::Method("GET, HEAD, DELETE")),
            },
            ["check"] if method == "POST" => Box::pin(self.check(input, request, now)),
            ["check"] => return Err(AdminError::Method("POST")),
            _ => return Err(AdminError::NotFound),
        })
    }

    fn note_refusal(&self, caller: &Caller, request: &AdminRequest, now: Timestamp) {
        let note = EventKey {
            kind: EventKind::Refused,
            caller: caller.key(),
            policy: "admin",
            status: 401,
        };
        self.journal.recorder().note(&note, now, &mut || Details {
            method: request.method.clone(),
            path: format!("{ROOT}{}", request.path),
            ..Details::default()
        });
    }

    fn records(&self) -> &Records<D> {
        self.journal.records()
    }

    /// What has happened until now is in the lists.
    async fn write_events(&self, now: Timestamp) {
        self.journal.write(self.stack, now).await;
    }

    fn config(&self) -> &Config {
        &self.compiled.config
    }
}

/// A token of the control plane: its name, where the configuration has it, and the paths that it opens.
struct TokenScope {
    name: &'static str,
    secret: fn(&Config) -> Option<&Secret>,
    opens: fn(&[String]) -> bool,
}

const OPENERS: [TokenScope; 3] = [
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

/// What opens a path.
fn tokens<'a>(config: &'a Config, segments: &[String]) -> Vec<AccessToken<'a>> {
    let openers = OPENERS.iter().filter(|opener| (opener.opens)(segments));
    let tokens = openers.filter_map(|TokenScope { name, secret, .. }| {
        let secret = secret(config)?;
        Some(AccessToken { name, secret })
    });
    tokens.collect()
}

/// The answer to a path where nothing is.
#[must_use]
pub fn not_found() -> Response {
    AdminError::NotFound.response()
}

/// With a challenge of RFC 6750, 3: `error` says that a token came and is wrong. `takes_password`: also with one of RFC 7617.
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
