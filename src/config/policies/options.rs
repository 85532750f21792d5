//! Reads a policy's options from its table in `RATE_LIMIT_POLICIES`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde_json::Value;

use crate::client::NetworkPrefixes;
use crate::config::vars::{is_header_name, whole_value};
use crate::config::{Problems, Vars};
use crate::json::UNUSABLE;
use crate::policy::{KeyBy, Mode};
use crate::quota::Algorithm;
use crate::store::OnFailure;

/// The options of one policy. An option that is absent has its default.
#[derive(Default)]
pub(super) struct PolicyOptions {
    pub(super) algorithm: Algorithm,
    pub(super) burst: Option<NonZeroU32>,
    pub(super) key: KeyBy,
    /// The prefixes of `key = "network"`, in bits.
    pub(super) ipv4_prefix: Option<u8>,
    pub(super) ipv6_prefix: Option<u8>,
    /// Whether a proven user has a separate quota.
    pub(super) by_user: bool,
    /// The limit of a proven user.
    pub(super) authenticated: Option<NonZeroU32>,
    pub(super) mode: Mode,
    pub(super) on_store_failure: OnFailure,
    pub(super) lease: Option<NonZeroU32>,
    /// Whether an option is unknown, or the value is not a table. The policy is tightened then.
    pub(super) is_unclear: bool,
}

/// The options of each policy, by its name in lower case. `None` if the variable is not a table.
pub(super) fn table(vars: &Vars, problems: &mut Problems) -> Option<BTreeMap<String, Value>> {
    match vars.table("RATE_LIMIT_POLICIES", problems) {
        None => Some(BTreeMap::new()),
        Some(Ok(Value::Object(table))) => {
            let mut options = BTreeMap::new();
            for (name, value) in table {
                // If two names differ only in case, neither table is used, since either may be the one that was meant.
                let name = name.to_ascii_lowercase();
                let value = match options.contains_key(&name) {
                    true => UNUSABLE.into(),
                    false => value,
                };
                options.insert(name, value);
            }
            Some(options)
        }
        Some(_) => {
            problems.error(
                "RATE_LIMIT_POLICIES",
                "must be a table that has a table of options for each policy, or its JSON text; until then, every request also \
                 meets the policy `misconfigured`",
            );
            None
        }
    }
}

/// Reads the options at `place`, which names the variable and the policy. A bad value is a problem, and the strictest
/// value is in force.
pub(super) fn read(place: &str, value: &Value, problems: &mut Problems) -> PolicyOptions {
    let mut options = PolicyOptions::default();
    let Value::Object(table) = value else {
        problems.error(
            place,
            "must be one table of options (names that differ only in case name the same policy); until then, the policy's \
             limit is at most 5 requests in at least 60 seconds, with a block of at least 900 seconds",
        );
        options.is_unclear = true;
        return options;
    };
    for (option, value) in table {
        let text = value.as_str().unwrap_or_default();
        let valid = match option.as_str() {
            "algorithm" => {
                Algorithm::from_name(text).map(|algorithm| options.algorithm = algorithm)
            }
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
                let is_valid = key.is_some();
                // One quota for all callers is the strictest.
                options.key = key.unwrap_or(KeyBy::Global);
                is_valid.then_some(())
            }
            "ipv4_prefix" => {
                let bits = prefix(value, 32);
                options.ipv4_prefix = Some(bits.unwrap_or(STRICT_PREFIXES.ipv4));
                bits.map(drop)
            }
            "ipv6_prefix" => {
                let bits = prefix(value, 128);
                options.ipv6_prefix = Some(bits.unwrap_or(STRICT_PREFIXES.ipv6));
                bits.map(drop)
            }
            "authenticated" => {
                options.authenticated = whole_value(value).and_then(NonZeroU32::new);
                options.authenticated.map(drop)
            }
            "mode" => mode(text).map(|mode| options.mode = mode),
            "on_store_failure" => {
                let rule = OnFailure::from_name(text);
                options.on_store_failure = rule.unwrap_or(OnFailure::Deny);
                rule.map(drop)
            }
            "lease" => {
                options.lease = whole_value(value).and_then(NonZeroU32::new);
                options.lease.map(drop)
            }
            _ => {
                options.is_unclear = true;
                problems.error(
                    place,
                    "has an unknown option; the options are algorithm, authenticated, burst, ipv4_prefix, ipv6_prefix, key, lease, \
                     mode and on_store_failure. Until you correct it, the policy's limit is at most 5 requests in at least \
                     60 seconds, with a block of at least 900 seconds, and its other options apply",
                );
                Some(())
            }
        };
        if valid.is_none() {
            problems.error(format!("{place}.{option}"), rule_of(option));
        }
    }
    options.apply_prefixes(place, problems);
    options
}

