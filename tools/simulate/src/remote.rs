//! The store by which an isolate asks a simulated database: a question is sent, and the reply comes later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use edge_limiter::store::shared::{ChargeExtra, Partitioned, Question, SharedStore, StoreReply};
use edge_limiter::store::{Check, StoreError};
use edge_limiter::time::Timestamp;

/// A question on its way to the database.
pub(crate) struct RemoteQuestion {
    pub(crate) number: u64,
    pub(crate) check: Check,
    /// One for each charge.
    pub(crate) extras: Vec<ChargeExtra>,
    /// The time on the clock of the isolate that asks.
    pub(crate) now: Timestamp,
}

/// Connects an isolate to the simulation. It contains the question that the simulation has not yet taken to the
/// database, and the replies that the isolate has not yet read.
#[derive(Default)]
pub(crate) struct DatabaseChannel {
    next: Cell<u64>,
    sent: RefCell<Option<RemoteQuestion>>,
    replies: RefCell<HashMap<u64, StoreReply>>,
}

impl DatabaseChannel {
    /// Takes the question that the isolate has just sent, if any.
    pub(crate) fn collect(&self) -> Option<RemoteQuestion> {
        self.sent.borrow_mut().take()
    }

    pub(crate) fn deliver(&self, number: u64, reply: StoreReply) {
        self.replies.borrow_mut().insert(number, reply);
    }
}

/// A store that sends its questions through a channel.
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
