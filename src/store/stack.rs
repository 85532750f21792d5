//! What production runs: the shared store and all that stands around it, composed once.
//!
//! From the inside: one decision of several, where the shared store is partitioned by caller ([`Cluster`]); a cap on what
//! is spent ([`Capped`]); the [`Breaker`]; units taken beforehand
//! ([`Leases`]); denials that are remembered ([`Denials`]); this isolate's memory, which the shared
//! store's answers keep current and which decides in its place ([`Fallback`]); and blocked ranges
//! ([`Blocked`]). Leases and denials learn from the shared store's word alone: they stand between it and
//! the memory that takes its place. Without a shared store, memory decides everything.

use std::num::NonZeroU32;
use std::rc::Rc;

use super::blocked::Blocked;
use super::breaker::circuit::{Permit, Waits};
use super::breaker::{Breaker, Status, Transitions};
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
use crate::client::Network;
use crate::client::range::Range;
use crate::effects::Effects;
use crate::redis::Database;
use crate::redis::records::Records;
use crate::seed::Seed;
use crate::time::{Millis, Timestamp};

/// The shared store's own wrappers.
type WrappedStore<S, E> = Denials<Leases<GuardedStore<S, E>>, E>;

/// Those that every question to it passes.
type GuardedStore<S, E> = Breaker<Capped<Cluster<S, E>, E>, E>;

/// How an isolate deals with a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long one decision may wait.
    pub timeout: Millis,
    /// How calls that may be repeated are.
    pub retries: Retries,
    /// Doublings of the open breaker's wait.
    pub doublings: u32,
    /// Commands that one isolate may spend in a second.
    pub max_commands: Option<NonZeroU32>,
    /// Thousandths of a limit that one isolate admits while the store is out.
    pub fallback_factor: u32,
}

/// How many entries an isolate keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Quotas in memory.
    pub memory: usize,
    /// Denials.
    pub denials: usize,
    /// Quotas with leases.
    pub leases: usize,
}

impl Default for Sizes {
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

/// How the stack's store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Memory, as configured.
    Memory,
    /// The shared store, unless its breaker is open; memory decides meanwhile.
    Shared(Status),
}

impl<S: Partitioned, D: Database, E: Effects + Clone> Stack<S, D, E> {
    /// Around `shared`, whose records are `records`: both spend of one budget from now on.
    pub fn new(
        shared: S,
        records: Rc<Records<D>>,
        rules: Rules,
        sizes: Sizes,
        seed: &Seed,
        effects: E,
    ) -> Self {
        let waits = Waits {
            doublings: rules.doublings,
            probe: rules.timeout + GRACE,
        };
        let budget = Budget::new(rules.max_commands);
        records.share_budget(budget.clone());
        let is_partitioned = shared.is_partitioned();
        let cluster = Cluster::new(shared, rules.timeout, effects.clone());
        let capped = Capped::new(cluster, budget, effects.clone());
        let breaker = Breaker::new(capped, waits, effects.clone());
        let leases = Leases::new(breaker, sizes.leases, seed).of_one_caller(is_partitioned);
        let denials = Denials::new(leases, sizes.denials, seed.clone(), effects.clone());
        let memory = Memory::new(sizes.memory, seed.clone());
        let fallback = Fallback::new(denials, memory, rules.fallback_factor);
        Self {
            store: Blocked::new(fallback, records, effects.clone()),
            retries: rules.retries,
            effects,
        }
    }

    /// Without a shared store.
    pub fn in_memory(records: Rc<Records<D>>, sizes: Sizes, seed: &Seed, effects: E) -> Self {
        let memory = Memory::new(sizes.memory, seed.clone());
        Self {
            store: Blocked::new(Fallback::in_memory(memory), records, effects.clone()),
            retries: Retries::NONE,
            effects,
        }
    }

    /// How the store does.
    #[must_use]
    pub fn health(&self) -> StoreHealth {
        match self.breaker() {
            None => StoreHealth::Memory,
            Some(breaker) => StoreHealth::Shared(breaker.status()),
        }
    }

