//! Tests of the script and the reference with scenarios whose numbers were worked out by hand.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::json;

use crate::quota::{Algorithm, Quota, QuotaOutcome, QuotaState};
use crate::store::conformance::check;
use crate::store::reference::Reference;
use crate::store::shared::{Backlog, ChargeExtra, Partitioned, Question, Refund, SharedStore};
use crate::store::stand_in::StandIn;
use crate::store::{Charge, Verdict};
use crate::time::{Millis, Timestamp};

#[derive(Deserialize)]
struct Vectors {
    scenarios: Vec<Scenario>,
}

#[derive(Deserialize)]
struct Scenario {
    name: String,
    charges: Vec<VectorCharge>,
    steps: Vec<VectorStep>,
}

#[derive(Deserialize)]
struct VectorCharge {
    key: String,
    algorithm: String,
    limit: u32,
    window: u64,
    burst: Option<u32>,
    block: Option<u64>,
    #[serde(default)]
    shadow: bool,
}

#[derive(Deserialize)]
struct VectorStep {
    now: u64,
    cost: u32,
    /// The charges of another version of the policies, under the same keys; else the scenario's.
    charges: Option<Vec<VectorCharge>>,
    /// Texts by key, to write before the step.
    #[serde(default)]
    given: HashMap<String, String>,
    /// By the state's key: a backlog's name, and its state.
    #[serde(default)]
    backlog: HashMap<String, (String, String)>,
    /// By the state's key: units to lease, and how many of them are leased.
    #[serde(default)]
    lease: HashMap<String, (u32, u32)>,
    /// By the state's key: units to give back before the decision, and when they were admitted.
    #[serde(default)]
    refund: HashMap<String, (u32, u64)>,
    /// For each charge: what [`shown`] returns.
    expect: Vec<(String, u32, u64, u64, u64)>,
    /// Texts by key after the step; `None`: the key does not exist.
    keeps: HashMap<String, Option<String>>,
}

#[tokio::test]
async fn the_script_and_the_reference_follow_the_shared_vectors() {
    let text = include_str!("../../../tests/vectors/decide.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    let stand_in = StandIn::start();
    for (number, scenario) in vectors.scenarios.iter().enumerate() {
        let prefix = format!("vector-{number}:");
        let store = stand_in.store(&prefix);
        let reference = Reference::default();
        for (place, step) in scenario.steps.iter().enumerate() {
            let place = format!("{}, step {place}", scenario.name);
            for (key, text) in &step.given {
                reference.set(key, text);
                stand_in
                    .run(&["SET", &format!("{prefix}{key}"), text])
                    .await;
            }
            let charges = step.charges.as_ref().unwrap_or(&scenario.charges);
            let charges: Vec<Charge> = charges.iter().map(VectorCharge::read).collect();
            let extras: Vec<ChargeExtra> = charges.iter().map(|one| step.extra_of(one)).collect();
            let check = check(&charges, step.cost);
            let question = Question::with(&check, &extras);
            let now = Timestamp::from_millis(step.now);
            for refund in charges.iter().filter_map(|one| step.refund_of(one)) {
                reference.refund(&refund, now).await.unwrap();
                store.refund(&refund, now).await.unwrap();
            }
            let model = reference.ask(&question, now).await.unwrap();
            let script = store.ask(&question, now).await.unwrap();
            assert_eq!(shown(&model.verdict), step.expect, "{place}: the reference");
            assert_eq!(shown(&script.verdict), step.expect, "{place}: the script");
            assert_eq!(script.stored_charges.len(), charges.len(), "{place}");
            for (charge, stored_charge) in charges.iter().zip(&script.stored_charges) {
                let leased = step.lease.get(&charge.key).map_or(0, |(_, leased)| *leased);
                assert_eq!(stored_charge.leased, leased, "{place}: {}", charge.key);
            }
            assert_eq!(script.stored_charges, model.stored_charges, "{place}");
            assert_eq!(script.verdict.answers, model.verdict.answers, "{place}");
            for (key, text) in &step.keeps {
                let stored = stand_in.run(&["GET", &format!("{prefix}{key}")]).await;
                assert_eq!(
                    reference.text(key),
                    *text,
                    "{place}: the reference keeps {key}"
                );
                assert_eq!(stored, json!(text), "{place}: the script keeps {key}");
            }
        }
    }
}

impl VectorCharge {
    fn read(&self) -> Charge {
        let quota = Quota::new(
            Algorithm::from_name(&self.algorithm).unwrap(),
            self.limit.try_into().unwrap(),
            Millis::new(self.window),
        );
        let burst = self.burst.unwrap_or(self.limit);
        let quota = quota.unwrap().with_burst(burst.try_into().unwrap());
        Charge {
            block: self.block.map(Millis::new),
            enforced: !self.shadow,
            ..Charge::new(self.key.clone(), quota.unwrap())
        }
    }
}

impl VectorStep {
    fn refund_of(&self, charge: &Charge) -> Option<Refund> {
        let (units, taken_at) = *self.refund.get(&charge.key)?;
        let taken_at = Timestamp::from_millis(taken_at);
        Some(Refund {
            units,
            taken: vec![(charge.clone(), taken_at)],
        })
    }

    fn extra_of(&self, charge: &Charge) -> ChargeExtra {
        let backlog = self.backlog.get(&charge.key);
        let backlog = backlog.map(|(name, text)| Backlog {
            name: name.clone(),
            state: QuotaState::parse(text).unwrap(),
        });
        let lease = self.lease.get(&charge.key).map_or(0, |(most, _)| *most);
        ChargeExtra { lease, backlog }
    }
}

/// For each charge: the outcome, remaining units, retry at, reset at, and blocked until in ms; 0 for none.
fn shown(verdict: &Verdict) -> Vec<(String, u32, u64, u64, u64)> {
    verdict
        .answers
        .iter()
        .map(|answer| {
            let answer = answer.unwrap();
            let (word, retry_at) = match answer.decision.outcome {
                QuotaOutcome::Allowed => ("allowed", 0),
                QuotaOutcome::Denied { retry_at } => ("denied", retry_at.as_millis()),
                QuotaOutcome::Impossible => ("impossible", 0),
            };
            (
                word.to_owned(),
                answer.decision.remaining,
                retry_at,
                answer.decision.reset_at.as_millis(),
                answer.blocked_until.map_or(0, Timestamp::as_millis),
            )
        })
        .collect()
}
