//! What a key holds: the states of one caller under every version of its policy.
//!
//! Versions of the limiter that share a prefix may differ in a policy's window or algorithm: during a
//! gradual deployment, or when staging runs next to production. Their states have different shapes. The
//! key's text is all these states, joined by `;`, and the first is that of the version that wrote last. A
//! version decides only by the state of its own shape, and keeps the others while they matter. So each
//! version limits as if it were alone, and together they admit at most the sum of their limits.
//!
//! The key holds at most [`MAX_OTHERS`] states of other shapes. If there are more, those that end soonest
//! are dropped, so that a broken writer cannot grow the text without bound. Text that is no state is
//! dropped. A state whose clock is faulty is repaired, as its own version would repair it. Otherwise it
//! would matter for as long as another version writes.

use std::borrow::Cow;
use std::num::NonZeroU32;

use super::algorithm::Algorithm;
use super::clock::CLOCK_TOLERANCE;
use super::definition::Quota;
use super::state::QuotaState;
use super::{fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

/// The most states of other shapes that a key holds next to a version's own.
pub const MAX_OTHERS: usize = 3;

/// Separates states. No state's text contains it.
const SEPARATOR: char = ';';

/// The states in a key's text, as a version of the policy with one quota reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States<'a> {
    own: Option<QuotaState>,
    /// The states of other shapes, each with its text.
    others: Vec<(&'a str, QuotaState)>,
}

impl<'a> States<'a> {
    /// Parses a key's `text`. The first state of `quota`'s shape becomes [`own`](Self::own). Parts
    /// that are no state are ignored.
    #[must_use]
    pub fn parse(text: &'a str, quota: &Quota) -> Self {
        let mut states = Self {
            own: None,
            others: Vec::new(),
        };
        for text in text.split(SEPARATOR) {
            match QuotaState::parse(text) {
                Some(state) if quota.fits(&state) => {
                    states.own.get_or_insert(state);
                }
                Some(state) => states.others.push((text, state)),
                None => {}
            }
        }
        states
    }

    /// The state of the quota's own shape. `None` if the text has none.
    #[must_use]
    pub const fn own(&self) -> Option<&QuotaState> {
        self.own.as_ref()
    }

    /// The key's text from `now` on, with `own` as the quota's state. States of other shapes stay while
    /// they matter, and for [`CLOCK_TOLERANCE`] longer, since clocks may be behind. A sliding window that
    /// a refund left empty has no text. Without other states the result is then empty, and the key can go.
    #[must_use]
    pub fn text_with(&self, own: &QuotaState, now: Timestamp) -> String {
        let mut others = Vec::new();
        for (text, state) in &self.others {
            others.extend(kept(text, state, now));
            if others.len() > MAX_OTHERS {
                let ends = others.iter().map(|(_, ends)| *ends).enumerate();
                if let Some((soonest, _)) = ends.min_by_key(|(_, ends)| *ends) {
                    others.remove(soonest);
                }
            }
        }
        let mut text = String::new();
        if !own.is_empty() {
            text = own.to_string();
        }
        for (other, _) in &others {
            if !text.is_empty() {
                text.push(SEPARATOR);
            }
            text.push_str(other);
        }
        text
    }
}

/// The text to keep of a state of another shape, and when that state no longer matters. `None` if it
/// does not matter any more.
fn kept<'a>(
    text: &'a str,
    state: &QuotaState,
    now: Timestamp,
) -> Option<(Cow<'a, str>, Timestamp)> {
    if state.clock() > now + CLOCK_TOLERANCE {
        let repaired = quota_of_shape(state)?
            .decide(Some(state), 0, now)
            .repaired?;
        return Some((Cow::Owned(repaired.to_string()), ends(&repaired)));
    }
    let ends = ends(state);
    (ends + CLOCK_TOLERANCE > now).then_some((Cow::Borrowed(text), ends))
}

/// When a state no longer matters. Sliding windows of different lengths can have sub-windows of the same
/// width, and the text contains only the width. So the result is up to 59 ms late.
fn ends(state: &QuotaState) -> Timestamp {
    match state {
        QuotaState::SlidingWindow(state) => sliding_window::ends(state),
        QuotaState::TokenBucket(state) => token_bucket::empty_at(state),
        QuotaState::FixedWindow(state) => fixed_window::ends(state.clock, state.window),
    }
}

/// The quota with the longest window whose states have this shape.
fn quota_of_shape(state: &QuotaState) -> Option<Quota> {
    let (algorithm, limit, window) = match state {
        QuotaState::SlidingWindow(state) => (
            Algorithm::SlidingWindow,
            NonZeroU32::MIN,
            sliding_window::longest_window(state.width),
        ),
        QuotaState::TokenBucket(state) => (Algorithm::TokenBucket, state.limit, state.period),
        QuotaState::FixedWindow(state) => (Algorithm::FixedWindow, NonZeroU32::MIN, state.window),
    };
    Some(Quota::new(algorithm, limit, window).ok()?.boundless())
}
