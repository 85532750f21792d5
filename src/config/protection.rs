//! Which addresses are exempt, which callers are blocked automatically, and which events are recorded.

use std::num::NonZeroU32;

use super::vars::{self, Vars};
use super::{Problems, Secret, unlimited_token};
use crate::blocklist::BlockTarget;
use crate::client::range::{Range, RangeMap};
use crate::events::escalation::Escalation;
use crate::time::Millis;

/// Exemptions, blocks and records, as configured.
#[derive(Clone, Debug)]
pub struct ProtectionSettings {
    /// Addresses that are never limited nor blocked.
    pub allowlist: RangeMap<()>,
    /// The token with which a request passes every limit and block, sent as `X-RateLimit-Bypass`.
    pub bypass_token: Option<Secret>,
    /// After how many denials a caller is blocked everywhere. `None`: escalation is off.
    pub escalation: Option<Escalation>,
    /// Whether events are recorded.
    pub events: bool,
    /// The share of admitted requests that are recorded, in thousandths.
    pub sample: u32,
}

pub(super) fn read(vars: &Vars, problems: &mut Problems) -> ProtectionSettings {
    let abuse = ProtectionSettings {
        allowlist: allowlist(vars, problems),
        bypass_token: unlimited_token(vars, "RATE_LIMIT_BYPASS_TOKEN", problems),
        escalation: escalation(vars, problems),
        events: vars.flag("RATE_LIMIT_EVENTS", true, problems),
        sample: sample(vars, problems),
    };
    if !abuse.events && abuse.escalation.is_some() {
        problems.warn(
            "RATE_LIMIT_ESCALATION",
            "has no effect: it needs events, and RATE_LIMIT_EVENTS is off. Set RATE_LIMIT_EVENTS to `true`, or this \
             to `off`",
        );
    }
    abuse
}

fn allowlist(vars: &Vars, problems: &mut Problems) -> RangeMap<()> {
    const NAME: &str = "RATE_LIMIT_ALLOWLIST";
    const RULE: &str = "must be a list of addresses and ranges such as 192.0.2.1, 10.0.0.0/8";
    let entries = match vars.list(NAME, Some(','), problems) {
        None => return RangeMap::default(),
        Some(Ok(entries)) => entries,
        Some(Err(())) => {
            problems.error(NAME, format!("{RULE}; until then, no address is exempt"));
            return RangeMap::default();
        }
    };
    let entries = entries.iter().enumerate();
    let mut ranges = Vec::new();
    for (index, entry) in entries.filter(|(_, entry)| !entry.is_empty()) {
        match Range::parse_loosely(entry) {
            Some((range, has_more_bits)) => {
                let is_too_wide = BlockTarget::Range(range).is_too_wide();
                if has_more_bits || is_too_wide {
                    let rule = if has_more_bits {
                        format!(
                            "has bits after its prefix, so that all of {range} is exempt; write that range, or the address without \
                             a prefix"
                        )
                    } else {
                        "is so wide that hardly any caller is limited; write a narrower range".to_owned()
                    };
                    problems.warn(format!("{NAME}[{index}]"), rule);
                }
                ranges.push((range, ()));
            }
            None => problems.error(
                format!("{NAME}[{index}]"),
                "must be an address or a range such as 10.0.0.0/8; until then, the entry is ignored",
            ),
        }
    }
    ranges.into_iter().collect()
}

fn escalation(vars: &Vars, problems: &mut Problems) -> Option<Escalation> {
    const NAME: &str = "RATE_LIMIT_ESCALATION";
    /// In force if the value is not valid.
    const STRICT: [u32; 3] = [100, 600, 600];
    let text = vars
        .text(NAME)
        .filter(|text| !text.eq_ignore_ascii_case("off"))?;
    let numbers: Option<Vec<u32>> = text
        .split(',')
        .map(|number| vars::whole(number.trim()))
        .collect();
    let read = match numbers.as_deref() {
        Some(&[denials, seconds @ 10..=86_400, block @ 1..=86_400]) if denials > 0 => {
            [denials, seconds, block]
        }
        _ => {
            problems.error(
                NAME,
                "must be `denials,seconds,block_seconds` in whole numbers (denials from 1, seconds from 10 to \
                 86400, block_seconds from 1 to 86400), or `off`; until then, 100,600,600 is in force",
            );
            STRICT
        }
    };
    let [denials, seconds, block] = read;
    Some(Escalation {
        denials: NonZeroU32::new(denials)?.get(),
        window: Millis::from_secs(seconds),
        block: Millis::from_secs(block),
    })
}

