//! The state of one quota for one caller, and its text.
//!
//! The text is readable, so that an operator can `GET` a key and understand it. It contains the
//! algorithm and the width, so that a state of another configuration is recognised. It also contains
//! everything that is needed to compute when the state no longer matters:
//!
//! - sliding window: `sw:<width ms>:<clock ms>:<first sub-window>:<offset>=<count>,...`
//! - token bucket: `tb:<period ms>:<clock ms>:<level ms x units>:<limit>`
//! - fixed window: `fw:<window ms>:<clock ms>:<count>`

use std::fmt;
use std::num::NonZeroU32;

use super::definition::{MAX_LEVEL, MAX_WINDOW};
use super::lease_time::max_lead;
use crate::time::{Millis, Timestamp};

/// The largest number in a state's text. Lua reads numbers up to this exactly, and the sums of a
/// decision stay exact as well.
const MAX_NUMBER: u64 = 1 << 52;

/// Sub-windows in a sliding window. With sixty, the longest usual state stays under 600 bytes and the
/// extra wait under a sixtieth of the window.
pub(super) const PARTS: u64 = 60;

/// The longest text of a state, in bytes. A sliding window has at most 61 sub-windows, and those of a
/// lease.
const MAX_TEXT_BYTES: usize = 1000;

/// The state that a store keeps for one quota of one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaState {
    /// The state of a sliding window.
    SlidingWindow(SlidingWindow),
    /// The state of a token bucket.
    TokenBucket(TokenBucket),
    /// The state of a fixed window.
    FixedWindow(FixedWindow),
}

/// Units admitted in one sub-window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubWindow {
    pub(super) index: u64,
    pub(super) count: u32,
}

/// The sub-windows of a sliding window that are not empty, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    pub(super) width: Millis,
    pub(super) clock: Timestamp,
    pub(super) counts: Vec<SubWindow>,
}

/// How full a token bucket was at `clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    pub(super) period: Millis,
    pub(super) clock: Timestamp,
    pub(super) level: u64,
    /// The limit of the quota that wrote the state: how much of the level drains in a millisecond. With
    /// it the text alone tells when the bucket is empty. A quota with another limit and the same period
    /// uses the level unchanged.
    pub(super) limit: NonZeroU32,
}

/// How many units were admitted in the fixed window that contains `clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedWindow {
    pub(super) window: Millis,
    pub(super) clock: Timestamp,
    pub(super) count: u32,
}

impl QuotaState {
    /// The latest time at which units were admitted or absorbed.
    #[must_use]
    pub const fn clock(&self) -> Timestamp {
        match self {
            Self::SlidingWindow(state) => state.clock,
            Self::TokenBucket(state) => state.clock,
            Self::FixedWindow(state) => state.clock,
        }
    }

    /// Whether the state is a sliding window without counts, which has no text.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::SlidingWindow(state) if state.counts.is_empty())
    }

    /// Parses a state's text. `None` if the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let mut fields = text.split(':');
        let tag = fields.next()?;
        let width = Millis::new(number(fields.next()?)?);
        let parts = if tag == "sw" { PARTS } else { 1 };
        if width == Millis::ZERO || width.get() > MAX_WINDOW.get() / parts {
            return None;
        }
        let clock = Timestamp::from_millis(number(fields.next()?)?);
        let third = number(fields.next()?)?;
        let state = match tag {
            "sw" => Self::SlidingWindow(SlidingWindow {
                width,
                clock,
                counts: sub_windows(third, fields.next()?, width, clock)?,
            }),
            "tb" => Self::TokenBucket(TokenBucket {
                period: width,
                clock,
                level: third,
                limit: bucket_limit(fields.next()?, width)?,
            }),
            "fw" => Self::FixedWindow(FixedWindow {
                window: width,
                clock,
                count: u32::try_from(third).ok()?,
            }),
            _ => return None,
        };
        fields.next().is_none().then_some(state)
    }
}

