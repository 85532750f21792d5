//! Reads a policy's limits: `requests,seconds,block_seconds`.

use std::collections::BTreeMap;

use super::name::variable;
use crate::config::vars::whole;
use crate::config::{Problems, Vars};
use crate::policy::PREFLIGHT;

/// The longest window and the longest block: 366 days.
const MAX_WINDOW_SECONDS: u32 = 366 * 24 * 60 * 60;

/// How many requests a caller may send in how many seconds, and for how long it is blocked when it exceeds that.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) requests: u32,
    pub(super) seconds: u32,
    /// 0 means that the caller is not blocked.
    pub(super) block_seconds: u32,
}

/// The policies that exist unless they are `off`.
const BUILT_IN: [(&str, Limits); 8] = [
    ("general", Limits::new(120, 60, 0)),
    ("auth", Limits::new(30, 60, 600)),
    ("sensitive", Limits::new(10, 60, 900)),
    ("admin", Limits::new(300, 60, 300)),
    ("mfa", Limits::new(5, 60, 900)),
    ("financial", Limits::new(20, 60, 900)),
    ("ip", Limits::new(1000, 3600, 0)),
    (PREFLIGHT, Limits::new(600, 60, 0)),
];

/// The strictest built-in limits. They are in force where the intended limits are not known.
pub(super) const STRICTEST: Limits = Limits::new(5, 60, 900);

impl Limits {
    const fn new(requests: u32, seconds: u32, block_seconds: u32) -> Self {
        Self {
            requests,
            seconds,
            block_seconds,
        }
    }

    /// These limits, with each number made at least as strict as in [`STRICTEST`].
    pub(super) fn tightened(self) -> Self {
        Self {
            requests: self.requests.min(STRICTEST.requests),
            seconds: self.seconds.max(STRICTEST.seconds),
            block_seconds: self.block_seconds.max(STRICTEST.block_seconds),
        }
    }
}

/// The limits of the built-in policies, before `RATE_LIMIT_<POLICY>` variables change them.
pub(super) fn built_in(vars: &Vars, problems: &mut Problems) -> BTreeMap<String, Limits> {
    let mut limits = BTreeMap::new();
    limits.extend(BUILT_IN.map(|(name, limits)| (name.to_owned(), limits)));
    limits.insert("general".to_owned(), general(vars, problems));
    limits
}

/// The limits of the policy `general` if `RATE_LIMIT_GENERAL` does not set them.
fn general(vars: &Vars, problems: &mut Problems) -> Limits {
    let requests = vars.number(
        "DEFAULT_RATE_LIMIT_MAX",
        1..=u32::MAX,
        [120, 5],
        "requests",
        problems,
    );
    let seconds = vars.number(
        "DEFAULT_RATE_LIMIT_WINDOW",
        1..=MAX_WINDOW_SECONDS,
        [60, 86_400],
        "seconds",
        problems,
    );
    Limits::new(requests, seconds, 0)
}

/// Reads `requests,seconds` or `requests,seconds,block_seconds`. If the value is bad, its valid parts are in force, and the
/// strictest limits in place of the others.
pub(super) fn read(
    policy: &str,
    text: &str,
    built_in: Option<Limits>,
    problems: &mut Problems,
) -> Limits {
    const FORM: &str = "must be `requests,seconds`, `requests,seconds,block_seconds` or `off`, in \
                        whole numbers (requests from 1, seconds from 1 to 31622400, block_seconds from 0 to 31622400)";
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let number = |index: usize, min: u32, max: u32| {
        let number = fields.get(index).and_then(|field| whole(field))?;
        (min..=max).contains(&number).then_some(number)
    };
    let limit = number(0, 1, u32::MAX).zip(number(1, 1, MAX_WINDOW_SECONDS));
    let block = if fields.len() == 2 {
        Some(0)
    } else {
        number(2, 0, MAX_WINDOW_SECONDS)
    };
    let may_block = policy != PREFLIGHT;
    if let (Some((requests, seconds)), Some(block), 2..=3) = (limit, block, fields.len())
        && (may_block || block == 0)
    {
        return Limits::new(requests, seconds, block);
    }
    let (requests, seconds) = limit.unwrap_or((STRICTEST.requests, STRICTEST.seconds));
    if !may_block {
        problems.error(
            variable(policy),
            format!(
                "must be `requests,seconds` or `off`, in whole numbers (requests from 1, seconds from 1 to 31622400), \
                 since preflights block nobody; until then, {requests},{seconds} is in force"
            ),
        );
        return Limits::new(requests, seconds, 0);
    }
    let strict_block = built_in.map_or(STRICTEST.block_seconds, |built_in| {
        built_in.block_seconds.max(STRICTEST.block_seconds)
    });
    let block = block.filter(|block| *block > 0).unwrap_or(strict_block);
    problems.error(
        variable(policy),
        format!("{FORM}; until then, {requests},{seconds},{block} is in force"),
    );
    Limits::new(requests, seconds, block)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::tests::{bad, good, limits};

    #[test]
    fn the_default_variables_set_the_limits_of_the_policy_general() {
        let vars = json!({"DEFAULT_RATE_LIMIT_MAX": "50", "DEFAULT_RATE_LIMIT_WINDOW": 30});
        assert_eq!(limits(&good(&vars), "general"), Some((50, 30, 0)));
        let vars = json!({"DEFAULT_RATE_LIMIT_MAX": "50", "RATE_LIMIT_GENERAL": "7,8"});
        assert_eq!(limits(&good(&vars), "general"), Some((7, 8, 0)));
        let config = bad(
            &json!({"DEFAULT_RATE_LIMIT_MAX": "0"}),
            "DEFAULT_RATE_LIMIT_MAX",
        );
        assert_eq!(limits(&config, "general"), Some((5, 60, 0)));
    }

    #[test]
    fn invalid_parts_of_limits_become_the_strictest_ones() {
        for text in ["", " "] {
            good(&json!({"RATE_LIMIT_AUTH": text}));
        }
        let read = |name: &str, text: &str| {
            let routes = json!([{"path": "/a", "policies": [name]}]);
            let variable = format!("RATE_LIMIT_{}", name.to_uppercase());
            let config = bad(
                &json!({&variable: text, "RATE_LIMIT_ROUTES": routes}),
                &variable,
            );
            limits(&config, name).unwrap()
        };
        for text in [
            "x",
            "30",
            "30,",
            ",60",
            "0,60",
            "30,0",
            "-1,60",
            "+1,60",
            "1.5,60",
            "30;60",
            "unlimited",
            "4294967296,60",
            "30,31622401",
            "none",
            "of",
            "1e3,60",
        ] {
            for name in ["general", "auth", "ip", "web3"] {
                assert_eq!(read(name, text), (5, 60, 900), "{name} {text}");
            }
        }
        assert_eq!(read("auth", "3,60,x"), (3, 60, 900));
        assert_eq!(read("web3", "10,60,6OO"), (10, 60, 900));
        assert_eq!(read("web3", "10,60,600,1"), (10, 60, 600));
        assert_eq!(read("web3", "1O,60,86400"), (5, 60, 86_400));
    }
}
