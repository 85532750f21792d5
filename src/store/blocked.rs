//! A wrapper that denies callers in blocked ranges, and blocked addresses while the shared store does not answer. It reads
//! this isolate's copy of the blocks ([`crate::blocklist`]).
//!
//! In a shared database every decision also reads the block of the caller's own address and the version of the blocks, at
//! no extra command. If a request finds another version than the copy's, it loads the blocks before it goes on. That is one
//! more call, made by one request after a change. While a range denies callers, a request asks every few seconds whether
//! the range has changed, so that a range lifted by another isolate soon stops denying. While the store is out, the last
//! copy decides, for ranges and addresses alike. The list of addresses is read again, in parts, after one of them changes.
//!
//! In a cluster the version is in another slot than a caller's quotas, so no decision reads it. A duty reads it every ten
//! seconds, and no request waits for that. The copy decides without asking the store.
//!
//! A database can lose records. The first isolate that notices missing ranges and has them in its copy restores them
//! ([`crate::blocklist::version`]). Records of addresses that are listed as blocked without an end are restored too.

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

/// How often the blocks are loaded again in a row, because the database changed meanwhile or something was restored.
const MAX_ATTEMPTS: usize = 4;

/// Something that an operator has to know about the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// Blocked ranges are missing from the database, and this isolate does not know them.
    RangesLost,
    /// This isolate has restored this number of ranges, which were missing from the database.
    RangesRestored(usize),
    /// This isolate has restored the version of the ranges, which was missing from the database or invalid.
    VersionRestored,
    /// This isolate has restored the records of this number of blocked addresses, which were missing from the database.
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

/// The log line and health's reason when ranges are lost.
pub const RANGES_LOST: &str = "blocks: Redis has lost blocked ranges, and no isolate has restored them \
    yet. To accept the listed ranges as complete, set or lift any range";

/// A store that denies callers in blocked ranges without asking the store that it wraps.
pub struct Blocked<S, D, E> {
    inner: S,
    effects: E,
    records: Rc<Records<D>>,
    copy: RefCell<BlocklistCopy>,
    /// Since when ranges are missing from the database without being restored.
    lost: Cell<Option<Timestamp>>,
    /// Whether this isolate has changed the version, so that other isolates reload the blocks.
    alerted: Cell<bool>,
    /// Until when the copy decides, because the store did not answer.
    out_until: Cell<Deadline>,
    /// Until when the version of the blocks is not read again.
    next_version_read: Cell<Deadline>,
    load_monitor: FailureMonitor,
}

/// Failed loads in a row that are not logged: the breaker reports a store that is out.
const SILENT_FAILURES: u32 = 1;

/// How long the last copy decides after the store did not answer, before the store is asked again.
const OUT_FOR: Millis = Millis::from_secs(1);

/// How often the version of the blocks is read in a cluster, where decisions do not read it.
const VERSION_READ_AFTER: Millis = Millis::from_secs(10);

impl<S, D: Database, E: Effects> Blocked<S, D, E> {
    /// Wraps `inner`. `records` are in the database in which `inner` decides.
    pub fn new(inner: S, records: Rc<Records<D>>, effects: E) -> Self {
        Self {
            inner,
            effects,
            records,
            copy: RefCell::default(),
            lost: Cell::default(),
            alerted: Cell::default(),
            out_until: Cell::new(Deadline::OVER),
            next_version_read: Cell::new(Deadline::OVER),
            load_monitor: FailureMonitor::new(
                "Loading the blocks",
                "this isolate enforces its last copy",
                SILENT_FAILURES,
            ),
        }
    }

    /// The wrapped store.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// Reloads the copy. If the database is not shared, it does nothing: the copy has every block already.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy is unchanged then.
    pub async fn reload(&self, now: Timestamp) -> Result<(), StoreError> {
        if !self.records.is_shared() {
            return Ok(());
        }
        for _ in 0..MAX_ATTEMPTS {
            let (stored, listed) = self.records.stored_blocks(now).await?;
            let version = stored.version.clone();
            if self.apply_ranges(stored, now).await? {
                self.copy.borrow_mut().begin_list_read(version, now);
                return self.read_list(listed, true, now).await;
            }
        }
        // The copy is unchanged, and a later request tries again.
        Ok(())
    }

