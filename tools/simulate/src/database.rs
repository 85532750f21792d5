//! A database of the simulation: a store that decides at once, and counts the commands that would be billed.

use std::cell::Cell;

use edge_limiter::seed::Seed;
use edge_limiter::store::memory::Memory;
use edge_limiter::store::shared::{Question, SharedStore, StoreReply, StoredCharge};
use edge_limiter::time::Timestamp;
use futures_util::FutureExt;

use crate::exact_log::ExactLog;
use crate::failure::Failure;
use crate::rule::RuleStore;
use crate::two_counter::TwoCounter;

/// More entries than any trace has callers, so that the memory store forgets no caller.
const ENTRIES: usize = 1 << 24;

/// How a database decides.
enum CountingMethod {
    /// The library's memory store. The script in Redis is the same function.
    Limiter(Memory),
    TwoCounters(RuleStore<TwoCounter>),
    Logs(RuleStore<ExactLog>),
}

pub(crate) struct SimulatedDatabase {
    counting: CountingMethod,
    calls: Cell<u64>,
    written: Cell<u64>,
}

impl SimulatedDatabase {
    fn new(counting: CountingMethod) -> Self {
        Self {
            counting,
            calls: Cell::default(),
            written: Cell::default(),
        }
    }

    pub(crate) fn limiter() -> Result<Self, Failure> {
        Ok(Self::new(CountingMethod::Limiter(Memory::new(
            ENTRIES,
            seed()?,
        ))))
    }

    pub(crate) fn two_counters() -> Self {
        Self::new(CountingMethod::TwoCounters(RuleStore::default()))
    }

    pub(crate) fn logs() -> Self {
        Self::new(CountingMethod::Logs(RuleStore::default()))
    }

    /// Makes one atomic decision.
    pub(crate) fn decide(
        &self,
        question: &Question<'_>,
        now: Timestamp,
    ) -> Result<StoreReply, Failure> {
        let decided = match &self.counting {
            CountingMethod::Limiter(memory) => memory.ask(question, now).now_or_never(),
            CountingMethod::TwoCounters(rules) => rules.ask(question, now).now_or_never(),
            CountingMethod::Logs(rules) => rules.ask(question, now).now_or_never(),
        };
        let reply = decided
            .ok_or_else(|| Failure::new("a store in memory waits, but must answer at once"))?
            .map_err(|error| Failure::new(format!("a store in memory fails: {error}")))?;
        let check = question.check;
        let admitted = reply.verdict.allows(check) && check.cost > 0;
        let written = if admitted {
            reply.verdict.answers.iter().flatten().count()
        } else {
            let has_lease = |charge: &&StoredCharge| charge.leased > 0;
            reply.stored_charges.iter().filter(has_lease).count()
        };
        self.calls.set(self.calls.get() + 1);
        self.written.set(self.written.get() + written as u64);
        Ok(reply)
    }

    /// The number of round trips so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// The number of commands that Upstash would bill for the limiter's script: `EVALSHA` and `MGET` for each
    /// call, and a `SET` for each state that changes. `tests/store/billing.test.mjs` counts the same on a real Redis.
    pub(crate) fn billed(&self) -> u64 {
        2 * self.calls.get() + self.written.get()
    }
}

/// A secret for the hasher of maps. No result depends on it, because maps are looked up and never iterated.
pub(crate) fn seed() -> Result<Seed, Failure> {
    let failed = |error| Failure::new(format!("the system provides no random bytes: {error}"));
    Seed::random().map_err(failed)
}
