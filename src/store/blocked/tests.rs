use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;

use futures_util::FutureExt;

use super::{Blocked, Notice};
use crate::blocklist::pages::BlockCursor;
use crate::blocklist::records::BlockError;
use crate::blocklist::{AddressBlock, Block, BlockTarget, BlockedBy};
use crate::budget::{Budget, Purpose};
use crate::client::{AddressPrefix, Ipv6Prefix};
use crate::effects::testing::TestEffects;
use crate::events::Recorder;
use crate::events::escalation::Escalation;
use crate::events::tests::{ALL, denied};
use crate::quota::Algorithm;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command};
use crate::seed::Seed;
use crate::store::conformance::{self, START, charge, check};
use crate::store::memory::Memory;
use crate::store::shared::{Question, RangesVersion, SharedStore, StoreReply};
use crate::store::{Check, Store, StoreError};
use crate::time::{Millis, Timestamp};

/// A database that all isolates share, and that can be out.
#[derive(Clone, Default)]
struct SharedDatabase {
    emulator: Rc<Emulator>,
    out: Rc<Cell<bool>>,
    /// Whether it refuses writes.
    full: Rc<Cell<bool>>,
    /// Whether it refuses to read the ranges, as if their key had another type.
    refuses_ranges: Rc<Cell<bool>>,
    /// It does not answer calls with a word that contains this text.
    unanswered: Rc<Cell<Option<&'static str>>>,
    calls: Rc<Cell<u32>>,
    /// How often all ranges were read.
    range_loads: Rc<Cell<u32>>,
}

