use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;

use futures_util::FutureExt;

use super::Blocked;
use crate::blocklist::{AddressBlock, Block, By, Target};
use crate::budget::{Budget, Purpose};
use crate::client::{Ipv6Prefix, Network};
use crate::effects::testing::Manual;
use crate::quota::Algorithm;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::{Command, Database};
use crate::seed::Seed;
use crate::store::conformance::{self, START, charge, check};
use crate::store::memory::Memory;
use crate::store::shared::{Question, Reply, SharedStore};
use crate::store::{Check, Store, StoreError};
use crate::time::{Millis, Timestamp};

/// A database that all share, and that can be out.
#[derive(Clone, Default)]
struct Shared {
    held: Rc<Emulator>,
    out: Rc<Cell<bool>>,
    calls: Rc<Cell<u32>>,
}

impl Database for Shared {
    async fn run(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> Result<Vec<serde_json::Value>, StoreError> {
        if self.out.get() {
            return Err(StoreError::Timeout);
        }
        self.calls.set(self.calls.get() + 1);
        self.held.run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// What a decision in Redis says of blocks; what it does of quotas is the memory's.
struct Decisions {
    database: Shared,
    memory: Memory,
    asked: Cell<u32>,
    memory_answers: Cell<bool>,
}

impl SharedStore for Decisions {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Reply, StoreError> {
        let mut reply = self.memory.ask(question, now).await?;
        if self.database.out.get() {
            reply.verdict.degraded = true;
            return Ok(reply);
        }
        if self.memory_answers.get() {
            return Ok(reply);
        }
        self.asked.set(self.asked.get() + 1);
        let records = Records::new(self.database.held.clone(), Keys::new("t:"));
        let known = records.blocklist_copy(now).await?;
        reply.ranges_version = known.version().map(str::to_owned);
        let address = question.check.address.as_deref();
        let own = match address.and_then(Network::parse) {
            Some(network) => records.look_up(&Target::Address(network), now).await?,
            None => None,
        };
        reply.verdict.address_block = own.map(|block| AddressBlock {
            until: block.until.map(Timestamp::from_millis),
        });
        Ok(reply)
    }
}

impl Database for Rc<Emulator> {
    async fn run(
        &self,
        commands: Vec<Command>,
        now: Timestamp,
    ) -> Result<Vec<serde_json::Value>, StoreError> {
        self.as_ref().run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        false
    }
}

fn isolate(database: &Shared) -> Blocked<Decisions, Shared, Manual> {
    let decisions = Decisions {
        database: database.clone(),
        memory: Memory::new(1000, Seed::fixed()),
        asked: Cell::new(0),
        memory_answers: Cell::new(false),
    };
    Blocked::new(
        decisions,
        Rc::new(Records::new(database.clone(), Keys::new("t:"))),
        Manual::default(),
    )
}

fn target(text: &str) -> Target {
    Target::parse(text, Ipv6Prefix::default()).unwrap()
}

fn block(seconds: Option<u32>) -> Block {
    Block {
        until: seconds.map(|seconds| (START + Millis::from_secs(seconds)).as_millis()),
        since: START.as_millis(),
        by: By::Operator,
        reason: None,
    }
}

fn set(database: &Shared, text: &str, seconds: Option<u32>) {
    let records = Records::new(database.clone(), Keys::new("t:"));
    let (target, block) = (target(text), block(seconds));
    let set = records.block(&target, &block, START);
    set.now_or_never().unwrap().unwrap();
}

fn lift(database: &Shared, text: &str) {
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
async fn conforms() {
    let records = || Rc::new(Records::new(Emulator::default(), Keys::new("t:")));
    let memory = || Memory::new(1000, Seed::fixed());
    conformance::shared(&Blocked::new(memory(), records(), Manual::default())).await;
    conformance::shared(&isolate(&Shared::default())).await;
}

#[test]
fn a_range_blocks_those_in_it_at_the_next_request_elsewhere() {
    let database = Shared::default();
    let [here, there] = [isolate(&database), isolate(&database)];
    for isolate in [&here, &there] {
        assert!(!blocked(isolate, "192.0.2.1", 0));
    }
    set(&database, "192.0.2.0/24", Some(60));
    set(&database, "2001:db8::/48", None);
    for isolate in [&here, &there] {
        assert!(!isolate.effects.outlived());
        assert!(blocked(isolate, "192.0.2.1", 1));
        assert!(
            isolate.effects.outlived(),
            "its client cannot stop the loading"
        );
        assert!(!blocked(isolate, "192.0.3.1", 1));
        assert!(blocked(isolate, "2001:db8:0:7::/64", 1));
        assert!(!blocked(isolate, "2001:db8:1::/64", 1));
        assert!(!blocked(isolate, "192.0.2.1", 60), "it has ended");
        assert!(blocked(isolate, "2001:db8:0:7::/64", 600_000));
    }
}

#[test]
fn lifted_elsewhere_it_is_forgotten_within_seconds_and_a_flood_asks_seldom() {
    let database = Shared::default();
    let isolate = isolate(&database);
    set(&database, "10.0.0.0/8", None);
    assert!(blocked(&isolate, "10.1.1.1", 0));
    assert!(isolate.effects.outlived());
    assert!(blocked(&isolate, "10.1.1.1", 1));
    assert!(!isolate.effects.outlived());
    assert!(blocked(&isolate, "10.1.1.1", 5));
    assert!(
        isolate.effects.outlived(),
        "its client cannot stop the question"
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
    let database = Shared::default();
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
    let database = Shared::default();
    set(&database, "10.0.0.0/8", None);
    set(&database, "192.0.2.7", Some(600));
    let isolate = isolate(&database);
    assert!(!blocked(&isolate, "192.0.2.1", 0));
    database.out.set(true);
    for second in [1, 100, 599] {
        assert!(blocked(&isolate, "10.1.1.1", second));
        assert!(
            blocked(&isolate, "192.0.2.7", second),
            "never seen here, but copied"
        );
        assert!(!blocked(&isolate, "192.0.2.8", second));
    }
    assert!(!blocked(&isolate, "192.0.2.7", 600), "it has ended");
}

#[test]
fn what_memory_answers_says_nothing_of_the_version() {
    let database = Shared::default();
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
fn in_memory_the_copy_is_all_there_is() {
    let records = Rc::new(Records::new(Emulator::default(), Keys::new("t:")));
    let store = Blocked::new(
        Memory::new(1000, Seed::fixed()),
        Rc::clone(&records),
        Manual::default(),
    );
    for text in ["10.0.0.0/8", "192.0.2.7"] {
        records
            .block(&target(text), &block(Some(60)), START)
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    store.reload(START).now_or_never().unwrap().unwrap();
    assert!(blocked(&store, "10.1.1.1", 1) && blocked(&store, "192.0.2.7", 1));
    assert!(!blocked(&store, "192.0.2.8", 1) && !blocked(&store, "192.0.2.7", 60));
    records
        .lift(&target("10.0.0.0/8"), START)
        .now_or_never()
        .unwrap()
        .unwrap();
    store.reload(START).now_or_never().unwrap().unwrap();
    assert!(!blocked(&store, "10.1.1.1", 1));
}

#[test]
fn a_database_that_fails_leaves_what_was_added_here() {
    let database = Shared::default();
    let isolate = isolate(&database);
    let ends = AddressBlock {
        until: Some(START + Millis::from_secs(60)),
    };
    isolate.add(&target("10.0.0.0/8"), ends);
    assert!(blocked(&isolate, "10.1.1.1", 1));
}

/// Another request loads the copy once there are commands for it.
#[test]
fn loading_the_copy_is_within_the_budget() {
    let database = Shared::default();
    let blocked = isolate(&database);
    let budget = Budget::new(NonZeroU32::new(10));
    blocked.records.share(budget.clone());
    set(&database, "10.0.0.0/8", None);
    let asks = |ms| {
        let now = START + Millis::new(ms);
        let verdict = blocked.decide(&of("10.1.2.3"), now).now_or_never();
        verdict.unwrap().unwrap().address_block.is_some()
    };
    assert!(budget.spend(8, Purpose::Decision, START));
    let before = database.calls.get();
    assert_eq!((asks(0), database.calls.get() - before), (false, 0));
    assert_eq!((asks(2000), database.calls.get() - before), (true, 1));
    // Its three commands are counted once.
    let now = START + Millis::new(2000);
    assert!(budget.spend(7, Purpose::Decision, now) && !budget.spend(1, Purpose::Decision, now));
}
