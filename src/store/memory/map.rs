//! The bounded map behind the memory store: what it holds per key, and what it forgets first.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::backlog::Unreconciled;
use crate::quota::{CLOCK_TOLERANCE, QuotaOutcome};
use crate::seed::Seed;
use crate::store::decide::{ChargeOutcome, Record, decide};
use crate::store::shared::Question;
use crate::store::{Charge, QuotaAnswer};
use crate::time::Timestamp;

/// What forgetting an entry would cost, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// Has room: by the share of its limit in use (in 255ths), then by the last touch.
    Room { share: u8, touched: u64 },
    /// Is limited or blocked until then.
    Limited { until: Timestamp },
}

pub(super) struct MapEntry {
    key: Rc<str>,
    record: Record,
    unreconciled: Option<Box<Unreconciled>>,
    expires: Timestamp,
    share: u8,
    worth: EvictionRank,
    indexed: Indexed,
}

/// Where an entry is in the two orders: at what it was when it came there, or below. Most requests
/// raise both, so an entry moves up when it comes first, not at each of them.
#[derive(Clone, Copy)]
struct Indexed {
    worth: EvictionRank,
    expires: Timestamp,
}

/// One charge, decided.
pub(super) struct DecidedCharge {
    pub(super) answer: QuotaAnswer,
    pub(super) leased: u32,
    /// What is to be held from now on.
    pub(super) record: Record,
}

pub(super) struct Map {
    most: usize,
    places: HashMap<Rc<str>, u32, Seed>,
    entries: Vec<Option<MapEntry>>,
    free: Vec<u32>,
    by_worth: BTreeSet<(EvictionRank, u32)>,
    by_expiry: BTreeSet<(Timestamp, u32)>,
    /// Entries with a backlog.
    unreconciled: BTreeSet<u32>,
    /// The place from which on they are reconciled.
    reconciles_from: u32,
    touches: u64,
}

