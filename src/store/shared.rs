//! The trait of a shared store and of its wrappers, and what they exchange besides a check and its
//! verdict.
//!
//! The gate asks a [`Store`] with a [`Check`]. On the way to the shared store the wrappers add what the
//! isolate needs: units to lease, and its backlog, which are units that it admitted alone and that the
//! store has yet to count. The reply carries what the isolate keeps: the states, and the version of the
//! blocked ranges.

use std::borrow::Cow;
use std::cell::Cell;

use super::{Charge, Check, Store, StoreError, Verdict};
use crate::quota::QuotaState;
use crate::time::{Millis, Timestamp};

/// A check, and what the wrappers ask of the store besides its verdict.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The check to decide.
    pub check: &'a Check,
    /// One for each charge of the check, or empty.
    extras: Cow<'a, [ChargeExtra]>,
    /// Receives which charges a failed call may have counted, if the asker needs to know.
    maybe_counted: Option<&'a MaybeCounted>,
}

/// The charges of a question that a failed call may have counted, if its error
/// [may have run](StoreError::may_have_run). These are all charges, unless a store
/// [limits](Question::limit_maybe_counted) them.
#[derive(Debug)]
pub struct MaybeCounted(Cell<u64>);

impl MaybeCounted {
    /// All charges.
    #[must_use]
    pub const fn all() -> Self {
        Self(Cell::new(u64::MAX))
    }

    /// Whether the charge at `place` (from 0) may be counted. It is always `true` from place 64 on: there are 64 bits.
    #[must_use]
    pub fn includes(&self, place: usize) -> bool {
        bit(place).is_none_or(|bit| self.0.get() & bit != 0)
    }
}

fn bit(place: usize) -> Option<u64> {
    1_u64.checked_shl(u32::try_from(place).ok()?)
}

/// What is asked of one quota besides the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChargeExtra {
    /// Units to lease in addition to those of the request, if it is admitted. The quota
    /// [grants](crate::quota::Quota::lease) as many of them as it can. 0: none.
    pub lease: u32,
    /// Units that the isolate admitted alone and that the store has yet to count. The store adds them
    /// before it decides, up to the limit, and keeps them whatever the verdict.
    pub backlog: Option<Backlog>,
}

/// Units that an isolate admitted alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Identifies the backlog when it is sent again. A store whose answer may be lost then adds only the
    /// units that it has not added under this name before.
    pub name: String,
    /// The units, as the state of a quota that admitted nothing else.
    pub state: QuotaState,
}

static NO_EXTRA: ChargeExtra = ChargeExtra {
    lease: 0,
    backlog: None,
};

impl<'a> Question<'a> {
    /// Asks for the verdict alone.
    #[must_use]
    pub const fn new(check: &'a Check) -> Self {
        Self {
            check,
            extras: Cow::Borrowed(&[]),
            maybe_counted: None,
        }
    }

    /// Asks with `extras`, one for each charge of the check.
    #[must_use]
    pub const fn with(check: &'a Check, extras: &'a [ChargeExtra]) -> Self {
        Self {
            check,
            extras: Cow::Borrowed(extras),
            maybe_counted: None,
        }
    }

    /// The same question. If it fails, `maybe_counted` receives which charges may have been counted.
    #[must_use]
    pub fn with_maybe_counted(&self, maybe_counted: &'a MaybeCounted) -> Self {
        Self {
            maybe_counted: Some(maybe_counted),
            ..self.clone()
        }
    }

    /// Reports, for a question that fails, that no charges but those at `places` may have been counted.
    pub fn limit_maybe_counted(&self, places: &[usize]) {
        if let Some(maybe_counted) = self.maybe_counted {
            let bits = places.iter().filter_map(|place| bit(*place));
            maybe_counted.0.set(bits.fold(0, |all, bit| all | bit));
        }
    }

    /// The extra of the charge at `place` (from 0).
    #[must_use]
    pub fn extra(&self, place: usize) -> &ChargeExtra {
        self.extras.get(place).unwrap_or(&NO_EXTRA)
    }

    /// The extras for writing, one for each charge.
    pub fn extras_mut(&mut self) -> &mut [ChargeExtra] {
        let charges = self.check.charges.len();
        let extras = self.extras.to_mut();
        extras.resize(charges, ChargeExtra::default());
        extras
    }
}

