//! Retries of calls that may safely be repeated.

use super::StoreError;
use crate::effects::Effects;
use crate::time::Millis;

/// How often and after which waits a call is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// The most attempts after the first.
    pub count: u32,
    /// The longest wait before the first retry. It doubles with each further one.
    pub delay: Millis,
}

impl Retries {
    /// No retries: one attempt.
    pub const NONE: Self = Self {
        count: 0,
        delay: Millis::ZERO,
    };

    /// The wait before retry `number` (from 0), with full jitter: between nothing and the doubled
    /// delay. So isolates that failed together do not come back together.
    /// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    #[must_use]
    pub fn wait(&self, number: u32, random: u32) -> Millis {
        let most = self.delay.get().saturating_mul(1 << number.min(16));
        // The product does not saturate: both factors fit into 32 bits if the delay is at most a minute.
        Millis::new(most.saturating_mul(u64::from(random)) / u64::from(u32::MAX))
    }

    /// Calls until the call succeeds, fails in a way that does not pass, or has been repeated [`count`](Self::count) times.
    /// Use it only for calls that may safely run twice.
    ///
    /// # Errors
    ///
    /// The error of the last call.
    pub async fn run<T>(
        &self,
        effects: &impl Effects,
        mut call: impl AsyncFnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut number = 0;
        loop {
            match call().await {
                Err(error) if error.is_transient() && number < self.count => {
                    effects.sleep(self.wait(number, effects.random())).await;
                    number += 1;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::Retries;
    use crate::effects::testing::TestEffects;
    use crate::store::StoreError;
    use crate::time::{Millis, Timestamp};

    const RETRIES: Retries = Retries {
        count: 3,
        delay: Millis::new(50),
    };

    /// Runs a call that fails `failures` times. Returns how often it was made, the waits and the result.
    fn run(failures: u32, error: &StoreError) -> (u32, Vec<u64>, Result<(), StoreError>) {
        let effects = TestEffects::default();
        effects.set_random(u32::MAX);
        let calls = Cell::new(0);
        let call = async || {
            calls.set(calls.get() + 1);
            if calls.get() <= failures {
                Err(error.clone())
            } else {
                Ok(())
            }
        };
        let result = RETRIES.run(&effects, call).now_or_never();
        let waits = effects.slept().into_iter().map(Millis::get);
        (calls.get(), waits.collect(), result.unwrap())
    }

    #[test]
    fn a_call_is_repeated_after_doubling_waits_until_it_succeeds() {
        let error = StoreError::Timeout;
        assert_eq!(run(0, &error), (1, vec![], Ok(())));
        assert_eq!(run(2, &error), (3, vec![50, 100], Ok(())));
        assert_eq!(run(3, &error), (4, vec![50, 100, 200], Ok(())));
    }

    #[test]
    fn a_call_is_repeated_at_most_count_times() {
        let error = StoreError::Status(500);
        assert_eq!(run(9, &error), (4, vec![50, 100, 200], Err(error)));
    }

    #[test]
    fn a_call_with_a_permanent_failure_is_not_repeated() {
        let until = Timestamp::from_millis(5);
        for error in [
            StoreError::Unauthorized,
            StoreError::NotPermitted,
            StoreError::OverQuota,
            StoreError::OverCap,
            StoreError::Open { until },
        ] {
            assert_eq!(run(9, &error), (1, vec![], Err(error)));
        }
    }

    #[test]
    fn a_wait_is_between_nothing_and_the_doubled_delay() {
        assert_eq!(RETRIES.wait(2, 0), Millis::ZERO);
        assert_eq!(RETRIES.wait(2, u32::MAX / 2), Millis::new(99));
        assert_eq!(RETRIES.wait(2, u32::MAX), Millis::new(200));
    }
}