impl Database for SharedDatabase {
    async fn run(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> Result<Vec<serde_json::Value>, StoreError> {
        if self.out.get() {
            return Err(StoreError::Timeout);
        }
        let writes = |words: &Command| matches!(words[0].as_str(), "SET" | "HSET" | "ZADD");
        if self.full.get() && commands.iter().any(writes) {
            return Err(StoreError::Refused("OOM".to_owned()));
        }
        self.calls.set(self.calls.get() + 1);
        if let Some(part) = self.unanswered.get()
            && commands.iter().flatten().any(|word| word.contains(part))
        {
            return Err(StoreError::Timeout);
        }
        let loads = commands.iter().any(|words| words[0] == "HGETALL");
        if loads && self.refuses_ranges.get() {
            return Err(StoreError::Refused("WRONGTYPE".to_owned()));
        }
        self.range_loads
            .set(self.range_loads.get() + u32::from(loads));
        self.emulator.run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// A store that reads blocks as the script does, and decides quotas in memory.
struct Decisions {
    database: SharedDatabase,
    memory: Memory,
    asked: Cell<u32>,
    /// Whether it answers without a version, as memory does.
    memory_answers: Cell<bool>,
}

impl SharedStore for Decisions {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let mut reply = self.memory.ask(question, now).await?;
        if self.database.out.get() {
            reply.verdict.degraded = true;
            return Ok(reply);
        }
        if self.memory_answers.get() {
            return Ok(reply);
        }
        self.asked.set(self.asked.get() + 1);
        let records = Records::new(self.database.emulator.clone(), Keys::new("t:"));
        let version = command(["MGET", "t:blocked_ranges:version"]);
        let stored = self.database.emulator.run(vec![version], now).await?;
        reply.ranges_version = RangesVersion::Stored(stored[0][0].as_str().map(str::to_owned));
        let address = question.check.address.as_deref();
        let own = match address.and_then(AddressPrefix::parse) {
            Some(network) => records.look_up(&BlockTarget::Address(network), now).await?,
            None => None,
        };
        reply.verdict.address_block = own.map(|block| AddressBlock {
            until: block.until.map(Timestamp::from_millis),
        });
        Ok(reply)
    }
}

fn isolate(database: &SharedDatabase) -> Blocked<Decisions, SharedDatabase, TestEffects> {
    isolate_of(database, Keys::new("t:"))
}

fn isolate_of(
    database: &SharedDatabase,
    keys: Keys,
) -> Blocked<Decisions, SharedDatabase, TestEffects> {
    let decisions = Decisions {
        database: database.clone(),
        memory: Memory::new(1000, Seed::fixed()),
        asked: Cell::new(0),
        // In a cluster no decision reads the version.
        memory_answers: Cell::new(keys.is_clustered()),
    };
    let records = Records::new(database.clone(), keys);
    Blocked::new(decisions, Rc::new(records), TestEffects::default())
}

fn target(text: &str) -> BlockTarget {
    BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
}

fn block(seconds: Option<u32>) -> Block {
    Block {
        until: seconds.map(|seconds| (START + Millis::from_secs(seconds)).as_millis()),
        since: START.as_millis(),
        by: BlockedBy::Operator,
        reason: None,
    }
}

fn set(database: &SharedDatabase, text: &str, seconds: Option<u32>) {
    let records = Records::new(database.clone(), Keys::new("t:"));
    let (target, block) = (target(text), block(seconds));
    let set = records.block(&target, &block, START);
    set.now_or_never().unwrap().unwrap();
}

fn lift(database: &SharedDatabase, text: &str) {
    let records = Records::new(database.clone(), Keys::new("t:"));
    assert!(
        records
            .lift(&target(text), START)
            .now_or_never()
            .unwrap()
            .unwrap()
    );
}

fn of(address: &str) -> Check {
    let mut check = check(
        &[charge(
            &format!("p:{address}"),
            Algorithm::SlidingWindow,
            1000,
        )],
        1,
    );
    check.address = Some(address.to_owned());
    check
}

fn blocked<S: Store>(store: &S, address: &str, seconds: u32) -> bool {
    let now = START + Millis::from_secs(seconds);
    let verdict = store
        .decide(&of(address), now)
        .now_or_never()
        .unwrap()
        .unwrap();
    assert_eq!(
        verdict.allows(&of(address)),
        verdict.address_block.is_none()
    );
    verdict.address_block.is_some()
}

#[tokio::test]
async fn the_wrapper_conforms() {
    let records = || Rc::new(Records::new(Emulator::default(), Keys::new("t:")));
    let memory = || Memory::new(1000, Seed::fixed());
    conformance::shared(&Blocked::new(memory(), records(), TestEffects::default())).await;
    conformance::shared(&isolate(&SharedDatabase::default())).await;
}

#[test]
fn a_blocked_range_denies_from_the_next_request_in_every_isolate() {
    let database = SharedDatabase::default();
    let [here, there] = [isolate(&database), isolate(&database)];
    for isolate in [&here, &there] {
        assert!(!blocked(isolate, "192.0.2.1", 0));
    }
    set(&database, "192.0.2.0/24", Some(60));
    set(&database, "2001:db8::/48", None);
    for isolate in [&here, &there] {
        assert!(!isolate.effects.outlived());
        assert!(blocked(isolate, "192.0.2.1", 1));
        assert!(isolate.effects.outlived(), "the load outlives the client");
        assert!(!blocked(isolate, "192.0.3.1", 1));
        assert!(blocked(isolate, "2001:db8:0:7::/64", 1));
        assert!(!blocked(isolate, "2001:db8:1::/64", 1));
        assert!(!blocked(isolate, "192.0.2.1", 60), "the block has ended");
        assert!(blocked(isolate, "2001:db8:0:7::/64", 600_000));
    }
}

#[test]
fn a_range_lifted_elsewhere_stops_denying_within_seconds_and_a_flood_asks_rarely() {
    let database = SharedDatabase::default();
    let isolate = isolate(&database);
    set(&database, "10.0.0.0/8", None);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    assert!(isolate.effects.outlived());
    assert!(blocked(&isolate, "10.1.1.1", 1));
    assert!(!isolate.effects.outlived());
    assert!(blocked(&isolate, "10.1.1.1", 5));
    assert!(
        isolate.effects.outlived(),
        "the question outlives the client"
    );
    let asked = isolate.inner().asked.get();
    for second in 6..=60 {
        for _ in 0..100 {
            assert!(blocked(&isolate, "10.1.1.1", second));
        }
    }
    assert!(isolate.inner().asked.get() - asked <= 12);
    lift(&database, "10.0.0.0/8");
    let until = (61..)
        .find(|second| !blocked(&isolate, "10.1.1.1", *second))
        .unwrap();
    assert!(until <= 66, "{until}");
}

#[test]
fn nothing_is_loaded_while_nothing_changes() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    let before = database.calls.get();
    for second in 0..100 {
        assert!(!blocked(&isolate, "192.0.2.1", second));
    }
    assert_eq!(database.calls.get() - before, 1);
}

#[test]
fn an_outage_leaves_the_last_copy_in_force() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    set(&database, "192.0.2.7", Some(600));
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "192.0.2.1", 0));
    database.out.set(true);
    for second in [1, 100, 599] {
        assert!(blocked(&isolate, "10.1.1.1", second));
        assert!(
            blocked(&isolate, "192.0.2.7", second),
            "the isolate has its block in the copy only"
        );
        assert!(!blocked(&isolate, "192.0.2.8", second));
    }
    assert!(!blocked(&isolate, "192.0.2.7", 600), "the block has ended");
}

#[test]
fn an_answer_of_memory_does_not_reload_the_copy() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "192.0.2.1", 0));
    let loaded = database.calls.get();
    isolate.inner().memory_answers.set(true);
    for second in 1..100 {
        assert!(!blocked(&isolate, "192.0.2.1", second));
    }
    assert_eq!(database.calls.get(), loaded);
}

