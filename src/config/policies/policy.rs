//! A policy, built from its limits and options.

use std::num::NonZeroU32;

use serde_json::Value;

use super::limits::Limits;
use super::options::{self, PolicyOptions, rule_of};
use crate::config::Problems;
use crate::policy::{KeyBy, PREFLIGHT, Policy};
use crate::quota::{Algorithm, Quota};
use crate::time::Millis;

/// Builds the policy of preflights: by address, in memory, without a block. Options that say otherwise are problems.
pub(super) fn preflight(
    limits: Limits,
    mut chosen: Option<Value>,
    problems: &mut Problems,
) -> Option<Policy> {
    if let Some(Value::Object(options)) = &mut chosen {
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
                    "is no option of preflights, which are counted by address in memory; it is not in use",
                );
            }
        }
    }
    let policy = build(PREFLIGHT.to_owned(), limits, chosen, problems)?;
    Some(Policy {
        block: None,
        ..policy
    })
}

/// Builds a policy. What its options do not allow is a problem, and a stricter policy is in force.
pub(super) fn build(
    name: String,
    limits: Limits,
    chosen: Option<Value>,
    problems: &mut Problems,
) -> Option<Policy> {
    let place = format!("RATE_LIMIT_POLICIES.{name}");
    let options = chosen.map_or_else(PolicyOptions::default, |value| {
        options::read(&place, &value, problems)
    });
    let limits = if options.unclear {
        limits.tightened()
    } else {
        limits
    };
    let limit = NonZeroU32::new(limits.requests)?;
    let window = Millis::from_secs(limits.seconds);
    let block = limits.block_seconds;
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

/// The quota of a proven user, if it has its own.
fn users_quota(
    place: &str,
    options: &PolicyOptions,
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
    fn preflights_are_counted_by_address_whatever_is_asked_for() {
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
    fn a_burst_without_a_bucket_bounds_the_window() {
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
