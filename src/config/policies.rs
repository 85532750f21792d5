//! `RATE_LIMIT_<POLICY>` and `RATE_LIMIT_POLICIES`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use serde_json::Value;

use super::vars::{is_header_name, whole, whole_value};
use super::{Problems, Vars};
use crate::policy::{KeyBy, Mode, Policy, PolicyId};
use crate::quota::{Algorithm, Quota};
use crate::store::OnFailure;
use crate::time::Millis;

/// Requests, seconds, block seconds of the policies that exist unless they are `off`.
const BUILT_IN: [(&str, [u32; 3]); 7] = [
    ("general", [120, 60, 0]),
    ("auth", [30, 60, 600]),
    ("sensitive", [10, 60, 900]),
    ("admin", [300, 60, 300]),
    ("mfa", [5, 60, 900]),
    ("financial", [20, 60, 900]),
    ("ip", [1000, 3600, 0]),
];

/// The tightest built-in numbers: what is in force where it cannot be known what was meant.
const STRICTEST: [u32; 3] = [5, 60, 900];

/// The policy of requests that meet something unreadable. It can be neither `off` nor a shadow.
const MISCONFIGURED: &str = "misconfigured";

/// After `RATE_LIMIT_`, but no policies.
const SETTINGS: [&str; 16] = [
    "ENABLED",
    "POLICIES",
    "ROUTES",
    "HEADERS",
    "FALLBACK_FACTOR",
    "ALLOWLIST",
    "BYPASS_TOKEN",
    "ESCALATION",
    "EVENTS",
    "EVENT_SAMPLE",
    "JWT_SECRET",
    "JWT_KEYS",
    "JWT_JWKS_URL",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "JWT_COOKIE",
];

/// The limiter's own names after the key prefix.
const TAKEN: [&str; 11] = [
    MISCONFIGURED,
    "absorbed",
    "blocked",
    "blocked_ips",
    "blocked_policies",
    "blocked_ranges",
    "escalated",
    "escalation",
    "events",
    "suspicious",
    "metrics",
];

const LONGEST_SECONDS: u32 = 366 * 24 * 60 * 60;

/// The policies in force, and the names that are known but off.
pub(super) struct Table {
    policies: Vec<Policy>,
    off: BTreeSet<String>,
    named: BTreeSet<String>,
    /// Options were given that no policy could take.
    lost_options: bool,
}

impl Table {
    pub(super) fn id(&self, name: &str) -> Option<PolicyId> {
        let place = self
            .policies
            .iter()
            .position(|policy| policy.name == name)?;
        u16::try_from(place).ok().map(PolicyId)
    }

    /// The policy of requests that meet something unreadable.
    pub(super) fn misconfigured(&mut self) -> Option<PolicyId> {
        if self.id(MISCONFIGURED).is_none() {
            let [requests, seconds, block] = STRICTEST;
            let limit = NonZeroU32::new(requests)?;
            let window = Millis::from_secs(seconds);
            self.policies.push(Policy {
                name: MISCONFIGURED.to_owned(),
                quota: Quota::new(Algorithm::SlidingWindow, limit, window).ok()?,
                user: None,
                block: Some(Millis::from_secs(block)),
                key: KeyBy::Address,
                mode: Mode::Enforce,
                on_store_failure: OnFailure::Memory,
                lease: 0,
            });
        }
        self.id(MISCONFIGURED)
    }

    pub(super) const fn lost_options(&self) -> bool {
        self.lost_options
    }

    pub(super) fn is_off(&self, name: &str) -> bool {
        self.off.contains(name)
    }

