//! Reads and validates the answer of the script.

use serde_json::Value;

use crate::blocklist::AddressBlock;
use crate::quota::{CLOCK_TOLERANCE, Decision, QuotaOutcome, QuotaState};
use crate::redis::json::TextReader;
use crate::redis::script::FromScriptReply;
use crate::store::shared::{Question, RangesVersion, StoreReply, StoredCharge};
use crate::store::{Charge, QuotaAnswer, Source, Verdict};
use crate::time::Timestamp;

/// The script's answer, parsed but not validated against the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptReply {
    ranges_version: Option<String>,
    /// The record of the address's block.
    address_block: Option<AddressBlock>,
    quotas: Vec<QuotaReply>,
}

/// The part of one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QuotaReply {
    /// Outcome, remaining, retry at, reset at, at, blocked until, leased.
    numbers: [u64; 7],
    /// The quota's state; `None` if its text is not a valid state.
    state: Option<QuotaState>,
}

impl FromScriptReply for ScriptReply {
    fn from_json(text: &str) -> Option<Self> {
        let mut json = TextReader::new(text);
        json.literal("[")?;
        let ranges_version = json.string_or_null()?.map(str::to_owned);
        json.literal(",")?;
        let address_block = json.string_or_null()?.map(AddressBlock::from_record);
        let mut quotas = Vec::with_capacity(2);
        while json.literal(",[").is_some() {
            let mut numbers = [0; 7];
            for number in &mut numbers {
                *number = json.number()?;
                json.literal(",")?;
            }
            let state = QuotaState::parse(json.string()?);
            json.literal("]")?;
            quotas.push(QuotaReply { numbers, state });
        }
        json.literal("]")?;
        json.is_at_end().then_some(Self {
            ranges_version,
            address_block,
            quotas,
        })
    }

    fn from_value(value: &Value) -> Option<Self> {
        let [version, block, quotas @ ..] = value.as_array()?.as_slice() else {
            return None;
        };
        Some(Self {
            ranges_version: text_or_null(version)?.map(str::to_owned),
            address_block: text_or_null(block)?.map(AddressBlock::from_record),
            quotas: quotas.iter().map(QuotaReply::read).collect::<Option<_>>()?,
        })
    }
}

fn text_or_null(value: &Value) -> Option<Option<&str>> {
    match value {
        Value::Null => Some(None),
        text => text.as_str().map(Some),
    }
}

impl QuotaReply {
    fn read(value: &Value) -> Option<Self> {
        let (state, numbers) = value.as_array()?.split_last()?;
        let numbers: Vec<u64> = numbers.iter().map(Value::as_u64).collect::<Option<_>>()?;
        Some(Self {
            state: QuotaState::parse(state.as_str()?),
            numbers: numbers.try_into().ok()?,
        })
    }

    /// The answer, and the units leased.
    fn answer(&self, now: Timestamp) -> Option<(QuotaAnswer, u32)> {
        let time = Timestamp::from_millis;
        let [
            outcome,
            remaining,
            retry_at,
            reset_at,
            at,
            blocked_until,
            leased,
        ] = self.numbers;
        let outcome = match outcome {
            0 if time(retry_at) > now => QuotaOutcome::Denied {
                retry_at: time(retry_at),
            },
            1 => QuotaOutcome::Allowed,
            2 => QuotaOutcome::Impossible,
            _ => return None,
        };
        let answer = QuotaAnswer {
            decision: Decision {
                outcome,
                remaining: u32::try_from(remaining).ok()?,
                reset_at: time(reset_at),
                at: time(at),
            },
            blocked_until: Some(time(blocked_until)).filter(|until| *until > now),
        };
        Some((answer, u32::try_from(leased).ok()?))
    }
}

impl ScriptReply {
    /// The reply to `question`; `None` if the quotas of the question cannot give this answer.
    pub(super) fn read(self, question: &Question<'_>, now: Timestamp) -> Option<StoreReply> {
        let check = question.check;
        if self.quotas.len() != check.charges.len() {
            return None;
        }
        let mut answers = Vec::with_capacity(self.quotas.len());
        let mut stored_charges = Vec::with_capacity(self.quotas.len());
        let quotas = self.quotas.into_iter().zip(&check.charges);
        for (place, (quota, charge)) in quotas.enumerate() {
            let (answer, leased) = quota.answer(now)?;
            let asked = question.extra(place).lease;
            if !is_possible(&answer, charge, check.cost, now)
                || !is_leasable(&answer, leased, asked)
            {
                return None;
            }
            answers.push(Some(answer));
            stored_charges.push(StoredCharge {
                leased,
                state: quota.state,
            });
        }
        Some(StoreReply {
            verdict: Verdict {
                address_block: self.address_block,
                answers,
                degraded: false,
                source: Source::Store,
            },
            stored_charges,
            ranges_version: RangesVersion::Stored(self.ranges_version),
        })
    }
}

