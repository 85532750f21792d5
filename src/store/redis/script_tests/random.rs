//! Generators of random quotas, requests, clocks, backlogs, leases and garbage.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::quota::{Algorithm, Quota, QuotaState};
use crate::store::Charge;
use crate::store::shared::Backlog;
use crate::time::Millis;

#[derive(Clone, Debug)]
pub(super) struct RandomCharge {
    algorithm: usize,
    limit: u32,
    window: u64,
    burst: u32,
    block: Option<u64>,
    enforced: bool,
}

#[derive(Clone, Debug)]
pub(super) struct RandomStep {
    pub(super) move_by: i64,
    pub(super) cost: u32,
    pub(super) garbage: Option<Garbage>,
    pub(super) address_until: Option<i64>,
    pub(super) asked: Vec<bool>,
    /// The version of each charge.
    versions: Vec<usize>,
    pub(super) backlogs: Vec<Option<RandomBacklog>>,
    /// Units to lease.
    pub(super) leases: Vec<u32>,
    /// Units to give back after the decision, and the admission they belong to, counted from the latest (0).
    pub(super) refund: Option<(u32, usize)>,
}

/// One or more versions of a charge for each of one to three keys.
pub(super) fn random_charges() -> impl Strategy<Value = Vec<Vec<RandomCharge>>> {
    let charge = (
        0..3usize,
        prop_oneof![1..20u32, 20..100u32, Just(1_000_000u32)],
        // Long enough that no state expires in real time while it still counts.
        prop_oneof![
            3_600_000..90_000_000u64,
            40_000..400_000u64,
            Just(31_622_400_000u64)
        ],
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
    let versions = prop_oneof![
        proptest::collection::vec(charge.clone(), 1),
        proptest::collection::vec(charge, 2..6),
    ];
    proptest::collection::vec(versions, 1..4)
}

impl RandomCharge {
    fn read(&self, place: usize) -> Charge {
        let random = self;
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

impl RandomStep {
    /// The charges in this step's versions.
    pub(super) fn charges(&self, charges: &[Vec<RandomCharge>]) -> Vec<Charge> {
        let versions = charges.iter().zip(&self.versions).enumerate();
        versions
            .map(|(place, (versions, version))| versions[version % versions.len()].read(place))
            .collect()
    }
}

pub(super) fn random_steps() -> impl Strategy<Value = Vec<RandomStep>> {
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
        0..32usize,
    );
    let garbage = proptest::option::weighted(0.2, garbage.prop_map(Garbage));
    let address_until = proptest::option::weighted(0.1, -5_000..5_000i64);
    let cost = prop_oneof![1 => Just(0u32), 8 => 1..6u32, 1 => 0..2_000_000u32];
    let asked = proptest::collection::vec(any::<bool>(), 3);
    let versions = proptest::collection::vec(0..60usize, 3);
    let backlog = proptest::option::weighted(0.3, random_backlog());
    let backlogs = proptest::collection::vec(backlog, 3);
    let lease = prop_oneof![4 => Just(0u32), 4 => 1..10u32, 1 => Just(1_000_000u32)];
    let leases = proptest::collection::vec(lease, 3);
    let units = prop_oneof![8 => 1..6u32, 1 => Just(0u32), 1 => 0..2_000_000u32];
    let refund = proptest::option::weighted(0.4, (units, 0..4usize));
    let step = (
        move_by,
        cost,
        garbage,
        address_until,
        asked,
        versions,
        backlogs,
        (leases, refund),
    )
        .prop_map(
            |(
                move_by,
                cost,
                garbage,
                address_until,
                asked,
                versions,
                backlogs,
                (leases, refund),
            )| {
                RandomStep {
                    move_by,
                    cost,
                    garbage,
                    address_until,
                    asked,
                    versions,
                    backlogs,
                    leases,
                    refund,
                }
            },
        );
    proptest::collection::vec(step, 1..40)
}

/// A text that somebody else may have written. It often has the quota's own shape, so that it
/// passes the first check.
#[derive(Clone, Debug)]
pub(super) struct Garbage((u64, u64, u64, u64, String, usize));

impl Garbage {
    /// One text of the charge's shape, or several joined ones of this and other shapes.
    pub(super) fn state(&self, charge: &Charge, now: u64) -> String {
        let form = self.0.5;
        let own = shape(&charge.quota);
        if form < 16 {
            return self.text(own, form, now);
        }
        let width = 1000 + self.0.3 % 10_000_000;
        let other = |tag| self.text((tag, width), form / 2, now);
        [
            self.text(("sw", width + 1), 6, now),
            other("tb"),
            self.text(own, form, now),
            other("sw"),
            self.text(("tb", width + 2), 3, now),
            self.text(own, form / 3, now),
            other("fw"),
            self.text(("fw", width + 3), 3, now),
        ][form % 4..]
            .join(";")
    }

    fn text(&self, (tag, width): (&str, u64), form: usize, now: u64) -> String {
        let (clock, third, count, offset, ascii, _) = &self.0;
        let near = now + clock % 6000;
        let (base, gap) = ((near / width).saturating_sub(70), offset % 80);
        let limit = if tag == "tb" {
            format!(":{}", offset % 100)
        } else {
            String::new()
        };
        match form % 8 {
            0 => ascii.clone(),
            1 => format!("{tag}:{width}:{clock}:{third}{limit}"),
            2 => format!("{tag}:{width}:{near}:{third}{limit}"),
            3 => format!(
                "{tag}:{width}:{}:{count}{limit}",
                now.saturating_sub(third % width)
            ),
            4 => format!("{tag}:{width}:{clock}:{third}:{offset}={count}"),
            5 => format!("{tag}:{width}:{near}:{base}:{gap}={}", count % 30),
            6 => format!("{tag}:{width}:{near}:{base}:5={count},{gap}={}", count % 9),
            _ => format!("{tag}:{width}:{clock}:{third}:{ascii}"),
        }
    }

    pub(super) fn block(&self, now: u64) -> Option<String> {
        let (clock, third, _, _, ascii, form) = &self.0;
        match form % 16 {
            8..10 => Some(ascii.clone()),
            10..12 => Some(third.to_string()),
            12..15 => Some((now + clock % 20_000_000).to_string()),
            15 => Some(format!("+{now}")),
            _ => None,
        }
    }
}

/// A backlog that an isolate may send. It was admitted now, some time or very long ago, or by a clock that is ahead. It may
/// exceed the limit, have another shape, and reuse a name.
#[derive(Clone, Debug)]
pub(super) struct RandomBacklog {
    name: u8,
    other_shape: bool,
    /// In thousandths of a window.
    ago: u64,
    /// In ms.
    ahead: u64,
    parts: BTreeMap<u64, u32>,
}

fn random_backlog() -> impl Strategy<Value = RandomBacklog> {
    let ago = prop_oneof![2 => Just(0u64), 2 => 0..1000u64, 1 => 0..5000u64];
    let ahead = prop_oneof![4 => Just(0u64), 2 => 0..3000u64, 1 => 0..100_000_000u64];
    let count = prop_oneof![6 => 1..4u32, 1 => 1..2_000_000u32, 1 => 1..=u32::MAX];
    let parts = proptest::collection::btree_map(0..70u64, count, 1..4);
    (0..12u8, proptest::bool::weighted(0.1), ago, ahead, parts).prop_map(
        |(name, other_shape, ago, ahead, parts)| RandomBacklog {
            name,
            other_shape,
            ago,
            ahead,
            parts,
        },
    )
}

impl RandomBacklog {
    /// The backlog of `charge` at `now`.
    pub(super) fn read(&self, charge: &Charge, now: u64) -> Backlog {
        let window = charge.quota.window().get();
        let (tag, mut width) = shape(&charge.quota);
        let clock = now - (self.ago * window / 1000).min(now) + self.ahead;
        if self.other_shape {
            width -= 1;
        }
        let sum: u64 = self.parts.values().map(|count| u64::from(*count)).sum();
        let text = match charge.quota.algorithm() {
            Algorithm::SlidingWindow => {
                let first = (clock / width).saturating_sub(69);
                let last = clock / width - first;
                let parts = self.parts.iter().filter(|(offset, _)| **offset <= last);
                let list: Vec<String> = parts
                    .map(|(offset, count)| format!("{offset}={count}"))
                    .collect();
                format!("{tag}:{width}:{clock}:{first}:{}", list.join(","))
            }
            // A level that a state's text can hold.
            Algorithm::TokenBucket => {
                let level = (sum.saturating_mul(width) - clock % width).min(1 << 52);
                format!("{tag}:{width}:{clock}:{level}:{}", charge.quota.limit())
            }
            Algorithm::FixedWindow => {
                format!("{tag}:{width}:{clock}:{}", sum.min(u64::from(u32::MAX)))
            }
        };
        Backlog {
            name: format!("n{}", self.name),
            state: QuotaState::parse(&text).unwrap_or_else(|| panic!("{text}")),
        }
    }
}

/// The tag and the width of a quota's states.
fn shape(quota: &Quota) -> (&'static str, u64) {
    let window = quota.window().get();
    match quota.algorithm() {
        Algorithm::SlidingWindow => ("sw", window.div_ceil(60)),
        Algorithm::TokenBucket => ("tb", window),
        Algorithm::FixedWindow => ("fw", window),
    }
}
