//! What the limiter counts, and what operators see: metrics, charts and the operator log.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::super::Duty;
use super::{Isolate, TOKEN, TestRequest, by, get, header, json_of, upstash};

const METRICS_TOKEN: &str = "a-metrics-token-of-this-test";

fn isolate() -> Isolate {
    Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "METRICS_TOKEN": METRICS_TOKEN, "RATE_LIMIT_METRICS": true,
        "RATE_LIMIT_GENERAL": "3,60", "RATE_LIMIT_IP": "off", "RATE_LIMIT_AUTH": "1,60,600",
        "RATE_LIMIT_ALLOWLIST": "198.51.100.1", "RATE_LIMIT_ROUTES": [{"path": "/login", "policies": ["auth"]}],
    }))
}

fn at(path: &str) -> TestRequest {
    get(&format!("http://localhost/_limiter/{path}"))
}

/// The samples of a scrape whose lines begin with `name`, without those of value 0.
fn samples(isolate: &Isolate, name: &str) -> Vec<String> {
    let text = isolate.answer(&at("metrics").authorized()).body;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let lines = lines.filter(|line| line.contains("limited_callers") || !line.ends_with(" 0"));
    // In memory, the last label of each sample is the isolate's name, which is random.
    lines
        .map(|line| match line.split_once("isolate=\"") {
            Some((before, after)) => format!("{before}{}", &after[16..]),
            None => line.to_owned(),
        })
        .collect()
}

#[test]
fn every_request_is_counted_by_its_outcome() {
    let isolate = isolate();
    for path in ["/a", "/b", "/a", "/a", "/login", "/login", "/login"] {
        isolate.answer(&by("192.0.2.1", path));
    }
    isolate.answer(&by("198.51.100.1", "/login"));
    assert_eq!(isolate.run_duties(), [Duty::WriteEvents, Duty::SendCounts]);
    assert_eq!(
        samples(&isolate, "edge_limiter_requests_total"),
        [
            r#"edge_limiter_requests_total{outcome="admitted",route="/login","} 1"#,
            r#"edge_limiter_requests_total{outcome="admitted",route="other","} 3"#,
            r#"edge_limiter_requests_total{outcome="blocked",route="/login","} 2"#,
            r#"edge_limiter_requests_total{outcome="denied",route="other","} 1"#,
            r#"edge_limiter_requests_total{outcome="exempt",route="other","} 1"#,
        ]
    );
    assert_eq!(
        samples(&isolate, "edge_limiter_decisions_total"),
        [
            r#"edge_limiter_decisions_total{outcome="admitted",source="memory",policy="auth","} 1"#,
            r#"edge_limiter_decisions_total{outcome="admitted",source="memory",policy="general","} 3"#,
            r#"edge_limiter_decisions_total{outcome="blocked",source="memory",policy="auth","} 2"#,
            r#"edge_limiter_decisions_total{outcome="denied",source="memory",policy="general","} 1"#,
        ]
    );
}

/// Without the 0, an alert would miss the first increase.
#[test]
fn series_that_alerts_watch_are_exposed_with_0_before_they_first_count() {
    let isolate = isolate();
    let text = isolate.answer(&at("metrics").authorized()).body;
    for series in [
        r#"edge_limiter_requests_total{outcome="denied",route="/login""#,
        r#"edge_limiter_requests_total{outcome="unavailable",route="other""#,
        r#"edge_limiter_decisions_total{outcome="admitted",source="memory",policy="auth""#,
        r#"edge_limiter_store_requests_total{result="timeout""#,
    ] {
        let line = text.lines().find(|line| line.starts_with(series));
        assert!(line.is_some_and(|line| line.ends_with(" 0")), "{series}");
    }
}

