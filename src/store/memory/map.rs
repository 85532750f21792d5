//! The bounded map of the memory store: the record of each key, and the order in which entries are evicted.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::backlog::QuotaBacklog;
use crate::quota::{CLOCK_TOLERANCE, QuotaOutcome};
use crate::seed::Seed;
use crate::store::decide::{ChargeOutcome, Record, decide};
use crate::store::shared::Question;
use crate::store::{Charge, QuotaAnswer};
use crate::time::Timestamp;

/// The order of eviction: the lowest rank goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// The caller is not limited. Ordered by the used share of its limit in 255ths, then by the latest use.
    Room { share: u8, touched: u64 },
    /// The caller is limited or blocked.
    Limited { until: Timestamp },
}

pub(super) struct MapEntry {
    key: Rc<str>,
    record: Record,
    backlog: Option<Box<QuotaBacklog>>,
    expires: Timestamp,
    share: u8,
    rank: EvictionRank,
    indexed: Indexed,
}

/// The rank and the expiry under which the two indexes have an entry. They are at most the entry's own. Most requests raise
/// both, so an entry is moved when it comes first in an index, not at each request.
#[derive(Clone, Copy)]
struct Indexed {
    rank: EvictionRank,
    expires: Timestamp,
}

/// One charge, decided.
pub(super) struct DecidedCharge {
    pub(super) answer: QuotaAnswer,
    pub(super) leased: u32,
    /// The record after the decision.
    pub(super) record: Record,
}

pub(super) struct Map {
    max_entries: usize,
    /// The place of each key in `entries`.
    places: HashMap<Rc<str>, u32, Seed>,
    entries: Vec<Option<MapEntry>>,
    /// Places without an entry.
    free: Vec<u32>,
    by_rank: BTreeSet<(EvictionRank, u32)>,
    by_expiry: BTreeSet<(Timestamp, u32)>,
    /// Places of entries with a backlog.
    backlogs: BTreeSet<u32>,
    /// The place at which the next reconciliation begins.
    reconcile_from: u32,
    /// The number of writes so far, by which entries are ordered in time.
    touches: u64,
}

