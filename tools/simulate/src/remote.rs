//! A database as an isolate sees it: what is asked goes on its way, and the answer comes later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use edge_limiter::store::shared::{ChargeExtra, Partitioned, Question, SharedStore, StoreReply};
use edge_limiter::store::{Check, StoreError};
use edge_limiter::time::Timestamp;

/// A question on its way.
pub(crate) struct RemoteQuestion {
    pub(crate) number: u64,
    pub(crate) check: Check,
    /// One for each charge.
    pub(crate) extras: Vec<ChargeExtra>,
    /// On the clock of the isolate that asks.
    pub(crate) now: Timestamp,
}

/// What has been asked and not been taken to the database yet, and what has been answered and not
/// been read yet.
#[derive(Default)]
pub(crate) struct DatabaseChannel {
    next: Cell<u64>,
    sent: RefCell<Option<RemoteQuestion>>,
    replies: RefCell<HashMap<u64, StoreReply>>,
}

impl DatabaseChannel {
    /// The question that has just been asked, if one has.
    pub(crate) fn collect(&self) -> Option<RemoteQuestion> {
        self.sent.borrow_mut().take()
    }

    pub(crate) fn deliver(&self, number: u64, reply: StoreReply) {
        self.replies.borrow_mut().insert(number, reply);
    }
}

/// A store behind a channel.
pub(crate) struct RemoteStore(pub(crate) Rc<DatabaseChannel>);

impl Partitioned for RemoteStore {}

impl SharedStore for RemoteStore {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let places = 0..question.check.charges.len();
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        *self.0.sent.borrow_mut() = Some(RemoteQuestion {
            number,
            check: question.check.clone(),
            extras: places.map(|place| question.extra(place).clone()).collect(),
            now,
        });
        let reply = poll_fn(|_| match self.0.replies.borrow_mut().remove(&number) {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        });
        Ok(reply.await)
    }
}
