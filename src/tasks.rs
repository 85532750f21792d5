//! Tasks: futures that a host drives step by step. A task runs until it needs an effect, names the effect, and continues
//! when the host resumes it with the result.
//!
//! Some hosts cannot await a Rust future, such as JavaScript around WebAssembly. Such a host [starts](Tasks::start) a
//! task, performs the effect that the task [asks](TaskStep::Asks) for, and [resumes](Tasks::resume) the task. Only the
//! future of a [`Mailbox`] ever waits. A task asks for one effect at a time, since nothing in the library joins or selects
//! futures.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::admin::RequestBody;
use crate::effects::RedisResponse;
use crate::error::{KeySetError, StoreError};
use crate::time::{Millis, Timestamp};

/// An effect that a task waits for.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Call Redis, as [`Effects::call_redis`](crate::effects::Effects::call_redis).
    Redis {
        /// The [number](crate::driver::HostSetup::number) of the configuration whose Redis is called.
        setup: u32,
        /// The body to post.
        body: String,
        /// How long the call may take.
        timeout: Millis,
    },
    /// Wait, as [`Effects::sleep`](crate::effects::Effects::sleep).
    Sleep(Millis),
    /// Verify a signature, as [`Effects::verify`](crate::effects::Effects::verify).
    Verify {
        /// The algorithm's name in RFC 7518.
        algorithm: &'static str,
        /// The secret, or a public key as a JWK.
        material: String,
        /// The text that was signed.
        signed: String,
        /// The signature of that text.
        signature: Vec<u8>,
    },
    /// Fetch a key set, as [`Effects::fetch_key_set`](crate::effects::Effects::fetch_key_set).
    KeySet {
        /// The URL of the key set.
        url: String,
    },
    /// Read the body of the task's own request.
    Body {
        /// The most bytes to read.
        most: usize,
    },
}

/// The result of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectResult {
    /// The result of [`Effect::Redis`].
    Redis(Result<RedisResponse, StoreError>),
    /// The result of [`Effect::Sleep`].
    Slept,
    /// The result of [`Effect::Verify`]: whether the signature is valid.
    Verified(bool),
    /// The result of [`Effect::KeySet`].
    KeySet(Result<String, KeySetError>),
    /// The result of [`Effect::Body`].
    Body(RequestBody),
}

/// How much longer than its own limit an effect may take before its task is dropped. The request of such a task has been
/// cancelled, so the host will not resume it.
const RESUME_GRACE: Millis = Millis::from_secs(10);

/// How long a body, a signature or a key set may take.
const MAX_HOST_CALL: Millis = Millis::from_secs(60);

/// Leaves out what may contain a secret or a caller's name.
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
    /// How long the host may take for the effect. After that, it will not resume the task.
    fn max_duration(&self) -> Millis {
        RESUME_GRACE
            + match self {
                Self::Redis { timeout, .. } => *timeout,
                Self::Sleep(length) => *length,
                Self::Verify { .. } | Self::KeySet { .. } | Self::Body { .. } => MAX_HOST_CALL,
            }
    }
}

/// Where the running task leaves the effect that it asks for, and finds the result.
#[derive(Debug, Default)]
pub struct Mailbox {
    asked: RefCell<Option<Effect>>,
    answered: RefCell<Option<EffectResult>>,
}

impl Mailbox {
    /// Asks for an effect, and waits for its result.
    pub async fn ask(&self, effect: Effect) -> EffectResult {
        let mut effect = Some(effect);
        std::future::poll_fn(move |_| {
            if let Some(effect) = effect.take() {
                *self.asked.borrow_mut() = Some(effect);
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

/// Identifies a task. An identifier is not used again soon after its task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId(u32);

/// The number of bits in a task's number that hold its place. The others count how often the place was used before.
const PLACE_BITS: u32 = 18;

impl TaskId {
    const fn new(place: u32, generation: u32) -> Self {
        Self(place | generation << PLACE_BITS)
    }

    /// Returns the task's number, for a host.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the identifier of the task with that number.
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

/// The state of a task after it has run.
#[derive(Debug, PartialEq, Eq)]
pub enum TaskStep<T> {
    /// The task waits for an effect.
    Asks(TaskId, Effect),
    /// The task has ended.
    Done(T),
    /// There is no such task: it has ended, or took too long and was dropped.
    Unknown,
    /// The task was dropped: it waits without having asked for an effect, or there are too many tasks.
    Stuck,
}

type TaskFuture<T> = Pin<Box<dyn Future<Output = T>>>;

struct Slot<T> {
    generation: u32,
    task: Option<TaskFuture<T>>,
    /// Since when the task waits.
    since: Timestamp,
    /// How long it may wait.
    max_wait: Millis,
    /// Whether the task was found to have waited too long. It is dropped if it is found again [`RESUME_GRACE`] later: the first
    /// time, the clock may have been set ahead.
    overdue: bool,
}

/// The tasks that wait for an effect.
pub struct Tasks<T> {
    mailbox: Rc<Mailbox>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The place up to which slots were last searched for abandoned tasks.
    swept: usize,
}

/// How many places are searched for abandoned tasks each time that a task is started.
const SWEPT_PER_START: usize = 4;

impl<T> Tasks<T> {
    /// Creates an empty set of tasks, whose effects go through `mailbox`.
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

    /// Continues a task with the result of the effect that it asked for.
    pub fn resume(&mut self, id: TaskId, result: EffectResult, now: Timestamp) -> TaskStep<T> {
        let Some(task) = self.take(id) else {
            return TaskStep::Unknown;
        };
        *self.mailbox.answered.borrow_mut() = Some(result);
        let step = self.poll(task, now);
        // A result that the task has not taken must not reach another task.
        self.mailbox.answered.take();
        step
    }

    /// Returns how many tasks wait.
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
            (Poll::Pending, Some(effect)) => match self.park(task, effect.max_duration(), now) {
                Some(id) => TaskStep::Asks(id, effect),
                None => TaskStep::Stuck,
            },
            (Poll::Pending, None) => TaskStep::Stuck,
        }
    }

    fn park(&mut self, task: TaskFuture<T>, max_wait: Millis, now: Timestamp) -> Option<TaskId> {
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
                    max_wait: Millis::ZERO,
                    overdue: false,
                });
                place
            }
        };
        let slot = self.slots.get_mut(place as usize)?;
        slot.task = Some(task);
        slot.since = now;
        slot.max_wait = max_wait;
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

    /// Drops tasks that the host will not resume. It searches a few places at a time.
    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEPT_PER_START.min(self.slots.len()) {
            self.swept = (self.swept + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(self.swept) else {
                continue;
            };
            // If the clock was set back, the wait is measured from now on.
            slot.since = slot.since.min(now);
            if slot.task.is_none() || now.since(slot.since) < slot.max_wait {
                continue;
            }
            if !slot.overdue {
                slot.overdue = true;
                slot.since = now;
                slot.max_wait = RESUME_GRACE;
            } else {
                let place = u32::try_from(self.swept).unwrap_or_default();
                let abandoned = TaskId::new(place, slot.generation);
                drop(self.take(abandoned));
            }
        }
    }
}

#[cfg(test)]
mod tests;
