//! `POST /_limiter/check`: decisions for servers that limit inside their own routes.

use serde::Serialize;

use super::bad_input::BadInput;
use super::caller_key::operator_caller;
use super::fields::JsonFields;
use super::input::Input;
use super::{AdminError, AdminRequest, AdminResult, ControlPlane, ROOT, ok};
use crate::blocklist::AddressBlock;
use crate::client::{Caller, CallerKey};
use crate::effects::Effects;
use crate::events::Details;
use crate::gate::{self, CallerTerms, Exempt};
use crate::journal::DeniedRequest;
use crate::metrics::RequestOutcome;
use crate::policy::Policy;
use crate::redis::Database;
use crate::store::shared::Partitioned;
use crate::store::{Charge, Check, QuotaAnswer, Store, Verdict};
use crate::time::Timestamp;

/// The most quotas that one check may name.
const MAX_QUOTAS: usize = 16;

/// A quota as the body names it.
struct CheckInput {
    policy: String,
    identifier: String,
}

impl CheckInput {
    /// Reads `policy` and `identifier`. `None` if one is absent.
    fn read(fields: &mut JsonFields) -> Result<Option<Self>, BadInput> {
        let (policy, identifier) = (fields.text("policy")?, fields.text("identifier")?);
        let both = policy.zip(identifier);
        Ok(both.map(|(policy, identifier)| Self { policy, identifier }))
    }
}

/// One quota of a check, with its caller and policy resolved.
struct CheckItem<'a> {
    identifier: &'a str,
    caller: Caller,
    policy: &'a Policy,
    /// The key of the quota: the caller's own, or one that it shares with others.
    key: CallerKey,
    /// The most units that the quota admits at once.
    limit: u32,
    /// Why no quota counts the caller. `None` if one does.
    exempt: Option<Exempt>,
}

impl CheckItem<'_> {
    /// Whether the check has a charge for this item. Charges are in the order of these items.
    const fn is_charged(&self) -> bool {
        self.exempt.is_none()
    }
}

/// Reads the quotas that a body names, and the cost. Several quotas admit together or not at all.
fn read_body(mut fields: JsonFields) -> Result<(Vec<CheckInput>, u32), BadInput> {
    const RULE: &str = "Send either `policy` and `identifier`, or `checks`: a list of 1 to 16 objects with these two fields.";
    let cost = fields.number("cost", [0, u32::MAX])?.unwrap_or(1);
    let list = match fields.list("checks")? {
        None => {
            fields.only(&["policy", "identifier", "cost"])?;
            vec![CheckInput::read(&mut fields)?.ok_or(BadInput::from(RULE))?]
        }
        Some(checks) if (1..=MAX_QUOTAS).contains(&checks.len()) => {
            fields.only(&["checks", "cost"])?;
            let mut list = Vec::with_capacity(checks.len());
            for check in checks {
                let mut fields = JsonFields::of(check)?;
                fields.only(&["policy", "identifier"])?;
                list.push(CheckInput::read(&mut fields)?.ok_or(BadInput::from(RULE))?);
            }
            list
        }
        Some(_) => return Err(BadInput::from(RULE)),
    };
    Ok((list, cost))
}

