//! Counts on their way from isolates to totals, charts and expositions.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::FutureExt;
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::{Value, json};

use super::exposition::{Exposition, Format, write};
use super::gauges::{GaugeReading, Gauges};
use super::records::{BlockedNow, BucketWidth, Overview};
use super::{CounterSet, Metrics, RequestOutcome, StoreCounts};
use crate::config::{Config, Vars};
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::{Command, Database};
use crate::seed::Seed;
use crate::store::StoreError;
use crate::store::conformance::START;
use crate::store::stand_in::StandIn;
use crate::time::{Millis, Timestamp};

/// A Redis that answers, whose answer is lost, or that is not reached.
#[derive(Clone, Default)]
struct Redis {
    inner: Rc<Emulator>,
    next: Rc<Cell<DatabaseFault>>,
    commands: Rc<Cell<usize>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum DatabaseFault {
    #[default]
    None,
    AnswerLost,
    Unreachable,
}

impl Database for Redis {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        self.commands.set(self.commands.get() + commands.len());
        match self.next.take() {
            DatabaseFault::Unreachable => Err(StoreError::Unreachable),
            DatabaseFault::AnswerLost => {
                let _ = self.inner.run(commands, now).await;
                Err(StoreError::Timeout)
            }
            DatabaseFault::None => self.inner.run(commands, now).await,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

fn config() -> Config {
    let vars = json!({
        "RATE_LIMIT_AUTH": "5,60,600",
        "RATE_LIMIT_ROUTES": [{"path": "/login", "policies": ["auth"]}],
    });
    Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config
}

fn at(seconds: u32) -> Timestamp {
    START + Millis::from_secs(seconds)
}

fn records(redis: &Redis) -> Records<Redis> {
    Records::new(redis.clone(), Keys::new("t:"))
}

fn send(isolate: &Metrics, records: &Records<Redis>, now: Timestamp) {
    let store = StoreCounts::default();
    let sent = isolate.send(records, &store, now);
    sent.now_or_never().unwrap();
}

fn totals(records: &Records<Redis>, now: Timestamp) -> CounterSet {
    let overview = records.overview(now).now_or_never().unwrap();
    overview.unwrap().counts
}

fn admitted(series: &CounterSet) -> u64 {
    series.get("requests admitted other")
}

#[test]
fn the_counts_of_isolates_are_summed_by_route_and_outcome() {
    let redis = Redis::default();
    let records = records(&redis);
    let [one, other] = [(); 2].map(|()| Metrics::new(&config(), &Seed::fixed()));
    for _ in 0..3 {
        one.count_request(Some(0), RequestOutcome::Denied);
        other.count_request(Some(0), RequestOutcome::Denied);
    }
    other.count_request(None, RequestOutcome::Blocked);
    send(&one, &records, at(0));
    send(&other, &records, at(1));
    let sum = totals(&records, at(1));
    assert_eq!(sum.get("requests denied /login"), 6);
    assert_eq!(sum.get("requests blocked other"), 1);
}

/// A flush costs one command, or none if nothing was counted since the last.
#[test]
fn an_idle_isolate_sends_nothing() {
    let redis = Redis::default();
    let records = records(&redis);
    let isolate = Metrics::new(&config(), &Seed::fixed());
    assert!(!isolate.should_send(0, at(0)));
    isolate.count_request(None, RequestOutcome::Admitted);
    assert!(isolate.should_send(0, at(0)));
    assert!(!isolate.should_send(0, at(0)), "another duty sends already");
    send(&isolate, &records, at(15));
    // The first batch of a list costs a second command, which sets the list's expiry.
    assert_eq!(redis.commands.get(), 2);
    assert!(!isolate.should_send(0, at(30)));
    send(&isolate, &records, at(30));
    assert_eq!(redis.commands.get(), 2);
    isolate.count_request(None, RequestOutcome::Admitted);
    send(&isolate, &records, at(45));
    assert_eq!(redis.commands.get(), 3);
}

/// The control plane and the schedule send commands too, and an isolate may do nothing else.
#[test]
fn fifty_unsent_commands_are_sent_even_if_no_request_was_counted() {
    let redis = Redis::default();
    let records = records(&redis);
    let isolate = Metrics::new(&config(), &Seed::fixed());
    assert!(!isolate.should_send(49, at(0)));
    assert!(isolate.should_send(50, at(0)));
    let store = StoreCounts {
        commands: 50,
        ..StoreCounts::default()
    };
    isolate
        .send(&records, &store, at(15))
        .now_or_never()
        .unwrap();
    assert_eq!(totals(&records, at(15)).get("commands"), 50);
    assert!(!isolate.should_send(51, at(30)));
}

/// Otherwise isolates would wait for ever for a fold of a list that has expired.
#[test]
fn an_isolate_sends_again_after_a_full_list_has_expired() {
    let redis = Redis::default();
    let records = records(&redis);
    let isolate = Metrics::new(&config(), &Seed::fixed());
    isolate.count_request(None, RequestOutcome::Admitted);
    isolate.pending.set(super::records::MAX_PENDING);
    send(&isolate, &records, at(0));
    assert_eq!(admitted(&totals(&records, at(0))), 0);
    send(&isolate, &records, at(15));
    assert_eq!(admitted(&totals(&records, at(15))), 1);
}

/// Even if no schedule runs, the list stays short.
#[test]
fn isolates_fold_a_long_list_themselves() {
    let redis = Redis::default();
    let records = records(&redis);
    let isolate = Metrics::new(&config(), &Seed::fixed());
    for flush in 0..600 {
        isolate.count_request(None, RequestOutcome::Admitted);
        send(&isolate, &records, at(flush * 15));
    }
    let listed = redis.inner.run(
        vec![crate::redis::command([
            "LRANGE",
            "t:metrics:pending",
            "0",
            "999",
        ])],
        at(9000),
    );
    let listed = listed.now_or_never().unwrap().unwrap();
    assert!(listed[0].as_array().unwrap().len() < 60);
    assert_eq!(admitted(&totals(&records, at(9000))), 600);
    // One command for each flush, and a few for each fold.
    assert!(redis.commands.get() < 600 * 2, "{}", redis.commands.get());
}

#[derive(Clone, Debug)]
enum MetricsStep {
    Count {
        isolate: usize,
        requests: u64,
    },
    Flush {
        isolate: usize,
        fault: DatabaseFault,
    },
    Fold {
        fault: DatabaseFault,
    },
    Evict {
        isolate: usize,
    },
    Wait {
        seconds: u32,
    },
}

fn event() -> impl Strategy<Value = MetricsStep> {
    let fault = || {
        prop_oneof![
            4 => Just(DatabaseFault::None),
            1 => Just(DatabaseFault::AnswerLost),
            1 => Just(DatabaseFault::Unreachable),
        ]
    };
    prop_oneof![
        4 => (0..2_usize, 1..9_u64).prop_map(|(isolate, requests)| MetricsStep::Count { isolate, requests }),
        4 => (0..2_usize, fault()).prop_map(|(isolate, fault)| MetricsStep::Flush { isolate, fault }),
        2 => fault().prop_map(|fault| MetricsStep::Fold { fault }),
        1 => (0..2_usize).prop_map(|isolate| MetricsStep::Evict { isolate }),
        1 => (0..100_u32).prop_map(|seconds| MetricsStep::Wait { seconds }),
    ]
}

proptest! {
    /// Whatever is lost, a total never falls, and contains at least the counts whose sending was answered. If no answer is
    /// lost, it contains nothing else.
    #[test]
    fn no_total_ever_falls(events in prop::collection::vec(event(), 1..80), skewed in any::<bool>()) {
        let redis = Redis::default();
        let records = records(&redis);
        let mut isolates = [(); 2].map(|()| Metrics::new(&config(), &Seed::fixed()));
        let (mut counted, mut seconds, mut latest, mut lost) = ([0, 0], 0, 0, false);
        let mut sent = 0;
        for event in events {
            let now = at(seconds);
            match event {
                MetricsStep::Count { isolate, requests } => {
                    for _ in 0..requests {
                        isolates[isolate].count_request(None, RequestOutcome::Admitted);
                    }
                    counted[isolate] += requests;
                }
                MetricsStep::Flush { isolate, fault } => {
                    redis.next.set(fault);
                    // The clock of one isolate is hours ahead.
                    let skew = if skewed && isolate == 1 { 20_000 } else { 0 };
                    send(&isolates[isolate], &records, at(seconds + skew));
                    let arrived = redis.next.take() == DatabaseFault::None && fault == DatabaseFault::None;
                    lost |= fault == DatabaseFault::AnswerLost;
                    if arrived && !lost {
                        // This includes what was counted since a batch that did not reach Redis.
                        sent += std::mem::take(&mut counted[isolate]);
                    }
                }
                MetricsStep::Fold { fault } => {
                    redis.next.set(fault);
                    let _ = records.fold_counts(now).now_or_never().unwrap();
                    redis.next.take();
                }
                MetricsStep::Evict { isolate } => {
                    isolates[isolate] = Metrics::new(&config(), &Seed::fixed());
                    counted[isolate] = 0;
                }
                MetricsStep::Wait { seconds: more } => seconds += more,
            }
            let total = admitted(&totals(&records, at(seconds)));
            prop_assert!(total >= latest, "{total} after {latest}");
            latest = total;
            prop_assert!(total >= sent);
            if !lost {
                // The batches of an evicted isolate count. What it had not sent does not.
                prop_assert!(total <= sent + counted.iter().sum::<u64>());
            }
        }
        // A fold changes no total, and charts contain as much as the totals.
        while records.fold_counts(at(seconds)).now_or_never().unwrap().unwrap() > 0 {}
        prop_assert_eq!(admitted(&totals(&records, at(seconds))), latest);
        let days = records.chart(BucketWidth::Day, 456, at(seconds)).now_or_never().unwrap().unwrap();
        let charted: u64 = days.iter().map(|(_, day)| day.get("requests admitted")).sum();
        prop_assert_eq!(charted, latest);
    }
}

/// Over a real Redis, the step of one fold does nothing once another fold has changed the list.
#[tokio::test]
async fn folds_at_the_same_time_add_nothing_twice() {
    let stand_in = StandIn::start();
    let records = Records::new(stand_in.redis(), Keys::new("t:"));
    let isolate = Metrics::new(&config(), &Seed::fixed());
    for flush in 0..50 {
        isolate.count_request(None, RequestOutcome::Admitted);
        isolate
            .send(&records, &StoreCounts::default(), at(flush))
            .await;
    }
    let folds = (0..4).map(|_| records.fold_counts(at(60)));
    let folded: Vec<_> = futures_util::future::join_all(folds).await;
    let folded: usize = folded.into_iter().map(Result::unwrap).sum();
    assert_eq!(folded, 50);
    let overview = records.overview(at(60)).await.unwrap();
    assert_eq!(admitted(&overview.counts), 50);
    let minutes = records
        .chart(BucketWidth::Minute, 60, at(60))
        .await
        .unwrap();
    let charted: u64 = minutes
        .iter()
        .map(|(_, minute)| minute.get("requests admitted"))
        .sum();
    assert_eq!(charted, 50);
}

/// Any value may be in Redis under the limiter's keys.
#[test]
fn an_entry_that_is_no_batch_counts_nothing_and_stops_no_fold() {
    let redis = Redis::default();
    let records = records(&redis);
    let isolate = Metrics::new(&config(), &Seed::fixed());
    for junk in [
        "",
        "7",
        "{}",
        "[1]",
        "{\"id\":\"a\",\"attempt\":1,\"at\":0,\"counts\":{\"requests admitted other\":-1}}",
    ] {
        let push = crate::redis::command(["RPUSH", "t:metrics:pending", junk]);
        redis
            .inner
            .run(vec![push], at(0))
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    // A list in place of the totals does not make the fold fail.
    let push = crate::redis::command(["RPUSH", "t:metrics:totals", "not json"]);
    redis
        .inner
        .run(vec![push], at(0))
        .now_or_never()
        .unwrap()
        .unwrap();
    isolate.count_request(None, RequestOutcome::Admitted);
    send(&isolate, &records, at(0));
    assert_eq!(admitted(&totals(&records, at(0))), 1);
    assert_eq!(records.fold_counts(at(0)).now_or_never().unwrap(), Ok(6));
    assert_eq!(admitted(&totals(&records, at(0))), 1);
}

fn page(counts: &CounterSet, isolate: Option<&str>, format: Format) -> String {
    let mut redis = CounterSet::default();
    redis.set("used_memory", 4096);
    redis.set("evicted_keys", 9);
    let overview = Overview {
        counts: counts.clone(),
        blocked: BlockedNow {
            addresses: 1,
            ranges: 2,
            policies: 3,
        },
        gauges: Some(Gauges {
            keys: Some(GaugeReading { count: 77, at: 1 }),
            limited: 5,
            redis,
            ..Gauges::default()
        }),
    };
    let exposition = Exposition {
        overview: Some(&overview),
        config: &config(),
        isolate,
    };
    write(&exposition, format)
}

#[test]
fn an_exposition_contains_every_series_with_its_labels() {
    let mut counts = CounterSet::default();
    counts.add(&["requests", "denied", "/a \"b\"\\c"], 4);
    counts.add(&["decisions", "denied", "lease", "auth"], 5);
    counts.add(&["took", "0"], 2);
    counts.add(&["took", "7"], 1);
    counts.add(&["took_ms"], 2003);
    let text = page(&counts, None, Format::Text);
    for line in [
        "# TYPE edge_limiter_requests_total counter",
        r#"edge_limiter_requests_total{outcome="denied",route="/a \"b\"\\c"} 4"#,
        r#"edge_limiter_decisions_total{outcome="denied",source="lease",policy="auth"} 5"#,
        r#"edge_limiter_limit{policy="auth"} 5"#,
        r#"edge_limiter_window_seconds{policy="auth"} 60"#,
        r#"edge_limiter_blocked{kind="range"} 2"#,
        "edge_limiter_keys 77",
        "edge_limiter_limited_callers 5",
        "redis_up 1",
        "redis_memory_used_bytes 4096",
        "redis_evicted_keys_total 9",
        r#"edge_limiter_breaker_transitions_total{to="open"} 0"#,
        r#"edge_limiter_store_requests_total{result="timeout"} 0"#,
        r#"edge_limiter_store_duration_seconds_bucket{le="0.005"} 2"#,
        r#"edge_limiter_store_duration_seconds_bucket{le="1.0"} 2"#,
        r#"edge_limiter_store_duration_seconds_bucket{le="+Inf"} 3"#,
        "edge_limiter_store_duration_seconds_sum 2.003",
        "edge_limiter_store_duration_seconds_count 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("# EOF"));
    let open = page(&counts, None, Format::OpenMetrics);
    assert!(open.contains("# TYPE edge_limiter_requests counter"));
    assert!(open.ends_with("# EOF\n"));
    // In memory each isolate has its own counters. A label keeps a scraper from merging those of several isolates.
    let alone = page(&counts, Some("0f"), Format::Text);
    let samples = alone.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().count() > 20);
    samples.for_each(|line| assert!(line.contains(r#"isolate="0f""#), "{line}"));
}

fn gather(records: &Records<impl Database>, now: Timestamp) -> Gauges {
    records.gather_gauges(now).now_or_never().unwrap().unwrap();
    let gauges = records.gauges(now).now_or_never().unwrap().unwrap();
    gauges.unwrap()
}

/// A Redis whose `SCAN` lists `keys` keys, and whose `INFO` answers `info`.
#[derive(Clone)]
struct Large {
    inner: Redis,
    keys: usize,
    info: Option<&'static str>,
    scans: Rc<Cell<usize>>,
}

impl Database for Large {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        match commands[0][0].as_str() {
            "SCAN" => {
                assert_eq!(commands[0][2..], ["MATCH", "t:*", "COUNT", "5000"]);
                self.scans.set(self.scans.get() + 1);
                let from: usize = commands[0][1].parse().unwrap();
                let to = (from + 5000).min(self.keys);
                let next = if to == self.keys { 0 } else { to };
                let found: Vec<String> = (from..to).map(|key| format!("t:{key}")).collect();
                Ok(vec![json!([next.to_string(), found])])
            }
            "INFO" => match self.info {
                Some(info) => Ok(vec![json!(info)]),
                None => Err(StoreError::Refused("NOPERM".to_owned())),
            },
            _ => self.inner.run(commands, now).await,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[test]
fn keys_are_counted_over_several_runs_if_they_are_many() {
    let large = Large {
        inner: Redis::default(),
        keys: 125_500,
        info: None,
        scans: Rc::default(),
    };
    let records = Records::new(large.clone(), Keys::new("t:"));
    let counted: Vec<Option<u64>> = (0..4)
        .map(|run| gather(&records, at(run * 300)).keys.map(|keys| keys.count))
        .collect();
    assert_eq!(counted, [None, None, Some(125_500), Some(125_500)]);
    assert_eq!(large.scans.get(), 10 + 10 + 6 + 10);
}

#[test]
fn fields_that_redis_does_not_report_are_left_out() {
    let reported = |info| {
        let large = Large {
            inner: Redis::default(),
            keys: 3,
            info,
            scans: Rc::default(),
        };
        let gauges = gather(&Records::new(large, Keys::new("t:")), at(0));
        assert_eq!(
            gauges.keys,
            Some(GaugeReading {
                count: 3,
                at: at(0).as_millis()
            })
        );
        gauges.redis.into_value()
    };
    assert_eq!(reported(None), json!({}));
    assert_eq!(
        reported(Some(
            "# Memory\r\nused_memory:1024\r\nmaxmemory:0\r\nused_memory_human:1K\r\nevicted_keys:x\r\nuptime_in_seconds:-1\r\n"
        )),
        json!({"used_memory": 1024, "maxmemory": 0})
    );
}

#[test]
fn callers_denied_in_the_last_hour_are_estimated_from_two_clock_hours() {
    let redis = Redis::default();
    let records = records(&redis);
    let hour = START.as_millis() / 3_600_000 + 1;
    let begin = Timestamp::from_millis(hour * 3_600_000);
    for (number, members) in [(hour - 1, 40), (hour, 6)] {
        for member in 0..members {
            let key = format!("t:suspicious:{number}");
            let add = crate::redis::command(["ZADD", &key, "1", &format!("auth 192.0.2.{member}")]);
            redis
                .inner
                .run(vec![add], begin)
                .now_or_never()
                .unwrap()
                .unwrap();
        }
    }
    let limited = |minutes: u32| gather(&records, begin + Millis::from_secs(60 * minutes)).limited;
    assert_eq!([limited(0), limited(15), limited(45)], [46, 36, 16]);
}

#[tokio::test(flavor = "current_thread")]
async fn runs_at_the_same_time_gather_the_gauges_of_a_real_redis() {
    let stand_in = StandIn::start();
    // The prefix contains characters of patterns, and the other keys would match it as a pattern.
    let records = Records::new(stand_in.redis(), Keys::new("a[b]*?:"));
    for key in ["a[b]*?:1", "a[b]*?:2", "ab12:1", "abx:3", "b"] {
        let set = crate::redis::command(["SET", key, "1"]);
        records.run([set], at(0)).await.unwrap();
    }
    let runs = (0..4).map(|_| records.gather_gauges(at(0)));
    for run in futures_util::future::join_all(runs).await {
        run.unwrap();
    }
    let gauges = records.gauges(at(0)).await.unwrap().unwrap();
    // The key of the gauges may already exist, and count as a third.
    assert!(
        matches!(gauges.keys, Some(GaugeReading { count: 2 | 3, .. })),
        "{gauges:?}"
    );
    for field in &super::gauges::FIELDS {
        assert!(gauges.redis.find(field.info).is_some(), "{}", field.info);
    }
    assert!(gauges.redis.get("used_memory") > 100_000);
}
