//! The journal of an isolate: decides which requests become events, and when events are written to Redis.

use std::cell::Cell;
use std::rc::Rc;

use crate::blocklist::{AddressBlock, BlockTarget};
use crate::client::CallerKey;
use crate::config::ProtectionSettings;
use crate::effects::{Effects, LogLevel};
use crate::error::StoreError;
use crate::events::records::BLOCKED;
use crate::events::{BatchLimits, Details, EventBatch, EventKey, EventKind, FLUSH_AFTER, Recorder};
use crate::failure_monitor::FailureMonitor;
use crate::gate::{Exempt, QuotaStatus, RequestVerdict, longest_denial};
use crate::policy::{PREFLIGHT, quota_key};
use crate::redis::Database;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::store::shared::Partitioned;
use crate::store::stack::Stack;
use crate::time::{Millis, Timestamp};

/// The sample that takes every admitted request, in thousandths.
const ALL_THOUSANDTHS: u32 = 1000;

/// The most parts in which one duty writes a batch, if the budget cannot pay for all of it at once.
const MAX_PARTS: u32 = 10;
/// The time between two parts. It exceeds the budget's window of a second, so that the commands of one part no longer
/// count when the next is written.
const PART_AFTER: Millis = Millis::new(1100);

/// Failed writes in a row that are not reported. If Redis is down, the breaker reports it.
const SILENT_FAILURES: u32 = 1;

/// How much of the gathered events a [write](Journal::write) wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteProgress {
    /// Everything that can be written now: all of it, or nothing more because the write failed.
    NothingMoreToWrite,
    /// As much as the budget could pay for. The next part can be written a second later.
    MoreToWrite,
}

/// A denied request, or a denied check.
pub struct DeniedRequest<'a> {
    /// The HTTP status of the answer.
    pub status: u16,
    /// Who sent the request: the caller's address or, for a check of an identifier, that identifier.
    pub caller: CallerKey,
    /// The caller's own keys: a denial by one of their quotas counts against the key.
    pub own_keys: &'a [Option<CallerKey>],
    /// Whether the caller's address is blocked everywhere.
    pub is_blocked: bool,
    /// The caller's status in each enforced quota that was asked.
    pub enforced: &'a [QuotaStatus],
}

impl DeniedRequest<'_> {
    /// Returns the denial that counts against `key`: the one that lasts longest, so that a request counts once.
    ///
    /// These count against nobody:
    ///
    /// - a denial by a quota that others share, or by a block of the address, since others have a part in it;
    /// - a cost above the capacity, since no waiting helps and the configuration is at fault;
    /// - a denied preflight, since any page can have its visitors send one.
    fn counted_denial(&self, key: CallerKey) -> Option<&QuotaStatus> {
        if matches!(key, CallerKey::Global | CallerKey::Header(_)) {
            return None;
        }
        let statuses = self.enforced.iter().filter(|_| !self.is_blocked);
        let own = statuses.filter(|status| status.charged == key && status.policy != PREFLIGHT);
        let ending = own.filter(|status| status.answer.retry_at().is_some());
        ending.max_by_key(|status| status.answer.retry_at())
    }
}

/// Gathers an isolate's events, and writes them to the records.
pub struct Journal<D> {
    recorder: Recorder,
    records: Rc<Records<D>>,
    rules: ProtectionSettings,
    /// Thousandths of a request by which the sample lags behind its rate.
    sample_lag_thousandths: Cell<u32>,
    writes: FailureMonitor,
    /// Events that no record counts.
    left_out: Cell<u64>,
}

impl<D: Database> Journal<D> {
    /// Creates an empty journal.
    pub fn new(records: Rc<Records<D>>, rules: &ProtectionSettings, seed: Seed) -> Self {
        Self {
            recorder: Recorder::new(seed),
            records,
            rules: rules.clone(),
            sample_lag_thousandths: Cell::new(0),
            writes: FailureMonitor::new(
                "Writing events to Redis",
                "this isolate keeps them in memory while there is room",
                SILENT_FAILURES,
            ),
            left_out: Cell::new(0),
        }
    }

