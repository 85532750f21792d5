//! Compiles environment variables into a [`Config`], and reports every value that breaks a rule.
//!
//! A bad value never stops the limiter and never loosens it. It becomes a [`ConfigProblem`] that names the variable,
//! the rule, and the stricter reading that is in force until the value is corrected. No problem contains a value.

use std::fmt;

use crate::client::{CF_CONNECTING_IP, Ipv6Prefix};
use crate::policy::{KeyBy, Policy, PolicyId};
use crate::route::Routes;
use crate::steps;
use crate::time::Millis;
use crate::user;

mod cors;
mod host;
mod policies;
mod protection;
mod routes;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod users;
mod vars;

pub use cors::CorsOrigins;
pub use host::{ApplicationClient, HostCapabilities, Reach};
pub use protection::ProtectionSettings;
pub use server::{Node, Server, Tcp, Topology};
#[cfg(test)]
pub(crate) use store::MIN_COMMANDS_IN_CLUSTER;
pub use store::StoreConfig;
pub use vars::Vars;
pub(crate) use vars::thousandths;

/// A variable that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The variable. For a table or a list, also the place in it: `RATE_LIMIT_ROUTES[0].path`.
    pub variable: String,
    /// The rule that the variable breaks, what to set, and what is in force until then. It never contains the value.
    pub rule: String,
    /// Whether it is an error or a warning.
    pub severity: Severity,
}

/// How severe a [`ConfigProblem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The value is not valid. A stricter reading is in force in its place.
    Error,
    /// The value is valid and in force, but probably not what was meant.
    Warning,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.rule)
    }
}

