//! Tests with one node for each caller: the suite, the laws for any order of the calls of several isolates, and faults.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::{Cluster, MAX_REFUNDS};
use crate::config::MIN_COMMANDS_IN_CLUSTER;
use crate::effects::Effects;
use crate::effects::testing::TestEffects;
use crate::quota::{Algorithm, Quota, QuotaOutcome};
use crate::store::conformance::{self, ALGORITHMS, MINUTE, START, backlog, charge};
use crate::store::reference::Reference;
use crate::store::shared::{
    ChargeExtra, Partitioned, Question, RangesVersion, Refund, SharedStore, StoreReply,
};
use crate::store::{Charge, Check, Store, StoreError, Verdict};
use crate::time::{Millis, Timestamp};

mod redis_tests;
mod stack_tests;

const TIMEOUT: Millis = Millis::new(1000);

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeFault {
    /// The node does not receive it.
    Unsent,
    /// Its answer is lost.
    Lost,
}

/// Nodes that isolates share, one for each caller. Clones are the same nodes.
#[derive(Clone, Default)]
struct Nodes(Rc<Inner>);

#[derive(Default)]
struct Inner {
    nodes: RefCell<HashMap<String, Rc<Reference>>>,
    /// The caller of each question, and the timeout that it had.
    asked: RefCell<Vec<(String, Millis)>>,
    refunds: Cell<usize>,
    /// The faults of the next calls, in reverse order. Refunds are calls too.
    faults: RefCell<Vec<Option<NodeFault>>>,
    /// The callers whose nodes are out.
    out: RefCell<Vec<String>>,
    /// Whether a call takes two turns of the scheduler.
    waits: Cell<bool>,
    /// A clock, and the ms by which each call moves it.
    clock: RefCell<Option<(TestEffects, u64)>>,
}

impl Nodes {
    fn node(&self, caller: &str) -> Rc<Reference> {
        let mut nodes = self.0.nodes.borrow_mut();
        Rc::clone(nodes.entry(caller.to_owned()).or_default())
    }

    /// The callers that were asked about since the last call of this function.
    fn asked(&self) -> Vec<String> {
        let asked = self.0.asked.take().into_iter();
        asked.map(|(caller, _)| caller).collect()
    }

    /// Makes a call whose work is done between two waits.
    async fn call<T>(&self, caller: &str, work: impl AsyncFnOnce() -> T) -> Result<T, StoreError> {
        if let Some((clock, takes)) = &*self.0.clock.borrow() {
            clock.set(clock.now().since(START).get() + takes);
        }
        let scripted = self.0.faults.borrow_mut().pop().flatten();
        let is_out = self.0.out.borrow().iter().any(|out| out == caller);
        let fault = if is_out {
            Some(NodeFault::Unsent)
        } else {
            scripted
        };
        turn(self.0.waits.get()).await;
        if fault == Some(NodeFault::Unsent) {
            return Err(StoreError::Refused("CLUSTERDOWN".to_owned()));
        }
        let done = work().await;
        turn(self.0.waits.get()).await;
        match fault {
            None => Ok(done),
            Some(_) => Err(StoreError::Timeout),
        }
    }

    fn left(&self, charge: &Charge, now: Timestamp) -> u32 {
        let check = check_of(None, std::slice::from_ref(charge), 0);
        let node = self.node(charge.caller());
        let verdict = conformance::at_once(&*node, &check, now);
        verdict.answers[0].unwrap().decision.remaining
    }
}

