//! Laws 1, 3 and 6 as checks of any admissions and any state, with and without leases, from one isolate
//! or several.

use proptest::prelude::{prop_assert, prop_assert_eq};
use proptest::test_runner::TestCaseError;

use crate::quota::{Quota, QuotaOutcome, QuotaState};
use crate::time::{Millis, Timestamp};

type Holds<T = ()> = Result<T, TestCaseError>;

/// The millisecond of real time at which units were admitted, and how many. Lists are in order of time.
pub(crate) type AdmittedUnits = (u64, u32);

/// Law 1, sliding window: no interval of the window's length, less the clocks' difference, holds more
/// than the limit.
pub(crate) fn of_a_window(admitted: &[AdmittedUnits], limit: u32, window: u64, skew: u64) -> Holds {
    for (first, (start, _)) in admitted.iter().enumerate() {
        let within = |(at, _): &&AdmittedUnits| at + skew < start + window || at == start;
        let within = admitted[first..].iter().take_while(within);
        let admitted: u32 = within.map(|(_, units)| units).sum();
        prop_assert!(
            admitted <= limit || window <= skew,
            "{admitted} units admitted with a limit of {limit}"
        );
    }
    Ok(())
}

/// Law 1, token bucket: any interval holds at most the burst and what comes back in its length.
pub(crate) fn of_a_bucket(admitted: &[AdmittedUnits], quota: &Quota, skew: u64) -> Holds {
    let window = quota.window().get();
    let (burst, limit) = (u64::from(quota.capacity()), u64::from(quota.limit()));
    for (first, (start, _)) in admitted.iter().enumerate() {
        let mut units = 0;
        for (end, more) in &admitted[first..] {
            units += u64::from(*more);
            let time = end - start + skew;
            prop_assert!(units * window <= burst * window + time * limit);
        }
    }
    Ok(())
}

/// Law 3: the same request is denied strictly before the announced time, and allowed at it. Returns the
/// wait in ms, if the request is denied.
pub(super) fn of_the_retry_time(
    quota: &Quota,
    state: Option<QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Holds<Option<u64>> {
    let decided = quota.decide(state.as_ref(), cost, now);
    let state = decided.repaired.or(state);
    let QuotaOutcome::Denied { retry_at } = decided.decision.outcome else {
        return Ok(None);
    };
    prop_assert!(retry_at > now);
    let wait = retry_at.since(now).get();
    for early in [0, 1, wait / 3, wait / 2, wait - 1] {
        let then = now + Millis::new(early.min(wait - 1));
        let again = quota.decide(state.as_ref(), cost, then).decision;
        prop_assert_eq!(
            again.outcome,
            QuotaOutcome::Denied { retry_at },
            "after {} ms",
            early
        );
    }
    let then = quota.decide(state.as_ref(), cost, retry_at).decision;
    prop_assert!(then.allowed());
    Ok(Some(wait))
}

/// Law 6: a state no longer matters once all units are available again, and matters until then. Returns
/// that time.
pub(super) fn of_the_reset(
    quota: &Quota,
    state: Option<&QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Holds<Timestamp> {
    let reset_at = quota.decide(state, 0, now).decision.reset_at;
    let after = quota.decide(state, cost, reset_at);
    prop_assert_eq!(after, quota.decide(None, cost, reset_at));
    if reset_at > now {
        let before = quota.decide(state, 0, reset_at - Millis::new(1)).decision;
        prop_assert!(before.remaining < quota.capacity());
    }
    Ok(reset_at)
}
