//! The store in Redis: one script call for each decision.
//!
//! In a cluster ([`Keys::clustered`]) a call is about one caller. It does not read the version of the blocked ranges, which
//! is in another slot.

use serde_json::Value;

use super::shared::{Partitioned, Question, RangesVersion, Refund, SharedStore, StoreReply};
use super::{Charge, StoreError};
use crate::quota::Algorithm;
use crate::redis::Scripts;
use crate::redis::keys::{Keys, RedisKey};
use crate::redis::script::{PackedWords, Script, ScriptCall};
use crate::time::{Millis, Timestamp};

mod reply;

use reply::ScriptReply;

/// The decision as a Redis script. A test checks the hashes against the text.
pub const SCRIPT: Script = Script {
    text: include_str!("decide.lua"),
    sha1: "ce43fe414fe126d678a60270310b4c837e17e23c",
    plain_sha1: "fdd8f0c2e0170b394eab5f128029950b6f741d57",
};

/// The store in Redis.
pub struct RedisStore<R> {
    redis: R,
    keys: Keys,
}

impl<R: Scripts> RedisStore<R> {
    /// Keeps its records in `redis`, under the names that `keys` spells.
    pub const fn new(redis: R, keys: Keys) -> Self {
        Self { redis, keys }
    }

    fn call(&self, question: &Question<'_>, now: Timestamp) -> ScriptCall {
        let check = question.check;
        let charges = check.charges.len();
        let mut call = ScriptCall {
            keys: PackedWords::with_capacity(2 + 3 * charges, 64 * (2 + charges)),
            arguments: PackedWords::with_capacity(3 + 8 * charges, 16 * (3 + 4 * charges)),
        };
        let ScriptCall { keys, arguments } = &mut call;
        let mut push_key = |key: RedisKey<'_>| keys.push_with(|text| self.keys.write(key, text));
        push_key(match check.callers().next() {
            // The script needs a first key: here one of the caller's slot, in place of the version.
            Some(caller) if self.is_partitioned() => RedisKey::BlockedAddress(caller),
            _ => RedisKey::BlockedRangesVersion,
        });
        if let Some(address) = &check.address {
            push_key(RedisKey::BlockedAddress(address));
        }
        arguments.push_number(now.as_millis());
        arguments.push_number(u64::from(check.cost));
        arguments.push_number(u64::from(check.address.is_some()));
        for (place, charge) in check.charges.iter().enumerate() {
            let extra = question.extra(place);
            push_key(RedisKey::Quota(&charge.key));
            if let Some(backlog) = &extra.backlog {
                push_key(RedisKey::Absorbed(&charge.key, &backlog.name));
            }
            if charge.blocks() {
                push_key(RedisKey::QuotaBlock(&charge.key));
            }
            push_quota(arguments, charge);
            arguments.push_number(u64::from(extra.lease));
            match &extra.backlog {
                None => arguments.push(""),
                Some(backlog) => arguments.push(&backlog.state.to_string()),
            }
        }
        call
    }
}

impl<R: Scripts> SharedStore for RedisStore<R> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        self.ask_within(question, now, NO_TIMEOUT).await
    }
}

/// Leaves the timeout to the client.
const NO_TIMEOUT: Millis = Millis::new(u64::MAX);

impl<R: Scripts> Partitioned for RedisStore<R> {
    fn is_partitioned(&self) -> bool {
        self.keys.is_clustered()
    }

    async fn ask_within(
        &self,
        question: &Question<'_>,
        now: Timestamp,
        timeout: Millis,
    ) -> Result<StoreReply, StoreError> {
        let call = self.call(question, now);
        let answer = (self.redis).run_script_within::<ScriptReply>(&SCRIPT, &call, timeout);
        let mut reply = (answer.await?.read(question, now)).ok_or(StoreError::Malformed)?;
        if self.is_partitioned() {
            reply.ranges_version = RangesVersion::NotAsked;
        }
        Ok(reply)
    }

    async fn refund(&self, refund: &Refund, now: Timestamp) -> Result<(), StoreError> {
        let mut call = ScriptCall::default();
        let ScriptCall { keys, arguments } = &mut call;
        arguments.push_number(now.as_millis());
        arguments.push_number(u64::from(refund.units));
        arguments.push("r");
        for (charge, taken_at) in &refund.taken {
            keys.push_with(|text| self.keys.write(RedisKey::Quota(&charge.key), text));
            push_quota(arguments, charge);
            arguments.push_number(taken_at.as_millis());
            arguments.push("");
        }
        let changed: Value = self.redis.run_script(&SCRIPT, &call).await?;
        changed.as_u64().map(drop).ok_or(StoreError::Malformed)
    }
}

fn push_quota(arguments: &mut PackedWords, charge: &Charge) {
    let quota = &charge.quota;
    arguments.push(match quota.algorithm() {
        Algorithm::SlidingWindow => "s",
        Algorithm::TokenBucket => "t",
        Algorithm::FixedWindow => "f",
    });
    let block = charge.block.filter(|_| charge.blocks());
    arguments.push_number(u64::from(quota.limit()));
    arguments.push_number(quota.window().get());
    arguments.push_number(u64::from(quota.capacity()));
    arguments.push_number(block.unwrap_or_default().get());
    arguments.push_number(u64::from(charge.enforced));
}

#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vector_tests;
#[cfg(test)]
mod version_tests;
