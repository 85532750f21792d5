//! Metrics: what an isolate counts of requests, decisions and calls of Redis, for operators to graph.
//!
//! An isolate counts in [`Metrics`], and appends what it has counted since the last time to a list in Redis,
//! one command every some seconds and none while it is idle. A [fold](records) adds what is in the list to
//! totals, which never fall, and to the buckets of charts. What an isolate has not sent when it is evicted is
//! lost; what it sent with an answer that was lost may count twice.

use std::cell::{Cell, RefCell};

use crate::config::Config;
use crate::effects::Effects;
use crate::gate::{QuotaStatus, Report};
use crate::redis::Database;
use crate::redis::records::Records;
use crate::redis::rest::CallStats;
use crate::seed::Seed;
use crate::store::Source;
use crate::store::breaker::Transitions;
use crate::time::{Deadline, Millis, Timestamp};

pub mod exposition;
pub mod gauges;
mod peaks;
pub mod records;
mod series;
#[cfg(test)]
mod tests;

pub use peaks::TENTHS;
pub use series::Series;

use peaks::Peaks;
use records::{CountBatch, MAX_PENDING};

/// The longest that a task of the platform sleeps before it sends: 30 s after the response it ends.
const MAX_SLEEP: Millis = Millis::from_secs(20);

/// How long one who sends keeps others from it, should it never report.
const SENDING: Millis = Millis::from_secs(60);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It went ahead.
    Admitted,
    /// A quota denied it.
    Denied,
    /// A block denied it: of its address, or by a policy.
    Blocked,
    /// No quota was asked: allow-list, bypass token, or `RATE_LIMIT_ENABLED = false`.
    Exempt,
    /// The shared store did not decide, and a policy says `deny`.
    Unavailable,
}

impl RequestOutcome {
    const ALL: [Self; 5] = [
        Self::Admitted,
        Self::Denied,
        Self::Blocked,
        Self::Exempt,
        Self::Unavailable,
    ];

    /// Its name in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Denied => "denied",
            Self::Blocked => "blocked",
            Self::Exempt => "exempt",
            Self::Unavailable => "unavailable",
        }
    }

    /// Of a request that was decided.
    fn of(report: &Report) -> Self {
        if report.admitted {
            return match report.exempt {
                None => Self::Admitted,
                Some(_) => Self::Exempt,
            };
        }
        let blocks = |standing: &QuotaStatus| standing.answer.blocked_until.is_some();
        match report.address_block.is_some() || report.binding().is_some_and(blocks) {
            true => Self::Blocked,
            false => Self::Denied,
        }
    }
}

/// What a quota said of a request, by the names of labels.
const DECISIONS: [&str; 4] = ["admitted", "denied", "blocked", "shadow_denied"];

/// What a check is counted under in place of a route, and what a request is where no route's pattern is known.
const CHECK: &str = "check";
const OTHER: &str = "other";

/// What requests are counted under: the routes' patterns, by their place, and then these two.
fn routes(config: &Config) -> impl Iterator<Item = &str> {
    config.routes.patterns().chain([CHECK, OTHER])
}

/// Commands that are sent though no request was counted since: those of the control plane, and of the schedule.
const COMMANDS_UNSENT: u64 = 50;

/// What an isolate has counted since it began.
#[derive(Default)]
struct Counts {
    /// By [`routes`] and outcome.
    requests: Vec<[u64; RequestOutcome::ALL.len()]>,
    /// By policy, decision and source.
    decisions: Vec<[[u64; Source::ALL.len()]; DECISIONS.len()]>,
    /// By policy.
    peaks: Vec<Peaks>,
}

/// What has been sent of what was counted.
#[derive(Default)]
struct Outbox {
    sent: Series,
    /// A batch without an answer: it is sent again as it was.
    unanswered: Option<CountBatch>,
    batches: u64,
    /// Requests and commands in the latest batch and those before it.
    requests: u64,
    commands: u64,
}

/// An isolate's counters.
pub struct Metrics {
    /// How long counts wait before they are sent; `None`: nothing is counted.
    every: Option<Millis>,
    isolate: String,
    routes: Vec<String>,
    policies: Vec<String>,
    counts: RefCell<Counts>,
    outbox: RefCell<Outbox>,
    /// Requests that were counted, and how many of them when counts were sent last.
    requests: Cell<u64>,
    requests_sent: Cell<u64>,
    /// Commands of Redis when counts were sent last.
    commands_sent: Cell<u64>,
    /// When the oldest count that is not sent was made.
    since: Cell<Option<Timestamp>>,
    sending: Cell<Deadline>,
    /// Batches in the list when it was appended to last.
    pending: Cell<u64>,
}