    pub(super) fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(usize::from(id.0))
    }

    pub(super) fn into_policies(self) -> Vec<Policy> {
        self.policies
    }

    /// Whether a policy asks who the user is.
    pub(super) fn asks_for_users(&self) -> bool {
        self.policies.iter().any(|policy| policy.user.is_some())
    }

    /// Nobody can be proven.
    pub(super) fn ask_for_nobody(&mut self) {
        for policy in &mut self.policies {
            policy.user = None;
        }
    }

    /// A lease is in use where every policy that can deny the request has one.
    pub(super) fn warn_useless_leases(&self, always: &[PolicyId], problems: &mut Problems) {
        let none = |policy: &&Policy| policy.lease < 2 && policy.mode == Mode::Enforce;
        let mut always = always.iter().filter_map(|id| self.policy(*id));
        let Some(without) = always.find(none) else {
            return;
        };
        for policy in self.policies.iter().filter(|policy| policy.lease > 1) {
            problems.warn(
                format!("RATE_LIMIT_POLICIES.{}.lease", policy.name),
                format!(
                    "is not in use: every request meets the policy `{}` too, which has none; give it one, \
                     or set {}=off",
                    without.name,
                    variable(&without.name),
                ),
            );
        }
    }

    /// A typing error in a name makes a policy that nothing uses.
    pub(super) fn warn_unused(&self, used: &BTreeSet<PolicyId>, problems: &mut Problems) {
        for policy in &self.policies {
            let always = matches!(policy.name.as_str(), "ip" | "general");
            let unused = self.id(&policy.name).is_none_or(|id| !used.contains(&id));
            if !always && unused && self.named.contains(&policy.name) {
                problems.warn(
                    variable(&policy.name),
                    "makes a policy that no route uses; is the name right?",
                );
            }
        }
    }
}

fn variable(policy: &str) -> String {
    format!("RATE_LIMIT_{}", policy.to_ascii_uppercase())
}

pub(super) fn read(vars: &Vars, problems: &mut Problems) -> Table {
    let mut numbers: BTreeMap<String, [u32; 3]> = BTreeMap::new();
    numbers.extend(BUILT_IN.map(|(name, numbers)| (name.to_owned(), numbers)));
    numbers.insert("general".to_owned(), general(vars, problems));
    let mut table = Table {
        policies: Vec::new(),
        off: BTreeSet::new(),
        named: BTreeSet::new(),
        lost_options: false,
    };

    for name in vars.names_after("RATE_LIMIT_") {
        if SETTINGS.contains(&name) {
            continue;
        }
        let Some(policy) = policy_name(name, problems) else {
            continue;
        };
        let Some(text) = vars.text(&variable(&policy)) else {
            continue;
        };
        table.named.insert(policy.clone());
        if text.eq_ignore_ascii_case("off") {
            numbers.remove(&policy);
            table.off.insert(policy);
        } else {
            let fallback = numbers.get(&policy).copied();
            let read = limits(&policy, &text, fallback, problems);
            numbers.insert(policy, read);
        }
    }

    let mut options = options(vars, problems).unwrap_or_else(|| {
        table.lost_options = true;
        BTreeMap::new()
    });
    for (name, numbers) in numbers {
        let chosen = options.remove(&name);
        table
            .policies
            .extend(policy(name, numbers, chosen, problems));
    }
    for name in options.into_keys() {
        if !table.is_off(&name) {
            table.lost_options = true;
            problems.error(
                "RATE_LIMIT_POLICIES",
                "has options for a policy that does not exist; define RATE_LIMIT_<NAME> or correct the name \
                 (every request meets the policy `misconfigured` meanwhile)",
            );
        }
    }
    table
}

/// The general policy where `RATE_LIMIT_GENERAL` does not set it.
fn general(vars: &Vars, problems: &mut Problems) -> [u32; 3] {
    let most = 1..=u32::MAX;
    let max = vars.number(
        "DEFAULT_RATE_LIMIT_MAX",
        most,
        [120, 5],
        "requests",
        problems,
    );
    let longest = 1..=LONGEST_SECONDS;
    let window = vars.number(
        "DEFAULT_RATE_LIMIT_WINDOW",
        longest,
        [60, 86_400],
        "seconds",
        problems,
    );
    [max, window, 0]
}

fn policy_name(name: &str, problems: &mut Problems) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let shaped = (1..=32).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_uppercase());
    if !shaped {
        problems.error(
            "RATE_LIMIT_<POLICY>",
            "a policy's name must be at most 32 capitals, digits and underscores, a capital first; it is left out",
        );
        return None;
    }
    let policy = name.to_ascii_lowercase();
    if TAKEN.contains(&policy.as_str()) {
        problems.error(
            variable(&policy),
            "is a name that the limiter uses itself; choose another",
        );
        return None;
    }
    Some(policy)
}

