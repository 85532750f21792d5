//! The answers that the limiter gives itself: denials, errors, and admissions without an origin.

use serde::Serialize;

use crate::client::CallerKey;
use crate::config::Dialect;
use crate::gate::RequestVerdict;
use crate::headers::Header;
use crate::headers::{MAX_OVERRIDE_BYTES, MAX_OVERRIDES, MAX_PATH_BYTES};
use crate::policy::{MAX_KEY_VALUES, MAX_LIST_BYTES};
use crate::quota::QuotaOutcome;
use crate::time::Timestamp;

pub mod body_format;
mod cors;
pub mod headers;
mod page;

pub use body_format::BodyFormat;

/// A complete HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<Header>,
    /// The body, of the type in `Content-Type`. If `is_file`, the name of the file that is the body.
    pub body: String,
    /// Whether the body is a file of the page for operators, which the host sends in its place: `page.html`, `page.js`
    /// or `page.css`.
    pub is_file: bool,
}

const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";

/// The problem type of draft-ietf-httpapi-ratelimit-headers-11 for an exceeded quota (RFC 9457).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

impl Response {
    /// An answer with `body` as JSON, which no client may cache or read as another type.
    #[must_use]
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Self::typed(status, JSON, body)
    }

    fn typed(status: u16, media_type: &str, body: &impl Serialize) -> Self {
        // Serialization could only fail for a map with keys other than text.
        let body = serde_json::to_string(body).unwrap_or_default();
        Self::of_type(status, media_type, body)
    }

    fn of_type(status: u16, media_type: &str, body: String) -> Self {
        Self {
            status,
            headers: vec![
                ("Content-Type", media_type.to_owned()),
                ("Cache-Control", "no-store".to_owned()),
                ("X-Content-Type-Options", "nosniff".to_owned()),
            ],
            body,
            is_file: false,
        }
    }

    /// An answer to traffic that is not admitted or cannot be forwarded.
    fn failure(format: BodyFormat, status: u16, error: &str, message: &str) -> Self {
        match format {
            BodyFormat::Page => Self::page(status, message),
            BodyFormat::Json | BodyFormat::Problem => Self::error(status, error, message),
        }
    }

    /// An answer with `body` as text of a media type, which no client may cache.
    #[must_use]
    pub fn text(status: u16, media_type: &str, body: String) -> Self {
        Self::of_type(status, media_type, body)
    }

    /// An error of the limiter itself: `{"error": ..., "message": ...}`.
    #[must_use]
    pub fn error(status: u16, error: &str, message: &str) -> Self {
        Self::coded_error(status, error, message, None)
    }

    /// The same as [`error`](Self::error), with a `code` by which programs distinguish errors. `None`: no code.
    #[must_use]
    pub fn coded_error(status: u16, error: &str, message: &str, code: Option<&str>) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<&'a str>,
        }
        Self::json(
            status,
            &Body {
                error,
                message,
                code,
            },
        )
    }

    /// The 503 to a request of a policy that denies while the shared store fails. `retry_at` is when
    /// the store is asked again, if that is known.
    #[must_use]
    pub fn unavailable(format: BodyFormat, retry_at: Option<Timestamp>, now: Timestamp) -> Self {
        let wait = retry_at.unwrap_or(now).since(now).secs_ceil().max(1);
        let message = format!(
            "The rate limit cannot be checked at the moment. Try again in {}.",
            in_words(wait)
        );
        let mut response = Self::failure(format, 503, "rate_limit_unavailable", &message);
        response.headers.push(("Retry-After", wait.to_string()));
        response
    }

    /// The 414 to a path that is longer than the limiter reads.
    #[must_use]
    pub fn too_long(format: BodyFormat) -> Self {
        let message = format!("The path has more than {MAX_PATH_BYTES} bytes.");
        Self::failure(format, 414, "uri_too_long", &message)
    }

    /// The 414 to a path that can be read in too many ways.
    #[must_use]
    pub fn too_ambiguous(format: BodyFormat) -> Self {
        let message = "The path has too many separators that servers read differently.";
        Self::failure(format, 414, "uri_too_long", message)
    }

    /// The 400 to a request that is limited by a header and has more values in it than are charged.
    #[must_use]
    pub fn too_many_values(format: BodyFormat) -> Self {
        let message = format!(
            "A header by which requests are limited has more than {MAX_KEY_VALUES} values or more than \
             {MAX_LIST_BYTES} bytes."
        );
        Self::failure(format, 400, "bad_request", &message)
    }

    /// The 400 to a request that asks for too many other methods in its headers.
    #[must_use]
    pub fn too_many_methods(format: BodyFormat) -> Self {
        let message = format!(
            "X-HTTP-Method-Override and similar headers name more than {MAX_OVERRIDES} other methods, or have \
             more than {MAX_OVERRIDE_BYTES} bytes."
        );
        Self::failure(format, 400, "bad_request", &message)
    }

    /// The 508 to a request that has passed this limiter too often.
    #[must_use]
    pub fn loop_detected(format: BodyFormat) -> Self {
        Self::failure(
            format,
            508,
            "loop_detected",
            "This request has passed this limiter five times. Point ORIGIN_URL at the application itself, \
             and let an application that calls itself do so by its internal URL.",
        )
    }

    /// The 502 to a request if `ORIGIN_URL` is invalid.
    #[must_use]
    pub fn no_origin(format: BodyFormat) -> Self {
        Self::failure(
            format,
            502,
            "bad_gateway",
            "ORIGIN_URL is not valid. Run npm run check-config: it prints the rule.",
        )
    }

    /// The 502 to a request if `ORIGIN_URL` is missing and the host has no route to an origin. The `Host`
    /// header must not choose the origin.
    #[must_use]
    pub fn no_route(format: BodyFormat) -> Self {
        Self::failure(
            format,
            502,
            "bad_gateway",
            "No origin is configured: set ORIGIN_URL. Only a Cloudflare route has its own origin.",
        )
    }

    /// The 502 to a request if the origin does not answer.
    #[must_use]
    pub fn origin_unreachable(format: BodyFormat) -> Self {
        Self::failure(
            format,
            502,
            "bad_gateway",
            "The origin cannot be reached. The request has been counted.",
        )
    }

    /// The 502 to a request if the origin sends a 1xx before its answer, and the runtime takes this for the answer.
    #[must_use]
    pub fn origin_interim(format: BodyFormat, status: u16) -> Self {
        let message = format!(
            "The origin sent an interim response ({status}), which the limiter cannot pass to the client. Turn off \
             early hints (103) and similar responses at the origin. The request has been counted."
        );
        Self::failure(format, 502, "bad_gateway", &message)
    }

    /// The 200 to an admitted request if no origin is configured yet.
    #[must_use]
    pub fn admitted(report: &RequestVerdict) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            admitted: bool,
            message: &'a str,
            caller: CallerKey,
            policies: Vec<&'a str>,
        }
        let policies = report.enforced.iter().map(|status| status.policy.as_str());
        Self::json(
            200,
            &Body {
                admitted: true,
                message: "Admitted. Set ORIGIN_URL to forward requests to your application.",
                caller: report.caller.key(),
                policies: policies.collect(),
            },
        )
    }

    /// The 429 to a denied request.
    #[must_use]
    pub fn denied(
        format: BodyFormat,
        report: &RequestVerdict,
        dialect: Dialect,
        now: Timestamp,
    ) -> Self {
        let denial = DenialText::of(report, now);
        let mut response = match format {
            BodyFormat::Json => Self::json(429, &denial.plain()),
            BodyFormat::Problem => Self::typed(429, PROBLEM_JSON, &denial.problem()),
            BodyFormat::Page => Self::page(429, &denial.message),
        };
        if let Some(seconds) = denial.numbers.retry_after {
            response.headers.push(("Retry-After", seconds.to_string()));
        }
        response.headers.extend(headers::of(report, dialect, now));
        response
    }
}

