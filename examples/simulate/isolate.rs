//! An isolate: a clock, and the stores that a request goes through.

use std::rc::Rc;

use edge_limiter::store::denials::{self, Denials};
use edge_limiter::store::lease::{self, Leases};
use edge_limiter::store::memory::{self, Memory};
use edge_limiter::store::{Check, Store, StoreError, Verdict};
use edge_limiter::time::{Millis, Timestamp};

use crate::database::seed;
use crate::failure::Failure;
use crate::network::Micros;
use crate::remote::{Mailbox, Remote};

/// What stands between a request and a database.
enum Stores {
    /// The deployed Worker's, as far as a healthy database concerns it.
    Deployed(Leases<Denials<Remote>>),
    /// Nothing.
    Bare(Remote),
    /// There is no database.
    Memory(Memory),
}

pub(crate) struct Isolate {
    stores: Stores,
    pub(crate) mailbox: Rc<Mailbox>,
    pub(crate) region: usize,
    /// How far its clock is ahead of true time.
    ahead: Millis,
}

impl Isolate {
    pub(crate) fn deployed(region: usize, ahead: Millis) -> Result<Self, Failure> {
        let with = |mailbox| {
            let denials = Denials::new(Remote(mailbox), denials::DEFAULT_ENTRIES, seed()?);
            let leases = Leases::new(denials, lease::DEFAULT_ENTRIES, seed()?);
            Ok(Stores::Deployed(leases))
        };
        Self::new(region, ahead, with)
    }

    pub(crate) fn bare(region: usize, ahead: Millis) -> Result<Self, Failure> {
        Self::new(region, ahead, |mailbox| Ok(Stores::Bare(Remote(mailbox))))
    }

    pub(crate) fn alone(region: usize, ahead: Millis) -> Result<Self, Failure> {
        let with = |_| {
            Ok(Stores::Memory(Memory::new(
                memory::DEFAULT_ENTRIES,
                seed()?,
            )))
        };
        Self::new(region, ahead, with)
    }

    fn new(
        region: usize,
        ahead: Millis,
        stores: impl FnOnce(Rc<Mailbox>) -> Result<Stores, Failure>,
    ) -> Result<Self, Failure> {
        let mailbox = Rc::new(Mailbox::default());
        Ok(Self {
            stores: stores(Rc::clone(&mailbox))?,
            mailbox,
            region,
            ahead,
        })
    }

    /// Its clock at a moment of true time.
    pub(crate) fn clock(&self, at: Micros) -> Timestamp {
        Timestamp::from_millis(at / 1000) + self.ahead
    }

    pub(crate) async fn decide(
        &self,
        check: &Check,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        match &self.stores {
            Stores::Deployed(stores) => stores.decide(check, now).await,
            Stores::Bare(remote) => remote.decide(check, now).await,
            Stores::Memory(memory) => memory.decide(check, now).await,
        }
    }

    /// What is to be fetched in the background, if anything is.
    pub(crate) fn wish(&self) -> Option<Check> {
        match &self.stores {
            Stores::Deployed(stores) => stores.wish(),
            Stores::Bare(_) | Stores::Memory(_) => None,
        }
    }

    pub(crate) async fn fetch_ahead(&self, wish: &Check, now: Timestamp) -> Result<(), StoreError> {
        match &self.stores {
            Stores::Deployed(stores) => stores.fetch_ahead(wish, now).await,
            Stores::Bare(_) | Stores::Memory(_) => Ok(()),
        }
    }
}
