//! What is recorded of requests, once they are answered.

use std::cell::Cell;
use std::error::Error;

use edge_limiter::config::Abuse;
use edge_limiter::events::records::BLOCKED;
use edge_limiter::events::{Details, FLUSH_AFTER, Kind, Note, Recorder};
use edge_limiter::gate::{Exempt, Report};
use edge_limiter::seed::Seed;
use edge_limiter::store::backoff::Pause;
use edge_limiter::time::Clock;
use js_sys::Reflect;
use wasm_bindgen::JsValue;

use crate::clock::{IsolateClock, Timer};
use crate::incoming::Incoming;
use crate::stores::{Kept, Stores};

/// Of a thousand.
const ALL: u32 = 1000;

/// Gathers events, and writes them.
pub(crate) struct Log {
    pub(crate) recorder: Recorder,
    pub(crate) records: Kept,
    abuse: Abuse,
    /// Thousandths of admitted requests that the sample is behind by.
    behind: Cell<u32>,
}

impl Log {
    pub(crate) fn new(abuse: &Abuse, records: Kept) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            recorder: Recorder::new(Seed::random()?),
            records,
            abuse: abuse.clone(),
            behind: Cell::new(0),
        })
    }

    /// As what a request is noted, if it is.
    pub(crate) fn kind(&self, report: &Report) -> Option<Kind> {
        match report.exempt {
            Some(Exempt::Bypassed) => Some(Kind::Bypassed),
            _ if !self.abuse.events => None,
            _ if !report.admitted => Some(Kind::Denied),
            _ => self.takes().then_some(Kind::Admitted),
        }
    }

    /// Notes what became of a request: `status` is its answer's, 0 where that is not known yet.
    pub(crate) fn note(
        &self,
        kind: Kind,
        status: u16,
        report: &Report,
        incoming: &Incoming,
        request: &web_sys::Request,
    ) {
        let now = IsolateClock.now();
        let binding = report.binding();
        // What a user does is not its address's doing.
        let (policy, caller) = match (&report.address_block, binding) {
            (Some(_), _) => (BLOCKED, report.caller.key()),
            (None, Some(standing)) => (standing.policy.as_str(), report.charged(standing)),
            (None, None) => ("", report.caller.key()),
        };
        let note = Note {
            kind,
            caller,
            policy,
            method: &incoming.method,
            status,
        };
        self.recorder
            .note(&note, now, || details(incoming, request));
        if let Some(standing) = binding
            && let Some(until) = standing.answer.blocked_until
        {
            self.recorder
                .note_block(&format!("{}:{caller}", standing.policy), until);
        }
    }

    /// Whether the sample takes this admitted request: as evenly as it goes.
    fn takes(&self) -> bool {
        let behind = self.behind.get() + self.abuse.sample;
        let takes = behind >= ALL;
        self.behind.set(if takes { behind - ALL } else { behind });
        takes
    }

    /// Writes what is gathered, some seconds from now.
    pub(crate) async fn write_later(&self, stores: &Stores) {
        Timer.pause(FLUSH_AFTER).await;
        self.write(stores).await;
    }

    /// Writes what is gathered. What cannot be written is kept for the next time, as far as there is
    /// room for it.
    pub(crate) async fn write(&self, stores: &Stores) {
        let batch = self.recorder.take();
        if batch.is_empty() {
            return;
        }
        let now = IsolateClock.now();
        if !stores.answers() || self.records.record(&batch, now).await.is_err() {
            self.recorder.put_back(batch);
            return;
        }
        let Some(rule) = &self.abuse.escalation else {
            return;
        };
        let escalated = self.records.escalate(&batch, rule, now).await;
        if escalated.is_ok_and(|escalated| !escalated.is_empty()) && !self.records.is_shared() {
            let _ = stores.reload_blocks(now).await;
        }
    }
}

/// What is told of the first of like events.
fn details(incoming: &Incoming, request: &web_sys::Request) -> Details {
    let cf = Reflect::get(request, &JsValue::from_str("cf")).unwrap_or_default();
    let of = |name: &str| Reflect::get(&cf, &JsValue::from_str(name)).unwrap_or_default();
    let asn = if cf.is_object() {
        of("asn").as_f64()
    } else {
        None
    };
    Details {
        path: incoming.path().to_owned(),
        ray: incoming
            .header("cf-ray")
            .map(|ray| ray.chars().take(64).collect()),
        country: if cf.is_object() {
            of("country").as_string()
        } else {
            None
        },
        // An autonomous system's number has 32 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        asn: asn.map(|asn| asn as u32),
    }
}