    /// Loads what the copy lacks: the ranges, or a part of the list of addresses. Its commands count as spent, but the cap
    /// does not refuse them: a flood that spends the whole cap would keep away the block that ends the flood.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy is unchanged then.
    pub async fn catch_up(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.copy.borrow().is_behind() {
            return self.reload(now).await;
        }
        let after = self.copy.borrow().read_list_after().cloned();
        let (listed, [version, carried]) = self.records.listed(after.as_ref(), now).await?;
        let stored = StoredRanges {
            version,
            hash_version: carried,
            ranges: Vec::new(),
        };
        let is_known = {
            let copy = self.copy.borrow();
            same_ranges(copy.version(), stored.version.as_deref()) && copy.agrees(&stored)
        };
        if !is_known {
            return self.reload(now).await;
        }
        let begins = after.is_none();
        if begins {
            self.copy.borrow_mut().begin_list_read(stored.version, now);
        }
        self.read_list(listed, begins, now).await
    }

    /// Takes the stored ranges into the copy and returns `true`, if no newer ranges are known. Otherwise it restores what it
    /// can and returns `false`: the ranges have to be loaded again.
    async fn apply_ranges(&self, stored: StoredRanges, now: Timestamp) -> Result<bool, StoreError> {
        let action = self.copy.borrow().action_for(&stored, now);
        let (missing, change) = match &action {
            RangesAction::Take => (&[][..], VersionChange::Nothing),
            RangesAction::Restore(missing) => (&missing[..], VersionChange::Ranges),
            // The ranges carry the lost version, so they need no new one.
            RangesAction::Renew if matches!(stored.agreement(), Agreement::VersionLost(_)) => {
                (&[][..], VersionChange::Addresses)
            }
            RangesAction::Renew => (&[][..], VersionChange::Ranges),
            RangesAction::Lost => {
                self.report_lost(now);
                // A changed version makes every isolate look at the blocks again: one of them may have the lost ranges.
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
        let mut taken = matches!(action, RangesAction::Take | RangesAction::Lost);
        if change != VersionChange::Nothing {
            match self.records.restore(&stored, missing, change, now).await {
                Ok(None) => {}
                Ok(Some(restored)) => match action {
                    RangesAction::Restore(_) if restored > 0 => {
                        self.log(Notice::RangesRestored(restored));
                    }
                    // An operator has lifted the missing ranges.
                    RangesAction::Restore(_) => taken = stored.is_whole(),
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
            if !matches!(action, RangesAction::Lost) {
                self.lost.set(None);
                self.alerted.set(false);
            }
            self.copy.borrow_mut().take_ranges(stored, now);
        }
        Ok(taken)
    }

    fn report_lost(&self, now: Timestamp) {
        if self.lost.get().is_none() {
            self.lost.set(Some(now));
            self.log(Notice::RangesLost);
        }
    }

    /// Takes a part of the list of addresses into the copy, and restores records that are missing.
    async fn read_list(
        &self,
        listed: ListedAddresses,
        begins: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // First, so that the copy has the list even if records cannot be restored.
        self.copy
            .borrow_mut()
            .take_listed(listed.clone(), begins, now);
        let restored = self.records.restore_addresses(&listed, now).await?;
        if restored > 0 {
            self.log(Notice::AddressesRestored(restored));
        }
        let is_sample = self.records.is_clustered() && restored > 0;
        if is_sample || restored >= RESTORED_AT_A_TIME {
            // More records may be missing.
            self.copy.borrow_mut().check_again();
        }
        Ok(())
    }

    fn log(&self, notice: Notice) {
        self.effects.log(notice.level(), &notice.to_string());
    }

    /// Since when ranges are missing from the database without being restored; `None`: none are missing.
    #[must_use]
    pub const fn lost_since(&self) -> Option<Timestamp> {
        self.lost.get()
    }

    /// Since when the copy cannot be brought up to date, and why; `None` if it can.
    #[must_use]
    pub fn load_failure(&self) -> Option<(Timestamp, String)> {
        self.load_monitor.get()
    }

    /// Adds a block to the copy at once: one that was set, or that could not be written to the database.
    pub fn add(&self, target: &BlockTarget, block: AddressBlock, now: Timestamp) {
        self.copy.borrow_mut().add(target, block, now);
    }

    /// Removes a lifted block from the copy.
    pub fn remove(&self, target: &BlockTarget) {
        self.copy.borrow_mut().remove(target);
    }

    /// Compares the copy with the version of the blocks in the store, and loads what it lacks.
    async fn compare(&self, version: Option<&str>, now: Timestamp) {
        let load = self.copy.borrow_mut().compare(version, now);
        if load {
            // Other requests depend on the copy. If the load fails, the copy is unchanged, and a later request tries again.
            self.effects.outlive_client();
            // Boxed, so that the future of a decision that loads nothing stays small.
            let caught_up = Box::pin(self.catch_up(now)).await;
            // Lost ranges have their own report.
            if caught_up.is_ok() || self.lost.get().is_none() {
                let error = caught_up.err().map(|error| error.to_string());
                self.load_monitor.learn(error, &self.effects, now);
            }
        }
    }

    /// Whether the version of the blocks has to be read separately from decisions. If it returns `true`, the caller must call
    /// [`read_version`](Self::read_version).
    #[must_use]
    pub fn should_read_version(&self, now: Timestamp) -> bool {
        let is_due = self.records.is_clustered() && !self.next_version_read.get().is_pending(now);
        if is_due {
            // A deadline, not a flag: if the task ends early, another follows.
            self.next_version_read
                .set(Deadline::after(VERSION_READ_AFTER, now));
        }
        is_due
    }

    /// Reads the version of the blocks, and loads what the copy lacks.
    pub async fn read_version(&self, now: Timestamp) {
        match self.records.blocks_version(now).await {
            Ok(version) => {
                self.compare(version.as_deref(), now).await;
                // If the copy is behind, the load has failed and has reported why.
                if !self.copy.borrow().is_behind() {
                    self.load_monitor.learn(None, &self.effects, now);
                }
            }
            Err(error) => (self.load_monitor).learn(Some(error.to_string()), &self.effects, now),
        }
    }

    /// The longest block of a range that contains the canonical address, as far as this isolate knows, and that range.
    pub fn covering(&self, address: &str, now: Timestamp) -> Option<(Range, AddressBlock)> {
        self.copy.borrow().longest_range(address, now)
    }

    fn in_range(&self, address: &str, now: Timestamp) -> Option<AddressBlock> {
        self.covering(address, now).map(|(_, block)| block)
    }

    /// Whether the copy decides about a caller without asking the store.
    fn copy_decides(&self, address: &str, now: Timestamp) -> bool {
        let is_due = || !self.records.is_clustered() && self.copy.borrow().is_due(now);
        let in_fresh_range = || !is_due() && self.in_range(address, now).is_some();
        !self.records.is_shared() || self.out_until.get().is_pending(now) || in_fresh_range()
    }

    /// The longest block of the address and of the ranges that contain it, in the copy.
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
    /// Asks the store for the version of the blocks, in case the range that denies the caller was lifted.
    async fn ask_again(&self, check: &Check, now: Timestamp) {
        let question = Check {
            address: check.address.clone(),
            charges: Vec::new(),
            cost: check.cost,
        };
        if let Ok(reply) = self.inner.ask(&Question::new(&question), now).await
            && !reply.verdict.degraded
            && let RangesVersion::Stored(version) = reply.ranges_version
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
                // An answer from this isolate's memory carries no version, and does not show that the store answers.
                if let RangesVersion::Stored(version) = &decided.ranges_version {
                    self.out_until.set(Deadline::OVER);
                    self.compare(version.as_deref(), now).await;
                }
                let range = self.in_range(address, now);
                let verdict = &mut decided.verdict;
                verdict.address_block = AddressBlock::longer(verdict.address_block, range);
                reply
            }
            _ => {
                self.out_until.set(Deadline::after(OUT_FOR, now));
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
            && self.copy_decides(address, now)
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
