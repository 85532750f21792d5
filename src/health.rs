//! `GET /_limiter/health`.

use serde_json::{Map, Value, json};

use crate::config::{Compiled, Severity};
use crate::response::Response;
use crate::time::Timestamp;

/// How the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Memory, as configured.
    Memory,
    /// Upstash answers.
    Upstash,
    /// Upstash is configured but fails; memory decides.
    Failing {
        /// Since when, on this isolate's clock.
        since: Timestamp,
    },
}

/// The answer. It is public; with the admin token (`authorization` is the request's header) it also
/// says since when the store fails and what is wrong in the configuration.
#[must_use]
pub fn answer(
    method: &str,
    compiled: &Compiled,
    store: StoreHealth,
    authorization: Option<&str>,
) -> Response {
    if !matches!(method, "GET" | "HEAD") {
        let mut response = Response::error(405, "method_not_allowed", "Use GET.");
        response.headers.push(("allow", "GET, HEAD".to_owned()));
        return response;
    }
    let failing = matches!(store, StoreHealth::Failing { .. });
    let status = if compiled.has_errors() {
        "misconfigured"
    } else if failing {
        "degraded"
    } else {
        "ok"
    };
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(status));
    body.insert(
        "store".to_owned(),
        json!(match store {
            StoreHealth::Upstash => "upstash",
            StoreHealth::Memory | StoreHealth::Failing { .. } => "memory",
        }),
    );
    // There is none yet: a failed call falls back by itself, request by request.
    body.insert("breaker".to_owned(), Value::Null);
    body.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    if is_admin(compiled, authorization) {
        if let StoreHealth::Failing { since } = store {
            body.insert("since".to_owned(), json!(since.as_millis()));
        }
        body.insert("errors".to_owned(), problems(compiled, Severity::Error));
        body.insert("warnings".to_owned(), problems(compiled, Severity::Warning));
    }
    Response::json(200, &Value::Object(body))
}

fn is_admin(compiled: &Compiled, authorization: Option<&str>) -> bool {
    let given = authorization.and_then(|header| header.strip_prefix("Bearer "));
    match (&compiled.config.admin_token, given) {
        (Some(token), Some(given)) => token.matches(given),
        _ => false,
    }
}

fn problems(compiled: &Compiled, severity: Severity) -> Value {
    compiled
        .problems
        .iter()
        .filter(|problem| problem.severity == severity)
        .map(|problem| json!({"variable": problem.variable, "rule": problem.rule}))
        .collect()
}
