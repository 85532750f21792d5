//! The pure function that decides one request against all of its quotas and blocks. Every store runs
//! it as one atomic step: the memory store calls it, and `decide.lua` is the same step in Redis.

use std::borrow::Borrow;

use super::shared::{ChargeExtra, Question};
use super::{Charge, QuotaAnswer};
use crate::quota::{CLOCK_TOLERANCE, Evaluation, QuotaOutcome, QuotaState};
use crate::time::Timestamp;

/// What a store holds for one charge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The quota's state.
    pub state: Option<QuotaState>,
    /// The end of the policy's block of this caller.
    pub blocked_until: Option<Timestamp>,
}

/// What to answer for one charge, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeOutcome {
    /// The answer.
    pub answer: QuotaAnswer,
    /// Units leased in addition to the request's.
    pub leased: u32,
    /// The state to write; `None` if it does not change.
    pub state: Option<QuotaState>,
    /// The end of a block to set; `None` if none is set.
    pub block: Option<Timestamp>,
}

/// Decides the check of `question` over `records`, one for each charge in order. `address_blocked` says whether
/// the caller's address is blocked.
///
/// - A request is admitted if no block is in force and every enforced quota allows it.
/// - An admitted request is charged to every enforced quota, and to every shadow quota that allows it. A denied request is
///   charged to none. So a shadow quota counts what would be admitted if it were enforced too. This also holds if an isolate
///   answers a denial from memory.
/// - A denial sets the blocks of the policies that deny, unless the caller is blocked already or the cost can never be
///   admitted. So a caller does not lengthen its block by further requests.
/// - The units of a backlog were admitted already: they are added first, and kept whatever the verdict.
/// - A lease is taken last, and only if the request is admitted.
#[must_use]
pub fn decide(
    question: &Question<'_>,
    records: &[impl Borrow<Record>],
    address_blocked: bool,
    now: Timestamp,
) -> Vec<ChargeOutcome> {
    let check = question.check;
    let evaluated: Vec<EvaluatedCharge<'_>> = check
        .charges
        .iter()
        .zip(records)
        .enumerate()
        .map(|(place, (charge, record))| {
            EvaluatedCharge::new(
                charge,
                question.extra(place),
                record.borrow(),
                check.cost,
                now,
            )
        })
        .collect();

    let enforced = || evaluated.iter().filter(|one| one.charge.enforced);
    let blocked = address_blocked || enforced().any(|one| one.blocked_until.is_some());
    let admitted = !blocked && enforced().all(|one| one.evaluation.decision.allowed());
    let impossible =
        enforced().any(|one| one.evaluation.decision.outcome == QuotaOutcome::Impossible);
    let sets_blocks = !blocked && !impossible && check.cost > 0;

    evaluated
        .into_iter()
        .map(|one| {
            if admitted {
                one.admitted(now)
            } else {
                one.denied(sets_blocks, now)
            }
        })
        .collect()
}

/// One charge, its record, and how its quota alone evaluates the request.
struct EvaluatedCharge<'a> {
    charge: &'a Charge,
    extra: &'a ChargeExtra,
    record: &'a Record,
    /// The state with the backlog added, if that changes it.
    absorbed: Option<QuotaState>,
    blocked_until: Option<Timestamp>,
    evaluation: Evaluation,
}

impl<'a> EvaluatedCharge<'a> {
    fn new(
        charge: &'a Charge,
        extra: &'a ChargeExtra,
        record: &'a Record,
        cost: u32,
        now: Timestamp,
    ) -> Self {
        let stored = record.state.as_ref();
        let backlog = extra.backlog.as_ref();
        let absorbed = backlog.and_then(|backlog| charge.quota.absorb(stored, &backlog.state, now));
        let evaluation = charge.quota.decide(absorbed.as_ref().or(stored), cost, now);
        Self {
            charge,
            extra,
            record,
            absorbed,
            blocked_until: active_block(charge, record, now),
            evaluation,
        }
    }

    fn admitted(self, now: Timestamp) -> ChargeOutcome {
        let mut decision = self.evaluation.decision;
        let mut state = (self.evaluation.admitted)
            .or(self.evaluation.repaired)
            .or(self.absorbed);
        let mut leased = 0;
        let max_lease = self.extra.lease;
        if max_lease > 0 && decision.allowed() {
            let quota = &self.charge.quota;
            let current = state.as_ref().or(self.record.state.as_ref());
            if let Some(lease) = quota.lease(current, max_lease, now) {
                let after = quota.decide(Some(&lease.state), 0, now).decision;
                decision.reset_at = after.reset_at;
                decision.remaining = after.remaining + lease.units;
                leased = lease.units;
                state = Some(lease.state);
            }
        }
        ChargeOutcome {
            answer: QuotaAnswer {
                decision,
                blocked_until: None,
            },
            leased,
            state,
            block: None,
        }
    }

    fn denied(self, sets_blocks: bool, now: Timestamp) -> ChargeOutcome {
        let denies = !self.evaluation.decision.allowed();
        let block = match self.charge.block {
            Some(length) if self.charge.blocks() && denies && sets_blocks => Some(now + length),
            _ => None,
        };
        let decision = if self.charge.enforced && !denies {
            // Nothing was charged: report what remains without this request.
            let state = self.absorbed.as_ref().or(self.record.state.as_ref());
            self.charge.quota.decide(state, 0, now).decision
        } else {
            self.evaluation.decision
        };
        ChargeOutcome {
            answer: QuotaAnswer {
                decision,
                blocked_until: self.blocked_until.max(block),
            },
            leased: 0,
            state: self.evaluation.repaired.or(self.absorbed),
            block,
        }
    }
}

/// The end of the block that is in force at `now`. A block is ignored if no clock within the tolerance could have set its end
/// that late: a faulty clock has set it, or an older configuration.
fn active_block(charge: &Charge, record: &Record, now: Timestamp) -> Option<Timestamp> {
    let length = charge.block.filter(|_| charge.blocks())?;
    let latest = now + length + CLOCK_TOLERANCE;
    record
        .blocked_until
        .filter(|until| *until > now && *until <= latest)
}
