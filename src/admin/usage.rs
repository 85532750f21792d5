//! `/_limiter/usage/{policy}/{caller}` and `/_limiter/policies`: a caller's quota, and the policies in force.

use serde::Serialize;

use super::bad_input::BadInput;
use super::caller_key;
use super::input::Input;
use super::{AdminError, AdminResult, ControlPlane, ok};
use crate::client::CallerKey;
use crate::effects::Effects;
use crate::policy::{KeyBy, Mode, Policy};
use crate::redis::Database;
use crate::store::shared::Partitioned;
use crate::store::{Charge, Check, Store};
use crate::time::{Millis, Timestamp};

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    pub(super) async fn usage(
        &self,
        policy: &str,
        caller: &str,
        input: &Input,
        now: Timestamp,
    ) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            policy: &'a str,
            caller: CallerKey,
            limit: u32,
            used: u32,
            remaining: u32,
            reset: u64,
            blocked_until: Option<u64>,
            retry_at: Option<u64>,
        }
        let (policy, key, charge) = self.quota_of(policy, caller, input)?;
        let quota = charge.quota;
        let check = Check {
            address: None,
            charges: vec![Charge { lease: 0, ..charge }],
            cost: 0,
        };
        let verdict = self.stack.decide(&check, now).await?;
        let answer = verdict.answers.first().copied().flatten();
        let answer = answer.ok_or(crate::store::StoreError::Malformed)?;
        let one_unit = Check { cost: 1, ..check };
        let retry_at = answer.retry_at().max(self.stack.retry_at(&one_unit, now));
        let remaining = answer.decision.remaining;
        ok(&Body {
            // In place of a failing store, memory knows this isolate's counts alone.
            scope: if verdict.degraded {
                "isolate"
            } else {
                self.records().scope()
            },
            policy: &policy.name,
            caller: key,
            limit: quota.capacity(),
            used: quota.capacity().saturating_sub(remaining),
            remaining,
            reset: answer.decision.reset_at.as_millis(),
            blocked_until: answer.blocked_until.map(Timestamp::as_millis),
            retry_at: retry_at.map(Timestamp::as_millis),
        })
    }

    pub(super) async fn reset(
        &self,
        policy: &str,
        caller: &str,
        input: &Input,
        now: Timestamp,
    ) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            scope: &'a str,
            policy: &'a str,
            caller: CallerKey,
            reset: bool,
        }
        let (policy, key, charge) = self.quota_of(policy, caller, input)?;
        // Events that are still gathered would list the policy's block again after the reset.
        self.write_events(now).await;
        self.reset_quotas(&[charge.key], now).await?;
        ok(&Body {
            scope: self.records().scope(),
            policy: &policy.name,
            caller: key,
            reset: true,
        })
    }

    pub(super) fn policies(&self, input: &Input) -> AdminResult {
        #[derive(Serialize)]
        struct Body<'a> {
            enabled: bool,
            policies: Vec<PolicyBody<'a>>,
            preflight: Option<PolicyBody<'a>>,
        }
        input.only(&[])?;
        let config = self.config();
        let always: Vec<&Policy> = config
            .always
            .iter()
            .filter_map(|id| config.policy(*id))
            .collect();
        let to_body = |policy| PolicyBody::of(policy, always.contains(&policy));
        ok(&Body {
            enabled: config.enabled,
            policies: config.policies.iter().map(to_body).collect(),
            preflight: config.preflight.as_ref().map(to_body),
        })
    }

    /// The policy of that name.
    pub(super) fn policy_named(&self, name: &str) -> Option<&Policy> {
        let mut policies = self.config().policies.iter();
        policies.find(|policy| policy.name == name)
    }

    /// The policy `name`, the key of the quota that it charges for requests of `caller`, and the charge. With
    /// `?as=identifier`, `caller` is in the form of a check's `identifier`.
    fn quota_of(
        &self,
        name: &str,
        caller: &str,
        input: &Input,
    ) -> Result<(&Policy, CallerKey, Charge), AdminError> {
        input.only(&["as"])?;
        let read = match input.parameter("as") {
            None => caller_key::caller,
            Some("identifier") => caller_key::checked,
            Some(_) => return Err(BadInput::from("`as` must be `identifier`, or absent.").into()),
        };
        let policy = self
            .policy_named(name)
            .ok_or(AdminError::UnknownPolicy(404))?;
        let caller = read(caller, self.config().ipv6_prefix);
        let caller = caller.map_err(AdminError::BadIdentifier)?;
        let (key, charge) = policy.own_charge(&caller);
        if let CallerKey::Network(range) = key
            && !policy.counts_network(range, self.config().ipv6_prefix)
        {
            return Err(AdminError::BadIdentifier(BadInput::from(
                "The policy has no quota for a network of that prefix length; name an address in the network.",
            )));
        }
        Ok((policy, key, charge))
    }
}

/// A policy, as `/_limiter/policies` lists it.
#[derive(Serialize)]
struct PolicyBody<'a> {
    name: &'a str,
    algorithm: &'a str,
    limit: u32,
    window_seconds: u64,
    burst: Option<u32>,
    block_seconds: Option<u64>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4_prefix: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6_prefix: Option<u8>,
    mode: &'a str,
    on_store_failure: &'a str,
    lease: Option<u32>,
    authenticated: Option<u32>,
    always: bool,
}

impl<'a> PolicyBody<'a> {
    fn of(policy: &'a Policy, always: bool) -> Self {
        let quota = &policy.quota;
        let prefixes = match policy.key {
            KeyBy::Network(prefixes) => Some(prefixes),
            KeyBy::Address | KeyBy::Global | KeyBy::Header(_) => None,
        };
        Self {
            name: &policy.name,
            algorithm: quota.algorithm().name(),
            limit: quota.limit(),
            window_seconds: quota.window().secs_ceil(),
            burst: Some(quota.capacity()).filter(|burst| *burst != quota.limit()),
            block_seconds: policy.block.map(Millis::secs_ceil),
            key: match &policy.key {
                _ if policy.user.is_some() => "user".to_owned(),
                KeyBy::Address => "ip".to_owned(),
                KeyBy::Network(_) => "network".to_owned(),
                KeyBy::Global => "global".to_owned(),
                KeyBy::Header(name) => format!("header:{name}"),
            },
            ipv4_prefix: prefixes.map(|prefixes| prefixes.ipv4),
            ipv6_prefix: prefixes.map(|prefixes| prefixes.ipv6),
            mode: match policy.mode {
                Mode::Enforce => "enforce",
                Mode::Shadow => "shadow",
            },
            on_store_failure: policy.on_store_failure.name(),
            lease: Some(policy.lease).filter(|lease| *lease > 1),
            authenticated: policy.user.map(|quota| quota.limit()),
            always,
        }
    }
}
