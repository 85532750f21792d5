//! Builds a policy from its limits and options.

use std::num::NonZeroU32;

use serde_json::Value;

use super::limits::Limits;
use super::options::{self, PolicyOptions, rule_of};
use crate::config::Problems;
use crate::policy::{KeyBy, PREFLIGHT, Policy};
use crate::quota::{Algorithm, Quota};
use crate::time::Millis;

/// Builds the policy of preflights. It counts by address, in memory, without a block. Options that would change that
/// are problems.
pub(super) fn preflight(
    limits: Limits,
    mut options: Option<Value>,
    problems: &mut Problems,
) -> Option<Policy> {
    if let Some(Value::Object(options)) = &mut options {
        for option in [
            "authenticated",
            "ipv4_prefix",
            "ipv6_prefix",
            "key",
            "lease",
            "on_store_failure",
        ] {
            if options.remove(option).is_some_and(|value| value != "ip") {
                problems.error(
                    format!("RATE_LIMIT_POLICIES.{PREFLIGHT}.{option}"),
                    "cannot be set for preflights, which are counted by address in memory; remove it. It is ignored",
                );
            }
        }
    }
    let policy = build(PREFLIGHT.to_owned(), limits, options, problems)?;
    Some(Policy {
        block: None,
        ..policy
    })
}

/// Builds a policy. Options that are not valid, or do not fit together, are problems, and a stricter policy is in force.
pub(super) fn build(
    name: String,
    limits: Limits,
    options: Option<Value>,
    problems: &mut Problems,
) -> Option<Policy> {
    let place = format!("RATE_LIMIT_POLICIES.{name}");
    let options = options.map_or_else(PolicyOptions::default, |value| {
        options::read(&place, &value, problems)
    });
    let limits = if options.is_unclear {
        limits.tightened()
    } else {
        limits
    };
    let limit = NonZeroU32::new(limits.requests)?;
    let window = Millis::from_secs(limits.seconds);
    let block = limits.block_seconds;
    // A sliding window of the smaller number is stricter than a bucket with this burst, and than a window with this limit.
    let strict_window = || {
        let smaller = options.burst.map_or(limit, |burst| burst.min(limit));
        Quota::new(Algorithm::SlidingWindow, smaller, window)
    };
    let quota = match (options.algorithm, options.burst) {
        (Algorithm::TokenBucket, burst) => Quota::new(Algorithm::TokenBucket, limit, window)
            .and_then(|quota| quota.with_burst(burst.unwrap_or(limit))),
        (_, Some(_)) => {
            problems.error(
                format!("{place}.burst"),
                "needs `algorithm = \"token-bucket\"`; until then, a sliding window with the smaller of limit and burst is in \
                 force",
            );
            strict_window()
        }
        (algorithm, None) => Quota::new(algorithm, limit, window),
    };
    let quota = match quota {
        Ok(quota) => quota,
        Err(error) => {
            problems.error(
                &place,
                format!("{error}; until then, a sliding window is in force"),
            );
            strict_window().ok()?
        }
    };
    let lease = options.lease.map_or(0, NonZeroU32::get);
    let lease_fits = lease <= quota.capacity();
    if !lease_fits {
        problems.error(format!("{place}.lease"), rule_of("lease"));
    } else if lease > 1 && block > 0 {
        problems.warn(
            format!("{place}.lease"),
            "is not in use: the policy has a block, and a caller would be blocked for units that it never spent; remove the \
             lease or the block",
        );
    }
    let user = user_quota(&place, &options, &quota, problems);
    Some(Policy {
        name,
        quota,
        user,
        block: (block > 0).then(|| Millis::from_secs(block)),
        key: options.key,
        mode: options.mode,
        on_store_failure: options.on_store_failure,
        lease: if lease_fits && block == 0 { lease } else { 0 },
    })
}

