//! Where quotas are kept: one trait, one verb.
//!
//! [`memory`] keeps them in this isolate, [`upstash`] in Redis over REST, and the wrappers add one
//! thing each and are stores themselves. Around Upstash stand, from the inside: [`capped`], a cap on
//! what is spent; [`mirror`], continuity with memory; [`breaker`]; [`lease`], units that are taken
//! beforehand; [`denials`] that are remembered; [`fallback`], what becomes of a request that none of
//! these decides; and [`blocked`] ranges. Every store and every wrapper passes the suite in `store/conformance.rs`.

use crate::quota::{Decision, Outcome, Quota, State};
use crate::time::{Millis, Timestamp};

pub use crate::error::StoreError;

pub mod backoff;
pub mod blocked;
pub mod breaker;
pub mod capped;
#[cfg(test)]
pub(crate) mod conformance;
pub mod denials;
pub mod fallback;
pub mod lease;
pub mod memory;
pub mod mirror;
#[cfg(test)]
pub(crate) mod reference;
pub mod settle;
#[cfg(test)]
pub(crate) mod stand_in;
pub mod upstash;

/// What one request asks of a store: every quota it meets, at one cost, together with the block
/// records that concern its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The caller's canonical address, under which an operator may have blocked it; `None` where
    /// the caller may not be blocked by address.
    pub address: Option<String>,
    /// The quotas, without duplicates.
    pub charges: Vec<Charge>,
    /// Units the request takes from each quota. Zero reads without consuming.
    pub cost: u32,
}

/// One quota for one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// `{policy}:{caller}`: names the quota's state in the store.
    pub key: String,
    /// How much, over how long, counted how.
    pub quota: Quota,
    /// How long the caller stays blocked from this policy after a denial; `None`: not at all.
    pub block: Option<Millis>,
    /// `false` in shadow mode: counted and reported, never denying.
    pub enforced: bool,
    /// What becomes of the request when the store does not decide.
    pub on_failure: OnFailure,
    /// The most units that an isolate may hold beforehand, those of the request among them: 0 and 1
    /// stand for none. A store does not read it; the wrapper that holds them does ([`lease`]).
    pub lease: u32,
    /// Units to take beside the request's, should it go ahead, as far as the quota lets itself be
    /// [leased](Quota::lease).
    pub advance: u32,
    /// What was admitted to the quota elsewhere and is not counted yet. A store adds it before it
    /// decides, whatever the verdict, up to the limit.
    pub owed: Option<Owed>,
}

/// What becomes of a request when the store does not decide. Of several the strictest, the last here,
/// rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnFailure {
    /// It is admitted as far as this quota goes, unless the caller is known to be blocked.
    Allow,
    /// The isolate's memory decides.
    #[default]
    Memory,
    /// It is turned away with a 503.
    Deny,
}

impl OnFailure {
    /// Its name in `RATE_LIMIT_POLICIES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Memory => "memory",
            Self::Deny => "deny",
        }
    }

    /// The rule of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Allow, Self::Memory, Self::Deny]
            .into_iter()
            .find(|rule| rule.name() == name)
    }
}

/// Units that an isolate admitted by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// A store that may lose an answer adds, of what comes again under the same name, what is new.
    pub name: String,
    /// The units, as a quota that admitted nothing else has them.
    pub state: State,
}

impl Charge {
    /// An enforced quota that blocks nobody, and nothing else said.
    #[must_use]
    pub fn new(key: impl Into<String>, quota: Quota) -> Self {
        Self {
            key: key.into(),
            quota,
            block: None,
            enforced: true,
            on_failure: OnFailure::default(),
            lease: 0,
            advance: 0,
            owed: None,
        }
    }

    /// Whether block records are read and written for it.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.enforced && self.block.is_some()
    }
}

/// What a store answers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// An operator's or automatic block of the caller's address.
    pub address_block: Option<AddressBlock>,
    /// The version of the blocked ranges that the store holds, if there are any.
    pub ranges_version: Option<String>,
    /// One answer per charge, in order. `None` where the store was not asked, because an answer
    /// remembered for another charge already denies the request.
    pub answers: Vec<Option<Answer>>,
    /// What the store holds for each charge from now on; empty where it was not asked, or does not
    /// say.
    pub states: Vec<Option<State>>,
    /// The shared store did not decide, and memory stood in for it.
    pub degraded: bool,
}

/// A block of an address everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    /// When it ends; `None`: when an operator lifts it.
    pub until: Option<Timestamp>,
}

/// What one quota answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The quota's own decision. Where another quota or a block denies the request, nothing has
    /// been consumed, and an allowed decision says what is left without it.
    pub decision: Decision,
    /// Units taken beside the request's, of those [asked for](Charge::advance). The decision's
    /// remaining units are with them, its reset is after them.
    pub advanced: u32,
    /// When the policy's block of this caller ends, if there is one.
    pub blocked_until: Option<Timestamp>,
}

impl Answer {
    /// Whether the quota and its block let the request through.
    #[must_use]
    pub const fn allows(&self) -> bool {
        self.decision.allowed() && self.blocked_until.is_none()
    }

    /// The first moment at which this quota would let the same request through; `None` if it does
    /// now, or if waiting will not help.
    #[must_use]
    pub fn retry_at(&self) -> Option<Timestamp> {
        let quota = match self.decision.outcome {
            Outcome::Allowed => None,
            Outcome::Denied { retry_at } => Some(retry_at),
            Outcome::Impossible => return None,
        };
        quota.max(self.blocked_until)
    }
}

impl Verdict {
    /// Whether the request may go ahead: no block, and room in every enforced quota of `check`,
    /// which is the check that this verdict answers.
    #[must_use]
    pub fn allows(&self, check: &Check) -> bool {
        self.address_block.is_none()
            && self
                .enforced(check)
                .all(|(_, answer)| answer.is_some_and(|answer| answer.allows()))
    }

    /// The enforced charges of `check` with their answers.
    pub fn enforced<'a>(
        &'a self,
        check: &'a Check,
    ) -> impl Iterator<Item = (&'a Charge, Option<&'a Answer>)> {
        check
            .charges
            .iter()
            .zip(&self.answers)
            .filter(|(charge, _)| charge.enforced)
            .map(|(charge, answer)| (charge, answer.as_ref()))
    }
}

/// Keeps quotas and block records.
///
/// # Contract
///
/// - [`decide`](Store::decide) is one atomic step. It reads the records of every charge, decides as
///   [`settle::settle`] does, and keeps what that says, with no other decision in between.
/// - What is [owed](Charge::owed) is added before the decision and stays whatever the verdict. A
///   store whose answer can be lost adds what comes under one [name](Owed::name) once, and knows the
///   name for as long as the units count.
/// - A denial is a value, not an error. An error means that the store did not decide; it may all
///   the same have counted the request (an answer lost on its way).
/// - Nothing is kept longer than it can matter.
/// - `now` is the asking isolate's clock; a store has no clock of its own that could change a
///   decision.
/// - A decision is sent to a store once. It is never repeated by the store or a wrapper.
///
/// Futures are not `Send`: an isolate has one thread.
#[allow(async_fn_in_trait)]
pub trait Store {
    /// Decides one request, consuming `check.cost` of every enforced quota or of none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be asked or does not answer as it should.
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError>;
}
