//! The schema: every key that the limiter has in Redis, spelled here and nowhere else.

use std::fmt::Write;

/// A key, without the prefix.
///
/// `quota` is a quota's own name, `{policy}:{caller}`; `address` a caller's canonical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// `{policy}:{caller}`. Text: the state of one quota of one caller. TTL: for as long as it
    /// matters.
    Quota(&'a str),
    /// `{policy}:{caller}:blocked`. Text: the end of the policy's own block of the caller, in ms. TTL:
    /// the block.
    QuotaBlock(&'a str),
    /// `absorbed:{name}`. Text: what of the units that an isolate admitted alone, and sends under this
    /// name, has been counted. TTL: the state's.
    Absorbed(&'a str),
    /// `blocked:{address}`. JSON: a block of the address everywhere. TTL: the block, none for one
    /// without an end.
    BlockedAddress(&'a str),
    /// `blocked_ips`. Sorted set: blocked addresses by the end of their block, in ms. TTL: longer than
    /// the longest block, none while it lists a block without an end.
    BlockedAddresses,
    /// `blocked_policies`. Sorted set: quotas whose policy blocks their caller, by the block's end, in
    /// ms. TTL: longer than the longest block.
    BlockedPolicies,
    /// `blocked_ranges`. Hash: blocked ranges and their blocks, JSON, and under `version` the version of
    /// the ranges that it holds.
    BlockedRanges,
    /// `blocked_ranges:version`. Text: the version of the blocked ranges and of the list of blocked
    /// addresses, which changes with every block set or lifted.
    BlockedRangesVersion,
    /// `blocked_ranges:lifted`. Sorted set: ranges lifted in the last day, by when, in ms. TTL: a day.
    LiftedRanges,
    /// `events`. Sorted set: events, JSON, by their time in ms. TTL: a week.
    Events,
    /// `events:left_out`. Text: events that no record counts. TTL: a week.
    EventsLeftOut,
    /// `suspicious:{hour}`. Sorted set: `{policy} {caller}` by its denials in that hour since the epoch.
    /// TTL: 25 hours.
    Suspicious(u64),
    /// `escalation:{address}:{part}`. Text: denials of the address in one part of the escalation's
    /// window. TTL: the window and two parts.
    Escalation(&'a str, u64),
    /// `metrics:pending`. List: what isolates have counted, a batch each, JSON, until it is folded.
    PendingCounts,
    /// `metrics:totals`. JSON: the sum of all that was folded. TTL: 450 days without more.
    TotalCounts,
    /// `metrics:minutes:{hour}`, since the epoch. JSON: what was counted in each minute of the hour. TTL: 26 hours.
    MinuteCounts(u64),
    /// `metrics:hours:{day}`, since the epoch. JSON: what was counted in each hour of the day. TTL: 34 days.
    HourCounts(u64),
    /// `metrics:days:{thirty days}`, since the epoch. JSON: what was counted in each of 30 days. TTL: 516 days.
    DayCounts(u64),
    /// `metrics:gauges`. JSON: what the schedule has gathered last. TTL: an hour.
    Gauges,
    /// `operations`. List: what operators have done, JSON, the latest 1,000. TTL: 90 days.
    Operations,
    /// `app/{key}`. Text: a value of the application's own. TTL: what the application says. No policy's name has a slash.
    Application(&'a str),
    /// `escalated:{address}`. Text: how often the escalation has blocked the address. TTL: two days.
    Escalated(&'a str),
}

/// Writes keys under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Every key starts with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// The pattern that all keys match, and none of another prefix (`SCAN`, `MATCH`).
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

    /// A key's whole text.
    #[must_use]
    pub fn text(&self, key: Key<'_>) -> String {
        let mut text = String::with_capacity(self.prefix.len() + 48);
        self.write(key, &mut text);
        text
    }

    /// Appends a key's whole text.
    pub fn write(&self, key: Key<'_>, text: &mut String) {
        text.push_str(&self.prefix);
        let parts: [&str; 3] = match key {
            Key::Quota(quota) => [quota, "", ""],
            Key::QuotaBlock(quota) => [quota, ":blocked", ""],
            Key::Absorbed(name) => ["absorbed:", name, ""],
            Key::BlockedAddress(address) => ["blocked:", address, ""],
            Key::BlockedAddresses => ["blocked_ips", "", ""],
            Key::BlockedPolicies => ["blocked_policies", "", ""],
            Key::BlockedRanges => ["blocked_ranges", "", ""],
            Key::BlockedRangesVersion => ["blocked_ranges:version", "", ""],
            Key::LiftedRanges => ["blocked_ranges:lifted", "", ""],
            Key::Events => ["events", "", ""],
            Key::EventsLeftOut => ["events:left_out", "", ""],
            Key::Suspicious(_) => ["suspicious:", "", ""],
            Key::Escalation(address, _) => ["escalation:", address, ":"],
            Key::Escalated(address) => ["escalated:", address, ""],
            Key::PendingCounts => ["metrics:pending", "", ""],
            Key::TotalCounts => ["metrics:totals", "", ""],
            Key::MinuteCounts(_) => ["metrics:minutes:", "", ""],
            Key::HourCounts(_) => ["metrics:hours:", "", ""],
            Key::DayCounts(_) => ["metrics:days:", "", ""],
            Key::Gauges => ["metrics:gauges", "", ""],
            Key::Operations => ["operations", "", ""],
            Key::Application(key) => ["app/", key, ""],
        };
        for part in parts {
            text.push_str(part);
        }
        if let Key::Suspicious(number)
        | Key::Escalation(_, number)
        | Key::MinuteCounts(number)
        | Key::HourCounts(number)
        | Key::DayCounts(number) = key
        {
            // Writing to a String cannot fail.
            let _ = write!(text, "{number}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Keys};

    /// Operators read these, and older versions wrote them.
    #[test]
    fn the_schema_is_what_the_readme_says() {
        for (key, text) in [
            (Key::Quota("auth:192.0.2.1"), "t:auth:192.0.2.1"),
            (
                Key::QuotaBlock("auth:192.0.2.1"),
                "t:auth:192.0.2.1:blocked",
            ),
            (Key::Absorbed("0f"), "t:absorbed:0f"),
            (
                Key::BlockedAddress("2001:db8::/64"),
                "t:blocked:2001:db8::/64",
            ),
            (Key::BlockedAddresses, "t:blocked_ips"),
            (Key::BlockedPolicies, "t:blocked_policies"),
            (Key::BlockedRanges, "t:blocked_ranges"),
            (Key::BlockedRangesVersion, "t:blocked_ranges:version"),
            (Key::LiftedRanges, "t:blocked_ranges:lifted"),
            (Key::Events, "t:events"),
            (Key::EventsLeftOut, "t:events:left_out"),
            (Key::Suspicious(490_000), "t:suspicious:490000"),
            (Key::Escalation("192.0.2.1", 7), "t:escalation:192.0.2.1:7"),
            (Key::Escalated("192.0.2.1"), "t:escalated:192.0.2.1"),
            (Key::PendingCounts, "t:metrics:pending"),
            (Key::TotalCounts, "t:metrics:totals"),
            (Key::MinuteCounts(490_000), "t:metrics:minutes:490000"),
            (Key::HourCounts(20_416), "t:metrics:hours:20416"),
            (Key::DayCounts(680), "t:metrics:days:680"),
            (Key::Gauges, "t:metrics:gauges"),
            (Key::Operations, "t:operations"),
            (Key::Application("blocked:a"), "t:app/blocked:a"),
        ] {
            assert_eq!(Keys::new("t:").text(key), text);
        }
    }
}
