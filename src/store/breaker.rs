//! A wrapper that stops asking a store that fails, for a while: a circuit breaker.
//!
//! A probe finds out whether the store answers again. The probe belongs to no request: if it did, a client could end the
//! probe by disconnecting, and so keep the breaker open for everybody.

use std::cell::{Cell, RefCell};
use std::mem::{Discriminant, discriminant};

use self::circuit::{CallOutcome, Circuit, CircuitState, Permit, Waits};
use super::shared::{Question, SharedStore, StoreReply};
use super::{Check, StoreError};
use crate::effects::{Effects, LogLevel};
use crate::time::Timestamp;

pub mod circuit;

/// A store that is asked only while its circuit is closed.
pub struct Breaker<S, E> {
    inner: S,
    effects: E,
    circuit: RefCell<Circuit>,
    /// Since when the circuit is not closed, and the latest failure.
    failure: RefCell<Option<(Timestamp, StoreError)>>,
    /// The kind of state that was logged last.
    logged: Cell<Discriminant<CircuitState>>,
    transitions: Cell<BreakerTransitions>,
}

/// How often a breaker has entered each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerTransitions {
    closed: u64,
    open: u64,
    half_open: u64,
}

/// The names of a breaker's states in metric labels.
pub const STATES: [&str; 3] = ["closed", "open", "half_open"];

impl BreakerTransitions {
    const fn count(mut self, to: CircuitState) -> Self {
        match to {
            CircuitState::Closed => self.closed += 1,
            CircuitState::Open { .. } => self.open += 1,
            CircuitState::HalfOpen { .. } => self.half_open += 1,
        }
        self
    }

    /// Each of [`STATES`], with how often the breaker has entered it.
    pub fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [self.closed, self.open, self.half_open];
        STATES.into_iter().zip(counts)
    }
}

/// The state of a breaker, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// The state of the circuit.
    pub state: CircuitState,
    /// Since when the circuit is not closed, on this isolate's clock, and the latest failure; `None` while it is closed.
    pub failure: Option<(Timestamp, StoreError)>,
}

impl<S, E: Effects> Breaker<S, E> {
    /// Wraps `inner`. Each change of state is logged once.
    pub fn new(inner: S, waits: Waits, effects: E) -> Self {
        Self {
            inner,
            effects,
            circuit: RefCell::new(Circuit::new(waits)),
            failure: RefCell::new(None),
            logged: Cell::new(discriminant(&CircuitState::Closed)),
            transitions: Cell::default(),
        }
    }

    /// The wrapped store.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The state of the breaker, and why.
    #[must_use]
    pub fn status(&self) -> BreakerStatus {
        BreakerStatus {
            state: self.circuit.borrow().state(),
            failure: self.failure.borrow().clone(),
        }
    }

    /// How often the breaker has entered each state.
    #[must_use]
    pub const fn transitions(&self) -> BreakerTransitions {
        self.transitions.get()
    }

    /// Whether the circuit is closed, so that calls go through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.circuit.borrow().state() == CircuitState::Closed
    }

    /// Logs and counts the state, if it has changed. A probe after one that never reported or was not sent is no change.
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
                "Redis answers again, and limits are shared again",
            ),
            CircuitState::HalfOpen { .. } => self.effects.log(
                LogLevel::Info,
                "Redis: a probe checks whether it answers again",
            ),
            CircuitState::Open { until } => {
                let failure = self.failure.borrow();
                let why = failure.as_ref().map(|(_, error)| error.to_string());
                let line = format!(
                    "Redis failed: {}; it is not called for {} ms, and each policy's on_store_failure decides until then",
                    why.unwrap_or_default(),
                    until.since(now).get()
                );
                self.effects.log(LogLevel::Warn, &line);
            }
        }
    }

    fn learn(&self, result: Result<(), &StoreError>, now: Timestamp) {
        *self.failure.borrow_mut() = result.err().map(|error| {
            let since = self.failure.borrow().as_ref().map(|(since, _)| *since);
            (since.unwrap_or(now), error.clone())
        });
    }
}

impl<S: SharedStore, E: Effects> Breaker<S, E> {
    /// The permit to [probe](Self::probe), if a probe is due. Its receiver is expected to probe, in no request's task.
    #[must_use]
    pub fn begin_probe(&self) -> Option<Permit> {
        // Usually no probe is due, and reading the clock is a call to the platform.
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

    /// Asks the store once, to learn whether it answers again. A probe decides nothing and writes nothing. A Redis that cannot
    /// write still refuses it, since the script's first line does not declare that the script never writes. If the
    /// script is sent without its first line, such a Redis answers the probe and refuses the next decisions; then the waits
    /// go on doubling.
    pub async fn probe(&self, permit: Permit) {
        let check = Check::default();
        let question = Question::new(&check);
        let result = self.inner.ask(&question, self.effects.now()).await;
        self.report(permit, result.as_ref().map(drop));
    }

    fn report(&self, permit: Permit, result: Result<(), &StoreError>) {
        // Read the clock again: the wait begins at the end of the call.
        let now = self.effects.now();
        let outcome = match result {
            Ok(()) => CallOutcome::Success,
            Err(StoreError::Open { .. } | StoreError::OverCap) => CallOutcome::NotSent,
            Err(error) if error.is_transient() => CallOutcome::Transient,
            Err(_) => CallOutcome::Permanent,
        };
        // A success needs no jitter, and randomness is a call to the platform.
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
