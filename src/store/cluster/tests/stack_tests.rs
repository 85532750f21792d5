//! Tests of the stack that production runs, over one node for each caller.

use std::num::NonZeroU32;
use std::rc::Rc;

use futures_util::FutureExt;

use super::{NodeFault, Nodes, check_of, sliding};
use crate::effects::Effects;
use crate::effects::testing::TestEffects;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::store::conformance::{self, START};
use crate::store::retries::Retries;
use crate::store::stack::{MaxEntries, Stack, StoreSettings};
use crate::store::{Charge, Check, Source, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

const RULES: StoreSettings = StoreSettings {
    timeout: Millis::new(1000),
    retries: Retries::NONE,
    doublings: 10,
    max_commands: None,
    fallback_factor: 1000,
};

struct Isolate {
    stack: Stack<Nodes, Emulator, TestEffects>,
    effects: TestEffects,
}

impl Isolate {
    fn new(nodes: &Nodes, rules: StoreSettings) -> Self {
        let effects = TestEffects::default();
        let records = Records::new(Emulator::default(), Keys::clustered("t:"));
        let stack = Stack::new(
            nodes.clone(),
            Rc::new(records),
            rules,
            MaxEntries::default(),
            &Seed::fixed(),
            effects.clone(),
        );
        Self { stack, effects }
    }

    fn ask(&self, check: &Check) -> (bool, Verdict) {
        let decided = self.stack.decide(check, self.effects.now());
        let verdict = decided.now_or_never().unwrap().unwrap();
        (verdict.allows(check), verdict)
    }

    /// Makes all refunds, as a host does after each request, and returns how many there were.
    fn give_back(&self) -> usize {
        std::iter::from_fn(|| self.stack.next_refund())
            .map(|refund| self.stack.refund(&refund).now_or_never().unwrap())
            .count()
    }

    fn reconcile(&self) {
        while self.stack.should_reconcile() {
            self.stack.reconcile().now_or_never().unwrap();
        }
    }
}

/// Makes the refunds after each decision, as a host does.
impl Store for Isolate {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        self.effects.set(now.since(START).get());
        let verdict = self.stack.decide(check, now).await;
        self.give_back();
        verdict
    }
}

#[tokio::test]
async fn the_stack_conforms_over_a_cluster() {
    conformance::all(&Isolate::new(&Nodes::default(), RULES)).await;
}

#[test]
fn a_denial_by_a_later_caller_is_remembered_for_that_caller_only() {
    let nodes = Nodes::default();
    let isolate = Isolate::new(&nodes, RULES);
    let check = |address: &str| {
        let own = sliding(&format!("general:{address}"), 9);
        check_of(Some(address), &[own, sliding("all:global", 1)], 1)
    };
    assert!(isolate.ask(&check("a")).0);
    assert!(!isolate.ask(&check("a")).0);
    assert_eq!(isolate.give_back(), 1);
    nodes.asked();

    for address in ["a", "b"] {
        let check = check(address);
        assert!(isolate.stack.known_denial(&check, START).is_some());
        let (admitted, verdict) = isolate.ask(&check);
        assert!(!admitted);
        assert_eq!(verdict.source, Source::Remembered);
    }
    assert!(nodes.asked().is_empty());
    assert_eq!(isolate.give_back(), 0);

    let mut own = check("a");
    own.charges.truncate(1);
    let (admitted, verdict) = isolate.ask(&own);
    assert!(admitted);
    let left = verdict.answers[0].unwrap().decision.remaining;
    assert_eq!(left, 7, "two of nine units are taken");
}

/// One node is out: units that the other node took are not counted twice, and units that memory admits are not lost.
#[test]
fn units_that_memory_admits_while_a_node_is_out_are_counted_once() {
    let nodes = Nodes::default();
    let isolate = Isolate::new(&nodes, RULES);
    let charges = [sliding("general:a", 9), sliding("all:global", 9)];
    let check = check_of(Some("a"), &charges, 1);
    *nodes.0.out.borrow_mut() = vec!["global".to_owned()];
    for _ in 0..2 {
        let (admitted, verdict) = isolate.ask(&check);
        assert!(admitted && verdict.degraded);
    }
    assert_eq!(isolate.give_back(), 2);
    // The second request has sent the units of the first as a backlog.
    assert_eq!(nodes.left(&charges[0], START), 8);

    nodes.0.out.take();
    assert!(isolate.ask(&check).0);
    isolate.reconcile();
    assert_eq!(
        charges.each_ref().map(|one| nodes.left(one, START)),
        [6, 6],
        "three requests are counted"
    );
}

