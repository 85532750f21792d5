//! What the wrappers of a shared store say to each other, beside the check and its verdict.
//!
//! A [`Store`] is asked by the gate, with a [`Check`]. On its way to the shared store the check is
//! joined by what the isolate wants of it: units to lease, and units that it admitted alone and that
//! are still to be counted. The reply brings what the isolate keeps: the states, and the version of
//! the blocked ranges.

use std::borrow::Cow;
use std::cell::Cell;

use super::{Charge, Check, Store, StoreError, Verdict};
use crate::quota::QuotaState;
use crate::time::{Millis, Timestamp};

/// A check, and what is wanted beside its verdict.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// What is to be decided.
    pub check: &'a Check,
    /// One for each charge of the check, or none at all.
    extras: Cow<'a, [ChargeExtra]>,
    /// Where the one who asks wants to know what a failure leaves in doubt.
    doubt: Option<&'a MaybeCounted>,
}

/// Which charges of a question a store that failed may have counted, if its error says that
/// [it may have run](StoreError::may_have_run): all, unless the store says which.
#[derive(Debug)]
pub struct MaybeCounted(Cell<u64>);

impl MaybeCounted {
    /// All of them.
    #[must_use]
    pub const fn of_all() -> Self {
        Self(Cell::new(u64::MAX))
    }

    /// Whether the charge at `place` may be counted. From the 65th on, each may.
    #[must_use]
    pub fn includes(&self, place: usize) -> bool {
        bit(place).is_none_or(|bit| self.0.get() & bit != 0)
    }
}

fn bit(place: usize) -> Option<u64> {
    1_u64.checked_shl(u32::try_from(place).ok()?)
}

/// What is wanted of one quota beside the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChargeExtra {
    /// Units to lease beside those of the request, should it go ahead, as far as the quota lets itself be
    /// [leased](crate::quota::Quota::lease).
    pub lease: u32,
    /// What was admitted to the quota elsewhere and is not counted yet. The store adds it before it
    /// decides, whatever the verdict, up to the limit.
    pub backlog: Option<Backlog>,
}

/// Units that an isolate admitted alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// A store that may lose an answer adds, of what comes again under the same name, what is new.
    pub name: String,
    /// The units, as a quota that admitted nothing else has them.
    pub state: QuotaState,
}

/// Nothing.
static NOTHING: ChargeExtra = ChargeExtra {
    lease: 0,
    backlog: None,
};

impl<'a> Question<'a> {
    /// The check alone.
    #[must_use]
    pub const fn new(check: &'a Check) -> Self {
        Self {
            check,
            extras: Cow::Borrowed(&[]),
            doubt: None,
        }
    }

    /// The check with `extras`, one for each of its charges.
    #[must_use]
    pub const fn with(check: &'a Check, extras: &'a [ChargeExtra]) -> Self {
        Self {
            check,
            extras: Cow::Borrowed(extras),
            doubt: None,
        }
    }

    /// The same question, whose failure leaves in `doubt` what it may have counted.
    #[must_use]
    pub fn doubting(&self, doubt: &'a MaybeCounted) -> Self {
        Self {
            doubt: Some(doubt),
            ..self.clone()
        }
    }

    /// The question fails, and of its charges those at `places` alone may have been counted.
    pub fn doubt_only(&self, places: &[usize]) {
        if let Some(doubt) = self.doubt {
            let bits = places.iter().filter_map(|place| bit(*place));
            doubt.0.set(bits.fold(0, |all, bit| all | bit));
        }
    }

    /// What is wanted of the charge at `place`.
    #[must_use]
    pub fn extra(&self, place: usize) -> &ChargeExtra {
        self.extras.get(place).unwrap_or(&NOTHING)
    }

    /// The extras, to be changed: one for each charge.
    pub fn extras_mut(&mut self) -> &mut [ChargeExtra] {
        let charges = self.check.charges.len();
        let extras = self.extras.to_mut();
        extras.resize(charges, ChargeExtra::default());
        extras
    }
}

/// A verdict, and what the isolate keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReply {
    /// The verdict.
    pub verdict: Verdict,
    /// One for each charge of the check; empty where the shared store was not asked.
    pub holdings: Vec<StoredCharge>,
    /// The version of the blocks that the shared store holds.
    pub ranges_version: RangesVersion,
}

/// What a reply says of the blocks' version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RangesVersion {
    /// Nothing: the shared store was not asked.
    #[default]
    NotAsked,
    /// The shared store holds this one; `None`: it holds none.
    Held(Option<String>),
}

/// What the shared store holds for one charge from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCharge {
    /// Units leased beside the request's, of those [asked for](ChargeExtra::lease). The decision's
    /// remaining units include them, its reset is after them.
    pub leased: u32,
    /// The state of the quota's own shape, if there is one. States of other versions stay in the store.
    pub state: Option<QuotaState>,
}

impl From<Verdict> for StoreReply {
    /// Of a wrapper that did not ask the shared store.
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
/// That of [`Store`], and:
///
/// - A [backlog](ChargeExtra::backlog) is added before the decision and stays whatever the verdict. A store
///   whose answer can be lost adds what comes under one [name](Backlog::name) once, and remembers the
///   name for as long as the units count.
/// - A [lease](ChargeExtra::lease) is taken last, and only of a request that goes ahead.
#[allow(async_fn_in_trait)]
pub trait SharedStore {
    /// Decides the check at `now`, the caller's clock.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not decide.
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError>;

    /// The most commands that [`ask`](Self::ask) can cost: the script and its one read, and per quota the state, a
    /// block, and the name of a backlog. (Loading the script, one more, is once in a store's lifetime.)
    fn most_commands(&self, question: &Question<'_>) -> u32 {
        let charges = question.check.charges.iter().enumerate();
        let writes = charges.map(|(place, charge)| {
            let backlog = question.extra(place).backlog.is_some();
            1 + u32::from(charge.blocks()) + u32::from(backlog)
        });
        2 + writes.sum::<u32>()
    }

    /// The wrapper's part of [`Store::known_denial`]; a wrapper that remembers no denial passes the
    /// question on.
    fn remembered_denial(&self, _check: &Check, _now: Timestamp) -> Option<Verdict> {
        None
    }

    /// The wrapper's part of [`Store::knows_denial`].
    fn remembers_denial(&self, _check: &Check, _now: Timestamp) -> bool {
        false
    }
}

/// Units to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Units of each quota.
    pub units: u32,
    /// The quotas, all of one caller, each with when the units were admitted: the decision's
    /// [`at`](crate::quota::Decision::at).
    pub taken: Vec<(Charge, Timestamp)>,
}

/// A shared store that may be partitioned by caller, as a Redis Cluster is: there one question is about one caller
/// ([`Check::is_of_one_caller`]), and nothing is atomic across callers. What it lacks, [`super::cluster`] adds.
#[allow(async_fn_in_trait)]
pub trait Partitioned: SharedStore {
    /// Whether it is.
    fn is_partitioned(&self) -> bool {
        false
    }

    /// As [`ask`](SharedStore::ask), waiting at most `timeout`, or for the store's own timeout if that is shorter.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not decide.
    async fn ask_within(
        &self,
        question: &Question<'_>,
        now: Timestamp,
        _timeout: Millis,
    ) -> Result<StoreReply, StoreError> {
        self.ask(question, now).await
    }

    /// Takes back an admission of each quota ([`Quota::refund`](crate::quota::Quota::refund)). It is sent once: a
    /// second time would take back another request's units.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store does not say that it has; it may have.
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
