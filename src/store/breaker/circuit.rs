//! The circuit as a pure state machine: every step takes `now`, and `random` if it needs jitter.
//!
//! While the circuit is closed, calls go through. Otherwise no request's call does. Once a wait is over, the circuit asks
//! for a probe: a call that no request waits for. Its outcome closes the circuit, or opens it for twice as long. A probe that
//! never reports ends at a deadline; with a flag, it would keep the circuit half-open for ever.
//!
//! Source of the pattern: M. Nygard, "Release It!", stability pattern "Circuit Breaker".

use std::fmt;

use crate::time::{Deadline, Millis, Timestamp};

/// The failures in a row that open a closed circuit.
const FAILURES_IN_A_ROW: u32 = 5;
/// The number of latest outcomes that are remembered.
const REMEMBERED_OUTCOMES: u32 = 20;
/// The failures among the remembered outcomes that open a closed circuit. Without this rule, a store that fails every other
/// call would let half of all requests wait in vain.
const FAILURES_AMONG_REMEMBERED: u32 = 10;

/// The first wait. It is short, since most failures pass at once, and a probe costs no request anything.
pub const FIRST_WAIT: Millis = Millis::new(100);

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The store answered.
    Success,
    /// The store failed in a way that may pass.
    Transient,
    /// The store fails until an operator acts, or for long.
    Permanent,
    /// The call was not sent.
    NotSent,
}

/// The state of the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Calls go through.
    Closed,
    /// No call goes through, and no probe before `until`.
    Open {
        /// When a probe may be sent.
        until: Timestamp,
    },
    /// A probe is under way; no other is sent before `until`.
    HalfOpen {
        /// When the probe's time is over.
        until: Timestamp,
    },
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        })
    }
}

/// The permit to make one call. The outcome of the call is [reported](Circuit::ended) with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(u64);

/// How long the circuit waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How often [`FIRST_WAIT`] may double. After that many doublings the wait is constant.
    pub doublings: u32,
    /// The longest that a probe may take.
    pub probe: Millis,
}

impl Waits {
    /// The wait after the circuit has opened `opened` times in a row, before its jitter.
    #[must_use]
    pub fn after(&self, opened: u32) -> Millis {
        // Twenty doublings are 29 hours.
        let doublings = opened.min(self.doublings).min(20);
        Millis::new(FIRST_WAIT.get() << doublings)
    }
}

/// A circuit breaker without I/O.
#[derive(Clone, Debug)]
pub struct Circuit {
    waits: Waits,
    state: CircuitState,
    /// Until when no probe is sent.
    next_probe: Deadline,
    /// The number of changes of state. An outcome counts only if the state has not changed since its call began.
    epoch: u64,
    /// How often the circuit has opened since a request's call succeeded. Probes do not reset it: a store may answer probes
    /// and fail every decision.
    opened: u32,
    failures_in_a_row: u32,
    /// The latest outcomes, one bit each, the latest in the lowest bit; a failure is 1.
    outcomes: u32,
}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub const fn new(waits: Waits) -> Self {
        Self {
            waits,
            state: CircuitState::Closed,
            next_probe: Deadline::OVER,
            epoch: 0,
            opened: 0,
            failures_in_a_row: 0,
            outcomes: 0,
        }
    }

    /// The state of the circuit.
    #[must_use]
    pub const fn state(&self) -> CircuitState {
        self.state
    }

    /// The permit to call, while the circuit is closed.
    ///
    /// # Errors
    ///
    /// The time before which no call is permitted. While a probe is under way, which may end at any time, that time is past.
    pub fn permit(&self) -> Result<Permit, Timestamp> {
        match self.state {
            CircuitState::Closed => Ok(Permit(self.epoch)),
            CircuitState::Open { until } => Err(until),
            CircuitState::HalfOpen { until } => Err(until - self.waits.probe),
        }
    }

    /// The permit to probe, if a probe is due at `now`. Its receiver is expected to send the probe.
    pub fn begin_probe(&mut self, now: Timestamp) -> Option<Permit> {
        if self.state == CircuitState::Closed || self.next_probe.is_pending(now) {
            return None;
        }
        let until = now + self.waits.probe;
        self.enter(
            CircuitState::HalfOpen { until },
            Deadline::after(self.waits.probe, now),
        );
        Some(Permit(self.epoch))
    }

    /// Reports how a call ended, and returns whether that changed the state. `random` should be uniformly distributed, so that
    /// isolates that failed together do not come back together.
    pub fn ended(
        &mut self,
        permit: Permit,
        outcome: CallOutcome,
        now: Timestamp,
        random: u32,
    ) -> bool {
        if permit.0 != self.epoch {
            return false;
        }
        let probing = self.state != CircuitState::Closed;
        if outcome == CallOutcome::NotSent {
            if probing {
                self.open(FIRST_WAIT, now);
            }
            return false;
        }
        self.outcomes = self.outcomes << 1 | u32::from(outcome != CallOutcome::Success);
        if outcome == CallOutcome::Success {
            self.failures_in_a_row = 0;
            if probing {
                self.outcomes = 0;
                self.enter(CircuitState::Closed, Deadline::OVER);
            } else {
                self.opened = 0;
            }
            return probing;
        }
        self.failures_in_a_row += 1;
        let failures = (self.outcomes & ((1 << REMEMBERED_OUTCOMES) - 1)).count_ones();
        let enough =
            self.failures_in_a_row >= FAILURES_IN_A_ROW || failures >= FAILURES_AMONG_REMEMBERED;
        if outcome == CallOutcome::Permanent {
            self.opened = self.waits.doublings;
        } else if !probing && !enough {
            return false;
        }
        let wait = jittered(self.waits.after(self.opened), random);
        self.opened = self.opened.saturating_add(1);
        self.open(wait, now);
        true
    }

    fn open(&mut self, wait: Millis, now: Timestamp) {
        self.enter(
            CircuitState::Open { until: now + wait },
            Deadline::after(wait, now),
        );
    }

    fn enter(&mut self, state: CircuitState, next_probe: Deadline) {
        self.state = state;
        self.next_probe = next_probe;
        self.epoch += 1;
    }
}

/// A wait between a half of `wait` and the whole.
fn jittered(wait: Millis, random: u32) -> Millis {
    let half = wait.get() / 2;
    Millis::new(wait.get() - half * u64::from(random) / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
