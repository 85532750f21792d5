//! Reads `RATE_LIMIT_<POLICY>` and `RATE_LIMIT_POLICIES`.

use std::collections::BTreeMap;

use super::{Problems, Vars};
use crate::policy::PREFLIGHT;

mod limits;
mod name;
mod options;
mod policy;
mod table;

pub(super) use table::PolicyTable;

/// Reads the built-in policies and those that variables define.
pub(super) fn read(vars: &Vars, problems: &mut Problems) -> PolicyTable {
    let mut limits = limits::built_in(vars, problems);
    let mut table = PolicyTable::default();

    for name in vars.names_after("RATE_LIMIT_") {
        if name::SETTINGS.contains(&name) {
            continue;
        }
        let Some(policy) = name::read(name, problems) else {
            let (capitals, policy) = (name.to_ascii_uppercase(), name.to_ascii_lowercase());
            let is_known = name::SETTINGS.contains(&&*capitals)
                || limits.contains_key(&policy)
                || table.is_off(&policy);
            // The variable would be in force if its name were in capitals, and it may be stricter than what is.
            table.has_lost_options |= is_known && name != capitals;
            continue;
        };
        let Some(text) = vars.text(&name::variable(&policy)) else {
            continue;
        };
        table.defined.insert(policy.clone());
        if text.eq_ignore_ascii_case("off") {
            limits.remove(&policy);
            table.off.insert(policy);
        } else {
            let built_in = limits.get(&policy).copied();
            let read = limits::read(&policy, &text, built_in, problems);
            limits.insert(policy, read);
        }
    }

    let mut options = options::table(vars, problems).unwrap_or_else(|| {
        table.has_lost_options = true;
        BTreeMap::new()
    });
    for (name, limits) in limits {
        let options = options.remove(&name);
        if name == PREFLIGHT {
            table.preflight = policy::preflight(limits, options, problems);
            continue;
        }
        table
            .policies
            .extend(policy::build(name, limits, options, problems));
    }
    for name in options.into_keys() {
        if !table.is_off(&name) {
            table.has_lost_options = true;
            problems.error(
                "RATE_LIMIT_POLICIES",
                "has options for a policy that does not exist; define RATE_LIMIT_<NAME> or correct the name; until then, every \
                 request also meets the policy `misconfigured`",
            );
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::tests::{good, limits, names};

    #[test]
    fn a_variable_overrides_defines_or_switches_off_a_policy() {
        let config = good(&json!({
            "RATE_LIMIT_AUTH": " 5 , 30 ",
            "RATE_LIMIT_MFA": "3,60,120",
            "RATE_LIMIT_GENERAL": "off",
            "RATE_LIMIT_IP": "OFF",
            "RATE_LIMIT_WEB3_MINT": "1,3600",
            "RATE_LIMIT_ROUTES": [
                {"path": "/mint", "policies": ["web3_mint"]},
                {"path": "/login", "policies": ["auth", "mfa"]},
            ],
        }));
        assert_eq!(limits(&config, "auth"), Some((5, 30, 0)));
        assert_eq!(limits(&config, "mfa"), Some((3, 60, 120)));
        assert_eq!(limits(&config, "web3_mint"), Some((1, 3600, 0)));
        assert_eq!(limits(&config, "general"), None);
        assert_eq!(names(&config, "GET", "/else"), [""; 0]);
        assert_eq!(names(&config, "GET", "/mint"), ["web3_mint"]);
    }
}
