//! CORS preflights: which requests are one, and the quota that they alone are charged to.
//!
//! A browser sends a preflight before the request of a page on another origin (Fetch standard, 4.8), without
//! credentials, body or any header of the page's. A page can neither see nor repeat one, so a preflight must not
//! spend what the request itself needs.

use super::{Report, Request, Terms, Undecided, check, report};
use crate::config::Config;
use crate::policy::{KeyBy, Policy};
use crate::seed::Seed;
use crate::store::memory::Memory;
use crate::time::Timestamp;

/// Addresses whose preflights an isolate counts.
const ENTRIES: usize = 10_000;

/// Headers that no preflight has: credentials, and what comes with a body.
const FOREIGN: [&str; 5] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "content-type",
    "transfer-encoding",
];

/// How the names of headers begin that a preflight may have though a policy is keyed by them: browsers and platforms
/// set these.
const NATIVE: [&str; 9] = [
    "accept",
    "cf-",
    "host",
    "origin",
    "referer",
    "sec-",
    "user-agent",
    "x-forwarded-",
    "x-real-ip",
];

/// Whether `request` is a preflight, under a configuration that counts them apart.
pub(super) fn is_one(config: &Config, request: &impl Request) -> bool {
    if config.preflight.is_none() || request.method() != "OPTIONS" {
        return false;
    }
    let has_one = |name: &str| {
        let value = request.header(name).unwrap_or_default();
        // Two lines come joined by a comma.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        !value.is_empty() && value.len() <= MAX_BYTES && value.bytes().all(plain)
    };
    let is_foreign = |name: &str| request.header(name).is_some();
    let is_keyed = |policy: &Policy| match &policy.key {
        KeyBy::Header(name) => {
            let is_native = NATIVE.iter().any(|native| name.starts_with(native));
            !is_native && is_foreign(name)
        }
        KeyBy::Address | KeyBy::Network(_) | KeyBy::Global => false,
    };
    has_one("origin")
        && has_one("access-control-request-method")
        && !FOREIGN.into_iter().any(is_foreign)
        && !request.names_other_methods()
        && !config.policies.iter().any(is_keyed)
        && !request.has_body()
}

/// The longest origin or method of a preflight, in bytes.
const MAX_BYTES: usize = 1024;

/// Counts preflights in this isolate's memory, apart from all else: no flood of them asks Redis, or has another
/// caller's quota forgotten.
pub struct Preflights(Memory);

impl Preflights {
    /// None has come yet.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self(Memory::new(ENTRIES, seed))
    }

    /// Decides a preflight that its [arrival](super::arrive) left undecided.
    ///
    /// # Errors
    ///
    /// Those of [`decide`](super::decide), of which a policy by address has none.
    pub fn decide(
        &self,
        config: &Config,
        request: &impl Request,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Report, Undecided> {
        let policies: Vec<&Policy> = config.preflight.iter().collect();
        let (check, charged) = check(terms, None, &policies, request, 1)?;
        let verdict = self.0.decide_here(&check, now);
        Ok(Report {
            exempt: terms.exempt(),
            ..report(terms.caller(), None, &check, &charged, &verdict)
        })
    }
}
