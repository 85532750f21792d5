//! Tests on a real Redis: the script against the emulator, and changes at the same time.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Condition, GuardedCommands, SCRIPT, VersionChange};
use crate::blocklist::records::{BlockError, MAX_RANGES};
use crate::blocklist::{AddressBlock, Block, BlockTarget, BlockedBy};
use crate::client::range::Range;
use crate::client::{AddressPrefix, Ipv6Prefix};
use crate::events::escalation::Escalation;
use crate::events::tests::{ALL, denied};
use crate::events::{EventBatch, Recorder};
use crate::redis::emulator::Emulator;
use crate::redis::keys::{Keys, RedisKey};
use crate::redis::records::Records;
use crate::redis::rest::RestClient;
use crate::redis::{Command, Database, command};
use crate::seed::Seed;
use crate::store::conformance::START;
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::{Millis, Timestamp};

#[test]
fn the_sha1s_match_the_script() {
    SCRIPT.assert_sha1s("change.lua");
}

fn words(line: &str) -> Command {
    line.split(' ').map(str::to_owned).collect()
}

fn conditions() -> impl Strategy<Value = Condition> {
    prop_oneof![
        (0..3_u8).prop_map(|text| Condition::Is(text.to_string())),
        Just(Condition::Is("a-b-c".to_owned())),
        Just(Condition::Absent),
        (0..3_u64).prop_map(Condition::Above),
        (0..3_u64).prop_map(Condition::Below),
    ]
}

fn guards() -> impl Strategy<Value = (Command, Condition)> {
    let read = prop::sample::select(vec![
        "GET c:t",
        "EXISTS c:t c:z",
        "HLEN c:blocked_ranges",
        "HEXISTS c:blocked_ranges x",
        "HGET c:blocked_ranges version",
        "MGET c:blocked_ranges:version",
        "ZSCORE c:z m",
        "ZCOUNT c:z (1 +inf",
    ]);
    (read, conditions()).prop_map(|(read, condition)| (words(read), condition))
}

fn changes() -> impl Strategy<Value = Command> {
    let lines = vec![
        "SET c:t 1",
        "SET c:t 2 PX 100000",
        "INCRBY c:t 1",
        "DEL c:t c:z",
        "HSET c:blocked_ranges x 1",
        "HDEL c:blocked_ranges x",
        "ZADD c:z 2 m 1 n",
        "ZREM c:z m",
        "PERSIST c:t",
        // A database may lose these, or someone else may write them.
        "DEL c:blocked_ranges",
        "DEL c:blocked_ranges:version",
        "DEL c:blocked_ranges c:blocked_ranges:version",
        "HDEL c:blocked_ranges version",
        "HSET c:blocked_ranges version garbage",
        "HSET c:blocked_ranges version a-b",
        "SET c:blocked_ranges:version 7",
        "SET c:blocked_ranges:version a-b-c",
        "SET c:blocked_ranges:version a-b-c-d",
    ];
    prop::sample::select(lines).prop_map(words)
}

fn steps() -> impl Strategy<Value = GuardedCommands> {
    let version_change = prop::sample::select(vec![
        VersionChange::Nothing,
        VersionChange::Addresses,
        VersionChange::Ranges,
    ]);
    let guards = prop::collection::vec(guards(), 0..3);
    let commands = prop::collection::vec(changes(), 0..3);
    (guards, commands, version_change).prop_map(|(guards, commands, version_change)| {
        GuardedCommands {
            guards,
            commands,
            version_change,
        }
    })
}

/// The whole content of a database.
async fn content(database: &impl Database) -> Vec<Value> {
    let reads = [
        "GET c:t",
        "HGETALL c:blocked_ranges",
        "MGET c:blocked_ranges:version",
        "ZRANGEBYSCORE c:z 0 +inf WITHSCORES LIMIT 0 10",
    ];
    let mut content = database.run(reads.map(words).into(), START).await.unwrap();
    // A hash has no order.
    let fields: Vec<Value> = content[1].as_array().unwrap().clone();
    let pairs: BTreeSet<String> = fields.chunks(2).map(|pair| format!("{pair:?}")).collect();
    content[1] = json!(pairs);
    content
}

#[test]
fn the_script_does_what_the_isolate_does_in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stand_in = StandIn::start();
    let remote = Records::new(stand_in.redis(), Keys::new("c:"));
    let cases = ProptestConfig::with_cases(150);
    let some = prop::collection::vec(prop::collection::vec(steps(), 1..4), 1..8);
    proptest!(cases, |(changes in some)| {
        runtime.block_on(stand_in.run(&["FLUSHDB"]));
        let emulator: std::rc::Rc<Emulator> = std::rc::Rc::default();
        let local = Records::new(std::rc::Rc::clone(&emulator), Keys::new("c:"));
        for (number, steps) in changes.iter().enumerate() {
            let token = format!("{:016x}", number + 0xabc);
            let answer = runtime.block_on(remote.change_remotely(steps, &token, START));
            let expected = runtime.block_on(local.change_locally(steps.clone(), &token, START));
            prop_assert_eq!(answer, expected, "{:?}", steps);
            let [in_redis, in_memory] = [
                runtime.block_on(content(&stand_in.redis())),
                runtime.block_on(content(&emulator)),
            ];
            prop_assert_eq!(in_redis, in_memory, "{:?}", steps);
        }
    });
}

