//! The store that the configuration asks for, and what stands around it.

use std::error::Error;
use std::rc::Rc;

use edge_limiter::blocklist::Target;
use edge_limiter::config::{Config, StoreConfig};
use edge_limiter::database::isolate::Isolate;
use edge_limiter::database::rest::{self, Rest};
use edge_limiter::database::{Command, Database, Records};
use edge_limiter::health::StoreHealth;
use edge_limiter::seed::Seed;
use edge_limiter::store::backoff::{self, Retries};
use edge_limiter::store::blocked::Blocked;
use edge_limiter::store::breaker::circuit::{State, Waits};
use edge_limiter::store::breaker::{Breaker, Status};
use edge_limiter::store::capped::Capped;
use edge_limiter::store::denials::{self, Denials};
use edge_limiter::store::fallback::Fallback;
use edge_limiter::store::lease::{self, Leases};
use edge_limiter::store::memory::{self, Memory};
use edge_limiter::store::mirror::Mirror;
use edge_limiter::store::upstash::Upstash;
use edge_limiter::store::{AddressBlock, Check, Store, StoreError, Verdict};
use edge_limiter::time::{Clock, Millis, Timestamp};
use serde_json::Value;
use worker::{console_error, console_log, console_warn};

use crate::clock::{IsolateClock, Timer};
use crate::transport::Fetch;

/// Where quotas are kept.
pub(crate) enum Stores {
    Memory(Box<Blocked<Memory, Place>>),
    Upstash(Box<Shared>),
}

/// Upstash, and what stands around it. From the inside: a cap on what is spent, continuity with
/// memory, the breaker, leases, remembered denials, memory where all that comes to nothing, and
/// blocked ranges.
pub(crate) struct Shared {
    store: Blocked<Fallback<Denials<Leases<Guarded>>>, Place>,
    memory: Rc<Memory>,
    retries: Retries,
}

type Guarded = Breaker<Mirror<Capped<Upstash<Fetch, IsolateClock>>>, IsolateClock>;

/// Blocks, events and counts.
pub(crate) type Kept = Rc<Records<Place>>;

/// Where records are kept.
pub(crate) enum Place {
    Isolate(Isolate),
    Upstash(Rest<Fetch>),
}

impl Database for Place {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        match self {
            Self::Isolate(database) => database.run(commands, now).await,
            Self::Upstash(database) => database.run(commands, now).await,
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Upstash(_))
    }
}

impl Store for Stores {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        match self {
            Self::Memory(store) => store.decide(check, now).await,
            Self::Upstash(shared) => shared.store.decide(check, now).await,
        }
    }
}

impl Stores {
    /// The stores of a configuration, and the records beside them.
    pub(crate) fn new(config: &Config) -> Result<(Self, Kept), Box<dyn Error>> {
        let memory = Memory::new(memory::DEFAULT_ENTRIES, Seed::random()?);
        let StoreConfig::Upstash {
            url,
            token,
            prefix,
            timeout,
            retries,
            doublings,
            max_commands,
            fallback_factor,
        } = &config.store
        else {
            return Ok(Self::in_memory(memory));
        };
        let transactions = format!("{}{}", url.trim_end_matches('/'), rest::PATH);
        let transports = Fetch::new(url, token.reveal())
            .and_then(|decisions| Ok((decisions, Fetch::new(&transactions, token.reveal())?)));
        let Ok((decisions, transactions)) = transports else {
            console_error!("UPSTASH_REDIS_REST_URL or its token cannot be used; memory is in use");
            return Ok(Self::in_memory(memory));
        };
        let records = Place::Upstash(Rest::new(transactions, *timeout));
        let records = Rc::new(Records::new(records, prefix.clone()));
        let memory = Rc::new(memory);
        let waits = Waits {
            doublings: *doublings,
            probe: *timeout + GRACE,
        };
        let upstash = Upstash::new(decisions, IsolateClock, prefix.clone(), *timeout);
        let capped = Capped::new(upstash, *max_commands, || {
            console_warn!(
                "REDIS_MAX_COMMANDS_PER_SECOND is reached; memory decides what is beyond it (told once a minute)"
            );
        });
        let mirror = Mirror::new(capped, Rc::clone(&memory));
        let breaker = Breaker::new(mirror, IsolateClock, waits, backoff::dice, log_change);
        let leases = Leases::new(breaker, lease::DEFAULT_ENTRIES, Seed::random()?);
        let denials = Denials::new(leases, denials::DEFAULT_ENTRIES, Seed::random()?);
        let fallback = Fallback::new(denials, Rc::clone(&memory), *fallback_factor);
        let shared = Shared {
            store: Blocked::new(fallback, Rc::clone(&records)),
            memory,
            retries: *retries,
        };
        Ok((Self::Upstash(Box::new(shared)), records))
    }

