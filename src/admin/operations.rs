//! The operator log: what was done by the control plane, by whom and when. `GET /_limiter/operations` shows it.

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

/// Entries that are kept, and for how long.
const MOST: usize = 1000;
const KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1000;

/// Entries of a page.
const PAGE: [u32; 2] = [1, 1000];

/// What a call does, if it does something: the action and its target.
fn action(method: &str, segments: &[&str]) -> Option<(&'static str, String)> {
    Some(match (method, segments) {
        ("PUT", ["blocked", target]) => ("block", (*target).to_owned()),
        ("DELETE", ["blocked", target]) => ("lift", (*target).to_owned()),
        ("DELETE", ["usage", policy, caller]) => ("reset", format!("{policy} {caller}")),
        ("DELETE", ["events"]) => ("forget_events", "events".to_owned()),
        _ => return None,
    })
}

/// What was said with it.
fn details(request: &AdminRequest, input: &Input) -> Option<String> {
    if let Some(seconds) = input.parameter("older_than_seconds") {
        return Some(format!("older than {seconds} s"));
    }
    let super::Body::Text(body) = &request.body else {
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

/// What became of a call that was to do something; `None`: nothing.
pub(super) fn outcome(answered: &AdminResult) -> Option<&'static str> {
    match answered {
        Ok(answer) => {
            let body = json::value(&answer.body).unwrap_or_default();
            let idle = body["lifted"] == false && body["policies_lifted"] == 0;
            (!idle).then_some("done")
        }
        Err(AdminError::OnlyHere) => Some("isolate"),
        // In part, it may be.
        Err(AdminError::Store(_)) => Some("failed"),
        Err(_) => None,
    }
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    /// Writes down a call that has been answered, if it is one that does something.
    pub(super) async fn note_operation(
        &self,
        segments: &[&str],
        request: &AdminRequest,
        input: &Input,
        (who, outcome): (Actor, &str),
        now: Timestamp,
    ) {
        let Some((action, target)) = action(&request.method, segments) else {
            return;
        };
        let (who, address) = match who {
            Actor::Admin => ("admin", Some(self.caller(request).key())),
            Actor::Application => ("application", None),
        };
        let operation = json!({
            "at": now.as_millis(), "who": who, "address": address, "action": action, "target": target,
            "details": details(request, input), "outcome": outcome,
        });
        if let Err(error) = self.write_operation(&operation, now).await {
            let line = format!("operator log: writing to it failed: {error}; {action}: {outcome}");
            self.stack.effects().log(LogLevel::Error, &line);
        }
    }

    async fn write_operation(&self, operation: &Value, now: Timestamp) -> Result<(), StoreError> {
        let key = self.records().key(RedisKey::Operations);
        let text = operation.to_string();
        let commands = [
            command(["RPUSH", &key, &text]),
            command(["LTRIM", &key, &format!("-{MOST}"), "-1"]),
            command(["PEXPIRE", &key, &KEPT_MS.to_string()]),
        ];
        self.records().run(commands, now).await.map(drop)
    }

    pub(super) async fn operations(&self, input: &Input, now: Timestamp) -> AdminResult {
        input.only(&["limit"])?;
        let most = input.number("limit", PAGE, Some(100))?;
        let key = self.records().key(RedisKey::Operations);
        let read = command(["LRANGE", &key, &format!("-{most}"), "-1"]);
        let [listed] = self.records().run([read], now).await?;
        let newest_first = texts(&listed).into_iter().rev();
        let operations: Vec<Value> = newest_first.filter_map(json::value).collect();
        ok(&json!({"scope": self.records().scope(), "operations": operations}))
    }
}
