//! An isolate's journal: what is recorded of requests, and when it is written.

use std::cell::Cell;
use std::rc::Rc;

use crate::blocklist::{AddressBlock, BlockTarget};
use crate::client::CallerKey;
use crate::config::Abuse;
use crate::effects::{Effects, LogLevel};
use crate::error::StoreError;
use crate::events::records::BLOCKED;
use crate::events::{BatchLimits, Details, EventBatch, EventKey, EventKind, FLUSH_AFTER, Recorder};
use crate::failure_monitor::FailureMonitor;
use crate::gate::{Exempt, QuotaStatus, Report, longest_denial};
use crate::policy::{PREFLIGHT, quota_key};
use crate::redis::Database;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::store::shared::Partitioned;
use crate::store::stack::Stack;
use crate::time::{Millis, Timestamp};

/// A sample of so many thousandths is all of them.
const ALL: u32 = 1000;

/// Parts in which one duty writes what is gathered, where the budget has no room for all of it at once,
/// and how long after each other: longer than what a part has spent counts.
const MAX_PARTS: u32 = 10;
const PART_AFTER: Millis = Millis::new(1100);

/// Writes in a row that may fail in silence: the breaker reports a store that is out.
const SILENT_FAILURES: u32 = 1;

/// How much of what was gathered is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteProgress {
    /// As much as can be for now.
    AsFarAsPossible,
    /// What the budget had room for; more of it a second later.
    InPart,
}

/// A denied request.
pub struct DeniedRequest<'a> {
    /// The answer's status.
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

/// Gathers events, and writes them.
pub struct Journal<D> {
    recorder: Recorder,
    records: Rc<Records<D>>,
    rules: Abuse,
    /// Thousandths of admitted requests that the sample is behind by.
    behind: Cell<u32>,
    trouble: FailureMonitor,
    /// Events that no record holds.
    left_out: Cell<u64>,
}

impl<D: Database> Journal<D> {
    /// Nothing has happened yet.
    pub fn new(records: Rc<Records<D>>, rules: &Abuse, seed: Seed) -> Self {
        Self {
            recorder: Recorder::new(seed),
            records,
            rules: rules.clone(),
            behind: Cell::new(0),
            trouble: FailureMonitor::new(
                "events: writing them",
                "this isolate keeps them, as far as it has room",
                SILENT_FAILURES,
            ),
            left_out: Cell::new(0),
        }
    }

    /// The events that are gathered.
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Since when they cannot be written, on this isolate's clock, and why.
    #[must_use]
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.trouble.get()
    }

    /// How many events no record holds, of those that were written until now.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out.get()
    }

    /// Where they are written.
    pub fn records(&self) -> &Records<D> {
        &self.records
    }

    /// Whether denials are recorded.
    #[must_use]
    pub const fn records_denials(&self) -> bool {
        self.rules.events
    }

    /// As what a request is noted, if it is. Asked once for each request: the sample counts.
    #[must_use]
    pub fn kind(&self, report: &Report) -> Option<EventKind> {
        match report.exempt {
            Some(Exempt::Bypassed) => Some(EventKind::Bypassed),
            _ if !self.rules.events => None,
            _ if !report.admitted => Some(EventKind::Denied),
            _ => self.takes().then_some(EventKind::Admitted),
        }
    }

    /// Notes what became of a request: `status` is its answer's, 0 where that is not known yet.
    /// `details` is asked only for the first of like events.
    pub fn record(
        &self,
        kind: EventKind,
        status: u16,
        report: &Report,
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

    /// Notes a denial, and holds it against the keys that are to blame, unless events are off. `details` is
    /// asked only for the first of like events.
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
    pub fn record_shadow(&self, report: &Report, now: Timestamp) {
        let statuses = report.shadow.iter();
        for status in statuses.filter(|status| !status.answer.decision.allowed()) {
            let caller = report.user_or_address(status);
            self.recorder.record_shadow(&status.policy, caller, now);
        }
    }

    /// Whether the sample takes this admitted request: as evenly as it goes.
    fn takes(&self) -> bool {
        let behind = self.behind.get() + self.rules.sample;
        let takes = behind >= ALL;
        self.behind.set(if takes { behind - ALL } else { behind });
        takes
    }

    /// Writes and logs what is gathered, some seconds from now; what the budget has no room for then, a part each
    /// second.
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
            if self.write(stack, effects.now()).await != WriteProgress::InPart {
                return;
            }
            self.recorder.keep_writing(effects.now());
            effects.sleep(PART_AFTER).await;
        }
        self.recorder.stop_writing();
    }

    /// Writes what is gathered, as far as the budget has room for it. What cannot be written is kept for
    /// the next time, as far as there is room for it here.
    pub async fn write<S: Partitioned, E: Effects + Clone>(
        &self,
        stack: &Stack<S, D, E>,
        now: Timestamp,
    ) -> WriteProgress {
        if self.recorder.is_empty() || !stack.answers() {
            self.recorder.stop_writing();
            return WriteProgress::AsFarAsPossible;
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
                self.trouble.learn(error, stack.effects(), now);
                written.is_ok()
            }
            Err(_) => {
                self.recorder.put_back(batch);
                true
            }
        };
        let Some(budget) = budget.filter(|budget| budget.is_bounded()) else {
            return WriteProgress::AsFarAsPossible;
        };
        budget.forget_prepaid();
        if self.recorder.is_empty() {
            budget.stop_waiting();
        }
        match is_written && !self.recorder.is_empty() {
            true => WriteProgress::InPart,
            false => WriteProgress::AsFarAsPossible,
        }
    }

    /// Writes a batch. What the database does not take is put back.
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
