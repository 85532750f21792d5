//! The policies, while the configuration is compiled.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::limits::STRICTEST;
use super::name::{MISCONFIGURED, variable};
use crate::config::Problems;
use crate::policy::{KeyBy, Mode, Policy, PolicyId};
use crate::quota::{Algorithm, Quota};
use crate::store::OnFailure;
use crate::time::Millis;

/// The policies in force, and the names of those that are off.
#[derive(Default)]
pub(in crate::config) struct PolicyTable {
    pub(super) policies: Vec<Policy>,
    /// The policy of preflights, which has no id.
    pub(super) preflight: Option<Policy>,
    pub(super) off: BTreeSet<String>,
    /// Policies that a variable defines.
    pub(super) defined: BTreeSet<String>,
    /// Whether options or a variable could not be applied to the policies that they were meant for.
    pub(super) has_lost_options: bool,
}

impl PolicyTable {
    pub(in crate::config) fn id(&self, name: &str) -> Option<PolicyId> {
        let index = self
            .policies
            .iter()
            .position(|policy| policy.name == name)?;
        u16::try_from(index).ok().map(PolicyId)
    }

    /// The policy of requests whose intended policies are not known. Adds it if it is not in the table yet.
    pub(in crate::config) fn misconfigured(&mut self) -> Option<PolicyId> {
        if self.id(MISCONFIGURED).is_none() {
            let limit = NonZeroU32::new(STRICTEST.requests)?;
            let window = Millis::from_secs(STRICTEST.seconds);
            self.policies.push(Policy {
                name: MISCONFIGURED.to_owned(),
                quota: Quota::new(Algorithm::SlidingWindow, limit, window).ok()?,
                user: None,
                block: Some(Millis::from_secs(STRICTEST.block_seconds)),
                key: KeyBy::Address,
                mode: Mode::Enforce,
                on_store_failure: OnFailure::Memory,
                lease: 0,
            });
        }
        self.id(MISCONFIGURED)
    }

    pub(in crate::config) const fn has_lost_options(&self) -> bool {
        self.has_lost_options
    }

    pub(in crate::config) fn is_off(&self, name: &str) -> bool {
        self.off.contains(name)
    }

    pub(in crate::config) fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(usize::from(id.0))
    }

    pub(in crate::config) const fn take_preflight(&mut self) -> Option<Policy> {
        self.preflight.take()
    }

    pub(in crate::config) fn into_policies(self) -> Vec<Policy> {
        self.policies
    }

    /// Whether any policy has a quota for proven users.
    pub(in crate::config) fn has_user_quotas(&self) -> bool {
        self.policies.iter().any(|policy| policy.user.is_some())
    }

    /// Removes the quotas of proven users, for a configuration that can prove no user.
    pub(in crate::config) fn remove_user_quotas(&mut self) {
        for policy in &mut self.policies {
            policy.user = None;
        }
    }

    /// Warns of leases that are never used. A lease is used only if every policy that can deny the request has one.
    pub(in crate::config) fn warn_of_unused_leases(
        &self,
        always: &[PolicyId],
        problems: &mut Problems,
    ) {
        let has_none = |policy: &&Policy| policy.lease < 2 && policy.mode == Mode::Enforce;
        let mut always = always.iter().filter_map(|id| self.policy(*id));
        let Some(without) = always.find(has_none) else {
            return;
        };
        for policy in self.policies.iter().filter(|policy| policy.lease > 1) {
            problems.warn(
                format!("RATE_LIMIT_POLICIES.{}.lease", policy.name),
                format!(
                    "is not in use: every request meets the policy `{}` too, which has no lease of 2 or more; give that policy one, \
                     or set {}=off",
                    without.name,
                    variable(&without.name),
                ),
            );
        }
    }

    /// Warns of policies that no route uses, since the name may be mistyped.
    pub(in crate::config) fn warn_of_unused_policies(
        &self,
        used: &BTreeSet<PolicyId>,
        problems: &mut Problems,
    ) {
        for policy in &self.policies {
            let is_used_by_default = matches!(policy.name.as_str(), "ip" | "general");
            let is_unused = self.id(&policy.name).is_none_or(|id| !used.contains(&id));
            if !is_used_by_default && is_unused && self.defined.contains(&policy.name) {
                problems.warn(
                    variable(&policy.name),
                    "defines a policy that no route uses; correct the name, name it in a route, or ignore this if checks use it",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::Severity;
    use crate::config::tests::{compile, policy};

    #[test]
    fn a_lease_is_used_only_if_every_policy_that_all_requests_meet_has_one() {
        let of = |vars: &Value| {
            let compiled = compile(vars);
            let warned = compiled.problems.iter().map(|problem| {
                assert_eq!(problem.severity, Severity::Warning);
                problem.variable.clone()
            });
            let lease = policy(&compiled.config, "general").unwrap().lease;
            (lease, warned.collect::<Vec<_>>())
        };
        let plain = json!({"general": {"lease": 30}});
        let useless = "RATE_LIMIT_POLICIES.general.lease".to_owned();
        assert_eq!(
            of(&json!({"RATE_LIMIT_POLICIES": plain})),
            (30, vec![useless])
        );
        let off = json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": plain});
        assert_eq!(of(&off), (30, vec![]));
        let shadow = json!({"general": {"lease": 30}, "ip": {"mode": "shadow"}});
        assert_eq!(of(&json!({"RATE_LIMIT_POLICIES": shadow})), (30, vec![]));
        let both = json!({"general": {"lease": 30}, "ip": {"lease": 100}});
        assert_eq!(of(&json!({"RATE_LIMIT_POLICIES": both})), (30, vec![]));

        let blocks =
            json!({"RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"auth": {"lease": 30}}});
        let compiled = compile(&blocks);
        assert_eq!(
            compiled.problems[0].variable,
            "RATE_LIMIT_POLICIES.auth.lease"
        );
        assert_eq!(compiled.problems[0].severity, Severity::Warning);
        assert_eq!(policy(&compiled.config, "auth").unwrap().lease, 0);
    }

    #[test]
    fn a_policy_that_no_route_uses_is_a_warning() {
        let compiled = compile(&json!({"RATE_LIMIT_AUHT": "3,60"}));
        assert_eq!(compiled.problems.len(), 1);
        assert_eq!(compiled.problems[0].severity, Severity::Warning);
        assert_eq!(compiled.problems[0].variable, "RATE_LIMIT_AUHT");
        assert!(!compiled.has_errors());
    }
}
