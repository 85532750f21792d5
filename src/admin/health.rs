//! `GET /_limiter/health`.

use serde::Serialize;

use super::door::{Access, too_many};
use crate::config::{Compiled, Severity};
use crate::response::Response;
use crate::store::blocked::RANGES_LOST;
use crate::store::breaker::Status;
use crate::store::breaker::circuit::State;
use crate::store::stack::StoreHealth;
use crate::time::Timestamp;

/// The answer. It is public; an admin also learns since when the store fails, why, when it is asked
/// again, since when blocked ranges are missing from it, and what is wrong in the configuration.
#[must_use]
pub(super) fn answer(
    method: &str,
    compiled: &Compiled,
    store: &StoreHealth,
    blocks_lost: Option<Timestamp>,
    access: Access,
    now: Timestamp,
) -> Response {
    if !matches!(method, "GET" | "HEAD") {
        let mut response = Response::error(405, "method_not_allowed", "Use GET.");
        response.headers.push(("Allow", "GET, HEAD".to_owned()));
        return response;
    }
    if let Access::TooMany { retry_at } = access {
        return too_many(retry_at, now);
    }
    let breaker = match store {
        StoreHealth::Memory => None,
        StoreHealth::Shared(status) => Some(status),
    };
    let closed = |status: &&Status| status.state == State::Closed;
    let failing = breaker.filter(|status| !closed(status));
    let status = if compiled.has_errors() {
        "misconfigured"
    } else if failing.is_some() || blocks_lost.is_some() {
        "degraded"
    } else {
        "ok"
    };
    let admin = access == Access::Granted;
    let body = Health {
        status,
        store: match breaker.filter(closed) {
            Some(_) => "upstash",
            None => "memory",
        },
        breaker: breaker.map(|status| status.state.to_string()),
        version: env!("CARGO_PKG_VERSION"),
        failing: failing.filter(|_| admin).map(Failing::of),
        lost: blocks_lost.filter(|_| admin).map(|since| Lost {
            since: since.as_millis(),
            why: RANGES_LOST,
        }),
        errors: admin.then(|| problems(compiled, Severity::Error)),
        warnings: admin.then(|| problems(compiled, Severity::Warning)),
    };
    Response::json(200, &body)
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    store: &'a str,
    breaker: Option<String>,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<Failing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Lost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<Told<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<Told<'a>>>,
}

/// Times in ms since the epoch, on this isolate's clock.
#[derive(Serialize)]
struct Failing {
    since: Option<u64>,
    why: Option<String>,
    next_try: Option<u64>,
}

/// Blocked ranges that are missing from the database.
#[derive(Serialize)]
struct Lost {
    /// In ms since the epoch, on this isolate's clock.
    since: u64,
    why: &'static str,
}

impl Failing {
    fn of(status: &Status) -> Self {
        let trouble = status.trouble.as_ref();
        Self {
            since: trouble.map(|(since, _)| since.as_millis()),
            why: trouble.map(|(_, why)| why.to_string()),
            next_try: match status.state {
                State::Open { until } => Some(until.as_millis()),
                State::Closed | State::HalfOpen { .. } => None,
            },
        }
    }
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

    use super::answer;
    use crate::admin::door::Access;
    use crate::config::{Compiled, Config, Vars};
    use crate::store::StoreError;
    use crate::store::blocked::RANGES_LOST;
    use crate::store::breaker::Status;
    use crate::store::breaker::circuit::State;
    use crate::store::stack::StoreHealth;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(5000);

    fn compiled(bad: bool) -> Compiled {
        let mut vars = json!({});
        if bad {
            vars["RATE_LIMIT_HEADERS"] = json!("sEcReT");
        }
        Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
    }

    fn ask(bad: bool, store: &StoreHealth, access: Access) -> Value {
        let response = answer("GET", &compiled(bad), store, None, access, NOW);
        assert_eq!(response.status, 200);
        assert!(!response.body.contains("sEcReT"));
        serde_json::from_str(&response.body).unwrap()
    }

    fn upstash(state: State) -> StoreHealth {
        let since = Timestamp::from_millis(7);
        let failing = state != State::Closed;
        StoreHealth::Shared(Status {
            state,
            trouble: failing.then_some((since, StoreError::OverQuota)),
        })
    }

    #[test]
    fn the_public_learn_no_more_than_the_state() {
        let until = Timestamp::from_millis(9000);
        let version = env!("CARGO_PKG_VERSION");
        for (state, status, store, breaker) in [
            (State::Closed, "ok", "upstash", "closed"),
            (State::Open { until }, "degraded", "memory", "open"),
            (State::HalfOpen { until }, "degraded", "memory", "half-open"),
        ] {
            assert_eq!(
                ask(false, &upstash(state), Access::Public),
                json!({"status": status, "store": store, "breaker": breaker, "version": version})
            );
            let body = ask(true, &upstash(state), Access::Public);
            assert_eq!(body["status"], "misconfigured");
            assert_eq!(body.as_object().unwrap().len(), 4);
        }
        assert_eq!(
            ask(false, &StoreHealth::Memory, Access::Public),
            json!({"status": "ok", "store": "memory", "breaker": null, "version": version})
        );
    }

    #[test]
    fn who_guesses_is_told_to_wait() {
        let retry_at = NOW + crate::time::Millis::new(1500);
        let access = Access::TooMany { retry_at };
        let response = answer(
            "GET",
            &compiled(true),
            &StoreHealth::Memory,
            None,
            access,
            NOW,
        );
        assert_eq!(response.status, 429);
        assert!(response.headers.contains(&("Retry-After", "2".to_owned())));
        assert!(!response.body.contains("RATE_LIMIT"));
    }

    #[test]
    fn the_operator_learns_since_when_and_why() {
        let until = Timestamp::from_millis(9000);
        let body = ask(true, &upstash(State::Open { until }), Access::Granted);
        let why = StoreError::OverQuota.to_string();
        let failing = json!({"since": 7, "why": why, "next_try": 9000});
        assert_eq!(body["failing"], failing);
        assert_eq!(body["errors"][0]["variable"], "RATE_LIMIT_HEADERS");
        assert_eq!(body["warnings"], json!([]));

        let body = ask(false, &upstash(State::HalfOpen { until }), Access::Granted);
        assert_eq!(body["failing"]["next_try"], json!(null));
        let body = ask(false, &upstash(State::Closed), Access::Granted);
        assert_eq!(body.get("failing"), None);
    }

    #[test]
    fn lost_ranges_are_degraded_and_the_operator_learns_why() {
        let ask = |access, bad| {
            let since = Some(Timestamp::from_millis(7));
            let store = upstash(State::Closed);
            let response = answer("GET", &compiled(bad), &store, since, access, NOW);
            serde_json::from_str::<Value>(&response.body).unwrap()
        };
        let public = ask(Access::Public, false);
        assert_eq!(public["status"], "degraded");
        assert_eq!(public["store"], "upstash");
        assert_eq!(public.as_object().unwrap().len(), 4);
        let lost = json!({"since": 7, "why": RANGES_LOST});
        assert_eq!(ask(Access::Granted, false)["lost"], lost);
        assert_eq!(ask(Access::Public, true)["status"], "misconfigured");
    }

    #[test]
    fn it_is_read_only() {
        for method in ["POST", "DELETE", "get", "PROPFIND"] {
            let store = StoreHealth::Memory;
            let response = answer(method, &compiled(false), &store, None, Access::Public, NOW);
            assert_eq!(response.status, 405);
        }
    }
}