/// The result of one quota, or of all of them together.
#[derive(Clone, Serialize)]
struct CheckBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<&'a str>,
    allowed: bool,
    policy: &'a str,
    limit: u32,
    remaining: u32,
    reset: u64,
    retry_after: Option<u64>,
    blocked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exempt: Option<&'a str>,
    /// Whether a policy in shadow mode, which denies nobody, would have denied the check.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shadow: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Self>,
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    pub(super) async fn check(
        &self,
        input: &Input,
        request: &AdminRequest,
        now: Timestamp,
    ) -> AdminResult {
        input.only(&[])?;
        let (inputs, cost) = read_body(JsonFields::of_body(request, false)?)?;
        let (check, items) = self.resolve(&inputs, cost)?;
        let verdict = match (&check.address, &*check.charges) {
            (None, []) => Verdict::default(),
            _ => match self.stack.decide(&check, now).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    self.metrics.count_check(RequestOutcome::Unavailable);
                    return Err(error.into());
                }
            },
        };
        let allowed = verdict.allows(&check);
        let statuses = quota_statuses(&items, &check, &verdict);
        self.count(&verdict, allowed, &statuses, now);
        let mut answers = check.charges.iter().zip(&verdict.answers);
        let results: Vec<CheckBody> = items
            .iter()
            .map(|item| {
                let answer = item.is_charged().then(|| answers.next()).flatten();
                result(item, answer, verdict.address_block, now)
            })
            .collect();
        // The quota that denies longest, else the one with the least left. Exempt items come last: no quota counted them.
        let binding = results.iter().min_by_key(|result| {
            let wait = result.retry_after.unwrap_or(u64::MAX);
            (
                result.allowed,
                result.exempt.is_some(),
                std::cmp::Reverse(wait),
                result.remaining,
            )
        });
        let Some(mut binding) = binding.cloned() else {
            return Err(BadInput::from("`checks` is empty.").into());
        };
        if !allowed && self.journal.records_denials() {
            self.record_denial(&items, &verdict, statuses, now);
        }
        binding.identifier = None;
        binding.allowed = allowed;
        binding.results = results;
        ok(&binding)
    }

    /// Finds the policy and the caller of each of `inputs`, and builds the check of all of them.
    fn resolve<'a>(
        &'a self,
        inputs: &'a [CheckInput],
        cost: u32,
    ) -> Result<(Check, Vec<CheckItem<'a>>), AdminError> {
        let config = self.config();
        let mut address: Option<CallerKey> = None;
        let mut check = Check {
            cost,
            ..Check::default()
        };
        let mut items: Vec<CheckItem> = Vec::with_capacity(inputs.len());
        for input in inputs {
            let policy = self.policy_named(&input.policy);
            let policy = policy.ok_or(AdminError::UnknownPolicy(400))?;
            let caller = operator_caller(&input.identifier, config.ipv6_prefix);
            let caller = caller.map_err(AdminError::BadIdentifier)?;
            if let own @ CallerKey::Address(_) = caller.key()
                && address.replace(own).is_some_and(|other| other != own)
            {
                let rule = "A check is about one caller: name at most one address.";
                return Err(BadInput::from(rule).into());
            }
            let terms = CallerTerms::of(config, caller);
            let (key, charge) = policy.own_charge(&caller);
            let is_same = |other: &CheckItem| other.key == key && other.policy.name == policy.name;
            if items.iter().any(is_same) {
                let rule = "One check must not name a quota twice. To charge more units, send a check with a higher `cost`.";
                return Err(BadInput::from(rule).into());
            }
            check.address = check.address.take().or_else(|| terms.address());
            // This fails for a header with too many values alone, and a check has no headers.
            let _ = terms.charges(policy, None, &|_| None, &mut |_, charge| {
                check.charges.push(charge);
            });
            items.push(CheckItem {
                identifier: &input.identifier,
                caller,
                policy,
                key,
                limit: charge.quota.capacity(),
                exempt: terms.exempt(),
            });
        }
        Ok((check, items))
    }

    /// Counts the check in metrics, like a request, and the decision of each quota.
    fn count(
        &self,
        verdict: &Verdict,
        allowed: bool,
        statuses: &[(gate::QuotaStatus, bool)],
        now: Timestamp,
    ) {
        let blocks = |(status, enforced): &(gate::QuotaStatus, bool)| {
            *enforced && status.answer.blocked_until.is_some()
        };
        self.metrics.count_check(match allowed {
            true if statuses.is_empty() => RequestOutcome::Exempt,
            true => RequestOutcome::Admitted,
            false if verdict.address_block.is_some() || statuses.iter().any(blocks) => {
                RequestOutcome::Blocked
            }
            false => RequestOutcome::Denied,
        });
        for (status, enforced) in statuses {
            (self.metrics).count_decision(status, *enforced, verdict.source, now);
        }
    }

    /// Records a denial. Each identifier counts as a separate caller.
    fn record_denial(
        &self,
        items: &[CheckItem<'_>],
        verdict: &Verdict,
        statuses: Vec<(gate::QuotaStatus, bool)>,
        now: Timestamp,
    ) {
        let enforced = statuses.into_iter().filter(|(_, enforced)| *enforced);
        let enforced: Vec<gate::QuotaStatus> = enforced.map(|(status, _)| status).collect();
        let mut own: Vec<Option<CallerKey>> = Vec::with_capacity(items.len());
        for item in items {
            let key = Some(item.caller.key());
            if !own.contains(&key) {
                own.push(key);
            }
        }
        let is_address = |key: &&CallerKey| matches!(key, CallerKey::Address(_));
        let address = own.iter().flatten().find(is_address);
        let asker = address.or_else(|| own.iter().flatten().next());
        let denial = DeniedRequest {
            status: 200,
            caller: asker.copied().unwrap_or(CallerKey::Unidentified),
            own_keys: &own,
            is_blocked: verdict.address_block.is_some(),
            enforced: &enforced,
        };
        self.journal.record_denial(&denial, now, &mut || Details {
            method: "POST".to_owned(),
            path: format!("{ROOT}/check"),
            ..Details::default()
        });
    }
}

