//! Measures cases natively: `natively SECONDS CHECKED CASE:SIZE...` prints a line of JSON for each case, with
//! the checksum of the first CHECKED rounds and the time of one round.
//!
//! Times are the thread's processor time. The time of a round is the smallest of several stretches, because other
//! programs on the machine can only make a stretch slower.

use edge_limiter_bench::{Case, Loop};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::error::Error;
use std::fs;

/// The time is cut into this many stretches.
const STRETCHES: u32 = 7;

const USAGE: &str = "usage: natively SECONDS CHECKED CASE:SIZE...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().ok_or(USAGE)?.parse()?;
    let checked: u32 = arguments.next().ok_or(USAGE)?.parse()?;
    for argument in arguments {
        let (name, size) = argument.split_once(':').ok_or(USAGE)?;
        let case = Case::named(name).ok_or("there is no such case: see bench/core/src/cases.rs")?;
        let size = size.parse()?;
        let number = Case::ALL.iter().position(|other| *other == case);
        let before = resident()?;
        let mut run = case.prepare(size);
        let bytes = resident()?.saturating_sub(before);
        let checksum = run(checked);
        let rounds = rounds_of(1e9 * seconds / f64::from(STRETCHES), |rounds| {
            timed(&mut run, rounds)
        });
        let stretches = (0..STRETCHES).map(|_| timed(&mut run, rounds) / f64::from(rounds));
        let least = stretches.fold(f64::INFINITY, f64::min);
        let line = json!({
            "case": name, "number": number, "size": size, "checksum": checksum.to_string(), "ns": least, "bytes": bytes,
        });
        println!("{line}");
    }
    Ok(())
}

/// How many nanoseconds a number of rounds takes.
fn timed(run: &mut Loop, rounds: u32) -> f64 {
    let started = clock();
    std::hint::black_box(run(rounds));
    clock() - started
}

fn clock() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// How many rounds take at least the given time.
fn rounds_of(nanoseconds: f64, mut timed: impl FnMut(u32) -> f64) -> u32 {
    let mut rounds = 1_u32;
    loop {
        if timed(rounds) >= nanoseconds || rounds > u32::MAX / 2 {
            return rounds;
        }
        rounds *= 2;
    }
}

/// The process's memory that is in RAM, in bytes.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = status.lines().find(|line| line.starts_with("Rss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kilobytes.ok_or("no Rss")?.parse::<u64>()? * 1024)
}
