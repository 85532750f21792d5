//! Where counters are kept, and how the limiter deals with that store.

use std::num::NonZeroU32;

use super::Problems;
use super::host::HostCapabilities;
use super::server::{self, Server};
use super::vars::Vars;
use crate::store::retries::Retries;
use crate::store::stack::Rules;
use crate::time::Millis;

/// Where counters are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In each isolate's memory.
    Memory,
    /// In Redis.
    Redis {
        /// Which Redis, and how it is reached.
        server: Server,
        /// What every key starts with.
        prefix: String,
        /// How the limiter deals with it.
        rules: Rules,
    },
}

impl StoreConfig {
    /// The Redis, if there is one.
    #[must_use]
    pub const fn server(&self) -> Option<&Server> {
        match self {
            Self::Memory => None,
            Self::Redis { server, .. } => Some(server),
        }
    }
}

pub(super) fn read(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> StoreConfig {
    let timeout = vars.number(
        "REDIS_TIMEOUT",
        1..=60_000,
        [1000, 1000],
        "milliseconds",
        problems,
    );
    let retries = Retries {
        count: vars.number("REDIS_RETRY_COUNT", 0..=10, [2, 0], "attempts", problems),
        delay: Millis::new(u64::from(vars.number(
            "REDIS_RETRY_DELAY",
            1..=60_000,
            [50, 1000],
            "milliseconds",
            problems,
        ))),
    };
    let doublings = "REDIS_MAX_RECONNECT_ATTEMPTS";
    let doublings = vars.number(doublings, 0..=20, [10, 10], "doublings", problems);
    let fallback_factor = fallback_factor(vars, problems);
    let server = server::read(vars, host, problems);
    let is_cluster = server.as_ref().is_some_and(Server::is_cluster);
    let max_commands = max_commands(vars, is_cluster, problems);
    let prefix = prefix(vars, is_cluster, problems);
    let Some(server) = server else {
        return StoreConfig::Memory;
    };
    StoreConfig::Redis {
        server,
        prefix,
        rules: Rules {
            timeout: Millis::new(u64::from(timeout)),
            retries,
            doublings,
            max_commands,
            fallback_factor,
        },
    }
}

/// The smallest cap: a decision over eight quotas that each set a block and count a backlog.
const LEAST_COMMANDS: u32 = 50;

/// In a cluster, where they can be of as many callers, which are asked one by one, and what they took be given back. Three
/// fifths of it pay for that, so that records may wait meanwhile.
pub(crate) const LEAST_COMMANDS_IN_CLUSTER: u32 = 150;

fn max_commands(vars: &Vars, is_cluster: bool, problems: &mut Problems) -> Option<NonZeroU32> {
    const NAME: &str = "REDIS_MAX_COMMANDS_PER_SECOND";
    vars.get(NAME)?;
    let (least, unit) = match is_cluster {
        true => (LEAST_COMMANDS_IN_CLUSTER, "commands for a cluster"),
        false => (LEAST_COMMANDS, "commands"),
    };
    let most = vars.number(NAME, least..=1_000_000, [0, least], unit, problems);
    NonZeroU32::new(most)
}

/// In thousandths.
fn fallback_factor(vars: &Vars, problems: &mut Problems) -> u32 {
    const NAME: &str = "RATE_LIMIT_FALLBACK_FACTOR";
    match vars.thousandths(NAME) {
        None => 1200,
        Some(Ok(factor)) if (10..=10_000).contains(&factor) => factor,
        Some(_) => {
            let rule =
                "must be a number from 0.01 to 10 with at most three decimals; 1 is in force";
            problems.error(NAME, rule);
            1000
        }
    }
}

fn prefix(vars: &Vars, is_cluster: bool, problems: &mut Problems) -> String {
    const NAME: &str = "REDIS_KEY_PREFIX";
    // Not memory where it is bad: limits hold over all isolates meanwhile.
    const DEFAULT: &str = "ratelimit:";
    let Some(prefix) = vars.text(NAME) else {
        return DEFAULT.to_owned();
    };
    if prefix.len() > 128 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        problems.error(
            NAME,
            "must be text, at most 128 visible ASCII characters without spaces; `ratelimit:` is in use instead",
        );
    } else if is_cluster && prefix.contains(['{', '}']) {
        problems.error(
            NAME,
            "must not have braces in a cluster, where they say which node has a key; `ratelimit:` is in use instead",
        );
    } else {
        return prefix;
    }
    DEFAULT.to_owned()
}
