//! Futures that are driven from outside: each runs until it needs an effect, says which, and goes on
//! when it gets the answer.
//!
//! A host that cannot be called back in the middle of a future, such as JavaScript from WebAssembly,
//! [starts](Tasks::start) a task, performs the effect that it [asks](TaskStep::Asks) for, and
//! [resumes](Tasks::resume) it. Only a [`Mailbox`]'s future ever waits, and a task asks one thing at a time: nothing in
//! the library joins or selects.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::admin::Body;
use crate::effects::RedisResponse;
use crate::error::{KeySetError, StoreError};
use crate::time::{Millis, Timestamp};

/// An effect that a task waits for.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// [`Effects::call_redis`](crate::effects::Effects::call_redis).
    Redis {
        /// The number of the [configuration](crate::driver::Setup::number) that says where Redis is.
        setup: u32,
        /// What to post.
        body: String,
        /// How long it may take.
        timeout: Millis,
    },
    /// [`Effects::sleep`](crate::effects::Effects::sleep).
    Sleep(Millis),
    /// [`Effects::verify`](crate::effects::Effects::verify).
    Verify {
        /// As RFC 7518 names it.
        algorithm: &'static str,
        /// The secret, or a JWK.
        material: String,
        /// What was signed.
        signed: String,
        /// Its signature.
        signature: Vec<u8>,
    },
    /// [`Effects::fetch_key_set`](crate::effects::Effects::fetch_key_set).
    KeySet {
        /// Where it is.
        url: String,
    },
    /// The body of the task's own request, read no further than so many bytes.
    Body {
        /// The most that is read.
        most: usize,
    },
}

/// What an effect came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectResult {
    /// Of [`Effect::Redis`].
    Redis(Result<RedisResponse, StoreError>),
    /// Of [`Effect::Sleep`].
    Slept,
    /// Of [`Effect::Verify`].
    Verified(bool),
    /// Of [`Effect::KeySet`].
    KeySet(Result<String, KeySetError>),
    /// Of [`Effect::Body`].
    Body(Body),
}

/// How much longer than it should an effect may take before its task is dropped: its request has
/// been cancelled, and nobody will resume it.
const GRACE: Millis = Millis::from_secs(10);

/// How long a body, a signature or a key set may take.
const LONG: Millis = Millis::from_secs(60);

/// Without what may hold a secret or a caller's name.
impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis { timeout, .. } => write!(f, "Redis({timeout:?})"),
            Self::Sleep(length) => write!(f, "Sleep({length:?})"),
            Self::Verify { algorithm, .. } => write!(f, "Verify({algorithm})"),
            Self::KeySet { .. } => f.write_str("KeySet"),
            Self::Body { most } => write!(f, "Body({most})"),
        }
    }
}

impl Effect {
    /// After which time nobody answers any more.
    fn takes(&self) -> Millis {
        GRACE
            + match self {
                Self::Redis { timeout, .. } => *timeout,
                Self::Sleep(length) => *length,
                Self::Verify { .. } | Self::KeySet { .. } | Self::Body { .. } => LONG,
            }
    }
}

/// Where the task that runs leaves what it asks, and finds the answer.
#[derive(Debug, Default)]
pub struct Mailbox {
    asked: RefCell<Option<Effect>>,
    answered: RefCell<Option<EffectResult>>,
}

