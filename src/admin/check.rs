//! `POST /_limiter/check`: decisions for servers that limit inside their own routes.

use serde::Serialize;

use super::bad_input::BadInput;
use super::caller_key::identified;
use super::fields::JsonFields;
use super::input::Input;
use super::{AdminError, AdminRequest, AdminResult, ControlPlane, ROOT, ok};
use crate::blocklist::AddressBlock;
use crate::client::{Caller, CallerKey};
use crate::effects::Effects;
use crate::events::Details;
use crate::gate::{self, Exempt, Terms};
use crate::journal::DeniedRequest;
use crate::metrics::RequestOutcome;
use crate::policy::Policy;
use crate::redis::Database;
use crate::store::shared::Partitioned;
use crate::store::{Charge, Check, QuotaAnswer, Store, Verdict};
use crate::time::Timestamp;

/// Quotas in one check.
const MOST: usize = 16;

struct CheckInput {
    policy: String,
    identifier: String,
}

impl CheckInput {
    fn read(fields: &mut JsonFields) -> Result<Option<Self>, BadInput> {
        let (policy, identifier) = (fields.text("policy")?, fields.text("identifier")?);
        let both = policy.zip(identifier);
        Ok(both.map(|(policy, identifier)| Self { policy, identifier }))
    }
}

/// What one of several asks for.
struct CheckItem<'a> {
    identifier: &'a str,
    caller: Caller,
    policy: &'a Policy,
    /// Whose quota that is: the caller's own, or one that it shares.
    key: CallerKey,
    limit: u32,
    /// Why no quota counts the caller, if none does.
    exempt: Option<Exempt>,
}

impl CheckItem<'_> {
    /// Those that quotas count, in the order of the check's charges.
    const fn is_charged(&self) -> bool {
        self.exempt.is_none()
    }
}

