//! The database in Upstash Redis, over its REST API: `POST /multi-exec`.

use serde::Deserialize;
use serde_json::Value;

use super::{Command, Database};
use crate::store::StoreError;
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
        #[derive(Deserialize)]
        struct Reply {
            #[serde(default)]
            result: Value,
            error: Option<String>,
        }
        let reply = self
            .transport
            .post(Value::from(commands).to_string(), self.timeout)
            .await?;
        if reply.status != 200 {
            // Never a result: a refusal, or a status.
            return Err(upstash::failure(&reply));
        }
        let replies: Vec<Reply> =
            serde_json::from_str(&reply.body).map_err(|_| upstash::failure(&reply))?;
        let results = replies.into_iter().map(|reply| match reply.error {
            Some(error) => Err(upstash::refusal(&error)),
            None => Ok(reply.result),
        });
        results.collect()
    }

    fn is_shared(&self) -> bool {
        true
    }
}