#[test]
fn checks_of_other_servers_are_counted() {
    let isolate = isolate();
    for _ in 0..3 {
        let check = at("check").authorized();
        isolate.answer(&check.sending("POST", r#"{"policy":"auth","identifier":"card:4242"}"#));
    }
    let check = at("check").authorized();
    isolate.answer(&check.sending("POST", r#"{"policy":"auth","identifier":"198.51.100.1"}"#));
    assert_eq!(
        samples(&isolate, "edge_limiter_requests_total"),
        [
            r#"edge_limiter_requests_total{outcome="admitted",route="check","} 1"#,
            r#"edge_limiter_requests_total{outcome="blocked",route="check","} 2"#,
            r#"edge_limiter_requests_total{outcome="exempt",route="check","} 1"#,
        ]
    );
    let decided = samples(&isolate, "edge_limiter_decisions_total{outcome=\"blocked\"");
    assert_eq!(
        decided,
        [r#"edge_limiter_decisions_total{outcome="blocked",source="memory",policy="auth","} 2"#]
    );
}

/// A call that changed nothing is not recorded.
#[test]
fn the_operator_log_has_the_outcome_of_a_call() {
    let isolate = isolate();
    let call = |method, path: &str| {
        let request = at(path).authorized().sending(method, "");
        isolate.answer(&request).status
    };
    assert_eq!(call("DELETE", "blocked/203.0.113.9"), 200);
    assert_eq!(
        operations(&isolate),
        [] as [Value; 0],
        "a call that lifts nothing is not recorded"
    );
    assert_eq!(call("PUT", "blocked/203.0.113.9"), 200);
    assert_eq!(operations(&isolate)[0]["outcome"], "done");
    // Redis does not answer, so the call cannot be recorded. A log line reports it instead.
    let isolate = Isolate::new(&upstash(&json!({})));
    let call = |method, path: &str| {
        let request = at(path).authorized().sending(method, "");
        let status = isolate.answer(&request).status;
        let lines = isolate.effects.lines();
        (
            status,
            lines
                .into_iter()
                .find(|line| line.starts_with("operator log"))
                .unwrap_or_default(),
        )
    };
    for (method, path, end) in [
        ("PUT", "blocked/203.0.113.9", "block: isolate"),
        ("DELETE", "blocked/203.0.113.9", "lift: failed"),
        ("DELETE", "usage/general/203.0.113.9", "reset: failed"),
    ] {
        let (status, line) = call(method, path);
        assert_eq!(status, 503);
        assert!(
            line.ends_with(end) && !line.contains("203.0.113.9"),
            "{line}"
        );
    }
}

#[test]
fn a_scraper_may_send_its_token_as_bearer_or_as_a_password() {
    let isolate = isolate();
    let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
    let status = |path: &str, authorization: &str| {
        let response = isolate.answer(&at(path).with("authorization", authorization));
        (
            response.status,
            header(&response.headers, "WWW-Authenticate").map(str::to_owned),
        )
    };
    for right in [
        format!("Bearer {METRICS_TOKEN}"),
        format!("Bearer {TOKEN}"),
        basic(&format!("prometheus:{METRICS_TOKEN}")),
        basic(&format!(":{TOKEN}")),
    ] {
        assert_eq!(status("metrics", &right), (200, None), "{right}");
    }
    let challenge = r#"Bearer realm="edge-limiter", error="invalid_token", Basic realm="edge-limiter", charset="UTF-8""#;
    for wrong in ["Bearer wrong".to_owned(), basic("prometheus:wrong")] {
        let refused = (401, Some(challenge.to_owned()));
        assert_eq!(status("metrics", &wrong), refused);
    }
    // The metrics token authorizes no other path, and a password authorizes no other path either.
    for path in ["events", "series", "store", "operations", "policies"] {
        assert_eq!(status(path, &format!("Bearer {METRICS_TOKEN}")).0, 401);
        assert_eq!(status(path, &basic(&format!(":{TOKEN}"))).0, 401);
    }
}

/// A password counts as a guess like a Bearer token.
#[test]
fn guesses_at_the_metrics_token_are_limited() {
    let isolate = isolate();
    let guess = at("metrics").with(
        "authorization",
        &format!("Basic {}", BASE64_STANDARD.encode(":wrong")),
    );
    let statuses = isolate.statuses(&guess, 301);
    assert_eq!(statuses[..300], [401; 300]);
    assert_eq!(statuses[300], 429);
}

#[test]
fn the_exposition_has_the_format_that_the_scraper_prefers() {
    let isolate = isolate();
    let kind = |accept: &str| {
        let response = isolate.answer(&at("metrics").authorized().with("accept", accept));
        let kind = header(&response.headers, "Content-Type")
            .unwrap()
            .to_owned();
        (kind, response.body.ends_with("# EOF\n"))
    };
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned();
    let text = "text/plain; version=0.0.4; charset=utf-8".to_owned();
    assert_eq!(
        kind("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
        (open, true)
    );
    for accept in ["application/openmetrics-text;q=0.1, text/plain", "*/*", ""] {
        assert_eq!(kind(accept), (text.clone(), false));
    }
}

#[test]
fn metrics_and_series_are_404_if_metrics_are_off() {
    let isolate = Isolate::new(&json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_METRICS": false}));
    isolate.answer(&by("192.0.2.1", "/a"));
    assert_eq!(isolate.run_duties(), []);
    for path in ["metrics", "series"] {
        assert_eq!(isolate.answer(&at(path).authorized()).status, 404);
    }
    assert_eq!(
        isolate.admin_json("store"),
        json!({"shared": false, "keys": null, "redis": null})
    );
}

#[test]
fn a_chart_shows_what_was_counted_in_each_step() {
    let isolate = isolate();
    isolate.answer(&by("192.0.2.1", "/login"));
    isolate.run_duties();
    isolate.effects.set(2 * 60_000);
    for path in ["/login", "/login", "/a", "/a"] {
        isolate.answer(&by("192.0.2.1", path));
    }
    isolate.run_duties();
    let series = isolate.admin_json("series");
    assert_eq!(
        (&series["window"], &series["shared"], &series["step_ms"]),
        (&json!("hour"), &json!(false), &json!(60_000))
    );
    assert_eq!(series["isolate"].as_str().unwrap().len(), 16);
    let number = |name: &str| series[name].as_u64().unwrap();
    assert_eq!(number("to") - number("from"), 120 * 60_000);
    let buckets = series["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 2, "{series}");
    assert_eq!(buckets[0]["requests"], json!({"admitted": 1}));
    assert_eq!(buckets[1]["requests"], json!({"admitted": 3, "blocked": 1}));
    assert_eq!(
        buckets[1]["policies"],
        json!({"auth": {"admitted": 1, "blocked": 1}, "general": {"admitted": 2}})
    );
    assert_eq!(buckets[1]["sources"], json!({"memory": 4}));
    // Usage is of the windows that were over when the counts were sent: one caller had used its one request.
    assert_eq!(
        buckets[1]["usage"]["auth"],
        json!([1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    );
    for (window, step) in [("day", 3_600_000_u64), ("month", 86_400_000)] {
        let series = isolate.admin_json(&format!("series?window={window}"));
        assert_eq!(series["step_ms"], json!(step));
        assert_eq!(
            series["buckets"][0]["requests"],
            json!({"admitted": 4, "blocked": 1})
        );
    }
    let bad = isolate.answer(&at("series?window=year").authorized());
    assert_eq!(bad.status, 400);
}

/// The entries of the operator log.
fn operations(isolate: &Isolate) -> Vec<Value> {
    let log = isolate.admin_json("operations");
    log["operations"].as_array().unwrap().clone()
}

#[test]
fn the_operator_log_lists_every_change_that_operators_make() {
    let isolate = isolate();
    let call = |method, path: &str, body| {
        let request = at(path).with("cf-connecting-ip", "192.0.2.7").authorized();
        isolate.answer(&request.sending(method, body)).status
    };
    assert_eq!(
        call(
            "PUT",
            "blocked/203.0.113.9",
            r#"{"seconds":600,"reason":"<b>guesses</b>"}"#
        ),
        200
    );
    assert_eq!(call("PUT", "blocked/10.0.0.0%2F8", ""), 200);
    assert_eq!(call("DELETE", "blocked/203.0.113.9", ""), 200);
    assert_eq!(call("DELETE", "usage/auth/192.0.2.1", ""), 200);
    assert_eq!(call("DELETE", "events?older_than_seconds=60", ""), 200);
    // Calls that change nothing are not listed.
    for (method, path, body) in [
        ("GET", "blocked", ""),
        ("PUT", "blocked/nothing", ""),
        ("PUT", "blocked/203.0.113.9", r#"{"seconds":"x"}"#),
        ("DELETE", "usage/nothing/192.0.2.1", ""),
        (
            "POST",
            "check",
            r#"{"policy":"auth","identifier":"192.0.2.1"}"#,
        ),
    ] {
        call(method, path, body);
    }
    let log = operations(&isolate);
    let short: Vec<_> = log
        .iter()
        .map(|it| {
            [&it["action"], &it["target"], &it["details"]].map(|it| it.as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        short,
        [
            ["forget_events", "events", "older than 60 s"],
            ["reset", "auth 192.0.2.1", "-"],
            ["lift", "203.0.113.9", "-"],
            ["block", "10.0.0.0/8", "until lifted"],
            ["block", "203.0.113.9", "600 s: <b>guesses</b>"],
        ]
    );
    for entry in &log {
        assert_eq!(
            (&entry["who"], &entry["address"]),
            (&json!("admin"), &json!("192.0.2.7"))
        );
        assert!(entry["at"].as_u64().unwrap() > 0);
    }
    assert_eq!(
        json_of(&isolate.answer(&at("operations?limit=1").authorized()))["operations"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn the_operator_log_keeps_1000_entries() {
    let isolate = isolate();
    for _ in 0..1050 {
        let request = at("usage/auth/192.0.2.1")
            .authorized()
            .sending("DELETE", "");
        assert_eq!(isolate.answer(&request).status, 200);
    }
    let log = isolate.admin_json("operations?limit=1000");
    assert_eq!(log["operations"].as_array().unwrap().len(), 1000);
}

#[test]
fn in_memory_counts_are_visible_at_once() {
    let isolate = isolate();
    for admitted in 1..4 {
        isolate.answer(&by("192.0.2.1", "/a"));
        let expected = format!(
            r#"edge_limiter_requests_total{{outcome="admitted",route="other","}} {admitted}"#
        );
        assert_eq!(samples(&isolate, "edge_limiter_requests_total"), [expected]);
    }
    assert_eq!(
        isolate.admin_json("series")["buckets"][0]["requests"],
        json!({"admitted": 3})
    );
}

/// The counts wait until Redis answers again.
#[test]
fn counts_are_not_sent_while_the_store_does_not_answer() {
    let mut vars = upstash(&json!({}));
    vars["RATE_LIMIT_METRICS"] = json!(true);
    vars["RATE_LIMIT_EVENTS"] = json!(false);
    let isolate = Isolate::new(&vars);
    // No call gets an answer, so the breaker opens.
    for caller in 0..20 {
        isolate.answer(&by(&format!("192.0.2.{caller}"), "/a"));
    }
    isolate.effects.calls();
    assert!(!isolate.run_duties().contains(&Duty::SendCounts));
    let sent = isolate.effects.calls();
    assert!(
        sent.iter().all(|(body, _)| !body.contains("RPUSH")),
        "{sent:?}"
    );
    // A duty that began before does not send either.
    isolate
        .limiter
        .run(Duty::SendCounts)
        .now_or_never()
        .unwrap();
    assert_eq!(isolate.effects.calls(), []);
}

/// In memory, a run of the schedule folds counts and removes expired entries, and counts no keys.
#[test]
fn the_schedule_runs_without_redis() {
    let isolate = isolate();
    isolate.answer(&by("192.0.2.1", "/a"));
    isolate.run_duties();
    for _ in 0..3 {
        isolate
            .limiter
            .run(Duty::RunSchedule)
            .now_or_never()
            .unwrap();
    }
    assert_eq!(isolate.effects.lines(), [] as [String; 0]);
    assert_eq!(samples(&isolate, "edge_limiter_requests_total").len(), 1);
    assert_eq!(
        isolate.admin_json("store"),
        json!({"shared": false, "keys": null, "redis": null})
    );
    assert_eq!(
        samples(&isolate, "edge_limiter_limited_callers"),
        [r#"edge_limiter_limited_callers{"} 0"#]
    );
}
