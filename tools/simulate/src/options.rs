//! The options of the simulation, read from the command line.

use std::num::NonZeroU32;

use edge_limiter::quota::{Algorithm, Quota};
use edge_limiter::time::Millis;

use crate::cost::Cpu;
use crate::failure::Failure;
use crate::network::SimulatedNetwork;
use crate::setting::Setting;
use crate::traffic::Traffic;

/// The text of `--help`.
pub(crate) const USAGE: &str = "\
Replays a traffic trace over several regions, in every mode, and says what becomes of the limit.

  npm run simulate [-- OPTIONS]

  --trace FILE      a CSV file: millis,region,isolate,caller,cost (isolate and cost may be empty)
  --generate        a trace by chance, which is what is done without --trace:
    --requests N      1000000
    --minutes N       60
    --callers N       20000; beside hot callers, attackers and floods
  --limit N         units per window; 100
  --window SECONDS  60
  --regions LIST    names with their round trip to the primary database in ms; iad=2,fra=90,syd=210
  --local MS        round trip to a database in the same region; 2
  --jitter PERCENT  by how much a message can be slower; 25
  --lag MS          how much longer than a message a replica takes to show a write; 0
  --isolates N      per region; 4
  --skew MS         the greatest difference between isolates' clocks; 0
  --lease N         units that an isolate may hold in lease mode; 20
  --seed N          1
  --cpu A,B         microseconds of CPU of a request that asks the store, and of one that does not:
                    adds what that costs
  --write           writes the tables into docs/scaling.md instead of printing them
  --help";

/// Where the trace comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TraceSource {
    File(String),
    Generated(Traffic),
}

/// All options, checked.
#[derive(Clone, Debug)]
pub(crate) struct SimulationOptions {
    pub(crate) source: TraceSource,
    pub(crate) setting: Setting,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) write: bool,
}

/// The values on the command line, or their defaults.
struct CommandLine {
    trace: Option<String>,
    generate: bool,
    requests: u32,
    minutes: u32,
    callers: u32,
    limit: u32,
    window: u32,
    regions: String,
    local: u32,
    jitter: u32,
    lag: u32,
    isolates: u32,
    skew: u32,
    lease: u32,
    seed: u32,
    cpu: Option<Cpu>,
    write: bool,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            trace: None,
            generate: false,
            requests: 1_000_000,
            minutes: 60,
            callers: 20_000,
            limit: 100,
            window: 60,
            regions: "iad=2,fra=90,syd=210".to_owned(),
            local: 2,
            jitter: 25,
            lag: 0,
            isolates: 4,
            skew: 0,
            lease: 20,
            seed: 1,
            cpu: None,
            write: false,
        }
    }
}

impl SimulationOptions {
    /// Reads the command line without the program's name. `None` if it asks for help.
    pub(crate) fn read(args: impl IntoIterator<Item = String>) -> Result<Option<Self>, Failure> {
        let mut given = CommandLine::default();
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let mut value = || {
                args.next()
                    .ok_or_else(|| Failure::new(format!("{name}: a value is missing; see --help")))
            };
            match name.as_str() {
                "--help" => return Ok(None),
                "--generate" => given.generate = true,
                "--write" => given.write = true,
                "--trace" => given.trace = Some(value()?),
                "--regions" => given.regions = value()?,
                "--cpu" => given.cpu = Some(Cpu::read(&value()?)?),
                "--requests" => given.requests = number(&name, &value()?, 1, 100_000_000)?,
                "--minutes" => given.minutes = number(&name, &value()?, 1, 100_000)?,
                "--callers" => given.callers = number(&name, &value()?, 1, 10_000_000)?,
                "--limit" => given.limit = number(&name, &value()?, 1, 1_000_000)?,
                "--window" => given.window = number(&name, &value()?, 1, 86_400)?,
                "--local" => given.local = number(&name, &value()?, 0, 60_000)?,
                "--jitter" => given.jitter = number(&name, &value()?, 0, 1000)?,
                "--lag" => given.lag = number(&name, &value()?, 0, 600_000)?,
                "--isolates" => given.isolates = number(&name, &value()?, 1, 1000)?,
                "--skew" => given.skew = number(&name, &value()?, 0, 600_000)?,
                "--lease" => given.lease = number(&name, &value()?, 2, 1_000_000)?,
                "--seed" => given.seed = number(&name, &value()?, 0, u32::MAX)?,
                _ => return Err(Failure::new(format!("{name} is not an option; see --help"))),
            }
        }
        given.checked().map(Some)
    }
}