/// Whether a denied request costs more than the capacity of the quota that denies it.
fn is_impossible(report: &RequestVerdict) -> bool {
    let binding = report.binding();
    binding.is_some_and(|status| status.answer.decision.outcome == QuotaOutcome::Impossible)
}

/// When a denied request will be admitted. `None` if waiting does not help, or if the time is unknown.
pub(crate) fn retry_at(report: &RequestVerdict) -> Option<Timestamp> {
    let block_ends = report.address_block.and_then(|block| block.until);
    match report.binding() {
        _ if is_impossible(report) => None,
        // An operator lifts a block without an end, so its time is unknown.
        _ if report.address_block.is_some() && block_ends.is_none() => None,
        Some(status) => status.answer.retry_at().max(block_ends),
        None => block_ends,
    }
}

/// Whether a block denies the request: a block by the policy or a block of the address.
pub(crate) fn is_blocked(report: &RequestVerdict) -> bool {
    let binding = report.binding();
    report.address_block.is_some()
        || binding.is_some_and(|status| status.answer.blocked_until.is_some())
}

/// The content of the answer to a denied request, in any format.
struct DenialText<'a> {
    policy: &'a str,
    message: String,
    numbers: DenialNumbers,
}

impl<'a> DenialText<'a> {
    fn of(report: &'a RequestVerdict, now: Timestamp) -> Self {
        let binding = report.binding();
        let impossible = is_impossible(report);
        let retry_at = retry_at(report);
        // At least one second, because `Retry-After: 0` would invite the caller to return at once.
        let retry_after = retry_at.map(|at| at.since(now).secs_ceil().max(1));
        let limit = binding.map_or(0, |status| status.quota.capacity());
        let message = match retry_after {
            Some(seconds) => {
                format!("Rate limit exceeded. Try again in {}.", in_words(seconds))
            }
            None if impossible => format!(
                "This request costs {} units, and the limit is {limit}. Waiting will not help.",
                report.cost
            ),
            None => "Requests from this address are blocked.".to_owned(),
        };
        Self {
            policy: binding.map_or("blocked", |status| &status.policy),
            message,
            numbers: DenialNumbers {
                limit,
                remaining: binding.map_or(0, headers::shown_remaining),
                reset: retry_at
                    .or_else(|| binding.map(headers::shown_reset))
                    .unwrap_or(now)
                    .as_secs_ceil(),
                retry_after,
                blocked: is_blocked(report),
            },
        }
    }