impl Map {
    pub(super) fn new(entries: usize, seed: Seed) -> Self {
        Self {
            max_entries: entries.max(1),
            places: HashMap::with_hasher(seed),
            entries: Vec::new(),
            free: Vec::new(),
            by_rank: BTreeSet::new(),
            by_expiry: BTreeSet::new(),
            backlogs: BTreeSet::new(),
            reconcile_from: 0,
            touches: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The record of `key`, unless it has expired.
    pub(super) fn record(&self, key: &str, now: Timestamp) -> Option<&Record> {
        let place = self.places.get(key)?;
        let entry = self.entries.get(*place as usize)?.as_ref()?;
        (entry.expires > now).then_some(&entry.record)
    }

    /// Decides `question` over the records, charge by charge. It writes nothing.
    pub(super) fn decide(&self, question: &Question<'_>, now: Timestamp) -> Vec<DecidedCharge> {
        let empty = Record::default();
        let charges = &question.check.charges;
        let records: Vec<&Record> = charges
            .iter()
            .map(|charge| self.record(&charge.key, now).unwrap_or(&empty))
            .collect();
        let outcomes = decide(question, &records, false, now);
        let decided = |(outcome, record): (ChargeOutcome, &Record)| DecidedCharge {
            answer: outcome.answer,
            leased: outcome.leased,
            record: Record {
                state: outcome.state.or_else(|| record.state.clone()),
                blocked_until: outcome.answer.blocked_until.or(record.blocked_until),
            },
        };
        outcomes.into_iter().zip(records).map(decided).collect()
    }

    /// Writes the record after `answer`. A denial changes no state, but it raises the caller's rank.
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
        let backlog = self.backlog(&charge.key);
        let backlog_expires = backlog.map(|backlog| backlog.expires_at(now));
        self.touches += 1;
        let share = share_in_use(charge, answer);
        let rank = match limited_until(charge, &record, answer, now) {
            Some(until) => EvictionRank::Limited { until },
            None => EvictionRank::Room {
                share,
                touched: self.touches,
            },
        };
        // As long as in Redis, so that the state still exists if the clock steps back a little.
        let state_expires = answer.decision.reset_at + CLOCK_TOLERANCE;
        let expires = state_expires
            .max(record.blocked_until.unwrap_or_default())
            .max(backlog_expires.unwrap_or_default());
        match known {
            Some(place) => self.replace(place, record, expires, share, rank),
            None => self.put(
                MapEntry {
                    key: charge.key.as_str().into(),
                    record,
                    backlog: None,
                    expires,
                    share,
                    rank,
                    indexed: Indexed { rank, expires },
                },
                now,
            ),
        }
    }

    /// Replaces the contents of an entry.
    fn replace(
        &mut self,
        place: u32,
        record: Record,
        expires: Timestamp,
        share: u8,
        rank: EvictionRank,
    ) {
        let slot = self.entries.get_mut(place as usize);
        if let Some(entry) = slot.and_then(Option::as_mut) {
            if rank < entry.indexed.rank {
                self.by_rank.remove(&(entry.indexed.rank, place));
                self.by_rank.insert((rank, place));
                entry.indexed.rank = rank;
            }
            if expires < entry.indexed.expires {
                self.by_expiry.remove(&(entry.indexed.expires, place));
                self.by_expiry.insert((expires, place));
                entry.indexed.expires = expires;
            }
            entry.record = record;
            entry.expires = expires;
            entry.share = share;
            entry.rank = rank;
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
            let new = || Box::new(QuotaBacklog::new(charge.quota, charge.enforced));
            let backlog = entry.backlog.get_or_insert_with(new);
            backlog.add(cost, at, namer);
            // A bucket in memory may drain faster than the one in the shared store.
            entry.expires = entry.expires.max(backlog.expires_at(at));
            self.backlogs.insert(place);
        }
    }

    /// Whether any quota has a backlog.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlogs.is_empty()
    }

    /// The backlog of the quota under `key`, if there is one.
    pub(super) fn backlog(&self, key: &str) -> Option<&QuotaBacklog> {
        let place = self.places.get(key).copied()?;
        let entry = self.entries.get(place as usize)?.as_ref()?;
        entry.backlog.as_deref()
    }

    /// Removes the backlog of the quota under `key`, which the store has counted.
    pub(super) fn remove_backlog(&mut self, key: &str) {
        if let Some(place) = self.places.get(key).copied() {
            self.backlogs.remove(&place);
            if let Some(entry) = self.entry(place) {
                entry.backlog = None;
            }
        }
    }

    /// At most `max_quotas` of the quotas with a backlog, each as a charge.
    pub(super) fn next_to_reconcile(&mut self, max_quotas: usize, now: Timestamp) -> Vec<Charge> {
        self.drop_expired(now);
        let from = self.reconcile_from;
        let in_turn = (self.backlogs.range(from..)).chain(self.backlogs.range(..from));
        let entries = in_turn.filter_map(|place| {
            let entry = self.entries.get(*place as usize)?.as_ref()?;
            let backlog = entry.backlog.as_ref()?;
            Some(Charge {
                enforced: backlog.enforced,
                ..Charge::new(&*entry.key, backlog.quota)
            })
        });
        entries.take(max_quotas).collect()
    }

