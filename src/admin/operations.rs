//! The operator log: who changed what through the control plane, and when. `GET /_limiter/operations` returns it.

use serde_json::{Value, json};

use super::input::Input;
use super::{Actor, AdminError, AdminRequest, AdminResult, ControlPlane, ok};
use crate::effects::{Effects, LogLevel};
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::{Database, command, texts};
use crate::store::shared::Partitioned;
use crate::time::Timestamp;

/// How many entries are kept, and for how long after the last one.
const MAX_LOGGED_OPERATIONS: usize = 1000;
const EXPIRY_MS: u64 = 90 * 24 * 60 * 60 * 1000;

/// The least and the most entries in one answer.
const LIMIT_RANGE: [u32; 2] = [1, 1000];

/// The action of a call that changes something, and the action's target.
fn action(method: &str, segments: &[&str]) -> Option<(&'static str, String)> {
    Some(match (method, segments) {
        ("PUT", ["blocked", target]) => ("block", (*target).to_owned()),
        ("DELETE", ["blocked", target]) => ("lift", (*target).to_owned()),
        ("DELETE", ["usage", policy, caller]) => ("reset", format!("{policy} {caller}")),
        ("DELETE", ["events"]) => ("forget_events", "events".to_owned()),
        _ => return None,
    })
}

/// The call's arguments beyond its target, as one text: which events to remove, or a block's length and reason.
fn details(request: &AdminRequest, input: &Input) -> Option<String> {
    if let Some(seconds) = input.parameter("older_than_seconds") {
        return Some(format!("older than {seconds} s"));
    }
    let super::RequestBody::Text(body) = &request.body else {
        return None;
    };
    if request.method != "PUT" {
        return None;
    }
    let body = json::value(body).unwrap_or_default();
    let mut parts = vec![match body["seconds"].as_u64() {
        Some(seconds) => format!("{seconds} s"),
        None => "until lifted".to_owned(),
    }];
    parts.extend(body["reason"].as_str().map(str::to_owned));
    Some(parts.join(": "))
}

/// The outcome of a call, as the log names it. `None` if the call has changed nothing.
pub(super) fn outcome(result: &AdminResult) -> Option<&'static str> {
    match result {
        Ok(answer) => {
            let body = json::value(&answer.body).unwrap_or_default();
            let is_unchanged = body["lifted"] == false && body["policies_lifted"] == 0;
            (!is_unchanged).then_some("done")
        }
        Err(AdminError::InForceHereOnly) => Some("isolate"),
        // A part of the change may have been made.
        Err(AdminError::StoreFailed(_)) => Some("failed"),
        Err(_) => None,
    }
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    /// Adds a call that has been answered to the log, if its kind changes something.
    pub(super) async fn record_operation(
        &self,
        segments: &[&str],
        request: &AdminRequest,
        input: &Input,
        (actor, outcome): (Actor, &str),
        now: Timestamp,
    ) {
        let Some((action, target)) = action(&request.method, segments) else {
            return;
        };
        let (who, address) = match actor {
            Actor::Admin => ("admin", Some(self.caller(request).key())),
            Actor::Application => ("application", None),
        };
        let operation = json!({
            "at": now.as_millis(), "who": who, "address": address, "action": action, "target": target,
            "details": details(request, input), "outcome": outcome,
        });
        if let Err(error) = self.write_operation(&operation, now).await {
            let line = format!(
                "operator log: writing an entry failed, which may be lost: {error}; the entry is {action}: {outcome}"
            );
            self.stack.effects().log(LogLevel::Error, &line);
        }
    }

    async fn write_operation(&self, operation: &Value, now: Timestamp) -> Result<(), StoreError> {
        let key = self.records().key(RedisKey::Operations);
        let text = operation.to_string();
        let commands = [
            command(["RPUSH", &key, &text]),
            command(["LTRIM", &key, &format!("-{MAX_LOGGED_OPERATIONS}"), "-1"]),
            command(["PEXPIRE", &key, &EXPIRY_MS.to_string()]),
        ];
        self.records().run(commands, now).await.map(drop)
    }

    pub(super) async fn operations(&self, input: &Input, now: Timestamp) -> AdminResult {
        input.only(&["limit"])?;
        let limit = input.number("limit", LIMIT_RANGE, Some(100))?;
        let key = self.records().key(RedisKey::Operations);
        let read = command(["LRANGE", &key, &format!("-{limit}"), "-1"]);
        let [entries] = self.records().run([read], now).await?;
        let newest_first = texts(&entries).into_iter().rev();
        let operations: Vec<Value> = newest_first.filter_map(json::value).collect();
        ok(&json!({"scope": self.records().scope(), "operations": operations}))
    }
}
