//! Where counters are kept, and how the limiter deals with that store.

use std::num::NonZeroU32;

use super::vars::{self, Vars};
use super::{Problems, Secret};
use crate::store::retries::Retries;
use crate::store::stack::Rules;
use crate::time::Millis;

/// Where counters are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In each isolate's memory.
    Memory,
    /// In Upstash Redis.
    Upstash {
        /// The REST URL.
        url: String,
        /// The REST token.
        token: Secret,
        /// What every key starts with.
        prefix: String,
        /// How the limiter deals with it.
        rules: Rules,
    },
}

pub(super) fn read(vars: &Vars, problems: &mut Problems) -> StoreConfig {
    const URL: [&str; 2] = ["UPSTASH_REDIS_REST_URL", "KV_REST_API_URL"];
    const TOKEN: [&str; 2] = ["UPSTASH_REDIS_REST_TOKEN", "KV_REST_API_TOKEN"];
    let timeout = vars.number(
        "REDIS_TIMEOUT",
        1..=60_000,
        [1000, 1000],
        "milliseconds",
        problems,
    );
    let prefix = prefix(vars, problems);
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
    let max_commands = max_commands(vars, problems);
    let fallback_factor = fallback_factor(vars, problems);
    let url = URL
        .iter()
        .find_map(|name| vars.text(name).map(|text| (name, text)));
    let token = TOKEN.iter().find_map(|name| vars.text(name));
    if !vars.flag("REDIS_ENABLED", true, problems) {
        return StoreConfig::Memory;
    }
    let (url_name, url, token) = match (url, token) {
        (None, None) => return StoreConfig::Memory,
        (Some(_), None) => {
            problems.error(
                TOKEN[0],
                "is missing beside the URL; memory is in use instead",
            );
            return StoreConfig::Memory;
        }
        (None, Some(_)) => {
            problems.error(
                URL[0],
                "is missing beside the token; memory is in use instead",
            );
            return StoreConfig::Memory;
        }
        (Some((name, url)), Some(token)) => (*name, url, token),
    };
    match vars::http_url(&url) {
        Some(parts) if parts.plain && !parts.loopback && !parts.has_credentials => problems.warn(
            url_name,
            "is http, not https: the token travels in the clear",
        ),
        Some(parts) if !parts.has_credentials => {}
        _ => {
            problems.error(
                url_name,
                "must be a URL such as https://NAME.upstash.io, without user and password; memory is \
                 in use instead",
            );
            return StoreConfig::Memory;
        }
    }
    if !vars::fits_header(&token) {
        problems.error(
            TOKEN[0],
            "must be text, in visible ASCII characters; memory is in use instead",
        );
        return StoreConfig::Memory;
    }
    StoreConfig::Upstash {
        url,
        token: Secret(token),
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

fn max_commands(vars: &Vars, problems: &mut Problems) -> Option<NonZeroU32> {
    const NAME: &str = "REDIS_MAX_COMMANDS_PER_SECOND";
    vars.get(NAME)?;
    let range = LEAST_COMMANDS..=1_000_000;
    let most = vars.number(NAME, range, [0, LEAST_COMMANDS], "commands", problems);
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

fn prefix(vars: &Vars, problems: &mut Problems) -> String {
    let default = || "ratelimit:".to_owned();
    let Some(prefix) = vars.text("REDIS_KEY_PREFIX") else {
        return default();
    };
    if prefix.len() <= 128 && prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return prefix;
    }
    problems.error(
        "REDIS_KEY_PREFIX",
        "must be text, at most 128 visible ASCII characters without spaces; `ratelimit:` is in use instead",
    );
    // Not memory: limits hold over all isolates meanwhile.
    default()
}
