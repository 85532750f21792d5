//! What records cost next to decisions, over the production stack, with a clock that the test sets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::Journal;
use crate::blocklist::BlockTarget;
use crate::blocklist::records::BOUNDS_COMMANDS;
use crate::client::CallerKey;
use crate::config::{Config, Vars};
use crate::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::events::escalation::{Costs, EscalationResult};
use crate::events::tests::ALL;
use crate::events::{BatchLimits, Details};
use crate::gate;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::redis::{Command, Database};
use crate::seed::Seed;
use crate::store::conformance::START;
use crate::store::reference::Reference;
use crate::store::retries::Retries;
use crate::store::shared::{self, Partitioned, Question, SharedStore};
use crate::store::stack::{MaxEntries, Stack, StoreSettings};
use crate::time::{Millis, Timestamp};
use crate::user::Authenticate;

const CAP: u32 = 50;

const RULES: StoreSettings = StoreSettings {
    timeout: Millis::new(1000),
    retries: Retries {
        count: 2,
        delay: Millis::new(50),
    },
    doublings: 10,
    max_commands: NonZeroU32::new(CAP),
    fallback_factor: 1000,
};

/// A host whose clock the test sets, in ms after [`START`]. It notes how many commands were spent, and when.
#[derive(Clone, Default)]
struct World(Rc<FakeEffectsState>);

#[derive(Default)]
struct FakeEffectsState {
    now: Cell<u64>,
    decisions: RefCell<Vec<(u64, usize)>>,
    records: RefCell<Vec<(u64, usize)>>,
    emulator: Emulator,
    store: Reference,
    /// Whether the database refuses records.
    refuses: Cell<bool>,
    lines: RefCell<Vec<String>>,
}

impl World {
    /// The most commands that were spent in any second.
    fn most_in_a_second(&self) -> usize {
        let mut all = self.0.decisions.borrow().clone();
        all.extend(self.0.records.borrow().iter());
        all.sort_unstable();
        let second = |(place, (from, _)): (usize, &(u64, usize))| {
            let within = all[place..].iter().take_while(|(at, _)| *at < from + 1000);
            within.map(|(_, commands)| commands).sum()
        };
        all.iter().enumerate().map(second).max().unwrap_or_default()
    }
}

impl Effects for World {
    fn now(&self) -> Timestamp {
        START + Millis::new(self.0.now.get())
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, line: &str) {
        self.0.lines.borrow_mut().push(line.to_owned());
    }

    async fn call_redis(&self, _: String, _: Millis) -> Result<RedisResponse, StoreError> {
        Err(StoreError::Unreachable)
    }

