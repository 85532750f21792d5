//! Metrics: counts of requests, decisions and calls of Redis, for operators to graph.
//!
//! An isolate counts in [`Metrics`]. Every few seconds it appends what it has counted since the last time to a list in
//! Redis, with one command, or with none while it is idle. A [fold](records) adds the list to totals, which never fall,
//! and to the buckets of charts. Counts that an isolate has not sent when it is evicted are lost. Counts whose answer was
//! lost may count twice.

use std::cell::{Cell, RefCell};

use crate::config::Config;
use crate::effects::Effects;
use crate::gate::{QuotaStatus, RequestVerdict};
use crate::redis::Database;
use crate::redis::records::Records;
use crate::redis::rest::CallStats;
use crate::seed::Seed;
use crate::store::Source;
use crate::store::breaker::BreakerTransitions;
use crate::time::{Deadline, Millis, Timestamp};

mod counter_set;
pub mod exposition;
pub mod gauges;
mod peaks;
pub mod records;
#[cfg(test)]
mod tests;

pub use counter_set::CounterSet;
pub use peaks::TENTHS;

use peaks::Peaks;
use records::{CountBatch, MAX_PENDING};

/// The longest that a duty sleeps before it sends. The platform ends a task 30 s after the response.
const MAX_SLEEP: Millis = Millis::from_secs(20);

/// How long one duty keeps others from sending. A duty that is cancelled never reports its end.
const SEND_IN_FLIGHT_FOR: Millis = Millis::from_secs(60);

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The request went ahead.
    Admitted,
    /// A quota denied the request.
    Denied,
    /// A block denied the request: of its address, or by a policy.
    Blocked,
    /// No quota was asked: allow-list, bypass token, or `RATE_LIMIT_ENABLED = false`.
    Exempt,
    /// The shared store did not decide, and a policy has `on_store_failure` = `deny`.
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

    /// Returns the outcome's name in labels.
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

    /// The outcome of a request that was decided.
    fn of(report: &RequestVerdict) -> Self {
        if report.admitted {
            return match report.exempt {
                None => Self::Admitted,
                Some(_) => Self::Exempt,
            };
        }
        let blocks = |status: &QuotaStatus| status.answer.blocked_until.is_some();
        match report.address_block.is_some() || report.binding().is_some_and(blocks) {
            true => Self::Blocked,
            false => Self::Denied,
        }
    }
}

/// The decisions of a quota, as they are named in labels.
const DECISIONS: [&str; 4] = ["admitted", "denied", "blocked", "shadow_denied"];

/// The route label of a check.
const CHECK: &str = "check";
/// The route label of a request that matched no route.
const OTHER: &str = "other";

/// The route labels: the patterns of the routes, in their order, and then [`CHECK`] and [`OTHER`].
fn routes(config: &Config) -> impl Iterator<Item = &str> {
    config.routes.patterns().chain([CHECK, OTHER])
}

/// The number of unsent commands that is worth a batch even if no request was counted. The control plane and the schedule
/// send commands too.
const MIN_UNREPORTED_COMMANDS: u64 = 50;

/// What an isolate has counted since it began.
#[derive(Default)]
struct Counts {
    /// Requests by route label ([`routes`]) and outcome.
    requests: Vec<[u64; RequestOutcome::ALL.len()]>,
    /// Decisions by policy, decision and source.
    decisions: Vec<[[u64; Source::ALL.len()]; DECISIONS.len()]>,
    /// Use of limits, by policy.
    peaks: Vec<Peaks>,
}

/// Which of the counts have been sent.
#[derive(Default)]
struct Outbox {
    sent: CounterSet,
    /// A batch that got no answer. It is sent again unchanged.
    unanswered: Option<CountBatch>,
    batches: u64,
    /// Requests and commands in all batches up to the latest.
    requests: u64,
    commands: u64,
}

/// The counters of an isolate.
pub struct Metrics {
    /// How long counts wait before they are sent. `None`: nothing is counted.
    send_after: Option<Millis>,
    isolate: String,
    routes: Vec<String>,
    policies: Vec<String>,
    counts: RefCell<Counts>,
    outbox: RefCell<Outbox>,
    /// Requests counted so far, and the number of them that was sent.
    requests: Cell<u64>,
    requests_sent: Cell<u64>,
    /// Redis commands that the latest batch reported.
    commands_sent: Cell<u64>,
    /// When the oldest unsent count was made.
    since: Cell<Option<Timestamp>>,
    /// Until when one duty keeps others from sending.
    sending: Cell<Deadline>,
    /// The number of batches in the list after this isolate appended to it last.
    pending: Cell<u64>,
}

/// Counts of an isolate's store, which are sent with those of its requests.
#[derive(Clone, Debug, Default)]
pub struct StoreCounts {
    /// Calls of Redis.
    pub calls: CallStats,
    /// An upper bound of the commands that the plan bills.
    pub commands: u64,
    /// The breaker's changes of state.
    pub transitions: BreakerTransitions,
    /// Events that no record counts.
    pub left_out: u64,
}