/// The answer about one of three callers is lost. For that caller alone it is unknown whether the request was counted.
#[test]
fn units_that_memory_admits_after_a_lost_answer_are_counted_once_for_every_caller() {
    let charges = [
        sliding("general:a", 9),
        sliding("api:user-1", 9),
        sliding("all:global", 9),
    ];
    let check = check_of(Some("a"), &charges, 1);
    for answered in 0..charges.len() {
        let nodes = Nodes::default();
        let isolate = Isolate::new(&nodes, RULES);
        let mut faults = vec![Some(NodeFault::Lost)];
        faults.extend(vec![None; answered]);
        *nodes.0.faults.borrow_mut() = faults;
        let (admitted, verdict) = isolate.ask(&check);
        assert!(admitted && verdict.degraded);
        assert_eq!(isolate.give_back(), answered);
        assert!(isolate.ask(&check).0);
        isolate.reconcile();
        let left = charges.each_ref().map(|one| nodes.left(one, START));
        assert_eq!(
            left, [7; 3],
            "two requests are counted, with {answered} answers before the lost one"
        );
    }
}

#[test]
fn units_that_memory_admits_after_a_timeout_are_counted_for_callers_that_were_not_asked_about() {
    let nodes = Nodes::default();
    let isolate = Isolate::new(&nodes, RULES);
    let charges = [
        sliding("general:a", 9),
        sliding("api:user-1", 9),
        sliding("all:global", 9),
    ];
    let check = check_of(Some("a"), &charges, 1);
    *nodes.0.clock.borrow_mut() = Some((isolate.effects.clone(), 600));
    let (admitted, verdict) = isolate.ask(&check);
    assert!(admitted && verdict.degraded);
    assert_eq!(nodes.asked(), ["a", "user-1"]);
    nodes.0.clock.take();
    assert_eq!(isolate.give_back(), 2);
    assert!(isolate.ask(&check).0);
    isolate.reconcile();
    let left = |one| nodes.left(one, isolate.effects.now());
    assert_eq!(
        charges.each_ref().map(left),
        [7; 3],
        "two requests are counted"
    );
}

#[test]
fn each_call_of_a_reconciliation_is_about_one_caller() {
    let nodes = Nodes::default();
    let isolate = Isolate::new(&nodes, RULES);
    let charges = ["1", "2", "3"].map(|caller| sliding(&format!("general:{caller}"), 9));
    let check = |charge: &Charge| check_of(None, std::slice::from_ref(charge), 1);
    for charge in &charges {
        *nodes.0.out.borrow_mut() = vec![charge.caller().to_owned()];
        assert!(isolate.ask(&check(charge)).1.degraded);
    }
    nodes.0.out.take();
    assert!(isolate.ask(&check(&sliding("general:4", 9))).0);
    nodes.asked();
    isolate.reconcile();
    let mut asked = nodes.asked();
    asked.sort();
    assert_eq!(asked, ["1", "2", "3"]);
    assert_eq!(charges.each_ref().map(|one| nodes.left(one, START)), [8; 3]);
}

/// An isolate that admitted a request of each of `callers` while their nodes were out, and whose breaker is closed.
fn with_backlogs(nodes: &Nodes, callers: &[&str]) -> (Isolate, Vec<Charge>) {
    let isolate = Isolate::new(nodes, RULES);
    let charge = |caller: &str| sliding(&format!("general:{caller}"), 9);
    let charges: Vec<Charge> = callers.iter().map(|caller| charge(caller)).collect();
    let check = |charge: &Charge| check_of(None, std::slice::from_ref(charge), 1);
    for charge in &charges {
        *nodes.0.out.borrow_mut() = vec![charge.caller().to_owned()];
        assert!(isolate.ask(&check(charge)).1.degraded);
        nodes.0.out.take();
        assert!(isolate.ask(&check(&sliding("ip:healthy", 99))).0);
    }
    nodes.asked();
    (isolate, charges)
}

