//! Counts in Redis: a list to which isolates append batches, and the totals and charts into which a fold adds them.
//!
//! A fold reads the list, the totals and the buckets, and writes them back in one step. The step does nothing if the list
//! no longer begins with the same batch, so two folds at once add nothing twice. A reader of the totals adds the batches
//! in the list, also in one step, so that a total never falls.

use std::pin::Pin;

use serde_json::{Map, Value, json};

use super::CounterSet;
use super::gauges::Gauges;
use super::peaks::USAGE;
use crate::blocklist::{GuardedCommands, VersionChange};
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, number_of, texts};
use crate::time::Timestamp;

/// The most batches that one fold adds.
const MAX_FOLDED: usize = 200;

/// The length of the list, in batches, from which on isolates fold it themselves.
const FOLD_FROM_BATCHES: u64 = 60;
/// The number of further batches after which they fold it again.
const FOLD_EVERY_BATCHES: u64 = 20;

/// The length of the list, in batches, from which on isolates keep their counts until the list is folded.
pub(super) const MAX_PENDING: u64 = 2000;

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How long totals are kept after the last fold.
const TOTALS_KEPT_MS: u64 = 450 * DAY_MS;

/// How long a list is kept that nobody folds: a week.
const PENDING_KEPT_MS: u64 = 7 * DAY_MS;

/// The most that a batch's clock may differ from the reader's. Beyond it, charts use the reader's clock.
const MAX_SKEW_MS: u64 = HOUR_MS;

/// What an isolate has counted since the batch before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountBatch {
    /// The isolate's name, and the number of the batch in that isolate.
    id: String,
    /// The number of this attempt at sending the batch, from 1.
    attempt: u64,
    /// When the batch was made, in ms since the epoch, on the isolate's clock.
    at: u64,
    counts: CounterSet,
}

impl CountBatch {
    /// Creates the batch with that `number` of an isolate.
    #[must_use]
    pub fn new(isolate: &str, number: u64, now: Timestamp, counts: CounterSet) -> Self {
        Self {
            id: format!("{isolate}-{number}"),
            attempt: 1,
            at: now.as_millis(),
            counts,
        }
    }

    fn text(&self) -> String {
        let counts = self.counts.clone().into_value();
        json!({"id": self.id, "attempt": self.attempt, "at": self.at, "counts": counts}).to_string()
    }

    /// Reads a batch. `None`: the text is no batch.
    fn read(text: &str) -> Option<Self> {
        let mut value = json::value(text)?;
        let counts = value.get_mut("counts")?.take();
        Some(Self {
            id: value["id"].as_str()?.to_owned(),
            attempt: value["attempt"].as_u64()?,
            at: value["at"].as_u64()?,
            counts: CounterSet::of_value(counts),
        })
    }

    /// The moment at which charts show the batch, in ms since the epoch. If the isolate's clock is far off, that is now.
    fn charted_at(&self, now: Timestamp) -> u64 {
        match self.at.abs_diff(now.as_millis()) {
            ..=MAX_SKEW_MS => self.at,
            _ => now.as_millis(),
        }
    }

    /// Returns the batch for the next attempt.
    #[must_use]
    pub fn again(self) -> Self {
        Self {
            attempt: self.attempt + 1,
            ..self
        }
    }
}

/// The width of a chart's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketWidth {
    /// One minute. Buckets are kept for a day.
    Minute,
    /// One hour. Buckets are kept for 32 days.
    Hour,
    /// One day. Buckets are kept for 15 months.
    Day,
}

impl BucketWidth {
    const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Returns the width of a bucket, in ms.
    #[must_use]
    pub const fn ms(self) -> u64 {
        match self {
            Self::Minute => MINUTE_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// The number of buckets in one key.
    const fn per_key(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::Day => 30,
        }
    }

    /// Returns how many buckets are kept.
    #[must_use]
    pub const fn kept(self) -> u64 {
        match self {
            Self::Minute => 24 * 60,
            Self::Hour => 32 * 24,
            Self::Day => 456,
        }
    }

    const fn key(self, number: u64) -> RedisKey<'static> {
        match self {
            Self::Minute => RedisKey::MinuteCounts(number),
            Self::Hour => RedisKey::HourCounts(number),
            Self::Day => RedisKey::DayCounts(number),
        }
    }