#[test]
fn without_a_shared_database_the_copy_decides_about_every_block() {
    let records = Rc::new(Records::new(Emulator::default(), Keys::new("t:")));
    let memory = Memory::new(1000, Seed::fixed());
    let store = Blocked::new(memory, records, TestEffects::default());
    let ends = AddressBlock {
        until: Some(START + Millis::from_secs(60)),
    };
    for text in ["10.0.0.0/8", "192.0.2.7"] {
        store.add(&target(text), ends, START);
    }
    assert!(blocked(&store, "10.1.1.1", 1) && blocked(&store, "192.0.2.7", 1));
    assert!(!blocked(&store, "192.0.2.8", 1) && !blocked(&store, "192.0.2.7", 60));
    for text in ["10.0.0.0/8", "192.0.2.7"] {
        store.remove(&target(text));
    }
    assert!(!blocked(&store, "10.1.1.1", 1) && !blocked(&store, "192.0.2.7", 1));
}

#[test]
fn a_block_that_was_added_to_the_copy_denies_although_the_database_lacks_it() {
    let database = SharedDatabase::default();
    let isolate = isolate(&database);
    let ends = AddressBlock {
        until: Some(START + Millis::from_secs(60)),
    };
    isolate.add(&target("10.0.0.0/8"), ends, START);
    assert!(blocked(&isolate, "10.1.1.1", 1));
}

/// The breaker does not report it, since decisions go on.
#[test]
fn a_copy_that_cannot_be_loaded_is_logged_once_and_reported() {
    let database = SharedDatabase::default();
    let isolate = isolate(&database);
    let lines = || isolate.effects.lines();
    set(&database, "10.0.0.0/8", None);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    set(&database, "192.0.2.0/24", None);
    database.refuses_ranges.set(true);
    assert!(!blocked(&isolate, "192.0.2.1", 10));
    assert_eq!(
        (isolate.load_failure(), lines()),
        (None, vec![]),
        "one failure may pass, so it is not reported"
    );
    for second in [12, 14, 16] {
        assert!(!blocked(&isolate, "192.0.2.1", second));
    }
    let since = START + Millis::from_secs(10);
    let why = "Redis refused the command: WRONGTYPE";
    assert_eq!(isolate.load_failure(), Some((since, why.to_owned())));
    let line = format!("Loading the blocks failed: {why}; this isolate enforces its last copy");
    assert_eq!(lines(), [line]);
    assert!(blocked(&isolate, "10.1.1.1", 16), "the last copy");
    database.refuses_ranges.set(false);
    assert!(blocked(&isolate, "192.0.2.1", 18));
    assert_eq!(isolate.load_failure(), None);
    assert_eq!(lines(), ["Loading the blocks works again"]);
}

/// When a flood spends the whole budget, the block that would end the flood must not wait for commands.
#[test]
fn loading_the_copy_spends_commands_and_is_never_refused() {
    let database = SharedDatabase::default();
    let blocked = isolate(&database);
    let budget = Budget::new(NonZeroU32::new(10));
    blocked.records.share_budget(budget.clone());
    set(&database, "10.0.0.0/8", None);
    let asks = |ms| {
        let now = START + Millis::new(ms);
        let verdict = blocked.decide(&of("10.1.2.3"), now).now_or_never();
        verdict.unwrap().unwrap().address_block.is_some()
    };
    assert!(budget.spend(4, Purpose::Decision, START));
    let before = database.calls.get();
    assert_eq!((asks(0), database.calls.get() - before), (true, 1));
    // The load has spent four commands: the script and its three commands.
    assert!(
        budget.spend(2, Purpose::Decision, START) && !budget.spend(1, Purpose::Decision, START)
    );
    set(&database, "192.0.2.0/24", None);
    let now = START + Millis::new(2100);
    assert!(budget.spend(10, Purpose::Decision, now));
    let verdict = blocked.decide(&of("192.0.2.1"), now).now_or_never();
    assert!(
        verdict.unwrap().unwrap().address_block.is_some(),
        "the block is loaded although the budget is spent"
    );
}

/// Another isolate blocks an address that was denied too often.
fn escalate(database: &SharedDatabase, address: &str) {
    let rule = Escalation {
        denials: 5,
        window: Millis::from_secs(60),
        block: Millis::from_secs(6000),
    };
    let recorder = Recorder::new(Seed::fixed());
    for _ in 0..6 {
        recorder.count_denial(denied(address, "auth").caller, "auth", START);
    }
    let records = Records::new(database.clone(), Keys::new("t:"));
    let batch = recorder.take(ALL);
    let escalated = records.escalate(&batch, &rule, START).now_or_never();
    assert_eq!(escalated.unwrap().unwrap().blocks.len(), 1);
}

/// Deletes these keys from the database.
fn lose<const N: usize>(database: &SharedDatabase, keys: [&str; N]) {
    let words = ["DEL".to_owned()].into_iter();
    let lost = words.chain(keys.map(|key| format!("t:{key}"))).collect();
    let lost = database.emulator.run(vec![lost], START).now_or_never();
    lost.unwrap().unwrap();
}

