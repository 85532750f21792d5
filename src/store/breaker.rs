//! A breaker: a store that fails is not asked for a while.
//!
//! Whether it answers again is asked by a probe, which is nobody's request: a client that could end the probe by
//! disconnecting could keep the store away from everybody.

use std::cell::{Cell, RefCell};
use std::mem::{Discriminant, discriminant};

use self::circuit::{CallOutcome, Circuit, CircuitState, Permit, Waits};
use super::shared::{Question, SharedStore, StoreReply};
use super::{Check, StoreError};
use crate::effects::{Effects, LogLevel};
use crate::time::Timestamp;

pub mod circuit;

/// A store that is asked only while its circuit lets calls through.
pub struct Breaker<S, E> {
    inner: S,
    effects: E,
    circuit: RefCell<Circuit>,
    trouble: RefCell<Option<(Timestamp, StoreError)>>,
    /// The kind of state that was logged last.
    logged: Cell<Discriminant<CircuitState>>,
    transitions: Cell<Transitions>,
}

/// How often a breaker came to each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transitions {
    closed: u64,
    open: u64,
    half_open: u64,
}

/// A breaker's states, by the names of labels.
pub const STATES: [&str; 3] = ["closed", "open", "half_open"];

impl Transitions {
    const fn count(mut self, to: CircuitState) -> Self {
        match to {
            CircuitState::Closed => self.closed += 1,
            CircuitState::Open { .. } => self.open += 1,
            CircuitState::HalfOpen { .. } => self.half_open += 1,
        }
        self
    }

    /// How often it came to each of [`STATES`].
    pub fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [self.closed, self.open, self.half_open];
        STATES.into_iter().zip(counts)
    }
}

/// How the breaker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the circuit is.
    pub state: CircuitState,
    /// Unless it is closed: since when, on this isolate's clock, and the latest failure.
    pub trouble: Option<(Timestamp, StoreError)>,
}

impl<S, E: Effects> Breaker<S, E> {
    /// Each change of state is logged once.
    pub fn new(inner: S, waits: Waits, effects: E) -> Self {
        Self {
            inner,
            effects,
            circuit: RefCell::new(Circuit::new(waits)),
            trouble: RefCell::new(None),
            logged: Cell::new(discriminant(&CircuitState::Closed)),
            transitions: Cell::default(),
        }
    }

    /// The store that is asked.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.circuit.borrow().state(),
            trouble: self.trouble.borrow().clone(),
        }
    }

    /// How often it came to each state.
    #[must_use]
    pub const fn transitions(&self) -> Transitions {
        self.transitions.get()
    }

    /// Whether calls go through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.circuit.borrow().state() == CircuitState::Closed
    }

    /// Once per change: not for a probe after one that never reported or was not sent.
    fn log(&self, now: Timestamp) {
        let state = self.circuit.borrow().state();
        let kind = discriminant(&state);
        if self.logged.replace(kind) == kind {
            return;
        }
        self.transitions.set(self.transitions.get().count(state));
        match state {
            CircuitState::Closed => self.effects.log(
                LogLevel::Info,
                "Redis answers again; limits are shared again",
            ),
            CircuitState::HalfOpen { .. } => self
                .effects
                .log(LogLevel::Info, "Redis: asking whether it answers again"),
            CircuitState::Open { until } => {
                let trouble = self.trouble.borrow();
                let why = trouble.as_ref().map(|(_, error)| error.to_string());
                let line = format!(
                    "Redis: {}; not asked for {} ms, on_store_failure rules meanwhile",
                    why.unwrap_or_default(),
                    until.since(now).get()
                );
                self.effects.log(LogLevel::Warn, &line);
            }
        }
    }

    fn learn(&self, result: Result<(), &StoreError>, now: Timestamp) {
        *self.trouble.borrow_mut() = result.err().map(|error| {
            let since = self.trouble.borrow().as_ref().map(|(since, _)| *since);
            (since.unwrap_or(now), error.clone())
        });
    }
}

impl<S: SharedStore, E: Effects> Breaker<S, E> {
    /// Leave to [probe](Self::probe), if a probe is due: the one who gets it sends it, apart from any request.
    #[must_use]
    pub fn begin_probe(&self) -> Option<Permit> {
        // Nothing is due most of the time, and the time is a call of the platform's.
        if self.is_closed() {
            return None;
        }
        let now = self.effects.now();
        let permit = self.circuit.borrow_mut().begin_probe(now);
        if permit.is_some() {
            self.log(now);
        }
        permit
    }

    /// Asks the store whether it answers again. It decides nothing and writes nothing; a Redis that may not write refuses
    /// the script all the same, since the script does not declare that it never does. Where the script is sent without its first line, such a
    /// Redis answers the probe and refuses the next decisions; the waits go on doubling.
    pub async fn probe(&self, permit: Permit) {
        let check = Check::default();
        let question = Question::new(&check);
        let result = self.inner.ask(&question, self.effects.now()).await;
        self.report(permit, result.as_ref().map(drop));
    }

    fn report(&self, permit: Permit, result: Result<(), &StoreError>) {
        // The clock again: the wait begins now, not when the call did.
        let now = self.effects.now();
        let outcome = match result {
            Ok(()) => CallOutcome::Success,
            Err(StoreError::Open { .. } | StoreError::OverCap) => CallOutcome::NotSent,
            Err(error) if error.is_transient() => CallOutcome::Transient,
            Err(_) => CallOutcome::Permanent,
        };
        // A call that went well needs no jitter, and randomness is a call of the platform's.
        let random = match outcome {
            CallOutcome::Success => 0,
            _ => self.effects.random(),
        };
        let changed = (self.circuit.borrow_mut()).ended(permit, outcome, now, random);
        if changed {
            self.learn(result, now);
            self.log(now);
        }
    }
}

impl<S: SharedStore, E: Effects> SharedStore for Breaker<S, E> {
    async fn ask(&self, question: &Question<'_>, now: Timestamp) -> Result<StoreReply, StoreError> {
        let permit = self.circuit.borrow().permit();
        let permit = permit.map_err(|until| StoreError::Open { until })?;
        let result = self.inner.ask(question, now).await;
        self.report(permit, result.as_ref().map(drop));
        result
    }
}

#[cfg(test)]
mod tests;