impl Mailbox {
    /// Asks for an effect.
    pub async fn ask(&self, ask: Effect) -> EffectResult {
        let mut ask = Some(ask);
        std::future::poll_fn(move |_| {
            if let Some(ask) = ask.take() {
                *self.asked.borrow_mut() = Some(ask);
                return Poll::Pending;
            }
            match self.answered.take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Names a task, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId(u32);

/// A task's number holds its place, and how often that place was taken before.
const PLACE_BITS: u32 = 18;

impl TaskId {
    const fn new(place: u32, generation: u32) -> Self {
        Self(place | generation << PLACE_BITS)
    }

    /// As a number, for a host.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The task of that number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    const fn place(self) -> usize {
        (self.0 & ((1 << PLACE_BITS) - 1)) as usize
    }

    const fn generation(self) -> u32 {
        self.0 >> PLACE_BITS
    }
}

/// How far a task has come.
#[derive(Debug, PartialEq, Eq)]
pub enum TaskStep<T> {
    /// It waits for an effect.
    Asks(TaskId, Effect),
    /// It has ended.
    Done(T),
    /// There is no such task: it has ended, or took too long and was dropped.
    Unknown,
    /// It waits for something that it has not asked for, or there are too many tasks. It is dropped.
    Stuck,
}

type TaskFuture<T> = Pin<Box<dyn Future<Output = T>>>;

struct Slot<T> {
    generation: u32,
    task: Option<TaskFuture<T>>,
    /// Since when it waits, and how long somebody may still resume it.
    since: Timestamp,
    takes: Millis,
    /// It has been found to wait for too long, once. It is dropped if it is found so again [`GRACE`] later: the clock may
    /// have been set ahead.
    overdue: bool,
}

/// Tasks that wait for an effect.
pub struct Tasks<T> {
    mailbox: Rc<Mailbox>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Where the search for tasks that nobody resumes goes on.
    swept: usize,
}

/// Places that are looked at for tasks that nobody resumes, each time that one is started.
const SWEPT_PER_START: usize = 4;

impl<T> Tasks<T> {
    /// None yet. Their effects go through `mailbox`.
    #[must_use]
    pub const fn new(mailbox: Rc<Mailbox>) -> Self {
        Self {
            mailbox,
            slots: Vec::new(),
            free: Vec::new(),
            swept: 0,
        }
    }

    /// Runs a new task until it waits or ends.
    pub fn start(
        &mut self,
        task: impl Future<Output = T> + 'static,
        now: Timestamp,
    ) -> TaskStep<T> {
        self.sweep(now);
        self.poll(Box::pin(task), now)
    }

    /// Runs a task on with the answer to what it asked.
    pub fn resume(&mut self, id: TaskId, answer: EffectResult, now: Timestamp) -> TaskStep<T> {
        let Some(task) = self.take(id) else {
            return TaskStep::Unknown;
        };
        *self.mailbox.answered.borrow_mut() = Some(answer);
        let step = self.poll(task, now);
        // An answer to another question is nobody's.
        self.mailbox.answered.take();
        step
    }

    /// How many tasks wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no task waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn poll(&mut self, mut task: TaskFuture<T>, now: Timestamp) -> TaskStep<T> {
        let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let asked = self.mailbox.asked.take();
        match (polled, asked) {
            (Poll::Ready(done), _) => TaskStep::Done(done),
            (Poll::Pending, Some(ask)) => match self.park(task, ask.takes(), now) {
                Some(id) => TaskStep::Asks(id, ask),
                None => TaskStep::Stuck,
            },
            (Poll::Pending, None) => TaskStep::Stuck,
        }
    }

    fn park(&mut self, task: TaskFuture<T>, takes: Millis, now: Timestamp) -> Option<TaskId> {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = u32::try_from(self.slots.len()).ok()?;
                if place >> PLACE_BITS > 0 {
                    return None;
                }
                self.slots.push(Slot {
                    generation: 0,
                    task: None,
                    since: now,
                    takes: Millis::ZERO,
                    overdue: false,
                });
                place
            }
        };
        let slot = self.slots.get_mut(place as usize)?;
        slot.task = Some(task);
        slot.since = now;
        slot.takes = takes;
        slot.overdue = false;
        Some(TaskId::new(place, slot.generation))
    }

    fn take(&mut self, id: TaskId) -> Option<TaskFuture<T>> {
        let slot = self.slots.get_mut(id.place())?;
        if slot.generation != id.generation() {
            return None;
        }
        let task = slot.task.take()?;
        slot.generation = (slot.generation + 1) & (u32::MAX >> PLACE_BITS);
        self.free.push(u32::try_from(id.place()).ok()?);
        Some(task)
    }

    /// Drops tasks that nobody will resume, a few places at a time.
    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEPT_PER_START.min(self.slots.len()) {
            self.swept = (self.swept + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(self.swept) else {
                continue;
            };
            // A clock set back says nothing of how long it has waited.
            slot.since = slot.since.min(now);
            if slot.task.is_none() || now.since(slot.since) < slot.takes {
                continue;
            }
            if !slot.overdue {
                slot.overdue = true;
                slot.since = now;
                slot.takes = GRACE;
            } else {
                let place = u32::try_from(self.swept).unwrap_or_default();
                let lost = TaskId::new(place, slot.generation);
                drop(self.take(lost));
            }
        }
    }
}

#[cfg(test)]
mod tests;
