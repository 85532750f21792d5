//! The database of an isolate's records: Redis, or the isolate's memory if no Redis is configured.

use serde_json::Value;

use super::emulator::Emulator;
use super::rest::{CallStats, RestClient};
use super::script::{Script, ScriptCall, ScriptForm};
use super::{Command, Database};
use crate::effects::Effects;
use crate::error::StoreError;
use crate::time::Timestamp;

/// The database of an isolate.
pub enum Connection<E> {
    /// In the isolate's memory.
    Emulator(Emulator),
    /// The configured Redis, over any transport of the host.
    Rest(RestClient<E>),
}

impl<E: Effects> Connection<E> {
    /// Statistics of the calls to Redis.
    #[must_use]
    pub fn calls(&self) -> CallStats {
        match self {
            Self::Emulator(_) => CallStats::default(),
            Self::Rest(database) => database.calls(),
        }
    }
}

impl<E: Effects> Database for Connection<E> {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        match self {
            Self::Emulator(database) => database.run(commands, now).await,
            Self::Rest(database) => database.run(commands, now).await,
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Emulator(database) => database.is_shared(),
            Self::Rest(database) => database.is_shared(),
        }
    }

    fn script_form(&self) -> Option<ScriptForm> {
        match self {
            Self::Emulator(database) => database.script_form(),
            Self::Rest(database) => database.script_form(),
        }
    }

    async fn run_script_for_value(
        &self,
        script: &Script,
        call: &ScriptCall,
    ) -> Result<Value, StoreError> {
        match self {
            Self::Emulator(database) => database.run_script_for_value(script, call).await,
            Self::Rest(database) => database.run_script_for_value(script, call).await,
        }
    }
}