impl CommandLine {
    fn checked(self) -> Result<SimulationOptions, Failure> {
        let setting = self.setting()?;
        let source = match &self.trace {
            Some(_) if self.generate => {
                return Err(Failure::new("give either --trace FILE or --generate"));
            }
            Some(path) => TraceSource::File(path.clone()),
            None => TraceSource::Generated(self.traffic(&setting)),
        };
        Ok(SimulationOptions {
            source,
            setting,
            cpu: self.cpu,
            write: self.write,
        })
    }

    fn setting(&self) -> Result<Setting, Failure> {
        let limit = NonZeroU32::new(self.limit).unwrap_or(NonZeroU32::MIN);
        let window = Millis::from_secs(self.window);
        let quota = Quota::new(Algorithm::SlidingWindow, limit, window);
        let regions = SimulatedNetwork::regions(&self.regions)?;
        Ok(Setting {
            network: SimulatedNetwork {
                regions,
                local: u64::from(self.local) * 1000,
                jitter: u64::from(self.jitter),
                seed: u64::from(self.seed),
            },
            quota: quota.map_err(|error| Failure::new(format!("--limit, --window: {error}")))?,
            lease: self.lease,
            isolates: u16::try_from(self.isolates).unwrap_or(u16::MAX),
            skew: u64::from(self.skew),
            lag: u64::from(self.lag) * 1000,
            seed: u64::from(self.seed),
        })
    }

    fn traffic(&self, setting: &Setting) -> Traffic {
        Traffic {
            requests: self.requests,
            minutes: self.minutes,
            callers: self.callers,
            hot: 24,
            edge: 6,
            spread: 4,
            floods: 2,
            regions: u8::try_from(setting.network.regions.len()).unwrap_or(u8::MAX),
            isolates: setting.isolates,
            limit: self.limit,
            window: setting.quota.window().get(),
            seed: setting.seed,
        }
    }
}

fn number(name: &str, text: &str, least: u32, most: u32) -> Result<u32, Failure> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            Failure::new(format!(
                "{name} {text}: give a number from {least} to {most}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::{SimulationOptions, TraceSource};

    fn read(line: &str) -> Result<Option<SimulationOptions>, String> {
        let args = line.split_whitespace().map(str::to_owned);
        SimulationOptions::read(args).map_err(|failure| failure.0)
    }

    #[test]
    fn without_options_a_million_requests_are_generated() {
        let options = read("").unwrap().unwrap();
        let TraceSource::Generated(traffic) = options.source else {
            panic!("the trace must be generated, because no file is named")
        };
        assert_eq!(traffic.requests, 1_000_000);
        assert_eq!(traffic.regions, 3);
        assert!(!options.write);
        assert!(read("--help").unwrap().is_none());
    }

    #[test]
    fn the_error_of_a_bad_option_names_it_and_says_what_to_give() {
        for (line, what) in [
            ("--requests", "--requests: a value is missing"),
            ("--requests many", "--requests many: give a number from 1"),
            ("--isolates 0", "--isolates 0: give a number from 1"),
            ("--regions iad", "such as iad=2"),
            ("--trace a --generate", "either --trace FILE or --generate"),
            ("--fast", "--fast is not an option"),
        ] {
            let failure = read(line).unwrap_err();
            assert!(failure.contains(what), "{failure}");
        }
    }
}