    /// Begins the next reconciliation behind the quota under `key`, whose reconciliation failed.
    pub(super) fn reconcile_behind(&mut self, key: &str) {
        if let Some(place) = self.places.get(key) {
            self.reconcile_from = place.saturating_add(1);
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
        while self.places.len() >= self.max_entries {
            self.evict(now);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        self.by_rank.insert((entry.rank, place));
        self.by_expiry.insert((entry.expires, place));
        self.places.insert(Rc::clone(&entry.key), place);
        if let Some(slot) = self.entries.get_mut(place as usize) {
            *slot = Some(entry);
        }
    }

    fn remove(&mut self, place: u32) -> Option<MapEntry> {
        let entry = self.entries.get_mut(place as usize)?.take()?;
        self.places.remove(&entry.key);
        self.by_rank.remove(&(entry.indexed.rank, place));
        self.by_expiry.remove(&(entry.indexed.expires, place));
        self.backlogs.remove(&place);
        self.free.push(place);
        Some(entry)
    }

    /// Drops expired entries without timers: each write looks at two, and drops them or moves them up in the index. So
    /// no request pays for many, and a full map has room for the new entry.
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

    /// Evicts the entry of the lowest rank.
    fn evict(&mut self, now: Timestamp) {
        // First correct the ranks of callers that are no longer limited: a few at a time, so that no request pays for many.
        let first_limited = (
            EvictionRank::Limited {
                until: Timestamp::default(),
            },
            0,
        );
        let released: Vec<u32> = self
            .by_rank
            .range(first_limited..)
            .take_while(
                |(rank, _)| matches!(rank, EvictionRank::Limited { until } if *until <= now),
            )
            .take(16)
            .map(|(_, place)| *place)
            .collect();
        for place in released {
            self.update_rank(place, now);
        }
        while let Some((_, place)) = self.by_rank.first().copied() {
            if !self.update_rank(place, now) {
                self.remove(place);
                break;
            }
        }
    }

    /// Indexes an entry under its rank at `now`, and returns whether that changed.
    fn update_rank(&mut self, place: u32, now: Timestamp) -> bool {
        let touched = self.touches;
        let Some(entry) = self.entry(place) else {
            return false;
        };
        if matches!(entry.rank, EvictionRank::Limited { until } if until <= now) {
            let share = entry.share;
            entry.rank = EvictionRank::Room { share, touched };
        }
        let (from, to) = (entry.indexed.rank, entry.rank);
        entry.indexed.rank = to;
        if from != to {
            self.by_rank.remove(&(from, place));
            self.by_rank.insert((to, place));
        }
        from != to
    }
}

/// The used share of a caller's limit, in 255ths.
fn share_in_use(charge: &Charge, answer: &QuotaAnswer) -> u8 {
    let capacity = charge.quota.capacity();
    let used = u64::from(capacity.saturating_sub(answer.decision.remaining));
    u8::try_from(used * 255 / u64::from(capacity)).unwrap_or(u8::MAX)
}

/// Until when a caller is limited, if this request or its next one is denied. A shadow quota never limits: it denies nobody,
/// so evicting it loses nothing.
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
    /// The keys of the map, each with the time until which its caller is limited, if it is.
    pub(super) fn limited_until(&self) -> HashMap<String, Option<Timestamp>> {
        let entries = self.entries.iter().flatten();
        entries
            .map(|entry| {
                let until = match entry.rank {
                    EvictionRank::Limited { until } => Some(until),
                    EvictionRank::Room { .. } => None,
                };
                (entry.key.to_string(), until)
            })
            .collect()
    }

    /// Whether the indexes and the entries agree.
    pub(super) fn indexes_agree(&self) -> bool {
        let entries = self.entries.iter().flatten();
        let backlogs = entries.clone().filter(|entry| entry.backlog.is_some());
        let count = self.places.len();
        let indexed = |(place, slot): (usize, &Option<MapEntry>)| {
            slot.as_ref().is_none_or(|entry| {
                let (place, indexed) = (place as u32, entry.indexed);
                self.by_rank.contains(&(indexed.rank, place))
                    && self.by_expiry.contains(&(indexed.expires, place))
                    && indexed.rank <= entry.rank
                    && indexed.expires <= entry.expires
            })
        };
        self.entries.iter().enumerate().all(indexed)
            && [self.by_rank.len(), self.by_expiry.len(), entries.count()] == [count; 3]
            && backlogs.count() == self.backlogs.len()
            && count + self.free.len() == self.entries.len()
    }
}