/// Yields to the other tasks, if it waits.
async fn turn(waits: bool) {
    let mut waited = !waits;
    poll_fn(|_| match std::mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

impl SharedStore for Nodes {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.ask_within(question, now, TIMEOUT).await
    }
}

impl Partitioned for Nodes {
    fn is_partitioned(&self) -> bool {
        true
    }

    async fn ask_within(
        &self,
        question: &Question<'_>,
        now: Timestamp,
        timeout: Millis,
    ) -> Result<StoreReply, StoreError> {
        assert!(question.check.is_of_one_caller(), "{question:?}");
        let caller = question.check.callers().next().unwrap_or("records");
        self.0.asked.borrow_mut().push((caller.to_owned(), timeout));
        let node = self.node(caller);
        let mut reply = self
            .call(caller, async || node.ask(question, now).await)
            .await??;
        reply.ranges_version = RangesVersion::NotAsked;
        Ok(reply)
    }

    async fn refund(&self, refund: &Refund, now: Timestamp) -> Result<(), StoreError> {
        self.0.refunds.set(self.0.refunds.get() + 1);
        let caller = refund.taken[0].0.caller();
        assert!(
            refund
                .taken
                .iter()
                .all(|(charge, _)| charge.caller() == caller)
        );
        let node = self.node(caller);
        self.call(caller, async || node.refund(refund, now).await)
            .await?
    }
}

type Isolate = Cluster<Nodes, TestEffects>;

fn isolate(nodes: &Nodes) -> Isolate {
    Cluster::new(nodes.clone(), TIMEOUT, TestEffects::default())
}

fn check_of(address: Option<&str>, charges: &[Charge], cost: u32) -> Check {
    Check {
        address: address.map(str::to_owned),
        charges: charges.to_vec(),
        cost,
    }
}

fn sliding(key: &str, limit: u32) -> Charge {
    charge(key, Algorithm::SlidingWindow, limit)
}

/// Makes all refunds, as a host does after each request.
fn give_back(isolate: &Isolate) -> Vec<Result<(), StoreError>> {
    std::iter::from_fn(|| isolate.next_refund())
        .map(|refund| isolate.refund(&refund).now_or_never().unwrap())
        .collect()
}

fn decide(isolate: &Isolate, check: &Check, now: Timestamp) -> Verdict {
    isolate.decide(check, now).now_or_never().unwrap().unwrap()
}

/// A cluster with a host that makes the refunds after each request.
struct Hosted<S> {
    cluster: Cluster<S, TestEffects>,
    /// Whether each quota gets its own caller.
    spreads: bool,
}

impl<S: Partitioned> SharedStore for Hosted<S> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.cluster.effects.set(now.since(START).get());
        let mut check = question.check.clone();
        let mut extras = Vec::new();
        for (place, charge) in check.charges.iter_mut().enumerate() {
            if self.spreads {
                charge.key = format!("p:{}", charge.key.replace(':', "-"));
            }
            extras.push(question.extra(place).clone());
        }
        let question = Question::with(&check, &extras);
        let reply = self.cluster.ask(&question, now).await;
        while let Some(refund) = self.cluster.next_refund() {
            self.cluster.refund(&refund).await.unwrap();
        }
        reply
    }
}

#[tokio::test]
async fn the_wrapper_conforms() {
    let hosted = |spreads| Hosted {
        cluster: isolate(&Nodes::default()),
        spreads,
    };
    conformance::shared(&hosted(false)).await;
    // Not the case with backlogs: a caller that is not asked about receives no backlog.
    conformance::all(&hosted(true)).await;
}

#[test]
fn a_request_of_one_caller_is_one_question() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let charges = [
        sliding("general:192.0.2.1", 1),
        sliding("ip:192.0.2.1", 100),
    ];
    let check = check_of(Some("192.0.2.1"), &charges, 1);
    assert!(decide(&isolate, &check, START).allows(&check));
    assert_eq!(nodes.asked(), ["192.0.2.1"]);
    assert!(!decide(&isolate, &check, START).allows(&check));
    assert_eq!(nodes.asked(), ["192.0.2.1"]);
    assert_eq!(isolate.next_refund(), None);
    assert!(!isolate.effects.outlived());
}

