//! Monitors a dependency other than the store of decisions: whether it fails, since when, and why. Each change is logged
//! once.

use std::cell::RefCell;

use crate::effects::{Effects, LogLevel};
use crate::time::Timestamp;

/// Follows the attempts to use one dependency.
pub struct FailureMonitor {
    /// What the dependency is used for, as the subject of log lines: `Loading the blocks`.
    subject: &'static str,
    /// What the limiter does while the dependency fails, for log lines.
    meanwhile: &'static str,
    /// The number of failures in a row that are not reported, since they may be transient.
    silent: u32,
    latest: RefCell<Option<Failures>>,
}

/// Failures in a row.
struct Failures {
    since: Timestamp,
    count: u32,
    /// The reason in the latest log line. Empty: nothing has been logged yet.
    why: String,
}

impl FailureMonitor {
    /// Creates a monitor. Log lines read `{subject} failed: {why}; {meanwhile}` and `{subject} works again`. The first
    /// `silent` failures in a row are not reported.
    #[must_use]
    pub const fn new(subject: &'static str, meanwhile: &'static str, silent: u32) -> Self {
        Self {
            subject,
            meanwhile,
            silent,
            latest: RefCell::new(None),
        }
    }

    /// Returns since when the dependency fails, on this isolate's clock, and why. `None`: it works, or its failures are not
    /// reported yet.
    #[must_use]
    pub fn get(&self) -> Option<(Timestamp, String)> {
        let latest = self.latest.borrow();
        let reported = latest.as_ref().filter(|latest| !latest.why.is_empty());
        reported.map(|latest| (latest.since, latest.why.clone()))
    }

    /// Records how an attempt ended, and logs a change. `error` is why it failed. `None`: it succeeded.
    pub fn learn(&self, error: Option<String>, effects: &impl Effects, now: Timestamp) {
        let latest = self.latest.take();
        let Some(why) = error else {
            if latest.is_some_and(|latest| !latest.why.is_empty()) {
                effects.log(LogLevel::Info, &format!("{} works again", self.subject));
            }
            return;
        };
        let mut latest = latest.unwrap_or(Failures {
            since: now,
            count: 0,
            why: String::new(),
        });
        latest.count = latest.count.saturating_add(1);
        if latest.count > self.silent && latest.why != why {
            let line = format!("{} failed: {why}; {}", self.subject, self.meanwhile);
            effects.log(LogLevel::Warn, &line);
            latest.why = why;
        }
        *self.latest.borrow_mut() = Some(latest);
    }
}

#[cfg(test)]
mod tests {
    use super::FailureMonitor;
    use crate::effects::testing::TestEffects;
    use crate::store::conformance::START;
    use crate::time::Millis;

    #[test]
    fn each_change_is_logged_once_and_since_is_the_first_failure() {
        let effects = TestEffects::default();
        for silent in [0, 1] {
            let monitor = FailureMonitor::new("Fetching keys", "the old ones are used", silent);
            let learn = |ms, why: Option<&str>| {
                let now = START + Millis::new(ms);
                monitor.learn(why.map(str::to_owned), &effects, now);
                (effects.lines(), monitor.get())
            };
            let since = |ms, why: &str| Some((START + Millis::new(ms), why.to_owned()));
            assert_eq!(learn(0, None), (vec![], None));
            if silent == 1 {
                // A single failure is neither logged nor reported.
                assert_eq!(learn(1, Some("late")), (vec![], None));
                assert_eq!(learn(2, None), (vec![], None));
                assert_eq!(learn(3, Some("late")), (vec![], None));
            }
            let late = "Fetching keys failed: late; the old ones are used".to_owned();
            let first = if silent == 1 { 3 } else { 4 };
            assert_eq!(learn(4, Some("late")), (vec![late], since(first, "late")));
            assert_eq!(learn(5, Some("late")), (vec![], since(first, "late")));
            let gone = "Fetching keys failed: gone; the old ones are used".to_owned();
            assert_eq!(learn(6, Some("gone")), (vec![gone], since(first, "gone")));
            let again = "Fetching keys works again".to_owned();
            assert_eq!(learn(7, None), (vec![again], None));
            assert_eq!(learn(8, None), (vec![], None));
        }
    }
}
