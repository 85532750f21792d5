//! The headers by which a client sees its limits and how much of them remains.

use crate::config::Dialect;
use crate::gate::{QuotaStatus, RequestVerdict};
use crate::headers::{Header, SHADOW, STORE};
use crate::quota::QuotaOutcome;
use crate::time::Timestamp;

/// The headers for `report` in `dialect`, for admitted and denied requests.
#[must_use]
pub fn of(report: &RequestVerdict, dialect: Dialect, now: Timestamp) -> Vec<Header> {
    let mut headers = match dialect {
        Dialect::None => return Vec::new(),
        Dialect::XRateLimit => report.binding().map(x_ratelimit).unwrap_or_default(),
        Dialect::Ietf => ietf(report, now),
    };
    if report.degraded {
        headers.push((STORE, "memory".to_owned()));
    }
    if !report.shadow.is_empty() {
        headers.push((SHADOW, shadow(&report.shadow)));
    }
    headers
}

/// The value of `Access-Control-Expose-Headers`: the names of a dialect's headers and of `Retry-After`. A page of another
/// origin may read no other header of the limiter.
#[must_use]
pub const fn exposed(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::XRateLimit => {
            "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Type, X-RateLimit-Store, \
             X-RateLimit-Shadow, Retry-After"
        }
        Dialect::Ietf => {
            "RateLimit-Policy, RateLimit, X-RateLimit-Store, X-RateLimit-Shadow, Retry-After"
        }
        Dialect::None => "Retry-After",
    }
}

/// The remaining units that a client sees: 0 while a block is in force.
#[must_use]
pub fn shown_remaining(status: &QuotaStatus) -> u32 {
    if status.answer.blocked_until.is_some() {
        0
    } else {
        status.answer.decision.remaining
    }
}

/// The reset time that a client sees. After an admission it is when the whole quota is available again,
/// after a denial when a request of the same cost is admitted.
#[must_use]
pub fn shown_reset(status: &QuotaStatus) -> Timestamp {
    status
        .answer
        .retry_at()
        .unwrap_or(status.answer.decision.reset_at)
}

fn x_ratelimit(status: &QuotaStatus) -> Vec<Header> {
    vec![
        ("X-RateLimit-Limit", status.quota.capacity().to_string()),
        ("X-RateLimit-Remaining", shown_remaining(status).to_string()),
        (
            "X-RateLimit-Reset",
            shown_reset(status).as_secs_ceil().to_string(),
        ),
        ("X-RateLimit-Type", status.policy.clone()),
    ]
}

/// The headers of draft-ietf-httpapi-ratelimit-headers-11, which are lists of structured-field strings
/// (RFC 9651). A policy's name has only letters, digits and underscores, so it needs no escaping.
fn ietf(report: &RequestVerdict, now: Timestamp) -> Vec<Header> {
    let mut policies = Vec::new();
    let mut limits = Vec::new();
    for status in one_per_policy(&report.enforced) {
        let name = &status.policy;
        let quota = &status.quota;
        policies.push(format!(
            "\"{name}\";q={};w={}",
            quota.capacity(),
            quota.refill().secs_ceil()
        ));
        limits.push(format!(
            "\"{name}\";r={};t={}",
            shown_remaining(status),
            shown_reset(status).since(now).secs_ceil()
        ));
    }
    if policies.is_empty() {
        return Vec::new();
    }
    vec![
        ("RateLimit-Policy", policies.join(", ")),
        ("RateLimit", limits.join(", ")),
    ]
}

/// Selects one quota of each policy. A policy may charge several quotas, such as one for a header and one for
/// the address. Of these the tightest is shown.
fn one_per_policy(statuses: &[QuotaStatus]) -> Vec<&QuotaStatus> {
    let mut chosen: Vec<&QuotaStatus> = Vec::new();
    for status in statuses {
        match chosen
            .iter_mut()
            .find(|chosen| chosen.policy == status.policy)
        {
            Some(other) => {
                if tightness(status) < tightness(other) {
                    *other = status;
                }
            }
            None => chosen.push(status),
        }
    }
    chosen
}

/// The order by which quotas are compared: the least value is the tightest quota.
fn tightness(status: &QuotaStatus) -> (bool, u32) {
    (status.answer.allows(), shown_remaining(status))
}

/// The value of [`SHADOW`], a structured-field dictionary with members such as `name=admitted;r=7` and
/// `name=denied;r=0`.
fn shadow(statuses: &[QuotaStatus]) -> String {
    let members: Vec<String> = one_per_policy(statuses)
        .into_iter()
        .map(|status| {
            let decision = &status.answer.decision;
            let word = match decision.outcome {
                QuotaOutcome::Allowed => "admitted",
                QuotaOutcome::Denied { .. } | QuotaOutcome::Impossible => "denied",
            };
            format!("{}={word};r={}", status.policy, decision.remaining)
        })
        .collect();
    members.join(", ")
}

#[cfg(test)]
pub(crate) mod tests;