/// Deletes all ranges and the list of addresses from the database.
fn flush(database: &SharedDatabase) {
    lose(
        database,
        [
            "blocked_ranges",
            "blocked_ranges:version",
            "blocked_ranges:lifted",
            "blocked_ips",
        ],
    );
}

/// The lines logged since the last call of this function.
fn lines(isolate: &Blocked<Decisions, SharedDatabase, TestEffects>) -> Vec<String> {
    isolate.effects.lines()
}

/// The log lines of `notices`.
fn lines_of<const N: usize>(notices: [Notice; N]) -> Vec<String> {
    notices.iter().map(ToString::to_string).collect()
}

#[test]
fn a_version_is_not_used_again_after_all_ranges_are_lost() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    flush(&database);
    set(&database, "192.0.2.0/24", None);
    assert!(blocked(&isolate, "192.0.2.1", 10), "the new range");
    assert!(blocked(&isolate, "10.1.1.1", 10), "the old range, restored");
    assert_eq!(lines(&isolate), lines_of([Notice::RangesRestored(1)]));
    let fresh = self::isolate(&database);
    for address in ["192.0.2.1", "10.1.1.1"] {
        assert!(blocked(&fresh, address, 11));
    }
    assert_eq!(lines(&fresh), lines_of([]));
}

#[test]
fn ranges_lost_without_their_version_are_reported_by_a_fresh_isolate_and_restored_by_an_older_one()
{
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let [old, fresh] = [isolate(&database), isolate(&database)];
    assert!(blocked(&old, "10.1.1.1", 0));
    lose(&database, ["blocked_ranges"]);
    assert!(
        !blocked(&fresh, "10.1.1.1", 1),
        "a fresh isolate does not know the lost range"
    );
    assert_eq!(lines(&fresh), lines_of([Notice::RangesLost]));
    assert_eq!(fresh.lost_since(), Some(START + Millis::from_secs(1)));
    for second in 2..40 {
        assert!(!blocked(&fresh, "192.0.2.1", second));
        assert!(!blocked(&old, "192.0.2.1", second));
        assert!(blocked(&old, "10.1.1.1", second));
    }
    assert_eq!(lines(&old), lines_of([Notice::RangesRestored(1)]));
    assert!(blocked(&fresh, "10.1.1.1", 40));
    assert_eq!(lines(&fresh), lines_of([]), "the loss is logged once");
    assert_eq!(fresh.lost_since(), None);
}

#[test]
fn lost_ranges_that_no_isolate_knows_are_reported_until_an_operator_sets_a_range() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    lose(&database, ["blocked_ranges"]);
    let fresh = isolate(&database);
    for second in 0..2000 {
        assert!(!blocked(&fresh, "192.0.2.1", second));
    }
    assert_eq!(lines(&fresh), lines_of([Notice::RangesLost]));
    assert!(fresh.lost_since().is_some());
    set(&database, "10.0.0.0/8", None);
    assert!(blocked(&fresh, "10.1.1.1", 2001));
    assert_eq!(fresh.lost_since(), None);
}

#[test]
fn lost_ranges_that_cannot_be_restored_are_reported_and_still_deny_from_the_copy() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    lose(&database, ["blocked_ranges", "blocked_ranges:version"]);
    database.full.set(true);
    for second in 1..60 {
        assert!(blocked(&isolate, "10.1.1.1", second));
    }
    assert_eq!(lines(&isolate), lines_of([Notice::RangesLost]));
    assert!(isolate.lost_since().is_some());
    database.full.set(false);
    for second in 60..70 {
        assert!(blocked(&isolate, "10.1.1.1", second));
    }
    assert_eq!(lines(&isolate), lines_of([Notice::RangesRestored(1)]));
    assert_eq!(isolate.lost_since(), None);
}

#[test]
fn a_version_lost_without_its_ranges_is_restored() {
    for by_fresh in [false, true] {
        let database = SharedDatabase::default();
        set(&database, "10.0.0.0/8", None);
        let isolate = isolate(&database);
        if !by_fresh {
            assert!(blocked(&isolate, "10.1.1.1", 0));
        }
        lose(&database, ["blocked_ranges:version"]);
        // A fresh isolate has no version to compare with, so it looks again after a minute.
        let noticed = (1..200).find(|second| {
            let _ = blocked(&isolate, "192.0.2.1", *second);
            lines(&isolate) == lines_of([Notice::VersionRestored])
        });
        assert!(noticed.unwrap() <= if by_fresh { 61 } else { 3 });
        assert!(blocked(&isolate, "10.1.1.1", 200));
        let late = self::isolate(&database);
        assert!(blocked(&late, "10.1.1.1", 201));
    }
}

