//! Any text as the value of a key and as a backlog, with any quota. A state's text reads back as written. Every
//! decision, lease, refund and absorption keeps the laws that hold for one state (`src/quota/laws.rs` has those that
//! hold over many requests). States of other shapes are kept next to it, up to their bound.
//!
//! Times are before the year 10,000. A later clock could overflow a sum, and no platform has one.

#![no_main]

use std::num::NonZeroU32;

use edge_limiter::quota::{
    Algorithm, CLOCK_TOLERANCE, MAX_OTHERS, MAX_WINDOW, Quota, QuotaOutcome, QuotaState, States,
};
use edge_limiter::time::{Millis, Timestamp};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const YEAR_10000: u64 = 253_402_300_800_000;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    algorithm: AlgorithmName,
    limit: Number,
    window: u64,
    burst: Number,
    now: u64,
    /// How far the state's clock is from `now`, in ms.
    shift: i32,
    steps: [Step; 3],
    thousandths: u32,
    /// The key's value, and a backlog in a second line. Placeholders: `W` is the width of this quota's states, `N` is now, `C` is now plus
    /// `shift`, and `I` is the number of the sub-window that contains `C`.
    text: &'a str,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum AlgorithmName {
    Sliding,
    Bucket,
    Fixed,
}

/// A number that is as often small as large.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Number {
    bits: u32,
    fewer: u8,
}

impl Number {
    fn get(self) -> u32 {
        self.bits >> (self.fewer % 32)
    }