#[test]
fn the_other_nodes_are_reconciled_while_one_is_out() {
    let callers = ["1", "2", "3", "4"];
    for out in callers {
        let nodes = Nodes::default();
        let (isolate, charges) = with_backlogs(&nodes, &callers);
        *nodes.0.out.borrow_mut() = vec![out.to_owned()];
        let now = isolate.effects.now();
        let left = |one: &Charge| nodes.left(one, now);
        let before: Vec<u32> = charges.iter().map(left).collect();
        isolate.reconcile();
        let mut asked = nodes.asked();
        asked.sort();
        assert_eq!(asked, callers, "each caller is asked about once");
        for (charge, before) in charges.iter().zip(&before) {
            let counted = u32::from(charge.caller() != out);
            assert_eq!(left(charge), before - counted, "{}", charge.key);
        }
        nodes.0.out.take();
        isolate.effects.set(now.since(START).get() + 10_000);
        isolate.reconcile();
        assert_eq!(nodes.asked(), [out]);
        assert!(!isolate.stack.should_reconcile(), "the backlog is empty");
    }
}

#[test]
fn the_next_reconciliation_begins_behind_the_callers_that_failed() {
    let nodes = Nodes::default();
    let (isolate, charges) = with_backlogs(&nodes, &["1", "2", "3", "4", "5"]);
    *nodes.0.out.borrow_mut() = ["1", "2", "3", "5"].map(str::to_owned).to_vec();
    isolate.reconcile();
    assert_eq!(
        nodes.asked(),
        ["1", "2"],
        "a reconciliation ends after two failures"
    );
    assert!(!isolate.stack.should_reconcile());
    isolate.effects.set(10_000);
    isolate.reconcile();
    assert_eq!(nodes.asked(), ["3", "4", "5"]);
    assert_eq!(nodes.left(&charges[3], isolate.effects.now()), 8);
    nodes.0.out.take();
    isolate.effects.set(20_000);
    isolate.reconcile();
    assert_eq!(nodes.asked(), ["1", "2", "3", "5"]);
}

#[test]
fn a_reconciliation_with_more_successes_than_failures_goes_on_in_a_second() {
    let nodes = Nodes::default();
    let (isolate, _) = with_backlogs(&nodes, &["1", "2", "3"]);
    *nodes.0.out.borrow_mut() = vec!["1".to_owned()];
    isolate.reconcile();
    assert_eq!(nodes.asked(), ["1", "2", "3"]);
    isolate.effects.set(999);
    assert!(!isolate.stack.should_reconcile());
    isolate.effects.set(1000);
    assert!(isolate.stack.should_reconcile());
}

#[test]
fn requests_of_several_callers_neither_take_nor_spend_leases() {
    let nodes = Nodes::default();
    let isolate = Isolate::new(&nodes, RULES);
    let leased = |key: &str| Charge {
        lease: 50,
        ..sliding(key, 10_000)
    };
    let charges = [leased("general:a"), leased("all:global")];
    let several = check_of(Some("a"), &charges, 1);
    let one = check_of(Some("a"), &charges[..1], 1);
    let mut sources = Vec::new();
    for second in 0..20_u64 {
        isolate.effects.set(second * 100);
        sources.push(isolate.ask(&one).1.source);
        assert_eq!(isolate.ask(&several).1.source, Source::Store);
    }
    assert!(
        sources.contains(&Source::Lease),
        "requests of one caller should be leased"
    );
    assert!(
        isolate
            .stack
            .next_prefetch()
            .is_none_or(|prefetch| prefetch.check.is_of_one_caller())
    );
    let left = nodes.left(&charges[1], isolate.effects.now());
    assert_eq!(left, 10_000 - 20);
}

#[test]
fn a_decision_takes_nothing_if_the_cap_does_not_pay_for_all_of_its_calls() {
    let nodes = Nodes::default();
    let charges = [sliding("general:a", 9), sliding("all:global", 9)];
    let check = check_of(Some("a"), &charges, 1);
    for (most, is_shared) in [(9, false), (10, true)] {
        let max_commands = NonZeroU32::new(most);
        let isolate = Isolate::new(
            &nodes,
            StoreSettings {
                max_commands,
                ..RULES
            },
        );
        let (admitted, verdict) = isolate.ask(&check);
        assert!(admitted);
        assert_eq!(verdict.degraded, !is_shared, "{most} commands");
        assert_eq!(nodes.asked().is_empty(), !is_shared);
    }
}
