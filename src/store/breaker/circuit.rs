//! The circuit as a pure state machine: every step takes `now`, and `dice` where chance is wanted.
//!
//! Closed, calls go through. Open, none does until a wait is over; then one call, the probe, does,
//! and its outcome closes the circuit or opens it for twice as long. A probe that never reports (its
//! request was cancelled) is given up at a deadline: a flag would lock the circuit for ever.
//!
//! Source of the pattern: M. Nygard, "Release It!", stability pattern "Circuit Breaker".

use std::fmt;

use crate::time::{Millis, Timestamp};

/// Failures in a row that open a closed circuit.
const IN_A_ROW: u32 = 5;
/// Outcomes that are remembered, and how many failures among them open it: a store that fails now
/// and then has half of all requests wait for nothing.
const REMEMBERED: u32 = 20;
const AMONG_THEM: u32 = 10;

/// The first wait. Short, for most failures pass at once; a probe costs one request its wait.
pub const FIRST_WAIT: Millis = Millis::new(100);

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The store answered.
    Well,
    /// It did not, which may pass by itself.
    Badly,
    /// It will not until an operator acts, or for long.
    Hopelessly,
    /// It was not made after all.
    Unmade,
}

/// Where the circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls go through.
    Closed,
    /// None does before `until`.
    Open {
        /// When the next call may go through.
        until: Timestamp,
    },
    /// One is under way; others do not before `until`.
    HalfOpen {
        /// When the probe is given up.
        until: Timestamp,
    },
}

impl fmt::Display for State {
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
    /// How long a probe may take before it is given up.
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
    state: State,
    /// Counts changes of state: an outcome says something of the state that its call began in.
    epoch: u64,
    /// Times it has opened since it was last closed.
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
            state: State::Closed,
            epoch: 0,
            opened: 0,
            in_a_row: 0,
            outcomes: 0,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Leave to call, if there is any at `now`. Once a wait is over, the first to ask is the probe.
    ///
    /// # Errors
    ///
    /// The time before which it is no use to ask again.
    pub fn permit(&mut self, now: Timestamp) -> Result<Permit, Timestamp> {
        // A clock that has stepped back far would have it wait for ever.
        let longest = now + self.waits.after(u32::MAX).max(self.waits.probe);
        let waits = |until| until > now && until <= longest;
        match self.state {
            State::Closed => {}
            State::Open { until } | State::HalfOpen { until } if waits(until) => return Err(until),
            State::Open { .. } | State::HalfOpen { .. } => {
                let until = now + self.waits.probe;
                self.enter(State::HalfOpen { until });
            }
        }
        Ok(Permit(self.epoch))
    }

    /// What became of a call, and whether that changed the state. `dice` is any number, the more even
    /// its distribution the better: isolates that failed together should not come back together.
    pub fn ended(&mut self, permit: Permit, ended: Ended, now: Timestamp, dice: u32) -> bool {
        if permit.0 != self.epoch {
            return false;
        }
        let probing = self.state != State::Closed;
        if ended == Ended::Unmade {
            if probing {
                // The next request is the probe.
                self.enter(State::Open { until: now });
            }
            return false;
        }
        self.outcomes = self.outcomes << 1 | u32::from(ended != Ended::Well);
        if ended == Ended::Well {
            self.in_a_row = 0;
            if probing {
                self.opened = 0;
                self.outcomes = 0;
                self.enter(State::Closed);
            }
            return probing;
        }
        self.in_a_row += 1;
        let among_them = (self.outcomes & ((1 << REMEMBERED) - 1)).count_ones();
        let enough = self.in_a_row >= IN_A_ROW || among_them >= AMONG_THEM;
        if ended == Ended::Hopelessly {
            self.opened = self.waits.doublings;
        } else if !probing && !enough {
            return false;
        }
        let wait = jittered(self.waits.after(self.opened), dice);
        self.opened = self.opened.saturating_add(1);
        self.enter(State::Open { until: now + wait });
        true
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

/// Between half of the wait and the whole.
fn jittered(wait: Millis, dice: u32) -> Millis {
    let half = wait.get() / 2;
    Millis::new(wait.get() - half * u64::from(dice) / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
