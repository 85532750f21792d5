//! What Redis and the script are, in memory: every record is a text, read and written as the script
//! does, and the decision is [`settle`]. Nothing expires.

use std::cell::RefCell;
use std::collections::HashMap;

use super::settle::{Record, settle};
use super::upstash::address_block;
use super::{AddressBlock, Charge, Check, Owed, Store, StoreError, Verdict};
use crate::quota::State;
use crate::time::Timestamp;

/// A store of texts.
#[derive(Default)]
pub(crate) struct Reference {
    texts: RefCell<HashMap<String, String>>,
}

impl Reference {
    /// What is held under `key`, without the store's prefix.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.texts.borrow().get(key).cloned()
    }

    /// Holds `text` under `key` from now on.
    pub(crate) fn set(&self, key: impl Into<String>, text: impl Into<String>) {
        self.texts.borrow_mut().insert(key.into(), text.into());
    }

    fn state(&self, charge: &Charge) -> Option<State> {
        State::parse(&self.text(&charge.key)?)
    }

    fn record(&self, charge: &Charge) -> Record {
        Record {
            state: self.state(charge),
            blocked_until: self.text(&block_key(charge)).and_then(|text| time(&text)),
        }
    }

    /// The block of the caller's address that stands at `now`.
    fn address_block(&self, check: &Check, now: Timestamp) -> Option<AddressBlock> {
        let record = self.text(&format!("blocked:{}", check.address.as_ref()?))?;
        Some(address_block(&record)).filter(|block| block.until.is_none_or(|until| until > now))
    }

    /// `check` without what has been added before.
    fn fresh(&self, check: &Check) -> Check {
        let mut check = check.clone();
        for charge in &mut check.charges {
            let counted = absorbed_key(charge).and_then(|key| State::parse(&self.text(&key)?));
            if let (Some(owed), Some(counted)) = (&charge.owed, counted) {
                let newer = charge.quota.newer(&owed.state, &counted);
                let name = owed.name.clone();
                charge.owed = newer.map(|state| Owed { name, state });
            }
        }
        check
    }
}

impl Store for Reference {
    async fn decide(&self, asked: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let check = self.fresh(asked);
        let records: Vec<_> = (check.charges.iter())
            .map(|charge| self.record(charge))
            .collect();
        let address_block = self.address_block(&check, now);
        let settled = settle(&check, &records, address_block.is_some(), now);
        for ((charge, record), settled) in check.charges.iter().zip(&records).zip(&settled) {
            if let Some(state) = &settled.state {
                self.set(&charge.key, state.to_string());
            }
            if absorbs(charge, record, now) {
                let owed = asked.charges.iter().find(|asked| asked.key == charge.key);
                let owed = owed.and_then(|asked| asked.owed.as_ref());
                if let (Some(key), Some(owed)) = (absorbed_key(charge), owed) {
                    self.set(key, owed.state.to_string());
                }
            }
            if let Some(until) = settled.block {
                self.set(block_key(charge), until.as_millis().to_string());
            }
        }
        Ok(Verdict {
            address_block,
            ranges_version: self.text("blocked_ranges:version"),
            answers: settled.into_iter().map(|one| Some(one.answer)).collect(),
            states: (check.charges.iter())
                .map(|charge| self.state(charge))
                .collect(),
            degraded: false,
        })
    }
}

fn block_key(charge: &Charge) -> String {
    format!("{}:blocked", charge.key)
}

fn absorbed_key(charge: &Charge) -> Option<String> {
    let owed = charge.owed.as_ref()?;
    Some(format!("absorbed:{}", owed.name))
}

/// Whether there was anything to add.
fn absorbs(charge: &Charge, record: &Record, now: Timestamp) -> bool {
    let held = record.state.as_ref();
    let absorb = |owed: &Owed| charge.quota.absorb(held, &owed.state, now);
    charge.owed.as_ref().and_then(absorb).is_some()
}

/// A time as the script reads it: digits only, and not more than Lua's numbers hold.
fn time(text: &str) -> Option<Timestamp> {
    let digits = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit());
    let ms: u64 = text.parse().ok().filter(|_| digits)?;
    (ms <= 1 << 52).then(|| Timestamp::from_millis(ms))
}

#[tokio::test]
async fn conforms() {
    super::conformance::all(&Reference::default()).await;
}
