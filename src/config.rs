//! Environment to [`Config`]: every rule checked, every breach named.
//!
//! A bad value never stops the limiter and never loosens it: it becomes a [`ConfigProblem`] that names the
//! variable and the rule, and a stricter reading is in force meanwhile. No problem carries a value.

use std::fmt;

use crate::client::{CF_CONNECTING_IP, Ipv6Prefix};
use crate::policy::{KeyBy, Policy, PolicyId};
use crate::route::Routes;
use crate::steps;
use crate::time::Millis;
use crate::user;

mod abuse;
mod cors;
mod host;
mod policies;
mod routes;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod users;
mod vars;

pub use abuse::Abuse;
pub use cors::CorsOrigins;
pub use host::{ApplicationClient, HostCapabilities, Reach};
pub use server::{Node, Server, Tcp, Topology};
#[cfg(test)]
pub(crate) use store::MIN_COMMANDS_IN_CLUSTER;
pub use store::StoreConfig;
pub use vars::Vars;
pub(crate) use vars::thousandths;

/// Something wrong in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The variable, with the place in it where it is a table.
    pub variable: String,
    /// The rule it breaks and what is in force instead. Never the value.
    pub rule: String,
    /// Whether it is an error or a warning.
    pub severity: Severity,
}

/// How bad a [`ConfigProblem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A value that could not be taken as given.
    Error,
    /// Legal, but hardly meant.
    Warning,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.rule)
    }
}