#[test]
fn an_invalid_version_is_repaired() {
    for garbage in ["7", "garbage", "-", "a-b"] {
        let database = SharedDatabase::default();
        set(&database, "10.0.0.0/8", None);
        let write = command(["SET", "t:blocked_ranges:version", garbage]);
        database
            .emulator
            .run(vec![write], START)
            .now_or_never()
            .unwrap()
            .unwrap();
        let isolate = isolate(&database);
        assert!(blocked(&isolate, "10.1.1.1", 0));
        assert_eq!(lines(&isolate), lines_of([Notice::VersionRestored]));
        let write = command(["SET", "t:blocked_ranges:version", garbage]);
        database
            .emulator
            .run(vec![write], START)
            .now_or_never()
            .unwrap()
            .unwrap();
        set(&database, "192.0.2.0/24", None);
        assert!(blocked(&isolate, "192.0.2.1", 10));
        assert!(blocked(&isolate, "10.1.1.1", 10));
    }
}

#[test]
fn no_isolate_restores_a_lost_range_that_an_operator_has_lifted() {
    let database = SharedDatabase::default();
    for range in ["10.0.0.0/8", "192.0.2.0/24"] {
        set(&database, range, None);
    }
    let [one, other] = [isolate(&database), isolate(&database)];
    for isolate in [&one, &other] {
        assert!(blocked(isolate, "10.1.1.1", 0));
    }
    flush(&database);
    // The lost range does not exist, so nothing is lifted. But no isolate may restore it from now on.
    let records = Records::new(database.clone(), Keys::new("t:"));
    let range = target("10.0.0.0/8");
    let lifted = records.lift(&range, START + Millis::from_secs(1));
    assert_eq!(lifted.now_or_never().unwrap(), Ok(false));
    assert!(!blocked(&one, "10.1.1.1", 6));
    // The other was idle for a while.
    assert!(!blocked(&other, "10.1.1.1", 3000));
    for isolate in [&one, &other, &self::isolate(&database)] {
        assert!(!blocked(isolate, "10.1.1.1", 3001));
        assert!(blocked(isolate, "192.0.2.1", 3001));
    }
    assert_eq!(lines(&one), lines_of([Notice::RangesRestored(1)]));
    assert_eq!(lines(&other), lines_of([]));
    // Once it is blocked again, it is restored again.
    set(&database, "10.0.0.0/8", None);
    assert!(blocked(&one, "10.1.1.1", 3010));
    flush(&database);
    assert!(blocked(&one, "10.1.1.1", 3020));
    assert!(blocked(&self::isolate(&database), "10.1.1.1", 3021));
}

#[test]
fn an_isolate_that_was_idle_for_an_hour_restores_nothing() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    flush(&database);
    set(&database, "192.0.2.0/24", None);
    assert!(!blocked(&isolate, "10.1.1.1", 3601));
    assert!(blocked(&isolate, "192.0.2.1", 3601));
}

#[test]
fn a_block_that_has_ended_is_not_restored() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", Some(60));
    let isolate = isolate(&database);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    lose(&database, ["blocked_ranges"]);
    assert!(!blocked(&isolate, "10.1.1.1", 60));
    for second in 61..700 {
        assert!(!blocked(&isolate, "10.1.1.1", second));
    }
    assert_eq!(lines(&isolate), lines_of([Notice::VersionRestored]));
    assert_eq!(isolate.lost_since(), None);
}

#[test]
fn a_block_of_an_address_loads_no_ranges() {
    let database = SharedDatabase::default();
    set(&database, "10.0.0.0/8", None);
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "192.0.2.1", 0));
    let before = (database.range_loads.get(), database.calls.get());
    let uncounted = SharedDatabase {
        calls: Rc::default(),
        range_loads: Rc::default(),
        ..database.clone()
    };
    for second in 1..=300 {
        let address = format!("192.0.{}.{}", second / 250, second % 250);
        set(&uncounted, &address, None);
        assert!(blocked(&isolate, &address, second), "{address}");
    }
    assert_eq!(database.range_loads.get(), before.0);
    // Every half minute: the list, and the records of addresses that are blocked without an end.
    assert!(
        database.calls.get() - before.1 <= 22,
        "{}",
        database.calls.get() - before.1
    );
}

#[test]
fn a_block_set_elsewhere_after_the_copy_was_loaded_denies_during_an_outage() {
    let database = SharedDatabase::default();
    set(&database, "192.0.2.1", Some(6000));
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "203.0.113.1", 0));
    escalate(&database, "192.0.2.2");
    lift(&database, "192.0.2.1");
    for second in 1..=31 {
        assert!(!blocked(&isolate, "203.0.113.1", second));
    }
    database.out.set(true);
    assert!(blocked(&isolate, "192.0.2.2", 32));
    assert!(
        !blocked(&isolate, "192.0.2.1", 32),
        "the block was lifted elsewhere"
    );
}