fn sample(vars: &Vars, problems: &mut Problems) -> u32 {
    const NAME: &str = "RATE_LIMIT_EVENT_SAMPLE";
    match vars.thousandths(NAME) {
        None => 0,
        Some(Ok(share)) if share <= 1000 => share,
        Some(_) => {
            problems.error(
                NAME,
                "must be a share from 0 to 1 with at most three decimals; until then, no admitted request is recorded",
            );
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::{Compiled, Config, Severity, Vars};
    use crate::events::escalation::Escalation;
    use crate::time::Millis;

    fn compile(vars: &Value) -> Compiled {
        Config::compile(&Vars::from_json(&vars.to_string()).unwrap())
    }

    fn allowed(list: &Value) -> (Vec<String>, Vec<String>) {
        let compiled = compile(&json!({"RATE_LIMIT_ALLOWLIST": list}));
        let ranges = compiled.config.protection.allowlist.iter();
        let problems = compiled.problems.iter();
        (
            ranges.map(|(range, ())| range.to_string()).collect(),
            problems.map(|problem| problem.variable.clone()).collect(),
        )
    }

    #[test]
    fn an_allowlist_may_be_text_a_list_or_json_text() {
        let both = ["10.0.0.0/8", "192.0.2.1"].map(str::to_owned).to_vec();
        for list in [
            json!("192.0.2.1, 10.0.0.0/8"),
            json!("192.0.2.1,,10.0.0.0/8,"),
            json!(["192.0.2.1", " 10.0.0.0/8"]),
            json!(r#"["192.0.2.1","10.0.0.0/8"]"#),
        ] {
            assert_eq!(allowed(&list), (both.clone(), vec![]), "{list}");
        }
        assert_eq!(allowed(&json!("")), (vec![], vec![]));
    }

    #[test]
    fn an_invalid_entry_of_the_allowlist_is_ignored_and_reported_by_its_index() {
        let (ranges, problems) = allowed(&json!("192.0.2.1, sEcReT, 10.0.0.0/33"));
        assert_eq!(ranges, ["192.0.2.1"]);
        assert_eq!(
            problems,
            ["RATE_LIMIT_ALLOWLIST[1]", "RATE_LIMIT_ALLOWLIST[2]"]
        );
        for list in [json!(7), json!({"a": 1}), json!("[1"), json!(true)] {
            let (ranges, problems) = allowed(&list);
            assert_eq!((ranges.len(), problems.len()), (0, 1), "{list}");
        }
        let (ranges, problems) = allowed(&json!([1, "10.0.0.0/8"]));
        assert_eq!((ranges.len(), problems.len()), (1, 1));
    }

    /// `10.9.8.7/8` exempts 16 million addresses. Its author may have meant one.
    #[test]
    fn a_range_with_bits_after_its_prefix_is_a_warning_that_names_the_range() {
        for (text, meant) in [
            ("10.9.8.7/8", "10.0.0.0/8"),
            ("192.0.2.1/31", "192.0.2.0/31"),
            ("2001:db8::7/32", "2001:db8::/32"),
            ("::ffff:192.0.2.9/120", "192.0.2.0/24"),
            ("10.9.8.7/0", "0.0.0.0/0"),
        ] {
            let compiled = compile(&json!({"RATE_LIMIT_ALLOWLIST": ["192.0.2.1", text]}));
            let [problem] = compiled.problems.as_slice() else {
                panic!("{text}: {:?}", compiled.problems);
            };
            assert_eq!(
                (&*problem.variable, problem.severity),
                ("RATE_LIMIT_ALLOWLIST[1]", Severity::Warning)
            );
            assert!(problem.rule.contains(meant), "{problem}");
            let mut ranges = compiled.config.protection.allowlist.iter();
            assert!(
                ranges.any(|(range, ())| range.to_string() == meant),
                "{text}"
            );
        }
        for text in [
            "10.0.0.0/8",
            "192.0.2.1/32",
            "2001:db8::1/128",
            "2001:db8::/32",
            "::/96",
        ] {
            let (_, problems) = allowed(&json!(text));
            assert_eq!(problems.len(), 0, "{text}");
        }
    }

    #[test]
    fn an_allowlist_that_exempts_nearly_every_address_is_a_warning() {
        let compiled = compile(&json!({"RATE_LIMIT_ALLOWLIST": "10.0.0.0/8, 10.0.0.0/0, ::/3"}));
        let named = compiled.problems.iter().map(|problem| &*problem.variable);
        let named: Vec<&str> = named.collect();
        assert_eq!(
            named,
            ["RATE_LIMIT_ALLOWLIST[1]", "RATE_LIMIT_ALLOWLIST[2]"]
        );
        assert!(!compiled.has_errors());
    }

    #[test]
    fn escalation_is_off_unless_set() {
        let read = |value: Value| {
            let compiled = compile(&json!({"RATE_LIMIT_ESCALATION": value}));
            (compiled.config.protection.escalation, compiled.has_errors())
        };
        let rule = |denials, seconds, block| Escalation {
            denials,
            window: Millis::from_secs(seconds),
            block: Millis::from_secs(block),
        };
        assert_eq!(compile(&json!({})).config.protection.escalation, None);
        assert_eq!(read(json!("off")), (None, false));
        assert_eq!(read(json!("5, 60, 30")), (Some(rule(5, 60, 30)), false));
        for bad in [
            "5,60",
            "0,60,30",
            "5,9,30",
            "5,60,0",
            "5,60,86401",
            "a,b,c",
            "5,60,30,1",
        ] {
            assert_eq!(read(json!(bad)), (Some(rule(100, 600, 600)), true), "{bad}");
        }
    }

    #[test]
    fn escalation_without_events_is_a_warning() {
        let vars = json!({"RATE_LIMIT_ESCALATION": "5,60,30", "RATE_LIMIT_EVENTS": false});
        let compiled = compile(&vars);
        assert_eq!(compiled.problems.len(), 1);
        assert!(!compiled.has_errors());
    }

    #[test]
    fn the_sample_of_events_is_a_share_from_0_to_1() {
        let read = |value: Value| {
            let compiled = compile(&json!({"RATE_LIMIT_EVENT_SAMPLE": value}));
            (compiled.config.protection.sample, compiled.has_errors())
        };
        assert_eq!(read(json!(0)), (0, false));
        assert_eq!(read(json!(1)), (1000, false));
        assert_eq!(read(json!("0.05")), (50, false));
        for bad in [json!(2), json!(-1), json!("half"), json!(0.0001)] {
            assert_eq!(read(bad), (0, true));
        }
    }
}
