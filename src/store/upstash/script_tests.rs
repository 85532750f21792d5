//! The script against the reference, on a real Redis.

use std::collections::HashMap;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Deserialize;
use serde_json::json;

use super::{SCRIPT, SCRIPT_SHA1};
use crate::quota::{Algorithm, Quota, State};
use crate::store::conformance::{MINUTE, check};
use crate::store::settle::{Record, settle};
use crate::store::stand_in::StandIn;
use crate::store::{AddressBlock, Charge, Check, Store, Verdict};
use crate::time::{Millis, Timestamp};

#[test]
fn the_scripts_name_is_its_hash() {
    let hash = sha1_smol::Sha1::from(SCRIPT).digest().to_string();
    assert_eq!(
        SCRIPT_SHA1, hash,
        "decide.lua has changed: change SCRIPT_SHA1 as well"
    );
}

/// What Redis would hold: texts, so that every step goes through a state's text, and the end of the
/// address's block.
#[derive(Default)]
struct Model(HashMap<String, String>, Option<Timestamp>);

impl Model {
    fn decide(&mut self, check: &Check, now: Timestamp) -> Verdict {
        let records: Vec<Record> = check
            .charges
            .iter()
            .map(|charge| self.record(charge))
            .collect();
        let until = self.1.filter(|until| *until > now);
        let settled = settle(check, &records, until.is_some(), now);
        let mut verdict = Verdict {
            address_block: until.map(|until| AddressBlock { until: Some(until) }),
            ..Verdict::default()
        };
        for (charge, settled) in check.charges.iter().zip(settled) {
            verdict.answers.push(Some(settled.answer));
            if let Some(state) = settled.state {
                self.0.insert(charge.key.clone(), state.to_string());
            }
            if let Some(until) = settled.block {
                let key = format!("{}:blocked", charge.key);
                self.0.insert(key, until.as_millis().to_string());
            }
        }
        verdict
    }

    fn record(&self, charge: &Charge) -> Record {
        let block = self.0.get(&format!("{}:blocked", charge.key));
        Record {
            state: self.0.get(&charge.key).and_then(|text| State::parse(text)),
            blocked_until: block.and_then(|text| time(text)),
        }
    }
}

/// A time as the script reads it: digits only, and not more than Lua's numbers hold.
fn time(text: &str) -> Option<Timestamp> {
    let digits = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit());
    let ms: u64 = text.parse().ok().filter(|_| digits)?;
    (ms <= 1 << 52).then(|| Timestamp::from_millis(ms))
}

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
    #[serde(default)]
    given: HashMap<String, String>,
    expect: Vec<(String, u32, u64, u64, u64)>,
    keeps: HashMap<String, Option<String>>,
}