/// Whether a quota can give this answer. Nonsense in the right format must not become a denial.
fn is_possible(answer: &QuotaAnswer, charge: &Charge, cost: u32, now: Timestamp) -> bool {
    let quota = &charge.quota;
    let latest = now + quota.refill() + quota.window() + CLOCK_TOLERANCE;
    let block = charge.block.filter(|_| charge.blocks());
    let in_time = match answer.decision.outcome {
        QuotaOutcome::Denied { retry_at } => retry_at <= latest,
        QuotaOutcome::Allowed | QuotaOutcome::Impossible => true,
    };
    let impossible = answer.decision.outcome == QuotaOutcome::Impossible;
    let blocked = answer.blocked_until;
    in_time
        && impossible == (cost > quota.capacity())
        && answer.decision.remaining <= quota.capacity()
        && answer.decision.reset_at <= latest
        && blocked
            .is_none_or(|until| block.is_some_and(|block| until <= now + block + CLOCK_TOLERANCE))
}

/// Whether a quota can have leased this many units: at most those asked for, and only if it allows the request.
fn is_leasable(answer: &QuotaAnswer, leased: u32, asked: u32) -> bool {
    let max_leased = if answer.decision.allowed() {
        asked.min(answer.decision.remaining)
    } else {
        0
    };
    leased <= max_leased
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::ScriptReply;
    use crate::redis::script::FromScriptReply;

    fn texts() -> impl Strategy<Value = Value> {
        prop_oneof![
            3 => Just(Value::Null),
            2 => "[0-9]{1,3}".prop_map(Value::from),
            1 => Just(json!("{\"until\":1764000060000,\"since\":5,\"by\":\"operator\"}")),
            1 => "[ -~]{0,12}".prop_map(Value::from),
            1 => any::<u64>().prop_map(Value::from),
        ]
    }

    fn numbers() -> impl Strategy<Value = Value> {
        prop_oneof![
            9 => (0..1_764_000_060_000_u64).prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
        ]
    }

    fn quotas() -> impl Strategy<Value = Value> {
        let states = prop_oneof![
            4 => Just(json!("sw:1000:1764000059123:1764000000:0=3,1=5")),
            1 => Just(json!("tb:60000:1764000000123:180000:10")),
            1 => Just(json!("")),
            1 => "\\PC{0,12}".prop_map(Value::from),
            1 => Just(Value::Null),
        ];
        let numbers = prop_oneof![9 => Just(7usize), 1 => 0..9usize]
            .prop_flat_map(|count| prop::collection::vec(numbers(), count));
        (numbers, states).prop_map(|(mut list, state)| {
            list.push(state);
            Value::from(list)
        })
    }

    proptest! {
        /// An answer that the fast reader accepts is read as serde reads it.
        #[test]
        fn the_fast_reader_agrees_with_serde(
            version in texts(), block in texts(), quotas in prop::collection::vec(quotas(), 0..4),
        ) {
            let list: Vec<Value> = [version, block].into_iter().chain(quotas).collect();
            let value = Value::from(list);
            if let Some(read) = ScriptReply::from_json(&value.to_string()) {
                prop_assert_eq!(Some(read), ScriptReply::from_value(&value));
            }
        }
    }

    /// Otherwise every answer would take the slow way, and no test would fail.
    #[test]
    fn the_fast_reader_accepts_the_usual_answers() {
        for quotas in [0, 1, 2, 5] {
            let quota = json!([
                1,
                119,
                0,
                1_764_000_061_000_u64,
                1_764_000_000_000_u64,
                0,
                0,
                "sw:1000:1764000000000:1764000000:0=1"
            ]);
            for version in [Value::Null, json!("7")] {
                let head = [version, Value::Null];
                let list: Vec<Value> = head
                    .into_iter()
                    .chain(vec![quota.clone(); quotas])
                    .collect();
                let value = Value::from(list);
                let read = ScriptReply::from_json(&value.to_string());
                assert!(read.is_some(), "{value}");
                assert_eq!(read, ScriptReply::from_value(&value));
            }
        }
    }
}