    /// The key that has the bucket with that number.
    const fn key_of(self, bucket: u64) -> RedisKey<'static> {
        self.key(bucket / self.per_key())
    }

    const fn expiry_ms(self) -> u64 {
        (self.kept() + 2 * self.per_key()) * self.ms()
    }
}

/// Returns the width and the number of a chart's buckets, by the chart's name (`hour`, `day` or `month`). `None`: there is
/// no such chart.
#[must_use]
pub fn window(name: &str) -> Option<(BucketWidth, u64)> {
    Some(match name {
        "hour" => (BucketWidth::Minute, 60),
        "day" => (BucketWidth::Hour, 24),
        "month" => (BucketWidth::Day, 30),
        _ => return None,
    })
}

/// The number of blocks in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockedNow {
    /// Blocked addresses.
    pub addresses: u64,
    /// Blocked ranges.
    pub ranges: u64,
    /// Callers that a policy blocks, counted once for each policy.
    pub policies: u64,
}

/// All counts and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// The totals of all counters.
    pub counts: CounterSet,
    /// The number of blocks in force.
    pub blocked: BlockedNow,
    /// The gauges. `None`: the schedule gathered none in the last hour.
    pub gauges: Option<Gauges>,
}

/// The buckets of a chart: each bucket's number, counted from the epoch, and its counts.
pub type Buckets = Vec<(u64, CounterSet)>;

/// A future of the number of batches that a fold adds.
pub type Folding<'a> = Pin<Box<dyn Future<Output = Result<usize, StoreError>> + 'a>>;

/// Whether the isolate that has appended the batch with this number in the list folds the list.
pub(super) const fn is_fold_due(pending: u64) -> bool {
    pending >= FOLD_FROM_BATCHES && pending.is_multiple_of(FOLD_EVERY_BATCHES)
}

impl<D: Database> Records<D> {
    /// Appends a batch to the list, and returns how many batches are in it. It costs one command, and another for the first
    /// batch of a list, to set the list's expiry.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database. The batch may have been appended nevertheless.
    pub async fn append_counts(
        &self,
        batch: &CountBatch,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let text = batch.text();
        self.prepay(1, now)?;
        let append = command(["RPUSH", &self.key(RedisKey::PendingCounts), &text]);
        let appended = self.run([append], now).await;
        if let Some(budget) = self.budget() {
            budget.forget_prepaid();
        }
        let [pending] = appended?;
        let pending = number_of(&pending);
        if pending == 1 {
            let expiry = PENDING_KEPT_MS.to_string();
            let expire = command(["PEXPIRE", &self.key(RedisKey::PendingCounts), &expiry]);
            // The batch has been appended even if this fails.
            let _ = self.run([expire], now).await;
        }
        Ok(pending)
    }

