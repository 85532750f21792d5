//! The script against the reference, on a real Redis.

use std::cell::Cell;

use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{SCRIPT, SCRIPT_SHA1};
use crate::store::conformance::{at_once, check};
use crate::store::reference::Reference;
use crate::store::stand_in::StandIn;
use crate::store::{Charge, Check, Store, Verdict};
use crate::time::{Millis, Timestamp};

mod random;

use random::{RandomCharge, RandomStep, random_charges, random_steps};

#[test]
fn the_scripts_name_is_its_hash() {
    let hash = sha1_smol::Sha1::from(SCRIPT).digest().to_string();
    assert_eq!(
        SCRIPT_SHA1, hash,
        "decide.lua has changed: change SCRIPT_SHA1 as well"
    );
}

/// The script and the reference, side by side on a real Redis: the same answers and the same texts,
/// with clocks that jump, quotas that come and go, units that are owed, and garbage in the keys.
#[tokio::test]
async fn the_script_is_the_reference() {
    const SEQUENCES: usize = 150;
    let stand_in = StandIn::start();
    let mut runner = TestRunner::deterministic();
    let (mut compared, mut absorbed, mut leased) = (0, 0, 0);
    for sequence in 0..SEQUENCES {
        let charges = random_charges().new_tree(&mut runner).unwrap().current();
        let steps = random_steps().new_tree(&mut runner).unwrap().current();
        let pair = Pair::new(&stand_in, sequence);
        compared += pair.compare(&charges, &steps).await;
        absorbed += pair.absorbed();
        leased += pair.leased.get();
    }
    assert!(compared > SEQUENCES * 10, "{compared} decisions compared");
    assert!(absorbed > SEQUENCES, "{absorbed} names absorbed");
    assert!(leased > SEQUENCES, "{leased} leases taken");
}

/// Both, holding the same.
struct Pair<'a> {
    stand_in: &'a StandIn,
    prefix: String,
    reference: Reference,
    /// Quotas of which units were taken in advance, each time.
    leased: Cell<usize>,
}

impl<'a> Pair<'a> {
    fn new(stand_in: &'a StandIn, sequence: usize) -> Self {
        Self {
            stand_in,
            prefix: format!("random-{sequence}:"),
            reference: Reference::default(),
            leased: Cell::new(0),
        }
    }

    /// Names under which owed units have been added.
    fn absorbed(&self) -> usize {
        let known = |name: &u8| self.reference.text(&format!("absorbed:n{name}")).is_some();
        (0..=u8::MAX).filter(known).count()
    }

    async fn set(&self, key: &str, text: &str) {
        let name = format!("{}{key}", self.prefix);
        self.stand_in.run(&["SET", &name, text]).await;
        self.reference.set(key, text);
    }

    /// How many decisions were compared.
    async fn compare(&self, charges: &[RandomCharge], steps: &[RandomStep]) -> usize {
        let charges: Vec<Charge> = charges.iter().enumerate().map(RandomCharge::read).collect();
        let mut now: u64 = 1_764_000_123_456;
        for (place, step) in steps.iter().enumerate() {
            now = now.saturating_add_signed(step.move_by);
            self.prepare(&charges[0], step, now).await;
            let beside = step.owed.iter().zip(&step.advance);
            let asked: Vec<Charge> = (charges.iter().zip(&step.asked).zip(beside))
                .filter(|((_, asked), _)| **asked)
                .map(|((charge, _), (owed, advance))| Charge {
                    owed: owed.as_ref().map(|owed| owed.read(charge, now)),
                    advance: *advance,
                    ..charge.clone()
                })
                .collect();
            let check = check(&asked, step.cost);
            let now = Timestamp::from_millis(now);
            let what = format!("{}step {place}: {check:?} at {now:?}", self.prefix);
            let verdict = self.decide(&check, now, &what).await;
            if ends_soon(&check, &verdict, now) {
                return place + 1;
            }
        }
        steps.len()
    }

    /// What others have written meanwhile.
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

    async fn decide(&self, check: &Check, now: Timestamp, what: &str) -> Verdict {
        let store = self.stand_in.store(&self.prefix);
        let expected = at_once(&self.reference, check, now);
        let script = store.decide(check, now).await.unwrap();
        assert_eq!(script, expected, "{what}");
        let answers = script.answers.iter().flatten();
        let leased = answers.filter(|answer| answer.advanced > 0).count();
        self.leased.set(self.leased.get() + leased);
        for charge in &check.charges {
            let name = charge.owed.as_ref().map(|owed| &owed.name);
            let absorbed = name.map(|name| format!("absorbed:{name}"));
            let own = [charge.key.clone(), format!("{}:blocked", charge.key)];
            for key in own.into_iter().chain(absorbed) {
                let name = format!("{}{key}", self.prefix);
                let held = self.stand_in.run(&["GET", &name]).await;
                assert_eq!(held, json!(self.reference.text(&key)), "{key}: {what}");
            }
        }
        script
    }
}

/// Whether a state would be gone before the virtual clock says so.
fn ends_soon(check: &Check, verdict: &Verdict, now: Timestamp) -> bool {
    check
        .charges
        .iter()
        .zip(&verdict.states)
        .any(|(charge, state)| {
            let decided = charge.quota.decide(state.as_ref(), 0, now);
            let at = decided.decision.reset_at;
            at > now && at < now + Millis::from_secs(20)
        })
}
