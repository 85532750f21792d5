//! `GET /_limiter/health`: whether the limiter, and all that it depends on, works.

use serde::Serialize;

use super::access::{Access, too_many};
use crate::config::{Compiled, Server, Severity};
use crate::redis::script::ScriptForm;
use crate::response::Response;
use crate::store::blocked::RANGES_LOST;
use crate::store::breaker::BreakerStatus;
use crate::store::breaker::circuit::CircuitState;
use crate::store::stack::StoreHealth;
use crate::time::Timestamp;

/// The state of everything that the limiter depends on. A time is `None` while that dependency works.
pub(super) struct Dependencies {
    pub store: StoreHealth,
    /// The form in which scripts are sent to Redis. `None` without a Redis.
    pub script: Option<ScriptForm>,
    /// Since when blocked ranges are missing from the database.
    pub lost: Option<Timestamp>,
    /// Since when this isolate cannot load blocks, and why.
    pub blocks: Option<(Timestamp, String)>,
    /// Since when this isolate cannot write records, and why.
    pub records: Option<(Timestamp, String)>,
    /// Since when this isolate cannot fetch the identity provider's keys, and why.
    pub key_set: Option<(Timestamp, String)>,
}

/// The answer to a request for health. Everybody sees the status, the store, the breaker and the version. The bearer of
/// the admin token also sees the form of the scripts, since when and why each dependency fails, when a failing store is
/// asked again, and the problems of the configuration.
#[must_use]
pub(super) fn answer(
    method: &str,
    compiled: &Compiled,
    dependencies: Dependencies,
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
    let breaker = match &dependencies.store {
        StoreHealth::Memory => None,
        StoreHealth::Shared(status) => Some(status),
    };
    let is_closed = |status: &&BreakerStatus| status.state == CircuitState::Closed;
    let failing = breaker.filter(|status| !is_closed(status));
    let lost = (dependencies.lost).map(|since| (since, RANGES_LOST.to_owned()));
    let failures = [
        lost,
        dependencies.blocks,
        dependencies.records,
        dependencies.key_set,
    ];
    let status = if compiled.has_errors() {
        "misconfigured"
    } else if failing.is_some() || failures.iter().any(Option::is_some) {
        "degraded"
    } else {
        "ok"
    };
    let is_admin = access == Access::Granted;
    let [lost, blocks, records, key_set] =
        failures.map(|failure| failure.filter(|_| is_admin).map(FailureBody::of));
    let body = HealthBody {
        status,
        store: match breaker.filter(is_closed) {
            Some(_) => (compiled.config.store.server()).map_or("memory", Server::name),
            None => "memory",
        },
        breaker: breaker.map(|status| status.state.to_string()),
        version: env!("CARGO_PKG_VERSION"),
        script: (dependencies.script)
            .filter(|_| is_admin)
            .map(ScriptForm::name),
        failing: failing.filter(|_| is_admin).map(StoreFailureBody::of),
        lost,
        blocks,
        records,
        key_set,
        errors: is_admin.then(|| problems(compiled, Severity::Error)),
        warnings: is_admin.then(|| problems(compiled, Severity::Warning)),
    };
    Response::json(200, &body)
}

#[derive(Serialize)]
struct HealthBody<'a> {
    status: &'a str,
    store: &'a str,
    breaker: Option<String>,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<StoreFailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<FailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<FailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<FailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_set: Option<FailureBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<ProblemBody<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<ProblemBody<'a>>>,
}

/// A failure of the store that decides. Times are in milliseconds since the epoch, on this isolate's clock.
#[derive(Serialize)]
struct StoreFailureBody {
    since: Option<u64>,
    why: Option<String>,
    next_try: Option<u64>,
}

/// A failure of another dependency.
#[derive(Serialize)]
struct FailureBody {
    /// In milliseconds since the epoch, on this isolate's clock.
    since: u64,
    why: String,
}

impl FailureBody {
    fn of((since, why): (Timestamp, String)) -> Self {
        let since = since.as_millis();
        Self { since, why }
    }
}

impl StoreFailureBody {
    fn of(status: &BreakerStatus) -> Self {
        let failure = status.failure.as_ref();
        Self {
            since: failure.map(|(since, _)| since.as_millis()),
            why: failure.map(|(_, why)| why.to_string()),
            next_try: match status.state {
                CircuitState::Open { until } => Some(until.as_millis()),
                CircuitState::Closed | CircuitState::HalfOpen { .. } => None,
            },
        }
    }
}

/// A problem of the configuration.
#[derive(Serialize)]
struct ProblemBody<'a> {
    variable: &'a str,
    rule: &'a str,
}