impl Map {
    pub(super) fn new(entries: usize, seed: Seed) -> Self {
        Self {
            most: entries.max(1),
            places: HashMap::with_hasher(seed),
            entries: Vec::new(),
            free: Vec::new(),
            by_worth: BTreeSet::new(),
            by_expiry: BTreeSet::new(),
            unreconciled: BTreeSet::new(),
            reconciles_from: 0,
            touches: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// What is held under `key`, unless it has expired.
    pub(super) fn held(&self, key: &str, now: Timestamp) -> Option<&Record> {
        let place = self.places.get(key)?;
        let entry = self.entries.get(*place as usize)?.as_ref()?;
        (entry.expires > now).then_some(&entry.record)
    }

    /// What `question` comes to over what is held, charge by charge. Nothing is kept.
    pub(super) fn decide(&self, question: &Question<'_>, now: Timestamp) -> Vec<DecidedCharge> {
        let nothing = Record::default();
        let charges = &question.check.charges;
        let records: Vec<&Record> = charges
            .iter()
            .map(|charge| self.held(&charge.key, now).unwrap_or(&nothing))
            .collect();
        let rulings = decide(question, &records, false, now);
        let after = |(ruling, record): (ChargeOutcome, &Record)| DecidedCharge {
            answer: ruling.answer,
            leased: ruling.leased,
            record: Record {
                state: ruling.state.or_else(|| record.state.clone()),
                blocked_until: ruling.answer.blocked_until.or(record.blocked_until),
            },
        };
        rulings.into_iter().zip(records).map(after).collect()
    }

    /// Writes down what stands after `answer`. A denial changes no state, but the caller is limited
    /// from now on as far as eviction goes.
    pub(super) fn keep(
        &mut self,
        charge: &Charge,
        record: Record,
        answer: &QuotaAnswer,
        now: Timestamp,
    ) {
        if record.state.is_none() && record.blocked_until.is_none() {
            self.forget(&charge.key);
            return;
        }
        self.drop_expired(now);
        let known = self.places.get(charge.key.as_str()).copied();
        let unreconciled = self.unreconciled(&charge.key);
        let backlog_until = unreconciled.map(|backlog| backlog.until(now));
        self.touches += 1;
        let share = share_in_use(charge, answer);
        let worth = match limited_until(charge, &record, answer, now) {
            Some(until) => EvictionRank::Limited { until },
            None => EvictionRank::Room {
                share,
                touched: self.touches,
            },
        };
        // As long as in Redis: a clock that steps back a little finds the state still there.
        let whole = answer.decision.reset_at + CLOCK_TOLERANCE;
        let expires = whole
            .max(record.blocked_until.unwrap_or_default())
            .max(backlog_until.unwrap_or_default());
        match known {
            Some(place) => self.replace(place, record, expires, share, worth),
            None => self.put(
                MapEntry {
                    key: charge.key.as_str().into(),
                    record,
                    unreconciled: None,
                    expires,
                    share,
                    worth,
                    indexed: Indexed { worth, expires },
                },
                now,
            ),
        }
    }

    /// Writes an entry down in place of what it was.
    fn replace(
        &mut self,
        place: u32,
        record: Record,
        expires: Timestamp,
        share: u8,
        worth: EvictionRank,
    ) {
        let slot = self.entries.get_mut(place as usize);
        if let Some(entry) = slot.and_then(Option::as_mut) {
            if worth < entry.indexed.worth {
                self.by_worth.remove(&(entry.indexed.worth, place));
                self.by_worth.insert((worth, place));
                entry.indexed.worth = worth;
            }
            if expires < entry.indexed.expires {
                self.by_expiry.remove(&(entry.indexed.expires, place));
                self.by_expiry.insert((expires, place));
                entry.indexed.expires = expires;
            }
            entry.record = record;
            entry.expires = expires;
            entry.share = share;
            entry.worth = worth;
        }
    }

    /// Adds `cost` units, admitted at `at` without the shared store, to the backlog of a quota.
    pub(super) fn add_to_backlog(
        &mut self,
        charge: &Charge,
        cost: u32,
        at: Timestamp,
        namer: impl FnOnce() -> String,
    ) {
        let Some(place) = self.places.get(charge.key.as_str()).copied() else {
            return;
        };
        if let Some(entry) = self.entry(place) {
            let new = || Box::new(Unreconciled::new(charge.quota, charge.enforced));
            let unreconciled = entry.unreconciled.get_or_insert_with(new);
            unreconciled.add(cost, at, namer);
            // A bucket in memory may drain faster than the one in the shared store.
            entry.expires = entry.expires.max(unreconciled.until(at));
            self.unreconciled.insert(place);
        }
    }

    /// Whether any quota has a backlog.
    pub(super) fn has_backlog(&self) -> bool {
        !self.unreconciled.is_empty()
    }

    /// What of the quota under `key` the shared store has not counted.
    pub(super) fn unreconciled(&self, key: &str) -> Option<&Unreconciled> {
        let place = self.places.get(key).copied()?;
        let entry = self.entries.get(place as usize)?.as_ref()?;
        entry.unreconciled.as_deref()
    }

    /// The store has counted the whole backlog of the quota under `key`.
    pub(super) fn reconciled(&mut self, key: &str) {
        if let Some(place) = self.places.get(key).copied() {
            self.unreconciled.remove(&place);
            if let Some(entry) = self.entry(place) {
                entry.unreconciled = None;
            }
        }
    }

    /// Some of the quotas with a backlog, each as a charge.
    pub(super) fn next_to_reconcile(&mut self, most: usize, now: Timestamp) -> Vec<Charge> {
        self.drop_expired(now);
        let from = self.reconciles_from;
        let in_turn = (self.unreconciled.range(from..)).chain(self.unreconciled.range(..from));
        let entries = in_turn.filter_map(|place| {
            let entry = self.entries.get(*place as usize)?.as_ref()?;
            let unreconciled = entry.unreconciled.as_ref()?;
            Some(Charge {
                enforced: unreconciled.enforced,
                ..Charge::new(&*entry.key, unreconciled.quota)
            })
        });
        entries.take(most).collect()
    }

    /// The quota under `key` cannot be reconciled now: those behind it come first.
    pub(super) fn reconcile_behind(&mut self, key: &str) {
        if let Some(place) = self.places.get(key) {
            self.reconciles_from = place.saturating_add(1);
        }
    }

    pub(super) fn forget(&mut self, key: &str) {
        if let Some(place) = self.places.get(key).copied() {
            self.remove(place);
        }
    }

    fn entry(&mut self, place: u32) -> Option<&mut MapEntry> {
        self.entries.get_mut(place as usize)?.as_mut()
    }

    fn put(&mut self, entry: MapEntry, now: Timestamp) {
        while self.places.len() >= self.most {
            self.evict(now);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        self.by_worth.insert((entry.worth, place));
        self.by_expiry.insert((entry.expires, place));
        self.places.insert(Rc::clone(&entry.key), place);
        if let Some(slot) = self.entries.get_mut(place as usize) {
            *slot = Some(entry);
        }
    }

    fn remove(&mut self, place: u32) -> Option<MapEntry> {
        let entry = self.entries.get_mut(place as usize)?.take()?;
        self.places.remove(&entry.key);
        self.by_worth.remove(&(entry.indexed.worth, place));
        self.by_expiry.remove(&(entry.indexed.expires, place));
        self.unreconciled.remove(&place);
        self.free.push(place);
        Some(entry)
    }

    /// Expiry without timers: two entries, dropped or moved up, for each one that is written, so that
    /// no request pays for many, and a full map has room for one.
    fn drop_expired(&mut self, now: Timestamp) {
        for _ in 0..2 {
            let first = self.by_expiry.first().copied();
            let Some((indexed, place)) = first.filter(|(expires, _)| *expires <= now) else {
                break;
            };
            match self.entry(place) {
                Some(entry) if entry.expires > indexed => {
                    let expires = entry.expires;
                    entry.indexed.expires = expires;
                    self.by_expiry.remove(&(indexed, place));
                    self.by_expiry.insert((expires, place));
                }
                _ => drop(self.remove(place)),
            }
        }
    }

    fn evict(&mut self, now: Timestamp) {
        // Those whose limit has passed since have room again and take their place among the rest: some
        // of them at a time, for the same reason.
        let first_limited = (
            EvictionRank::Limited {
                until: Timestamp::default(),
            },
            0,
        );
        let released: Vec<u32> = self
            .by_worth
            .range(first_limited..)
            .take_while(
                |(worth, _)| matches!(worth, EvictionRank::Limited { until } if *until <= now),
            )
            .take(16)
            .map(|(_, place)| *place)
            .collect();
        for place in released {
            self.move_to_worth(place, now);
        }
        while let Some((_, place)) = self.by_worth.first().copied() {
            if !self.move_to_worth(place, now) {
                self.remove(place);
                break;
            }
        }
    }

    /// Puts an entry where it belongs among the rest by what it is worth now, and says whether it moved.
    fn move_to_worth(&mut self, place: u32, now: Timestamp) -> bool {
        let touched = self.touches;
        let Some(entry) = self.entry(place) else {
            return false;
        };
        if matches!(entry.worth, EvictionRank::Limited { until } if until <= now) {
            let share = entry.share;
            entry.worth = EvictionRank::Room { share, touched };
        }
        let (from, to) = (entry.indexed.worth, entry.worth);
        entry.indexed.worth = to;
        if from != to {
            self.by_worth.remove(&(from, place));
            self.by_worth.insert((to, place));
        }
        from != to
    }
}

/// The share of its limit that a caller has used, in 255ths.
fn share_in_use(charge: &Charge, answer: &QuotaAnswer) -> u8 {
    let capacity = charge.quota.capacity();
    let used = u64::from(capacity.saturating_sub(answer.decision.remaining));
    u8::try_from(used * 255 / u64::from(capacity)).unwrap_or(u8::MAX)
}

/// Until when a caller is limited, if it is now or by its next request. A shadow denies nobody, so
/// nothing is lost with it.
fn limited_until(
    charge: &Charge,
    record: &Record,
    answer: &QuotaAnswer,
    now: Timestamp,
) -> Option<Timestamp> {
    if !charge.enforced {
        return None;
    }
    if let Some(until) = answer.retry_at() {
        return Some(until);
    }
    if answer.decision.remaining > 0 {
        return None;
    }
    match charge
        .quota
        .decide(record.state.as_ref(), 1, now)
        .decision
        .outcome
    {
        QuotaOutcome::Denied { retry_at } => Some(retry_at),
        QuotaOutcome::Allowed | QuotaOutcome::Impossible => None,
    }
}

#[cfg(test)]
impl Map {
    /// Who is held, and until when it is limited, if it is.
    pub(super) fn limited_until(&self) -> HashMap<String, Option<Timestamp>> {
        let entries = self.entries.iter().flatten();
        entries
            .map(|entry| {
                let until = match entry.worth {
                    EvictionRank::Limited { until } => Some(until),
                    EvictionRank::Room { .. } => None,
                };
                (entry.key.to_string(), until)
            })
            .collect()
    }

    /// Whether all that knows an entry's place knows the same.
    pub(super) fn indexes_agree(&self) -> bool {
        let entries = self.entries.iter().flatten();
        let backlogs = entries.clone().filter(|entry| entry.unreconciled.is_some());
        let held = self.places.len();
        let indexed = |(place, slot): (usize, &Option<MapEntry>)| {
            slot.as_ref().is_none_or(|entry| {
                let (place, indexed) = (place as u32, entry.indexed);
                self.by_worth.contains(&(indexed.worth, place))
                    && self.by_expiry.contains(&(indexed.expires, place))
                    && indexed.worth <= entry.worth
                    && indexed.expires <= entry.expires
            })
        };
        self.entries.iter().enumerate().all(indexed)
            && [self.by_worth.len(), self.by_expiry.len(), entries.count()] == [held; 3]
            && backlogs.count() == self.unreconciled.len()
            && held + self.free.len() == self.entries.len()
    }
}
