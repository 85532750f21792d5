//! `GET /_limiter/health`.

use serde::Serialize;

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
    let admin = is_admin(compiled, authorization);
    let body = Health {
        status,
        store: match store {
            StoreHealth::Upstash => "upstash",
            StoreHealth::Memory | StoreHealth::Failing { .. } => "memory",
        },
        // There is none yet: a failed call falls back by itself, request by request.
        breaker: None,
        version: env!("CARGO_PKG_VERSION"),
        since: match store {
            StoreHealth::Failing { since } if admin => Some(since.as_millis()),
            _ => None,
        },
        errors: admin.then(|| problems(compiled, Severity::Error)),
        warnings: admin.then(|| problems(compiled, Severity::Warning)),
    };
    Response::json(200, &body)
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    store: &'a str,
    breaker: Option<&'a str>,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<Told<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<Told<'a>>>,
}

#[derive(Serialize)]
struct Told<'a> {
    variable: &'a str,
    rule: &'a str,
}

fn is_admin(compiled: &Compiled, authorization: Option<&str>) -> bool {
    let given = authorization.and_then(|header| header.strip_prefix("Bearer "));
    match (&compiled.config.admin_token, given) {
        (Some(token), Some(given)) => token.matches(given),
        _ => false,
    }
}

fn problems(compiled: &Compiled, severity: Severity) -> Vec<Told<'_>> {
    compiled
        .problems
        .iter()
        .filter(|problem| problem.severity == severity)
        .map(|problem| Told {
            variable: &problem.variable,
            rule: &problem.rule,
        })
        .collect()
}
