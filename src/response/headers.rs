//! The headers that tell a client where it stands.

use crate::config::Dialect;
use crate::gate::{QuotaStatus, Report};
use crate::headers::{Header, SHADOW, STORE};
use crate::quota::QuotaOutcome;
use crate::time::Timestamp;

/// The headers of `report` in `dialect`, for an allowed and a denied request alike.
#[must_use]
pub fn of(report: &Report, dialect: Dialect, now: Timestamp) -> Vec<Header> {
    let mut headers = match dialect {
        Dialect::Silent => return Vec::new(),
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

/// The names of the headers that a dialect has and of `Retry-After`, for `Access-Control-Expose-Headers`: a page may read
/// no others.
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
        Dialect::Silent => "Retry-After",
    }
}

/// What is left, as shown: nothing while a block stands.
#[must_use]
pub fn shown_remaining(standing: &QuotaStatus) -> u32 {
    if standing.answer.blocked_until.is_some() {
        0
    } else {
        standing.answer.decision.remaining
    }
}

/// When the quota is whole again; of a denial, when one request of this cost is admitted.
#[must_use]
pub fn shown_reset(standing: &QuotaStatus) -> Timestamp {
    standing
        .answer
        .retry_at()
        .unwrap_or(standing.answer.decision.reset_at)
}

fn x_ratelimit(standing: &QuotaStatus) -> Vec<Header> {
    vec![
        ("X-RateLimit-Limit", standing.quota.capacity().to_string()),
        (
            "X-RateLimit-Remaining",
            shown_remaining(standing).to_string(),
        ),
        (
            "X-RateLimit-Reset",
            shown_reset(standing).as_secs_ceil().to_string(),
        ),
        ("X-RateLimit-Type", standing.policy.clone()),
    ]
}

/// draft-ietf-httpapi-ratelimit-headers-11: lists of structured-field strings (RFC 9651). A policy's
/// name has only letters, digits and underscores, so it needs no escaping.
fn ietf(report: &Report, now: Timestamp) -> Vec<Header> {
    let mut policies = Vec::new();
    let mut limits = Vec::new();
    for standing in one_per_policy(&report.enforced) {
        let name = &standing.policy;
        let quota = &standing.quota;
        policies.push(format!(
            "\"{name}\";q={};w={}",
            quota.capacity(),
            quota.refill().secs_ceil()
        ));
        limits.push(format!(
            "\"{name}\";r={};t={}",
            shown_remaining(standing),
            shown_reset(standing).since(now).secs_ceil()
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

/// A policy may have two quotas (a header's beside the address's): the tighter one speaks for it.
fn one_per_policy(standings: &[QuotaStatus]) -> Vec<&QuotaStatus> {
    let mut chosen: Vec<&QuotaStatus> = Vec::new();
    for standing in standings {
        match chosen
            .iter_mut()
            .find(|chosen| chosen.policy == standing.policy)
        {
            Some(other) => {
                if tightness(standing) < tightness(other) {
                    *other = standing;
                }
            }
            None => chosen.push(standing),
        }
    }
    chosen
}

fn tightness(standing: &QuotaStatus) -> (bool, u32) {
    (standing.answer.allows(), shown_remaining(standing))
}

/// A structured-field dictionary: `name=admitted;r=7` or `name=denied;r=0`.
fn shadow(standings: &[QuotaStatus]) -> String {
    let members: Vec<String> = one_per_policy(standings)
        .into_iter()
        .map(|standing| {
            let decision = &standing.answer.decision;
            let word = match decision.outcome {
                QuotaOutcome::Allowed => "admitted",
                QuotaOutcome::Denied { .. } | QuotaOutcome::Impossible => "denied",
            };
            format!("{}={word};r={}", standing.policy, decision.remaining)
        })
        .collect();
    members.join(", ")
}

#[cfg(test)]
pub(crate) mod tests;
