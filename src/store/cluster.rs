//! One decision of several: a shared store that is partitioned by caller, as a Redis Cluster is.
//!
//! Such a store decides over the quotas of one caller in one step, and no step spans callers. Most requests meet quotas of
//! one caller alone, its address's, and are one question as ever. Those of several callers (a user, a header's value, all
//! requests together) are asked about caller by caller, in an order that is the same in every isolate: the address with its
//! block first, and the quotas that all requests share last, so that a caller whose own quotas deny it holds none of their
//! units meanwhile. The first that denies ends it, and what the earlier ones took is given back.
//!
//! # The laws
//!
//! - Law 1 holds as it is: each caller's quotas are decided in one step, and units that are still to be given back are
//!   counted. Others see fewer units meanwhile, never more.
//! - Law 2: a denied request consumes nothing once its units are given back. That begins with its denial, in the
//!   background. Where it is lost (the isolate ends, or the call fails) they stay taken until they leave the window. It is
//!   sent once: a second time would take back another request's units. A token bucket keeps what it gained back between the
//!   admission and the refund, at most the cost: all of it where a unit comes back sooner than the refund comes.
//! - Law 3: `retry_after` is exact for the caller that denied. The callers that come after it have not been asked, and
//!   may deny then. A request that runs into units which are then given back waits longer than it has to; and where it is
//!   denied by a policy that blocks, it is blocked.
//! - A block is set by the caller's quotas that deny, as ever: not by those of an earlier caller, which admitted, nor by
//!   those of a later one, which are not asked. One that stands of a later caller does not keep those of an earlier one from
//!   setting theirs. A cost that can never be met is asked about first, so that it sets no block.
//! - Shadow quotas count what is admitted: they are given back too.
//! - If a caller cannot be asked, the store has not decided, and what the earlier ones took is given back. Memory decides
//!   in its place, and sends what it admits later, as ever: not to the quotas of the caller whose call failed, if that call
//!   may have counted it. Where giving back is lost as well, the units are counted twice.
//!
//! A question without a cost takes nothing, and asks all callers. A backlog is counted whatever the verdict, so a part of them may
//! be counted where a later caller cannot be asked; under its name it is counted once. Nothing is leased for a request of
//! several callers.

use std::cell::RefCell;
use std::cmp::Reverse;

use super::shared::{
    ChargeExtra, Partitioned, Question, Refund, SharedStore, StoreReply, StoredCharge,
};
use super::{Check, StoreError};
use crate::effects::Effects;
use crate::time::{Millis, Timestamp};

/// Refunds that nobody has made yet. Beyond them, units stay taken.
const MAX_REFUNDS: usize = 1000;

/// A shared store whose questions may be of several callers.
pub struct Cluster<S, E> {
    inner: S,
    timeout: Millis,
    effects: E,
    refunds: RefCell<Vec<Refund>>,
}

impl<S, E> Cluster<S, E> {
    /// One question waits at most `timeout`, of however many callers it is.
    pub const fn new(inner: S, timeout: Millis, effects: E) -> Self {
        Self {
            inner,
            timeout,
            effects,
            refunds: RefCell::new(Vec::new()),
        }
    }

    /// Units to give back: what to [refund](Self::refund) in the background. Each is returned once.
    pub fn next_refund(&self) -> Option<Refund> {
        self.refunds.borrow_mut().pop()
    }
}

impl<S: Partitioned, E: Effects> Cluster<S, E> {
    /// Whether the store is partitioned.
    pub fn is_partitioned(&self) -> bool {
        self.inner.is_partitioned()
    }

    /// Gives units back.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not say that it has. They stay taken then, until they leave the window.
    pub async fn refund(&self, refund: &Refund) -> Result<(), StoreError> {
        self.inner.refund(refund, self.effects.now()).await
    }

