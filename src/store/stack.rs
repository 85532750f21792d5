//! The store that production runs: a shared store and all of its wrappers, composed once.
//!
//! From the inside out:
//!
//! 1. [`Cluster`] makes one decision of several, if the shared store is partitioned by caller.
//! 2. [`Capped`] limits the commands that the isolate spends.
//! 3. [`Breaker`] does not ask a store that fails.
//! 4. [`Leases`] takes units beforehand.
//! 5. [`Denials`] remembers denials.
//! 6. [`Fallback`] lets this isolate's memory decide when the shared store does not. The shared store's answers keep the
//!    memory current.
//! 7. [`Blocked`] denies blocked ranges.
//!
//! Leases and denials are inside of the fallback, so they learn only from answers of the shared store, never from those of
//! memory. Without a shared store, memory decides everything.

use std::num::NonZeroU32;
use std::rc::Rc;

use super::blocked::Blocked;
use super::breaker::circuit::{Permit, Waits};
use super::breaker::{Breaker, BreakerStatus, BreakerTransitions};
use super::capped::Capped;
use super::cluster::Cluster;
use super::denials::{self, Denials};
use super::fallback::{Fallback, QUOTAS_PER_CALL};
use super::leases::{self, Leases, Prefetch};
use super::memory::{self, Memory};
use super::retries::Retries;
use super::shared::{Partitioned, Question, Refund, SharedStore};
use super::{Check, Store, StoreError, Verdict};
use crate::blocklist::{AddressBlock, BlockTarget};
use crate::budget::Budget;
use crate::client::AddressPrefix;
use crate::client::range::Range;
use crate::effects::Effects;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::time::{Millis, Timestamp};

/// The shared store with the wrappers that learn from its answers alone.
type WrappedStore<S, E> = Denials<Leases<GuardedStore<S, E>>, E>;

/// The shared store with the wrappers that every question to it passes.
type GuardedStore<S, E> = Breaker<Capped<Cluster<S, E>, E>, E>;

/// The configuration of an isolate's use of a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The longest that one decision may wait.
    pub timeout: Millis,
    /// How calls that may safely be repeated are retried.
    pub retries: Retries,
    /// How often the open breaker's wait may double.
    pub doublings: u32,
    /// The most commands that one isolate may spend in a second; `None`: no cap.
    pub max_commands: Option<NonZeroU32>,
    /// The part of a limit that one isolate admits while the store is out, in thousandths.
    pub fallback_factor: u32,
}

/// The most entries that an isolate keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxEntries {
    /// Quotas in memory.
    pub memory: usize,
    /// Remembered denials.
    pub denials: usize,
    /// Quotas with leases.
    pub leases: usize,
}

impl Default for MaxEntries {
    fn default() -> Self {
        Self {
            memory: memory::DEFAULT_ENTRIES,
            denials: denials::DEFAULT_ENTRIES,
            leases: leases::DEFAULT_ENTRIES,
        }
    }
}

/// The store that the gate asks.
pub struct Stack<S, D, E> {
    store: Blocked<Fallback<WrappedStore<S, E>>, D, E>,
    retries: Retries,
    effects: E,
}

/// What decides, and the state of the shared store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Memory decides, because no shared store is configured.
    Memory,
    /// The shared store decides while its breaker is closed, else memory does.
    Shared(BreakerStatus),
}

