//! The table of policies.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::limits::STRICTEST;
use super::name::{MISCONFIGURED, variable};
use crate::config::Problems;
use crate::policy::{KeyBy, Mode, Policy, PolicyId};
use crate::quota::{Algorithm, Quota};
use crate::store::OnFailure;
use crate::time::Millis;

/// The policies in force, and the names that are known but off.
#[derive(Default)]
pub(in crate::config) struct Table {
    pub(super) policies: Vec<Policy>,
    /// The policy of preflights, which has no id.
    pub(super) preflight: Option<Policy>,
    pub(super) off: BTreeSet<String>,
    /// Policies that a variable sets.
    pub(super) named: BTreeSet<String>,
    /// Options were given that apply to no policy.
    pub(super) lost_options: bool,
}

impl Table {
    pub(in crate::config) fn id(&self, name: &str) -> Option<PolicyId> {
        let place = self
            .policies
            .iter()
            .position(|policy| policy.name == name)?;
        u16::try_from(place).ok().map(PolicyId)
    }

    /// The policy of requests whose configuration cannot be read.
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

    pub(in crate::config) const fn lost_options(&self) -> bool {
        self.lost_options
    }

    pub(in crate::config) fn is_off(&self, name: &str) -> bool {
        self.off.contains(name)
    }

    pub(in crate::config) fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(usize::from(id.0))
    }

    pub(in crate::config) const fn preflight(&mut self) -> Option<Policy> {
        self.preflight.take()
    }

    pub(in crate::config) fn into_policies(self) -> Vec<Policy> {
        self.policies
    }

    /// Whether a policy asks who the user is.
    pub(in crate::config) fn asks_for_users(&self) -> bool {
        self.policies.iter().any(|policy| policy.user.is_some())
    }

    /// Takes the users' quotas out: no user can be proven.
    pub(in crate::config) fn ask_for_nobody(&mut self) {
        for policy in &mut self.policies {
            policy.user = None;
        }
    }

    /// Warns of leases that cannot be used: every policy that can deny the request needs one.
    pub(in crate::config) fn warn_useless_leases(
        &self,
        always: &[PolicyId],
        problems: &mut Problems,
    ) {
        let none = |policy: &&Policy| policy.lease < 2 && policy.mode == Mode::Enforce;
        let mut always = always.iter().filter_map(|id| self.policy(*id));
        let Some(without) = always.find(none) else {
            return;
        };
        for policy in self.policies.iter().filter(|policy| policy.lease > 1) {
            problems.warn(
                format!("RATE_LIMIT_POLICIES.{}.lease", policy.name),
                format!(
                    "is not in use: every request meets the policy `{}` too, which has none; give it one, \
                     or set {}=off",
                    without.name,
                    variable(&without.name),
                ),
            );
        }
    }

    /// Warns of policies that no route uses: the name may be mistyped.
    pub(in crate::config) fn warn_unused(
        &self,
        used: &BTreeSet<PolicyId>,
        problems: &mut Problems,
    ) {
        for policy in &self.policies {
            let always = matches!(policy.name.as_str(), "ip" | "general");
            let unused = self.id(&policy.name).is_none_or(|id| !used.contains(&id));
            if !always && unused && self.named.contains(&policy.name) {
                problems.warn(
                    variable(&policy.name),
                    "makes a policy that no route uses, only a check that names it; is the name right?",
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
    fn a_lease_needs_one_of_every_policy_that_each_request_meets() {
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