/// What else of an isolate is sent with its counts.
#[derive(Clone, Debug, Default)]
pub struct StoreCounts {
    /// Calls of Redis.
    pub calls: CallStats,
    /// Commands that the plan bills, at most.
    pub commands: u64,
    /// The breaker's.
    pub transitions: Transitions,
    /// Events that no record holds.
    pub left_out: u64,
}

impl Metrics {
    /// Counts by the routes and policies of `config`. Nothing has been counted yet.
    #[must_use]
    pub fn new(config: &Config, seed: &Seed) -> Self {
        let routes: Vec<String> = routes(config).map(str::to_owned).collect();
        let policies = config.policies.iter().map(|policy| policy.name.clone());
        let policies: Vec<String> = policies.collect();
        // Without randomness, the counts of several isolates would be taken for one that sends twice.
        let bits = Seed::random_bits();
        Self {
            every: config.metrics.filter(|_| bits.is_ok()),
            isolate: format!("{:016x}", bits.unwrap_or_default()),
            counts: RefCell::new(Counts {
                requests: vec![Default::default(); routes.len()],
                decisions: vec![Default::default(); policies.len()],
                peaks: (config.policies.iter())
                    .map(|policy| Peaks::new(&policy.quota, seed.clone()))
                    .collect(),
            }),
            routes,
            policies,
            outbox: RefCell::default(),
            requests: Cell::default(),
            requests_sent: Cell::default(),
            commands_sent: Cell::default(),
            since: Cell::default(),
            sending: Cell::default(),
            pending: Cell::default(),
        }
    }

    /// The isolate's name: random, and the same for as long as it counts.
    #[must_use]
    pub fn isolate(&self) -> &str {
        &self.isolate
    }