#[test]
fn the_address_is_asked_about_first_and_the_shared_quotas_last_in_any_order_of_charges() {
    let nodes = Nodes::default();
    let charges = [
        sliding("a:user-1", 9),
        sliding("b:global", 9),
        sliding("c:9.9.9.9", 9),
        sliding("d:header-1", 9),
    ];
    for turns in 0..charges.len() {
        let mut charges = charges.clone();
        charges.rotate_left(turns);
        let isolate = isolate(&nodes);
        let check = check_of(Some("9.9.9.9"), &charges, 1);
        let verdict = decide(&isolate, &check, START);
        assert!(verdict.allows(&check));
        assert_eq!(nodes.asked(), ["9.9.9.9", "user-1", "header-1", "global"]);
        assert!(isolate.effects.outlived());
        // Each answer has the place of its charge.
        for (charge, answer) in charges.iter().zip(verdict.answers) {
            let left = nodes.left(charge, START);
            assert_eq!(answer.unwrap().decision.remaining, left);
        }
    }
}

#[test]
fn the_first_denial_ends_the_decision_and_the_taken_units_are_given_back() {
    for algorithm in ALGORITHMS {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        let charges = [
            charge("general:a", algorithm, 10),
            Charge {
                enforced: false,
                ..charge("quiet:a", algorithm, 10)
            },
            charge("api:user-1", algorithm, 1),
            charge("all:global", algorithm, 10),
        ];
        let check = check_of(Some("a"), &charges, 1);
        assert!(decide(&isolate, &check, START).allows(&check));
        nodes.asked();

        let verdict = decide(&isolate, &check, START);
        assert!(!verdict.allows(&check));
        assert_eq!(nodes.asked(), ["a", "user-1"]);
        let answers = verdict.answers;
        let remaining = |place: usize| answers[place].unwrap().decision.remaining;
        // The enforced quota reports what remains without this request. The shadow quota's answer is unchanged.
        assert_eq!([remaining(0), remaining(1)], [9, 8]);
        let denied = answers[2].unwrap().decision.outcome;
        assert!(matches!(denied, QuotaOutcome::Denied { .. }));
        assert_eq!(answers[3], None);
        // Other requests see fewer units until the refund.
        assert_eq!(
            charges.each_ref().map(|one| nodes.left(one, START)),
            [8, 8, 0, 9]
        );
        assert_eq!(give_back(&isolate), [Ok(())]);
        assert_eq!(
            charges.each_ref().map(|one| nodes.left(one, START)),
            [9, 9, 0, 9]
        );
    }
}

#[test]
fn the_state_in_the_reply_to_a_denied_request_excludes_its_units() {
    for algorithm in ALGORITHMS {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        let charges = [
            charge("general:a", algorithm, 10),
            charge("all:global", algorithm, 1),
        ];
        let check = check_of(Some("a"), &charges, 1);
        assert!(decide(&isolate, &check, START).allows(&check));
        let asked = isolate.ask(&Question::new(&check), START).now_or_never();
        let reply = asked.unwrap().unwrap();
        give_back(&isolate);
        let state = reply.stored_charges[0].state.as_ref();
        let kept = charges[0].quota.decide(state, 0, START).decision;
        assert_eq!(kept.remaining, nodes.left(&charges[0], START));
    }
}

#[test]
fn a_denial_by_a_later_caller_does_not_block_an_earlier_one() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let block = Some(Millis::from_secs(600));
    let charges = [
        Charge {
            block,
            ..sliding("general:a", 5)
        },
        Charge {
            block,
            ..sliding("all:global", 1)
        },
    ];
    let check = check_of(Some("a"), &charges, 1);
    assert!(decide(&isolate, &check, START).allows(&check));
    let verdict = decide(&isolate, &check, START);
    let blocked = |place: usize| verdict.answers[place].unwrap().blocked_until.is_some();
    assert_eq!([blocked(0), blocked(1)], [false, true]);
    give_back(&isolate);
    let own = check_of(Some("a"), &charges[..1], 1);
    assert!(decide(&isolate, &own, START).allows(&own));
}

