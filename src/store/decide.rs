//! One request against all its quotas and blocks at once: the pure step that every store makes
//! atomically. The memory store runs this; `decide.lua` is the same step in Redis.

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

/// What to answer for one charge, and what to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeOutcome {
    /// The answer.
    pub answer: QuotaAnswer,
    /// Units leased beside the request's.
    pub leased: u32,
    /// The state to keep from now on, where it changes.
    pub state: Option<QuotaState>,
    /// The end of a block to set.
    pub block: Option<Timestamp>,
}

/// Decides the check of `question` over `records` (one per charge, in order). `address_blocked`: the caller's
/// address is blocked everywhere.
///
/// A request goes ahead if no block stands and every enforced quota has room; then every enforced
/// quota is charged, and every shadow quota that had room. Otherwise nothing is charged. A shadow
/// quota thus counts just what would have been admitted were it enforced too, which also holds when
/// an isolate answers a denial from memory. A denial sets the blocks of the policies that deny,
/// unless a block already stands (a caller does not lengthen it by knocking) or the cost can never
/// be met. A backlog has been admitted: it is added first, and kept in any case. A lease is taken last,
/// and only of a request that goes ahead.
#[must_use]
pub fn decide(
    question: &Question<'_>,
    records: &[impl Borrow<Record>],
    address_blocked: bool,
    now: Timestamp,
) -> Vec<ChargeOutcome> {
    let check = question.check;
    let found: Vec<Found<'_>> = check
        .charges
        .iter()
        .zip(records)
        .enumerate()
        .map(|(place, (charge, record))| {
            Found::new(
                charge,
                question.extra(place),
                record.borrow(),
                check.cost,
                now,
            )
        })
        .collect();

    let enforced = || found.iter().filter(|found| found.charge.enforced);
    let blocked = address_blocked || enforced().any(|found| found.blocked_until.is_some());
    let admitted = !blocked && enforced().all(|found| found.decided.decision.allowed());
    let impossible =
        enforced().any(|found| found.decided.decision.outcome == QuotaOutcome::Impossible);
    let sets_blocks = !blocked && !impossible && check.cost > 0;

    found
        .into_iter()
        .map(|found| {
            if admitted {
                found.charged(now)
            } else {
                found.turned_away(sets_blocks, now)
            }
        })
        .collect()
}

struct Found<'a> {
    charge: &'a Charge,
    extra: &'a ChargeExtra,
    record: &'a Record,
    absorbed: Option<QuotaState>,
    blocked_until: Option<Timestamp>,
    decided: Evaluation,
}

impl<'a> Found<'a> {
    fn new(
        charge: &'a Charge,
        extra: &'a ChargeExtra,
        record: &'a Record,
        cost: u32,
        now: Timestamp,
    ) -> Self {
        let held = record.state.as_ref();
        let backlog = extra.backlog.as_ref();
        let absorbed = backlog.and_then(|backlog| charge.quota.absorb(held, &backlog.state, now));
        let decided = charge.quota.decide(absorbed.as_ref().or(held), cost, now);
        Self {
            charge,
            extra,
            record,
            absorbed,
            blocked_until: standing_block(charge, record, now),
            decided,
        }
    }

    fn charged(self, now: Timestamp) -> ChargeOutcome {
        let mut decision = self.decided.decision;
        let mut state = (self.decided.admitted)
            .or(self.decided.repaired)
            .or(self.absorbed);
        let mut leased = 0;
        let most = self.extra.lease;
        if most > 0 && decision.allowed() {
            let quota = &self.charge.quota;
            let held = state.as_ref().or(self.record.state.as_ref());
            if let Some(lease) = quota.lease(held, most, now) {
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

    fn turned_away(self, sets_blocks: bool, now: Timestamp) -> ChargeOutcome {
        let denies = !self.decided.decision.allowed();
        let block = match self.charge.block {
            Some(length) if self.charge.blocks() && denies && sets_blocks => Some(now + length),
            _ => None,
        };
        let decision = if self.charge.enforced && !denies {
            // Nothing was taken: say what is left without this request.
            let state = self.absorbed.as_ref().or(self.record.state.as_ref());
            self.charge.quota.decide(state, 0, now).decision
        } else {
            self.decided.decision
        };
        ChargeOutcome {
            answer: QuotaAnswer {
                decision,
                blocked_until: self.blocked_until.max(block),
            },
            leased: 0,
            state: self.decided.repaired.or(self.absorbed),
            block,
        }
    }
}

/// The end of the block that stands at `now`. One that ends later than it could have been set to,
/// by a clock within the tolerance, is a faulty clock's or an older configuration's, and is ignored.
fn standing_block(charge: &Charge, record: &Record, now: Timestamp) -> Option<Timestamp> {
    let length = charge.block.filter(|_| charge.blocks())?;
    let latest = now + length + CLOCK_TOLERANCE;
    record
        .blocked_until
        .filter(|until| *until > now && *until <= latest)
}