    /// Returns the recorder, which holds the gathered events.
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Returns since when events cannot be written, on this isolate's clock, and why. `None`: writing works.
    #[must_use]
    pub fn write_failure(&self) -> Option<(Timestamp, String)> {
        self.writes.get()
    }

    /// Returns how many events no record counts, in the batches that were written so far.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out.get()
    }

    /// Returns the records to which events are written.
    pub fn records(&self) -> &Records<D> {
        &self.records
    }

    /// Whether denials are recorded.
    #[must_use]
    pub const fn records_denials(&self) -> bool {
        self.rules.events
    }

    /// Returns the kind of event that a request becomes. `None`: it is not recorded. Call it once for each request: each
    /// call advances the sample.
    #[must_use]
    pub fn kind(&self, report: &RequestVerdict) -> Option<EventKind> {
        match report.exempt {
            Some(Exempt::Bypassed) => Some(EventKind::Bypassed),
            _ if !self.rules.events => None,
            _ if !report.admitted => Some(EventKind::Denied),
            _ => self.is_sampled().then_some(EventKind::Admitted),
        }
    }

    /// Records a request. `status` is the status of its answer, 0 if that is not known yet. `details` is called only for
    /// the first event of a record.
    pub fn record(
        &self,
        kind: EventKind,
        status: u16,
        report: &RequestVerdict,
        now: Timestamp,
        details: &mut dyn FnMut() -> Details,
    ) {
        let address = report.caller.key();
        if kind == EventKind::Denied {
            let denial = DeniedRequest {
                status,
                caller: address,
                own_keys: &[Some(address), report.user],
                is_blocked: report.address_block.is_some(),
                enforced: &report.enforced,
            };
            return self.record_denial(&denial, now, details);
        }
        // A request that a user's own quota limits is recorded under the user, not under its address.
        let (policy, caller) = match report.binding() {
            Some(binding) => (binding.policy.as_str(), report.user_or_address(binding)),
            None => ("", address),
        };
        let key = EventKey {
            kind,
            caller,
            policy,
            status,
        };
        self.record_event(address, &key, now, details);
    }

    /// Records a denial, and counts it against the caller's own keys whose quotas deny. Does nothing if events are off.
    /// `details` is called only for the first event of a record.
    pub fn record_denial(
        &self,
        denial: &DeniedRequest<'_>,
        now: Timestamp,
        details: &mut dyn FnMut() -> Details,
    ) {
        if !self.rules.events {
            return;
        }
        let (policy, caller) = match longest_denial(denial.enforced) {
            _ if denial.is_blocked => (BLOCKED, denial.caller),
            Some(longest) => (longest.policy.as_str(), longest.charged),
            None => ("", denial.caller),
        };
        let key = EventKey {
            kind: EventKind::Denied,
            caller,
            policy,
            status: denial.status,
        };
        self.record_event(denial.caller, &key, now, details);
        for status in denial.enforced {
            if let Some(until) = status.answer.blocked_until {
                let key = quota_key(&status.policy, &status.charged);
                self.recorder.record_block(&key, until);
            }
        }
        let own_keys = denial.own_keys.iter();
        for counted in own_keys.filter_map(|key| denial.counted_denial((*key)?)) {
            let policy = &counted.policy;
            self.recorder.count_denial(counted.charged, policy, now);
        }
    }

    /// Records an event. `sender` is added as the event's address if the event is recorded under another key.
    fn record_event(
        &self,
        sender: CallerKey,
        key: &EventKey<'_>,
        now: Timestamp,
        details: &mut dyn FnMut() -> Details,
    ) {
        let address = (key.caller != sender).then_some(sender);
        self.recorder.record(key, now, &mut || Details {
            address,
            ..details()
        });
    }

    /// Records what policies in shadow mode would have denied.
    pub fn record_shadow(&self, report: &RequestVerdict, now: Timestamp) {
        let statuses = report.shadow.iter();
        for status in statuses.filter(|status| !status.answer.decision.allowed()) {
            let caller = report.user_or_address(status);
            self.recorder.record_shadow(&status.policy, caller, now);
        }
    }

    /// Advances the sample by one admitted request, and returns whether this one is in it. The sampled requests are spread
    /// evenly.
    fn is_sampled(&self) -> bool {
        let mut behind = self.sample_lag_thousandths.get() + self.rules.sample;
        let is_sampled = behind >= ALL_THOUSANDTHS;
        if is_sampled {
            behind -= ALL_THOUSANDTHS;
        }
        self.sample_lag_thousandths.set(behind);
        is_sampled
    }

    /// Waits for [`FLUSH_AFTER`], then logs the shadow denials and writes the gathered events. If the budget cannot pay for
    /// all of them at once, it writes one part a second.
    pub async fn write_later<S: Partitioned, E: Effects + Clone>(
        &self,
        stack: &Stack<S, D, E>,
        effects: &E,
    ) {
        effects.sleep(FLUSH_AFTER).await;
        for line in self.recorder.take_shadow(effects.now()) {
            effects.log(LogLevel::Info, &line);
        }
        for _ in 0..MAX_PARTS {
            if self.write(stack, effects.now()).await != WriteProgress::MoreToWrite {
                return;
            }
            self.recorder.keep_writing(effects.now());
            effects.sleep(PART_AFTER).await;
        }
        self.recorder.stop_writing();
    }

    /// Writes the gathered events, as far as the budget can pay for them. Events that cannot be written stay in memory for
    /// the next write, while there is room.
    pub async fn write<S: Partitioned, E: Effects + Clone>(
        &self,
        stack: &Stack<S, D, E>,
        now: Timestamp,
    ) -> WriteProgress {
        if self.recorder.is_empty() || !stack.is_database_available() {
            self.recorder.stop_writing();
            return WriteProgress::NothingMoreToWrite;
        }
        let escalation = self.rules.escalation.is_some();
        let escalation = escalation.then(|| self.records.escalation_costs());
        let budget = self.records.budget();
        let batch = self.recorder.take(BatchLimits {
            commands: budget.and_then(|budget| budget.left_for_records(now)),
            escalation,
        });
        let commands = batch.commands(escalation);
        let is_written = match self.records.prepay(commands, now) {
            Ok(()) => {
                let written = self.write_batch(batch, stack, now).await;
                let error = written.as_ref().err().map(ToString::to_string);
                self.writes.learn(error, stack.effects(), now);
                written.is_ok()
            }
            Err(_) => {
                self.recorder.put_back(batch);
                true
            }
        };
        let Some(budget) = budget.filter(|budget| budget.is_bounded()) else {
            return WriteProgress::NothingMoreToWrite;
        };
        budget.forget_prepaid();
        if self.recorder.is_empty() {
            budget.stop_waiting();
        }
        match is_written && !self.recorder.is_empty() {
            true => WriteProgress::MoreToWrite,
            false => WriteProgress::NothingMoreToWrite,
        }
    }

    /// Writes a batch. If the database does not take all of it, the rest goes back to the recorder.
    async fn write_batch<S: Partitioned, E: Effects + Clone>(
        &self,
        batch: EventBatch,
        stack: &Stack<S, D, E>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Err(error) = self.records.record(&batch, now).await {
            self.recorder.put_back(batch);
            return Err(error);
        }
        self.left_out.set(self.left_out.get() + batch.left_out);
        let Some(rule) = &self.rules.escalation else {
            return Ok(());
        };
        let escalated = match self.records.escalate(&batch, rule, now).await {
            Ok(escalated) => escalated,
            Err(error) => {
                self.recorder.put_back_due(batch.due);
                return Err(error);
            }
        };
        self.recorder.put_back_due(escalated.due);
        for (network, block) in escalated.blocks {
            let until = block.until.map(Timestamp::from_millis);
            stack.add_block(&BlockTarget::Address(network), AddressBlock { until });
        }
        escalated.error.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