    /// Whether anything is counted.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.every.is_some()
    }

    /// Counts a request that was decided, and what each quota said of it.
    pub fn count(&self, report: &Report, now: Timestamp) {
        if !self.is_on() {
            return;
        }
        self.count_request(report.route, RequestOutcome::of(report));
        for standing in &report.enforced {
            self.count_decision(standing, true, report.source, now);
        }
        for standing in &report.shadow {
            self.count_decision(standing, false, report.source, now);
        }
    }

    /// Counts what a quota said, which is `enforced` or in shadow mode.
    pub fn count_decision(
        &self,
        standing: &QuotaStatus,
        enforced: bool,
        source: Source,
        now: Timestamp,
    ) {
        if !self.is_on() {
            return;
        }
        let decision = match &standing.answer {
            answer if answer.allows() => 0,
            _ if !enforced => 3,
            answer => 1 + usize::from(answer.blocked_until.is_some()),
        };
        let Some(place) = self.policies.iter().position(|it| *it == standing.policy) else {
            return;
        };
        let counts = &mut *self.counts.borrow_mut();
        if let Some(policy) = counts.decisions.get_mut(place) {
            policy[decision][source as usize] += 1;
        }
        if let Some(peaks) = counts.peaks.get_mut(place) {
            let limit = standing.quota.capacity();
            let used = limit.saturating_sub(standing.answer.decision.remaining);
            peaks.record(standing.charged, used, limit, now);
        }
    }

    /// Counts a check of another server.
    pub fn count_check(&self, outcome: RequestOutcome) {
        // Beside the last, which are requests of no route.
        self.count_request(self.routes.len().checked_sub(2), outcome);
    }

    /// Counts a request of a route, by its place, that became of it what `outcome` says.
    pub fn count_request(&self, route: Option<usize>, outcome: RequestOutcome) {
        if !self.is_on() {
            return;
        }
        let counts = &mut self.counts.borrow_mut().requests;
        let place = route.unwrap_or(usize::MAX).min(counts.len() - 1);
        counts[place][outcome as usize] += 1;
        self.requests.set(self.requests.get() + 1);
    }

    fn is_waiting(&self) -> bool {
        self.requests.get() != self.requests_sent.get()
    }

    /// Whether counts are waiting to be sent and nobody is at it; `commands`: how many this isolate has sent. If so, the one
    /// who asked is: call [`send_later`](Self::send_later).
    #[must_use]
    pub fn should_send(&self, commands: u64, now: Timestamp) -> bool {
        let unsent = commands.saturating_sub(self.commands_sent.get());
        let waiting = self.is_waiting() || self.is_on() && unsent >= COMMANDS_UNSENT;
        if !waiting || self.sending.get().is_pending(now) {
            return false;
        }
        self.since.set(self.since.get().or(Some(now)));
        self.sending.set(Deadline::after(SENDING, now));
        true
    }

    /// Sends what is counted once it has waited long enough, or no more requests come. Where that is longer than a
    /// task may sleep, it is left to a later one, and so it is where `store` says nothing: the store does not answer.
    pub async fn send_later<D: Database>(
        &self,
        records: &Records<D>,
        effects: &impl Effects,
        store: impl Fn() -> Option<StoreCounts>,
    ) {
        let begun = effects.now();
        let waited = begun.since(self.since.get().unwrap_or(begun));
        let left = self.every.unwrap_or_default().get();
        let left = Millis::new(left.saturating_sub(waited.get()));
        let before = self.requests.get();
        effects.sleep(left.min(MAX_SLEEP)).await;
        if left > MAX_SLEEP && self.requests.get() != before {
            self.sending.set(Deadline::OVER);
            return;
        }
        match store() {
            Some(store) => self.send(records, &store, effects.now()).await,
            None => self.pause(effects.now()),
        }
    }

    /// Sends what is counted. What cannot be sent is kept for the next time.
    pub async fn send<D: Database>(
        &self,
        records: &Records<D>,
        store: &StoreCounts,
        now: Timestamp,
    ) {
        if self.pending.get() >= MAX_PENDING {
            match records.fold_counts(now).await {
                Ok(0) => {
                    // Another has folded it, or it is gone: the next attempt finds out how long it is.
                    self.pending.set(MAX_PENDING - 1);
                    return self.pause(now);
                }
                Ok(folded) => self
                    .pending
                    .set(self.pending.get().saturating_sub(folded as u64)),
                Err(_) => return self.pause(now),
            }
        }
        // What had no answer, and then what was counted since.
        for _ in 0..2 {
            let Some(batch) = self.next_batch(store, now) else {
                break;
            };
            let Ok(pending) = records.append_counts(&batch, now).await else {
                return self.pause(now);
            };
            self.pending.set(pending);
            let outbox = &mut *self.outbox.borrow_mut();
            outbox.unanswered = None;
            self.requests_sent.set(outbox.requests);
            self.commands_sent.set(outbox.commands);
            if !self.is_waiting() {
                break;
            }
        }
        self.since.set(None);
        self.sending.set(Deadline::OVER);
        if records::is_fold_due(self.pending.get()) {
            // A list that nobody folds is folded by who finds it long.
            let _ = records.fold_counts(now).await;
        }
    }

    /// The next attempt is not made at the next request.
    fn pause(&self, now: Timestamp) {
        let pause = self.every.unwrap_or(SENDING);
        self.sending.set(Deadline::after(pause, now));
    }

    /// What is to be sent: the batch that got no answer, as another attempt, or what was counted since.
    fn next_batch(&self, store: &StoreCounts, now: Timestamp) -> Option<CountBatch> {
        let outbox = &mut *self.outbox.borrow_mut();
        let batch = match outbox.unanswered.take() {
            Some(batch) => batch.again(),
            None => {
                let counted = self.snapshot(store, now);
                let new = counted.since(&outbox.sent);
                if new.is_empty() {
                    return None;
                }
                outbox.sent = counted;
                outbox.batches += 1;
                outbox.requests = self.requests.get();
                outbox.commands = store.commands;
                CountBatch::new(&self.isolate, outbox.batches, now, new)
            }
        };
        outbox.unanswered = Some(batch.clone());
        Some(batch)
    }

    /// All that this isolate has counted.
    fn snapshot(&self, store: &StoreCounts, now: Timestamp) -> Series {
        let counts = &mut *self.counts.borrow_mut();
        let mut series = Series::default();
        for (route, outcomes) in self.routes.iter().zip(&counts.requests) {
            for (outcome, count) in RequestOutcome::ALL.iter().zip(outcomes) {
                series.add(&["requests", outcome.name(), route], *count);
            }
        }
        for (policy, decisions) in self.policies.iter().zip(&counts.decisions) {
            for (decision, sources) in DECISIONS.iter().zip(decisions) {
                for (source, count) in Source::ALL.iter().zip(sources) {
                    series.add(&["decisions", decision, source.name(), policy], *count);
                }
            }
        }
        for (policy, peaks) in self.policies.iter().zip(&mut counts.peaks) {
            peaks.end_window(now);
            peaks.add_to(&mut series, policy);
        }
        series.add(&["left_out"], store.left_out);
        series.add(&["commands"], store.commands);
        for (result, count) in store.calls.results() {
            series.add(&["calls", result], count);
        }
        for (bucket, count) in store.calls.durations() {
            series.add(&["took", &bucket.to_string()], count);
        }
        series.add(&["took_ms"], store.calls.total_ms());
        for (to, count) in store.transitions.named() {
            series.add(&["breaker", to], count);
        }
        series
    }
}
