//! A model of Redis and the script for tests: every record is a text, read and written as the script
//! does, and the decision is [`decide`]. Nothing expires.

use std::cell::RefCell;
use std::collections::HashMap;

use super::decide::{Record, decide};
use super::shared::{
    Backlog, ChargeExtra, Partitioned, Question, RangesVersion, Refund, SharedStore, StoreReply,
    StoredCharge,
};
use super::{Charge, Check, Source, StoreError, Verdict};
use crate::blocklist::AddressBlock;
use crate::quota::{QuotaState, States};
use crate::time::Timestamp;

/// A store whose records are texts in memory.
#[derive(Default)]
pub(crate) struct Reference {
    texts: RefCell<HashMap<String, String>>,
}

impl Reference {
    /// The text under `key`, without the store's prefix.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.texts.borrow().get(key).cloned()
    }

    /// Stores `text` under `key`.
    pub(crate) fn set(&self, key: impl Into<String>, text: impl Into<String>) {
        self.texts.borrow_mut().insert(key.into(), text.into());
    }

    fn state(&self, charge: &Charge) -> Option<QuotaState> {
        let text = self.text(&charge.key)?;
        States::parse(&text, &charge.quota).own().cloned()
    }

    fn record(&self, charge: &Charge) -> Record {
        Record {
            state: self.state(charge),
            blocked_until: self.text(&block_key(charge)).and_then(|text| time(&text)),
        }
    }

    /// The block of the caller's address that is in force at `now`.
    fn address_block(&self, check: &Check, now: Timestamp) -> Option<AddressBlock> {
        let record = self.text(&format!("blocked:{}", check.address.as_ref()?))?;
        Some(AddressBlock::from_record(&record))
            .filter(|block| block.until.is_none_or(|until| until > now))
    }

    /// `extra` without the part of its backlog that was added before.
    fn fresh(&self, charge: &Charge, extra: &ChargeExtra) -> ChargeExtra {
        let newer = |backlog: &Backlog| {
            let counted = self.text(&absorbed_key(backlog));
            let state = match counted.and_then(|text| QuotaState::parse(&text)) {
                Some(counted) => charge.quota.newer(&backlog.state, &counted),
                None => Some(backlog.state.clone()),
            };
            let name = backlog.name.clone();
            state.map(|state| Backlog { name, state })
        };
        ChargeExtra {
            lease: extra.lease,
            backlog: extra.backlog.as_ref().and_then(newer),
        }
    }
}

impl SharedStore for Reference {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let check = question.check;
        let charges = &check.charges;
        let extras: Vec<_> = (charges.iter().enumerate())
            .map(|(place, charge)| self.fresh(charge, question.extra(place)))
            .collect();
        let records: Vec<_> = charges.iter().map(|charge| self.record(charge)).collect();
        let address_block = self.address_block(check, now);
        let fresh = Question::with(check, &extras);
        let outcomes = decide(&fresh, &records, address_block.is_some(), now);
        for (place, (charge, outcome)) in charges.iter().zip(&outcomes).enumerate() {
            if let Some(state) = &outcome.state {
                let stored = self.text(&charge.key).unwrap_or_default();
                let states = States::parse(&stored, &charge.quota);
                self.set(&charge.key, states.text_with(state, now));
            }
            if absorbs(charge, &extras[place], &records[place], now)
                && let Some(backlog) = &question.extra(place).backlog
            {
                self.set(absorbed_key(backlog), backlog.state.to_string());
            }
            if let Some(until) = outcome.block {
                self.set(block_key(charge), until.as_millis().to_string());
            }
        }
        let stored_charge = |(charge, leased)| StoredCharge {
            leased,
            state: self.state(charge),
        };
        let leased = outcomes.iter().map(|outcome| outcome.leased);
        Ok(StoreReply {
            stored_charges: charges.iter().zip(leased).map(stored_charge).collect(),
            verdict: Verdict {
                address_block,
                answers: outcomes
                    .iter()
                    .map(|outcome| Some(outcome.answer))
                    .collect(),
                degraded: false,
                source: Source::Store,
            },
            ranges_version: RangesVersion::Stored(self.text("blocked_ranges:version")),
        })
    }
}

impl Partitioned for Reference {
    async fn refund(&self, refund: &Refund, now: Timestamp) -> Result<(), StoreError> {
        for (charge, taken_at) in &refund.taken {
            let stored = self.text(&charge.key).unwrap_or_default();
            let states = States::parse(&stored, &charge.quota);
            let refunded = (states.own())
                .and_then(|state| charge.quota.refund(state, refund.units, *taken_at, now));
            match refunded.map(|state| states.text_with(&state, now)) {
                None => {}
                Some(text) if text.is_empty() => drop(self.texts.borrow_mut().remove(&charge.key)),
                Some(text) => self.set(&charge.key, text),
            }
        }
        Ok(())
    }
}

fn block_key(charge: &Charge) -> String {
    format!("{}:blocked", charge.key)
}

fn absorbed_key(backlog: &Backlog) -> String {
    format!("absorbed:{}", backlog.name)
}

/// Whether the backlog adds units to the state.
fn absorbs(charge: &Charge, extra: &ChargeExtra, record: &Record, now: Timestamp) -> bool {
    let state = record.state.as_ref();
    let absorb = |backlog: &Backlog| charge.quota.absorb(state, &backlog.state, now);
    extra.backlog.as_ref().and_then(absorb).is_some()
}

/// A time as the script reads it: digits only, and at most the script's `MAX_NUMBER`.
fn time(text: &str) -> Option<Timestamp> {
    let digits = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit());
    let ms: u64 = text.parse().ok().filter(|_| digits)?;
    (ms <= 1 << 52).then(|| Timestamp::from_millis(ms))
}

#[tokio::test]
async fn the_reference_conforms() {
    super::conformance::shared(&Reference::default()).await;
}