#[tokio::test]
async fn a_server_without_the_script_is_sent_its_text() {
    let stand_in = StandIn::start();
    let records = redis(&stand_in, "c:");
    for _ in 0..2 {
        stand_in.run(&["SCRIPT", "FLUSH"]).await;
        let step = GuardedCommands::new([words("INCRBY c:t 1")], VersionChange::Nothing);
        let done = records.change(vec![step], START).await.unwrap();
        assert_eq!(done.len(), 1);
    }
    assert_eq!(stand_in.run(&["GET", "c:t"]).await, json!("2"));
}

#[tokio::test]
async fn a_server_that_refuses_the_flag_is_sent_the_script_without_it() {
    let stand_in = StandIn::refusing();
    let records = redis(&stand_in, "c:");
    let step = || {
        vec![GuardedCommands::new(
            [words("INCRBY c:t 1")],
            VersionChange::Addresses,
        )]
    };
    for requests in [4, 5, 6] {
        records.change(step(), START).await.unwrap();
        assert_eq!(stand_in.requests().await, requests);
    }
    assert_eq!(stand_in.run(&["GET", "c:t"]).await, json!("3"));
}

fn redis(stand_in: &StandIn, prefix: &str) -> Records<RestClient<RealEffects>> {
    Records::new(stand_in.redis(), Keys::new(prefix))
}

fn target(text: &str) -> BlockTarget {
    BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
}

fn block(until: Option<u64>, by: BlockedBy) -> Block {
    Block {
        until,
        since: START.as_millis(),
        by,
        reason: None,
    }
}

async fn fill(stand_in: &StandIn, prefix: &str, ranges: u64) {
    let record = block(None, BlockedBy::Operator).to_record();
    let key = format!("{prefix}blocked_ranges");
    let names: Vec<String> = (0..ranges)
        .map(|number| format!("10.{}.{}.0/24", number >> 8, number & 255))
        .collect();
    for names in names.chunks(1000) {
        let pairs = names.iter().flat_map(|name| [name.as_str(), &record]);
        let words: Vec<&str> = ["HSET", key.as_str()].into_iter().chain(pairs).collect();
        stand_in.run(&words).await;
    }
}

#[tokio::test]
async fn blocks_at_the_same_time_do_not_exceed_the_maximum_of_ranges() {
    for stand_in in [StandIn::start(), StandIn::bridge().await] {
        ranges_do_not_exceed_the_maximum(&stand_in).await;
    }
}

async fn ranges_do_not_exceed_the_maximum(stand_in: &StandIn) {
    let records = redis(stand_in, "most:");
    let set = |text: String| {
        let records = &records;
        async move {
            let block = block(None, BlockedBy::Operator);
            records.block(&target(&text), &block, START).await
        }
    };
    assert_eq!(set("203.0.113.0/24".to_owned()).await, Ok(()));
    fill(stand_in, "most:", MAX_RANGES - 3).await;
    let eight = (0..8).map(|number| set(format!("192.0.{number}.0/24")));
    let results = join_all(eight).await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(done, 2, "{results:?}");
    assert!(results.contains(&Err(BlockError::Full(MAX_RANGES))));
    let (stored, _) = records.stored_blocks(START).await.unwrap();
    assert_eq!(stored.ranges.len() as u64, MAX_RANGES);
    assert_eq!(
        set("203.0.113.0/24".to_owned()).await,
        Ok(()),
        "a range is replaced"
    );
}

fn batch(caller: &str, count: u32) -> EventBatch {
    let recorder = Recorder::new(Seed::fixed());
    for _ in 0..count {
        recorder.count_denial(denied(caller, "auth").caller, "auth", START);
    }
    recorder.take(ALL)
}

#[tokio::test]
async fn an_operators_block_during_escalations_stays_and_is_listed() {
    const RULE: Escalation = Escalation {
        denials: 5,
        window: Millis::from_secs(60),
        block: Millis::from_secs(600),
    };
    let stand_in = StandIn::start();
    let records = redis(&stand_in, "race:");
    for round in 0..30 {
        let address = format!("192.0.2.{round}");
        let batch = batch(&address, 6);
        let escalate = || records.escalate(&batch, &RULE, START);
        let target = target(&address);
        let operators = block(None, BlockedBy::Operator);
        let block = async {
            // Each round blocks at another moment of the escalation.
            tokio::time::sleep(std::time::Duration::from_micros(200 * round)).await;
            records.block(&target, &operators, START).await
        };
        let (one, other, blocked) = tokio::join!(escalate(), escalate(), block);
        assert_eq!(blocked, Ok(()));
        assert!(one.unwrap().blocks.len() + other.unwrap().blocks.len() <= 1);
        let stored = records.look_up(&target, START).await.unwrap();
        assert_eq!(stored, Some(operators));
        let list = "race:blocked_ips";
        let score = stand_in.run(&["ZSCORE", list, &address]).await;
        let score: u64 = score.as_str().unwrap().parse().unwrap();
        assert!(score > 5_000_000_000_000_000, "{address}: {score}");
    }
}

