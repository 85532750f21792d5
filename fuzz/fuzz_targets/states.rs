//! Any text as what a key holds and as a backlog, and any quota over them: a state's text reads
//! back as written, every decision, lease, refund and absorption keeps the laws that hold for one
//! state (`src/quota/laws.rs` has those that hold over many requests), and states of other shapes stay
//! next to it, within their bound.
//!
//! Times are before the year 10,000. A clock beyond it may overflow a sum, and no platform has one.

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
    algorithm: Counting,
    limit: Number,
    window: u64,
    burst: Number,
    now: u64,
    /// How far the state's clock is from `now`.
    shift: i32,
    steps: [Step; 3],
    thousandths: u32,
    /// What the key holds, and in a second line a backlog. `W` stands for the width that this quota's states have, `N` for now, `C` for now and
    /// the shift, `I` for the sub-window in which that lies.
    text: &'a str,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Counting {
    Sliding,
    Bucket,
    Fixed,
}

/// Small as often as large.
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
    /// How long before the decision the admission was made.
    age: Number,
}

fuzz_target!(|input: Input<'_>| {
    let mut now = Timestamp::from_millis(input.now % YEAR_10000);
    let Some(quota) = quota(&input) else { return };
    let text = filled_in(&input, &quota, now);
    let mut lines = text.split('\n');
    let held = States::parse(lines.next().unwrap_or_default(), &quota);
    let mut state = held.own().cloned();
    let backlog = lines.next().and_then(QuotaState::parse);
    for state in state.iter().chain(&backlog) {
        reads_back(state);
    }
    sized(&quota, input.thousandths, state.as_ref(), now);
    for step in input.steps {
        now = now + Millis::new(u64::from(step.after.get()));
        state = decided(&quota, state, step.cost.get(), now);
        state = leased(&quota, state.as_ref(), step.leased.get(), now).or(state);
        if let (Some(refund), Some(held)) = (step.refunded, &state) {
            state = refunded(&quota, held, refund, now).or(state);
        }
        if let Some(backlog) = &backlog {
            state = absorbed(&quota, state.as_ref(), backlog, now).or(state);
        }
        if let Some(own) = &state {
            joined(&held, own, &quota, now);
        }
    }
});

fn quota(input: &Input<'_>) -> Option<Quota> {
    let algorithm = match input.algorithm {
        Counting::Sliding => Algorithm::SlidingWindow,
        Counting::Bucket => Algorithm::TokenBucket,
        Counting::Fixed => Algorithm::FixedWindow,
    };
    let window = Millis::new(input.window % (MAX_WINDOW.get() + 2));
    let quota = Quota::new(algorithm, input.limit.positive(), window);
    if algorithm != Algorithm::TokenBucket {
        let legal = (Millis::new(1)..=MAX_WINDOW).contains(&window);
        assert_eq!(quota.is_ok(), legal, "{window:?}");
    }
    quota.ok()?.with_burst(input.burst.positive()).ok()
}

fn filled_in(input: &Input<'_>, quota: &Quota, now: Timestamp) -> String {
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

/// Decides, and returns the state that a store then holds.
fn decided(
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
        "kept exactly if something is taken"
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
            // Above a limit that was lowered, even a read is denied.
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
        "what is kept is what was said"
    );
    held
}

fn leased(
    quota: &Quota,
    held: Option<&QuotaState>,
    most: u32,
    now: Timestamp,
) -> Option<QuotaState> {
    let before = quota.decide(held, 0, now).decision;
    let lease = quota.lease(held, most, now)?;
    reads_back(&lease.state);
    assert!(lease.units >= 1 && lease.units <= most);
    assert_eq!(lease.state.clock(), before.at, "a lease is no clock");
    let after = quota.decide(Some(&lease.state), 0, now).decision;
    assert!(after.remaining + lease.units <= before.remaining);
    let ends = quota.lease_ends(before.at, now);
    assert!(ends > now && after.reset_at >= ends);
    Some(lease.state)
}

fn refunded(
    quota: &Quota,
    held: &QuotaState,
    refund: Refund,
    now: Timestamp,
) -> Option<QuotaState> {
    let units = refund.units.get();
    let admitted_at = now - Millis::new(u64::from(refund.age.get()));
    let after = quota.refund(held, units, admitted_at, now)?;
    let left = |state: &QuotaState| u64::from(quota.decide(Some(state), 0, now).decision.remaining);
    let before = left(held);
    assert!(left(&after) >= before, "a refund takes nothing");
    assert!(left(&after) <= before + u64::from(units));
    // What is left empty may have no text; it must not matter.
    let kept = QuotaState::parse(&after.to_string());
    let kept = quota.decide(kept.as_ref(), 0, now).decision.remaining;
    assert_eq!(u64::from(kept), left(&after));
    Some(after)
}

fn absorbed(
    quota: &Quota,
    held: Option<&QuotaState>,
    backlog: &QuotaState,
    now: Timestamp,
) -> Option<QuotaState> {
    assert_eq!(
        quota.newer(backlog, backlog),
        None,
        "nothing is newer than itself"
    );
    if let Some(newer) = held.and_then(|held| quota.newer(backlog, held)) {
        reads_back(&newer);
    }
    let after = quota.absorb(held, backlog, now)?;
    reads_back(&after);
    let left = |state| quota.decide(state, 0, now).decision.remaining;
    assert!(left(Some(&after)) <= left(held), "a backlog makes no room");
    Some(after)
}

/// What a key then holds.
fn joined(held: &States<'_>, own: &QuotaState, quota: &Quota, now: Timestamp) {
    let text = held.text_with(own, now);
    let mut parts = text.split(';');
    // What is left empty may have no text.
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

/// The quotas that stand in for this one while a store fails.
fn sized(quota: &Quota, thousandths: u32, state: Option<&QuotaState>, now: Timestamp) {
    for other in [quota.scaled(thousandths), quota.boundless()] {
        assert_eq!(other.window(), quota.window());
        assert_eq!(other.algorithm(), quota.algorithm());
        decided(&other, state.cloned(), 1, now);
    }
    let smaller = quota.scaled(thousandths % 1001);
    assert!(smaller.capacity() >= 1 && smaller.capacity() <= quota.capacity());
    assert!(quota.boundless().capacity() >= quota.capacity());
}
