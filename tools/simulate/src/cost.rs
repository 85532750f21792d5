//! Computes what a run costs in money.

use crate::failure::Failure;
use crate::outcome::Run;
use crate::table::decimal;

/// Upstash, pay as you go: US cents per million commands ($0.20 per 100,000).
/// <https://upstash.com/docs/redis/overall/billing>
const CENTS_PER_MILLION_COMMANDS: u128 = 200;

/// Cloudflare Workers, Standard, beyond the 30 million ms that a month includes: US cents per million
/// ms of CPU. <https://developers.cloudflare.com/workers/platform/pricing/>
const CENTS_PER_MILLION_CPU_MS: u128 = 2;

/// CPU time of one request in microseconds, as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Of a request that asks the store.
    pub(crate) asking: u32,
    /// Of a request that the isolate answers without asking the store.
    pub(crate) local: u32,
}

impl Cpu {
    /// Reads `900,300`: the microseconds of a request that asks the store, and of one that does not.
    pub(crate) fn read(text: &str) -> Result<Self, Failure> {
        let times: Option<Vec<u32>> = text
            .split(',')
            .map(|part| part.trim().parse().ok())
            .collect();
        match times.as_deref() {
            Some(&[asking, local]) => Ok(Self { asking, local }),
            _ => Err(Failure::new(format!(
                "--cpu {text}: give the microseconds of a request that asks the store and of one \
                 that does not, such as 900,300 (docs/benchmarks.md has the measured ones)"
            ))),
        }
    }

    /// Microseconds of a whole run.
    fn of(self, run: &Run) -> u128 {
        let local = u128::from(run.answered_at_once);
        let asking = run.outcomes.len() as u128 - local;
        asking * u128::from(self.asking) + local * u128::from(self.local)
    }

    /// Milliseconds per request, and dollars per million requests.
    pub(crate) fn cells(self, run: &Run) -> [String; 2] {
        let requests = run.outcomes.len() as u128;
        let micros = self.of(run);
        // As many microseconds as one request takes, a million requests take in seconds.
        let dollars = decimal(micros * CENTS_PER_MILLION_CPU_MS, requests * 1000 * 100, 4);
        [decimal(micros, requests * 1000, 3), format!("${dollars}")]
    }
}

/// The price of the commands of a million requests, in dollars.
pub(crate) fn of_commands(run: &Run) -> String {
    let requests = run.outcomes.len() as u128;
    let dollars = decimal(
        u128::from(run.billed) * CENTS_PER_MILLION_COMMANDS,
        requests * 100,
        2,
    );
    format!("${dollars}")
}

#[cfg(test)]
mod tests {
    use super::{Cpu, of_commands};
    use crate::outcome::{Run, SimulatedOutcome};

    fn run(billed: u64, answered_at_once: u64) -> Run {
        Run {
            outcomes: vec![SimulatedOutcome::default(); 1000],
            calls: 0,
            billed,
            answered_at_once,
        }
    }

    #[test]
    fn a_million_requests_of_three_commands_cost_six_dollars() {
        assert_eq!(of_commands(&run(3000, 0)), "$6.00");
        assert_eq!(of_commands(&run(0, 1000)), "$0.00");
    }

    #[test]
    fn cpu_time_adds_up_requests_that_ask_the_store_and_those_that_do_not() {
        let cpu = Cpu::read("1000, 200").unwrap();
        assert_eq!(cpu.cells(&run(0, 500)), ["0.600", "$0.0120"]);
        assert!(Cpu::read("1000").is_err());
        assert!(Cpu::read("a,b").is_err());
    }
}