fn problems(compiled: &Compiled, severity: Severity) -> Vec<ProblemBody<'_>> {
    compiled
        .problems
        .iter()
        .filter(|problem| problem.severity == severity)
        .map(|problem| ProblemBody {
            variable: &problem.variable,
            rule: &problem.rule,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Dependencies, answer};
    use crate::admin::access::Access;
    use crate::config::{Compiled, Config, Vars};
    use crate::redis::script::ScriptForm;
    use crate::store::StoreError;
    use crate::store::blocked::RANGES_LOST;
    use crate::store::breaker::BreakerStatus;
    use crate::store::breaker::circuit::CircuitState;
    use crate::store::stack::StoreHealth;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(5000);

    fn compiled(bad: bool) -> Compiled {
        let mut vars =
            json!({"UPSTASH_REDIS_REST_URL": "https://x.io", "UPSTASH_REDIS_REST_TOKEN": "t"});
        if bad {
            vars["RATE_LIMIT_HEADERS"] = json!("sEcReT");
        }
        Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
    }

    fn dependencies(store: StoreHealth) -> Dependencies {
        Dependencies {
            script: matches!(store, StoreHealth::Shared(_)).then_some(ScriptForm::Plain),
            store,
            lost: None,
            blocks: None,
            records: None,
            key_set: None,
        }
    }

    fn ask(bad: bool, store: &StoreHealth, access: Access) -> Value {
        let dependencies = dependencies(store.clone());
        let response = answer("GET", &compiled(bad), dependencies, access, NOW);
        assert_eq!(response.status, 200);
        assert!(!response.body.contains("sEcReT"));
        serde_json::from_str(&response.body).unwrap()
    }

    fn upstash(state: CircuitState) -> StoreHealth {
        let since = Timestamp::from_millis(7);
        let failing = state != CircuitState::Closed;
        StoreHealth::Shared(BreakerStatus {
            state,
            failure: failing.then_some((since, StoreError::OverQuota)),
        })
    }

    #[test]
    fn without_a_token_health_shows_no_more_than_the_state() {
        let until = Timestamp::from_millis(9000);
        let version = env!("CARGO_PKG_VERSION");
        for (state, status, store, breaker) in [
            (CircuitState::Closed, "ok", "upstash", "closed"),
            (CircuitState::Open { until }, "degraded", "memory", "open"),
            (
                CircuitState::HalfOpen { until },
                "degraded",
                "memory",
                "half-open",
            ),
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
    fn an_address_with_too_many_wrong_tokens_gets_429() {
        let retry_at = NOW + crate::time::Millis::new(1500);
        let access = Access::TooMany { retry_at };
        let response = answer(
            "GET",
            &compiled(true),
            dependencies(StoreHealth::Memory),
            access,
            NOW,
        );
        assert_eq!(response.status, 429);
        assert!(response.headers.contains(&("Retry-After", "2".to_owned())));
        assert!(!response.body.contains("RATE_LIMIT"));
    }

    #[test]
    fn an_operator_sees_since_when_the_store_fails_and_why() {
        let until = Timestamp::from_millis(9000);
        let body = ask(
            true,
            &upstash(CircuitState::Open { until }),
            Access::Granted,
        );
        let why = StoreError::OverQuota.to_string();
        let failing = json!({"since": 7, "why": why, "next_try": 9000});
        assert_eq!(body["failing"], failing);
        assert_eq!(body["errors"][0]["variable"], "RATE_LIMIT_HEADERS");
        assert_eq!(body["warnings"], json!([]));

        let body = ask(
            false,
            &upstash(CircuitState::HalfOpen { until }),
            Access::Granted,
        );
        assert_eq!(body["failing"]["next_try"], json!(null));
        let body = ask(false, &upstash(CircuitState::Closed), Access::Granted);
        assert_eq!(
            (body.get("failing"), &body["script"]),
            (None, &json!("plain"))
        );
        let body = ask(false, &StoreHealth::Memory, Access::Granted);
        assert_eq!(body.get("script"), None);
    }

    #[test]
    fn a_failing_dependency_means_degraded_and_an_operator_sees_since_when_and_why() {
        let since = Timestamp::from_millis(7);
        let ask = |name: &str, access, bad| {
            let failure = |part| (part == name).then(|| (since, "it is broken".to_owned()));
            let dependencies = Dependencies {
                store: upstash(CircuitState::Closed),
                script: Some(ScriptForm::Flagged),
                lost: (name == "lost").then_some(since),
                blocks: failure("blocks"),
                records: failure("records"),
                key_set: failure("key_set"),
            };
            let response = answer("GET", &compiled(bad), dependencies, access, NOW);
            serde_json::from_str::<Value>(&response.body).unwrap()
        };
        for (name, why) in [
            ("lost", RANGES_LOST),
            ("blocks", "it is broken"),
            ("records", "it is broken"),
            ("key_set", "it is broken"),
        ] {
            for access in [Access::Public, Access::WrongToken] {
                let public = ask(name, access, false);
                assert_eq!(public["status"], "degraded", "{name}");
                assert_eq!(public["store"], "upstash", "{name}");
                assert_eq!(public.as_object().unwrap().len(), 4, "{name}");
            }
            let full = ask(name, Access::Granted, false);
            assert_eq!(full[name], json!({"since": 7, "why": why}));
            assert_eq!(full["script"], "flagged", "{name}");
            assert_eq!(full.as_object().unwrap().len(), 8, "{full}");
            assert_eq!(ask(name, Access::Public, true)["status"], "misconfigured");
        }
        assert_eq!(ask("none", Access::Granted, false)["status"], "ok");
    }

    #[test]
    fn health_accepts_no_method_that_writes() {
        for method in ["POST", "DELETE", "get", "PROPFIND"] {
            let dependencies = dependencies(StoreHealth::Memory);
            let response = answer(method, &compiled(false), dependencies, Access::Public, NOW);
            assert_eq!(response.status, 405);
        }
    }
}
