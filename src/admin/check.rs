//! `POST /_limiter/check`: decisions for servers that limit inside their own routes.

use serde::{Deserialize, Serialize};

use super::input::{Bad, Input, body, identified, policy};
use super::{Answered, Isolate, Plane, ROOT, Request, ok};
use crate::database::Database;
use crate::events::{Details, Kind, Note};
use crate::policy::Policy;
use crate::store::{AddressBlock, Answer, Charge, Check, Store};
use crate::time::Timestamp;

/// Quotas in one check.
const MOST: usize = 16;

/// One quota, or several that admit together or not at all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    policy: Option<String>,
    identifier: Option<String>,
    checks: Option<Vec<One>>,
    cost: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    policy: String,
    identifier: String,
}

impl Asked {
    fn list(self) -> Result<(Vec<One>, u32), Bad> {
        const RULE: &str =
            "Send either `policy` and `identifier`, or `checks`: a list of 1 to 16 of them.";
        let cost = self.cost.unwrap_or(1);
        let list = match (self.policy, self.identifier, self.checks) {
            (Some(policy), Some(identifier), None) => vec![One { policy, identifier }],
            (None, None, Some(checks)) if (1..=MOST).contains(&checks.len()) => checks,
            _ => return Err(Bad::from(RULE)),
        };
        Ok((list, cost))
    }
}

/// Where one quota stands.
#[derive(Serialize)]
struct Standing<'a> {
    allowed: bool,
    policy: &'a str,
    limit: u32,
    remaining: u32,
    reset: u64,
    retry_after: Option<u64>,
    blocked: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    identifier: &'a str,
    #[serde(flatten)]
    standing: &'a Standing<'a>,
}

impl<S: Store, D: Database, I: Isolate> Plane<'_, S, D, I> {
    pub(super) async fn check(&self, input: &Input, request: &Request, now: Timestamp) -> Answered {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            binding: &'a Standing<'a>,
            results: Vec<Named<'a>>,
        }
        input.only(&[])?;
        let asked: Asked = body(request, None)?;
        let (list, cost) = asked.list()?;
        let (check, policies) = self.charges(&list, cost)?;
        let verdict = self.store.decide(&check, now).await?;
        let allowed = verdict.allows(&check);
        let standings: Vec<Standing> = policies
            .iter()
            .zip(&verdict.answers)
            .map(|(policy, answer)| standing(policy, answer.as_ref(), verdict.address_block, now))
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
        let Some(binding) = binding else {
            return Err(Bad::from("`checks` is empty.").into());
        };
        if !allowed {
            self.note_denial(&check, &list, binding.policy, now);
        }
        let binding = Standing {
            allowed,
            ..*binding
        };
        ok(&Body {
            binding: &binding,
            results: list
                .iter()
                .zip(&standings)
                .map(|(one, standing)| Named {
                    identifier: &one.identifier,
                    standing,
                })
                .collect(),
        })
    }

    fn charges(&self, list: &[One], cost: u32) -> Result<(Check, Vec<&Policy>), Bad> {
        let config = self.config();
        let mut check = Check {
            cost,
            ..Check::default()
        };
        let mut policies = Vec::with_capacity(list.len());
        for one in list {
            let policy = policy(&config.policies, &one.policy).ok_or(Bad::from(
                "`policy` must be one that is configured; GET /_limiter/policies lists them.",
            ))?;
            let (key, is_address) = identified(&one.identifier, config.ipv6_prefix)?;
            if is_address {
                if check.address.as_ref().is_some_and(|known| *known != key) {
                    return Err(Bad::from(
                        "A check is about one caller: name one address at most.",
                    ));
                }
                check.address = Some(key.clone());
            }
            let charge = Charge {
                enforced: true,
                ..policy.charge(&key, policy.block)
            };
            if check.charges.iter().any(|known| known.key == charge.key) {
                return Err(Bad::from("A quota must not be named twice in one check."));
            }
            check.charges.push(charge);
            policies.push(policy);
        }
        Ok((check, policies))
    }

    fn note_denial(&self, check: &Check, list: &[One], policy: &str, now: Timestamp) {
        let denying = check
            .charges
            .iter()
            .zip(list)
            .find(|(_, one)| one.policy == policy);
        let key = denying.and_then(|(charge, _)| charge.key.split_once(':'));
        let note = Note {
            kind: Kind::Denied,
            caller: key.map_or("unknown", |(_, caller)| caller),
            policy,
            method: "POST",
            status: 200,
        };
        self.recorder.note(&note, now, || Details {
            path: format!("{ROOT}/check"),
            ..Details::default()
        });
    }
}

/// `answer` is absent where a block, or another quota that is known to deny, has decided.
fn standing<'a>(
    policy: &'a Policy,
    answer: Option<&Answer>,
    block: Option<AddressBlock>,
    now: Timestamp,
) -> Standing<'a> {
    let capacity = policy.quota.capacity();
    let ends = block.and_then(|block| block.until);
    let retry_at = match answer {
        _ if block.is_some() && ends.is_none() => None,
        Some(answer) => answer.retry_at().max(ends),
        None => ends,
    };
    let reset = answer.map_or(now, |answer| answer.decision.reset_at);
    Standing {
        allowed: block.is_none() && answer.is_none_or(Answer::allows),
        policy: &policy.name,
        limit: capacity,
        remaining: answer.map_or(0, |answer| answer.decision.remaining),
        reset: retry_at.unwrap_or(reset).as_millis(),
        retry_after: retry_at.map(|at| at.since(now).secs_ceil().max(1)),
        blocked: block.is_some() || answer.is_some_and(|answer| answer.blocked_until.is_some()),
    }
}