/// A secret value. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// How many characters a random token needs so that nobody can guess it.
    const UNGUESSABLE_CHARS: usize = 22;

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the secret is at least as long as 128 bits in Base64. If it is random, no number of guesses finds it then.
    #[must_use]
    pub const fn is_beyond_guessing(&self) -> bool {
        self.0.len() >= Self::UNGUESSABLE_CHARS
    }

    /// Whether `guess` is the secret. The time that this takes does not depend on where the two differ.
    #[must_use]
    pub fn matches(&self, guess: &str) -> bool {
        use sha2::{Digest, Sha256};

        /// The longest guess that is hashed, in bytes, unless the secret itself is longer.
        const MAX_GUESS_BYTES: usize = 1024;
        if guess.len() > self.0.len().max(MAX_GUESS_BYTES) {
            return false;
        }
        steps::count(guess.len());
        // Hashes have the same length for every guess, so that the time does not reveal the secret's length.
        let (secret, guess) = (Sha256::digest(&self.0), Sha256::digest(guess));
        secret
            .iter()
            .zip(guess.iter())
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which headers tell a client its limit and what remains of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`, `-Type`.
    #[default]
    XRateLimit,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).
    Ietf,
    /// No such headers.
    None,
}

/// Where an admitted request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// To the `ORIGIN` binding if there is one, else to the origin of the Cloudflare route. Only Cloudflare has such
    /// routes.
    Route,
    /// To the request's own URL, on any platform. By setting this, the operator asserts that clients cannot choose its
    /// host.
    AnyRoute,
    /// To this URL: scheme, host and port, and a path prefix without a trailing slash.
    Url(String),
    /// Nowhere, since `ORIGIN_URL` is not valid. Any other origin would be one that nobody chose.
    Nowhere,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether quotas are in force. If `false`, every request is forwarded unless its caller is blocked.
    pub enabled: bool,
    /// Where counters are kept.
    pub store: StoreConfig,
    /// The policies in force. A [`PolicyId`] is an index of this list.
    pub policies: Vec<Policy>,
    /// The policy of CORS preflights, which no other request meets. `None`: a preflight is limited like any other request.
    pub preflight: Option<Policy>,
    /// Policies that every request meets in addition to those of its route.
    pub always: Vec<PolicyId>,
    /// Which policies a request meets.
    pub routes: Routes,
    /// Which headers tell a client its limit and what remains of it.
    pub dialect: Dialect,
    /// Which web origins' pages may read the limiter's own answers to traffic.
    pub cors: CorsOrigins,
    /// The header with the caller's address, in lower case.
    pub client_ip_header: String,
    /// How many leading bits of an IPv6 address identify one caller.
    pub ipv6_prefix: Ipv6Prefix,
    /// Where an admitted request goes.
    pub origin: Origin,
    /// The secret sent to the origin as `X-Edge-Limiter-Secret`. `None`: no such header is sent.
    pub origin_secret: Option<Secret>,
    /// The token that opens the whole control plane.
    pub admin_token: Option<Secret>,
    /// The token that opens only `POST /_limiter/check`.
    pub check_token: Option<Secret>,
    /// The token that opens only `GET /_limiter/metrics`.
    pub metrics_token: Option<Secret>,
    /// How long counts wait before they are sent. `None`: nothing is counted.
    pub metrics: Option<Millis>,
    /// Exemptions, blocks and records.
    pub protection: ProtectionSettings,
    /// How users are proven.
    pub users: user::UserSettings,
}

/// A configuration and its problems.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The configuration in force.
    pub config: Config,
    /// The problems of the variables, in the order in which they were found.
    pub problems: Vec<ConfigProblem>,
}

impl Compiled {
    /// Whether any problem is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }
}

impl Config {
    /// Compiles the variables for Cloudflare Workers, as [`compile_on`](Self::compile_on) does for any host.
    #[must_use]
    pub fn compile(vars: &Vars) -> Compiled {
        Self::compile_on(vars, &HostCapabilities::default())
    }

    /// Compiles the variables of `host`. Variables that are not the limiter's are ignored.
    #[must_use]
    pub fn compile_on(vars: &Vars, host: &HostCapabilities) -> Compiled {
        let mut problems = Problems::default();
        let mut table = policies::read(vars, &mut problems);
        let routes = routes::read(vars, &mut table, &mut problems);
        table.warn_of_unused_policies(&routes.used, &mut problems);
        let store = store::read(vars, host, &mut problems);
        let users = users::read(vars, table.has_user_quotas(), &mut problems);
        if !users.prove_anybody() {
            table.remove_user_quotas();
        }
        let always: Vec<PolicyId> = table.id("ip").into_iter().chain(routes.always).collect();
        table.warn_of_unused_leases(&always, &mut problems);
        let config = Self {
            enabled: vars.flag("RATE_LIMIT_ENABLED", true, &mut problems),
            store,
            preflight: table.take_preflight(),
            policies: table.into_policies(),
            always,
            routes: routes.routes,
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
            protection: protection::read(vars, &mut problems),
            users,
        };
        Compiled {
            config,
            problems: problems.0,
        }
    }

    /// The names of the headers by which policies limit, in lower case.
    pub fn key_headers(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().filter_map(|policy| match &policy.key {
            KeyBy::Header(name) => Some(name.as_str()),
            KeyBy::Address | KeyBy::Network(_) | KeyBy::Global => None,
        })
    }

    /// The policy with this id. `None` if the id is of another configuration.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(usize::from(id.0))
    }
}

/// Collects problems while variables are read.
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
        Some("none") => Dialect::None,
        Some(_) => {
            problems.error(
                "RATE_LIMIT_HEADERS",
                "must be `x-ratelimit`, `ietf` or `none`; until then, `x-ratelimit` is in force",
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
            "must not be a list to which clients can add addresses; name a header that your platform \
             overwrites, such as x-real-ip; until then, cf-connecting-ip is in force",
        );
        return default();
    }
    if vars::is_header_name(&name) {
        return name;
    }
    problems.error(
        "CLIENT_IP_HEADER",
        "must be the name of an HTTP header; until then, cf-connecting-ip is in force",
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
                "must be `route`, or a URL such as https://app.vercel.app without user, query or fragment; \
                 until then, no request is forwarded",
            );
            Origin::Nowhere
        }
    }
}

fn secret(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if secret.0.len() < 16 {
        problems.warn(
            name,
            "is shorter than 16 characters and can be guessed; set a longer random value",
        );
    }
    Some(secret)
}

/// Reads a token of the control plane. Wrong guesses at it are limited, so a short one is only a warning.
fn token(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if !secret.is_beyond_guessing() {
        problems.warn(
            name,
            "is shorter than 22 characters and can be guessed; set a random token of 22 characters or more. Until then, \
             after too many wrong tokens from an address, the right one is refused from there as well",
        );
    }
    Some(secret)
}

/// Reads a token that any request may carry. Guesses at it are not limited, so a short one is refused.
fn unlimited_token(vars: &Vars, name: &str, problems: &mut Problems) -> Option<Secret> {
    let secret = header_secret(vars, name, problems)?;
    if !secret.is_beyond_guessing() {
        problems.error(
            name,
            "must have 22 characters or more, since guesses at it are not limited; until then, it is ignored",
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
            "must be text of visible ASCII characters, without spaces; until then, it is ignored",
        );
        return None;
    }
    Some(Secret(value))
}
