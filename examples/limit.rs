//! Limits each caller to two requests a minute, counted in memory. Run it with `cargo run --example limit`.
#![allow(clippy::print_stdout)] // This program prints its results.

use std::error::Error;
use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::seed::Seed;
use edge_limiter::store::memory::Memory;
use edge_limiter::store::{Charge, Check};
use edge_limiter::time::{Millis, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    let memory = Memory::new(10_000, Seed::random()?);
    let limit = NonZeroU32::new(2).ok_or("a limit is at least 1")?;
    let quota = Quota::new(Algorithm::SlidingWindow, limit, Millis::from_secs(60))?;
    for (second, caller) in [(0, "a"), (1, "a"), (2, "b"), (3, "a"), (62, "a")] {
        let check = Check {
            address: None,
            charges: vec![Charge::new(format!("login:{caller}"), quota)],
            cost: 1,
        };
        let now = Timestamp::from_millis(1_764_000_000_000) + Millis::from_secs(second);
        let verdict = memory.decide_here(&check, now);
        let wait = verdict.answers[0].and_then(|answer| answer.retry_at());
        let wait = wait.map_or(0, |at| at.since(now).secs_ceil());
        println!(
            "{caller} at {second} s: {}, wait {wait} s",
            verdict.allows(&check)
        );
    }
    Ok(())
}
