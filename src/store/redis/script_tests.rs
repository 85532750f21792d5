//! Differential test of the script against the reference, on a real Redis.

use std::cell::Cell;

use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{RedisStore, SCRIPT};
use crate::redis::Database;
use crate::redis::keys::Keys;
use crate::redis::rest::RestClient;
use crate::redis::script::ScriptForm;
use crate::store::Charge;
use crate::store::conformance::check;
use crate::store::reference::Reference;
use crate::store::shared::{ChargeExtra, Partitioned, Question, Refund, SharedStore, StoreReply};
use crate::store::stand_in::{RealEffects, StandIn};
use crate::time::{Millis, Timestamp};

mod random;

use random::{RandomCharge, RandomStep, random_charges, random_steps};

#[test]
fn the_scripts_hashes_match_its_text() {
    SCRIPT.assert_sha1s("decide.lua");
}

/// The script on a real Redis and the reference give the same answers and write the same texts, in either form of the script.
/// The input has clocks that jump, quotas that come and go, versions of a quota that take turns, backlogs, leases, refunds,
/// and garbage in the keys.
#[tokio::test]
async fn the_script_and_the_reference_agree() {
    const SEQUENCES: usize = 150;
    let stand_in = StandIn::start();
    let refusing = stand_in.refusing_too();
    let stand_ins = [&stand_in, &refusing];
    let connections = stand_ins.map(StandIn::redis);
    let mut runner = TestRunner::deterministic();
    let (mut compared, mut absorbed, mut leased, mut joined, mut refunded) = (0, 0, 0, 0, 0);
    for sequence in 0..SEQUENCES {
        let charges = random_charges().new_tree(&mut runner).unwrap().current();
        let steps = random_steps().new_tree(&mut runner).unwrap().current();
        let pair = Pair::new(&stand_in, &connections, sequence);
        compared += pair.compare(&charges, &steps).await;
        absorbed += pair.absorbed();
        leased += pair.leased.get();
        joined += pair.joined.get();
        refunded += pair.refunded.get();
    }
    assert!(compared > SEQUENCES * 10, "{compared} decisions compared");
    assert!(absorbed > SEQUENCES, "{absorbed} names absorbed");
    assert!(leased > SEQUENCES, "{leased} leases taken");
    assert!(joined > SEQUENCES, "{joined} texts of several states");
    assert!(refunded > SEQUENCES, "{refunded} states lowered by refunds");
    let forms = connections.map(|redis| redis.script_form());
    assert_eq!(forms, [Some(ScriptForm::Flagged), Some(ScriptForm::Plain)]);
}

/// The script and the reference, with the same records.
struct Pair<'a> {
    stand_in: &'a StandIn,
    /// One for each form of the script, asked in turn.
    stores: [RedisStore<RestClient<RealEffects>>; 2],
    asked: Cell<usize>,
    prefix: String,
    reference: Reference,
    /// The number of leases taken.
    leased: Cell<usize>,
    /// The number of texts with several states that were compared.
    joined: Cell<usize>,
    /// The number of texts that refunds changed.
    refunded: Cell<usize>,
}

impl<'a> Pair<'a> {
    fn new(
        stand_in: &'a StandIn,
        connections: &[RestClient<RealEffects>; 2],
        sequence: usize,
    ) -> Self {
        let prefix = format!("random-{sequence}:");
        let store =
            |redis: &RestClient<_>| RedisStore::new(redis.clone(), Keys::new(prefix.clone()));
        Self {
            stand_in,
            stores: connections.each_ref().map(store),
            asked: Cell::new(sequence),
            prefix,
            reference: Reference::default(),
            leased: Cell::new(0),
            joined: Cell::new(0),
            refunded: Cell::new(0),
        }
    }

    /// The number of backlogs that were added.
    fn absorbed(&self) -> usize {
        let known = |name: &u8| self.reference.text(&format!("absorbed:n{name}")).is_some();
        (0..=u8::MAX).filter(known).count()
    }

    async fn set(&self, key: &str, text: &str) {
        let name = format!("{}{key}", self.prefix);
        self.stand_in.run(&["SET", &name, text]).await;
        self.reference.set(key, text);
    }

