//! Stores of quotas, and the one trait by which they are asked to decide.
//!
//! [`memory`] keeps quotas in this isolate, [`redis`] keeps them in Redis, and each wrapper adds one
//! feature. [`stack`] is the one place that composes what production runs. Every store and every
//! wrapper passes the suite in `store/conformance.rs`.

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

/// What one request asks of a store: to charge one cost to every quota that it meets, and to read the
/// blocks of its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The caller's canonical address, under which an operator may have blocked it; `None` if the
    /// caller cannot be blocked by address.
    pub address: Option<String>,
    /// The quotas, without duplicates.
    pub charges: Vec<Charge>,
    /// Units the request takes from each quota. Zero reads without consuming.
    pub cost: u32,
}

impl Check {
    /// The callers that the check concerns: the address first, then the caller of each charge, in order. A caller may occur
    /// more than once.
    pub fn callers(&self) -> impl Iterator<Item = &str> {
        let address = self.address.iter().map(String::as_str);
        address.chain(self.charges.iter().map(Charge::caller))
    }

    /// Whether the address and all charges belong to one caller.
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
    /// The limit, the window and the algorithm.
    pub quota: Quota,
    /// How long the policy blocks the caller after a denial; `None`: it does not block.
    pub block: Option<Millis>,
    /// `false` in shadow mode: the quota is counted and reported, and never denies.
    pub enforced: bool,
    /// What happens to the request if the store does not decide.
    pub on_failure: OnFailure,
    /// The most units that an isolate may lease at once, including those of the request. 0 and 1 mean
    /// no lease. Stores ignore it; the wrapper [`leases`] reads it.
    pub lease: u32,
}

/// What happens to a request if the store does not decide. If the charges of a request differ, the
/// strictest rule applies, which is the last in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnFailure {
    /// This quota admits it, unless the isolate knows that the caller is blocked.
    Allow,
    /// The isolate's memory decides.
    #[default]
    Memory,
    /// It is answered with a 503.
    Deny,
}

impl OnFailure {
    /// The rule's name in `RATE_LIMIT_POLICIES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Memory => "memory",
            Self::Deny => "deny",
        }
    }

    /// The rule with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::Memory, Self::Deny]
            .into_iter()
            .find(|rule| rule.name() == name)
    }
}

impl Charge {
    /// Charges an enforced quota that sets no block and is not leased.
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

    /// The caller that is charged.
    #[must_use]
    pub fn caller(&self) -> &str {
        caller_of(&self.key)
    }

    /// Whether the store reads and writes the block of this policy.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.enforced && self.block.is_some()
    }
}

/// A store's answer to a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The block of the caller's address, set by an operator or automatically.
    pub address_block: Option<AddressBlock>,
    /// One answer for each charge, in order. `None` if the store was not asked about the charge,
    /// because a block, or an answer remembered for another charge, already denies the request.
    pub answers: Vec<Option<QuotaAnswer>>,
    /// Whether memory decided because the shared store did not.
    pub degraded: bool,
    /// What decided.
    pub source: Source,
}

/// What decided a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The shared store.
    #[default]
    Store,
    /// This isolate's memory.
    Memory,
    /// Units that the isolate had leased.
    Lease,
    /// A remembered denial, or this isolate's copy of the blocks.
    Remembered,
}

impl Source {
    /// All sources, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Store, Self::Memory, Self::Lease, Self::Remembered];

    /// The source's name in metric labels.
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

/// The answer of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAnswer {
    /// The quota's own decision. If another quota or a block denies the request, nothing is consumed,
    /// and an allowed decision reports what remains without this request.
    pub decision: Decision,
    /// When the policy's block of this caller ends; `None` if the policy does not block it.
    pub blocked_until: Option<Timestamp>,
}

impl QuotaAnswer {
    /// Whether neither the quota nor its block denies the request.
    #[must_use]
    pub const fn allows(&self) -> bool {
        self.decision.allowed() && self.blocked_until.is_none()
    }

    /// The first moment at which this quota would admit the same request; `None` if it admits it
    /// now, or if waiting does not help.
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
    /// Whether the request is admitted: there is no block, and every enforced quota allows it. `check`
    /// is the check that this verdict answers.
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

/// A store of quotas and of the blocks that policies set.
///
/// # Contract
///
/// - [`decide`](Store::decide) is one atomic step. It reads the records of every charge, decides as
///   [`decide::decide`] does, and writes what that returns, with no other decision in between.
/// - A denial is a value, not an error. An error means that the store did not decide. The store may
///   have counted the request all the same, if its answer was lost on the way.
/// - A record expires once it can no longer change a decision.
/// - `now` comes from the asking isolate's clock. A store has no own clock that could change a
///   decision.
/// - A decision is sent to a store once. Neither the store nor a wrapper repeats it.
///
/// Futures are not `Send`: an isolate has one thread.
#[allow(async_fn_in_trait)]
pub trait Store {
    /// Decides one request, consuming `check.cost` of every enforced quota or of none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be asked, or its answer is not valid.
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError>;

    /// The denial of `check`, if this isolate knows it without I/O and without changing any record.
    /// `None`: [`decide`](Self::decide) has to be asked, and may still deny.
    fn known_denial(&self, _check: &Check, _now: Timestamp) -> Option<Verdict> {
        None
    }

    /// Whether this isolate remembers a denial of `check`, even one that it has to revalidate.
    fn knows_denial(&self, _check: &Check, _now: Timestamp) -> bool {
        false
    }
}