/// In force if a prefix is not valid: wider networks than the default ones.
const STRICT_PREFIXES: NetworkPrefixes = NetworkPrefixes { ipv4: 16, ipv6: 32 };

impl PolicyOptions {
    /// Applies the prefixes to `key = "network"`. With another key they are a problem.
    fn apply_prefixes(&mut self, place: &str, problems: &mut Problems) {
        if let KeyBy::Network(prefixes) = &mut self.key {
            prefixes.ipv4 = self.ipv4_prefix.unwrap_or(prefixes.ipv4);
            prefixes.ipv6 = self.ipv6_prefix.unwrap_or(prefixes.ipv6);
            return;
        }
        for (option, bits) in [
            ("ipv4_prefix", self.ipv4_prefix),
            ("ipv6_prefix", self.ipv6_prefix),
        ] {
            if bits.is_some() {
                problems.error(
                    format!("{place}.{option}"),
                    "needs `key = \"network\"`; until then, it is ignored",
                );
            }
        }
    }
}

/// Reads a number of bits from 1 to `max`.
fn prefix(value: &Value, max: u8) -> Option<u8> {
    let bits = u8::try_from(whole_value(value)?).ok()?;
    (1..=max).contains(&bits).then_some(bits)
}

/// The rule for an option's value, and what is in force until the value keeps it.
pub(super) fn rule_of(option: &str) -> &'static str {
    match option {
        "algorithm" => {
            "must be `sliding-window`, `token-bucket` or `fixed-window`; until then, `sliding-window` is in force"
        }
        "authenticated" => {
            "must be a whole number from 1, for a policy whose key is `ip` or `user`; until then, proven users have \
             the policy's own limit"
        }
        "burst" => "must be a whole number from 1; until then, 1 is in force",
        "ipv4_prefix" => "must be a whole number of bits from 1 to 32; until then, 16 is in force",
        "ipv6_prefix" => "must be a whole number of bits from 1 to 128; until then, 32 is in force",
        "key" => {
            "must be `ip`, `user`, `network`, `global` or `header:NAME`; until then, `global` is in force"
        }
        "lease" => {
            "must be a whole number from 1 to the policy's limit (or burst); until then, nothing is leased"
        }
        "on_store_failure" => "must be `memory`, `allow` or `deny`; until then, `deny` is in force",
        _ => "must be `enforce` or `shadow`; until then, `enforce` is in force",
    }
}