impl<S: Partitioned, D: Database, E: Effects + Clone> Stack<S, D, E> {
    /// Composes the stack around `shared`, whose records are `records`. From now on both spend from one budget of commands.
    pub fn new(
        shared: S,
        records: Rc<Records<D>>,
        rules: StoreSettings,
        sizes: MaxEntries,
        seed: &Seed,
        effects: E,
    ) -> Self {
        let waits = Waits {
            doublings: rules.doublings,
            probe: rules.timeout + PROBE_GRACE,
        };
        let budget = Budget::new(rules.max_commands);
        records.share_budget(budget.clone());
        let is_partitioned = shared.is_partitioned();
        let cluster = Cluster::new(shared, rules.timeout, effects.clone());
        let capped = Capped::new(cluster, budget, effects.clone());
        let breaker = Breaker::new(capped, waits, effects.clone());
        let leases = Leases::new(breaker, sizes.leases, seed).one_caller_only(is_partitioned);
        let denials = Denials::new(leases, sizes.denials, seed.clone(), effects.clone());
        let memory = Memory::new(sizes.memory, seed.clone());
        let fallback = Fallback::new(denials, memory, rules.fallback_factor);
        Self {
            store: Blocked::new(fallback, records, effects.clone()),
            retries: rules.retries,
            effects,
        }
    }

    /// Composes a stack without a shared store.
    pub fn in_memory(records: Rc<Records<D>>, sizes: MaxEntries, seed: &Seed, effects: E) -> Self {
        let memory = Memory::new(sizes.memory, seed.clone());
        Self {
            store: Blocked::new(Fallback::in_memory(memory), records, effects.clone()),
            retries: Retries::NONE,
            effects,
        }
    }

    /// What decides, and the state of the shared store.
    #[must_use]
    pub fn health(&self) -> StoreHealth {
        match self.breaker() {
            None => StoreHealth::Memory,
            Some(breaker) => StoreHealth::Shared(breaker.status()),
        }
    }

    /// Whether the database can be asked: there is no shared store, or its breaker is closed.
    #[must_use]
    pub fn is_database_available(&self) -> bool {
        self.breaker().is_none_or(Breaker::is_closed)
    }

    /// How often the breaker has entered each state.
    #[must_use]
    pub fn transitions(&self) -> BreakerTransitions {
        self.breaker().map(Breaker::transitions).unwrap_or_default()
    }

    /// The permit to [probe](Self::probe) a store whose breaker is not closed, if a probe is due.
    #[must_use]
    pub fn begin_probe(&self) -> Option<Permit> {
        self.breaker()?.begin_probe()
    }

    /// Asks the store once, to learn whether it answers again.
    pub async fn probe(&self, permit: Permit) {
        let Some(breaker) = self.breaker() else {
            return;
        };
        breaker.probe(permit).await;
        if breaker.is_closed() {
            self.fallback().answers_again();
        }
    }

    /// The next prefetch to make in the background, if there is one. Each is returned once.
    #[must_use]
    pub fn next_prefetch(&self) -> Option<Prefetch> {
        self.leases()?.next_prefetch()
    }

    /// Makes a prefetch.
    pub async fn prefetch(&self, prefetch: &Prefetch) {
        // The breaker logs a failure, and a request that finds no leased units asks the store.
        let _ = self.fallback().prefetch(prefetch, self.effects.now()).await;
    }

    /// Whether a backlog has to be reconciled. If it returns `true`, the caller must call [`reconcile`](Self::reconcile).
    #[must_use]
    pub fn should_reconcile(&self) -> bool {
        self.is_database_available() && self.fallback().should_reconcile(self.effects.now())
    }

    /// Sends to the shared store what this isolate admitted alone.
    pub async fn reconcile(&self) {
        let (quotas_per_call, retries) = match self.cluster().is_some_and(Cluster::is_partitioned) {
            // A partitioned store takes one call per caller, so several callers would share one timeout. And when a call
            // fails, calls for other callers may succeed: they are of more use than a retry.
            true => (1, Retries::NONE),
            false => (QUOTAS_PER_CALL, self.retries),
        };
        // The breaker logs a failure, and a later request tries again.
        let _ = (self
            .fallback()
            .reconcile(retries, quotas_per_call, &self.effects))
        .await;
    }

    /// The next refund to make in the background, if there is one. Each is returned once.
    #[must_use]
    pub fn next_refund(&self) -> Option<Refund> {
        self.cluster()?.next_refund()
    }

