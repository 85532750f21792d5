//! The database in Upstash Redis, over its REST API: `POST /multi-exec`.

use serde_json::Value;

use super::{Command, Database};
use crate::error::StoreError;
use crate::store::upstash::{self, Transport};
use crate::time::{Millis, Timestamp};

/// The path behind the REST URL to which a [`Rest`]'s transport posts.
pub const PATH: &str = "/multi-exec";

/// Upstash Redis.
pub struct Rest<T> {
    transport: T,
    timeout: Millis,
}

impl<T: Transport> Rest<T> {
    /// `transport` posts to the REST URL with [`PATH`]; a transaction waits at most `timeout`.
    pub const fn new(transport: T, timeout: Millis) -> Self {
        Self { transport, timeout }
    }
}

impl<T: Transport> Database for Rest<T> {
    async fn run(&self, commands: Vec<Command>, _: Timestamp) -> Result<Vec<Value>, StoreError> {
        let reply = self
            .transport
            .post(Value::from(commands).to_string(), self.timeout)
            .await?;
        if reply.status != 200 {
            // Never a result: a refusal, or a status.
            return Err(upstash::failure(&reply));
        }
        let Ok(Value::Array(mut replies)) = serde_json::from_str(&reply.body) else {
            return Err(upstash::failure(&reply));
        };
        for reply in &mut replies {
            if let Some(error) = reply["error"].as_str() {
                return Err(upstash::refusal(error));
            }
            *reply = reply.get_mut("result").map(Value::take).unwrap_or_default();
        }
        Ok(replies)
    }

    fn is_shared(&self) -> bool {
        true
    }
}
