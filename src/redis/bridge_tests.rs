//! Tests of the control plane and the records over a bridge on a real Redis. Decisions share its three
//! connections.

use std::cell::Cell;

use futures_util::future::{join, join_all};
use serde_json::json;

use super::keys::Keys;
use super::records::Records;
use super::rest::RestClient;
use crate::blocklist::pages::BlockCursor;
use crate::blocklist::{Block, BlockTarget, BlockedBy};
use crate::client::Ipv6Prefix;
use crate::events::escalation::{Costs, Escalation};
use crate::events::tests::denied;
use crate::events::{BatchLimits, Details, EventBatch, Recorder};
use crate::metrics::CounterSet;
use crate::metrics::records::{self as counts, BucketWidth};
use crate::quota::Algorithm;
use crate::seed::Seed;
use crate::store::Store;
use crate::store::conformance::{START, charge, check};
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::Millis;

const ROUNDS: u32 = 12;
const CALLERS: u32 = 8;

fn target(text: &str) -> BlockTarget {
    BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
}

/// A batch of eight addresses, each with an event and six denials.
fn batch(round: u32) -> EventBatch {
    let recorder = Recorder::new(Seed::fixed());
    for number in 0..8_u8 {
        let caller = format!("198.51.100.{number}");
        let policy = format!("policy-{round}");
        let note = denied(&caller, &policy);
        recorder.record(&note, START, &mut Details::default);
        for _ in 0..6 {
            recorder.count_denial(note.caller, "auth", START);
        }
    }
    recorder.record_block("auth:198.51.100.1", START + Millis::from_secs(60));
    let limits = BatchLimits {
        commands: None,
        escalation: None,
    };
    let batch = recorder.take(limits);
    assert_eq!(batch.events.len(), 8);
    batch
}

fn block() -> Block {
    Block {
        until: None,
        since: START.as_millis(),
        by: BlockedBy::Operator,
        reason: None,
    }
}

/// Does everything that an isolate and its operators do, and asserts that nothing fails.
async fn round(records: &Records<RestClient<RealEffects>>, round: u32) {
    let (address, range) = (format!("192.0.3.{round}"), format!("10.{round}.0.0/16"));
    records.record(&batch(round), START).await.unwrap();
    for text in [&address, &range] {
        let set = records.block(&target(text), &block(), START).await;
        assert_eq!(set, Ok(()));
    }
    let (ranges, listed) = records.stored_blocks(START).await.unwrap();
    assert!(ranges.is_whole());
    assert!(listed.addresses.iter().any(|(name, _)| *name == address));
    let mut counted = CounterSet::default();
    counted.add(&["requests", "other", "admitted"], 5);
    let batch = counts::CountBatch::new("isolate", u64::from(round), START, counted);
    records.append_counts(&batch, START).await.unwrap();
    records.fold_counts(START).await.unwrap();
    let overview = records.overview(START).await.unwrap();
    let admitted = overview.counts.get("requests other admitted");
    assert_eq!(
        admitted,
        5 * u64::from(round + 1),
        "the total is the sum of all rounds"
    );
    records.chart(BucketWidth::Minute, 60, START).await.unwrap();
    let events = records.events(None, 200, START).await.unwrap();
    assert_eq!(events.events.len(), 8 * (round as usize + 1));
    let suspicious = records.suspicious(24, 10, START).await.unwrap();
    assert_eq!(suspicious.len(), 8);
    assert_eq!(suspicious[0].denied, 6 * u64::from(round + 1));
    records.gather_gauges(START).await.unwrap();
    records
        .blocks(&BlockCursor::FIRST, 100, START)
        .await
        .unwrap();
    if round % 2 == 1 {
        for text in [&address, &range] {
            assert_eq!(records.lift(&target(text), START).await, Ok(true));
        }
    }
}

#[tokio::test]
async fn the_control_plane_and_records_are_right_while_decisions_use_the_bridge() {
    let bridge = StandIn::bridge().await;
    let records = Records::new(bridge.redis(), Keys::new("t:"));
    let store = bridge.store("t:");
    let check = check(
        &[charge(
            "auth:203.0.113.1",
            Algorithm::SlidingWindow,
            100_000,
        )],
        1,
    );
    let (decided_count, is_done) = (Cell::new(0), Cell::new(false));
    let decisions = join_all((0..CALLERS).map(|_| async {
        while !is_done.get() {
            let decided = store.decide(&check, START).await;
            decided_count.set(decided_count.get() + 1);
            assert!(decided.unwrap().allows(&check));
        }
    }));
    let rounds = async {
        for number in 0..ROUNDS {
            round(&records, number).await;
        }
        is_done.set(true);
    };
    join(decisions, rounds).await;
    let verdict = store.decide(&check, START).await.unwrap();
    let left = verdict.answers[0].unwrap().decision.remaining;
    assert_eq!(
        left,
        100_000 - decided_count.get() - 1,
        "each decision is counted once"
    );
    let page = records
        .blocks(&BlockCursor::FIRST, 100, START)
        .await
        .unwrap();
    assert_eq!(page.blocks.len(), ROUNDS as usize);
}

/// The batch has as many addresses as it can hold, each with all its counters. No command in the script may have
/// too many words.
#[tokio::test]
async fn the_largest_batch_is_recorded() {
    const RULE: Escalation = Escalation {
        denials: 5,
        window: Millis::from_secs(60),
        block: Millis::from_secs(600),
    };
    let stand_in = StandIn::start();
    let records = Records::new(stand_in.redis(), Keys::new("t:"));
    let recorder = Recorder::new(Seed::fixed());
    for number in 0..100_u8 {
        let caller = format!("198.51.100.{number}");
        for _ in 0..6 {
            recorder.count_denial(denied(&caller, "auth").caller, "auth", START);
        }
        let note = denied(&caller, "auth");
        recorder.record(&note, START, &mut Details::default);
        let blocked = format!("auth:{caller}");
        recorder.record_block(&blocked, START + Millis::from_secs(60));
    }
    let limits = BatchLimits {
        commands: None,
        escalation: Some(Costs::SINGLE_SERVER),
    };
    let batch = recorder.take(limits);
    assert_eq!((batch.denials.len(), batch.events.len()), (100, 100));
    records.record(&batch, START).await.unwrap();
    let escalated = records.escalate(&batch, &RULE, START).await.unwrap();
    assert_eq!(escalated.blocks.len(), 100);
    assert_eq!(stand_in.run(&["ZCARD", "t:events"]).await, json!(200));
}