    async fn sleep(&self, length: Millis) {
        let until = self.0.now.get() + length.get();
        std::future::poll_fn(|_| match self.0.now.get() >= until {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    async fn verify(&self, _: VerificationKey<'_>, _: &str, _: &[u8]) -> bool {
        false
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        Err(KeySetError::Unreachable)
    }
}

impl Database for World {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        // Several commands run as one script, which is billed as well.
        let cost = commands.len() + usize::from(commands.len() > 1);
        let spent = (self.0.now.get(), cost);
        self.0.records.borrow_mut().push(spent);
        if self.0.refuses.get() {
            return Err(StoreError::Refused("WRONGTYPE".to_owned()));
        }
        self.0.emulator.run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Partitioned for World {}

impl SharedStore for World {
    async fn ask(
        &self,
        question: &Question<'_>,
        now: Timestamp,
    ) -> Result<shared::StoreReply, StoreError> {
        // One for the script, one for its read, and one for each state.
        let spent = (self.0.now.get(), 2 + question.check.charges.len());
        self.0.decisions.borrow_mut().push(spent);
        self.0.store.ask(question, now).await
    }
}

struct AnonymousRequests;

impl Authenticate for AnonymousRequests {
    async fn user(&self, _: impl Fn(&str) -> Option<String>, _: Timestamp) -> Option<CallerKey> {
        None
    }
}

/// A request from an address.
struct RequestFrom(String);

impl gate::GateRequest for RequestFrom {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &'static str {
        "/"
    }

    fn header(&self, name: &str) -> Option<String> {
        (name == "cf-connecting-ip").then(|| self.0.clone())
    }
}

struct Isolate {
    config: Config,
    world: World,
    records: Rc<Records<World>>,
    stack: Rc<Stack<World, World, World>>,
    journal: Rc<Journal<World>>,
    /// Duties that have begun and not ended.
    duties: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>,
    denied: RefCell<BTreeMap<String, u64>>,
}

impl Isolate {
    fn new(vars: &Value) -> Self {
        let config = Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config;
        let world = World::default();
        let records = Rc::new(Records::new(world.clone(), Keys::new("t:")));
        let seed = Seed::fixed();
        let stack = Stack::new(
            world.clone(),
            Rc::clone(&records),
            RULES,
            MaxEntries::default(),
            &seed,
            world.clone(),
        );
        Self {
            journal: Rc::new(Journal::new(Rc::clone(&records), &config.protection, seed)),
            stack: Rc::new(stack),
            duties: RefCell::default(),
            denied: RefCell::default(),
            config,
            world,
            records,
        }
    }

    fn ask(&self, address: &str) {
        let now = self.world.now();
        let request = RequestFrom(address.to_owned());
        let decided = gate::decide(
            &self.config,
            &*self.stack,
            &AnonymousRequests,
            &request,
            now,
        );
        let report = decided.now_or_never().unwrap().unwrap();
        if let Some(kind) = self.journal.kind(&report) {
            let details = &mut Details::default;
            self.journal.record(kind, 429, &report, now, details);
        }
        if !report.admitted && report.address_block.is_none() {
            *self
                .denied
                .borrow_mut()
                .entry(address.to_owned())
                .or_default() += 1;
        }
    }

    /// Advances the clock by `ms` milliseconds, and begins and continues duties as a host does.
    fn advance(&self, ms: u64) {
        self.world.0.now.set(self.world.0.now.get() + ms);
        let mut duties = self.duties.borrow_mut();
        if self.journal.recorder().should_write(self.world.now()) {
            let (journal, stack) = (Rc::clone(&self.journal), Rc::clone(&self.stack));
            let world = self.world.clone();
            duties.push(Box::pin(async move {
                journal.write_later(&*stack, &world).await;
            }));
        }
        let context = &mut Context::from_waker(Waker::noop());
        duties.retain_mut(|duty| duty.as_mut().poll(context).is_pending());
    }

    /// Whether the address is blocked everywhere.
    fn blocks(&self, address: &str) -> bool {
        let target = BlockTarget::parse(address, self.config.ipv6_prefix).unwrap();
        let block = self.records.look_up(&target, self.world.now());
        block.now_or_never().unwrap().unwrap().is_some()
    }

    fn suspicious(&self) -> BTreeMap<String, u64> {
        let found = self.records.suspicious(2, 1000, self.world.now());
        let found = found.now_or_never().unwrap().unwrap();
        let counts = found.into_iter().map(|known| (known.caller, known.denied));
        counts.collect()
    }
}

/// A hundred callers are denied again and again, and one far more often.
#[test]
fn a_flood_of_denials_with_escalation_spends_no_more_than_the_cap() {
    let isolate = Isolate::new(&json!({
        "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,3600", "RATE_LIMIT_ESCALATION": "10,600,600",
    }));
    let attacker = "192.0.2.1";
    let flood = |seconds: std::ops::Range<u64>| {
        for ms in seconds.start * 1000..seconds.end * 1000 {
            isolate.ask(&format!("198.51.100.{}", ms % 100));
            isolate.ask(attacker);
            isolate.advance(1);
        }
    };
    flood(0..6);
    assert!(isolate.blocks(attacker), "in the middle of the flood");
    flood(6..12);
    for _ in 12..200 {
        (0..100).for_each(|_| isolate.advance(10));
    }
    let most = isolate.world.most_in_a_second();
    assert!(most <= CAP as usize, "{most}");
    assert_eq!(
        isolate.suspicious(),
        *isolate.denied.borrow(),
        "nothing is lost"
    );
    for caller in 0..100 {
        assert!(isolate.blocks(&format!("198.51.100.{caller}")));
    }
}

/// The breaker does not report it, since decisions still work.
#[test]
fn events_that_cannot_be_written_are_logged_once_and_reported() {
    for escalation in ["", "1000,600,600"] {
        let isolate = Isolate::new(&json!({
            "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,3600", "RATE_LIMIT_ESCALATION": escalation,
        }));
        let write = |times| {
            for _ in 0..times {
                isolate.ask("192.0.2.1");
                isolate.advance(1);
                isolate.advance(3000);
            }
            (
                isolate.journal.write_failure(),
                isolate.world.0.lines.take(),
            )
        };
        assert_eq!(write(3), (None, vec![]));
        isolate.world.0.refuses.set(true);
        assert_eq!(write(1), (None, vec![]), "one failure may be transient");
        let (failure, lines) = write(3);
        let why = "Redis refused the command: WRONGTYPE";
        assert_eq!(failure.map(|(_, why)| why).as_deref(), Some(why));
        let line = format!(
            "Writing events to Redis failed: {why}; this isolate keeps them in memory while there is room"
        );
        assert_eq!(lines, [line]);
        isolate.world.0.refuses.set(false);
        let again = vec!["Writing events to Redis works again".to_owned()];
        assert_eq!(write(1), (None, again));
        assert_eq!(
            isolate.suspicious(),
            *isolate.denied.borrow(),
            "nothing is lost"
        );
    }
}

/// Each part of a batch is checked.
#[test]
fn a_batch_costs_as_many_commands_as_it_states() {
    let isolate = Isolate::new(&json!({
        "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,3600,600", "RATE_LIMIT_ESCALATION": "10,600,600",
    }));
    let spent = |commands: usize| {
        let records = isolate.world.0.records.take();
        let sum: usize = records.iter().map(|(_, commands)| commands).sum();
        assert_eq!(sum, commands);
    };
    let rule = isolate.config.protection.escalation.unwrap();
    let now = isolate.world.now();
    for callers in [1, 20, 150] {
        for caller in 0..callers {
            for _ in 0..5 {
                isolate.ask(&format!("192.0.{callers}.{caller}"));
            }
        }
        for escalation in [None, Some(Costs::SINGLE_SERVER)] {
            let batch = isolate.journal.recorder().take(BatchLimits {
                commands: None,
                escalation,
            });
            let recorded = isolate.records.record(&batch, now).now_or_never();
            recorded.unwrap().unwrap();
            if escalation.is_some() {
                let counted = isolate.records.escalate(&batch, &rule, now).now_or_never();
                assert_eq!(counted.unwrap().unwrap(), EscalationResult::default());
            }
            spent(batch.commands(escalation));
            isolate.journal.recorder().put_back(batch);
        }
        while !isolate.journal.recorder().is_empty() {
            isolate.journal.recorder().take(ALL);
        }
    }
    for _ in 0..20 {
        isolate.ask("192.0.2.1");
    }
    // From here on, the commands spent so far no longer count against the budget.
    isolate.world.0.now.set(2000);
    let now = isolate.world.now();
    let batch = isolate.journal.recorder().take(ALL);
    let blocked = isolate.records.escalate(&batch, &rule, now).now_or_never();
    assert_eq!(blocked.unwrap().unwrap().blocks.len(), 1);
    // Two for the address, two for all addresses, the block, and the bounds of the list. The block's step is one script in
    // Redis. Here it is several calls, two of which have several commands.
    spent(4 + Costs::SINGLE_SERVER.per_block + BOUNDS_COMMANDS + 2);
}

/// Decisions spend all they may while records wait, and both get their share.
#[test]
fn neither_records_nor_decisions_are_starved() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,3600"}));
    let spent_in = |seconds: std::ops::Range<u64>| {
        let within = |spent: &RefCell<Vec<(u64, usize)>>| {
            let spent = spent.borrow();
            let within = spent
                .iter()
                .filter(|(at, _)| seconds.contains(&(at / 1000)));
            within.map(|(_, commands)| commands).sum::<usize>()
        };
        let state = &isolate.world.0;
        (within(&state.decisions), within(&state.records))
    };
    for ms in 0..12_000_u32 {
        // A new caller, and one that is denied.
        isolate.ask(&format!("10.{}.{}.{}", ms >> 16, ms >> 8 & 255, ms & 255));
        if ms > 3000 {
            isolate.ask(&format!("198.51.100.{}", ms % 200));
        }
        isolate.advance(1);
    }
    let (decisions, records) = spent_in(0..3);
    assert!(
        (120..=150).contains(&decisions) && records == 0,
        "{decisions} {records}"
    );
    let (decisions, records) = spent_in(7..11);
    assert!((100..=160).contains(&decisions), "{decisions}");
    assert!((40..=80).contains(&records), "{records}");
    assert!(isolate.world.most_in_a_second() <= CAP as usize);
}

/// However many commands have been spent, an operator's call is answered.
#[test]
fn an_operators_calls_count_and_are_never_refused() {
    let isolate = Isolate::new(&json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "1,3600"}));
    for _ in 0..3 {
        // Each of the 24 hours costs one command.
        let found = isolate.records.suspicious(24, 10, isolate.world.now());
        assert!(found.now_or_never().unwrap().is_ok());
    }
    isolate.ask("192.0.2.1");
    assert_eq!(*isolate.world.0.decisions.borrow(), [], "memory decides");
    for _ in 0..1100 {
        isolate.advance(1);
    }
    isolate.ask("192.0.2.1");
    assert_eq!(isolate.world.0.decisions.borrow().len(), 1);
}
