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
    /// The address that asked.
    pub asker: CallerKey,
    /// The keys that are the asker's own: denials by their quotas are its doing.
    pub own: &'a [Option<CallerKey>],
    /// Whether its address is blocked everywhere.
    pub is_blocked: bool,
    /// Where it stands in each enforced quota that was asked.
    pub enforced: &'a [QuotaStatus],
}

impl DeniedRequest<'_> {
    /// The denial that is held against `own`: the one that denies it longest, so that a request counts
    /// once. None of what others have a part in, a quota that they share or a block of the address; nor of
    /// a cost that no waiting helps with, which the configuration is to blame for; nor of preflights, which any page can
    /// have its visitors send.
    fn blamed(&self, own: CallerKey) -> Option<&QuotaStatus> {
        if matches!(own, CallerKey::Global | CallerKey::Header(_)) {
            return None;
        }
        let standings = self.enforced.iter().filter(|_| !self.is_blocked);
        let own =
            standings.filter(|standing| standing.charged == own && standing.policy != PREFLIGHT);
        let ending = own.filter(|standing| standing.answer.retry_at().is_some());
        ending.max_by_key(|standing| standing.answer.retry_at())
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
        let asker = report.caller.key();
        if kind == EventKind::Denied {
            let denial = DeniedRequest {
                status,
                asker,
                own: &[Some(asker), report.user],
                is_blocked: report.address_block.is_some(),
                enforced: &report.enforced,
            };
            return self.record_denial(&denial, now, details);
        }
        // What a user does is not its address's doing.
        let (policy, caller) = match report.binding() {
            Some(standing) => (standing.policy.as_str(), report.asker(standing)),
            None => ("", asker),
        };
        let note = EventKey {
            kind,
            caller,
            policy,
            status,
        };
        self.record_event(asker, &note, now, details);
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
            _ if denial.is_blocked => (BLOCKED, denial.asker),
            Some(standing) => (standing.policy.as_str(), standing.charged),
            None => ("", denial.asker),
        };
        let note = EventKey {
            kind: EventKind::Denied,
            caller,
            policy,
            status: denial.status,
        };
        self.record_event(denial.asker, &note, now, details);
        for standing in denial.enforced {
            if let Some(until) = standing.answer.blocked_until {
                let key = quota_key(&standing.policy, &standing.charged);
                self.recorder.record_block(&key, until);
            }
        }
        for standing in denial.own.iter().filter_map(|own| denial.blamed((*own)?)) {
            let policy = &standing.policy;
            self.recorder.count_denial(standing.charged, policy, now);
        }
    }

    /// Notes an event, with the address of `asker` where its caller is another.
    fn record_event(
        &self,
        asker: CallerKey,
        note: &EventKey<'_>,
        now: Timestamp,
        details: &mut dyn FnMut() -> Details,
    ) {
        let address = (note.caller != asker).then_some(asker);
        self.recorder.record(note, now, &mut || Details {
            address,
            ..details()
        });
    }

    /// Notes what policies in shadow mode would have denied.
    pub fn record_shadow(&self, report: &Report, now: Timestamp) {
        let denials = report.shadow.iter();
        for standing in denials.filter(|standing| !standing.answer.decision.allowed()) {
            let asker = report.asker(standing);
            self.recorder.record_shadow(&standing.policy, asker, now);
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
