//! Tests of the memory store: the suite, its bound, and the order of eviction.

use proptest::prelude::{prop_assert, proptest};

use super::{Memory, Seed};
use crate::quota::Algorithm;
use crate::store::conformance::{self, MINUTE, START, at_once, charge, check};
use crate::store::{Charge, Check, Store};
use crate::time::{Millis, Timestamp};

fn store(entries: usize) -> Memory {
    Memory::new(entries, Seed::fixed())
}

/// Whether a request of `caller` with a limit of `limit` a minute is admitted.
fn admits(store: &Memory, caller: u32, limit: u32, now: Timestamp) -> bool {
    let check = one(caller, limit);
    at_once(store, &check, now).allows(&check)
}

fn one(caller: u32, limit: u32) -> Check {
    check(
        &[charge(
            &format!("p:{caller}"),
            Algorithm::SlidingWindow,
            limit,
        )],
        1,
    )
}

#[tokio::test]
async fn the_store_conforms() {
    conformance::shared(&store(1000)).await;
}

#[test]
fn expired_entries_are_dropped_as_others_are_written() {
    let store = store(1000);
    for caller in 0..500 {
        assert!(admits(&store, caller, 10, START));
    }
    let later = START + Millis::from_secs(64);
    for caller in 1000..1250 {
        assert!(admits(&store, caller, 10, later));
    }
    assert_eq!(store.len(), 250);
}

#[test]
fn a_limited_caller_is_kept_however_many_others_arrive() {
    let store = store(100);
    for caller in 0..10 {
        assert!(admits(&store, caller, 1, START));
    }
    for caller in 1000..5000 {
        assert!(admits(&store, caller, 10, START));
        assert!(store.len() <= 100);
    }
    for caller in 0..10 {
        assert!(
            !admits(&store, caller, 1, START),
            "caller {caller} was evicted"
        );
    }
}

#[test]
fn a_blocked_caller_is_kept_however_many_others_arrive() {
    let store = store(10);
    let blocked = Check {
        charges: vec![Charge {
            block: Some(Millis::from_secs(600)),
            ..charge("p:blocked", Algorithm::SlidingWindow, 1)
        }],
        ..one(0, 1)
    };
    let ask = |now| at_once(&store, &blocked, now).allows(&blocked);
    assert!(ask(START));
    assert!(!ask(START));
    // The window is over, the block is not.
    let later = START + Millis::from_secs(300);
    for caller in 0..1000 {
        admits(&store, caller, 10, later);
    }
    assert!(!ask(later));
}

#[test]
fn the_caller_that_used_the_smallest_share_is_evicted_first() {
    let store = store(3);
    for _ in 0..9 {
        admits(&store, 1, 10, START);
    }
    admits(&store, 2, 10, START);
    for _ in 0..5 {
        admits(&store, 3, 10, START);
    }
    admits(&store, 4, 10, START);
    let kept = store.map.borrow().limited_until();
    let is_kept = |caller: u32| kept.contains_key(&format!("p:{caller}"));
    assert_eq!([1, 2, 3, 4].map(is_kept), [true, false, true, true]);
}

#[test]
fn a_map_full_of_limited_callers_still_takes_new_ones() {
    let store = store(5);
    for caller in 0..50 {
        assert!(admits(&store, caller, 1, START), "caller {caller}");
        assert!(!admits(&store, caller, 1, START), "caller {caller}");
        assert!(store.len() <= 5);
    }
}

#[test]
fn a_denial_of_a_caller_without_a_state_makes_no_entry() {
    let store = store(5);
    let impossible = Check {
        cost: 9,
        ..one(1, 1)
    };
    assert!(!at_once(&store, &impossible, START).allows(&impossible));
    assert!(store.is_empty());
}

proptest! {
    /// With any requests the bound holds, the indexes agree, and no limited caller is evicted while an unlimited one stays.
    #[test]
    fn no_limited_caller_is_evicted_before_an_unlimited_one(
        requests in proptest::collection::vec((0..30u32, 0..3000u64, 1..4u32), 1..300),
        entries in 1..12usize,
    ) {
        let store = store(entries);
        let mut now = START;
        for (caller, pause, limit) in requests {
            now = now + Millis::new(pause);
            let before = store.map.borrow().limited_until();
            admits(&store, caller, limit, now);
            let after = store.map.borrow().limited_until();
            let limited = |until: &Option<Timestamp>| until.is_some_and(|until| until > now);
            let lost = before.iter().any(|(key, until)| limited(until) && !after.contains_key(key));
            let spared = before.iter().any(|(key, until)| {
                *key != format!("p:{caller}") && !limited(until) && after.contains_key(key)
            });
            prop_assert!(!(lost && spared), "{before:?} {after:?}");

            prop_assert!(after.len() <= entries);
            prop_assert!(store.map.borrow().indexes_agree());
        }
    }
}

/// No request pays for many: each of the requests after a flood drops a few of its entries.
#[test]
fn each_request_drops_at_most_two_expired_entries() {
    let store = store(1000);
    for caller in 0..1000 {
        admits(&store, caller, 10, START);
    }
    let later = START + MINUTE + MINUTE;
    for request in 1..=400 {
        admits(&store, 5000 + request, 10, later);
        assert_eq!(
            store.len(),
            1000 - request as usize,
            "two entries are dropped and one is added"
        );
    }
}

#[test]
fn a_new_window_replaces_the_entry_of_the_one_before() {
    let store = store(10);
    assert!(admits(&store, 1, 1, START));
    let reset = START + MINUTE + Millis::new(1000);
    assert!(admits(&store, 1, 1, reset));
    assert_eq!(store.len(), 1);
}

/// Law 4: a clock that steps back over the end of a window finds the window as full as it was.
#[test]
fn a_clock_that_steps_back_reopens_no_window() {
    let store = store(10);
    let ask = |key: &str, now| {
        let check = check(&[charge(key, Algorithm::FixedWindow, 1)], 1);
        at_once(&store, &check, now).allows(&check)
    };
    let ends = START + MINUTE;
    assert!(ask("p:1", ends - Millis::new(1)));
    for other in 2..6 {
        assert!(ask(&format!("p:{other}"), ends + Millis::new(1500)));
    }
    assert!(!ask("p:1", ends - Millis::new(1)));
}

#[test]
fn a_denial_is_known_without_deciding_unless_it_would_set_a_block() {
    let store = store(1000);
    let check = one(1, 2);
    for _ in 0..2 {
        assert_eq!(store.known_denial(&check, START), None);
        assert!(admits(&store, 1, 2, START));
    }
    assert!(store.known_denial(&check, START).is_some());
    assert_eq!(
        store.known_denial(&check, START + Millis::from_secs(61)),
        None
    );

    let mut blocking = check.clone();
    blocking.charges[0].block = Some(Millis::from_secs(600));
    assert_eq!(store.known_denial(&blocking, START), None);
    let denied = at_once(&store, &blocking, START);
    assert_eq!(store.known_denial(&blocking, START), Some(denied));
    let later = START + Millis::from_secs(599);
    assert!(store.known_denial(&blocking, later).is_some());
    let mut empty = check;
    empty.charges.clear();
    assert_eq!(store.known_denial(&empty, START), None);
}