#[test]
fn a_long_list_is_read_in_parts() {
    let database = SharedDatabase::default();
    let name = |number: u32| format!("10.0.{}.{}", number >> 8, number & 255);
    for number in 0..2500 {
        set(&database, &name(number), Some(6000 + number % 7));
    }
    let isolate = isolate(&database);
    for second in 0..10 {
        assert!(!blocked(&isolate, "203.0.113.1", second));
    }
    database.out.set(true);
    for number in 0..2500 {
        assert!(blocked(&isolate, &name(number), 10), "{number}");
    }
}

#[test]
fn an_endless_block_that_lost_its_record_is_restored_from_the_list() {
    let database = SharedDatabase::default();
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::/64"] {
        set(&database, address, None);
    }
    set(&database, "192.0.2.3", Some(600));
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "203.0.113.1", 0));
    lose(
        &database,
        [
            "blocked:192.0.2.1",
            "blocked:2001:db8::/64",
            "blocked:192.0.2.3",
        ],
    );
    assert!(
        !blocked(&isolate, "192.0.2.1", 1),
        "the record is missing until the list is read"
    );
    let listed = Records::new(database.clone(), Keys::new("t:"));
    let page = listed.blocks(&BlockCursor::FIRST, 10, START).now_or_never();
    let page = page.unwrap().unwrap();
    let names: Vec<_> = page.blocks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["192.0.2.1", "192.0.2.2", "2001:db8::/64"]);
    for second in 2..=601 {
        let _ = blocked(&isolate, "203.0.113.1", second);
    }
    assert_eq!(lines(&isolate), lines_of([Notice::AddressesRestored(2)]));
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::/64"] {
        assert!(blocked(&self::isolate(&database), address, 602));
    }
    // A block with an end is not restored: it may have ended by the clock of the isolate that set it.
    assert!(!blocked(&self::isolate(&database), "192.0.2.3", 300));
    lift(&database, "192.0.2.1");
    for second in 603..=2000 {
        let _ = blocked(&isolate, "203.0.113.1", second);
    }
    assert!(!blocked(&isolate, "192.0.2.1", 2001));
}

#[test]
fn blocks_still_deny_after_the_ipv6_prefix_of_callers_changes() {
    for out in [false, true] {
        let database = SharedDatabase::default();
        for network in ["2001:db8:0:107::/64", "2001:db8:1::/56"] {
            let network = AddressPrefix::parse(network).unwrap();
            let records = Records::new(database.clone(), Keys::new("t:"));
            let (network, block) = (BlockTarget::Address(network), block(None));
            let set = records.block(&network, &block, START);
            set.now_or_never().unwrap().unwrap();
        }
        // A range while 64 bits make a caller. With 56 bits it is within one caller.
        set(&database, "2001:db8:2:8::/61", None);
        let isolate = isolate(&database);
        assert!(!blocked(&isolate, "203.0.113.1", 0));
        database.out.set(out);
        for (address, is_blocked) in [
            // If 56 bits make a caller:
            ("2001:db8:0:100::/56", true),
            ("2001:db8:0:200::/56", false),
            ("2001:db8:2::/56", true),
            // If 64 bits do:
            ("2001:db8:1:7::/64", true),
            ("2001:db8:1:107::/64", false),
            ("2001:db8:0:107::/64", true),
            ("2001:db8:0:108::/64", false),
            ("2001:db8:2:f::/64", true),
            ("2001:db8:2:10::/64", false),
            // If 128 bits do:
            ("2001:db8:0:107::1", true),
            ("2001:db8:1::1", true),
        ] {
            assert_eq!(blocked(&isolate, address, 1), is_blocked, "{address}");
        }
        if out {
            continue;
        }
        let records = Records::new(database.clone(), Keys::new("t:"));
        let network = BlockTarget::Address(AddressPrefix::parse("2001:db8:0:107::/64").unwrap());
        let lifted = records.lift(&network, START).now_or_never();
        assert_eq!(lifted.unwrap(), Ok(true));
        let until = (2..).find(|second| !blocked(&isolate, "2001:db8:0:100::/56", *second));
        assert!(until.unwrap() <= 10, "{until:?}");
    }
}

/// Whether the isolate knows a denial without asking the store.
fn is_known(
    isolate: &Blocked<Decisions, SharedDatabase, TestEffects>,
    address: &str,
    ms: u64,
) -> bool {
    let known = isolate.known_denial(&of(address), START + Millis::new(ms));
    known.is_some()
}

#[test]
fn a_denial_by_a_range_is_known_without_asking_until_the_copy_has_to_be_checked() {
    let database = SharedDatabase::default();
    set(&database, "192.0.2.0/24", None);
    let isolate = isolate(&database);
    let known = |ms| is_known(&isolate, "192.0.2.1", ms);
    let ask = |ms| {
        isolate
            .decide(&of("192.0.2.1"), START + Millis::new(ms))
            .now_or_never()
    };
    assert!(!known(0));
    ask(0).unwrap().unwrap();
    assert!(known(0) && known(4999));
    assert_eq!(isolate.known_denial(&of("198.51.100.1"), START), None);
    // Then one request asks the store, and the others need not.
    assert!(!known(5000));
    ask(5000).unwrap().unwrap();
    assert!(known(5000));
    lift(&database, "192.0.2.0/24");
    assert!(!known(10_000));
    ask(10_000).unwrap().unwrap();
    assert!(!known(10_000));
}