/// A verdict, and what the isolate keeps for later decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReply {
    /// The verdict.
    pub verdict: Verdict,
    /// One for each charge of the check; empty if the shared store was not asked.
    pub stored_charges: Vec<StoredCharge>,
    /// The version of the blocked ranges in the shared store.
    pub ranges_version: RangesVersion,
}

/// The version of the blocked ranges, as a reply reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RangesVersion {
    /// Unknown: the shared store was not asked for it.
    #[default]
    NotAsked,
    /// The version that the shared store holds; `None`: it holds none.
    Stored(Option<String>),
}

/// What the shared store holds for one charge after a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCharge {
    /// Units leased in addition to the request's: at most those [asked for](ChargeExtra::lease). The decision's remaining
    /// units include them, and its reset is the time at which they have left the quota as well.
    pub leased: u32,
    /// The state that the quota's algorithm and width use, if there is one. States of other versions of the policy stay in
    /// the store.
    pub state: Option<QuotaState>,
}

impl From<Verdict> for StoreReply {
    /// The reply of a wrapper that did not ask the shared store.
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            ..Self::default()
        }
    }
}

/// A shared store, or a wrapper of one.
///
/// # Contract
///
/// The contract of [`Store`], and:
///
/// - A [backlog](ChargeExtra::backlog) is added before the decision and kept whatever the verdict. A store
///   whose answer can be lost adds the units under one [name](Backlog::name) once, and remembers the
///   name for as long as the units count.
/// - A [lease](ChargeExtra::lease) is taken last, and only if the request is admitted.
#[allow(async_fn_in_trait)]
pub trait SharedStore {
    /// Decides the check at `now`, by the asking isolate's clock.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not decide.
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError>;

    /// The most commands that the database bills for [`ask`](Self::ask): the script and its one read, and for each quota the
    /// writes of its state, of a block and of a backlog's name. Loading the script is one more, once in a store's lifetime.
    fn most_commands(&self, question: &Question<'_>) -> u32 {
        let charges = question.check.charges.iter().enumerate();
        let writes = charges.map(|(place, charge)| {
            let backlog = question.extra(place).backlog.is_some();
            1 + u32::from(charge.blocks()) + u32::from(backlog)
        });
        2 + writes.sum::<u32>()
    }

    /// The wrapper's part of [`Store::known_denial`]. A wrapper that remembers no denials passes the
    /// check to the store that it wraps, if that may remember some.
    fn remembered_denial(&self, _check: &Check, _now: Timestamp) -> Option<Verdict> {
        None
    }

    /// The wrapper's part of [`Store::knows_denial`].
    fn remembers_denial(&self, _check: &Check, _now: Timestamp) -> bool {
        false
    }
}

/// Units to give back to the quotas of one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Units to give back to each quota.
    pub units: u32,
    /// The quotas, all of one caller, each with the time at which the units were admitted: the decision's
    /// [`at`](crate::quota::Decision::at).
    pub taken: Vec<(Charge, Timestamp)>,
}

/// A shared store that may be partitioned by caller, as a Redis Cluster is. A partitioned store takes only questions about
/// one caller ([`Check::is_of_one_caller`]), and nothing is atomic across callers. [`super::cluster`] splits the others.
#[allow(async_fn_in_trait)]
pub trait Partitioned: SharedStore {
    /// Whether the store is partitioned.
    fn is_partitioned(&self) -> bool {
        false
    }

    /// Does what [`ask`](SharedStore::ask) does, waiting at most `timeout`, or the store's own timeout if that is shorter.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not decide.
    async fn ask_within(
        &self,
        question: &Question<'_>,
        now: Timestamp,
        _timeout: Millis,
    ) -> Result<StoreReply, StoreError> {
        self.ask(question, now).await
    }

    /// Gives units back to each quota ([`Quota::refund`](crate::quota::Quota::refund)). A refund is sent once: sent a second
    /// time, it would give back another request's units.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store does not confirm the refund. It may have made it all the same.
    async fn refund(&self, _refund: &Refund, _now: Timestamp) -> Result<(), StoreError> {
        Err(StoreError::UnknownCommand)
    }
}

impl<S: SharedStore> Store for S {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let reply = self.ask(&Question::new(check), now).await?;
        Ok(reply.verdict)
    }

    fn known_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        self.remembered_denial(check, now)
    }

    fn knows_denial(&self, check: &Check, now: Timestamp) -> bool {
        self.remembers_denial(check, now)
    }
}