/// `requests,seconds` or `requests,seconds,block_seconds`. What can be read of a bad value stands; for
/// the rest, the strictest does.
fn limits(
    policy: &str,
    text: &str,
    built_in: Option<[u32; 3]>,
    problems: &mut Problems,
) -> [u32; 3] {
    const FORM: &str = "must be `requests,seconds`, `requests,seconds,block_seconds` or `off`, in \
                        whole numbers (requests from 1, seconds from 1 to 31622400, block from 0)";
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let number = |place: usize, least: u32, most: u32| {
        let number = fields.get(place).and_then(|field| whole(field))?;
        (least..=most).contains(&number).then_some(number)
    };
    let limit = number(0, 1, u32::MAX).zip(number(1, 1, LONGEST_SECONDS));
    let block = if fields.len() == 2 {
        Some(0)
    } else {
        number(2, 0, LONGEST_SECONDS)
    };
    if let (Some((requests, seconds)), Some(block), 2..=3) = (limit, block, fields.len()) {
        return [requests, seconds, block];
    }
    let (requests, seconds) = limit.unwrap_or((STRICTEST[0], STRICTEST[1]));
    let strict_block = built_in.map_or(STRICTEST[2], |[_, _, block]| block.max(STRICTEST[2]));
    let block = block.filter(|block| *block > 0).unwrap_or(strict_block);
    problems.error(
        variable(policy),
        format!("{FORM}; {requests},{seconds},{block} is in force"),
    );
    [requests, seconds, block]
}

/// Options per policy name, lower case; `None` where they cannot be read.
fn options(vars: &Vars, problems: &mut Problems) -> Option<BTreeMap<String, Value>> {
    match vars.table("RATE_LIMIT_POLICIES") {
        None => Some(BTreeMap::new()),
        Some(Ok(Value::Object(table))) => {
            let mut options = BTreeMap::new();
            options.extend(
                table
                    .into_iter()
                    .map(|(name, options)| (name.to_ascii_lowercase(), options)),
            );
            Some(options)
        }
        Some(_) => {
            problems.error(
                "RATE_LIMIT_POLICIES",
                "must be a table of tables, policy by policy, or its JSON text; every request meets the \
                 policy `misconfigured` until it is mended",
            );
            None
        }
    }
}

#[derive(Default)]
struct Options {
    algorithm: Algorithm,
    burst: Option<NonZeroU32>,
    key: KeyBy,
    /// A proven user has a quota of its own.
    by_user: bool,
    authenticated: Option<NonZeroU32>,
    mode: Mode,
    on_store_failure: OnFailure,
    lease: Option<NonZeroU32>,
    /// Something was said that cannot be understood.
    unclear: bool,
}

fn policy(
    name: String,
    numbers: [u32; 3],
    chosen: Option<Value>,
    problems: &mut Problems,
) -> Option<Policy> {
    let place = format!("RATE_LIMIT_POLICIES.{name}");
    let options = chosen.map_or_else(Options::default, |value| {
        read_options(&place, &value, problems)
    });
    let [requests, seconds, block] = if options.unclear {
        tightened(numbers)
    } else {
        numbers
    };
    let limit = NonZeroU32::new(requests)?;
    let window = Millis::from_secs(seconds);
    // Stricter than a bucket of either size.
    let windowed = || {
        let least = options.burst.map_or(limit, |burst| burst.min(limit));
        Quota::new(Algorithm::SlidingWindow, least, window)
    };
    let quota = match (options.algorithm, options.burst) {
        (Algorithm::TokenBucket, burst) => Quota::new(Algorithm::TokenBucket, limit, window)
            .and_then(|quota| quota.with_burst(burst.unwrap_or(limit))),
        (_, Some(_)) => {
            problems.error(
                format!("{place}.burst"),
                "needs `algorithm = \"token-bucket\"`; a sliding window of the smaller number is in force",
            );
            windowed()
        }
        (algorithm, None) => Quota::new(algorithm, limit, window),
    };
    let quota = match quota {
        Ok(quota) => quota,
        Err(error) => {
            problems.error(&place, format!("{error}; a sliding window is in force"));
            windowed().ok()?
        }
    };
    let lease = options.lease.map_or(0, NonZeroU32::get);
    let sensible = lease <= quota.capacity();
    if !sensible {
        problems.error(format!("{place}.lease"), rule_of("lease"));
    } else if lease > 1 && block > 0 {
        problems.warn(
            format!("{place}.lease"),
            "is not in use for a policy that blocks: a caller would be blocked for units that it never spent",
        );
    }
    let user = users_quota(&place, &options, &quota, problems);
    Some(Policy {
        name,
        quota,
        user,
        block: (block > 0).then(|| Millis::from_secs(block)),
        key: options.key,
        mode: options.mode,
        on_store_failure: options.on_store_failure,
        lease: if sensible && block == 0 { lease } else { 0 },
    })
}