#[test]
fn while_the_store_is_out_a_denial_by_an_address_block_is_known_for_a_second() {
    let database = SharedDatabase::default();
    set(&database, "192.0.2.1", None);
    set(&database, "198.51.100.0/24", None);
    let isolate = isolate(&database);
    let known = |ms| is_known(&isolate, "192.0.2.1", ms);
    let ask = |ms| {
        isolate
            .decide(&of("192.0.2.1"), START + Millis::new(ms))
            .now_or_never()
    };
    ask(0).unwrap().unwrap();
    assert!(!known(0), "the store decides about addresses");
    database.out.set(true);
    assert!(!known(100));
    assert!(ask(100).unwrap().unwrap().address_block.is_some());
    assert!(known(100) && known(1099) && !known(1100));
    database.out.set(false);
    lift(&database, "192.0.2.1");
    assert!(ask(1100).unwrap().unwrap().address_block.is_none());
    assert!(!known(1100));
}

#[test]
fn in_a_cluster_a_duty_reads_the_version_and_no_request_waits_for_it() {
    let database = SharedDatabase::default();
    let blocked = isolate_of(&database, Keys::clustered("t:"));
    let records = Records::new(database.clone(), Keys::clustered("t:"));
    let range = target("10.0.0.0/8");
    let set = records.block(&range, &block(None), START).now_or_never();
    assert_eq!(set, Some(Ok(())));
    let at = |ms| START + Millis::new(ms);
    // Whether the request is denied, and how often it called the database.
    let asks = |ms| {
        let before = database.calls.get();
        let verdict = blocked.decide(&of("10.1.2.3"), at(ms)).now_or_never();
        let denied = verdict.unwrap().unwrap().address_block.is_some();
        (denied, database.calls.get() - before)
    };
    let read = |ms| {
        let is_due = blocked.should_read_version(at(ms));
        assert!(
            !blocked.should_read_version(at(ms)),
            "only one task reads the version"
        );
        if is_due {
            blocked.read_version(at(ms)).now_or_never().unwrap();
        }
        is_due
    };
    assert_eq!(asks(0), (false, 0), "the copy is not loaded yet");
    assert!(read(0));
    for ms in [1, 6000, 9999, 60_000] {
        assert_eq!(asks(ms), (true, 0), "{ms}");
        let known = blocked.remembered_denial(&of("10.1.2.3"), at(ms));
        assert!(known.is_some(), "{ms}");
    }
    assert!(!read(9999));
    let lifted = records.lift(&range, START).now_or_never();
    assert_eq!(lifted, Some(Ok(true)));
    database.out.set(true);
    for ms in [10_000, 20_000, 30_000] {
        assert!(read(ms));
    }
    let failure = blocked.load_failure();
    assert!(failure.is_some_and(|(since, _)| since == at(10_000)));
    database.out.set(false);
    assert_eq!(asks(31_000), (true, 0), "the last copy");
    assert!(read(40_000));
    assert_eq!((asks(40_001), blocked.load_failure()), ((false, 0), None));
    assert!(!isolate(&database).should_read_version(START));
}

fn of_cluster(database: &SharedDatabase) -> Records<SharedDatabase> {
    Records::new(database.clone(), Keys::clustered("t:"))
}

fn set_apart(
    database: &SharedDatabase,
    text: &str,
    seconds: Option<u32>,
) -> Result<(), BlockError> {
    let (records, target) = (of_cluster(database), target(text));
    let block = block(seconds);
    let set = records.block(&target, &block, START);
    set.now_or_never().unwrap()
}

fn lift_apart(database: &SharedDatabase, text: &str) -> Result<bool, StoreError> {
    let (records, target) = (of_cluster(database), target(text));
    records.lift(&target, START).now_or_never().unwrap()
}

/// An isolate in a cluster that has read the list of addresses.
fn isolate_with_list(database: &SharedDatabase) -> Blocked<Decisions, SharedDatabase, TestEffects> {
    let isolate = isolate_of(database, Keys::clustered("t:"));
    isolate.read_version(START).now_or_never().unwrap();
    isolate
}

/// Whether a fresh isolate that has read the list denies the address while the store is out: by its copy.
fn blocked_out(database: &SharedDatabase, address: &str, seconds: u32) -> bool {
    let isolate = isolate_with_list(database);
    database.out.set(true);
    let blocked = blocked(&isolate, address, seconds);
    database.out.set(false);
    blocked
}