    fn plain(&self) -> PlainDenial<'_> {
        PlainDenial {
            error: "Too many requests",
            message: &self.message,
            r#type: self.policy,
            numbers: &self.numbers,
        }
    }

    fn problem(&self) -> ProblemDetails<'_> {
        ProblemDetails {
            r#type: QUOTA_EXCEEDED,
            title: "Request cannot be satisfied as assigned quota has been exceeded",
            status: 429,
            detail: &self.message,
            violated_policies: [self.policy],
            numbers: &self.numbers,
        }
    }
}

/// The body of a 429 in plain JSON.
#[derive(Serialize)]
struct PlainDenial<'a> {
    error: &'a str,
    message: &'a str,
    r#type: &'a str,
    #[serde(flatten)]
    numbers: &'a DenialNumbers,
}

/// The body of a 429 as problem details (RFC 9457).
#[derive(Serialize)]
struct ProblemDetails<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(rename = "violated-policies")]
    violated_policies: [&'a str; 1],
    #[serde(flatten)]
    numbers: &'a DenialNumbers,
}

/// The fields that both bodies of a 429 have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DenialNumbers {
    /// In units.
    limit: u32,
    /// In units.
    remaining: u32,
    /// In seconds since the epoch.
    reset: u64,
    /// In whole seconds, rounded up. `None`: waiting does not help, or the time is unknown.
    retry_after: Option<u64>,
    blocked: bool,
}

/// A waiting time in words for people, rounded up.
fn in_words(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds.div_ceil(60), "minute"),
        3600..86_400 => (seconds.div_ceil(3600), "hour"),
        _ => (seconds.div_ceil(86_400), "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests;