/// The quota of a proven user, if it has one of its own.
fn users_quota(
    place: &str,
    options: &Options,
    quota: &Quota,
    problems: &mut Problems,
) -> Option<Quota> {
    let limit = options.authenticated;
    if options.unclear || (limit.is_none() && !options.by_user) {
        return None;
    }
    let Some(limit) = limit else {
        return Some(*quota);
    };
    let place = format!("{place}.authenticated");
    if options.key != KeyBy::Address {
        problems.error(place, rule_of("authenticated"));
        return None;
    }
    if limit.get() < quota.limit() {
        problems.warn(
            &place,
            "is less than the limit of callers who are not proven",
        );
    }
    let made = Quota::new(quota.algorithm(), limit, quota.window());
    let made = match options.burst {
        Some(burst) if quota.algorithm() == Algorithm::TokenBucket => {
            made.and_then(|quota| quota.with_burst(burst))
        }
        _ => made,
    };
    match made {
        Ok(quota) => Some(quota),
        Err(error) => {
            problems.error(place, error.to_string());
            None
        }
    }
}

fn tightened([requests, seconds, block]: [u32; 3]) -> [u32; 3] {
    [
        requests.min(STRICTEST[0]),
        seconds.max(STRICTEST[1]),
        block.max(STRICTEST[2]),
    ]
}

fn read_options(place: &str, value: &Value, problems: &mut Problems) -> Options {
    let mut options = Options::default();
    let Value::Object(table) = value else {
        problems.error(
            place,
            "must be a table of options; the policy is held to 5 requests until it is mended",
        );
        options.unclear = true;
        return options;
    };
    for (option, value) in table {
        let text = value.as_str().unwrap_or_default();
        let understood = match option.as_str() {
            "algorithm" => Algorithm::named(text).map(|algorithm| options.algorithm = algorithm),
            "burst" => {
                let burst = whole_value(value).and_then(NonZeroU32::new);
                options.burst = Some(burst.unwrap_or(NonZeroU32::MIN));
                burst.map(drop)
            }
            "key" if text == "user" => {
                options.by_user = true;
                Some(())
            }
            "key" => {
                let key = key_by(text);
                let understood = key.is_some();
                // One quota for all is the strictest.
                options.key = key.unwrap_or(KeyBy::Global);
                understood.then_some(())
            }
            "authenticated" => {
                options.authenticated = whole_value(value).and_then(NonZeroU32::new);
                options.authenticated.map(drop)
            }
            "mode" => mode(text).map(|mode| options.mode = mode),
            "on_store_failure" => {
                let rule = OnFailure::named(text);
                options.on_store_failure = rule.unwrap_or(OnFailure::Deny);
                rule.map(drop)
            }
            "lease" => {
                options.lease = whole_value(value).and_then(NonZeroU32::new);
                options.lease.map(drop)
            }
            _ => {
                options.unclear = true;
                problems.error(
                    place,
                    "has an unknown option (known are algorithm, authenticated, burst, key, mode, on_store_failure and lease); \
                     the policy is held to 5 requests until it is mended",
                );
                Some(())
            }
        };
        if understood.is_none() {
            problems.error(format!("{place}.{option}"), rule_of(option));
        }
    }
    options
}

fn rule_of(option: &str) -> &'static str {
    match option {
        "algorithm" => {
            "must be `sliding-window`, `token-bucket` or `fixed-window`; `sliding-window` is in force"
        }
        "authenticated" => {
            "must be a whole number from 1, for a policy whose key is `ip` or `user`; proven users have no \
             limit of their own meanwhile"
        }
        "burst" => "must be a whole number from 1; 1 is in force",
        "key" => "must be `ip`, `user`, `global` or `header:NAME`; `global` is in force",
        "lease" => {
            "must be a whole number from 1 to the policy's limit (or burst); nothing is leased meanwhile"
        }
        "on_store_failure" => "must be `memory`, `allow` or `deny`; `deny` is in force",
        _ => "must be `enforce` or `shadow`; `enforce` is in force",
    }
}

fn key_by(text: &str) -> Option<KeyBy> {
    match text {
        "ip" => Some(KeyBy::Address),
        "global" => Some(KeyBy::Global),
        _ => {
            let name = text.strip_prefix("header:")?.to_ascii_lowercase();
            is_header_name(&name).then_some(KeyBy::Header(name))
        }
    }
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "enforce" => Some(Mode::Enforce),
        "shadow" => Some(Mode::Shadow),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
