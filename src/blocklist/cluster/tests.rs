//! Tests of changes of blocks in a cluster that fail after each of their calls. They run on a real Redis that refuses
//! commands over several slots.

use std::cell::Cell;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::Poll;

use redis_protocol::redis_keyslot;
use serde_json::{Value, json};

use crate::blocklist::pages::BlockCursor;
use crate::blocklist::records::{BOUNDS_COMMANDS, BlockError, ListedAddresses};
use crate::blocklist::version::StoredRanges;
use crate::blocklist::{AddressBlock, Block, BlockTarget, BlockedBy, VersionChange};
use crate::budget::Budget;
use crate::client::AddressPrefix;
use crate::client::Ipv6Prefix;
use crate::client::range::Range;
use crate::error::StoreError;
use crate::events::escalation::{Costs, Escalation};
use crate::events::tests::denied;
use crate::events::{BatchLimits, Details, EventBatch, Recorder};
use crate::metrics::CounterSet;
use crate::metrics::records::{BucketWidth, CountBatch as Counts};
use crate::redis::keys::{Keys, RedisKey};
use crate::redis::records::Records;
use crate::redis::rest::RestClient;
use crate::redis::run::keys_of;
use crate::redis::script::{Script, ScriptCall, ScriptForm};
use crate::redis::{Command, Database, command};
use crate::seed::Seed;
use crate::store::conformance::START;
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::{Millis, Timestamp};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    /// Redis is not reached.
    Before,
    /// Redis runs the call, and the answer is lost.
    After,
}

/// A Redis that refuses commands over several slots, and that fails or waits after a number of calls.
struct Slotted {
    redis: RestClient<RealEffects>,
    /// How many calls succeed, and how the one after them fails. `None` if none fails.
    fails_after: Cell<Option<(u32, Fails)>>,
    /// How many calls it makes before it waits.
    allowed: Cell<u32>,
    /// Whether a call waits.
    waits: Cell<bool>,
}

impl Slotted {
    fn new(stand_in: &StandIn) -> Self {
        Self {
            redis: stand_in.redis(),
            fails_after: Cell::new(None),
            allowed: Cell::new(u32::MAX),
            waits: Cell::new(false),
        }
    }

    async fn call<'a, T>(
        &self,
        keys: impl Iterator<Item = &'a str>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut slots = keys.map(|key| redis_keyslot(key.as_bytes()));
        let first = slots.next();
        if slots.any(|slot| Some(slot) != first) {
            return Err(StoreError::Refused("CROSSSLOT".to_owned()));
        }
        poll_fn(|_| match self.allowed.get() {
            0 => {
                self.waits.set(true);
                Poll::Pending
            }
            allowed => {
                self.allowed.set(allowed - 1);
                Poll::Ready(())
            }
        })
        .await;
        match self.fails_after.get() {
            Some((0, Fails::Before)) => Err(StoreError::Unreachable),
            Some((0, Fails::After)) => {
                self.fails_after.set(Some((0, Fails::Before)));
                let _ = call.await;
                Err(StoreError::Timeout)
            }
            fails_after => {
                let fails_after = fails_after.map(|(calls, fails)| (calls - 1, fails));
                self.fails_after.set(fails_after);
                call.await
            }
        }
    }
}

impl Database for Slotted {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        let all = commands.clone();
        let keys = all.iter().flat_map(keys_of);
        let keys = keys.map(String::as_str);
        self.call(keys, self.redis.run(commands, now)).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn script_form(&self) -> Option<ScriptForm> {
        self.redis.script_form()
    }