    /// Makes a refund. If it fails, it is not repeated: the units stay taken until they leave the window.
    pub async fn refund(&self, refund: &Refund) {
        if let Some(cluster) = self.cluster() {
            let _ = cluster.refund(refund).await;
        }
    }

    /// Forgets all that this isolate knows of a quota's key or of an address, so that the store is asked again.
    pub fn forget(&self, key: &str) {
        self.fallback().memory().forget(key);
        if let Some(denials) = self.fallback().shared() {
            denials.forget(key);
        }
        self.drop_lease(key);
    }

    /// Drops the leased units of a quota. They stay taken until they leave the window.
    pub fn drop_lease(&self, key: &str) {
        if let Some(leases) = self.leases() {
            leases.forget(key);
        }
    }

    /// When a check whose quotas have just been read would be admitted; `None` if it would be now, or never.
    #[must_use]
    pub fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        self.fallback().memory().retry_at(check, now)
    }

    /// Reloads the copy of the blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy is unchanged then.
    pub async fn reload_blocks(&self, now: Timestamp) -> Result<(), StoreError> {
        self.store.reload(now).await
    }

    /// Whether the version of the blocks has to be read separately from decisions. If it returns `true`, the caller must call
    /// [`read_blocks_version`](Self::read_blocks_version).
    #[must_use]
    pub fn should_read_blocks_version(&self) -> bool {
        self.is_database_available() && self.store.should_read_version(self.effects.now())
    }

    /// Reads the version of the blocks, and loads the blocks that have changed.
    pub async fn read_blocks_version(&self) {
        self.store.read_version(self.effects.now()).await;
    }

    /// Enforces a block in this isolate at once: one that was set, or that could not be written to the database.
    pub fn add_block(&self, target: &BlockTarget, block: AddressBlock) {
        self.store.add(target, block, self.effects.now());
    }

    /// Stops enforcing a lifted block in this isolate.
    pub fn remove_block(&self, target: &BlockTarget) {
        self.store.remove(target);
    }

    /// The longest block of a range that contains the caller, as far as this isolate knows, and that range. The block of
    /// the caller's own address is not considered.
    #[must_use]
    pub fn covering(
        &self,
        network: AddressPrefix,
        now: Timestamp,
    ) -> Option<(Range, AddressBlock)> {
        self.store.covering(&network.to_string(), now)
    }

    /// Since when blocked ranges are missing from the database without being restored; `None`: none are missing.
    #[must_use]
    pub const fn blocks_lost_since(&self) -> Option<Timestamp> {
        self.store.lost_since()
    }

    /// Since when this isolate cannot load blocks, and why; `None` if it can.
    #[must_use]
    pub fn blocks_failure(&self) -> Option<(Timestamp, String)> {
        self.store.load_failure()
    }

    /// The host's effects.
    pub const fn effects(&self) -> &E {
        &self.effects
    }

    const fn fallback(&self) -> &Fallback<WrappedStore<S, E>> {
        self.store.inner()
    }

    fn leases(&self) -> Option<&Leases<GuardedStore<S, E>>> {
        self.fallback().shared().map(Denials::inner)
    }

    fn breaker(&self) -> Option<&GuardedStore<S, E>> {
        self.leases().map(Leases::inner)
    }

    fn cluster(&self) -> Option<&Cluster<S, E>> {
        self.breaker().map(|breaker| breaker.inner().inner())
    }
}

/// How much longer than its timeout a probe may take on a busy machine, before another may be sent.
const PROBE_GRACE: Millis = Millis::from_secs(1);

impl<S: Partitioned, D: Database, E: Effects + Clone> Store for Stack<S, D, E> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let reply = self.store.ask(&Question::new(check), now).await?;
        Ok(reply.verdict)
    }

    fn known_denial(&self, check: &Check, now: Timestamp) -> Option<Verdict> {
        self.store.remembered_denial(check, now)
    }

    fn knows_denial(&self, check: &Check, now: Timestamp) -> bool {
        self.store.remembers_denial(check, now)
    }
}

#[cfg(test)]
mod tests;