    fn in_memory(memory: Memory) -> (Self, Kept) {
        let records = Rc::new(Records::new(Place::Isolate(Isolate::default()), ""));
        let store = Blocked::new(memory, Rc::clone(&records));
        (Self::Memory(Box::new(store)), records)
    }

    pub(crate) fn health(&self) -> StoreHealth {
        match self {
            Self::Memory(_) => StoreHealth::Memory,
            Self::Upstash(shared) => StoreHealth::Upstash(shared.breaker().status()),
        }
    }

    /// Whether the shared store, if there is one, is being asked.
    pub(crate) fn answers(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Upstash(shared) => shared.breaker().status().state == State::Closed,
        }
    }

    /// Units to take for requests to come, if there are any to take.
    pub(crate) fn wish(&self) -> Option<Check> {
        match self {
            Self::Memory(_) => None,
            Self::Upstash(shared) => shared.leases().wish(),
        }
    }

    pub(crate) async fn fetch_ahead(&self, wish: &Check) {
        if let Self::Upstash(shared) = self {
            // A failure is the breaker's to tell, and requests ask for themselves.
            let _ = shared.leases().fetch_ahead(wish, IsolateClock.now()).await;
        }
    }

    /// Whether there is something to settle up, and the one who asks is to do it.
    pub(crate) fn should_settle_up(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Upstash(shared) => {
                self.answers() && shared.fallback().should_settle_up(IsolateClock.now())
            }
        }
    }

    pub(crate) async fn settle_up(&self) {
        if let Self::Upstash(shared) = self {
            // A failure is the breaker's to tell, and another request tries again.
            let _ = shared
                .fallback()
                .settle_up(shared.retries, &Timer, backoff::dice, &IsolateClock)
                .await;
        }
    }
}

/// What the control plane does to an isolate: [`edge_limiter::admin::Isolate`].
impl Stores {
    pub(crate) fn forget(&self, key: &str) {
        match self {
            Self::Memory(store) => store.inner().forget(key),
            Self::Upstash(shared) => {
                shared.memory.forget(key);
                shared.fallback().shared().forget(key);
                shared.leases().forget(key);
            }
        }
    }

    pub(crate) fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        let memory = match self {
            Self::Memory(store) => store.inner(),
            Self::Upstash(shared) => &*shared.memory,
        };
        memory.retry_at(check, now)
    }

    pub(crate) fn drop_lease(&self, key: &str) {
        if let Self::Upstash(shared) = self {
            shared.leases().forget(key);
        }
    }

    pub(crate) async fn reload_blocks(&self, now: Timestamp) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.reload(now).await,
            Self::Upstash(shared) => shared.store.reload(now).await,
        }
    }

    pub(crate) fn add_block(&self, target: &Target, block: AddressBlock) {
        match self {
            Self::Memory(store) => store.add(target, block),
            Self::Upstash(shared) => shared.store.add(target, block),
        }
    }
}

impl Shared {
    const fn fallback(&self) -> &Fallback<Denials<Leases<Guarded>>> {
        self.store.inner()
    }

    const fn leases(&self) -> &Leases<Guarded> {
        self.fallback().shared().inner()
    }

    const fn breaker(&self) -> &Guarded {
        self.leases().inner()
    }
}

/// What a call that is given up at its timeout may take longer, on a busy machine.
const GRACE: Millis = Millis::from_secs(1);

fn log_change(status: &Status) {
    let why = status.trouble.as_ref().map(|(_, why)| why.to_string());
    let why = why.unwrap_or_default();
    match status.state {
        State::Closed => console_log!("Upstash answers again; limits are shared again"),
        State::HalfOpen { .. } => {
            console_log!("Upstash: one request asks whether it answers again")
        }
        State::Open { until } => {
            let wait = until.since(IsolateClock.now()).get();
            console_warn!(
                "Upstash: {why}; not asked for {wait} ms, on_store_failure rules meanwhile"
            );
        }
    }
}