/// The status of each quota that the store evaluated, and whether its policy is enforced.
fn quota_statuses(
    items: &[CheckItem<'_>],
    check: &Check,
    verdict: &Verdict,
) -> Vec<(gate::QuotaStatus, bool)> {
    let charged = items.iter().filter(|item| item.is_charged());
    let answers = charged.zip(&check.charges).zip(&verdict.answers);
    let statuses = answers.filter_map(|((item, charge), answer)| {
        let status = gate::QuotaStatus {
            policy: item.policy.name.clone(),
            quota: charge.quota,
            charged: item.key,
            answer: (*answer)?,
        };
        Some((status, charge.enforced))
    });
    statuses.collect()
}

/// The result for one item. `charged` is `None` for an exempt caller. The charge's answer is `None` if a block or a
/// remembered denial of another quota decided first.
fn result<'a>(
    item: &CheckItem<'a>,
    charged: Option<(&Charge, &Option<QuotaAnswer>)>,
    block: Option<AddressBlock>,
    now: Timestamp,
) -> CheckBody<'a> {
    let block_end = block.and_then(|block| block.until);
    let answer = charged.and_then(|(_, answer)| answer.as_ref());
    let enforced = charged.is_some_and(|(charge, _)| charge.enforced);
    let binding = answer.filter(|_| enforced);
    let retry_at = match binding {
        _ if block.is_some() && block_end.is_none() => None,
        Some(answer) => answer.retry_at().max(block_end),
        None => block_end,
    };
    let reset = answer.map_or(now, |answer| answer.decision.reset_at);
    let remaining_without_answer = if item.is_charged() { 0 } else { item.limit };
    CheckBody {
        identifier: Some(item.identifier),
        results: Vec::new(),
        allowed: block.is_none() && binding.is_none_or(QuotaAnswer::allows),
        policy: &item.policy.name,
        limit: item.limit,
        remaining: answer.map_or(remaining_without_answer, |answer| answer.decision.remaining),
        reset: retry_at.unwrap_or(reset).as_millis(),
        retry_after: retry_at.map(|at| at.since(now).secs_ceil().max(1)),
        blocked: block.is_some() || binding.is_some_and(|answer| answer.blocked_until.is_some()),
        exempt: item.exempt.map(Exempt::name),
        shadow: !enforced && answer.is_some_and(|answer| !answer.decision.allowed()),
    }
}