    /// Runs `steps` on both, and returns how many decisions it compared.
    async fn compare(&self, charges: &[Vec<RandomCharge>], steps: &[RandomStep]) -> usize {
        let mut now: u64 = 1_764_000_123_456;
        let mut admissions = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            now = now.saturating_add_signed(step.move_by);
            let charges = step.charges(charges);
            self.prepare(&charges[0], step, now).await;
            let wanted = step.backlogs.iter().zip(&step.leases);
            let (asked, extras): (Vec<Charge>, Vec<ChargeExtra>) =
                (charges.iter().zip(&step.asked).zip(wanted))
                    .filter(|((_, asked), _)| **asked)
                    .map(|((charge, _), (backlog, lease))| {
                        let backlog = backlog.as_ref().map(|backlog| backlog.read(charge, now));
                        let lease = *lease;
                        (charge.clone(), ChargeExtra { lease, backlog })
                    })
                    .unzip();
            let check = check(&asked, step.cost);
            let question = Question::with(&check, &extras);
            let now = Timestamp::from_millis(now);
            let what = format!("{}step {place}: {question:?} at {now:?}", self.prefix);
            let reply = self.ask(&question, now, &what).await;
            if ends_soon(&question, &reply, now) {
                return place + 1;
            }
            let answers = reply.verdict.answers.iter().flatten();
            admissions.extend(answers.map(|answer| answer.decision.at));
            if let Some((units, back)) = step.refund
                && !asked.is_empty()
                && let Some(taken_at) = admissions.iter().rev().nth(back)
            {
                let taken = asked.iter().map(|charge| (charge.clone(), *taken_at));
                let refund = Refund {
                    units,
                    taken: taken.collect(),
                };
                if !self.refund(&refund, now, &what).await {
                    return place + 1;
                }
            }
        }
        steps.len()
    }

    /// Writes what others may have written meanwhile.
    async fn prepare(&self, charge: &Charge, step: &RandomStep, now: u64) {
        if let Some(garbage) = &step.garbage {
            let key = &charge.key;
            self.set(key, &garbage.state(charge, now)).await;
            if let Some(block) = garbage.block(now) {
                self.set(&format!("{key}:blocked"), &block).await;
            }
        }
        if let Some(ahead) = step.address_until {
            let until = now.saturating_add_signed(ahead);
            let record = format!("{{\"until\":{until},\"reason\":\"x\"}}");
            self.set("blocked:192.0.2.1", &record).await;
        }
    }

    async fn ask(&self, question: &Question<'_>, now: Timestamp, what: &str) -> StoreReply {
        let asked = self.asked.replace(self.asked.get() + 1);
        let store = &self.stores[asked % 2];
        let expected = self.reference.ask(question, now).await.unwrap();
        let script = store.ask(question, now).await.unwrap();
        assert_eq!(script, expected, "{what}");
        let stored_charges = script.stored_charges.iter();
        let leased = stored_charges
            .filter(|stored_charge| stored_charge.leased > 0)
            .count();
        self.leased.set(self.leased.get() + leased);
        for (place, charge) in question.check.charges.iter().enumerate() {
            let backlog = question.extra(place).backlog.as_ref();
            let absorbed = backlog.map(|backlog| format!("absorbed:{}", backlog.name));
            let own = [charge.key.clone(), format!("{}:blocked", charge.key)];
            for key in own.into_iter().chain(absorbed) {
                let name = format!("{}{key}", self.prefix);
                let stored = self.stand_in.run(&["GET", &name]).await;
                let expected = self.reference.text(&key);
                assert_eq!(stored, json!(expected), "{key}: {what}");
                let joined = expected.is_some_and(|text| text.contains(';'));
                self.joined.set(self.joined.get() + usize::from(joined));
            }
        }
        script
    }
}

impl Pair<'_> {
    /// Gives units back on both sides. Returns whether all changed states expire late enough to go on.
    async fn refund(&self, refund: &Refund, now: Timestamp, what: &str) -> bool {
        let before: Vec<_> = (refund.taken.iter())
            .map(|(charge, _)| self.reference.text(&charge.key))
            .collect();
        self.reference.refund(refund, now).await.unwrap();
        let asked = self.asked.replace(self.asked.get() + 1);
        self.stores[asked % 2].refund(refund, now).await.unwrap();
        let mut stays = true;
        for ((charge, _), before) in refund.taken.iter().zip(before) {
            let name = format!("{}{}", self.prefix, charge.key);
            let stored = self.stand_in.run(&["GET", &name]).await;
            let expected = self.reference.text(&charge.key);
            assert_eq!(stored, json!(expected), "{refund:?} after {what}");
            if expected == before {
                continue;
            }
            self.refunded.set(self.refunded.get() + 1);
            if expected.is_some() {
                let ttl = self.stand_in.run(&["PTTL", &name]).await;
                let ttl = ttl.as_i64().unwrap();
                assert_ne!(ttl, -1, "{refund:?} after {what}");
                stays &= ttl > 20_000;
            }
        }
        stays
    }
}

/// Whether a state could expire in real time before it does by the virtual clock.
fn ends_soon(question: &Question<'_>, reply: &StoreReply, now: Timestamp) -> bool {
    (question.check.charges.iter())
        .zip(&reply.stored_charges)
        .any(|(charge, stored_charge)| {
            let decided = charge.quota.decide(stored_charge.state.as_ref(), 0, now);
            let at = decided.decision.reset_at;
            at > now && at < now + Millis::from_secs(20)
        })
}
