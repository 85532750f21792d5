//! The circuit as a pure state machine: every step takes `now`, and `random` where chance is wanted.
//!
//! Closed, calls go through. Otherwise no caller's call does. Once a wait is over, the circuit asks for a probe: a call
//! that no caller waits for, and whose outcome closes the circuit or opens it for twice as long. A probe that never
//! reports ends at a deadline: a flag would lock the circuit for ever.
//!
//! Source of the pattern: M. Nygard, "Release It!", stability pattern "Circuit Breaker".

use std::fmt;

use crate::time::{Deadline, Millis, Timestamp};

/// Failures in a row that open a closed circuit.
const FAILURES_IN_A_ROW: u32 = 5;
/// Outcomes that are remembered, and how many failures among them open it: a store that fails now
/// and then has half of all requests wait for nothing.
const REMEMBERED_OUTCOMES: u32 = 20;
const FAILURES_AMONG_THEM: u32 = 10;

/// The first wait. Short, for most failures pass at once, and a probe costs no caller anything.
pub const FIRST_WAIT: Millis = Millis::new(100);

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The store answered.
    Success,
    /// It did not, which may pass.
    Transient,
    /// It will not until an operator acts, or for long.
    Permanent,
    /// The call was not made after all.
    NotSent,
}

/// Where the circuit is.
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

/// Leave to make one call. Its outcome is reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(u64);

/// How long the circuit waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Doublings of [`FIRST_WAIT`] before the wait stays as it is.
    pub doublings: u32,
    /// How long a probe may take.
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

/// The circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    waits: Waits,
    state: CircuitState,
    /// No probe is sent until then.
    held_back: Deadline,
    /// Counts changes of state: an outcome says something of the state that its call began in.
    epoch: u64,
    /// Times it has opened since a caller's call went well: a store may answer probes and fail every decision.
    opened: u32,
    in_a_row: u32,
    /// The last outcomes, one bit each, the latest lowest; a failure is 1.
    outcomes: u32,
}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub const fn new(waits: Waits) -> Self {
        Self {
            waits,
            state: CircuitState::Closed,
            held_back: Deadline::OVER,
            epoch: 0,
            opened: 0,
            in_a_row: 0,
            outcomes: 0,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> CircuitState {
        self.state
    }

    /// Leave to call, while it is closed.
    ///
    /// # Errors
    ///
    /// The time before which it is no use to ask again. While a probe is under way that is past: it may end at any time.
    pub fn permit(&self) -> Result<Permit, Timestamp> {
        match self.state {
            CircuitState::Closed => Ok(Permit(self.epoch)),
            CircuitState::Open { until } => Err(until),
            CircuitState::HalfOpen { until } => Err(until - self.waits.probe),
        }
    }

    /// Leave to probe, if a probe is due at `now`: the one who gets it sends it.
    pub fn begin_probe(&mut self, now: Timestamp) -> Option<Permit> {
        if self.state == CircuitState::Closed || self.held_back.is_pending(now) {
            return None;
        }
        let until = now + self.waits.probe;
        self.enter(
            CircuitState::HalfOpen { until },
            Deadline::after(self.waits.probe, now),
        );
        Some(Permit(self.epoch))
    }

    /// What became of a call, and whether that changed the state. `random` is any number, the more
    /// even its distribution the better: isolates that failed together should not come back together.
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
            self.in_a_row = 0;
            if probing {
                self.outcomes = 0;
                self.enter(CircuitState::Closed, Deadline::OVER);
            } else {
                self.opened = 0;
            }
            return probing;
        }
        self.in_a_row += 1;
        let among_them = (self.outcomes & ((1 << REMEMBERED_OUTCOMES) - 1)).count_ones();
        let enough = self.in_a_row >= FAILURES_IN_A_ROW || among_them >= FAILURES_AMONG_THEM;
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

    fn enter(&mut self, state: CircuitState, held_back: Deadline) {
        self.state = state;
        self.held_back = held_back;
        self.epoch += 1;
    }
}

/// Between half of the wait and the whole.
fn jittered(wait: Millis, random: u32) -> Millis {
    let half = wait.get() / 2;
    Millis::new(wait.get() - half * u64::from(random) / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
