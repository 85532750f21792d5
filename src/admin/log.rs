//! `/_limiter/events` and `/_limiter/suspicious`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::input::Input;
use super::{AdminResult, ControlPlane, ok};
use crate::effects::Effects;
use crate::events::records::{EventCursor, HOURS};
use crate::redis::Database;
use crate::store::shared::Partitioned;
use crate::time::{Millis, Timestamp};

/// The least and the most entries on one page.
const PAGE_RANGE: [u32; 2] = [1, 1000];

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    pub(super) async fn events(&self, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            events: Vec<Value>,
            left_out: u64,
            cursor: Option<String>,
        }
        input.only(&["limit", "cursor"])?;
        let limit = input.number("limit", PAGE_RANGE, Some(100))? as usize;
        let cursor = input.cursor(EventCursor::parse)?;
        self.write_events(now).await;
        let page = self.records().events(cursor, limit, now).await?;
        ok(&Body {
            scope: self.records().scope(),
            events: page.events,
            left_out: page.left_out,
            cursor: page.next.as_ref().map(EventCursor::text),
        })
    }

    pub(super) async fn forget_events(&self, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            removed: u64,
        }
        input.only(&["older_than_seconds"])?;
        let seconds = input.number("older_than_seconds", [0, u32::MAX], None)?;
        self.write_events(now).await;
        let before = now - Millis::from_secs(seconds);
        ok(&Body {
            scope: self.records().scope(),
            removed: self.records().forget_events(before, now).await?,
        })
    }

    pub(super) async fn suspicious(&self, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct SuspiciousBody<'a> {
            caller: &'a str,
            denied: u64,
            policies: &'a BTreeMap<String, u64>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            hours: u32,
            callers: Vec<SuspiciousBody<'a>>,
        }
        input.only(&["limit", "hours"])?;
        let limit = input.number("limit", PAGE_RANGE, Some(20))? as usize;
        let hours = input.number("hours", [1, HOURS], Some(1))?;
        self.write_events(now).await;
        let found = self.records().suspicious(hours, limit, now).await?;
        let callers = found.iter().map(|record| SuspiciousBody {
            caller: &record.caller,
            denied: record.denied,
            policies: &record.policies,
        });
        ok(&Body {
            scope: self.records().scope(),
            hours,
            callers: callers.collect(),
        })
    }
}