impl Metrics {
    /// Creates counters, all 0, for the routes and the policies of `config`.
    #[must_use]
    pub fn new(config: &Config, seed: &Seed) -> Self {
        let routes: Vec<String> = routes(config).map(str::to_owned).collect();
        let policies = config.policies.iter().map(|policy| policy.name.clone());
        let policies: Vec<String> = policies.collect();
        // Without randomness, isolates would share a name, and batches of two isolates would look like one sent twice.
        let bits = Seed::random_bits();
        Self {
            send_after: config.metrics.filter(|_| bits.is_ok()),
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

    /// Returns the isolate's name: random, and unchanged while the isolate lives.
    #[must_use]
    pub fn isolate(&self) -> &str {
        &self.isolate
    }

    /// Whether anything is counted.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.send_after.is_some()
    }

    /// Counts a request that was decided, and the decision of each of its quotas.
    pub fn count(&self, report: &RequestVerdict, now: Timestamp) {
        if !self.is_on() {
            return;
        }
        self.count_request(report.route, RequestOutcome::of(report));
        for status in &report.enforced {
            self.count_decision(status, true, report.source, now);
        }
        for status in &report.shadow {
            self.count_decision(status, false, report.source, now);
        }
    }

    /// Counts the decision of a quota. `enforced` is `false` in shadow mode.
    pub fn count_decision(
        &self,
        status: &QuotaStatus,
        enforced: bool,
        source: Source,
        now: Timestamp,
    ) {
        if !self.is_on() {
            return;
        }
        let decision = match &status.answer {
            answer if answer.allows() => 0,
            _ if !enforced => 3,
            answer => 1 + usize::from(answer.blocked_until.is_some()),
        };
        let Some(place) = self.policies.iter().position(|it| *it == status.policy) else {
            return;
        };
        let counts = &mut *self.counts.borrow_mut();
        if let Some(policy) = counts.decisions.get_mut(place) {
            policy[decision][source as usize] += 1;
        }
        if let Some(peaks) = counts.peaks.get_mut(place) {
            let limit = status.quota.capacity();
            let used = limit.saturating_sub(status.answer.decision.remaining);
            peaks.record(status.charged, used, limit, now);
        }
    }

    /// Counts a check.
    pub fn count_check(&self, outcome: RequestOutcome) {
        // `CHECK` is the last label but one, and `OTHER` is the last.
        self.count_request(self.routes.len().checked_sub(2), outcome);
    }

    /// Counts a request with its outcome. `route` is the index of its route. `None`: no route matched.
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

    /// Whether there are counts to send that no other duty sends. If so, the caller of this has to call
    /// [`send_later`](Self::send_later). `commands` is the number of Redis commands that this isolate has sent.
    #[must_use]
    pub fn should_send(&self, commands: u64, now: Timestamp) -> bool {
        let unsent = commands.saturating_sub(self.commands_sent.get());
        let waiting = self.is_waiting() || self.is_on() && unsent >= MIN_UNREPORTED_COMMANDS;
        if !waiting || self.sending.get().is_pending(now) {
            return false;
        }
        self.since.set(self.since.get().or(Some(now)));
        self.sending.set(Deadline::after(SEND_IN_FLIGHT_FOR, now));
        true
    }

    /// Sends the counts once the oldest has waited long enough. If that takes longer than a duty may sleep, it sends them
    /// after 20 s if no further request came, and otherwise leaves them to a later duty. If `store` returns `None`,
    /// the store does not answer, and a later duty sends the counts.
    pub async fn send_later<D: Database>(
        &self,
        records: &Records<D>,
        effects: &impl Effects,
        store: impl Fn() -> Option<StoreCounts>,
    ) {
        let begun = effects.now();
        let waited = begun.since(self.since.get().unwrap_or(begun));
        let left = self.send_after.unwrap_or_default().get();
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

    /// Sends the counts. Counts that cannot be sent are kept for the next time.
    pub async fn send<D: Database>(
        &self,
        records: &Records<D>,
        store: &StoreCounts,
        now: Timestamp,
    ) {
        if self.pending.get() >= MAX_PENDING {
            match records.fold_counts(now).await {
                Ok(0) => {
                    // Another isolate has folded the list, or it has expired. The next attempt learns its length.
                    self.pending.set(MAX_PENDING - 1);
                    return self.pause(now);
                }
                Ok(folded) => self
                    .pending
                    .set(self.pending.get().saturating_sub(folded as u64)),
                Err(_) => return self.pause(now),
            }
        }
        // First the batch that got no answer, then what was counted since.
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
            // If no schedule folds the list, the isolate that finds it long does.
            let _ = records.fold_counts(now).await;
        }
    }

    /// Keeps the next requests from trying again at once.
    fn pause(&self, now: Timestamp) {
        let pause = self.send_after.unwrap_or(SEND_IN_FLIGHT_FOR);
        self.sending.set(Deadline::after(pause, now));
    }

    /// Returns the next batch: the one that got no answer, as another attempt, or what was counted since. `None`: there is
    /// nothing to send.
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

    /// Everything that this isolate has counted.
    fn snapshot(&self, store: &StoreCounts, now: Timestamp) -> CounterSet {
        let counts = &mut *self.counts.borrow_mut();
        let mut series = CounterSet::default();
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
