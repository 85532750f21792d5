//! The operations of [`Quota`] on a state, each passed on to the quota's algorithm.

use super::algorithm::Algorithm;
use super::clock::decided_at;
use super::decision::Evaluation;
use super::definition::Quota;
use super::state::QuotaState;
use super::{fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

impl Quota {
    /// Whether `state` has this quota's shape: its algorithm and its width. The limit does not matter.
    #[must_use]
    pub fn fits(&self, state: &QuotaState) -> bool {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::fits(self, state),
            Algorithm::TokenBucket => token_bucket::fits(self, state),
            Algorithm::FixedWindow => fixed_window::fits(self, state),
        }
    }

    /// Decides a request of `cost` units at `now`. A state of another shape counts as absent.
    /// Nothing is consumed until [`Evaluation::admitted`] is stored.
    #[must_use]
    pub fn decide(&self, state: Option<&QuotaState>, cost: u32, now: Timestamp) -> Evaluation {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::decide(self, state, cost, now),
            Algorithm::TokenBucket => token_bucket::decide(self, state, cost, now),
            Algorithm::FixedWindow => fixed_window::decide(self, state, cost, now),
        }
    }

    /// Adds to `state` the units that were admitted elsewhere. `backlog` is the state that a quota would
    /// have if it had admitted nothing else.
    ///
    /// Each unit is added at the time at which it was admitted, the earliest first, up to the quota's
    /// capacity. Units that no longer count at `now` are dropped. Units later than the decision's time
    /// count as admitted at that time, which becomes the result's clock. A faulty clock is repaired.
    /// Without a `state` the result is the backlog alone, so that a backlog can be collected.
    ///
    /// The levels of two token buckets are each drained until `now` before they are added, because each
    /// bucket drained independently.
    ///
    /// `None` if there is nothing to add, or if the backlog has another shape: keep the state unchanged.
    #[must_use]
    pub fn absorb(
        &self,
        state: Option<&QuotaState>,
        backlog: &QuotaState,
        now: Timestamp,
    ) -> Option<QuotaState> {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::absorb(self, state, backlog, now),
            Algorithm::TokenBucket => token_bucket::absorb(self, state, backlog, now),
            Algorithm::FixedWindow => fixed_window::absorb(self, state, backlog, now),
        }
    }

    /// The units of `backlog` that are not in `counted`, an earlier version of it: those admitted since.
    /// `None` if there are none.
    #[must_use]
    pub fn newer(&self, backlog: &QuotaState, counted: &QuotaState) -> Option<QuotaState> {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::newer(self, backlog, counted),
            Algorithm::TokenBucket => token_bucket::newer(self, backlog, counted),
            Algorithm::FixedWindow => fixed_window::newer(self, backlog, counted),
        }
    }

    /// Gives back `units` of an admission made at `admitted_at` (its [`Decision::at`](super::decision::Decision::at)).
    /// Units that no longer count are not given back, so that the algorithm's bound holds for those
    /// that remain consumed. `None` if there is nothing to give back, or if the state's clock is faulty:
    /// keep the state unchanged.
    #[must_use]
    pub fn refund(
        &self,
        state: &QuotaState,
        units: u32,
        admitted_at: Timestamp,
        now: Timestamp,
    ) -> Option<QuotaState> {
        if !decided_at(state.clock(), now).1 {
            return None;
        }
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::refund(self, state, units, admitted_at),
            Algorithm::TokenBucket => token_bucket::refund(self, state, units, admitted_at, now),
            Algorithm::FixedWindow => fixed_window::refund(self, state, units, admitted_at),
        }
    }
}
