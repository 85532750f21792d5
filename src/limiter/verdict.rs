//! What is decided of a request that the application serves itself.

use super::forward::removed_from_response;
use crate::config::Config;
use crate::gate::{Exempt, Report};
use crate::headers::Header;
use crate::response::{self, Response, headers};
use crate::time::Timestamp;

/// A decision about a request: what the application needs to serve it, or the answer in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitVerdict {
    /// The answer to a request that is not admitted, or that went to the control plane. `None`: the request may go ahead.
    pub answer: Option<Response>,
    /// The policy that binds: the one that denies longest, else the one with the least remaining share. `None`: no quota was
    /// asked.
    pub policy: Option<String>,
    /// Units in that policy's window, or in its burst.
    pub limit: Option<u32>,
    /// Units that are left in it.
    pub remaining: Option<u32>,
    /// When the quota is whole again; of a denial, when one request of this cost is admitted.
    pub reset: Option<Timestamp>,
    /// Whole seconds until the request is admitted, at least 1. `None`: it is admitted, or waiting does not help.
    pub retry_after: Option<u64>,
    /// A block denies it: the policy's, or one of its address.
    pub blocked: bool,
    /// Why no quota was asked, if that is why.
    pub exempt: Option<Exempt>,
    /// The shared store did not decide, and this isolate's memory did in its place.
    pub degraded: bool,
    /// Headers to set on the application's response to an admitted request, as [`Forward::set_on_response`](super::Forward).
    pub set_on_response: Vec<Header>,
    /// Headers to remove from it.
    pub removed_from_response: Vec<&'static str>,
    /// Names to add to `Access-Control-Expose-Headers` of a response that has `Access-Control-Allow-Origin`.
    pub exposed: &'static str,
}

impl LimitVerdict {
    /// The request is admitted.
    pub(super) fn admitted(report: &Report, config: &Config, now: Timestamp) -> Self {
        let limits = headers::of(report, config.dialect, now);
        Self {
            removed_from_response: removed_from_response(config, report, &limits),
            set_on_response: limits,
            ..Self::of(report, config)
        }
    }

    /// `answer` is the request's; `report` says why, where it is denied.
    pub(super) fn answered(answer: Response, report: Option<&Report>, config: &Config) -> Self {
        let verdict = match report {
            Some(report) => Self::of(report, config),
            None => Self {
                exposed: headers::exposed(config.dialect),
                ..Self::default()
            },
        };
        let mut waits = (answer.headers.iter()).filter(|(name, _)| *name == "Retry-After");
        Self {
            retry_after: waits.next().and_then(|(_, value)| value.parse().ok()),
            answer: Some(answer),
            ..verdict
        }
    }

    fn of(report: &Report, config: &Config) -> Self {
        let binding = report.binding();
        let denied = !report.admitted;
        let retry_at = denied.then(|| response::retry_at(report)).flatten();
        Self {
            policy: binding.map(|standing| standing.policy.clone()),
            limit: binding.map(|standing| standing.quota.capacity()),
            remaining: binding.map(headers::shown_remaining),
            reset: retry_at.or_else(|| binding.map(headers::shown_reset)),
            blocked: denied && response::is_blocked(report),
            exempt: report.exempt,
            degraded: report.degraded,
            exposed: headers::exposed(config.dialect),
            ..Self::default()
        }
    }
}
