//! A breaker: a store that fails is not asked for a while.

use std::cell::{Cell, RefCell};
use std::mem::{Discriminant, discriminant};

use self::circuit::{Circuit, Ended, State, Waits};
use super::backoff::Dice;
use super::{Check, Store, StoreError, Verdict};
use crate::time::{Clock, Timestamp};

pub mod circuit;

/// A store that is asked only while its circuit lets calls through.
pub struct Breaker<S, C> {
    inner: S,
    clock: C,
    dice: Dice,
    on_change: fn(&Status),
    circuit: RefCell<Circuit>,
    trouble: RefCell<Option<(Timestamp, StoreError)>>,
    /// The kind of state that `on_change` was told last.
    told: Cell<Discriminant<State>>,
}

/// How the breaker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the circuit is.
    pub state: State,
    /// Unless it is closed: since when, on this isolate's clock, and the latest failure.
    pub trouble: Option<(Timestamp, StoreError)>,
}

impl<S, C: Clock> Breaker<S, C> {
    /// `on_change` is told each change of state, once.
    pub fn new(inner: S, clock: C, waits: Waits, dice: Dice, on_change: fn(&Status)) -> Self {
        Self {
            inner,
            clock,
            dice,
            on_change,
            circuit: RefCell::new(Circuit::new(waits)),
            trouble: RefCell::new(None),
            told: Cell::new(discriminant(&State::Closed)),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.circuit.borrow().state(),
            trouble: self.trouble.borrow().clone(),
        }
    }

    /// Once per change: not for a probe after one that was given up or never made.
    fn tell(&self) {
        let status = self.status();
        let kind = discriminant(&status.state);
        if self.told.replace(kind) != kind {
            (self.on_change)(&status);
        }
    }

    fn learn(&self, result: Result<(), &StoreError>, now: Timestamp) {
        *self.trouble.borrow_mut() = result.err().map(|error| {
            let since = self.trouble.borrow().as_ref().map(|(since, _)| *since);
            (since.unwrap_or(now), error.clone())
        });
    }
}

impl<S: Store, C: Clock> Store for Breaker<S, C> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        let permit = self.circuit.borrow_mut().permit(now);
        let permit = permit.map_err(|until| StoreError::Open { until })?;
        self.tell();
        let result = self.inner.decide(check, now).await;
        // The clock again: the wait begins now, not when the call did.
        let now = self.clock.now();
        let outcome = result.as_ref().map(drop);
        let ended = match outcome {
            Ok(()) => Ended::Well,
            Err(StoreError::Open { .. } | StoreError::OverCap) => Ended::Unmade,
            Err(error) if error.is_transient() => Ended::Badly,
            Err(_) => Ended::Hopelessly,
        };
        // A call that went well needs no jitter, and randomness is a call of the platform's.
        let dice = if ended == Ended::Well {
            0
        } else {
            (self.dice)()
        };
        let changed = (self.circuit.borrow_mut()).ended(permit, ended, now, dice);
        if changed {
            self.learn(outcome, now);
            self.tell();
        }
        result
    }
}

#[cfg(test)]
mod tests;
