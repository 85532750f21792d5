//! `/_limiter/blocked`: lists, sets and lifts blocks of addresses and ranges, and lists the blocks that policies set.

use serde::Serialize;

use super::bad_input::BadInput;
use super::fields::JsonFields;
use super::input::Input;
use super::{AdminError, AdminRequest, AdminResult, ControlPlane, ok};
use crate::blocklist::pages::BlockCursor;
use crate::blocklist::records::BlockError;
use crate::blocklist::{AddressBlock, Block, BlockTarget, BlockedBy};
use crate::client::range::Range;
use crate::client::{AddressPrefix, Caller, CallerKey};
use crate::effects::Effects;
use crate::redis::Database;
use crate::redis::keys::RedisKey;
use crate::store::shared::Partitioned;
use crate::store::{Charge, Check, Store, StoreError};
use crate::time::{Millis, Timestamp};

/// The least and the most blocks on one page, and how many there are by default.
const PAGE_RANGE: [u32; 2] = [1, 1000];
const DEFAULT_PAGE: Option<u32> = Some(100);

/// The longest block that has an end, in seconds: 366 days.
const MAX_BLOCK_SECONDS: u32 = 366 * 24 * 60 * 60;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 200;

/// A block of an address or a range, with its target.
#[derive(Serialize)]
struct BlockBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    target: &'a str,
    until: Option<u64>,
    since: u64,
    by: BlockedBy,
    reason: Option<&'a str>,
}

impl<'a> BlockBody<'a> {
    fn of(target: &'a str, block: &'a Block) -> Self {
        Self {
            scope: None,
            target,
            until: block.until,
            since: block.since,
            by: block.by,
            reason: block.reason.as_deref(),
        }
    }
}

