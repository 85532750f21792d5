//! The decision about a request that the application serves itself.

use super::forward::removed_from_response;
use crate::config::Config;
use crate::gate::{Exempt, RequestVerdict};
use crate::headers::Header;
use crate::response::{self, Response, headers};
use crate::time::Timestamp;

/// The decision about one request: what the application needs to serve it, or the answer to send instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitVerdict {
    /// The answer to a request that is not admitted, or that went to the control plane. `None`: the request may go ahead.
    pub answer: Option<Response>,
    /// The policy that binds: the one that denies longest, otherwise the one with the smallest remaining share. `None`: no
    /// quota was asked.
    pub policy: Option<String>,
    /// The limit of that policy in units, or its burst.
    pub limit: Option<u32>,
    /// The units that are left in that policy's quota.
    pub remaining: Option<u32>,
    /// When all units are available again. For a denial: when a request of this cost is admitted again.
    pub reset: Option<Timestamp>,
    /// Whole seconds until the request is admitted, at least 1. `None`: it is admitted, or waiting does not help.
    pub retry_after: Option<u64>,
    /// Whether a block denies the request: the policy's, or one of the address.
    pub blocked: bool,
    /// Why the request is exempt from quotas. `None`: it is not exempt.
    pub exempt: Option<Exempt>,
    /// Whether this isolate's memory decided in place of the shared store.
    pub degraded: bool,
    /// Headers to set on the application's response to an admitted request, as [`Forward::set_on_response`](super::Forward).
    pub set_on_response: Vec<Header>,
    /// Headers to remove from that response.
    pub removed_from_response: Vec<&'static str>,
    /// Names to add to `Access-Control-Expose-Headers` of a response that has `Access-Control-Allow-Origin`.
    pub exposed: &'static str,
}

impl LimitVerdict {
    /// The verdict on an admitted request.
    pub(super) fn admitted(report: &RequestVerdict, config: &Config, now: Timestamp) -> Self {
        let limits = headers::of(report, config.dialect, now);
        Self {
            removed_from_response: removed_from_response(config, report, &limits),
            set_on_response: limits,
            ..Self::of(report, config)
        }
    }

    /// The verdict on a request that the limiter answers. `report` is that of a denial.
    pub(super) fn answered(
        answer: Response,
        report: Option<&RequestVerdict>,
        config: &Config,
    ) -> Self {
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

    fn of(report: &RequestVerdict, config: &Config) -> Self {
        let binding = report.binding();
        let denied = !report.admitted;
        let retry_at = denied.then(|| response::retry_at(report)).flatten();
        Self {
            policy: binding.map(|status| status.policy.clone()),
            limit: binding.map(|status| status.quota.capacity()),
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