/// Law 5, whichever caller's quota has too small a capacity.
#[test]
fn a_cost_above_a_capacity_takes_nothing_and_sets_no_block() {
    let block = Some(Millis::from_secs(600));
    for (own, shared) in [(1, 5), (5, 1)] {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        let charges = [
            Charge {
                block,
                ..sliding("general:a", own)
            },
            Charge {
                block,
                ..sliding("all:global", shared)
            },
        ];
        let one = check_of(Some("a"), &charges, 1);
        assert!(decide(&isolate, &one, START).allows(&one));
        let left = charges.each_ref().map(|one| nodes.left(one, START));
        let check = check_of(Some("a"), &charges, 5);
        for _ in 0..3 {
            assert!(!decide(&isolate, &check, START).allows(&check));
        }
        assert_eq!(give_back(&isolate), []);
        assert_eq!(charges.each_ref().map(|one| nodes.left(one, START)), left);
        let later = START + MINUTE + Millis::from_secs(2);
        assert!(
            decide(&isolate, &one, later).allows(&one),
            "no block was set"
        );
    }
}

#[test]
fn a_blocked_address_is_denied_before_other_callers_are_asked_about() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    nodes.node("a").set("blocked:a", "{\"reason\":\"x\"}");
    // The address has no quota of its own.
    let check = check_of(Some("a"), &[sliding("all:global", 5)], 1);
    let verdict = decide(&isolate, &check, START);
    assert!(verdict.address_block.is_some());
    assert_eq!(nodes.asked(), ["a"]);
    assert_eq!(nodes.left(&check.charges[0], START), 5);
}

#[test]
fn a_question_at_a_cost_of_zero_asks_about_all_callers_and_takes_nothing() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let blocking = Charge {
        block: Some(MINUTE),
        ..sliding("general:a", 1)
    };
    let charges = [blocking.clone(), sliding("all:global", 5)];
    let own = check_of(Some("a"), &charges[..1], 1);
    decide(&isolate, &own, START);
    assert!(!decide(&isolate, &own, START).allows(&own));
    nodes.asked();
    let read = check_of(Some("a"), &charges, 0);
    let verdict = decide(&isolate, &read, START);
    assert_eq!(nodes.asked(), ["a", "global"]);
    assert!(verdict.answers[0].unwrap().blocked_until.is_some());
    assert_eq!(verdict.answers[1].unwrap().decision.remaining, 5);
    assert_eq!(isolate.next_refund(), None);
}

/// The answer of a caller that was not asked about is `None`, so its backlog is sent again.
#[test]
fn only_the_backlogs_of_callers_that_are_asked_about_are_counted() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let charges = [
        sliding("general:a", 5),
        sliding("api:user-1", 5),
        sliding("all:global", 5),
    ];
    let check = check_of(Some("a"), &charges, 1);
    let extras = [2, 5, 3].map(|units| backlog(&charges[0], &format!("n{units}"), units, START));
    for _ in 0..2 {
        let question = Question::with(&check, &extras);
        let asked = isolate.ask(&question, START);
        let reply = asked.now_or_never().unwrap().unwrap();
        give_back(&isolate);
        assert_eq!(reply.verdict.answers[2], None);
        assert_eq!(
            charges.each_ref().map(|one| nodes.left(one, START)),
            [3, 0, 5]
        );
    }
}

#[test]
fn no_lease_is_taken_for_several_callers() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let charges = [sliding("general:a", 100), sliding("all:global", 100)];
    let check = check_of(Some("a"), &charges, 1);
    let extra = ChargeExtra {
        lease: 10,
        backlog: None,
    };
    let extras = [extra.clone(), extra];
    let question = Question::with(&check, &extras);
    let asked = isolate.ask(&question, START);
    let reply = asked.now_or_never().unwrap().unwrap();
    assert!(
        reply
            .stored_charges
            .iter()
            .all(|stored_charge| stored_charge.leased == 0)
    );
    assert_eq!(
        charges.each_ref().map(|one| nodes.left(one, START)),
        [99, 99]
    );
}

