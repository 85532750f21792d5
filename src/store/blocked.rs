//! Blocked ranges, and blocked addresses while the shared store does not say: from this isolate's
//! copy of them ([`crate::blocklist`]).
//!
//! In a shared database the address's own block is part of every decision, and so is the version of
//! the blocks, at no command of its own. A request that finds other ranges than the copy's has the
//! copy loaded before it goes on: one call more, by one request, when something has changed. A range
//! that denies is asked about again every few seconds, so that one lifted elsewhere is soon forgotten.
//! While the store is out, the last copy rules, for ranges and addresses alike; the list of addresses
//! is read anew, in parts, where one of them has changed.
//!
//! In a cluster the version is in another slot than a caller's quotas, and no part of a decision: a duty reads it every ten
//! seconds, and no request waits for that. A copy then rules as it is.
//!
//! A database can lose what it holds. Ranges that are missing from it, and that a copy knows, are
//! restored by the first isolate that notices ([`crate::blocklist::version`]); so are the records of
//! addresses that are listed as blocked without an end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::shared::{Question, RangesVersion, SharedStore, StoreReply};
use super::{Check, Source, StoreError, Verdict};
use crate::blocklist::copy::{BlocklistCopy, RangesAction};
use crate::blocklist::records::{ListedAddresses, RESTORED_AT_A_TIME};
use crate::blocklist::version::{Agreement, StoredRanges, same_ranges};
use crate::blocklist::{AddressBlock, BlockTarget, VersionChange};
use crate::client::range::Range;
use crate::effects::{Effects, LogLevel};
use crate::failure_monitor::FailureMonitor;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::time::{Deadline, Millis, Timestamp};

/// Attempts at loading, while the database changes or something is restored.
const ATTEMPTS: usize = 4;

/// Something that an operator has to know of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// Blocked ranges are missing from the database, and this isolate does not know them.
    RangesLost,
    /// So many ranges were missing from the database; this isolate has restored them.
    RangesRestored(usize),
    /// The version of the ranges was missing from the database, or was none; it has one again.
    VersionRestored,
    /// The records of so many blocked addresses were missing; this isolate has restored them.
    AddressesRestored(usize),
}

impl Notice {
    const fn level(self) -> LogLevel {
        match self {
            Self::RangesLost => LogLevel::Error,
            Self::RangesRestored(_) | Self::VersionRestored | Self::AddressesRestored(_) => {
                LogLevel::Warn
            }
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RangesLost => f.write_str(RANGES_LOST),
            Self::RangesRestored(ranges) => {
                write!(f, "blocks: Redis had lost {ranges} blocked ranges, which this isolate restored")
            }
            Self::VersionRestored => {
                f.write_str("blocks: Redis had lost the version of the blocked ranges, which this isolate restored")
            }
            Self::AddressesRestored(addresses) => write!(
                f,
                "blocks: Redis had lost the records of {addresses} blocked addresses, which this isolate restored"
            ),
        }
    }
}

/// What to tell the operator of ranges that are lost.
pub const RANGES_LOST: &str = "blocks: Redis has lost blocked ranges, and no isolate has restored them \
    yet; to accept those that are listed, set or lift a range";

/// A store that answers callers in blocked ranges itself.
pub struct Blocked<S, D, E> {
    inner: S,
    effects: E,
    records: Rc<Records<D>>,
    copy: RefCell<BlocklistCopy>,
    /// Since when ranges are missing from the database that no isolate has restored.
    lost: Cell<Option<Timestamp>>,
    /// Whether the other isolates have been told.
    alerted: Cell<bool>,
    /// While the store did not answer a moment ago.
    out: Cell<Deadline>,
    /// Until the version is to be read apart.
    reads_version: Cell<Deadline>,
    load_monitor: FailureMonitor,
}

/// Loads in a row that may fail in silence: the breaker reports a store that is out.
const SILENT_FAILURES: u32 = 1;

/// How long the last copy rules before the store is asked again, once it has not answered.
const OUT: Millis = Millis::from_secs(1);

/// How often the version of the blocks is read apart, where no decision carries it.
const VERSION_READ_AFTER: Millis = Millis::from_secs(10);

impl<S, D: Database, E: Effects> Blocked<S, D, E> {
    /// `records` are in the database that `inner` decides in.
    pub fn new(inner: S, records: Rc<Records<D>>, effects: E) -> Self {
        Self {
            inner,
            effects,
            records,
            copy: RefCell::default(),
            lost: Cell::default(),
            alerted: Cell::default(),
            out: Cell::new(Deadline::OVER),
            reads_version: Cell::new(Deadline::OVER),
            load_monitor: FailureMonitor::new(
                "blocks: loading them",
                "this isolate enforces its last copy",
                SILENT_FAILURES,
            ),
        }
    }