    /// Whether records can be written: there is no shared store, or it answers.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.breaker().is_none_or(Breaker::is_closed)
    }

    /// How often the breaker came to each state.
    #[must_use]
    pub fn transitions(&self) -> Transitions {
        self.breaker().map(Breaker::transitions).unwrap_or_default()
    }

    /// Leave to [probe](Self::probe) a store that is not asked, if a probe is due.
    #[must_use]
    pub fn begin_probe(&self) -> Option<Permit> {
        self.breaker()?.begin_probe()
    }

    /// Asks the store whether it answers again.
    pub async fn probe(&self, permit: Permit) {
        let Some(breaker) = self.breaker() else {
            return;
        };
        breaker.probe(permit).await;
        if breaker.is_closed() {
            self.fallback().answers_again();
        }
    }

    /// Units to lease in the background, if there are any.
    #[must_use]
    pub fn next_prefetch(&self) -> Option<Prefetch> {
        self.leases()?.next_prefetch()
    }

    /// Leases units.
    pub async fn prefetch(&self, prefetch: &Prefetch) {
        // The breaker logs a failure, and requests ask for themselves.
        let _ = self.fallback().prefetch(prefetch, self.effects.now()).await;
    }

    /// Whether there is a backlog to reconcile, and the one who asks is to do it.
    #[must_use]
    pub fn should_reconcile(&self) -> bool {
        self.answers() && self.fallback().should_reconcile(self.effects.now())
    }

    /// Has the shared store count what this isolate admitted alone.
    pub async fn reconcile(&self) {
        let (most, retries) = match self.cluster().is_some_and(Cluster::is_partitioned) {
            // Where each caller is a call, several would have to share the timeout of one. And where one fails, others may
            // not: a call for another is of more use than the same again.
            true => (1, Retries::NONE),
            false => (QUOTAS_PER_CALL, self.retries),
        };
        // The breaker logs a failure, and another request tries again.
        let _ = (self.fallback().reconcile(retries, most, &self.effects)).await;
    }

    /// Units to give back in the background, if there are any.
    #[must_use]
    pub fn next_refund(&self) -> Option<Refund> {
        self.cluster()?.next_refund()
    }

    /// Gives units back. Not again if that fails: they stay taken until they leave the window.
    pub async fn refund(&self, refund: &Refund) {
        if let Some(cluster) = self.cluster() {
            let _ = cluster.refund(refund).await;
        }
    }

    /// Forgets all that this isolate knows of a quota's key or of an address: the store is asked again.
    pub fn forget(&self, key: &str) {
        self.fallback().memory().forget(key);
        if let Some(denials) = self.fallback().shared() {
            denials.forget(key);
        }
        self.drop_lease(key);
    }

    /// Gives up units of a quota that are leased.
    pub fn drop_lease(&self, key: &str) {
        if let Some(leases) = self.leases() {
            leases.forget(key);
        }
    }

    /// When a check that has just been read would be admitted, if not at `now`.
    #[must_use]
    pub fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        self.fallback().memory().retry_at(check, now)
    }

    /// Loads the copy of the blocks anew.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database; the copy stays as it was.
    pub async fn reload_blocks(&self, now: Timestamp) -> Result<(), StoreError> {
        self.store.reload(now).await
    }

    /// Whether the version of the blocks is to be read apart from decisions, by the one who asks.
    #[must_use]
    pub fn should_read_blocks_version(&self) -> bool {
        self.answers() && self.store.should_read_version(self.effects.now())
    }

    /// Reads the version of the blocks, and loads what has changed.
    pub async fn read_blocks_version(&self) {
        self.store.read_version(self.effects.now()).await;
    }

    /// Puts a block in force here: one that has been set, or that could not be written to the database.
    pub fn add_block(&self, target: &BlockTarget, block: AddressBlock) {
        self.store.add(target, block, self.effects.now());
    }

    /// Takes a block that has been lifted out of force here.
    pub fn remove_block(&self, target: &BlockTarget) {
        self.store.remove(target);
    }

    /// The longest block that holds a caller other than its own, as far as this isolate knows, and the
    /// range that is blocked.
    #[must_use]
    pub fn covering(&self, network: Network, now: Timestamp) -> Option<(Range, AddressBlock)> {
        self.store.covering(&network.to_string(), now)
    }

    /// Since when blocked ranges are missing from the database that no isolate has restored.
    #[must_use]
    pub const fn blocks_lost_since(&self) -> Option<Timestamp> {
        self.store.lost_since()
    }

    /// Since when this isolate cannot load blocks, and why.
    #[must_use]
    pub fn blocks_trouble(&self) -> Option<(Timestamp, String)> {
        self.store.trouble()
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

/// How much longer than its timeout a call may take on a busy machine.
const GRACE: Millis = Millis::from_secs(1);

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
