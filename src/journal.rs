//! An isolate's journal: what is recorded of requests, and when it is written.

use std::cell::Cell;
use std::rc::Rc;

use crate::config::Abuse;
use crate::effects::Effects;
use crate::events::records::BLOCKED;
use crate::events::{Details, FLUSH_AFTER, Kind, Note, Recorder};
use crate::gate::{Exempt, Report};
use crate::policy::quota_key;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::store::shared::SharedStore;
use crate::store::stack::Stack;
use crate::time::Timestamp;

/// A sample of so many thousandths is all of them.
const ALL: u32 = 1000;

/// Gathers events, and writes them.
pub struct Journal<D> {
    recorder: Recorder,
    records: Rc<Records<D>>,
    rules: Abuse,
    /// Thousandths of admitted requests that the sample is behind by.
    behind: Cell<u32>,
}

impl<D: Database> Journal<D> {
    /// Nothing has happened yet.
    pub fn new(records: Rc<Records<D>>, rules: &Abuse, seed: Seed) -> Self {
        Self {
            recorder: Recorder::new(seed),
            records,
            rules: rules.clone(),
            behind: Cell::new(0),
        }
    }

    /// The events that are gathered.
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Where they are written.
    pub fn records(&self) -> &Records<D> {
        &self.records
    }

    /// As what a request is noted, if it is. Asked once for each request: the sample counts.
    #[must_use]
    pub fn kind(&self, report: &Report) -> Option<Kind> {
        match report.exempt {
            Some(Exempt::Bypassed) => Some(Kind::Bypassed),
            _ if !self.rules.events => None,
            _ if !report.admitted => Some(Kind::Denied),
            _ => self.takes().then_some(Kind::Admitted),
        }
    }

    /// Notes what became of a request: `status` is its answer's, 0 where that is not known yet.
    /// `details` is asked only for the first of like events.
    pub fn note(
        &self,
        kind: Kind,
        (method, status): (&str, u16),
        report: &Report,
        now: Timestamp,
        details: impl FnOnce() -> Details,
    ) {
        let binding = report.binding();
        // A denial is of the key that was charged: what a user does, or all callers together, is not its
        // address's doing.
        let (policy, caller) = match (&report.address_block, binding) {
            (Some(_), _) => (BLOCKED, report.caller.key()),
            (None, Some(standing)) if report.admitted => {
                (standing.policy.as_str(), report.asker(standing))
            }
            (None, Some(standing)) => (standing.policy.as_str(), standing.charged),
            (None, None) => ("", report.caller.key()),
        };
        let note = Note {
            kind,
            caller,
            policy,
            method,
            status,
        };
        self.recorder.note(&note, now, details);
        if let Some(standing) = binding
            && let Some(until) = standing.answer.blocked_until
        {
            self.recorder
                .note_block(&quota_key(&standing.policy, &caller), until);
        }
    }

    /// Whether the sample takes this admitted request: as evenly as it goes.
    fn takes(&self) -> bool {
        let behind = self.behind.get() + self.rules.sample;
        let takes = behind >= ALL;
        self.behind.set(if takes { behind - ALL } else { behind });
        takes
    }

    /// Writes what is gathered, some seconds from now.
    pub async fn write_later<S: SharedStore, E: Effects + Clone>(
        &self,
        stack: &Stack<S, D, E>,
        effects: &E,
    ) {
        effects.sleep(FLUSH_AFTER).await;
        self.write(stack, effects.now()).await;
    }

    /// Writes what is gathered. What cannot be written is kept for the next time, as far as there is
    /// room for it.
    pub async fn write<S: SharedStore, E: Effects + Clone>(
        &self,
        stack: &Stack<S, D, E>,
        now: Timestamp,
    ) {
        let batch = self.recorder.take();
        if batch.is_empty() {
            return;
        }
        if !stack.answers() || self.records.record(&batch, now).await.is_err() {
            self.recorder.put_back(batch);
            return;
        }
        let Some(rule) = &self.rules.escalation else {
            return;
        };
        let escalated = self.records.escalate(&batch, rule, now).await;
        if escalated.is_ok_and(|escalated| !escalated.is_empty()) && !self.records.is_shared() {
            let _ = stack.reload_blocks(now).await;
        }
    }
}
