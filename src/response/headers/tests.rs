//! Tests of the headers that are made from reports.

use std::num::NonZeroU32;

use super::{Header, exposed, of};
use crate::client::{Caller, CallerKey, Ipv6Prefix};
use crate::config::Dialect;
use crate::gate::{QuotaStatus, RequestVerdict};
use crate::quota::{Algorithm, Decision, Quota, QuotaOutcome};
use crate::store::{QuotaAnswer, Source};
use crate::time::{Millis, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_500);

pub(crate) fn quota_status(
    policy: &str,
    limit: u32,
    remaining: u32,
    outcome: QuotaOutcome,
) -> QuotaStatus {
    let limit = NonZeroU32::new(limit).unwrap();
    QuotaStatus {
        policy: policy.to_owned(),
        quota: Quota::new(Algorithm::SlidingWindow, limit, Millis::new(60_000)).unwrap(),
        charged: CallerKey::Global,
        answer: QuotaAnswer {
            decision: Decision {
                outcome,
                remaining,
                reset_at: NOW + Millis::new(60_100),
                at: NOW,
            },
            blocked_until: None,
        },
    }
}

pub(crate) fn report(admitted: bool, enforced: Vec<QuotaStatus>) -> RequestVerdict {
    RequestVerdict {
        user: None,
        exempt: None,
        degraded: false,
        source: Source::Store,
        route: None,
        caller: Caller::identify(Some("192.0.2.1"), Ipv6Prefix::default()),
        cost: 1,
        admitted,
        address_block: None,
        enforced,
        shadow: Vec::new(),
    }
}

fn denied(seconds: u64) -> QuotaOutcome {
    QuotaOutcome::Denied {
        retry_at: NOW + Millis::new(seconds * 1000),
    }
}

fn text(headers: &[Header]) -> Vec<String> {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
}

#[test]
fn the_default_dialect_describes_the_tightest_quota() {
    let statuses = vec![
        quota_status("general", 120, 119, QuotaOutcome::Allowed),
        quota_status("auth", 30, 7, QuotaOutcome::Allowed),
    ];
    let headers = of(&report(true, statuses), Dialect::XRateLimit, NOW);
    assert_eq!(
        text(&headers),
        [
            "X-RateLimit-Limit: 30",
            "X-RateLimit-Remaining: 7",
            // The whole quota is available at 1764000060.600 s, and the reset is not earlier.
            "X-RateLimit-Reset: 1764000061",
            "X-RateLimit-Type: auth",
        ]
    );
}

#[test]
fn the_reset_of_a_denial_is_when_the_request_is_admitted() {
    let headers = of(
        &report(false, vec![quota_status("auth", 30, 2, denied(9))]),
        Dialect::XRateLimit,
        NOW,
    );
    assert_eq!(text(&headers)[2], "X-RateLimit-Reset: 1764000010");
}

#[test]
fn nothing_remains_during_a_block() {
    let mut blocked = quota_status("auth", 30, 25, QuotaOutcome::Allowed);
    blocked.answer.blocked_until = Some(NOW + Millis::from_secs(600));
    let headers = of(&report(false, vec![blocked]), Dialect::XRateLimit, NOW);
    assert_eq!(
        text(&headers)[1..3],
        ["X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1764000601"]
    );
}

#[test]
fn the_ietf_dialect_lists_every_policy_once() {
    let mut tight = quota_status("api", 10, 3, QuotaOutcome::Allowed);
    tight.answer.decision.reset_at = NOW + Millis::new(1);
    let statuses = vec![
        quota_status("api", 10, 9, QuotaOutcome::Allowed),
        tight,
        quota_status("ip", 1000, 900, QuotaOutcome::Allowed),
    ];
    let headers = of(&report(true, statuses), Dialect::Ietf, NOW);
    assert_eq!(
        text(&headers),
        [
            "RateLimit-Policy: \"api\";q=10;w=60, \"ip\";q=1000;w=60",
            "RateLimit: \"api\";r=3;t=1, \"ip\";r=900;t=61",
        ]
    );
}

#[test]
fn the_window_of_a_token_bucket_is_the_time_in_which_its_burst_refills() {
    let mut bucket = quota_status("api", 10, 3, QuotaOutcome::Allowed);
    let quota = Quota::new(
        Algorithm::TokenBucket,
        NonZeroU32::new(10).unwrap(),
        Millis::new(60_000),
    );
    bucket.quota = quota
        .unwrap()
        .with_burst(NonZeroU32::new(5).unwrap())
        .unwrap();
    let headers = of(&report(true, vec![bucket]), Dialect::Ietf, NOW);
    assert_eq!(headers[0].1, "\"api\";q=5;w=30");
}

#[test]
fn a_page_may_read_every_header_that_is_sent() {
    for (dialect, number) in [
        (Dialect::XRateLimit, 6),
        (Dialect::Ietf, 4),
        (Dialect::None, 0),
    ] {
        let statuses = || vec![quota_status("api", 10, 9, QuotaOutcome::Allowed)];
        let sent = RequestVerdict {
            degraded: true,
            shadow: statuses(),
            ..report(true, statuses())
        };
        let exposed: Vec<&str> = exposed(dialect).split(", ").collect();
        let mut names: Vec<&str> = of(&sent, dialect, NOW)
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(names.len(), number, "{dialect:?}");
        names.push("Retry-After");
        names.sort_unstable();
        let mut sorted = exposed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, names, "{dialect:?}");
    }
}

#[test]
fn the_silent_dialect_and_a_request_without_policies_have_no_headers() {
    let statuses = vec![quota_status("api", 10, 9, QuotaOutcome::Allowed)];
    assert_eq!(of(&report(true, statuses), Dialect::None, NOW), []);
    assert_eq!(of(&report(true, Vec::new()), Dialect::XRateLimit, NOW), []);
    assert_eq!(of(&report(true, Vec::new()), Dialect::Ietf, NOW), []);
}

#[test]
fn policies_in_shadow_mode_are_reported_in_a_header() {
    let mut report = report(true, Vec::new());
    report.shadow = vec![
        quota_status("trial", 10, 4, QuotaOutcome::Allowed),
        quota_status("web3", 10, 0, denied(9)),
    ];
    for dialect in [Dialect::XRateLimit, Dialect::Ietf] {
        let headers = of(&report, dialect, NOW);
        assert_eq!(
            text(&headers),
            ["X-RateLimit-Shadow: trial=admitted;r=4, web3=denied;r=0"]
        );
    }
}