#[tokio::test]
async fn isolates_that_notice_a_loss_at_the_same_time_restore_it_once() {
    let stand_in = StandIn::start();
    let records = redis(&stand_in, "lost:");
    let ranges: Vec<(Range, AddressBlock)> = (0..2500_u32)
        .map(|number| {
            let name = format!("10.{}.{}.0/24", number >> 8, number & 255);
            (Range::parse(&name).unwrap(), AddressBlock { until: None })
        })
        .collect();
    let (stored, _) = records.stored_blocks(START).await.unwrap();
    let restores = (0..4).map(|_| records.restore(&stored, &ranges, VersionChange::Ranges, START));
    let restored: Vec<_> = join_all(restores).await;
    let done: Vec<usize> = restored.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(done, [2500]);
    let (stored, _) = records.stored_blocks(START).await.unwrap();
    assert_eq!(stored.ranges.len(), 2500);
    // A lifted range is not restored.
    let lifted = target("10.0.7.0/24");
    assert_eq!(records.lift(&lifted, START).await, Ok(true));
    let (stored, _) = records.stored_blocks(START).await.unwrap();
    assert_eq!(
        records
            .restore(&stored, &ranges[7..8], VersionChange::Ranges, START)
            .await,
        Ok(Some(0))
    );
}

#[tokio::test]
async fn every_list_expires_unless_it_has_a_block_without_end() {
    let stand_in = StandIn::start();
    let records = redis(&stand_in, "end:");
    let expires = async |key: RedisKey<'_>| {
        let left = stand_in.run(&["PTTL", &records.key(key)]).await;
        left.as_i64().unwrap() > 0
    };
    let until = |seconds| Some((START + Millis::from_secs(seconds)).as_millis());
    let address = |text| BlockTarget::Address(AddressPrefix::parse(text).unwrap());
    let [timed, endless] = [address("192.0.2.1"), address("192.0.2.2")];
    let operators = |until| block(until, BlockedBy::Operator);
    records
        .block(&timed, &operators(until(60)), START)
        .await
        .unwrap();
    assert!(expires(RedisKey::BlockedAddresses).await);
    records
        .block(&endless, &operators(None), START)
        .await
        .unwrap();
    records
        .block(&timed, &operators(until(90)), START)
        .await
        .unwrap();
    assert!(
        !expires(RedisKey::BlockedAddresses).await,
        "one block has no end"
    );
    records.lift(&endless, START).await.unwrap();
    assert!(expires(RedisKey::BlockedAddresses).await);
    records.lift(&target("10.0.0.0/8"), START).await.unwrap();
    assert!(expires(RedisKey::LiftedRanges).await);
    let batch = EventBatch {
        blocks: vec![("auth:a".to_owned(), until(60).unwrap())],
        ..batch("192.0.2.3", 6)
    };
    records.record(&batch, START).await.unwrap();
    for key in [RedisKey::BlockedPolicies, hour(START)] {
        assert!(expires(key).await, "{key:?}");
    }
}

const fn hour(now: Timestamp) -> RedisKey<'static> {
    RedisKey::Suspicious(now.as_millis() / 3_600_000)
}

#[tokio::test]
async fn a_range_stays_until_it_has_ended_by_the_databases_clock_too() {
    let stand_in = StandIn::start();
    let records = redis(&stand_in, "ahead:");
    records.lift(&target("10.0.0.0/24"), START).await.unwrap();
    fill(&stand_in, "ahead:", MAX_RANGES).await;
    // `START` is before the database's time. This time is far after it.
    let ahead = START + Millis::from_secs(20 * 366 * 24 * 60 * 60);
    let soon = Some((ahead - Millis::from_secs(1)).as_millis());
    let record = block(soon, BlockedBy::Operator).to_record();
    stand_in
        .run(&["HSET", "ahead:blocked_ranges", "10.0.0.0/24", &record])
        .await;
    let range = target("192.0.2.0/24");
    let refused = records
        .block(&range, &block(None, BlockedBy::Operator), ahead)
        .await;
    assert_eq!(refused, Err(BlockError::Full(MAX_RANGES)));
    let one = records
        .look_up(&target("10.0.0.0/24"), START)
        .await
        .unwrap();
    assert!(one.is_some(), "by the database's clock it is in force");
    let ended = Some((START - Millis::from_secs(1)).as_millis());
    let record = block(ended, BlockedBy::Operator).to_record();
    stand_in
        .run(&["HSET", "ahead:blocked_ranges", "10.0.1.0/24", &record])
        .await;
    let read = command(["HEXISTS", "ahead:blocked_ranges", "10.0.1.0/24"]);
    assert_eq!(
        records
            .block(&range, &block(None, BlockedBy::Operator), START)
            .await,
        Ok(())
    );
    assert_eq!(
        stand_in.run(&[&read[0], &read[1], &read[2]]).await,
        json!(0)
    );
}