    /// The store that is asked.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Loads the copy anew. Where the database is this isolate's own, the copy has every block already.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy stays as it was.
    pub async fn reload(&self, now: Timestamp) -> Result<(), StoreError> {
        if !self.records.is_shared() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let (held, listed) = self.records.stored_blocks(now).await?;
            let version = held.version.clone();
            if self.settle(held, now).await? {
                self.copy.borrow_mut().begin_list_read(version, now);
                return self.read_list(listed, true, now).await;
            }
        }
        // The last copy stays, and a later request tries again.
        Ok(())
    }

    /// Loads what the copy lacks: the ranges, or a part of the list of addresses. It counts as spent and is never
    /// refused: a flood that spends the whole cap would keep away the block that ends it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy stays as it was.
    pub async fn catch_up(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.copy.borrow().is_behind() {
            return self.reload(now).await;
        }
        let after = self.copy.borrow().read_list_after().cloned();
        let (listed, [version, carried]) = self.records.listed(after.as_ref(), now).await?;
        let held = StoredRanges {
            version,
            carried,
            ranges: Vec::new(),
        };
        let is_known = {
            let copy = self.copy.borrow();
            same_ranges(copy.version(), held.version.as_deref()) && copy.agrees(&held)
        };
        if !is_known {
            return self.reload(now).await;
        }
        let begins = after.is_none();
        if begins {
            self.copy.borrow_mut().begin_list_read(held.version, now);
        }
        self.read_list(listed, begins, now).await
    }

    /// Takes ranges that a database holds, if they are the latest that anybody knows. Otherwise what can
    /// be done about it is done, and they are to be loaded anew.
    async fn settle(&self, held: StoredRanges, now: Timestamp) -> Result<bool, StoreError> {
        let judgement = self.copy.borrow().action_for(&held, now);
        let (missing, mark) = match &judgement {
            RangesAction::Take => (&[][..], VersionChange::Nothing),
            RangesAction::Restore(missing) => (&missing[..], VersionChange::Ranges),
            // The ranges carry the one that is lost.
            RangesAction::Renew if matches!(held.agreement(), Agreement::VersionLost(_)) => {
                (&[][..], VersionChange::Addresses)
            }
            RangesAction::Renew => (&[][..], VersionChange::Ranges),
            RangesAction::Lost => {
                self.report_lost(now);
                // Every isolate looks at the blocks again: one of them may know what is lost.
                let alerts = !self.alerted.replace(true);
                (
                    &[][..],
                    if alerts {
                        VersionChange::Addresses
                    } else {
                        VersionChange::Nothing
                    },
                )
            }
        };
        let mut taken = matches!(judgement, RangesAction::Take | RangesAction::Lost);
        if mark != VersionChange::Nothing {
            match self.records.restore(&held, missing, mark, now).await {
                Ok(None) => {}
                Ok(Some(restored)) => match judgement {
                    RangesAction::Restore(_) if restored > 0 => {
                        self.log(Notice::RangesRestored(restored));
                    }
                    // An operator has lifted them.
                    RangesAction::Restore(_) => taken = held.is_whole(),
                    RangesAction::Renew => self.log(Notice::VersionRestored),
                    RangesAction::Take | RangesAction::Lost => {}
                },
                Err(error) => {
                    self.report_lost(now);
                    self.alerted.set(false);
                    return Err(error);
                }
            }
        }
        if taken {
            if !matches!(judgement, RangesAction::Lost) {
                self.lost.set(None);
                self.alerted.set(false);
            }
            self.copy.borrow_mut().take_ranges(held, now);
        }
        Ok(taken)
    }

    fn report_lost(&self, now: Timestamp) {
        if self.lost.get().is_none() {
            self.lost.set(Some(now));
            self.log(Notice::RangesLost);
        }
    }

    /// Takes a part of the list of addresses.
    async fn read_list(
        &self,
        listed: ListedAddresses,
        begins: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // What cannot be restored keeps nobody from knowing the list.
        self.copy
            .borrow_mut()
            .take_listed(listed.clone(), begins, now);
        let restored = self.records.restore_addresses(&listed, now).await?;
        if restored > 0 {
            self.log(Notice::AddressesRestored(restored));
        }
        let is_sample = self.records.is_clustered() && restored > 0;
        if is_sample || restored >= RESTORED_AT_A_TIME {
            // There may be more of them.
            self.copy.borrow_mut().check_again();
        }
        Ok(())
    }

    fn log(&self, notice: Notice) {
        self.effects.log(notice.level(), &notice.to_string());
    }

    /// Since when ranges are missing from the database that no isolate has restored.
    #[must_use]
    pub const fn lost_since(&self) -> Option<Timestamp> {
        self.lost.get()
    }

    /// Since when the copy cannot be brought up to date, and why; `None` if it can.
    #[must_use]
    pub fn load_failure(&self) -> Option<(Timestamp, String)> {
        self.load_monitor.get()
    }

    /// Puts a block in force here: one that has been set, or that could not be written to the database.
    pub fn add(&self, target: &BlockTarget, block: AddressBlock, now: Timestamp) {
        self.copy.borrow_mut().add(target, block, now);
    }

    /// Takes a block that has been lifted out of force here.
    pub fn remove(&self, target: &BlockTarget) {
        self.copy.borrow_mut().remove(target);
    }

    async fn compare(&self, version: Option<&str>, now: Timestamp) {
        let load = self.copy.borrow_mut().compare(version, now);
        if load {
            // Others count on the copy. The last one stays if this fails, and another request tries again.
            self.effects.outlive_client();
            // Apart, so that a decision that loads nothing is not the larger for it.
            let caught_up = Box::pin(self.catch_up(now)).await;
            // Ranges that are lost are reported as such.
            if caught_up.is_ok() || self.lost.get().is_none() {
                let error = caught_up.err().map(|error| error.to_string());
                self.load_monitor.learn(error, &self.effects, now);
            }
        }
    }

    /// Whether the version of the blocks is to be read apart; then whoever asks is to [read it](Self::read_version).
    #[must_use]
    pub fn should_read_version(&self, now: Timestamp) -> bool {
        let is_due = self.records.is_clustered() && !self.reads_version.get().is_pending(now);
        if is_due {
            // A task that ends early is followed by another.
            self.reads_version
                .set(Deadline::after(VERSION_READ_AFTER, now));
        }
        is_due
    }

    /// Reads the version of the blocks, and loads what the copy lacks.
    pub async fn read_version(&self, now: Timestamp) {
        match self.records.blocks_version(now).await {
            Ok(version) => {
                self.compare(version.as_deref(), now).await;
                // Else it is said what fails.
                if !self.copy.borrow().is_behind() {
                    self.load_monitor.learn(None, &self.effects, now);
                }
            }
            Err(error) => (self.load_monitor).learn(Some(error.to_string()), &self.effects, now),
        }
    }

    /// The longest block of a range that holds the caller of that canonical address, as far as this isolate
    /// knows.
    pub fn covering(&self, address: &str, now: Timestamp) -> Option<(Range, AddressBlock)> {
        self.copy.borrow().longest_range(address, now)
    }

    fn in_range(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        self.covering(address, now).map(|(_, block)| block)
    }

    /// Whether the copy's word about a caller stands without asking the store.
    fn rules(&self, address: &str, now: Timestamp) -> bool {
        let is_due = || !self.records.is_clustered() && self.copy.borrow().is_due(now);
        let in_fresh_range = || !is_due() && self.in_range(address, now).is_some();
        !self.records.is_shared() || self.out.get().is_pending(now) || in_fresh_range()
    }

    fn any(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        self.copy.borrow().longest_block(address, now)
    }
}