#[test]
fn the_timeout_bounds_the_calls_of_a_decision_together() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    *nodes.0.clock.borrow_mut() = Some((isolate.effects.clone(), 400));
    let charges = [
        sliding("a:1", 9),
        sliding("b:2", 9),
        sliding("c:3", 9),
        sliding("d:4", 9),
    ];
    let check = check_of(None, &charges, 1);
    let asked = isolate.decide(&check, START).now_or_never().unwrap();
    assert_eq!(asked, Err(StoreError::Timeout));
    let within = |ms: [u64; 3]| {
        ["4", "3", "2"]
            .map(str::to_owned)
            .into_iter()
            .zip(ms.map(Millis::new))
    };
    assert_eq!(
        *nodes.0.asked.borrow(),
        within([1000, 600, 200]).collect::<Vec<_>>()
    );
    // The units of the three callers are given back. The fourth was not asked about.
    assert_eq!(give_back(&isolate).len(), 3);
    assert_eq!(charges.each_ref().map(|one| nodes.left(one, START)), [9; 4]);
}

#[test]
fn a_decision_fails_and_gives_back_its_units_if_a_later_callers_node_is_out() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let charges = [sliding("general:a", 9), sliding("all:global", 9)];
    let check = check_of(Some("a"), &charges, 2);
    *nodes.0.out.borrow_mut() = vec!["global".to_owned()];
    let asked = isolate.decide(&check, START).now_or_never().unwrap();
    assert_eq!(asked, Err(StoreError::Refused("CLUSTERDOWN".to_owned())));
    assert_eq!(nodes.left(&charges[0], START), 7);
    assert_eq!(give_back(&isolate), [Ok(())]);
    assert_eq!(nodes.left(&charges[0], START), 9);
}

#[test]
fn a_refund_is_sent_once_even_if_it_fails() {
    for fault in [NodeFault::Unsent, NodeFault::Lost] {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        let charges = [sliding("general:a", 9), sliding("all:global", 1)];
        let check = check_of(Some("a"), &charges, 1);
        decide(&isolate, &check, START);
        decide(&isolate, &check, START);
        *nodes.0.faults.borrow_mut() = vec![Some(fault)];
        assert!(give_back(&isolate)[0].is_err());
        assert_eq!(give_back(&isolate), []);
        assert_eq!(nodes.0.refunds.get(), 1);
        // Units that are not given back stay taken until they leave the window.
        let taken = u32::from(fault == NodeFault::Unsent);
        assert_eq!(nodes.left(&charges[0], START), 8 - taken);
        let later = START + MINUTE + Millis::from_secs(1);
        assert_eq!(nodes.left(&charges[0], later), 9);
    }
}

/// A bucket does not record whose units have drained meanwhile.
#[test]
fn a_refund_to_a_bucket_is_smaller_by_the_units_that_drained_before_it() {
    // One unit drains in a millisecond.
    let fast = charge("general:a", Algorithm::TokenBucket, 60_000);
    let all = sliding("all:global", 10);
    for (late, lost) in [(0, 0), (4, 4), (10, 10), (50, 10), (500, 0)] {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        decide(
            &isolate,
            &check_of(None, std::slice::from_ref(&all), 10),
            START,
        );
        let own = check_of(Some("a"), std::slice::from_ref(&fast), 100);
        assert!(decide(&isolate, &own, START).allows(&own));
        let both = check_of(Some("a"), &[fast.clone(), all.clone()], 10);
        assert!(!decide(&isolate, &both, START).allows(&both));
        isolate.effects.set(late);
        give_back(&isolate);
        let without = 60_000 - 100_u32.saturating_sub(u32::try_from(late).unwrap());
        let left = nodes.left(&fast, isolate.effects.now());
        assert_eq!(without - left, lost, "the refund comes after {late} ms");
    }
}