fn key_by(text: &str) -> Option<KeyBy> {
    match text {
        "ip" => Some(KeyBy::Address),
        "network" => Some(KeyBy::Network(NetworkPrefixes::default())),
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
mod tests {
    use serde_json::json;

    use crate::client::NetworkPrefixes;
    use crate::config::tests::{bad, compile, good, limits, names, policy};
    use crate::policy::{KeyBy, Mode};
    use crate::quota::Algorithm;

    #[test]
    fn a_policy_takes_its_options() {
        let config = good(&json!({"RATE_LIMIT_POLICIES": {
            "auth": {"algorithm": "token-bucket", "burst": 5, "key": "global", "mode": "shadow"},
            "MFA": {"algorithm": "fixed-window", "key": "header:X-Api-Key"},
        }}));
        let auth = policy(&config, "auth").unwrap();
        assert_eq!(auth.quota.algorithm(), Algorithm::TokenBucket);
        assert_eq!(auth.quota.capacity(), 5);
        assert_eq!((&auth.key, auth.mode), (&KeyBy::Global, Mode::Shadow));
        let mfa = policy(&config, "mfa").unwrap();
        assert_eq!(mfa.quota.algorithm(), Algorithm::FixedWindow);
        assert_eq!(mfa.key, KeyBy::Header("x-api-key".to_owned()));
    }

    #[test]
    fn a_bad_option_is_reported_and_the_strictest_value_is_in_force() {
        for (option, value) in [
            ("algorithm", json!("sliding")),
            ("algorithm", json!(7)),
            ("mode", json!("Shadow!")),
            ("mode", json!(null)),
        ] {
            let mut options = json!({});
            options[option] = value;
            let config = bad(
                &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
                &format!("RATE_LIMIT_POLICIES.auth.{option}"),
            );
            let auth = policy(&config, "auth").unwrap();
            assert_eq!(
                (auth.quota.algorithm(), auth.mode),
                (Algorithm::SlidingWindow, Mode::Enforce)
            );
            assert_eq!((&auth.key, auth.quota.capacity()), (&KeyBy::Address, 30));
        }
        for key in ["globl", "header:", "header:a b", "IP", ""] {
            let vars = json!({"RATE_LIMIT_POLICIES": {"auth": {"key": key}}});
            let config = bad(&vars, "RATE_LIMIT_POLICIES.auth.key");
            assert_eq!(policy(&config, "auth").unwrap().key, KeyBy::Global, "{key}");
        }
        for burst in [json!(0), json!("many"), json!(2.5), json!(-1)] {
            let options = json!({"algorithm": "token-bucket", "burst": burst});
            let config = bad(
                &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
                "RATE_LIMIT_POLICIES.auth.burst",
            );
            assert_eq!(policy(&config, "auth").unwrap().quota.capacity(), 1);
        }
        for options in [json!(5), json!({"algoritm": "fixed-window"})] {
            let config = bad(
                &json!({"RATE_LIMIT_POLICIES": {"auth": options}}),
                "RATE_LIMIT_POLICIES.auth",
            );
            assert_eq!(limits(&config, "auth"), Some((5, 60, 900)));
        }
        for lease in [json!(0), json!(31), json!("all"), json!(-1)] {
            let options =
                json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"auth": {"lease": lease}}});
            let config = bad(&options, "RATE_LIMIT_POLICIES.auth.lease");
            assert_eq!(policy(&config, "auth").unwrap().lease, 0);
        }
    }

    #[test]
    fn a_policy_limits_networks_of_its_prefixes() {
        let read = |options: serde_json::Value, bad: &[&str]| {
            let vars = json!({"RATE_LIMIT_POLICIES": {"auth": options}});
            let compiled = compile(&vars);
            let problems = compiled.problems.iter();
            let variables: Vec<&str> = problems.map(|problem| &*problem.variable).collect();
            let expected = bad
                .iter()
                .map(|option| format!("RATE_LIMIT_POLICIES.auth.{option}"));
            assert_eq!(variables, expected.collect::<Vec<_>>(), "{vars}");
            policy(&compiled.config, "auth").unwrap().key.clone()
        };
        let network = |ipv4, ipv6| KeyBy::Network(NetworkPrefixes { ipv4, ipv6 });
        let plain = read(json!({"key": "network"}), &[]);
        assert_eq!(plain, network(24, 48));
        let both = json!({"key": "network", "ipv4_prefix": 20, "ipv6_prefix": "40"});
        assert_eq!(read(both, &[]), network(20, 40));
        for bad in [
            json!(0),
            json!(-1),
            json!("/24"),
            json!(129),
            json!(null),
            json!(2.5),
        ] {
            let option = json!({"key": "network", "ipv4_prefix": bad, "ipv6_prefix": bad});
            let read = read(option, &["ipv4_prefix", "ipv6_prefix"]);
            assert_eq!(read, network(16, 32), "the strict prefixes");
        }
        let wide = json!({"key": "network", "ipv4_prefix": 33});
        assert_eq!(read(wide, &["ipv4_prefix"]), network(16, 48));
        let without = read(json!({"ipv6_prefix": 48}), &["ipv6_prefix"]);
        assert_eq!(without, KeyBy::Address);
        let user = json!({"key": "network", "authenticated": 100});
        assert_eq!(read(user, &["authenticated"]), network(24, 48));
    }

    #[test]
    fn options_that_apply_to_no_policy_make_every_request_meet_misconfigured() {
        for table in [
            json!("[]"),
            json!("{"),
            json!(5),
            json!([1]),
            json!({"nobody": {"key": "global"}}),
        ] {
            let config = bad(
                &json!({"RATE_LIMIT_POLICIES": table}),
                "RATE_LIMIT_POLICIES",
            );
            assert_eq!(
                names(&config, "GET", "/x"),
                ["general", "ip", "misconfigured"]
            );
        }
    }
}