/// One quota, or several that admit together or not at all; and the cost.
fn asked(mut fields: JsonFields) -> Result<(Vec<CheckInput>, u32), BadInput> {
    const RULE: &str =
        "Send either `policy` and `identifier`, or `checks`: a list of 1 to 16 of them.";
    let cost = fields.number("cost", [0, u32::MAX])?.unwrap_or(1);
    let list = match fields.list("checks")? {
        None => {
            fields.only(&["policy", "identifier", "cost"])?;
            vec![CheckInput::read(&mut fields)?.ok_or(BadInput::from(RULE))?]
        }
        Some(checks) if (1..=MOST).contains(&checks.len()) => {
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

/// Where one quota stands, or all of them.
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
    /// A policy in shadow mode, which denies nobody, would have denied it.
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
        let (list, cost) = asked(JsonFields::of_body(request, false)?)?;
        let (check, asked) = self.asking(&list, cost)?;
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
        let quotas = standings_of(&asked, &check, &verdict);
        self.count(&verdict, allowed, &quotas, now);
        let mut answers = check.charges.iter().zip(&verdict.answers);
        let standings: Vec<CheckBody> = asked
            .iter()
            .map(|one| {
                let answered = one.is_charged().then(|| answers.next()).flatten();
                standing(one, answered, verdict.address_block, now)
            })
            .collect();
        // The one that denies longest, or that has the least left; one that was not asked says nothing.
        let binding = standings.iter().min_by_key(|standing| {
            let wait = standing.retry_after.unwrap_or(u64::MAX);
            (
                standing.allowed,
                standing.exempt.is_some(),
                std::cmp::Reverse(wait),
                standing.remaining,
            )
        });
        let Some(mut binding) = binding.cloned() else {
            return Err(BadInput::from("`checks` is empty.").into());
        };
        if !allowed && self.journal.records_denials() {
            self.note_denial(&asked, &verdict, quotas, now);
        }
        binding.identifier = None;
        binding.allowed = allowed;
        binding.results = standings;
        ok(&binding)
    }

    /// The check, and what each of `list` asks for.
    fn asking<'a>(
        &'a self,
        list: &'a [CheckInput],
        cost: u32,
    ) -> Result<(Check, Vec<CheckItem<'a>>), AdminError> {
        let config = self.config();
        let mut address: Option<CallerKey> = None;
        let mut check = Check {
            cost,
            ..Check::default()
        };
        let mut asked: Vec<CheckItem> = Vec::with_capacity(list.len());
        for one in list {
            let policy = self.policy_named(&one.policy);
            let policy = policy.ok_or(AdminError::UnknownPolicy(400))?;
            let caller = identified(&one.identifier, config.ipv6_prefix);
            let caller = caller.map_err(AdminError::Identifier)?;
            if let own @ CallerKey::Address(_) = caller.key()
                && address.replace(own).is_some_and(|known| known != own)
            {
                let rule = "A check is about one caller: name one address at most.";
                return Err(BadInput::from(rule).into());
            }
            let terms = Terms::of(config, caller);
            let (key, charge) = policy.own_charge(&caller);
            let is_same = |other: &CheckItem| other.key == key && other.policy.name == policy.name;
            if asked.iter().any(is_same) {
                let rule = "A quota must not be named twice in one check.";
                return Err(BadInput::from(rule).into());
            }
            check.address = check.address.take().or_else(|| terms.address());
            // No header tells callers of a check apart: there are never too many.
            let _ = terms.charges(policy, None, &|_| None, &mut |_, charge| {
                check.charges.push(charge);
            });
            asked.push(CheckItem {
                identifier: &one.identifier,
                caller,
                policy,
                key,
                limit: charge.quota.capacity(),
                exempt: terms.exempt(),
            });
        }
        Ok((check, asked))
    }

    /// For metrics: as a request, and what each quota said.
    fn count(
        &self,
        verdict: &Verdict,
        allowed: bool,
        standings: &[(gate::QuotaStatus, bool)],
        now: Timestamp,
    ) {
        let blocks = |(standing, enforced): &(gate::QuotaStatus, bool)| {
            *enforced && standing.answer.blocked_until.is_some()
        };
        self.metrics.count_check(match allowed {
            true if standings.is_empty() => RequestOutcome::Exempt,
            true => RequestOutcome::Admitted,
            false if verdict.address_block.is_some() || standings.iter().any(blocks) => {
                RequestOutcome::Blocked
            }
            false => RequestOutcome::Denied,
        });
        for (standing, enforced) in standings {
            (self.metrics).count_decision(standing, *enforced, verdict.source, now);
        }
    }

    /// Each identifier is its own caller.
    fn note_denial(
        &self,
        asked: &[CheckItem<'_>],
        verdict: &Verdict,
        standings: Vec<(gate::QuotaStatus, bool)>,
        now: Timestamp,
    ) {
        let enforced = standings.into_iter().filter(|(_, enforced)| *enforced);
        let enforced: Vec<gate::QuotaStatus> = enforced.map(|(standing, _)| standing).collect();
        let mut own: Vec<Option<CallerKey>> = Vec::with_capacity(asked.len());
        for one in asked {
            let key = Some(one.caller.key());
            if !own.contains(&key) {
                own.push(key);
            }
        }
        let is_address = |key: &&CallerKey| matches!(key, CallerKey::Address(_));
        let address = own.iter().flatten().find(is_address);
        let asker = address.or_else(|| own.iter().flatten().next());
        let denial = DeniedRequest {
            status: 200,
            asker: asker.copied().unwrap_or(CallerKey::Unidentified),
            own: &own,
            is_blocked: verdict.address_block.is_some(),
            enforced: &enforced,
        };
        self.journal.note_denial(&denial, now, &mut || Details {
            method: "POST".to_owned(),
            path: format!("{ROOT}/check"),
            ..Details::default()
        });
    }
}

/// What each quota answered that was asked, and whether it is enforced.
fn standings_of(
    asked: &[CheckItem<'_>],
    check: &Check,
    verdict: &Verdict,
) -> Vec<(gate::QuotaStatus, bool)> {
    let charged = asked.iter().filter(|one| one.is_charged());
    let answers = charged.zip(&check.charges).zip(&verdict.answers);
    let standings = answers.filter_map(|((one, charge), answer)| {
        let standing = gate::QuotaStatus {
            policy: one.policy.name.clone(),
            quota: charge.quota,
            charged: one.key,
            answer: (*answer)?,
        };
        Some((standing, charge.enforced))
    });
    standings.collect()
}

/// `answered` is absent where no quota counts the caller; its answer, where a block or another quota that
/// is known to deny has decided.
fn standing<'a>(
    one: &CheckItem<'a>,
    answered: Option<(&Charge, &Option<QuotaAnswer>)>,
    block: Option<AddressBlock>,
    now: Timestamp,
) -> CheckBody<'a> {
    let ends = block.and_then(|block| block.until);
    let answer = answered.and_then(|(_, answer)| answer.as_ref());
    let enforced = answered.is_some_and(|(charge, _)| charge.enforced);
    let denial = answer.filter(|_| enforced);
    let retry_at = match denial {
        _ if block.is_some() && ends.is_none() => None,
        Some(answer) => answer.retry_at().max(ends),
        None => ends,
    };
    let reset = answer.map_or(now, |answer| answer.decision.reset_at);
    let unasked = if one.is_charged() { 0 } else { one.limit };
    CheckBody {
        identifier: Some(one.identifier),
        results: Vec::new(),
        allowed: block.is_none() && denial.is_none_or(QuotaAnswer::allows),
        policy: &one.policy.name,
        limit: one.limit,
        remaining: answer.map_or(unasked, |answer| answer.decision.remaining),
        reset: retry_at.unwrap_or(reset).as_millis(),
        retry_after: retry_at.map(|at| at.since(now).secs_ceil().max(1)),
        blocked: block.is_some() || denial.is_some_and(|answer| answer.blocked_until.is_some()),
        exempt: one.exempt.map(Exempt::name),
        shadow: !enforced && answer.is_some_and(|answer| !answer.decision.allowed()),
    }
}
