//! Names of policies.

use crate::config::Problems;

/// The policy of requests whose intended policies are not known. It cannot be `off` or in shadow mode.
pub(super) const MISCONFIGURED: &str = "misconfigured";

/// Names after `RATE_LIMIT_` that are settings, not policies.
pub(super) const SETTINGS: [&str; 19] = [
    "ENABLED",
    "POLICIES",
    "ROUTES",
    "HEADERS",
    "CORS_ORIGINS",
    "FALLBACK_FACTOR",
    "ALLOWLIST",
    "BYPASS_TOKEN",
    "ESCALATION",
    "EVENTS",
    "EVENT_SAMPLE",
    "METRICS",
    "METRICS_SECONDS",
    "JWT_SECRET",
    "JWT_KEYS",
    "JWT_JWKS_URL",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "JWT_COOKIE",
];

/// Names that the limiter itself uses after the prefix of its Redis keys.
const RESERVED: [&str; 11] = [
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

/// The variable that sets a policy's limits.
pub(super) fn variable(policy: &str) -> String {
    format!("RATE_LIMIT_{}", policy.to_ascii_uppercase())
}

/// The policy whose limits `RATE_LIMIT_<name>` sets. `None` if no policy can have that name.
pub(super) fn read(name: &str, problems: &mut Problems) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_valid = (1..=32).contains(&name.len())
        && name.bytes().all(is_allowed)
        && name.starts_with(|first: char| first.is_ascii_uppercase());
    if !is_valid {
        problems.error(
            "RATE_LIMIT_<POLICY>",
            "the name after RATE_LIMIT_ must be at most 32 capitals, digits and underscores, a capital first; until then, the \
             variable is ignored, and if capitals would make it a known name, every request also meets the policy \
             `misconfigured`",
        );
        return None;
    }
    let policy = name.to_ascii_lowercase();
    if RESERVED.contains(&policy.as_str()) {
        problems.error(
            variable(&policy),
            "is a name that the limiter uses itself; choose another. Until then, the variable is ignored",
        );
        return None;
    }
    Some(policy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::tests::bad;

    #[test]
    fn reserved_and_invalid_names_of_policies_are_refused() {
        for name in [
            "MISCONFIGURED",
            "BLOCKED",
            "ABSORBED",
            "BLOCKED_IPS",
            "BLOCKED_RANGES",
            "EVENTS",
            "SUSPICIOUS",
        ] {
            let variable = format!("RATE_LIMIT_{name}");
            let config = bad(&json!({&variable: "1,1"}), &variable);
            assert_eq!(config.policies.len(), 7, "{name}");
        }
        for name in ["auth", "A-B", "", "1ST", "A B", "Ä", &"A".repeat(33)] {
            bad(
                &json!({format!("RATE_LIMIT_{name}"): "1,1"}),
                "RATE_LIMIT_<POLICY>",
            );
        }
    }
}
