//! The operations of [`Quota`] on a state, each passed on to the quota's algorithm.

use super::algorithm::Algorithm;
use super::clock::decided_at;
use super::decision::Evaluation;
use super::definition::Quota;
use super::state::QuotaState;
use super::{fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

impl Quota {
    /// Whether `state` has this quota's shape: its algorithm and its width. The limit is no part of it.
    #[must_use]
    pub fn fits(&self, state: &QuotaState) -> bool {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::fits(self, state),
            Algorithm::TokenBucket => token_bucket::fits(self, state),
            Algorithm::FixedWindow => fixed_window::fits(self, state),
        }
    }

    /// Decides a request of `cost` units at `now`. A state of another shape counts as absent.
    /// Nothing is consumed until the caller keeps [`Evaluation::admitted`].
    #[must_use]
    pub fn decide(&self, state: Option<&QuotaState>, cost: u32, now: Timestamp) -> Evaluation {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::decide(self, state, cost, now),
            Algorithm::TokenBucket => token_bucket::decide(self, state, cost, now),
            Algorithm::FixedWindow => fixed_window::decide(self, state, cost, now),
        }
    }

    /// Adds to `state` what was admitted elsewhere: `backlog` is what a quota that admitted nothing
    /// else would hold. Units are added at the time at which they were admitted, the earliest first,
    /// as far as there is room; what no longer counts at `now` is nothing, and what is later than
    /// the decision's time counts as admitted then. The result's clock is that time, and a faulty
    /// one is repaired. With no `state` the result is the backlog alone, so that a backlog can be
    /// gathered.
    ///
    /// Two buckets' levels are each drained until `now` before they are added, because each drained
    /// alone.
    ///
    /// `None`: there is nothing to add (a backlog of another shape is nothing), keep the state
    /// as it is.
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

    /// What of `backlog` is not in `counted`, an earlier form of it: what has been admitted since.
    /// `None`: nothing.
    #[must_use]
    pub fn newer(&self, backlog: &QuotaState, counted: &QuotaState) -> Option<QuotaState> {
        match self.algorithm() {
            Algorithm::SlidingWindow => sliding_window::newer(self, backlog, counted),
            Algorithm::TokenBucket => token_bucket::newer(self, backlog, counted),
            Algorithm::FixedWindow => fixed_window::newer(self, backlog, counted),
        }
    }

    /// Takes back `units` of an admission made at `admitted_at` (its [`Decision::at`](super::decision::Decision::at)).
    /// What that admission no longer weighs is not given back, so the algorithm's bound holds for
    /// what remains consumed. `None`: there is nothing to take back, keep the state as it is. So is one whose clock is faulty.
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
