//! `GET /_limiter/health`.

use serde::Serialize;

use crate::admin::Access;
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

/// The answer. It is public; an admin also learns since when the store fails and what is wrong in the
/// configuration.
#[must_use]
pub fn answer(
    method: &str,
    compiled: &Compiled,
    store: StoreHealth,
    access: Access,
    now: Timestamp,
) -> Response {
    if !matches!(method, "GET" | "HEAD") {
        let mut response = Response::error(405, "method_not_allowed", "Use GET.");
        response.headers.push(("Allow", "GET, HEAD".to_owned()));
        return response;
    }
    if let Access::TooMany { retry_at } = access {
        let mut response = Response::error(429, "too_many_attempts", "Too many wrong tokens.");
        let seconds = retry_at.since(now).secs_ceil().to_string();
        response.headers.push(("Retry-After", seconds));
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
    let admin = access == Access::Admin;
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{StoreHealth, answer};
    use crate::admin::Access;
    use crate::config::{Compiled, Config, Vars};
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(5000);

    fn compiled(bad: bool) -> Compiled {
        let mut vars = json!({});
        if bad {
            vars["RATE_LIMIT_HEADERS"] = json!("sEcReT");
        }
        Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
    }

    fn ask(bad: bool, store: StoreHealth, access: Access) -> Value {
        let response = answer("GET", &compiled(bad), store, access, NOW);
        assert_eq!(response.status, 200);
        assert!(!response.body.contains("sEcReT"));
        serde_json::from_str(&response.body).unwrap()
    }

    #[test]
    fn the_public_learn_no_more_than_the_state() {
        let since = Timestamp::from_millis(7);
        let version = env!("CARGO_PKG_VERSION");
        let access = Access::Public;
        assert_eq!(
            ask(false, StoreHealth::Upstash, access),
            json!({"status": "ok", "store": "upstash", "breaker": null, "version": version})
        );
        assert_eq!(
            ask(false, StoreHealth::Failing { since }, access)["status"],
            "degraded"
        );
        let body = ask(true, StoreHealth::Failing { since }, access);
        assert_eq!(body["status"], "misconfigured");
        assert_eq!(body.as_object().unwrap().len(), 4);
    }

    #[test]
    fn who_guesses_is_told_to_wait() {
        let retry_at = NOW + crate::time::Millis::new(1500);
        let access = Access::TooMany { retry_at };
        let response = answer("GET", &compiled(true), StoreHealth::Memory, access, NOW);
        assert_eq!(response.status, 429);
        assert!(response.headers.contains(&("Retry-After", "2".to_owned())));
        assert!(!response.body.contains("RATE_LIMIT"));
    }

    #[test]
    fn the_operator_learns_why() {
        let since = Timestamp::from_millis(7);
        let body = ask(true, StoreHealth::Failing { since }, Access::Admin);
        assert_eq!(body["since"], 7);
        assert_eq!(body["errors"][0]["variable"], "RATE_LIMIT_HEADERS");
        assert_eq!(body["warnings"], json!([]));
    }

    #[test]
    fn it_is_read_only() {
        for method in ["POST", "DELETE", "get", "PROPFIND"] {
            assert_eq!(
                answer(
                    method,
                    &compiled(false),
                    StoreHealth::Memory,
                    Access::Public,
                    NOW
                )
                .status,
                405
            );
        }
    }
}
