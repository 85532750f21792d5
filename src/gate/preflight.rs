//! CORS preflights: how one is recognized, and the quota that counts preflights alone.
//!
//! A browser sends a preflight before the request of a page on another origin (Fetch standard, 4.8), without
//! credentials, body or any header of the page's. A page can neither see nor repeat a preflight. So a preflight must not
//! consume the quota that the request itself needs.

use super::{CallerTerms, GateError, GateRequest, RequestVerdict, check, report};
use crate::config::Config;
use crate::policy::Policy;
use crate::seed::Seed;
use crate::steps;
use crate::store::memory::Memory;
use crate::store::{Check, Store};
use crate::time::Timestamp;

/// The most addresses whose preflights an isolate counts.
const MAX_ADDRESSES: usize = 10_000;

/// The headers that a preflight may have: those that browsers send and no page can set, and those that proxies add. An
/// application may read any other header as a password or as another method, so a request with one is not a preflight.
const PREFLIGHT_HEADERS: [&str; 36] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-headers",
    "access-control-request-local-network",
    "access-control-request-method",
    "access-control-request-private-network",
    "cache-control",
    "cdn-loop",
    "connection",
    "content-length",
    "dnt",
    "forwarded",
    "host",
    "origin",
    "pragma",
    "priority",
    "referer",
    "save-data",
    "te",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-edge-limiter-passed",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Prefixes of further headers that a preflight may have: browsers let no page set them, or platforms add them.
const KNOWN_FAMILIES: [&str; 6] = ["cf-", "fastly-", "fly-", "sec-", "x-envoy-", "x-vercel-"];

/// Whether an `OPTIONS` request is a preflight, and the configuration counts preflights apart.
pub(super) fn is_preflight(config: &Config, request: &impl GateRequest) -> bool {
    if config.preflight.is_none() {
        return false;
    }
    let has_one = |name: &str| {
        let value = request.header(name).unwrap_or_default();
        // A comma joins several header lines of one name, and a preflight has one line of each.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        !value.is_empty() && value.len() <= MAX_BYTES && value.bytes().all(plain)
    };
    let is_known = |name: &str| {
        PREFLIGHT_HEADERS.contains(&name)
            || KNOWN_FAMILIES.iter().any(|family| name.starts_with(family))
            || name == config.client_ip_header
    };
    has_one("origin")
        && has_one("access-control-request-method")
        && request.header_names().is_some_and(|names| {
            steps::count(names.len());
            names.split(',').all(is_known)
        })
        && !request.has_body()
}

/// The longest `Origin` or `Access-Control-Request-Method` of a preflight, in bytes.
const MAX_BYTES: usize = 1024;

/// Counts preflights in this isolate's memory, apart from everything else. A flood of preflights makes no call of Redis,
/// and evicts no other caller's quota.
pub struct Preflights(Memory);

impl Preflights {
    /// Creates the counts, empty.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self(Memory::new(MAX_ADDRESSES, seed))
    }

    /// Decides a preflight that its [arrival](super::arrive) left undecided. If this isolate remembers a block of the
    /// caller and has to ask about it again, it asks `store` first, as for any request of that caller.
    ///
    /// # Errors
    ///
    /// As [`decide`](super::decide).
    pub async fn decide(
        &self,
        config: &Config,
        store: &impl Store,
        request: &impl GateRequest,
        terms: &CallerTerms,
        now: Timestamp,
    ) -> Result<RequestVerdict, GateError> {
        let address = Check {
            address: terms.address(),
            charges: Vec::new(),
            cost: 1,
        };
        if store.knows_denial(&address, now) {
            let verdict = store.decide(&address, now).await?;
            if verdict.address_block.is_some() {
                return Ok(RequestVerdict {
                    exempt: terms.exempt(),
                    ..report(terms.caller(), None, &address, &[], &verdict)
                });
            }
        }
        let policies: Vec<&Policy> = config.preflight.iter().collect();
        let (check, charged) = check(terms, None, &policies, request, 1)?;
        let verdict = self.0.decide_here(&check, now);
        Ok(RequestVerdict {
            exempt: terms.exempt(),
            ..report(terms.caller(), None, &check, &charged, &verdict)
        })
    }
}