#[test]
fn the_refunds_that_wait_to_be_made_are_bounded() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let shared = sliding("all:global", 1);
    for number in 0..MAX_REFUNDS + 10 {
        let charges = [sliding(&format!("api:user-{number}"), 9), shared.clone()];
        decide(&isolate, &check_of(None, &charges, 1), START);
    }
    assert_eq!(give_back(&isolate).len(), MAX_REFUNDS);
}

#[test]
fn most_commands_counts_those_of_all_callers_and_of_the_refunds() {
    let nodes = Nodes::default();
    let isolate = isolate(&nodes);
    let most = |charges: &[Charge], cost| {
        let check = check_of(Some("a"), charges, cost);
        isolate.most_commands(&Question::new(&check))
    };
    let charges = [
        sliding("general:a", 9),
        sliding("ip:a", 9),
        sliding("all:global", 9),
    ];
    assert_eq!(most(&charges[..2], 1), 4);
    // For `a` a script, a read and two states. For `global` a script, a read and a state. For the refund at most five more.
    assert_eq!(most(&charges, 1), 7 + 5);
    assert_eq!(most(&charges, 0), 7);
}

/// This holds even while records wait, which have two fifths of the cap.
#[test]
fn the_smallest_cap_of_a_cluster_pays_for_the_largest_decision() {
    let isolate = isolate(&Nodes::default());
    let charges: Vec<Charge> = (0..8)
        .map(|number| Charge {
            block: Some(MINUTE),
            ..sliding(&format!("p:user-{number}"), 9)
        })
        .collect();
    let extras: Vec<ChargeExtra> = charges
        .iter()
        .map(|charge| backlog(charge, "n", 1, START))
        .collect();
    // The address has no quota, so it is one more caller.
    let check = check_of(Some("a"), &charges, 1);
    let most = isolate.most_commands(&Question::with(&check, &extras));
    assert_eq!(most, 66);
    assert!(most <= MIN_COMMANDS_IN_CLUSTER * 3 / 5);
}

/// A request of the property tests.
#[derive(Clone, Debug)]
struct ClusterRequest {
    isolate: usize,
    address: usize,
    user: Option<usize>,
    is_shared: bool,
    cost: u32,
    /// The time before it, in ms.
    after: u64,
    faults: [Option<NodeFault>; 3],
    /// Which tasks are polled after it begins.
    turns: Vec<usize>,
}

fn requests(faulty: bool) -> impl Strategy<Value = Vec<ClusterRequest>> {
    let fault = move || {
        prop_oneof![
            6 => Just(None),
            1 => Just(Some(NodeFault::Unsent)),
            1 => Just(Some(NodeFault::Lost)),
        ]
        .prop_map(move |fault| fault.filter(|_| faulty))
    };
    let request = (
        (
            0..3usize,
            0..2usize,
            prop::option::of(0..2usize),
            any::<bool>(),
        ),
        1..3u32,
        prop_oneof![3 => Just(0), 1 => 0..20_000u64],
        [fault(), fault(), fault()],
        prop::collection::vec(0..100usize, 0..8),
    )
        .prop_map(
            |((isolate, address, user, is_shared), cost, after, faults, turns)| ClusterRequest {
                isolate,
                address,
                user,
                is_shared,
                cost,
                after,
                faults,
                turns,
            },
        );
    prop::collection::vec(request, 1..40)
}

