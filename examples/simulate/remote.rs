//! A database as an isolate sees it: what is asked goes on its way, and the answer comes later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use edge_limiter::store::{Check, Store, StoreError, Verdict};
use edge_limiter::time::Timestamp;

/// A question on its way.
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) check: Check,
    /// On the clock of the isolate that asks.
    pub(crate) now: Timestamp,
}

/// What has been asked and not been taken to the database yet, and what has been answered and not
/// been read yet.
#[derive(Default)]
pub(crate) struct Mailbox {
    next: Cell<u64>,
    sent: RefCell<Option<Letter>>,
    answers: RefCell<HashMap<u64, Verdict>>,
}

impl Mailbox {
    /// The question that has just been asked, if one has.
    pub(crate) fn collect(&self) -> Option<Letter> {
        self.sent.borrow_mut().take()
    }

    pub(crate) fn deliver(&self, number: u64, verdict: Verdict) {
        self.answers.borrow_mut().insert(number, verdict);
    }
}

/// A store behind a mailbox.
pub(crate) struct Remote(pub(crate) Rc<Mailbox>);

impl Store for Remote {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        *self.0.sent.borrow_mut() = Some(Letter {
            number,
            check: check.clone(),
            now,
        });
        let answer = poll_fn(|_| match self.0.answers.borrow_mut().remove(&number) {
            Some(verdict) => Poll::Ready(verdict),
            None => Poll::Pending,
        });
        Ok(answer.await)
    }
}
