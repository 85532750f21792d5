//! `POST /_limiter/check`: decisions for servers that limit inside their own routes.

use serde::Serialize;

use super::bad::Bad;
use super::caller_key::identified;
use super::fields::Fields;
use super::input::Input;
use super::{Answered, Plane, ROOT, Request, ok};
use crate::blocklist::AddressBlock;
use crate::client::CallerKey;
use crate::effects::Effects;
use crate::events::Details;
use crate::gate;
use crate::journal::Denial;
use crate::policy::Policy;
use crate::redis::Database;
use crate::store::shared::SharedStore;
use crate::store::{Answer, Charge, Check, Store, Verdict};
use crate::time::Timestamp;

/// Quotas in one check.
const MOST: usize = 16;

struct One {
    policy: String,
    identifier: String,
}

impl One {
    fn read(fields: &mut Fields) -> Result<Option<Self>, Bad> {
        let (policy, identifier) = (fields.text("policy")?, fields.text("identifier")?);
        let both = policy.zip(identifier);
        Ok(both.map(|(policy, identifier)| Self { policy, identifier }))
    }
}

/// Whose quota is charged, under which policy.
type Charged<'a> = (&'a Policy, CallerKey);

/// One quota, or several that admit together or not at all; and the cost.
fn asked(mut fields: Fields) -> Result<(Vec<One>, u32), Bad> {
    const RULE: &str =
        "Send either `policy` and `identifier`, or `checks`: a list of 1 to 16 of them.";
    let cost = fields.number("cost", [0, u32::MAX])?.unwrap_or(1);
    let list = match fields.list("checks")? {
        None => {
            fields.only(&["policy", "identifier", "cost"])?;
            vec![One::read(&mut fields)?.ok_or(Bad::from(RULE))?]
        }
        Some(checks) if (1..=MOST).contains(&checks.len()) => {
            fields.only(&["checks", "cost"])?;
            let mut list = Vec::with_capacity(checks.len());
            for check in checks {
                let mut fields = Fields::of(check)?;
                fields.only(&["policy", "identifier"])?;
                list.push(One::read(&mut fields)?.ok_or(Bad::from(RULE))?);
            }
            list
        }
        Some(_) => return Err(Bad::from(RULE)),
    };
    Ok((list, cost))
}

/// Where one quota stands, or all of them.
#[derive(Clone, Serialize)]
struct Standing<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<&'a str>,
    allowed: bool,
    policy: &'a str,
    limit: u32,
    remaining: u32,
    reset: u64,
    retry_after: Option<u64>,
    blocked: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Self>,
}

impl<S: SharedStore, D: Database, E: Effects + Clone> Plane<'_, S, D, E> {
    pub(super) async fn check(&self, input: &Input, request: &Request, now: Timestamp) -> Answered {
        input.only(&[])?;
        let (list, cost) = asked(Fields::of_body(request, false)?)?;
        let (check, charged) = self.charges(&list, cost)?;
        let verdict = self.stack.decide(&check, now).await?;
        let allowed = verdict.allows(&check);
        let block = verdict.address_block;
        let asked = list.iter().zip(&charged).zip(&check.charges);
        let standings: Vec<Standing> = asked
            .zip(&verdict.answers)
            .map(|(((one, (policy, _)), charge), answer)| Standing {
                identifier: Some(&one.identifier),
                policy: &policy.name,
                ..standing(charge, answer.as_ref(), block, now)
            })
            .collect();
        // The one that denies longest, or that has the least left; one that was not asked says nothing.
        let binding = standings.iter().min_by_key(|standing| {
            let wait = standing.retry_after.unwrap_or(u64::MAX);
            (
                standing.allowed,
                std::cmp::Reverse(wait),
                standing.remaining,
            )
        });
        let Some(mut binding) = binding.cloned() else {
            return Err(Bad::from("`checks` is empty.").into());
        };
        if !allowed {
            self.note_denial(&charged, &check, &verdict, now);
        }
        binding.identifier = None;
        binding.allowed = allowed;
        binding.results = standings;
        ok(&binding)
    }

    /// The check, and what each of its charges is about.
    fn charges(&self, list: &[One], cost: u32) -> Result<(Check, Vec<Charged<'_>>), Bad> {
        let config = self.config();
        let mut check = Check {
            cost,
            ..Check::default()
        };
        let mut charged = Vec::with_capacity(list.len());
        for one in list {
            let policy = self.policy_named(&one.policy).ok_or(Bad::from(
                "`policy` must be one that is configured; GET /_limiter/policies lists them.",
            ))?;
            let key = identified(&one.identifier, config.ipv6_prefix)?;
            if let CallerKey::Address(network) = key {
                let address = network.to_string();
                if check
                    .address
                    .as_ref()
                    .is_some_and(|known| *known != address)
                {
                    return Err(Bad::from(
                        "A check is about one caller: name one address at most.",
                    ));
                }
                check.address = Some(address);
            }
            let charge = Charge {
                enforced: true,
                ..policy.charge(&key, policy.block)
            };
            if check.charges.iter().any(|known| known.key == charge.key) {
                return Err(Bad::from("A quota must not be named twice in one check."));
            }
            check.charges.push(charge);
            charged.push((policy, key));
        }
        Ok((check, charged))
    }

    /// Each identifier is a caller of its own.
    fn note_denial(
        &self,
        charged: &[Charged<'_>],
        check: &Check,
        verdict: &Verdict,
        now: Timestamp,
    ) {
        let asked = charged.iter().zip(&check.charges).zip(&verdict.answers);
        let enforced = asked.filter_map(|(((policy, key), charge), answer)| {
            Some(gate::Standing {
                policy: policy.name.clone(),
                quota: charge.quota,
                charged: *key,
                answer: (*answer)?,
            })
        });
        let enforced: Vec<gate::Standing> = enforced.collect();
        let mut own: Vec<Option<CallerKey>> = Vec::with_capacity(charged.len());
        for (_, key) in charged {
            if !own.contains(&Some(*key)) {
                own.push(Some(*key));
            }
        }
        let is_address = |key: &&CallerKey| matches!(key, CallerKey::Address(_));
        let address = own.iter().flatten().find(is_address);
        let asker = address.or_else(|| own.iter().flatten().next());
        let denial = Denial {
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

/// `answer` is absent where a block, or another quota that is known to deny, has decided.
fn standing<'a>(
    charge: &Charge,
    answer: Option<&Answer>,
    block: Option<AddressBlock>,
    now: Timestamp,
) -> Standing<'a> {
    let ends = block.and_then(|block| block.until);
    let retry_at = match answer {
        _ if block.is_some() && ends.is_none() => None,
        Some(answer) => answer.retry_at().max(ends),
        None => ends,
    };
    let reset = answer.map_or(now, |answer| answer.decision.reset_at);
    Standing {
        identifier: None,
        results: Vec::new(),
        allowed: block.is_none() && answer.is_none_or(Answer::allows),
        policy: "",
        limit: charge.quota.capacity(),
        remaining: answer.map_or(0, |answer| answer.decision.remaining),
        reset: retry_at.unwrap_or(reset).as_millis(),
        retry_after: retry_at.map(|at| at.since(now).secs_ceil().max(1)),
        blocked: block.is_some() || answer.is_some_and(|answer| answer.blocked_until.is_some()),
    }
}