impl fmt::Display for QuotaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlidingWindow(state) => {
                let first = state.counts.first().map_or(0, |sub| sub.index);
                let (width, clock) = (state.width.get(), state.clock.as_millis());
                write!(f, "sw:{width}:{clock}:{first}:")?;
                for (place, sub) in state.counts.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{}={}", sub.index - first, sub.count)?;
                }
                Ok(())
            }
            Self::TokenBucket(state) => {
                let (period, clock) = (state.period.get(), state.clock.as_millis());
                write!(f, "tb:{period}:{clock}:{}:{}", state.level, state.limit)
            }
            Self::FixedWindow(state) => {
                let (window, clock) = (state.window.get(), state.clock.as_millis());
                write!(f, "fw:{window}:{clock}:{}", state.count)
            }
        }
    }
}

/// Parses a number of 1 to 16 digits that is at most [`MAX_NUMBER`].
fn number(text: &str) -> Option<u64> {
    let plain = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = if plain {
        text.parse().ok()?
    } else {
        return None;
    };
    (value <= MAX_NUMBER).then_some(value)
}

/// Parses a bucket's limit. `None` if no [`Quota`](super::Quota) of this period can have it.
fn bucket_limit(text: &str, period: Millis) -> Option<NonZeroU32> {
    let limit = u32::try_from(number(text)?).ok()?;
    let level = u64::from(limit).checked_mul(period.get())?;
    NonZeroU32::new(limit).filter(|_| level <= MAX_LEVEL)
}

/// Parses the list of sub-windows. `None` if one of them is later than the state's clock or a lease can
/// have reached: it cannot have been counted.
fn sub_windows(first: u64, list: &str, width: Millis, clock: Timestamp) -> Option<Vec<SubWindow>> {
    let last = clock.as_millis().checked_div(width.get())? + max_lead(width);
    let mut counts: Vec<SubWindow> = Vec::new();
    for item in list.split(',') {
        let (offset, count) = item.split_once('=')?;
        let index = first + number(offset)?;
        let count = u32::try_from(number(count)?).ok()?;
        let ascends = counts.last().is_none_or(|last| last.index < index);
        if !ascends || count == 0 || index > last {
            return None;
        }
        counts.push(SubWindow { index, count });
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::QuotaState;

    #[test]
    fn a_state_parses_back_from_its_text() {
        for text in [
            "sw:1000:1764000059123:1764000000:0=3,1=5,59=1",
            "tb:60000:1764000000123:180000:10",
            "fw:60000:1764000000123:7",
        ] {
            assert_eq!(QuotaState::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_no_state_counts_as_absent() {
        for text in [
            "",
            "sw",
            "sw:1000:9999:1",
            "sw:1000:9999:1:",
            "sw:1000:9999:1:0=1,",
            "sw:1000:1764000000123:1764000006:0=1",
            "sw:1440000:1764000000000:4503599627370496:0=1",
            "sw:0:1764000000123:1764000000:0=1",
            "sw:1000:9999:1:0=0",
            "sw:1000:9999:1:1=1,1=1",
            "sw:1000:9999:1:2=1,1=1",
            "sw:1000:9999:1:0=4294967296",
            "sw:1000:9999:1:0=1:",
            "tb:60000:5:-1:1",
            "tb:60000:5:+1:1",
            "tb:60000:5:1.5:1",
            "tb:60000:5:1e3:1",
            "tb:60000:5:4503599627370497:1",
            "tb:60000:5:00000000000000001:1",
            "tb:60000:5:1",
            "tb:60000:5:1:0",
            "tb:1:5:1:4294967296",
            "tb:1000000:5:1:4294967295",
            "tb:60000:5:1:1:1",
            "fw:60000:5:4294967296",
            "fw:60000: 5:1",
            "xx:1:1:1",
            "17",
            "{\"a\":1}",
        ] {
            assert_eq!(QuotaState::parse(text), None, "{text:?}");
        }
    }
}
