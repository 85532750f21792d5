//! Waiting before a call is made again, with chance, so that those who failed together do not all
//! come back together.

use super::StoreError;
use crate::time::Millis;

/// A source of chance: any `u32`, each as likely as the others.
pub type Dice = fn() -> u32;

/// The platform's randomness. Jitter can do without, should there be none.
#[must_use]
pub fn dice() -> u32 {
    getrandom::u32().unwrap_or_default()
}

/// Lets time pass.
#[allow(async_fn_in_trait)]
pub trait Pause {
    /// Waits for `length`.
    async fn pause(&self, length: Millis);
}

/// How often, and after which waits, a call that may safely be repeated is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Further attempts after the first.
    pub count: u32,
    /// The longest wait before the first of them; it doubles with each.
    pub delay: Millis,
}

impl Retries {
    /// The wait before retry `number` (from 0): full jitter, anything from nothing to the doubled
    /// delay. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    #[must_use]
    pub fn wait(&self, number: u32, dice: u32) -> Millis {
        let most = self.delay.get().saturating_mul(1 << number.min(16));
        // Both fit 32 bits where the delay is at most a minute.
        Millis::new(most.saturating_mul(u64::from(dice)) / u64::from(u32::MAX))
    }

    /// Calls until it succeeds, fails in a way that does not pass by itself, or has been repeated
    /// often enough. Only for calls that do the same when they run twice.
    ///
    /// # Errors
    ///
    /// The last call's.
    pub async fn run<T>(
        &self,
        pause: &impl Pause,
        dice: Dice,
        mut call: impl AsyncFnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut number = 0;
        loop {
            match call().await {
                Err(error) if error.is_transient() && number < self.count => {
                    pause.pause(self.wait(number, dice())).await;
                    number += 1;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures_util::FutureExt;

    use super::{Pause, Retries};
    use crate::store::StoreError;
    use crate::time::{Millis, Timestamp};

    const RETRIES: Retries = Retries {
        count: 3,
        delay: Millis::new(50),
    };

    /// Writes down the waits.
    #[derive(Default)]
    struct Waits(RefCell<Vec<u64>>);

    impl Pause for Waits {
        async fn pause(&self, length: Millis) {
            self.0.borrow_mut().push(length.get());
        }
    }

    /// Runs a call that fails `failures` times; how often it was made, the waits, the result.
    fn run(failures: u32, error: &StoreError) -> (u32, Vec<u64>, Result<(), StoreError>) {
        let waits = Waits::default();
        let calls = Cell::new(0);
        let call = async || {
            calls.set(calls.get() + 1);
            if calls.get() <= failures {
                Err(error.clone())
            } else {
                Ok(())
            }
        };
        let result = RETRIES.run(&waits, || u32::MAX, call).now_or_never();
        (calls.get(), waits.0.take(), result.unwrap())
    }

    #[test]
    fn a_call_is_repeated_after_doubling_waits_until_it_succeeds() {
        let error = StoreError::Timeout;
        assert_eq!(run(0, &error), (1, vec![], Ok(())));
        assert_eq!(run(2, &error), (3, vec![50, 100], Ok(())));
        assert_eq!(run(3, &error), (4, vec![50, 100, 200], Ok(())));
    }

    #[test]
    fn not_for_ever() {
        let error = StoreError::Status(500);
        assert_eq!(run(9, &error), (4, vec![50, 100, 200], Err(error)));
    }

    #[test]
    fn what_does_not_pass_by_itself_is_not_repeated() {
        let until = Timestamp::from_millis(5);
        for error in [
            StoreError::Unauthorized,
            StoreError::OverQuota,
            StoreError::OverCap,
            StoreError::Open { until },
        ] {
            assert_eq!(run(9, &error), (1, vec![], Err(error)));
        }
    }

    #[test]
    fn the_jitter_is_full() {
        assert_eq!(RETRIES.wait(2, 0), Millis::ZERO);
        assert_eq!(RETRIES.wait(2, u32::MAX / 2), Millis::new(99));
        assert_eq!(RETRIES.wait(2, u32::MAX), Millis::new(200));
    }
}