fn denied(block: AddressBlock, check: &Check) -> StoreReply {
    StoreReply::from(Verdict {
        address_block: Some(block),
        answers: vec![None; check.charges.len()],
        source: Source::Remembered,
        ..Verdict::default()
    })
}

impl<S: SharedStore, D: Database, E: Effects> Blocked<S, D, E> {
    /// Whether the range that denies a caller still stands, by the store's word.
    async fn ask_again(&self, check: &Check, now: Timestamp) {
        let question = Check {
            address: check.address.clone(),
            charges: Vec::new(),
            cost: check.cost,
        };
        if let Ok(reply) = self.inner.ask(&Question::new(&question), now).await
            && !reply.verdict.degraded
            && let RangesVersion::Held(version) = reply.ranges_version
        {
            self.compare(version.as_deref(), now).await;
        }
    }
}

impl<S: SharedStore, D: Database, E: Effects> SharedStore for Blocked<S, D, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let check = question.check;
        let Some(address) = &check.address else {
            return self.inner.ask(question, now).await;
        };
        if !self.records.is_shared() {
            return match self.any(address, now) {
                Some(block) => Ok(denied(block, check)),
                None => self.inner.ask(question, now).await,
            };
        }
        if self.in_range(address, now).is_some() {
            let should_ask = !self.records.is_clustered() && self.copy.borrow_mut().should_ask(now);
            if should_ask {
                self.effects.outlive_client();
                self.ask_again(check, now).await;
            }
            if self.in_range(address, now).is_some()
                && let Some(block) = self.any(address, now)
            {
                return Ok(denied(block, check));
            }
        }
        let mut reply = self.inner.ask(question, now).await;
        match &mut reply {
            Ok(decided) if !decided.verdict.degraded => {
                // What memory answers says nothing of the version, nor that the store answers.
                if let RangesVersion::Held(version) = &decided.ranges_version {
                    self.out.set(Deadline::OVER);
                    self.compare(version.as_deref(), now).await;
                }
                let range = self.in_range(address, now);
                let verdict = &mut decided.verdict;
                verdict.address_block = AddressBlock::longer(verdict.address_block, range);
                reply
            }
            _ => {
                self.out.set(Deadline::after(OUT, now));
                match self.any(address, now) {
                    Some(block) => Ok(denied(block, check)),
                    None => reply,
                }
            }
        }
    }

    fn remembers_denial(&self, check: &Check, now: Timestamp) -> bool {
        let address = check.address.as_deref();
        address.is_some_and(|address| self.any(address, now).is_some())
            || self.inner.remembers_denial(check, now)
    }

    fn remembered_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        if let Some(address) = &check.address
            && self.rules(address, now)
            && let Some(block) = self.any(address, now)
        {
            return Some(denied(block, check).verdict);
        }
        self.inner.remembered_denial(check, now)
    }
}

#[cfg(test)]
mod redis_tests;
#[cfg(test)]
mod tests;
