//! How an admitted request is forwarded to the origin.

use std::fmt;

use super::request::{Incoming, Request};
use crate::config::{Config, Dialect, Origin};
use crate::events::Details;
use crate::gate::RequestVerdict;
use crate::headers::{CALLER_ADDRESS, Header, LOOP_GUARD, ORIGIN_SECRET, REMOVED_FROM_RESPONSES};
use crate::response::headers::exposed;

/// Where a request is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTarget {
    /// This URL.
    Url(String),
    /// The host's binding `ORIGIN`.
    Binding,
    /// The request's own URL, which the platform's route leads to the origin.
    Route,
}

impl ForwardTarget {
    /// Returns `base` with the request's path and query appended.
    pub(super) fn url(base: &str, incoming: &Incoming<'_, impl Request>) -> Self {
        Self::Url(format!("{base}{}", incoming.path_and_query()))
    }
}

/// How a request is forwarded. Method, path, body and headers stay unchanged, except for the headers that are
/// [never forwarded](crate::headers::is_forwarded) and those that are named here. The host follows no redirect: the client
/// gets it.
pub struct Forward {
    /// Where the request goes.
    pub target: ForwardTarget,
    /// The length of `ORIGIN_URL` at the start of the target's URL, in bytes. 0: the target is not below `ORIGIN_URL`. The
    /// origin's redirects may name that URL: see [`redirect`](crate::redirect).
    pub base_length: usize,
    /// For a binding or a route, the normalised URL that was classified. `None`: the request's URL is already in that
    /// form.
    pub rewritten_url: Option<String>,
    /// Headers to set on the request.
    pub set_on_request: Vec<Header>,
    /// Further headers to remove from the request.
    pub removed_from_request: Vec<&'static str>,
    /// Headers to set on the response: the origin's or, if the origin does not answer, that of
    /// [`Limiter::bad_gateway`](super::Limiter::bad_gateway). An origin's own 429 or 503 keeps its own numbers: the host
    /// removes nothing from it and sets nothing on it. A 101 cannot be copied, so it stays unchanged too.
    pub set_on_response: Vec<Header>,
    /// Headers to remove from the response.
    pub removed_from_response: Vec<&'static str>,
    /// Names to append to `Access-Control-Expose-Headers` of a response that has `Access-Control-Allow-Origin`. Without
    /// them, a page cannot read the limiter's headers.
    pub exposed: &'static str,
    /// The request as part of the recorded sample, for the host to pass to
    /// [`Limiter::forwarded`](super::Limiter::forwarded) with the response's status. `None`: it is not in the sample.
    pub sample: Option<Sample>,
}

/// Leaves out the values of headers, since `ORIGIN_SECRET` is one of them.
impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |headers: &[Header]| headers.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        f.debug_struct("Forward")
            .field("target", &self.target)
            .field("set_on_request", &names(&self.set_on_request))
            .field("removed_from_request", &self.removed_from_request)
            .field("set_on_response", &names(&self.set_on_response))
            .field("removed_from_response", &self.removed_from_response)
            .finish_non_exhaustive()
    }
}

impl Forward {
    pub(super) fn new(
        target: ForwardTarget,
        incoming: &Incoming<'_, impl Request>,
        config: &Config,
        report: &RequestVerdict,
        loop_guard: String,
        limits: Vec<Header>,
    ) -> Self {
        let mut set = Vec::with_capacity(5);
        set.push((LOOP_GUARD, loop_guard));
        if let Some(address) = report.caller.address() {
            set.push((CALLER_ADDRESS, address.to_string()));
        }
        if let Some(secret) = &config.origin_secret {
            set.push((ORIGIN_SECRET, secret.reveal().to_owned()));
        }
        set.push(("x-forwarded-host", incoming.host().to_owned()));
        set.push(("x-forwarded-proto", incoming.scheme().to_owned()));
        let to_url = matches!(target, ForwardTarget::Url(_));
        // The host sets `Host` from the new URL.
        let removed = if to_url { vec!["host"] } else { Vec::new() };
        let base_length = match &config.origin {
            Origin::Url(base) if to_url => base.len(),
            _ => 0,
        };
        let rewritten = incoming.rewritten_url().filter(|_| !to_url);
        Self {
            target,
            base_length,
            rewritten_url: rewritten.map(str::to_owned),
            set_on_request: set,
            removed_from_request: removed,
            removed_from_response: removed_from_response(config, report, &limits),
            set_on_response: limits,
            exposed: exposed(config.dialect),
            sample: None,
        }
    }
}

/// Returns the headers to remove from the response to an admitted request, on which the headers `limits` are set.
pub(super) fn removed_from_response(
    config: &Config,
    report: &RequestVerdict,
    limits: &[Header],
) -> Vec<&'static str> {
    // In the dialect `none`, no numbers are shown: neither the limiter's nor the origin's.
    let is_silent = config.dialect == Dialect::None && !report.enforced.is_empty();
    if limits.is_empty() && !is_silent {
        Vec::new()
    } else {
        without(&REMOVED_FROM_RESPONSES, limits)
    }
}

/// Returns those of `names` that are not in `set`: setting a header replaces it anyway.
fn without(names: &[&'static str], set: &[Header]) -> Vec<&'static str> {
    let is_set = |name: &str| set.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
    let rest = names.iter().copied();
    rest.filter(|name| !is_set(name)).collect()
}

/// A forwarded request that is recorded once its origin has answered.
#[derive(Debug)]
pub struct Sample {
    pub(super) report: RequestVerdict,
    pub(super) details: Details,
}

impl Sample {
    pub(super) fn new(report: RequestVerdict, incoming: &Incoming<'_, impl Request>) -> Self {
        Self {
            report,
            details: incoming.details(),
        }
    }
}
