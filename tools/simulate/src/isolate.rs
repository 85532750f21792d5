//! A simulated isolate: a host with a clock, and the stores that decide its requests.

use std::rc::Rc;

use edge_limiter::effects::Effects;
use edge_limiter::redis::emulator::Emulator;
use edge_limiter::redis::keys::Keys;
use edge_limiter::redis::records::Records;
use edge_limiter::store::leases::Prefetch;
use edge_limiter::store::retries::Retries;
use edge_limiter::store::stack::{MaxEntries, Stack, StoreSettings};
use edge_limiter::store::{Check, Store, StoreError, Verdict};
use edge_limiter::time::Millis;

use crate::database::seed;
use crate::failure::Failure;
use crate::host::SimulatedHost;
use crate::network::Micros;
use crate::remote::{DatabaseChannel, RemoteStore};

/// The defaults of the deployed Worker. They have no effect, because no simulated database fails.
const RULES: StoreSettings = StoreSettings {
    timeout: Millis::new(1000),
    retries: Retries {
        count: 2,
        delay: Millis::new(50),
    },
    doublings: 10,
    max_commands: None,
    fallback_factor: 1200,
};

/// The stores between a request and a database.
enum IsolateStores {
    /// The stack of the deployed Worker, with a database or without one.
    Deployed(Box<Stack<RemoteStore, Emulator, Rc<SimulatedHost>>>),
    /// The database alone, without wrappers.
    Bare(RemoteStore),
}

pub(crate) struct SimulatedIsolate {
    stores: IsolateStores,
    host: Rc<SimulatedHost>,
    pub(crate) channel: Rc<DatabaseChannel>,
    pub(crate) region: usize,
}

impl SimulatedIsolate {
    pub(crate) fn deployed(region: usize, ahead: Millis) -> Result<Self, Failure> {
        Self::new(region, ahead, |remote, host| {
            let seed = seed()?;
            let stack = Stack::new(remote, records(), RULES, MaxEntries::default(), &seed, host);
            Ok(IsolateStores::Deployed(Box::new(stack)))
        })
    }

    pub(crate) fn bare(region: usize, ahead: Millis) -> Result<Self, Failure> {
        Self::new(region, ahead, |remote, _| Ok(IsolateStores::Bare(remote)))
    }

    pub(crate) fn alone(region: usize, ahead: Millis) -> Result<Self, Failure> {
        Self::new(region, ahead, |_, host| {
            let stack = Stack::in_memory(records(), MaxEntries::default(), &seed()?, host);
            Ok(IsolateStores::Deployed(Box::new(stack)))
        })
    }

    fn new(
        region: usize,
        ahead: Millis,
        stores: impl FnOnce(RemoteStore, Rc<SimulatedHost>) -> Result<IsolateStores, Failure>,
    ) -> Result<Self, Failure> {
        let channel = Rc::new(DatabaseChannel::default());
        let host = Rc::new(SimulatedHost::new(ahead));
        Ok(Self {
            stores: stores(RemoteStore(Rc::clone(&channel)), Rc::clone(&host))?,
            host,
            channel,
            region,
        })
    }

    /// Sets the true time at which the isolate continues.
    pub(crate) fn wake(&self, at: Micros) {
        self.host.set(at);
    }

    /// Decides at the time of the isolate's own clock.
    pub(crate) async fn decide(&self, check: &Check) -> Result<Verdict, StoreError> {
        let now = self.host.now();
        match &self.stores {
            IsolateStores::Deployed(stack) => stack.decide(check, now).await,
            IsolateStores::Bare(remote) => remote.decide(check, now).await,
        }
    }

    /// The next units to lease in the background. `None` if none are due.
    pub(crate) fn next_prefetch(&self) -> Option<Prefetch> {
        match &self.stores {
            IsolateStores::Deployed(stack) => stack.next_prefetch(),
            IsolateStores::Bare(_) => None,
        }
    }

    pub(crate) async fn prefetch(&self, prefetch: &Prefetch) {
        if let IsolateStores::Deployed(stack) = &self.stores {
            stack.prefetch(prefetch).await;
        }
    }
}

/// No caller is blocked and no event is recorded in the simulation.
fn records() -> Rc<Records<Emulator>> {
    Rc::new(Records::new(Emulator::default(), Keys::new("")))
}