/// The quotas of a request, some of them in shadow mode.
fn check_for(request: &ClusterRequest, quota: Quota) -> Check {
    let of = |limit: u32| {
        let limit = NonZeroU32::new(limit).unwrap();
        Quota::new(quota.algorithm(), limit, quota.window()).unwrap()
    };
    let charge = |key: String| Charge::new(key, quota);
    let address = format!("192.0.2.{}", request.address);
    // It denies while the others still allow.
    let shadow = |caller: &str| Charge {
        enforced: false,
        ..Charge::new(format!("quiet:{caller}"), of(quota.limit() - 1))
    };
    let mut charges = vec![shadow(&address), charge(format!("ip:{address}"))];
    if let Some(user) = request.user {
        charges.push(charge(format!("api:user-{user}")));
        charges.push(shadow(&format!("user-{user}")));
    }
    if request.is_shared {
        charges.push(Charge::new("all:global", of(quota.limit() + 3)));
    }
    check_of(Some(&address), &charges, request.cost)
}

fn quotas() -> impl Strategy<Value = Quota> {
    (0..3usize, 2..8u32).prop_map(|(algorithm, limit)| {
        let limit = NonZeroU32::new(limit).unwrap();
        Quota::new(ALGORITHMS[algorithm], limit, MINUTE).unwrap()
    })
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls one of the tasks, and removes it if it ends.
fn poll_one(tasks: &mut Vec<Task<'_>>, turn: usize) {
    if tasks.is_empty() {
        return;
    }
    let place = turn % tasks.len();
    let mut context = Context::from_waker(Waker::noop());
    if tasks[place].as_mut().poll(&mut context).is_ready() {
        drop(tasks.remove(place));
    }
}

/// For each key, its charge and the units that were admitted, with their times.
type AdmittedByQuota = RefCell<HashMap<String, (Charge, Vec<(Timestamp, u32)>)>>;

/// Plays requests concurrently, with their calls in the order of `turns`. Returns what was admitted, and the time at the end.
fn play(nodes: &Nodes, requests: &[ClusterRequest], quota: Quota) -> (AdmittedByQuota, Timestamp) {
    nodes.0.waits.set(true);
    let isolates = [(); 3].map(|()| isolate(nodes));
    let admitted = AdmittedByQuota::default();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let mut now = START;
    for request in requests {
        // All requests end before time passes, so that none lasts longer than clocks may differ.
        while request.after > 0 && !tasks.is_empty() {
            poll_one(&mut tasks, request.turns.len());
        }
        now = now + Millis::new(request.after);
        for isolate in &isolates {
            isolate.effects.set(now.since(START).get());
        }
        let asking = async |now: Timestamp| {
            let isolate = &isolates[request.isolate];
            let check = check_for(request, quota);
            let verdict = isolate.decide(&check, now).await;
            if let Ok(verdict) = &verdict
                && verdict.allows(&check)
            {
                let mut admitted = admitted.borrow_mut();
                for (charge, answer) in check.charges.iter().zip(&verdict.answers) {
                    let decision = answer.unwrap().decision;
                    if decision.allowed() {
                        let none = || (charge.clone(), Vec::new());
                        let list = admitted.entry(charge.key.clone()).or_insert_with(none);
                        list.1.push((decision.at, check.cost));
                    }
                }
            }
            while let Some(refund) = isolate.next_refund() {
                let _ = isolate.refund(&refund).await;
            }
        };
        nodes.0.faults.borrow_mut().extend(request.faults);
        tasks.push(Box::pin(asking(now)));
        for turn in &request.turns {
            poll_one(&mut tasks, *turn);
        }
    }
    while !tasks.is_empty() {
        poll_one(&mut tasks, 0);
    }
    nodes.0.waits.set(false);
    drop(tasks);
    (admitted, now)
}

/// Asserts law 1 for one quota.
fn assert_within(quota: &Quota, list: &[(Timestamp, u32)]) -> Result<(), TestCaseError> {
    let window = quota.window();
    for (place, (first, _)) in list.iter().enumerate() {
        let mut units = 0;
        for (at, cost) in &list[place..] {
            units += u64::from(*cost);
            let most = u64::from(quota.limit());
            match quota.algorithm() {
                Algorithm::SlidingWindow if at.since(*first) >= window => break,
                Algorithm::FixedWindow
                    if at.as_millis() / window.get() != first.as_millis() / window.get() =>
                {
                    break;
                }
                Algorithm::TokenBucket => {
                    let drained = most * at.since(*first).get();
                    prop_assert!(units * window.get() <= most * window.get() + drained);
                }
                _ => prop_assert!(units <= most),
            }
        }
    }
    Ok(())
}

proptest! {
    /// Laws 1 and 2: in any order of the calls and the refunds of several isolates, no quota admits
    /// more than its bound. In the end no denied request has consumed anything, in enforced quotas or in shadow mode.
    #[test]
    fn no_order_of_calls_admits_more_than_the_bound_or_charges_denied_requests(
        quota in quotas(), requests in requests(false),
    ) {
        let nodes = Nodes::default();
        let (admitted, now) = play(&nodes, &requests, quota);
        for (charge, list) in admitted.take().into_values() {
            assert_within(&charge.quota, &list)?;
            let mut state = None;
            for (at, cost) in list {
                let decided = charge.quota.decide(state.as_ref(), cost, at);
                state = decided.admitted.or(state);
            }
            let left = charge.quota.decide(state.as_ref(), 0, now).decision.remaining;
            // A refund to a bucket is smaller by the units that drained before it.
            if charge.quota.algorithm() == Algorithm::TokenBucket {
                prop_assert!(nodes.left(&charge, now) <= left);
            } else {
                prop_assert_eq!(nodes.left(&charge, now), left);
            }
        }
    }

    /// Law 1 holds, and units whose refund is lost stay taken: never the reverse.
    #[test]
    fn faults_never_admit_more_than_the_bound(quota in quotas(), requests in requests(true)) {
        let nodes = Nodes::default();
        let (admitted, now) = play(&nodes, &requests, quota);
        for (charge, list) in admitted.take().into_values() {
            assert_within(&charge.quota, &list)?;
            let mut state = None;
            for (at, cost) in list {
                let decided = charge.quota.decide(state.as_ref(), cost, at);
                state = decided.admitted.or(state);
            }
            let left = charge.quota.decide(state.as_ref(), 0, now).decision.remaining;
            prop_assert!(nodes.left(&charge, now) <= left);
        }
    }

    /// Law 3: for sequential requests the retry time of the caller that denies is exact, and the verdicts are those of one
    /// store.
    #[test]
    fn sequential_requests_are_decided_as_by_one_store(quota in quotas(), requests in requests(false)) {
        let nodes = Nodes::default();
        let isolate = isolate(&nodes);
        let one = Reference::default();
        let mut now = START;
        let both = |check: &Check, now: Timestamp| {
            isolate.effects.set(now.since(START).get());
            let several = decide(&isolate, check, now);
            give_back(&isolate);
            let one = conformance::at_once(&one, check, now);
            assert_eq!(several.allows(check), one.allows(check), "{check:?}");
            for (several, one) in several.answers.iter().zip(one.answers) {
                if let Some(several) = several {
                    assert_eq!(Some(*several), one);
                }
            }
            several
        };
        for request in &requests {
            now = now + Millis::new(request.after);
            let check = check_for(request, quota);
            let verdict = both(&check, now);
            let denials = verdict.enforced(&check).filter_map(|(_, answer)| answer?.retry_at());
            let Some(retry_at) = denials.max().filter(|_| request.turns.len() > 4) else {
                continue;
            };
            now = retry_at;
            let early = both(&check, retry_at - Millis::new(1));
            prop_assert!(!early.allows(&check));
            let again = both(&check, retry_at);
            let answers = verdict.answers.iter().zip(&again.answers);
            for (charge, (before, after)) in check.charges.iter().zip(answers) {
                let denied = charge.enforced && before.is_some_and(|answer| !answer.allows());
                if let Some(after) = after && denied {
                    prop_assert!(after.allows(), "{}", charge.key);
                }
            }
        }
    }
}
