//! Policies' names.

use crate::config::Problems;

/// The policy of requests whose configuration cannot be read. It can be neither `off` nor a shadow.
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

/// Names that the limiter itself uses after the key prefix.
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

/// The variable that sets a policy's limits.
pub(super) fn variable(policy: &str) -> String {
    format!("RATE_LIMIT_{}", policy.to_ascii_uppercase())
}

/// The policy that `RATE_LIMIT_<name>` sets. `None`: the name cannot be a policy's.
pub(super) fn read(name: &str, problems: &mut Problems) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let shaped = (1..=32).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_uppercase());
    if !shaped {
        problems.error(
            "RATE_LIMIT_<POLICY>",
            "a policy's name must be at most 32 capitals, digits and underscores, a capital first; it is left out, and \
             where capitals would make it a known name, every request meets the policy `misconfigured` until it is \
             mended",
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::tests::bad;

    #[test]
    fn names_that_cannot_be_policies_are_refused() {
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