    /// Reads the totals with the batches in the list, the number of blocks, and the gauges. It costs five commands.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn overview(&self, now: Timestamp) -> Result<Overview, StoreError> {
        let after = format!("({}", now.as_millis());
        let listed = |key| command(["ZCOUNT", &self.key(key), &after, "+inf"]);
        let commands = [
            self.pending(),
            command([
                "MGET",
                &self.key(RedisKey::TotalCounts),
                &self.key(RedisKey::Gauges),
            ]),
            listed(RedisKey::BlockedAddresses),
            command(["HLEN", &self.key(RedisKey::BlockedRanges)]),
            listed(RedisKey::BlockedPolicies),
        ];
        let [pending, stored, addresses, fields, policies] = self.run(commands, now).await?;
        let mut counts = CounterSet::read(&stored[0]);
        for batch in batches(&texts(&pending)) {
            counts.add_all(&batch.counts);
        }
        counts.remove_of(USAGE);
        let blocked = BlockedNow {
            addresses: number_of(&addresses),
            // One field is the version of the ranges.
            ranges: number_of(&fields).saturating_sub(1),
            policies: number_of(&policies),
        };
        Ok(Overview {
            counts,
            blocked,
            gauges: Gauges::read(&stored[1]),
        })
    }

    /// Adds the batches in the list to the totals and the buckets, and returns how many batches that were. It is 0 if the
    /// list is empty or another fold was faster.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database. No count is lost.
    pub fn fold_counts(&self, now: Timestamp) -> Folding<'_> {
        // Boxed, so that the futures of its callers stay small.
        Box::pin(self.fold(now))
    }

    async fn fold(&self, now: Timestamp) -> Result<usize, StoreError> {
        let pending_key = self.key(RedisKey::PendingCounts);
        let totals_key = self.key(RedisKey::TotalCounts);
        let commands = [
            command(["LRANGE", &pending_key, "0", &(MAX_FOLDED - 1).to_string()]),
            // `MGET` reads a value of another type as nothing, where `GET` would fail. The fold then replaces it.
            command(["MGET", &totals_key]),
        ];
        let [pending, totals] = self.run(commands, now).await?;
        let pending = texts(&pending);
        let Some(first) = pending.first() else {
            return Ok(0);
        };
        let mut totals = CounterSet::read(&totals[0]);
        let mut new: Vec<(BucketWidth, u64, CounterSet)> = Vec::new();
        for batch in batches(&pending) {
            totals.add_all(&batch.counts);
            let charted = charted(&batch.counts);
            let at = batch.charted_at(now);
            for width in BucketWidth::ALL {
                let bucket = at / width.ms();
                let mut known = new.iter_mut();
                match known.find(|(of, number, _)| (*of, *number) == (width, bucket)) {
                    Some((_, _, series)) => series.add_all(&charted),
                    None => new.push((width, bucket, charted.clone())),
                }
            }
        }
        // Only charts show how much of their limits callers use.
        totals.remove_of(USAGE);
        let mut keys: Vec<(BucketWidth, String)> = Vec::new();
        for (width, bucket, _) in &new {
            let key = self.key(width.key_of(*bucket));
            if !keys.iter().any(|(_, known)| *known == key) {
                keys.push((*width, key));
            }
        }
        let names = keys.iter().map(|(_, key)| key.clone()).collect();
        let [stored] = self.run([read_all(names)], now).await?;
        let mut stored = read_buckets(&stored);
        for (width, bucket, counts) in &new {
            let key = self.key(width.key_of(*bucket));
            let place = keys.iter().position(|(_, known)| *known == key);
            if let Some(buckets) = place.and_then(|place| stored.get_mut(place)) {
                let name = bucket.to_string();
                let known = buckets.remove(&name).unwrap_or_default();
                let mut sum = CounterSet::of_value(known);
                sum.add_all(counts);
                buckets.insert(name, sum.into_value());
            }
        }
        let set = |key: &str, value: Value, expiry_ms: u64| {
            let text = value.to_string();
            command(["SET", key, &text, "PX", &expiry_ms.to_string()])
        };
        let mut writes = vec![set(&totals_key, totals.into_value(), TOTALS_KEPT_MS)];
        for ((width, key), buckets) in keys.iter().zip(stored) {
            writes.push(set(key, Value::Object(buckets), width.expiry_ms()));
        }
        let folded = pending.len().to_string();
        writes.push(command(["LTRIM", &pending_key, &folded, "-1"]));
        let head = command(["LRANGE", &pending_key, "0", "0"]);
        let step =
            GuardedCommands::new(writes, VersionChange::Nothing).only_if_still(head, Some(first));
        let outcome = self.change(vec![step], now).await?;
        let is_done = outcome.iter().all(Option::is_some);
        Ok(if is_done { pending.len() } else { 0 })
    }

    /// Reads the latest `most` buckets of a chart, the current one included, with the batches in the list. It costs two
    /// commands.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn chart(
        &self,
        width: BucketWidth,
        most: u64,
        now: Timestamp,
    ) -> Result<Buckets, StoreError> {
        let current = now.as_millis() / width.ms();
        let first = (current + 1).saturating_sub(most.min(width.kept()));
        let keys = (first / width.per_key())..=(current / width.per_key());
        let keys: Vec<String> = keys.map(|number| self.key(width.key(number))).collect();
        let mut all = Buckets::new();
        let [pending, stored] = self.run([self.pending(), read_all(keys)], now).await?;
        for buckets in read_buckets(&stored) {
            for (bucket, counts) in buckets {
                let bucket: u64 = bucket.parse().unwrap_or_default();
                if (first..=current).contains(&bucket) {
                    all.push((bucket, CounterSet::of_value(counts)));
                }
            }
        }
        for batch in batches(&texts(&pending)) {
            let bucket = batch.charted_at(now) / width.ms();
            let counts = charted(&batch.counts);
            match all.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, known)) => known.add_all(&counts),
                None if (first..=current).contains(&bucket) => all.push((bucket, counts)),
                None => {}
            }
        }
        all.sort_unstable_by_key(|(bucket, _)| *bucket);
        Ok(all)
    }

    /// The command that reads the batches that no fold has added yet.
    fn pending(&self) -> Command {
        let last = (MAX_PENDING - 1).to_string();
        command(["LRANGE", &self.key(RedisKey::PendingCounts), "0", &last])
    }
}

