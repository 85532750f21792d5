//! Where quotas are kept: one trait, one verb.
//!
//! [`memory`] keeps them in this isolate, [`redis`] in Redis, and the wrappers add one thing each.
//! [`stack`] composes what production runs, once. Every store and every wrapper passes the suite in
//! `store/conformance.rs`.

use crate::blocklist::AddressBlock;
use crate::quota::{Decision, Quota, QuotaOutcome};
use crate::redis::keys::caller_of;
use crate::time::{Millis, Timestamp};

pub use crate::error::StoreError;

pub mod blocked;
pub mod breaker;
pub mod capped;
pub mod cluster;
#[cfg(test)]
pub(crate) mod conformance;
pub mod decide;
pub mod denials;
pub mod fallback;
pub mod leases;
pub mod memory;
pub mod redis;
#[cfg(test)]
pub(crate) mod reference;
pub mod retries;
pub mod shared;
pub mod stack;
#[cfg(test)]
pub(crate) mod stand_in;

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

impl Check {
    /// The callers that it is about, some of them more than once: by the address, and by the names of the quotas.
    pub fn callers(&self) -> impl Iterator<Item = &str> {
        let address = self.address.iter().map(String::as_str);
        address.chain(self.charges.iter().map(Charge::caller))
    }

    /// Whether all of it is about one caller.
    #[must_use]
    pub fn is_of_one_caller(&self) -> bool {
        let mut callers = self.callers();
        let first = callers.next();
        callers.all(|caller| Some(caller) == first)
    }
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
    /// stand for none. A store does not read it; the wrapper that holds them does ([`leases`]).
    pub lease: u32,
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
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::Memory, Self::Deny]
            .into_iter()
            .find(|rule| rule.name() == name)
    }
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
        }
    }

    /// Whom it is of.
    #[must_use]
    pub fn caller(&self) -> &str {
        caller_of(&self.key)
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
    /// One answer per charge, in order. `None` where the store was not asked, because an answer
    /// remembered for another charge already denies the request.
    pub answers: Vec<Option<QuotaAnswer>>,
    /// The shared store did not decide, and memory decided instead.
    pub degraded: bool,
    /// Who decided.
    pub source: Source,
}

/// Who decided a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The shared store.
    #[default]
    Store,
    /// This isolate's memory.
    Memory,
    /// Units that were leased beforehand.
    Lease,
    /// A denial that is remembered, or this isolate's copy of the blocks.
    Remembered,
}

impl Source {
    /// In the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Store, Self::Memory, Self::Lease, Self::Remembered];

    /// Its name in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Memory => "memory",
            Self::Lease => "lease",
            Self::Remembered => "remembered",
        }
    }
}

/// What one quota answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAnswer {
    /// The quota's own decision. Where another quota or a block denies the request, nothing has
    /// been consumed, and an allowed decision says what is left without it.
    pub decision: Decision,
    /// When the policy's block of this caller ends, if there is one.
    pub blocked_until: Option<Timestamp>,
}

impl QuotaAnswer {
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
            QuotaOutcome::Allowed => None,
            QuotaOutcome::Denied { retry_at } => Some(retry_at),
            QuotaOutcome::Impossible => return None,
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
    ) -> impl Iterator<Item = (&'a Charge, Option<&'a QuotaAnswer>)> {
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
///   [`decide::decide`] does, and keeps what that says, with no other decision in between.
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

    /// The denial of `check` that is known without asking anybody and without changing anything.
    /// `None`: [`decide`](Self::decide) has to be asked, whatever it will say.
    fn known_denial(&self, _check: &Check, _now: Timestamp) -> Option<Verdict> {
        None
    }

    /// Whether a denial of `check` is known, be it one that has to be asked about again.
    fn knows_denial(&self, _check: &Check, _now: Timestamp) -> bool {
        false
    }
}