    async fn ask_each(
        &self,
        question: &Question<'_>,
        now: Timestamp,
    ) -> Result<StoreReply, StoreError> {
        let check = question.check;
        let begun = self.effects.now();
        let mut reply = StoreReply::default();
        reply.verdict.answers.resize(check.charges.len(), None);
        reply
            .holdings
            .resize(check.charges.len(), StoredCharge::default());
        // Those that have admitted, by the places of their charges.
        let mut taken: Vec<Vec<usize>> = Vec::new();
        for part in parts(question) {
            if !taken.is_empty() {
                // Others wait for what is taken: it is given back even if the client disconnects.
                self.effects.outlive_client();
            }
            let spent = self.effects.now().since(begun).get();
            let left = Millis::new(self.timeout.get().saturating_sub(spent));
            let (asked, maybe_counted) = match left {
                Millis::ZERO => (Err(StoreError::Timeout), &[][..]),
                left => {
                    let question = Question::with(&part.check, &part.extras);
                    let asked = self.inner.ask_within(&question, now, left).await;
                    (asked, &part.places[..])
                }
            };
            let asked = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    question.limit_maybe_counted(maybe_counted);
                    self.give_back(check, &taken, &reply);
                    return Err(error);
                }
            };
            let admits = asked.verdict.allows(&part.check);
            if part.check.address.is_some() {
                reply.verdict.address_block = asked.verdict.address_block;
            }
            let answered = asked.verdict.answers.into_iter().zip(asked.holdings);
            for (place, (answer, holding)) in part.places.iter().zip(answered) {
                if let Some(to) = reply.verdict.answers.get_mut(*place) {
                    *to = answer;
                }
                if let Some(to) = reply.holdings.get_mut(*place) {
                    *to = holding;
                }
            }
            if check.cost > 0 && !admits {
                self.give_back(check, &taken, &reply);
                leave_out(check, &taken, &mut reply, now);
                break;
            }
            if check.cost > 0 {
                taken.push(part.places);
            }
        }
        Ok(reply)
    }

    /// Leaves to the background what the callers at `taken` have admitted.
    fn give_back(&self, check: &Check, taken: &[Vec<usize>], reply: &StoreReply) {
        let mut refunds = self.refunds.borrow_mut();
        for places in taken {
            let admitted = places.iter().filter_map(|place| {
                let answer = reply.verdict.answers.get(*place).copied().flatten()?;
                let charge = check.charges.get(*place)?;
                // A shadow quota without room has taken nothing.
                (answer.decision.allowed()).then(|| (charge.clone(), answer.decision.at))
            });
            let refund = Refund {
                units: check.cost,
                taken: admitted.collect(),
            };
            if !refund.taken.is_empty() && refunds.len() < MAX_REFUNDS {
                refunds.push(refund);
            }
        }
    }
}

/// Has a reply say what is left without the units of the callers at `taken`.
fn leave_out(check: &Check, taken: &[Vec<usize>], reply: &mut StoreReply, now: Timestamp) {
    for place in taken.iter().flatten() {
        let answer = reply.verdict.answers.get_mut(*place);
        let holding = reply.holdings.get_mut(*place);
        if let Some(((charge, Some(answer)), holding)) =
            (check.charges.get(*place).zip(answer)).zip(holding)
            && answer.decision.allowed()
        {
            let state = holding.state.as_ref();
            let at = answer.decision.at;
            let refunded = state.and_then(|state| charge.quota.refund(state, check.cost, at, now));
            holding.state = refunded.or_else(|| holding.state.take());
            if charge.enforced {
                let state = holding.state.as_ref();
                answer.decision = charge.quota.decide(state, 0, now).decision;
            }
        }
    }
}

/// What is asked about one caller.
struct CallerQuestion<'a> {
    caller: &'a str,
    check: Check,
    extras: Vec<ChargeExtra>,
    /// Of its charges in the whole check.
    places: Vec<usize>,
}

impl<'a> CallerQuestion<'a> {
    fn of(caller: &'a str, whole: &Check) -> Self {
        Self {
            caller,
            check: Check {
                address: whole.address.clone().filter(|address| address == caller),
                charges: Vec::new(),
                cost: whole.cost,
            },
            extras: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Its place among the others: of any two callers the same one comes first, whichever isolate asks.
    fn order(&self) -> (bool, bool, Reverse<&str>) {
        let mut enforced = self.check.charges.iter().filter(|charge| charge.enforced);
        let is_possible = enforced.all(|charge| self.check.cost <= charge.quota.capacity());
        // From `user-` down to `global`.
        let by_name = Reverse(self.caller);
        (is_possible, self.check.address.is_none(), by_name)
    }
}

/// The parts of a question, in the order in which they are asked.
fn parts<'a>(question: &Question<'a>) -> Vec<CallerQuestion<'a>> {
    let check = question.check;
    let mut parts: Vec<CallerQuestion<'a>> = Vec::with_capacity(2);
    for caller in check.callers() {
        if parts.iter().all(|part| part.caller != caller) {
            parts.push(CallerQuestion::of(caller, check));
        }
    }
    for (place, charge) in check.charges.iter().enumerate() {
        let mut parts = parts.iter_mut();
        if let Some(part) = parts.find(|part| part.caller == charge.caller()) {
            part.check.charges.push(charge.clone());
            part.extras.push(ChargeExtra {
                lease: 0,
                backlog: question.extra(place).backlog.clone(),
            });
            part.places.push(place);
        }
    }
    parts.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
    parts
}

impl<S: Partitioned, E: Effects> SharedStore for Cluster<S, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        if !self.is_partitioned() || question.check.is_of_one_caller() {
            return self.inner.ask(question, now).await;
        }
        // Boxed: the usual request is not the larger for it.
        Box::pin(self.ask_each(question, now)).await
    }

    /// With those that give back what all callers but one have taken.
    fn most_commands(&self, question: &Question<'_>) -> u32 {
        let at_once = self.inner.most_commands(question);
        if !self.is_partitioned() || question.check.is_of_one_caller() {
            return at_once;
        }
        let check = question.check;
        let of = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let more = of(parts(question).len())
            .saturating_sub(1)
            .saturating_mul(2);
        let refunds = match check.cost {
            0 => 0,
            _ => more.saturating_add(of(check.charges.len())),
        };
        at_once.saturating_add(more).saturating_add(refunds)
    }
}

#[cfg(test)]
mod tests;
