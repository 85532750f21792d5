//! The schema of Redis: every key of the limiter is spelled here and nowhere else.
//!
//! # Cluster
//!
//! In a Redis Cluster, a command or a script can only use keys of one slot. A key's hash tag, the text in its
//! first pair of braces, chooses the slot. With [`Keys::clustered`], the keys of one caller have the caller as
//! their tag, and all other records have `{records}`. So what concerns only one caller is one step, and callers
//! spread over the slots. The tag is the caller's text, and is the same in a quota and in a block of the
//! caller's address. No [`CallerKey`](crate::client::CallerKey) contains braces.

use std::fmt::Write;

/// A key, without the prefix.
///
/// A quota is named `{policy}:{caller}`. An address is a caller's canonical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisKey<'a> {
    /// `{policy}:{caller}`. Text: the states of one quota of one caller. TTL: as long as they
    /// matter.
    Quota(&'a str),
    /// `{policy}:{caller}:blocked`. Text: the end of the policy's own block of the caller, in ms since
    /// the epoch. TTL: the block.
    QuotaBlock(&'a str),
    /// `absorbed:{name}`, for a quota and the name of an isolate's backlog. Text: which units of this backlog have
    /// been counted. TTL: the state's. In a cluster: `absorbed:{caller}:{name}`.
    Absorbed(&'a str, &'a str),
    /// `blocked:{address}`. JSON: a block of the address everywhere. TTL: the block. None if it has no
    /// end.
    BlockedAddress(&'a str),
    /// `blocked_ips`. Sorted set: blocked addresses by the end of their block, in ms. TTL: longer than
    /// the longest block. None while it lists a block without an end.
    BlockedAddresses,
    /// `blocked_policies`. Sorted set: quotas whose policy blocks their caller, by the block's end, in
    /// ms. TTL: longer than the longest block.
    BlockedPolicies,
    /// `blocked_ranges`. Hash: blocked ranges and their blocks, JSON. The field `version` has the version of
    /// these ranges.
    BlockedRanges,
    /// `blocked_ranges:version`. Text: the version of the blocked ranges and of the list of blocked
    /// addresses. It changes with every block that is set or lifted.
    BlockedRangesVersion,
    /// `blocked_ranges:lifted`. Sorted set: ranges lifted in the last day, by the time of the lift in ms. TTL: a
    /// day.
    LiftedRanges,
    /// `events`. Sorted set: events, JSON, by their time in ms. TTL: a week.
    Events,
    /// `events:left_out`. Text: the number of events that no record counts. TTL: a week.
    EventsLeftOut,
    /// `suspicious:{hour}`. Sorted set: `{policy} {caller}` by its denials in that hour since the epoch.
    /// TTL: 25 hours.
    Suspicious(u64),
    /// `escalation:{address}:{part}`. Text: the number of denials of the address in one part of the
    /// escalation's window. TTL: the window and two parts.
    EscalationDenials(&'a str, u64),
    /// `metrics:pending`. List: batches of counts that isolates have written, JSON. Folding removes them.
    PendingCounts,
    /// `metrics:totals`. JSON: the sum of all folded counts. TTL: 450 days after the last folding.
    TotalCounts,
    /// `metrics:minutes:{hour}`, hours since the epoch. JSON: counts in each minute of the hour. TTL: 26 hours.
    MinuteCounts(u64),
    /// `metrics:hours:{day}`, days since the epoch. JSON: counts in each hour of the day. TTL: 34 days.
    HourCounts(u64),
    /// `metrics:days:{number}`, periods of 30 days since the epoch. JSON: counts in each day of the period. TTL:
    /// 516 days.
    DayCounts(u64),
    /// `metrics:gauges`. JSON: the gauges that the schedule gathered last. TTL: an hour.
    Gauges,
    /// `operations`. List: the latest 1,000 actions of operators, JSON. TTL: 90 days.
    Operations,
    /// `app/{key}`. Text: a value that the application stores. TTL: as the application sets it. No policy's name
    /// contains a slash.
    Application(&'a str),
    /// `escalated:{address}`. Text: how often the escalation has blocked the address. TTL: two
    /// days.
    EscalationCount(&'a str),
}

/// Writes keys under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    is_clustered: bool,
}

/// The hash tag of records that belong to no caller, in a cluster.
const RECORDS: &str = "{records}:";

/// The caller in a quota's name `{policy}:{caller}`.
#[must_use]
pub fn caller_of(quota: &str) -> &str {
    policy_and_caller(quota).1
}

/// Splits a quota's name at its first colon. No policy's name contains a colon.
fn policy_and_caller(quota: &str) -> (&str, &str) {
    quota.split_at(quota.find(':').map_or(0, |colon| colon + 1))
}

impl Keys {
    /// Keys that start with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            is_clustered: false,
        }
    }

    /// Keys for a Redis Cluster: they start with `prefix`, which must contain no brace, and have a hash tag.
    pub fn clustered(prefix: impl Into<String>) -> Self {
        Self {
            is_clustered: true,
            ..Self::new(prefix)
        }
    }

    /// Whether the keys have hash tags.
    #[must_use]
    pub const fn is_clustered(&self) -> bool {
        self.is_clustered
    }

    /// The pattern for `SCAN` with `MATCH` that all keys match, and no key with another prefix.
    #[must_use]
    pub fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 1);
        for char in self.prefix.chars() {
            if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern.push('*');
        pattern
    }

    /// A key's text with the prefix.
    #[must_use]
    pub fn text(&self, key: RedisKey<'_>) -> String {
        let mut text = String::with_capacity(self.prefix.len() + 48);
        self.write(key, &mut text);
        text
    }

    /// Appends a key's text with the prefix.
    pub fn write(&self, key: RedisKey<'_>, text: &mut String) {
        text.push_str(&self.prefix);
        let [kind, caller, after, rest] = match key {
            RedisKey::Quota(quota) => {
                let (policy, caller) = policy_and_caller(quota);
                [policy, caller, "", ""]
            }
            RedisKey::QuotaBlock(quota) => {
                let (policy, caller) = policy_and_caller(quota);
                [policy, caller, ":blocked", ""]
            }
            RedisKey::Absorbed(quota, name) => match self.is_clustered {
                true => ["absorbed:", caller_of(quota), ":", name],
                false => ["absorbed:", "", "", name],
            },
            RedisKey::BlockedAddress(address) => ["blocked:", address, "", ""],
            RedisKey::BlockedAddresses => ["blocked_ips", "", "", ""],
            RedisKey::BlockedPolicies => ["blocked_policies", "", "", ""],
            RedisKey::BlockedRanges => ["blocked_ranges", "", "", ""],
            RedisKey::BlockedRangesVersion => ["blocked_ranges:version", "", "", ""],
            RedisKey::LiftedRanges => ["blocked_ranges:lifted", "", "", ""],
            RedisKey::Events => ["events", "", "", ""],
            RedisKey::EventsLeftOut => ["events:left_out", "", "", ""],
            RedisKey::Suspicious(_) => ["suspicious:", "", "", ""],
            RedisKey::EscalationDenials(address, _) => ["escalation:", address, ":", ""],
            RedisKey::EscalationCount(address) => ["escalated:", address, "", ""],
            RedisKey::PendingCounts => ["metrics:pending", "", "", ""],
            RedisKey::TotalCounts => ["metrics:totals", "", "", ""],
            RedisKey::MinuteCounts(_) => ["metrics:minutes:", "", "", ""],
            RedisKey::HourCounts(_) => ["metrics:hours:", "", "", ""],
            RedisKey::DayCounts(_) => ["metrics:days:", "", "", ""],
            RedisKey::Gauges => ["metrics:gauges", "", "", ""],
            RedisKey::Operations => ["operations", "", "", ""],
            RedisKey::Application(key) => ["app/", "", "", key],
        };
        let is_tagged = self.is_clustered && !caller.is_empty();
        let [open, close] = if is_tagged { ["{", "}"] } else { ["", ""] };
        let is_application = matches!(key, RedisKey::Application(_));
        let records = match self.is_clustered && !is_tagged && !is_application {
            true => RECORDS,
            false => "",
        };
        for part in [records, kind, open, caller, close, after, rest] {
            text.push_str(part);
        }
        if let RedisKey::Suspicious(number)
        | RedisKey::EscalationDenials(_, number)
        | RedisKey::MinuteCounts(number)
        | RedisKey::HourCounts(number)
        | RedisKey::DayCounts(number) = key
        {
            // Writing to a String cannot fail.
            let _ = write!(text, "{number}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use redis_protocol::redis_keyslot;

    use super::{Keys, RedisKey};
    use crate::client::{AddressPrefix, CallerKey, Ipv6Prefix};

    /// The keys must not change, because operators read them and older versions wrote them.
    #[test]
    fn keys_are_spelled_as_the_documentation_says() {
        for (key, text) in [
            (RedisKey::Quota("auth:192.0.2.1"), "t:auth:192.0.2.1"),
            (
                RedisKey::QuotaBlock("auth:192.0.2.1"),
                "t:auth:192.0.2.1:blocked",
            ),
            (RedisKey::Absorbed("auth:192.0.2.1", "0f"), "t:absorbed:0f"),
            (
                RedisKey::BlockedAddress("2001:db8::/64"),
                "t:blocked:2001:db8::/64",
            ),
            (RedisKey::BlockedAddresses, "t:blocked_ips"),
            (RedisKey::BlockedPolicies, "t:blocked_policies"),
            (RedisKey::BlockedRanges, "t:blocked_ranges"),
            (RedisKey::BlockedRangesVersion, "t:blocked_ranges:version"),
            (RedisKey::LiftedRanges, "t:blocked_ranges:lifted"),
            (RedisKey::Events, "t:events"),
            (RedisKey::EventsLeftOut, "t:events:left_out"),
            (RedisKey::Suspicious(490_000), "t:suspicious:490000"),
            (
                RedisKey::EscalationDenials("192.0.2.1", 7),
                "t:escalation:192.0.2.1:7",
            ),
            (
                RedisKey::EscalationCount("192.0.2.1"),
                "t:escalated:192.0.2.1",
            ),
            (RedisKey::PendingCounts, "t:metrics:pending"),
            (RedisKey::TotalCounts, "t:metrics:totals"),
            (RedisKey::MinuteCounts(490_000), "t:metrics:minutes:490000"),
            (RedisKey::HourCounts(20_416), "t:metrics:hours:20416"),
            (RedisKey::DayCounts(680), "t:metrics:days:680"),
            (RedisKey::Gauges, "t:metrics:gauges"),
            (RedisKey::Operations, "t:operations"),
            (RedisKey::Application("blocked:a"), "t:app/blocked:a"),
        ] {
            assert_eq!(Keys::new("t:").text(key), text);
        }
    }

    #[test]
    fn keys_of_a_cluster_have_the_caller_or_records_as_their_tag() {
        for (key, text) in [
            (RedisKey::Quota("auth:192.0.2.1"), "t:auth:{192.0.2.1}"),
            (RedisKey::Quota("ip:2001:db8::/64"), "t:ip:{2001:db8::/64}"),
            (
                RedisKey::QuotaBlock("auth:192.0.2.1"),
                "t:auth:{192.0.2.1}:blocked",
            ),
            (
                RedisKey::Absorbed("auth:192.0.2.1", "0f"),
                "t:absorbed:{192.0.2.1}:0f",
            ),
            (
                RedisKey::BlockedAddress("2001:db8::/64"),
                "t:blocked:{2001:db8::/64}",
            ),
            (
                RedisKey::EscalationDenials("192.0.2.1", 7),
                "t:escalation:{192.0.2.1}:7",
            ),
            (
                RedisKey::EscalationCount("192.0.2.1"),
                "t:escalated:{192.0.2.1}",
            ),
            (RedisKey::BlockedAddresses, "t:{records}:blocked_ips"),
            (
                RedisKey::BlockedRangesVersion,
                "t:{records}:blocked_ranges:version",
            ),
            (
                RedisKey::Suspicious(490_000),
                "t:{records}:suspicious:490000",
            ),
            (
                RedisKey::MinuteCounts(490_000),
                "t:{records}:metrics:minutes:490000",
            ),
            (RedisKey::Application("a"), "t:app/a"),
        ] {
            assert_eq!(Keys::clustered("t:").text(key), text);
        }
    }

    /// The slots of all keys that a caller can have.
    fn slots_of(prefix: &str, caller: &CallerKey) -> Vec<u16> {
        let keys = Keys::clustered(prefix);
        let caller = caller.to_string();
        let [general, ip] = ["general", "ip"].map(|policy| format!("{policy}:{caller}"));
        [
            RedisKey::Quota(&general),
            RedisKey::QuotaBlock(&general),
            RedisKey::Absorbed(&general, "0f"),
            RedisKey::Quota(&ip),
            RedisKey::Absorbed(&ip, "1f"),
            RedisKey::BlockedAddress(&caller),
            RedisKey::EscalationDenials(&caller, 7),
            RedisKey::EscalationDenials(&caller, 8),
            RedisKey::EscalationCount(&caller),
        ]
        .map(|key| redis_keyslot(keys.text(key).as_bytes()))
        .to_vec()
    }

    #[test]
    fn all_keys_of_a_caller_are_in_one_slot() {
        for caller in [
            CallerKey::Unidentified,
            CallerKey::Global,
            CallerKey::user("{alice}"),
            CallerKey::header("x-api-key", "}{"),
            CallerKey::id("{}"),
            CallerKey::parse("192.0.2.1").unwrap(),
            CallerKey::parse("2001:db8::/64").unwrap(),
            CallerKey::parse("network-2001:db8:1::/48").unwrap(),
        ] {
            for prefix in ["", "t:", "*?[a]\\:"] {
                let slots = slots_of(prefix, &caller);
                assert!(
                    slots.iter().all(|slot| *slot == slots[0]),
                    "{caller} {slots:?}"
                );
            }
        }
    }

    #[test]
    fn all_records_are_in_one_slot() {
        let keys = Keys::clustered("t:");
        let records = [
            RedisKey::BlockedAddresses,
            RedisKey::BlockedPolicies,
            RedisKey::BlockedRanges,
            RedisKey::BlockedRangesVersion,
            RedisKey::LiftedRanges,
            RedisKey::Events,
            RedisKey::EventsLeftOut,
            RedisKey::Suspicious(1),
            RedisKey::Suspicious(2),
            RedisKey::PendingCounts,
            RedisKey::TotalCounts,
            RedisKey::MinuteCounts(1),
            RedisKey::HourCounts(1),
            RedisKey::DayCounts(1),
            RedisKey::Gauges,
            RedisKey::Operations,
        ];
        let slots = records.map(|key| redis_keyslot(keys.text(key).as_bytes()));
        assert_eq!(slots, [slots[0]; 16]);
    }

    /// Three masters have a third of the slots each, as `redis-cli --cluster create` assigns them. No master's
    /// share of callers differs from a third by more than a fifth.
    #[test]
    fn callers_spread_evenly_over_the_masters() {
        const CALLERS: u32 = 10_000;
        type Numbered = fn(u32) -> CallerKey;
        let kinds: [(&str, Numbered); 4] = [
            ("neighbours", |number| {
                address(Ipv4Addr::from(0x0a00_0000 + number).into())
            }),
            ("IPv4", |number| {
                address(Ipv4Addr::from(number.wrapping_mul(0x9e37_79b1)).into())
            }),
            ("IPv6", |number| {
                let network = (0x2001_0db8_u128 << 96) | (u128::from(number) << 64);
                address(Ipv6Addr::from(network).into())
            }),
            ("users", |number| CallerKey::user(&number.to_string())),
        ];
        for (kind, caller) in kinds {
            let mut masters = [0_u32; 3];
            for number in 0..CALLERS {
                let slot = slots_of("ratelimit:", &caller(number))[0];
                masters[usize::from(slot) * 3 / 16_384] += 1;
            }
            let even = CALLERS / 3;
            for callers in masters {
                assert!(
                    callers.abs_diff(even) <= even / 5,
                    "{kind}: {masters:?} callers"
                );
            }
        }
    }

    fn address(address: IpAddr) -> CallerKey {
        CallerKey::Address(AddressPrefix::of(address, Ipv6Prefix::new(64).unwrap()))
    }
}