/// A value that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// How many characters put a random token beyond guessing.
    const UNGUESSABLE_CHARS: usize = 22;

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it has the length of at least 128 random bits in Base64, so that no number of guesses finds
    /// it, provided that it is random.
    #[must_use]
    pub const fn is_beyond_guessing(&self) -> bool {
        self.0.len() >= Self::UNGUESSABLE_CHARS
    }

    /// Whether `given` is the secret, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, given: &str) -> bool {
        use sha2::{Digest, Sha256};

        /// The longest value that is hashed, unless the secret itself is longer, in bytes.
        const MAX_GIVEN_BYTES: usize = 1024;
        if given.len() > self.0.len().max(MAX_GIVEN_BYTES) {
            return false;
        }
        steps::count(given.len());
        // Equal lengths whatever is given, so that the length is not told either.
        let (mine, theirs) = (Sha256::digest(&self.0), Sha256::digest(given));
        mine.iter()
            .zip(theirs.iter())
            .fold(0, |differs, (mine, theirs)| differs | (mine ^ theirs))
            == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which headers tell a client where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`, `-Type`.
    #[default]
    XRateLimit,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).
    Ietf,
    /// None.
    Silent,
}

/// Where an admitted request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The `ORIGIN` binding if there is one, else the route's own origin, which only Cloudflare's routes have.
    Route,
    /// The request's own URL on any platform. The operator says that no client chooses its host.
    AnyRoute,
    /// To this URL: scheme, host and port, and a path prefix without a trailing slash.
    Url(String),
    /// `ORIGIN_URL` is unusable: to nowhere, rather than to a place nobody meant.
    Nowhere,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// `false`: forward everything but blocked callers.
    pub enabled: bool,
    /// Where counters are kept.
    pub store: StoreConfig,
    /// The policies in force; a [`PolicyId`] is a place in it.
    pub policies: Vec<Policy>,
    /// The policy of CORS preflights, which no other request meets; `None`: a preflight is a request like any other.
    pub preflight: Option<Policy>,
    /// Policies that every request meets, whatever its route.
    pub always: Vec<PolicyId>,
    /// Which policies a request meets.
    pub routes: Routes,
    /// Which headers tell a client where it stands.
    pub dialect: Dialect,
    /// Whose pages may read the limiter's own answers to traffic.
    pub cors: CorsOrigins,
    /// The header with the caller's address, lower case.
    pub client_ip_header: String,
    /// How much of an IPv6 address is one caller.
    pub ipv6_prefix: Ipv6Prefix,
    /// Where an admitted request goes.
    pub origin: Origin,
    /// Sent to the origin as `X-Edge-Limiter-Secret`.
    pub origin_secret: Option<Secret>,
    /// Opens the control plane.
    pub admin_token: Option<Secret>,
    /// Opens `POST /_limiter/check`, and nothing else.
    pub check_token: Option<Secret>,
    /// Opens `GET /_limiter/metrics`, and nothing else.
    pub metrics_token: Option<Secret>,
    /// How long counts wait before they are sent; `None`: nothing is counted.
    pub metrics: Option<Millis>,
    /// Exemptions, blocks and records.
    pub abuse: Abuse,
    /// How users are proven.
    pub users: user::UserSettings,
}

/// A configuration and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What is in force.
    pub config: Config,
    /// What is wrong, in the order found.
    pub problems: Vec<ConfigProblem>,
}

impl Compiled {
    /// Whether anything could not be taken as given.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }
}

impl Config {
    /// Reads the environment as [`compile_on`](Self::compile_on) does for the usual host, Cloudflare Workers.
    #[must_use]
    pub fn compile(vars: &Vars) -> Compiled {
        Self::compile_on(vars, &HostCapabilities::default())
    }

    /// Reads the environment of a host. Variables that are not the limiter's are left alone.
    #[must_use]
    pub fn compile_on(vars: &Vars, host: &HostCapabilities) -> Compiled {
        let mut problems = Problems::default();
        let mut table = policies::read(vars, &mut problems);
        let read = routes::read(vars, &mut table, &mut problems);
        table.warn_unused(&read.used, &mut problems);
        let store = store::read(vars, host, &mut problems);
        let users = users::read(vars, table.asks_for_users(), &mut problems);
        if !users.prove_anybody() {
            table.ask_for_nobody();
        }
        let always: Vec<PolicyId> = table.id("ip").into_iter().chain(read.always).collect();
        table.warn_useless_leases(&always, &mut problems);
        let config = Self {
            enabled: vars.flag("RATE_LIMIT_ENABLED", true, &mut problems),
            store,
            preflight: table.preflight(),
            policies: table.into_policies(),
            always,
            routes: read.routes,
            dialect: dialect(vars, &mut problems),
            cors: cors::read(vars, &mut problems),
            client_ip_header: client_ip_header(vars, &mut problems),
            ipv6_prefix: ipv6_prefix(vars, &mut problems),
            origin: origin(vars, &mut problems),
            origin_secret: secret(vars, "ORIGIN_SECRET", &mut problems),
            admin_token: token(vars, "ADMIN_TOKEN", &mut problems),
            check_token: token(vars, "CHECK_TOKEN", &mut problems),
            metrics_token: token(vars, "METRICS_TOKEN", &mut problems),
            metrics: metrics(vars, &mut problems),
            abuse: abuse::read(vars, &mut problems),
            users,
        };
        Compiled {
            config,
            problems: problems.0,
        }
    }

    /// The headers that are policies' keys, in lower case.
    pub fn key_headers(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().filter_map(|policy| match &policy.key {
            KeyBy::Header(name) => Some(name.as_str()),
            KeyBy::Address | KeyBy::Network(_) | KeyBy::Global => None,
        })
    }

    /// The policy of that id.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(usize::from(id.0))
    }
}

/// Problems as they are found.
#[derive(Default)]
struct Problems(Vec<ConfigProblem>);

impl Problems {
    fn error(&mut self, variable: impl Into<String>, rule: impl Into<String>) {
        self.add(variable, rule, Severity::Error);
    }

    fn warn(&mut self, variable: impl Into<String>, rule: impl Into<String>) {
        self.add(variable, rule, Severity::Warning);
    }

    fn add(&mut self, variable: impl Into<String>, rule: impl Into<String>, severity: Severity) {
        self.0.push(ConfigProblem {
            variable: variable.into(),
            rule: rule.into(),
            severity,
        });
    }
}

fn dialect(vars: &Vars, problems: &mut Problems) -> Dialect {
    match vars.text("RATE_LIMIT_HEADERS").as_deref() {
        None | Some("x-ratelimit") => Dialect::XRateLimit,
        Some("ietf") => Dialect::Ietf,
        Some("none") => Dialect::Silent,
        Some(_) => {
            problems.error(
                "RATE_LIMIT_HEADERS",
                "must be `x-ratelimit`, `ietf` or `none`; `x-ratelimit` is in use instead",
            );
            Dialect::XRateLimit
        }
    }
}

fn client_ip_header(vars: &Vars, problems: &mut Problems) -> String {
    let default = || CF_CONNECTING_IP.to_owned();
    let Some(name) = vars.text("CLIENT_IP_HEADER") else {
        return default();
    };
    let name = name.to_ascii_lowercase();
    if matches!(name.as_str(), "x-forwarded-for" | "forwarded") {
        problems.error(
            "CLIENT_IP_HEADER",
            "must not be a list that clients write themselves; name a header that your platform \
             sets, such as x-real-ip; cf-connecting-ip is in use instead",
        );
        return default();
    }
    if vars::is_header_name(&name) {
        return name;
    }
    problems.error(
        "CLIENT_IP_HEADER",
        "must be an HTTP header's name; cf-connecting-ip is in use instead",
    );
    default()
}

fn ipv6_prefix(vars: &Vars, problems: &mut Problems) -> Ipv6Prefix {
    let bits = vars.number("IPV6_PREFIX", 1..=128, [64, 48], "bits", problems);
    u8::try_from(bits)
        .ok()
        .and_then(Ipv6Prefix::new)
        .unwrap_or_default()
}

fn metrics(vars: &Vars, problems: &mut Problems) -> Option<Millis> {
    let seconds = vars.number(
        "RATE_LIMIT_METRICS_SECONDS",
        1..=300,
        [15, 15],
        "seconds",
        problems,
    );
    let is_on = vars.flag("RATE_LIMIT_METRICS", true, problems);
    is_on.then_some(Millis::from_secs(seconds))
}

fn origin(vars: &Vars, problems: &mut Problems) -> Origin {
    let Some(url) = vars.text("ORIGIN_URL") else {
        return Origin::Route;
    };
    if url.eq_ignore_ascii_case("route") {
        return Origin::AnyRoute;
    }
    match vars::http_url(&url) {
        Some(parts) if !parts.has_credentials && !parts.has_query => {
            Origin::Url(parts.text.trim_end_matches('/').to_owned())
        }
        _ => {
            problems.error(
                "ORIGIN_URL",
                "must be a URL such as https://app.vercel.app, without user, query or fragment, or `route`; \
                 nothing is forwarded until it is mended",
            );
            Origin::Nowhere
        }
    }
}

fn secret(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if secret.0.len() < 16 {
        problems.warn(name, "is shorter than 16 characters and can be guessed");
    }
    Some(secret)
}

/// A token of the control plane.
fn token(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if !secret.is_beyond_guessing() {
        problems.warn(
            name,
            "is shorter than 22 characters and can be guessed, so that too many wrong tokens from an address \
             shut the right one out with them",
        );
    }
    Some(secret)
}

/// A token that any request may carry: nothing counts the guesses at it.
fn uncounted_token(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if !secret.is_beyond_guessing() {
        problems.error(
            name,
            "must have 22 characters or more, since nothing limits the guesses at it; it is not in use",
        );
        return None;
    }
    Some(secret)
}

fn header_secret(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let value = vars.text(name)?;
    if !vars::fits_header(&value) {
        problems.error(
            name,
            "must be text, in visible ASCII characters; it is not in use",
        );
        return None;
    }
    Some(Secret(value))
}