    fn positive(self) -> NonZeroU32 {
        NonZeroU32::new(self.get()).unwrap_or(NonZeroU32::MIN)
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Step {
    cost: Number,
    after: Number,
    leased: Number,
    refunded: Option<Refund>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Refund {
    units: Number,
    /// How long ago the admission was, in ms.
    age: Number,
}

fuzz_target!(|input: Input<'_>| {
    let mut now = Timestamp::from_millis(input.now % YEAR_10000);
    let Some(quota) = quota(&input) else { return };
    let text = fill_placeholders(&input, &quota, now);
    let mut lines = text.split('\n');
    let stored = States::parse(lines.next().unwrap_or_default(), &quota);
    let mut state = stored.own().cloned();
    let backlog = lines.next().and_then(QuotaState::parse);
    for state in state.iter().chain(&backlog) {
        reads_back(state);
    }
    scale(&quota, input.thousandths, state.as_ref(), now);
    for step in input.steps {
        now = now + Millis::new(u64::from(step.after.get()));
        state = decide(&quota, state, step.cost.get(), now);
        state = lease(&quota, state.as_ref(), step.leased.get(), now).or(state);
        if let (Some(amount), Some(state_now)) = (step.refunded, &state) {
            state = refund(&quota, state_now, amount, now).or(state);
        }
        if let Some(backlog) = &backlog {
            state = absorb(&quota, state.as_ref(), backlog, now).or(state);
        }
        if let Some(own) = &state {
            join_texts(&stored, own, &quota, now);
        }
    }
});

fn quota(input: &Input<'_>) -> Option<Quota> {
    let algorithm = match input.algorithm {
        AlgorithmName::Sliding => Algorithm::SlidingWindow,
        AlgorithmName::Bucket => Algorithm::TokenBucket,
        AlgorithmName::Fixed => Algorithm::FixedWindow,
    };
    let window = Millis::new(input.window % (MAX_WINDOW.get() + 2));
    let quota = Quota::new(algorithm, input.limit.positive(), window);
    if algorithm != Algorithm::TokenBucket {
        let legal = (Millis::new(1)..=MAX_WINDOW).contains(&window);
        assert_eq!(quota.is_ok(), legal, "{window:?}");
    }
    quota.ok()?.with_burst(input.burst.positive()).ok()
}

fn fill_placeholders(input: &Input<'_>, quota: &Quota, now: Timestamp) -> String {
    let window = quota.window().get();
    let width = match quota.algorithm() {
        Algorithm::SlidingWindow => window.div_ceil(60),
        Algorithm::TokenBucket | Algorithm::FixedWindow => window,
    };
    let clock = now
        .as_millis()
        .saturating_add_signed(i64::from(input.shift));
    let mut text = String::new();
    for letter in input.text.chars() {
        match letter {
            'W' => text.push_str(&width.to_string()),
            'N' => text.push_str(&now.as_millis().to_string()),
            'C' => text.push_str(&clock.to_string()),
            'I' => text.push_str(&(clock / width).to_string()),
            _ => text.push(letter),
        }
    }
    text
}

fn reads_back(state: &QuotaState) {
    assert_eq!(QuotaState::parse(&state.to_string()).as_ref(), Some(state));
}

/// Decides, checks the laws, and returns the state that a store then holds.
fn decide(
    quota: &Quota,
    state: Option<QuotaState>,
    cost: u32,
    now: Timestamp,
) -> Option<QuotaState> {
    let decided = quota.decide(state.as_ref(), cost, now);
    let decision = decided.decision;
    for kept in decided.admitted.iter().chain(&decided.repaired) {
        reads_back(kept);
    }
    assert!(decision.remaining <= quota.capacity());
    assert!(decision.reset_at >= now);
    assert!(decision.at >= now && decision.at <= now + CLOCK_TOLERANCE);
    assert_eq!(
        decided.admitted.is_some(),
        decision.allowed() && cost > 0,
        "a state is kept exactly if units are taken"
    );
    assert_eq!(
        decision.outcome == QuotaOutcome::Impossible,
        cost > quota.capacity()
    );

    let left = quota.decide(state.as_ref(), 0, now).decision.remaining;
    let held = decided.repaired.or(state);
    match decision.outcome {
        QuotaOutcome::Allowed => assert_eq!(decision.remaining, left - cost),
        QuotaOutcome::Denied { retry_at } => {
            assert!(retry_at > now);
            // If more is used than a limit that was lowered, even a read is denied.
            assert!(cost > left || cost == 0);
            assert_eq!(decision.remaining, left);
            let early = quota.decide(held.as_ref(), cost, retry_at - Millis::new(1));
            assert_eq!(early.decision.outcome, decision.outcome);
            assert!(
                quota
                    .decide(held.as_ref(), cost, retry_at)
                    .decision
                    .allowed()
            );
        }
        QuotaOutcome::Impossible => assert_eq!(decision.remaining, left),
    }
    let held = decided.admitted.or(held);
    let seen = quota.decide(held.as_ref(), 0, now).decision;
    assert_eq!(
        seen.remaining, decision.remaining,
        "the kept state has the remaining units that were reported"
    );
    held
}

fn lease(quota: &Quota, held: Option<&QuotaState>, max: u32, now: Timestamp) -> Option<QuotaState> {
    let before = quota.decide(held, 0, now).decision;
    let lease = quota.lease(held, max, now)?;
    reads_back(&lease.state);
    assert!(lease.units >= 1 && lease.units <= max);
    assert_eq!(
        lease.state.clock(),
        before.at,
        "a lease does not move the clock"
    );
    let after = quota.decide(Some(&lease.state), 0, now).decision;
    assert!(after.remaining + lease.units <= before.remaining);
    let ends = quota.lease_ends(before.at, now);
    assert!(ends > now && after.reset_at >= ends);
    Some(lease.state)
}

fn refund(quota: &Quota, held: &QuotaState, amount: Refund, now: Timestamp) -> Option<QuotaState> {
    let units = amount.units.get();
    let admitted_at = now - Millis::new(u64::from(amount.age.get()));
    let after = quota.refund(held, units, admitted_at, now)?;
    let left = |state: &QuotaState| u64::from(quota.decide(Some(state), 0, now).decision.remaining);
    let before = left(held);
    assert!(left(&after) >= before, "a refund takes no units");
    assert!(left(&after) <= before + u64::from(units));
    // An empty state may have no text, which must decide alike.
    let kept = QuotaState::parse(&after.to_string());
    let kept = quota.decide(kept.as_ref(), 0, now).decision.remaining;
    assert_eq!(u64::from(kept), left(&after));
    Some(after)
}

fn absorb(
    quota: &Quota,
    held: Option<&QuotaState>,
    backlog: &QuotaState,
    now: Timestamp,
) -> Option<QuotaState> {
    assert_eq!(
        quota.newer(backlog, backlog),
        None,
        "no state is newer than itself"
    );
    if let Some(newer) = held.and_then(|held| quota.newer(backlog, held)) {
        reads_back(&newer);
    }
    let after = quota.absorb(held, backlog, now)?;
    reads_back(&after);
    let left = |state| quota.decide(state, 0, now).decision.remaining;
    assert!(
        left(Some(&after)) <= left(held),
        "a backlog gives no units back"
    );
    Some(after)
}

/// Checks the text that a key then holds.
fn join_texts(stored: &States<'_>, own: &QuotaState, quota: &Quota, now: Timestamp) {
    let text = stored.text_with(own, now);
    let mut parts = text.split(';');
    // An empty state may have no text.
    let first = parts.next().and_then(QuotaState::parse);
    let others: Vec<QuotaState> = parts
        .map(|part| QuotaState::parse(part).expect("only states are kept"))
        .collect();
    assert!(others.len() <= MAX_OTHERS);
    for other in &others {
        assert!(!quota.fits(other) && other.clock() <= now + CLOCK_TOLERANCE);
    }
    let again = States::parse(&text, quota);
    assert_eq!(again.own(), first.as_ref());
    assert_eq!(again.text_with(own, now), text);
}

/// Checks the quotas that replace this one while a store fails.
fn scale(quota: &Quota, thousandths: u32, state: Option<&QuotaState>, now: Timestamp) {
    for other in [quota.scaled(thousandths), quota.boundless()] {
        assert_eq!(other.window(), quota.window());
        assert_eq!(other.algorithm(), quota.algorithm());
        decide(&other, state.cloned(), 1, now);
    }
    let smaller = quota.scaled(thousandths % 1001);
    assert!(smaller.capacity() >= 1 && smaller.capacity() <= quota.capacity());
    assert!(quota.boundless().capacity() >= quota.capacity());
}
