//! Quotas in Redis: one script call per decision.

use super::shared::{Question, Reply, SharedStore};
use super::{Charge, StoreError};
use crate::quota::Algorithm;
use crate::redis::Scripts;
use crate::redis::keys::{Key, Keys};
use crate::redis::script::{Call, Script, Words};
use crate::time::Timestamp;

mod answer;

use answer::ScriptReply;

/// The decision as a Redis script; a test holds its names to its texts.
pub const SCRIPT: Script = Script {
    text: include_str!("decide.lua"),
    sha1: "4cc98227b6f87ffb712227349b68ea32f8a02a65",
    plain_sha1: "0954a2dbdab08f4afb52225e0ae3774c777f7bbd",
};

/// The store in Redis.
pub struct RedisStore<R> {
    redis: R,
    keys: Keys,
}

impl<R: Scripts> RedisStore<R> {
    /// Under `keys`.
    pub const fn new(redis: R, keys: Keys) -> Self {
        Self { redis, keys }
    }

    fn call(&self, question: &Question<'_>, now: Timestamp) -> Call {
        let check = question.check;
        let charges = check.charges.len();
        let mut call = Call {
            keys: Words::with_capacity(2 + 3 * charges, 64 * (2 + charges)),
            arguments: Words::with_capacity(3 + 8 * charges, 16 * (3 + 4 * charges)),
        };
        let Call { keys, arguments } = &mut call;
        let mut touch = |key: Key<'_>| keys.push_with(|text| self.keys.write(key, text));
        touch(Key::BlockedRangesVersion);
        if let Some(address) = &check.address {
            touch(Key::BlockedAddress(address));
        }
        arguments.push_number(now.as_millis());
        arguments.push_number(u64::from(check.cost));
        arguments.push_number(u64::from(check.address.is_some()));
        for (place, charge) in check.charges.iter().enumerate() {
            let extra = question.extra(place);
            touch(Key::Quota(&charge.key));
            if let Some(backlog) = &extra.backlog {
                touch(Key::Absorbed(&charge.key, &backlog.name));
            }
            if charge.blocks() {
                touch(Key::QuotaBlock(&charge.key));
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
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<Reply, StoreError> {
        let call = self.call(question, now);
        let answer: ScriptReply = self.redis.run_script(&SCRIPT, &call).await?;
        answer.read(question, now).ok_or(StoreError::Malformed)
    }
}

fn push_quota(arguments: &mut Words, charge: &Charge) {
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