fn read_all(mut keys: Vec<String>) -> Command {
    keys.insert(0, "MGET".to_owned());
    keys
}

/// The buckets under each key, by their number.
fn read_buckets(stored: &Value) -> Vec<Map<String, Value>> {
    let stored = stored.as_array().map(Vec::as_slice).unwrap_or_default();
    let read = |text: &Value| match json::value(text.as_str()?)? {
        Value::Object(buckets) => Some(buckets),
        _ => None,
    };
    stored
        .iter()
        .map(|it| read(it).unwrap_or_default())
        .collect()
}

/// The batches in a list. A batch that was sent several times is returned once. A text that is no batch is skipped.
fn batches(texts: &[&str]) -> Vec<CountBatch> {
    let mut all: Vec<CountBatch> = texts.iter().filter_map(|it| CountBatch::read(it)).collect();
    let again = all.iter().filter(|batch| batch.attempt > 1);
    let mut sent_again: Vec<(String, bool)> =
        again.map(|batch| (batch.id.clone(), false)).collect();
    all.retain(|batch| {
        let known = sent_again.iter_mut().find(|(id, _)| *id == batch.id);
        // Of several entries with the same id, the first is kept.
        known.is_none_or(|(_, seen)| !std::mem::replace(seen, true))
    });
    all
}

/// The counts that charts show: requests by outcome without routes, and decisions by policy, and separately by source.
fn charted(counts: &CounterSet) -> CounterSet {
    let mut charted = CounterSet::default();
    for (rest, count) in counts.of("requests") {
        let outcome = rest.split(' ').next().unwrap_or_default();
        charted.add(&["requests", outcome], count);
    }
    for (rest, count) in counts.of("decisions") {
        let mut words = rest.splitn(3, ' ');
        if let (Some(decision), Some(source), Some(policy)) =
            (words.next(), words.next(), words.next())
        {
            charted.add(&["policies", policy, decision], count);
            charted.add(&["sources", source], count);
        }
    }
    for (result, count) in counts.of("calls") {
        let result = if result == "ok" { result } else { "failed" };
        charted.add(&["calls", result], count);
    }
    for (rest, count) in counts.of(USAGE) {
        charted.add(&[USAGE, rest], count);
    }
    for name in ["took_ms", "commands"] {
        charted.add(&[name], counts.get(name));
    }
    charted
}