/// The separate quota of a proven user. `None` if the policy limits users by their address.
fn user_quota(
    place: &str,
    options: &PolicyOptions,
    quota: &Quota,
    problems: &mut Problems,
) -> Option<Quota> {
    let limit = options.authenticated;
    if options.is_unclear || (limit.is_none() && !options.by_user) {
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
            "is lower than the policy's limit for callers who prove no user; raise it, unless you mean that",
        );
    }
    let built = Quota::new(quota.algorithm(), limit, quota.window());
    let built = match options.burst {
        Some(burst) if quota.algorithm() == Algorithm::TokenBucket => {
            built.and_then(|quota| quota.with_burst(burst))
        }
        _ => built,
    };
    match built {
        Ok(quota) => Some(quota),
        Err(error) => {
            problems.error(
                place,
                format!("{error}; until then, proven users have no separate limit"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::Config;
    use crate::config::tests::{bad, compile, good, limits, names, policy};
    use crate::quota::Algorithm;

    fn preflights(config: &Config) -> Option<(u32, u64)> {
        let policy = config.preflight.as_ref()?;
        assert_eq!((policy.block, policy.lease), (None, 0));
        Some((policy.quota.capacity(), policy.quota.window().secs_ceil()))
    }

    #[test]
    fn preflights_have_a_policy_without_a_block() {
        const NAME: &str = "RATE_LIMIT_PREFLIGHT";
        for (vars, expected) in [
            (json!({}), Some((600, 60))),
            (json!({NAME: "30,10"}), Some((30, 10))),
            (json!({NAME: "30,10,0"}), Some((30, 10))),
            (json!({NAME: "off"}), None),
            (
                json!({"RATE_LIMIT_POLICIES": {"PREFLIGHT": {"key": "ip", "algorithm": "token-bucket", "burst": 20}}}),
                Some((20, 60)),
            ),
        ] {
            assert_eq!(preflights(&good(&vars)), expected, "{vars}");
        }
        for (text, expected) in [
            ("30,10,600", (30, 10)),
            ("x", (5, 60)),
            ("30,10,x", (30, 10)),
        ] {
            let compiled = compile(&json!({NAME: text}));
            let [problem] = &*compiled.problems else {
                panic!("{:?}", compiled.problems)
            };
            assert_eq!(problem.variable, NAME);
            assert!(problem.rule.contains("block nobody"), "{problem}");
            assert_eq!(preflights(&compiled.config), Some(expected), "{text}");
        }
        let unclear = json!({"RATE_LIMIT_POLICIES": {"preflight": {"keys": "ip"}}});
        let config = bad(&unclear, "RATE_LIMIT_POLICIES.preflight");
        assert_eq!(preflights(&config), Some((5, 60)));
    }

    #[test]
    fn options_cannot_change_that_preflights_are_counted_by_address() {
        for (option, value) in [
            ("key", json!("global")),
            ("key", json!("user")),
            ("key", json!("header:x-key")),
            ("ipv4_prefix", json!(24)),
            ("authenticated", json!(1000)),
            ("lease", json!(10)),
            ("on_store_failure", json!("deny")),
        ] {
            let vars = json!({"RATE_LIMIT_POLICIES": {"preflight": {option: value}}});
            let config = bad(&vars, &format!("RATE_LIMIT_POLICIES.preflight.{option}"));
            assert_eq!(preflights(&config), Some((600, 60)), "{vars}");
            assert!(config.preflight.unwrap().is_by_address_alone());
        }
        for limits in ["600,60", "off"] {
            let routes = json!([{"path": "/a", "policies": ["preflight"]}]);
            let vars = json!({"RATE_LIMIT_ROUTES": routes, "RATE_LIMIT_PREFLIGHT": limits});
            let config = bad(&vars, "RATE_LIMIT_ROUTES[0].policies[0]");
            let met = names(&config, "GET", "/a");
            assert!(met.contains(&"misconfigured".to_owned()), "{met:?}");
        }
    }

    #[test]
    fn a_burst_without_a_token_bucket_is_the_limit_of_a_window() {
        let burst = json!({"RATE_LIMIT_POLICIES": {"auth": {"burst": 5}}});
        let config = bad(&burst, "RATE_LIMIT_POLICIES.auth.burst");
        assert_eq!(limits(&config, "auth"), Some((5, 60, 600)));
        let typo =
            json!({"RATE_LIMIT_POLICIES": {"auth": {"algorithm": "token_bucket", "burst": 5}}});
        assert_eq!(limits(&compile(&typo).config, "auth"), Some((5, 60, 600)));
        let huge = json!({
            "RATE_LIMIT_AUTH": "4294967295,86400",
            "RATE_LIMIT_POLICIES": {"auth": {"algorithm": "token-bucket", "burst": 10}},
            "RATE_LIMIT_ROUTES": [{"path": "/a", "policies": ["auth"]}],
        });
        let config = bad(&huge, "RATE_LIMIT_POLICIES.auth");
        assert_eq!(limits(&config, "auth"), Some((10, 86_400, 0)));
        assert_eq!(
            policy(&config, "auth").unwrap().quota.algorithm(),
            Algorithm::SlidingWindow
        );
    }
}