    async fn run_script_for_value(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<Value, StoreError> {
        let ran = self.redis.run_script_for_value(script, call);
        self.call(call.keys.iter(), ran).await
    }
}

const ADDRESS: &str = "192.0.2.1";

fn records(stand_in: &StandIn) -> Records<Slotted> {
    Records::new(Slotted::new(stand_in), Keys::clustered("t:"))
}

fn target(text: &str) -> BlockTarget {
    BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
}

/// A block of `seconds` after [`START`], or without an end.
fn block(seconds: Option<u32>) -> Block {
    Block {
        until: seconds.map(|seconds| (START + Millis::from_secs(seconds)).as_millis()),
        since: START.as_millis(),
        by: BlockedBy::Operator,
        reason: None,
    }
}

const RULE: Escalation = Escalation {
    denials: 5,
    window: Millis::from_secs(60),
    block: Millis::from_secs(600),
};

/// A batch with six denials and an event of each address.
fn batch(addresses: &[&str]) -> EventBatch {
    let recorder = Recorder::new(Seed::fixed());
    for address in addresses {
        let note = denied(address, "auth");
        recorder.record(&note, START, &mut Details::default);
        for _ in 0..6 {
            recorder.count_denial(note.caller, "auth", START);
        }
        recorder.record_block(&format!("auth:{address}"), START + Millis::from_secs(60));
    }
    recorder.take(BatchLimits {
        commands: None,
        escalation: Some(Costs::CLUSTER),
    })
}

fn listed_endless(address: &str) -> ListedAddresses {
    ListedAddresses {
        addresses: vec![(address.to_owned(), AddressBlock { until: None })],
        ..ListedAddresses::default()
    }
}

/// The block of the address that denies, and the one in the list.
async fn state(records: &Records<Slotted>) -> (Option<Block>, Option<Block>) {
    let denies = records.look_up(&target(ADDRESS), START).await.unwrap();
    let page = records
        .blocks(&BlockCursor::FIRST, 100, START)
        .await
        .unwrap();
    let mut listed = page.blocks.into_iter();
    let listed = listed.find(|(listed, _)| listed == ADDRESS);
    (denies, listed.map(|(_, block)| block))
}

/// The score of the address in the list, 0 if it is not listed.
async fn score(stand_in: &StandIn) -> u64 {
    let score = ["ZSCORE", "t:{records}:blocked_ips", ADDRESS];
    crate::redis::number_of(&stand_in.run(&score).await)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set(Option<u32>),
    Lift,
    Restore,
    Escalate,
}

/// Makes a change. Returns whether it had an effect, or `None` if it failed.
async fn change(records: &Records<Slotted>, change: Change) -> Option<bool> {
    match change {
        Change::Set(seconds) => {
            match records
                .block(&target(ADDRESS), &block(seconds), START)
                .await
            {
                Ok(()) => Some(true),
                Err(BlockError::Failed(_)) => None,
                Err(full) => panic!("{full:?}"),
            }
        }
        Change::Lift => records.lift(&target(ADDRESS), START).await.ok(),
        Change::Restore => {
            let listed = listed_endless(ADDRESS);
            let restored = records.restore_addresses(&listed, START).await;
            restored.ok().map(|restored| restored == 1)
        }
        Change::Escalate => {
            let escalated = records.escalate(&batch(&[ADDRESS]), &RULE, START).await;
            let escalated = escalated.ok().filter(|it| it.error.is_none())?;
            Some(!escalated.blocks.is_empty())
        }
    }
}

/// The block before a change, if there is one, and whether its record is lost.
const BEFORE: [(Option<Option<u32>>, bool); 5] = [
    (None, false),
    (Some(Some(60)), false),
    (Some(Some(3600)), false),
    (Some(None), false),
    (Some(None), true),
];

#[tokio::test]
async fn a_change_that_fails_early_leaves_every_block_listed_and_liftable() {
    let stand_in = StandIn::start();
    let isolate = records(&stand_in);
    let [failed, all] = [Cell::new(0), Cell::new(0)];
    let changes = [
        Change::Set(Some(600)),
        Change::Set(None),
        Change::Lift,
        Change::Restore,
        Change::Escalate,
    ];
    for (before, is_lost) in BEFORE {
        for made in changes {
            for calls in 0..12 {
                for fails in [Fails::Before, Fails::After] {
                    let case = format!(
                        "{made:?} over {before:?}, lost: {is_lost}; {fails:?} call {calls}"
                    );
                    stand_in.run(&["FLUSHDB"]).await;
                    isolate.database().fails_after.set(None);
                    if let Some(seconds) = before {
                        assert_eq!(change(&isolate, Change::Set(seconds)).await, Some(true));
                    }
                    if is_lost {
                        stand_in.run(&["DEL", "t:blocked:{192.0.2.1}"]).await;
                    }
                    isolate.database().fails_after.set(Some((calls, fails)));
                    let result = change(&isolate, made).await;
                    isolate.database().fails_after.set(None);
                    failed.set(failed.get() + u32::from(result.is_none()));
                    all.set(all.get() + 1);

                    let (denies, listed) = state(&isolate).await;
                    // A block that denies is listed, with the same fields, for as long as it denies. The exception is
                    // a restored record that is not yet permanent.
                    let ttl = stand_in.run(&["PTTL", "t:blocked:{192.0.2.1}"]).await;
                    let is_restoring = made == Change::Restore && ttl != json!(-1);
                    if let Some(denies) = denies.as_ref().filter(|_| !is_restoring) {
                        assert_eq!(listed.as_ref(), Some(denies), "{case}");
                        // An address that is being lifted stays listed without an end.
                        let ends = super::score_of(denies).min(super::LIFTING_SCORE);
                        assert!(score(&stand_in).await >= ends, "{case}");
                    }
                    match (made, result) {
                        (Change::Set(seconds), Some(_)) => {
                            assert_eq!(denies, Some(block(seconds)), "{case}");
                            assert_eq!(score(&stand_in).await, super::score_of(&block(seconds)));
                        }
                        (Change::Lift, Some(was_blocked)) => {
                            assert_eq!(was_blocked, before.is_some(), "{case}");
                            assert_eq!((denies, listed), (None, None), "{case}");
                            assert_eq!(score(&stand_in).await, 0, "{case}");
                        }
                        (Change::Escalate, Some(true)) => {
                            assert_eq!(
                                denies.map(|it| it.by),
                                Some(BlockedBy::Escalation),
                                "{case}"
                            );
                        }
                        // The escalation leaves an earlier block unchanged.
                        (Change::Escalate, _) if before.is_some() && !is_lost => {
                            assert_eq!(denies, before.map(block), "{case}");
                        }
                        _ => {}
                    }
                    // The block can be lifted, and is not restored then.
                    let denied = state(&isolate).await.0.is_some();
                    let lifted = change(&isolate, Change::Lift).await.unwrap();
                    assert!(lifted || !denied, "{case}");
                    assert_eq!(
                        change(&isolate, Change::Restore).await,
                        Some(false),
                        "{case}"
                    );
                    assert_eq!(state(&isolate).await, (None, None), "{case}");
                }
            }
        }
    }
    assert!(failed.get() > 100 && failed.get() < all.get(), "{failed:?}");
}

/// The commands counted in advance for a batch and its blocks are as many as those that are sent.
#[tokio::test]
async fn the_escalation_sends_as_many_commands_as_were_counted() {
    let stand_in = StandIn::start();
    let records = records(&stand_in);
    let budget = Budget::new(None);
    records.share_budget(budget.clone());
    let costs = records.escalation_costs();
    assert_eq!(costs, Costs::CLUSTER);
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let batch = batch(&addresses);
    let unwritten = EventBatch {
        events: Vec::new(),
        blocks: Vec::new(),
        ..batch.clone()
    };
    let not_reached = Escalation {
        denials: 100,
        ..RULE
    };
    let counted = async |rule| {
        let before = budget.sent();
        records.record(&unwritten, START).await.unwrap();
        let escalated = records.escalate(&unwritten, rule, START).await.unwrap();
        assert_eq!(escalated.error, None);
        let sent = usize::try_from(budget.sent() - before).unwrap();
        (escalated.blocks.len(), sent)
    };
    let expected = unwritten.commands(Some(costs));
    assert_eq!(counted(&not_reached).await, (0, expected));
    let blocks = addresses.len() * costs.per_block + BOUNDS_COMMANDS;
    assert_eq!(counted(&RULE).await, (3, expected + blocks));

    // Even under a small cap, the whole share of the records is enough to set a block.
    let capped = self::records(&stand_in);
    capped.share_budget(Budget::new(NonZeroU32::new(50)));
    assert_eq!(capped.escalation_costs().per_block, 20);
    stand_in.run(&["FLUSHDB"]).await;
    let due = EventBatch {
        due: vec![AddressPrefix::parse(ADDRESS).unwrap()],
        ..EventBatch::default()
    };
    let escalated = capped.escalate(&due, &RULE, START).await.unwrap();
    assert_eq!((escalated.due, escalated.error), (vec![], None));
}

/// Runs up to `calls` calls of a change. Returns its result if it ended.
async fn advance<T>(
    change: &mut Pin<Box<dyn Future<Output = T> + '_>>,
    database: &Slotted,
    calls: u32,
) -> Option<T> {
    database.allowed.set(calls);
    poll_fn(|context| match change.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if database.waits.take() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// The second change begins during the first and ends after it.
#[tokio::test]
async fn after_changes_at_the_same_time_the_list_agrees_with_the_records() {
    let stand_in = StandIn::start();
    let [first, second] = [records(&stand_in), records(&stand_in)];
    let changes = [
        Change::Set(Some(600)),
        Change::Set(None),
        Change::Lift,
        Change::Restore,
        Change::Escalate,
    ];
    let pairs = changes
        .iter()
        .flat_map(|one| changes.map(|other| (*one, other)));
    let unlimited = u32::MAX;
    for (before, (one, other)) in [0, 3, 4].into_iter().flat_map(|state| {
        let pairs = pairs.clone();
        pairs.map(move |pair| (BEFORE[state], pair))
    }) {
        for one_calls in 1..5 {
            for other_calls in 1..5 {
                stand_in.run(&["FLUSHDB"]).await;
                first.database().allowed.set(unlimited);
                if let Some(seconds) = before.0 {
                    assert_eq!(change(&first, Change::Set(seconds)).await, Some(true));
                }
                if before.1 {
                    stand_in.run(&["DEL", "t:blocked:{192.0.2.1}"]).await;
                }
                let case = format!(
                    "{one_calls} calls of {one:?}, {other_calls} of {other:?}; over {before:?}"
                );
                let mut one: Pin<Box<dyn Future<Output = _>>> = Box::pin(change(&first, one));
                let mut other: Pin<Box<dyn Future<Output = _>>> = Box::pin(change(&second, other));
                let mut done = advance(&mut one, first.database(), one_calls).await;
                let mut other_done = advance(&mut other, second.database(), other_calls).await;
                if done.is_none() {
                    done = advance(&mut one, first.database(), unlimited).await;
                }
                if other_done.is_none() {
                    other_done = advance(&mut other, second.database(), unlimited).await;
                }
                assert!(done.flatten().is_some() && other_done.flatten().is_some());
                first.database().allowed.set(unlimited);
                let (denies, listed) = state(&first).await;
                assert_eq!(denies, listed, "{case}");
                match &denies {
                    Some(denies) => {
                        let expected = super::score_of(denies);
                        assert_eq!(score(&stand_in).await, expected, "{case}: {denies:?}");
                    }
                    // The list may have an entry with an end. It is not shown and not restored.
                    None => assert!(score(&stand_in).await < super::LIFTING_SCORE, "{case}"),
                }
                let ttl = stand_in.run(&["PTTL", "t:blocked:{192.0.2.1}"]).await;
                let is_endless = denies.is_some_and(|block| block.until.is_none());
                assert_eq!(is_endless, ttl == json!(-1), "{case}: {ttl}");
            }
        }
    }
}

/// No call of isolates or operators has keys of several slots.
#[tokio::test]
async fn records_are_right_on_a_redis_that_refuses_calls_over_several_slots() {
    let stand_in = StandIn::start();
    let records = records(&stand_in);
    let addresses: Vec<String> = (1..20).map(|number| format!("192.0.2.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let batch = batch(&addresses);
    records.record(&batch, START).await.unwrap();
    let escalated = records.escalate(&batch, &RULE, START).await.unwrap();
    assert_eq!((escalated.blocks.len(), escalated.error), (19, None));
    let page = records
        .blocks(&BlockCursor::FIRST, 100, START)
        .await
        .unwrap();
    assert_eq!(page.blocks.len(), 19);
    let events = records.events(None, 100, START).await.unwrap();
    assert_eq!(events.events.len(), 2 * 19);
    assert_eq!(records.suspicious(24, 100, START).await.unwrap().len(), 19);

    // Policies' own blocks. The first has no record.
    for address in &addresses[1..] {
        let key = format!("t:auth:{{{address}}}:blocked");
        stand_in.run(&["SET", &key, "1", "PX", "60000"]).await;
    }
    let policies = records.policy_blocks(100, START).await.unwrap();
    assert_eq!(policies.len(), 18);
    let keys: Vec<String> = policies.into_iter().map(|block| block.key).collect();
    assert_eq!(records.lift_policy_blocks(&keys, START).await, Ok(18));
    assert_eq!(records.policy_blocks(100, START).await, Ok(vec![]));
    let quotas = ["general:192.0.2.1", "auth:192.0.2.2"].map(RedisKey::Quota);
    for quota in quotas {
        stand_in.run(&["SET", &records.key(quota), "x"]).await;
    }
    assert_eq!(records.delete(&quotas, START).await, Ok(2));

    // Ranges and their versions.
    let range = target("10.0.0.0/8");
    records.block(&range, &block(None), START).await.unwrap();
    let (stored, listed) = records.stored_blocks(START).await.unwrap();
    assert_eq!((stored.is_whole(), listed.addresses.len()), (true, 19));
    let ranges = [(
        Range::parse("10.0.0.0/8").unwrap(),
        AddressBlock { until: None },
    )];
    stand_in.run(&["DEL", "t:{records}:blocked_ranges"]).await;
    let lost = StoredRanges {
        version: stored.version,
        ..StoredRanges::default()
    };
    let restored = records
        .restore(&lost, &ranges, VersionChange::Ranges, START)
        .await;
    assert_eq!(restored, Ok(Some(1)));
    assert_eq!(records.lift(&range, START).await, Ok(true));

    // Metrics and the schedule.
    let mut counted = CounterSet::default();
    counted.add(&["requests", "other", "admitted"], 5);
    let counts = Counts::new("isolate", 1, START, counted);
    records.append_counts(&counts, START).await.unwrap();
    assert_eq!(records.fold_counts(START).await, Ok(1));
    let overview = records.overview(START).await.unwrap();
    assert_eq!(overview.counts.get("requests other admitted"), 5);
    assert_eq!(overview.blocked.addresses, 19);
    records.chart(BucketWidth::Hour, 100, START).await.unwrap();
    records.gather_gauges(START).await.unwrap();
    records.tidy(START).await.unwrap();

    // This Redis refuses commands over several slots.
    let read = command(["MGET", "t:app/a", "t:app/b"]);
    let refused = records.database().run(vec![read.clone()], START).await;
    assert_eq!(refused, Err(StoreError::Refused("CROSSSLOT".to_owned())));
    let read = records.run_all(vec![read], START).await;
    assert_eq!(read, Ok(vec![json!([null, null])]));
}

#[tokio::test]
async fn the_number_of_listed_addresses_is_bounded() {
    let stand_in = StandIn::start();
    let records = records(&stand_in);
    let list = "t:{records}:blocked_ips";
    let until = block(Some(600)).until.unwrap().to_string();
    for part in 0..100 {
        let names: Vec<String> = (0..1000)
            .map(|number| format!("m{part}-{number}"))
            .collect();
        let pairs = names.iter().flat_map(|name| [until.as_str(), name]);
        let words: Vec<&str> = ["ZADD", list].into_iter().chain(pairs).collect();
        stand_in.run(&words).await;
    }
    let set = async |seconds| {
        let block = block(seconds);
        records.block(&target(ADDRESS), &block, START).await
    };
    assert_eq!(set(Some(60)).await, Err(BlockError::Full(100_000)));
    assert_eq!(state(&records).await, (None, None));
    stand_in.run(&["ZREM", list, "m0-0"]).await;
    assert_eq!(set(Some(60)).await, Ok(()));
    assert_eq!(
        set(None).await,
        Ok(()),
        "a block of the same address is replaced"
    );
    assert_eq!(stand_in.run(&["ZCARD", list]).await, json!(100_000));
}