/// A block of a caller that a policy set.
#[derive(Serialize)]
struct PolicyBlockBody<'a> {
    policy: &'a str,
    caller: &'a str,
    until: u64,
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    pub(super) async fn list_blocked(&self, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            blocked: Vec<BlockBody<'a>>,
            policies: Vec<PolicyBlockBody<'a>>,
            cursor: Option<String>,
        }
        input.only(&["limit", "cursor"])?;
        let limit = input.number("limit", PAGE_RANGE, DEFAULT_PAGE)? as usize;
        let cursor = input.cursor(BlockCursor::parse)?;
        self.write_events(now).await;
        let page = self
            .records()
            .blocks(cursor.as_ref().unwrap_or(&BlockCursor::FIRST), limit, now)
            .await?;
        let policies = match cursor {
            None => self.records().policy_blocks(limit, now).await?,
            Some(_) => Vec::new(),
        };
        ok(&Body {
            scope: self.records().scope(),
            blocked: page
                .blocks
                .iter()
                .map(|(target, block)| BlockBody::of(target, block))
                .collect(),
            policies: policies
                .iter()
                .filter_map(|block| {
                    let (policy, caller) = block.key.split_once(':')?;
                    Some(PolicyBlockBody {
                        policy,
                        caller,
                        until: block.until,
                    })
                })
                .collect(),
            cursor: page.next.as_ref().map(BlockCursor::text),
        })
    }

    pub(super) async fn look_up(&self, target: &str, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            target: &'a str,
            blocked: bool,
            until: Option<u64>,
            since: Option<u64>,
            by: Option<BlockedBy>,
            reason: Option<&'a str>,
            covered_by: Option<String>,
        }
        input.only(&[])?;
        let named = target;
        let target = self.target(named)?;
        let mut own = None;
        for listed in BlockTarget::listed_as(named, self.config().ipv6_prefix) {
            own = own.or(self.records().look_up(&listed, now).await?);
        }
        let covering = match (&own, &target) {
            (None, BlockTarget::Address(network)) => {
                self.stack.reload_blocks(now).await?;
                self.stack.covering(*network, now)
            }
            _ => None,
        };
        let until = match (&own, covering) {
            (Some(own), _) => own.until,
            (None, Some((_, block))) => block.until.map(Timestamp::as_millis),
            (None, None) => None,
        };
        ok(&Body {
            scope: self.records().scope(),
            target: &target.text(),
            blocked: own.is_some() || covering.is_some(),
            until,
            since: own.as_ref().map(|own| own.since),
            by: own.as_ref().map(|own| own.by),
            reason: own.as_ref().and_then(|own| own.reason.as_deref()),
            covered_by: covering.map(|(range, _)| range.to_string()),
        })
    }

    pub(super) async fn block(
        &self,
        target: &str,
        input: &Input,
        request: &AdminRequest,
        now: Timestamp,
    ) -> AdminResult {
        input.only(&[])?;
        if let Some((range, true)) = Range::parse_loosely(target) {
            // The operator may have meant the one address, so the range is not blocked without asking.
            return Err(AdminError::BadIdentifier(BadInput(format!(
                "The address has bits after its prefix: name the range {range}, or the address without a prefix."
            ))));
        }
        let target = self.target(target)?;
        let mut fields = JsonFields::of_body(request, true)?;
        fields.only(&["seconds", "reason"])?;
        let seconds = fields.number("seconds", [1, MAX_BLOCK_SECONDS])?;
        let until = seconds.map(|seconds| now + Millis::from_secs(seconds));
        let reason = reason(fields.text("reason")?)?;
        if let Some(refusal) = target.refusal(&self.config().protection.allowlist) {
            return Err(AdminError::Refused(refusal.message().to_owned()));
        }
        let block = Block {
            until: until.map(Timestamp::as_millis),
            since: now.as_millis(),
            by: BlockedBy::Operator,
            reason,
        };
        match self.records().block(&target, &block, now).await {
            Ok(()) => {}
            Err(BlockError::Full(max)) => {
                let message = format!(
                    "There are already {max} blocks of this kind, the most possible; lift some first."
                );
                return Err(AdminError::Refused(message));
            }
            Err(BlockError::Failed(_)) => {
                self.stack.add_block(&target, AddressBlock { until });
                return Err(AdminError::InForceHereOnly);
            }
        }
        self.apply_here(&target, Some(AddressBlock { until }), now)
            .await;
        if let BlockTarget::Address(network) = target {
            // What this isolate remembers about the address comes from before this block.
            self.stack.forget(&network.to_string());
            for charge in self.charges_of(network) {
                self.stack.drop_lease(&charge.key);
            }
        }
        ok(&BlockBody {
            scope: Some(self.records().scope()),
            ..BlockBody::of(&target.text(), &block)
        })
    }

    pub(super) async fn lift(&self, target: &str, input: &Input, now: Timestamp) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            target: &'a str,
            lifted: bool,
            policies_lifted: u64,
        }
        input.only(&[])?;
        let named = target;
        let target = self.target(named)?;
        // Events that are still gathered would list a policy's block again after it is lifted.
        self.write_events(now).await;
        let mut lifted = self.records().lift(&target, now).await?;
        for listed in BlockTarget::listed_as(named, self.config().ipv6_prefix) {
            let is_listed =
                listed != target && self.records().look_up(&listed, now).await?.is_some();
            if is_listed && self.records().lift(&listed, now).await? {
                lifted = true;
                self.apply_here(&listed, None, now).await;
            }
        }
        let policies_lifted = match target {
            BlockTarget::Address(network) => self.lift_policies(network, now).await?,
            BlockTarget::Range(_) => 0,
        };
        if let BlockTarget::Address(network) = target {
            self.stack.forget(&network.to_string());
        }
        self.apply_here(&target, None, now).await;
        ok(&Body {
            scope: self.records().scope(),
            target: &target.text(),
            lifted,
            policies_lifted,
        })
    }

    /// Applies a change in this isolate once it has been written: a new block, or `None` for a lifted one.
    async fn apply_here(&self, target: &BlockTarget, block: Option<AddressBlock>, now: Timestamp) {
        match block {
            Some(block) => self.stack.add_block(target, block),
            None => self.stack.remove_block(target),
        }
        if matches!(target, BlockTarget::Range(_)) {
            // Loads the list with its new version. If that fails, a later request loads it.
            let _ = self.stack.reload_blocks(now).await;
        }
    }

    /// Lifts the blocks that policies set on an address. Also resets the quotas that set them, since the next request would
    /// be blocked again otherwise.
    async fn lift_policies(
        &self,
        network: AddressPrefix,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let charges: Vec<Charge> = self.charges_of(network).filter(Charge::blocks).collect();
        let check = Check {
            address: None,
            charges,
            cost: 0,
        };
        let verdict = self.stack.decide(&check, now).await?;
        let answers = check.charges.iter().zip(&verdict.answers);
        let blocked: Vec<String> = answers
            .filter(|(_, answer)| answer.is_some_and(|answer| answer.blocked_until.is_some()))
            .map(|(charge, _)| charge.key.clone())
            .collect();
        self.reset_quotas(&blocked, now).await?;
        Ok(blocked.len() as u64)
    }

    /// Deletes the states of quotas, and lifts the blocks that they set.
    pub(super) async fn reset_quotas(
        &self,
        keys: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.records().lift_policy_blocks(keys, now).await?;
        let quotas: Vec<RedisKey> = keys.iter().map(|key| RedisKey::Quota(key)).collect();
        self.records().delete(&quotas, now).await?;
        for key in keys {
            self.stack.forget(key);
        }
        Ok(())
    }

    /// The address's own quotas under every policy, without quotas that it shares with other callers.
    fn charges_of(&self, network: AddressPrefix) -> impl Iterator<Item = Charge> {
        let own = CallerKey::Address(network);
        let policies = self.config().policies.iter();
        let charges = policies.map(move |policy| policy.own_charge(&Caller::of_key(own)));
        charges.filter_map(move |(key, charge)| (key == own).then_some(charge))
    }

    fn target(&self, text: &str) -> Result<BlockTarget, AdminError> {
        const RULE: &str = "The target must be an address such as 192.0.2.1 or 2001:db8::1, or a range such as 10.0.0.0%2F8.";
        let target = BlockTarget::parse(text, self.config().ipv6_prefix);
        target.ok_or_else(|| AdminError::BadIdentifier(BadInput::from(RULE)))
    }
}

/// Checks the reason of a block. Lists and the page show it, so control characters are rejected. An empty reason is `None`.
fn reason(text: Option<String>) -> Result<Option<String>, BadInput> {
    let Some(reason) = text else { return Ok(None) };
    if reason.chars().count() > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
        let rule = format!(
            "`reason` must have at most {MAX_REASON_CHARS} characters, and no control characters."
        );
        return Err(BadInput(rule));
    }
    Ok(Some(reason).filter(|reason| !reason.is_empty()))
}