fn listed_at(database: &SharedDatabase, address: &str) -> serde_json::Value {
    let read = command(["ZSCORE", "t:{records}:blocked_ips", address]);
    let score = database.emulator.run(vec![read], START).now_or_never();
    score.unwrap().unwrap().remove(0)
}

#[test]
fn in_a_cluster_an_address_whose_lift_ended_early_is_not_blocked_in_an_outage() {
    let database = SharedDatabase::default();
    for address in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(set_apart(&database, address, None), Ok(()));
    }
    for unanswered in ["DEL", "ZREM"] {
        database.unanswered.set(Some(unanswered));
        let lifted = lift_apart(&database, "192.0.2.1");
        assert_eq!(lifted, Err(StoreError::Timeout));
        // Here the list can be read, but nothing can be removed from it.
        assert!(!blocked_out(&database, "192.0.2.1", 0), "{unanswered}");
        assert!(blocked_out(&database, "192.0.2.2", 0), "{unanswered}");
        database.unanswered.set(None);
        assert!(!blocked_out(&database, "192.0.2.1", 0), "{unanswered}");
        // If the record still exists, it still denies, so the address stays listed.
        let is_listed = !listed_at(&database, "192.0.2.1").is_null();
        assert_eq!(is_listed, unanswered == "DEL");
    }
    assert_eq!(lift_apart(&database, "192.0.2.1"), Ok(false));
    assert!(!listed_at(&database, "192.0.2.2").is_null());
}

/// An escalation or an operator's call has listed the address, and failed before it wrote the record.
#[test]
fn in_a_cluster_an_address_listed_without_a_record_is_blocked_until_the_blocks_end() {
    let database = SharedDatabase::default();
    database.unanswered.set(Some("PX"));
    let set = set_apart(&database, "192.0.2.1", Some(60));
    assert_eq!(set, Err(BlockError::Failed(StoreError::Timeout)));
    database.unanswered.set(None);
    assert!(blocked_out(&database, "192.0.2.1", 59));
    assert!(!blocked_out(&database, "192.0.2.1", 60));
    let page = of_cluster(&database)
        .blocks(&BlockCursor::FIRST, 10, START)
        .now_or_never()
        .unwrap();
    assert_eq!(page.unwrap().blocks, []);
}

#[test]
fn in_a_cluster_each_read_of_the_list_checks_a_few_records_and_repeated_reads_check_all() {
    let database = SharedDatabase::default();
    let name = |number: u32| format!("192.0.{}.{}", number >> 8, number & 255);
    for number in 0..1000 {
        assert_eq!(set_apart(&database, &name(number), None), Ok(()));
    }
    let calls = |isolate: &Blocked<Decisions, SharedDatabase, TestEffects>, seconds| {
        let before = database.calls.get();
        let now = START + Millis::from_secs(seconds);
        isolate.read_version(now).now_or_never().unwrap();
        database.calls.get() - before
    };
    let isolate = isolate_of(&database, Keys::clustered("t:"));
    // Calls for the version, the list, the list with the ranges, and 20 records.
    assert_eq!(calls(&isolate, 0), 23);
    let key = |number| format!("t:blocked:{{{}}}", name(number));
    let deletion = |number| command(["DEL", &key(number)]);
    let lost = (0..1000).map(deletion).collect();
    database
        .emulator
        .run(lost, START)
        .now_or_never()
        .unwrap()
        .unwrap();
    let exists = |number| command(["EXISTS", &key(number)]);
    let missing = || {
        let read = (0..1000).map(exists).collect();
        let exist = database.emulator.run(read, START).now_or_never().unwrap();
        exist.unwrap().iter().filter(|exists| **exists == 0).count()
    };
    // After some records were missing, the next read comes soon.
    let most = (1..400).map(|part| calls(&isolate, 30 * part)).max();
    assert!(most < Some(22 + 20 * 6), "{most:?}");
    assert!(missing() < 200, "{}", missing());
}

#[test]
fn in_a_cluster_the_list_is_read_although_a_slot_fails() {
    let database = SharedDatabase::default();
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    for address in addresses {
        assert_eq!(set_apart(&database, address, None), Ok(()));
    }
    lose(&database, ["blocked:{192.0.2.1}", "blocked:{192.0.2.3}"]);
    for failing in ["{192.0.2.1}", "{192.0.2.2}", "{192"] {
        database.unanswered.set(Some(failing));
        let isolate = isolate_with_list(&database);
        assert_eq!(isolate.load_failure(), None, "{failing}");
        database.out.set(true);
        for address in addresses {
            assert!(blocked(&isolate, address, 0), "{failing}");
        }
        database.out.set(false);
        database.unanswered.set(None);
        let target = target("192.0.2.3");
        let records = of_cluster(&database);
        let restored = records.look_up(&target, START).now_or_never().unwrap();
        assert!(restored.unwrap().is_some(), "{failing}");
    }
}