/// Both implementations, step by step, on scenarios whose numbers were worked out by hand.
#[tokio::test]
async fn shared_vectors() {
    let text = include_str!("../../../tests/vectors/decide.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    let stand_in = StandIn::start();
    for (number, scenario) in vectors.scenarios.iter().enumerate() {
        let prefix = format!("vector-{number}:");
        let store = stand_in.store(&prefix);
        let mut model = Model::default();
        let charges: Vec<Charge> = scenario.charges.iter().map(VectorCharge::read).collect();
        for (place, step) in scenario.steps.iter().enumerate() {
            let place = format!("{}, step {place}", scenario.name);
            for (key, text) in &step.given {
                model.0.insert(key.clone(), text.clone());
                stand_in
                    .run(&["SET", &format!("{prefix}{key}"), text])
                    .await;
            }
            let check = check(&charges, step.cost);
            let now = Timestamp::from_millis(step.now);
            let reference = model.decide(&check, now);
            let script = store.decide(&check, now).await.unwrap();
            let expected: Vec<_> = step.expect.clone();
            assert_eq!(shown(&reference), expected, "{place}: the reference");
            assert_eq!(shown(&script), expected, "{place}: the script");
            for (key, text) in &step.keeps {
                let held = stand_in.run(&["GET", &format!("{prefix}{key}")]).await;
                assert_eq!(
                    model.0.get(key),
                    text.as_ref(),
                    "{place}: the reference keeps {key}"
                );
                assert_eq!(held, json!(text), "{place}: the script keeps {key}");
            }
        }
    }
}

impl VectorCharge {
    fn read(&self) -> Charge {
        let quota = Quota::new(
            Algorithm::named(&self.algorithm).unwrap(),
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

/// Word, remaining, retry at, reset at, blocked until; zero for none.
fn shown(verdict: &Verdict) -> Vec<(String, u32, u64, u64, u64)> {
    use crate::quota::Outcome;
    verdict
        .answers
        .iter()
        .map(|answer| {
            let answer = answer.unwrap();
            let (word, retry_at) = match answer.decision.outcome {
                Outcome::Allowed => ("allowed", 0),
                Outcome::Denied { retry_at } => ("denied", retry_at.as_millis()),
                Outcome::Impossible => ("impossible", 0),
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

#[derive(Clone, Debug)]
struct RandomCharge {
    algorithm: usize,
    limit: u32,
    window: u64,
    burst: u32,
    block: Option<u64>,
    enforced: bool,
}

#[derive(Clone, Debug)]
struct RandomStep {
    move_by: i64,
    cost: u32,
    garbage: Option<Garbage>,
    address_until: Option<i64>,
    asked: Vec<bool>,
}

fn random_charges() -> impl Strategy<Value = Vec<RandomCharge>> {
    let charge = (
        0..3usize,
        prop_oneof![1..20u32, Just(1_000_000u32)],
        // Long enough that nothing expires in real time while it must still be there.
        prop_oneof![3_600_000..90_000_000u64, Just(31_622_400_000u64)],
        1..30u32,
        prop_oneof![Just(None), (600_000..10_000_000u64).prop_map(Some)],
        proptest::bool::weighted(0.75),
    )
        .prop_map(
            |(algorithm, limit, window, burst, block, enforced)| RandomCharge {
                algorithm,
                limit,
                window,
                burst,
                block,
                enforced,
            },
        );
    proptest::collection::vec(charge, 1..4)
}

fn random_steps() -> impl Strategy<Value = Vec<RandomStep>> {
    let move_by = prop_oneof![
        4 => Just(0i64),
        3 => -3000..3000i64,
        3 => 0..4_000_000i64,
        1 => -100_000_000..100_000_000i64,
    ];
    let number = || prop_oneof![Just(0u64), 0..20u64, 0..3_000_000_000_000u64, any::<u64>()];
    let garbage = (
        number(),
        number(),
        number(),
        number(),
        "[ -~]{0,20}",
        0..16usize,
    );
    let garbage = proptest::option::weighted(0.2, garbage.prop_map(Garbage));
    let address_until = proptest::option::weighted(0.1, -5_000..5_000i64);
    let cost = prop_oneof![1 => Just(0u32), 8 => 1..6u32, 1 => 0..2_000_000u32];
    let asked = proptest::collection::vec(any::<bool>(), 3);
    let step = (move_by, cost, garbage, address_until, asked).prop_map(
        |(move_by, cost, garbage, address_until, asked)| RandomStep {
            move_by,
            cost,
            garbage,
            address_until,
            asked,
        },
    );
    proptest::collection::vec(step, 1..40)
}

/// What somebody else may have written: often in a state's own shape, with its own width, so that it
/// gets past the first look.
#[derive(Clone, Debug)]
struct Garbage((u64, u64, u64, u64, String, usize));

impl Garbage {
    fn state(&self, charge: &Charge, now: u64) -> String {
        let (clock, third, count, offset, ascii, form) = &self.0;
        let window = charge.quota.window().get();
        let (tag, width) = match charge.quota.algorithm() {
            Algorithm::SlidingWindow => ("sw", window.div_ceil(60)),
            Algorithm::TokenBucket => ("tb", window),
            Algorithm::FixedWindow => ("fw", window),
        };
        let near = now + clock % 6000;
        let (base, gap) = ((near / width).saturating_sub(70), offset % 80);
        match form % 8 {
            0 => ascii.clone(),
            1 => format!("{tag}:{width}:{clock}:{third}"),
            2 => format!("{tag}:{width}:{near}:{third}"),
            3 => format!(
                "{tag}:{width}:{}:{count}",
                now.saturating_sub(third % window)
            ),
            4 => format!("{tag}:{width}:{clock}:{third}:{offset}={count}"),
            5 => format!("{tag}:{width}:{near}:{base}:{gap}={}", count % 30),
            6 => format!("{tag}:{width}:{near}:{base}:5={count},{gap}={}", count % 9),
            _ => format!("{tag}:{width}:{clock}:{third}:{ascii}"),
        }
    }

    fn block(&self, now: u64) -> Option<String> {
        let (clock, third, _, _, ascii, form) = &self.0;
        match form {
            8..10 => Some(ascii.clone()),
            10..12 => Some(third.to_string()),
            12..15 => Some((now + clock % 20_000_000).to_string()),
            15 => Some(format!("+{now}")),
            _ => None,
        }
    }
}

/// The script and the reference, side by side on a real Redis: the same answers and the same texts,
/// with clocks that jump, quotas that come and go, and garbage in the keys.
#[tokio::test]
async fn the_script_is_the_reference() {
    const SEQUENCES: usize = 150;
    let stand_in = StandIn::start();
    let mut runner = TestRunner::deterministic();
    let mut compared = 0;
    for sequence in 0..SEQUENCES {
        let charges = random_charges().new_tree(&mut runner).unwrap().current();
        let steps = random_steps().new_tree(&mut runner).unwrap().current();
        compared += compare(&stand_in, sequence, &charges, &steps).await;
    }
    assert!(compared > SEQUENCES * 10, "{compared} decisions compared");
}

async fn compare(
    stand_in: &StandIn,
    sequence: usize,
    charges: &[RandomCharge],
    steps: &[RandomStep],
) -> usize {
    let prefix = format!("random-{sequence}:");
    let store = stand_in.store(&prefix);
    let mut model = Model::default();
    let charges: Vec<Charge> = charges.iter().enumerate().map(RandomCharge::read).collect();
    let mut now: u64 = 1_764_000_123_456;
    for (place, step) in steps.iter().enumerate() {
        now = now.saturating_add_signed(step.move_by);
        if let Some(garbage) = &step.garbage {
            let key = &charges[0].key;
            let state = Some((key.clone(), garbage.state(&charges[0], now)));
            let block = garbage
                .block(now)
                .map(|text| (format!("{key}:blocked"), text));
            for (key, text) in state.into_iter().chain(block) {
                stand_in
                    .run(&["SET", &format!("{prefix}{key}"), &text])
                    .await;
                model.0.insert(key, text);
            }
        }
        if let Some(ahead) = step.address_until {
            let until = now.saturating_add_signed(ahead);
            let record = format!("{{\"until\":{until},\"reason\":\"x\"}}");
            stand_in
                .run(&["SET", &format!("{prefix}blocked:192.0.2.1"), &record])
                .await;
            model.1 = Some(Timestamp::from_millis(until));
        }
        let asked: Vec<Charge> = charges
            .iter()
            .zip(&step.asked)
            .filter(|(_, asked)| **asked)
            .map(|(charge, _)| charge.clone())
            .collect();
        let check = check(&asked, step.cost);
        let now = Timestamp::from_millis(now);
        let reference = model.decide(&check, now);
        let script = store.decide(&check, now).await.unwrap();
        assert_eq!(
            script, reference,
            "sequence {sequence}, step {place}: {check:?} at {now:?}"
        );
        for charge in &asked {
            for key in [charge.key.clone(), format!("{}:blocked", charge.key)] {
                let held = stand_in.run(&["GET", &format!("{prefix}{key}")]).await;
                assert_eq!(
                    held,
                    json!(model.0.get(&key)),
                    "sequence {sequence}, step {place}: {key}"
                );
            }
        }
        // What ends within seconds would be gone before the virtual clock says so.
        let soon = now + MINUTE;
        let ends_soon = |at: Timestamp| at > now && at < soon;
        if script
            .answers
            .iter()
            .flatten()
            .any(|answer| ends_soon(answer.decision.reset_at))
        {
            return place;
        }
    }
    steps.len()
}

impl RandomCharge {
    fn read((place, random): (usize, &Self)) -> Charge {
        let algorithm = [
            Algorithm::SlidingWindow,
            Algorithm::TokenBucket,
            Algorithm::FixedWindow,
        ][random.algorithm];
        let limit = if algorithm == Algorithm::TokenBucket {
            random.limit.min(50_000)
        } else {
            random.limit
        };
        let quota = Quota::new(
            algorithm,
            limit.try_into().unwrap(),
            Millis::new(random.window),
        );
        let quota = quota.unwrap().with_burst(random.burst.try_into().unwrap());
        Charge {
            block: random.block.map(Millis::new),
            enforced: random.enforced,
            ..Charge::new(format!("p{place}:192.0.2.1"), quota.unwrap())
        }
    }
}
