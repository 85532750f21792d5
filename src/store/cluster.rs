//! A wrapper that makes one decision of several, for a shared store that is partitioned by caller, as a Redis Cluster is.
//!
//! A partitioned store decides over the quotas of one caller in one step, and no step spans callers. Most requests meet
//! quotas of one caller only, their address. They are one question, as in any store. A request that meets quotas of several
//! callers (a user, a header's value, all requests together) is decided caller by caller. The order is the same in every
//! isolate: the address with its block comes first, and the quotas that all requests share come last. So a caller whose own
//! quotas deny it takes no units from the shared quotas. The first caller that denies ends the decision, and the units of the
//! earlier callers are given back.
//!
//! # The laws
//!
//! - Law 1 holds unchanged: each caller's quotas are decided in one step, and units still to be given back count as taken.
//!   Other requests see fewer units meanwhile, never more.
//! - Law 2: a denied request consumes nothing once its units are given back. The refund begins with the denial, in the
//!   background. If it is lost (the isolate ends, or the call fails), the units stay taken until they leave the window. It is
//!   sent once: sent a second time, it would give back another request's units. A refund to a token bucket is smaller by the
//!   units that drained since the admission. If all of them drained, it gives back nothing.
//! - Law 3: `retry_after` is exact for the caller that denied. The callers after it were not asked, and may deny the retry.
//!   A request that is denied because of units which are then given back waits longer than necessary. If the policy that
//!   denies it blocks, the request's caller is blocked.
//! - A block is set by the quotas that deny, as in any store. The quotas of earlier callers set none, since they admitted,
//!   and those of later callers set none, since they are not asked. The block of a later caller does not keep the quotas of
//!   an earlier caller from setting blocks. Callers with a quota whose capacity is below the cost are asked first, so that
//!   such a cost sets no block.
//! - Shadow quotas count what is admitted, so their units are given back too.
//! - If a caller cannot be asked, the store has not decided, and the units of the earlier callers are given back. Memory
//!   decides in its place, and reconciles later, except with the quotas of the caller whose call failed, if that call may
//!   have counted the units. If the refund is lost as well, the units are counted twice.
//!
//! A question at a cost of 0 takes nothing, and asks all callers. Backlogs are counted whatever the verdict. So if a later
//! caller cannot be asked, only some backlogs may have been counted; each is counted once under its name. Nothing is leased
//! for a request of several callers.

use std::cell::RefCell;
use std::cmp::Reverse;

use super::shared::{
    ChargeExtra, Partitioned, Question, Refund, SharedStore, StoreReply, StoredCharge,
};
use super::{Check, StoreError};
use crate::effects::Effects;
use crate::time::{Millis, Timestamp};

/// The most refunds that wait to be made. The units of further ones stay taken until they leave the window.
const MAX_REFUNDS: usize = 1000;

/// A shared store whose questions may concern several callers.
pub struct Cluster<S, E> {
    inner: S,
    timeout: Millis,
    effects: E,
    refunds: RefCell<Vec<Refund>>,
}

impl<S, E> Cluster<S, E> {
    /// Wraps `inner`. One question waits at most `timeout`, however many callers it concerns.
    pub const fn new(inner: S, timeout: Millis, effects: E) -> Self {
        Self {
            inner,
            timeout,
            effects,
            refunds: RefCell::new(Vec::new()),
        }
    }

    /// The next [refund](Self::refund) to make in the background, if there is one. Each is returned once.
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
    /// [`StoreError`] if the store does not confirm the refund. The units may stay taken then, until they leave the window.
    pub async fn refund(&self, refund: &Refund) -> Result<(), StoreError> {
        self.inner.refund(refund, self.effects.now()).await
    }

    /// Asks about one caller after another.
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
            .stored_charges
            .resize(check.charges.len(), StoredCharge::default());
        // The places of the charges of each caller that has admitted.
        let mut taken: Vec<Vec<usize>> = Vec::new();
        for part in parts(question) {
            if !taken.is_empty() {
                // The taken units have to be given back even if the client disconnects, since other requests need them.
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
            let answered = asked.verdict.answers.into_iter().zip(asked.stored_charges);
            for (place, (answer, stored_charge)) in part.places.iter().zip(answered) {
                if let Some(to) = reply.verdict.answers.get_mut(*place) {
                    *to = answer;
                }
                if let Some(to) = reply.stored_charges.get_mut(*place) {
                    *to = stored_charge;
                }
            }
            if check.cost > 0 && !admits {
                self.give_back(check, &taken, &reply);
                exclude_taken(check, &taken, &mut reply, now);
                break;
            }
            if check.cost > 0 {
                taken.push(part.places);
            }
        }
        Ok(reply)
    }

    /// Queues refunds of what the callers at `taken` have admitted.
    fn give_back(&self, check: &Check, taken: &[Vec<usize>], reply: &StoreReply) {
        let mut refunds = self.refunds.borrow_mut();
        for places in taken {
            let admitted = places.iter().filter_map(|place| {
                let answer = reply.verdict.answers.get(*place).copied().flatten()?;
                let charge = check.charges.get(*place)?;
                // A shadow quota that would have denied has taken nothing.
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

/// Changes a reply to report what remains once the units of the callers at `taken` are given back.
fn exclude_taken(check: &Check, taken: &[Vec<usize>], reply: &mut StoreReply, now: Timestamp) {
    for place in taken.iter().flatten() {
        let answer = reply.verdict.answers.get_mut(*place);
        let stored_charge = reply.stored_charges.get_mut(*place);
        if let Some(((charge, Some(answer)), stored_charge)) =
            (check.charges.get(*place).zip(answer)).zip(stored_charge)
            && answer.decision.allowed()
        {
            let state = stored_charge.state.as_ref();
            let at = answer.decision.at;
            let refunded = state.and_then(|state| charge.quota.refund(state, check.cost, at, now));
            stored_charge.state = refunded.or_else(|| stored_charge.state.take());
            if charge.enforced {
                let state = stored_charge.state.as_ref();
                answer.decision = charge.quota.decide(state, 0, now).decision;
            }
        }
    }
}

/// The part of a question that concerns one caller.
struct CallerQuestion<'a> {
    caller: &'a str,
    check: Check,
    extras: Vec<ChargeExtra>,
    /// The places of its charges in the whole check.
    places: Vec<usize>,
}

impl<'a> CallerQuestion<'a> {
    /// A question without charges yet.
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

    /// The key by which callers are ordered, the same in every isolate.
    fn order(&self) -> (bool, bool, Reverse<&str>) {
        let mut enforced = self.check.charges.iter().filter(|charge| charge.enforced);
        let is_possible = enforced.all(|charge| self.check.cost <= charge.quota.capacity());
        // In reverse order of names, so that `user-…` comes before `global`.
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
        // Boxed, so that the future of the usual request stays small.
        Box::pin(self.ask_each(question, now)).await
    }

    /// Includes the commands of the refunds of all callers but one.
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
