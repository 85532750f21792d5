//! Where counters are kept, and how the limiter handles failures of that store.

use std::num::NonZeroU32;

use super::Problems;
use super::host::HostCapabilities;
use super::server::{self, Server};
use super::vars::Vars;
use crate::store::retries::Retries;
use crate::store::stack::StoreSettings;
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
        /// The prefix of every key.
        prefix: String,
        /// The timeout, the retries, the breaker, the cap on commands and the fallback.
        rules: StoreSettings,
    },
}

impl StoreConfig {
    /// The Redis server. `None` if counters are kept in memory.
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
        count: vars.number("REDIS_RETRY_COUNT", 0..=10, [2, 0], "repetitions", problems),
        delay: Millis::new(u64::from(vars.number(
            "REDIS_RETRY_DELAY",
            1..=60_000,
            [50, 1000],
            "milliseconds",
            problems,
        ))),
    };
    let doublings = "REDIS_MAX_RECONNECT_ATTEMPTS";
    let unit = "doublings of the breaker's wait";
    let doublings = vars.number(doublings, 0..=20, [10, 10], unit, problems);
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
        rules: StoreSettings {
            timeout: Millis::new(u64::from(timeout)),
            retries,
            doublings,
            max_commands,
            fallback_factor,
        },
    }
}

/// The smallest cap, in commands a second. One decision over eight quotas takes as many, if each sets a block and counts a
/// backlog.
const MIN_COMMANDS: u32 = 50;

/// The smallest cap in a cluster, in commands a second. There, the eight quotas can belong to as many callers, which
/// are asked one by one, and whose units may have to be given back. Three fifths of the cap pay for that, and records
/// may wait meanwhile.
pub(crate) const MIN_COMMANDS_IN_CLUSTER: u32 = 150;

fn max_commands(vars: &Vars, is_cluster: bool, problems: &mut Problems) -> Option<NonZeroU32> {
    const NAME: &str = "REDIS_MAX_COMMANDS_PER_SECOND";
    vars.get(NAME)?;
    let (min, unit) = match is_cluster {
        true => (MIN_COMMANDS_IN_CLUSTER, "commands a second, in a cluster"),
        false => (MIN_COMMANDS, "commands a second"),
    };
    let max = vars.number(NAME, min..=1_000_000, [0, min], unit, problems);
    NonZeroU32::new(max)
}

/// The factor of limits while memory decides in place of Redis, in thousandths.
fn fallback_factor(vars: &Vars, problems: &mut Problems) -> u32 {
    const NAME: &str = "RATE_LIMIT_FALLBACK_FACTOR";
    match vars.thousandths(NAME) {
        None => 1200,
        Some(Ok(factor)) if (10..=10_000).contains(&factor) => factor,
        Some(_) => {
            let rule = "must be a number from 0.01 to 10 with at most three decimals; until then, 1 is in force";
            problems.error(NAME, rule);
            1000
        }
    }
}

fn prefix(vars: &Vars, is_cluster: bool, problems: &mut Problems) -> String {
    const NAME: &str = "REDIS_KEY_PREFIX";
    // In force for a bad prefix, rather than memory, so that isolates still share limits.
    const DEFAULT: &str = "ratelimit:";
    let Some(prefix) = vars.text(NAME) else {
        return DEFAULT.to_owned();
    };
    if prefix.len() > 128 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        problems.error(
            NAME,
            "must be text of at most 128 visible ASCII characters, without spaces; until then, `ratelimit:` is in force",
        );
    } else if is_cluster && prefix.contains(['{', '}']) {
        problems.error(
            NAME,
            "must not have braces in a cluster, where they decide which node has a key; until then, `ratelimit:` is in force",
        );
    } else {
        return prefix;
    }
    DEFAULT.to_owned()
}
