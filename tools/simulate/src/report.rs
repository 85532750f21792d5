//! Makes the tables of the results.

use edge_limiter::time::Millis;

use crate::accuracy::{Accuracy, judge, worst_within};
use crate::algorithm::Contestant;
use crate::cost::{Cpu, of_commands};
use crate::document::Section;
use crate::failure::Failure;
use crate::mode::SimulatedMode;
use crate::outcome::Run;
use crate::setting::Setting;
use crate::table::{MarkdownTable, count, decimal, difference, percent};
use crate::trace::Trace;

/// The run of a trace in one mode, and its accuracy.
pub(crate) struct JudgedRun {
    pub(crate) mode: SimulatedMode,
    pub(crate) run: Run,
    pub(crate) accuracy: Accuracy,
}

impl JudgedRun {
    /// Measures the accuracy of a run. Fails if the run exceeds the bound of its mode.
    pub(crate) fn new(
        mode: SimulatedMode,
        run: Run,
        trace: &Trace,
        setting: &Setting,
    ) -> Result<Self, Failure> {
        let accuracy = judge(trace, &setting.quota, &run.outcomes);
        if let Some(bound) = mode.bound(setting) {
            let length = mode.bound_length(setting);
            let worst = worst_within(trace, &setting.quota, &run.outcomes, length);
            if worst.is_some_and(|worst| worst > bound) {
                return Err(Failure::new(format!(
                    "mode {}: {} units were admitted within {} ms, but the bound is {bound}",
                    mode.name(),
                    worst.unwrap_or_default(),
                    length.get(),
                )));
            }
        }
        Ok(Self {
            mode,
            run,
            accuracy,
        })
    }
}

/// A sentence that describes the trace and the setting.
pub(crate) fn introduction(trace: &Trace, setting: &Setting) -> String {
    let first = trace.requests.first().map_or(0, |request| request.at);
    let last = trace.requests.last().map_or(0, |request| request.at);
    let regions: Vec<String> = (setting.network.regions.iter())
        .map(|region| format!("{} {} ms", region.name, region.to_primary / 1000))
        .collect();
    format!(
        "{} requests of {} callers in {} minutes; {} units per {} s; {} isolates in each region; \
         round trips to the primary: {}; jitter {} %, clocks within {} ms.\n",
        count(trace.requests.len() as u64),
        count(trace.callers.len() as u64),
        decimal(u128::from(last - first), 60_000, 0),
        setting.quota.limit(),
        setting.quota.window().get() / 1000,
        setting.isolates,
        regions.join(", "),
        setting.network.jitter,
        setting.skew,
    )
}

/// The table of over- and under-admission by mode.
pub(crate) fn modes(introduction: &str, judged: &[JudgedRun], setting: &Setting) -> Section {
    let ideal = judged
        .iter()
        .find(|one| one.mode == SimulatedMode::IdealLog);
    let mut table = MarkdownTable::new([
        "mode",
        "admitted",
        "denied",
        "worst interval",
        "bound",
        "in excess, of the admitted",
        "denied with room, of the denied",
        "admitted, against the ideal log",
        "round trips per request",
    ]);
    for one in judged {
        let accuracy = &one.accuracy;
        table.row([
            name(one.mode, setting),
            count(accuracy.admitted),
            count(accuracy.denied()),
            worst(accuracy, setting),
            one.mode
                .bound(setting)
                .map_or_else(|| "-".to_owned(), count),
            with_percent(accuracy.excess, accuracy.admitted),
            with_percent(accuracy.denied_with_room, accuracy.denied()),
            ideal.map_or_else(String::new, |ideal| {
                difference(accuracy.admitted, ideal.accuracy.admitted)
            }),
            decimal(u128::from(one.run.calls), accuracy.requests.into(), 2),
        ]);
    }
    Section {
        name: "the modes",
        text: format!("{introduction}\n{}", table.markdown()),
    }
}

/// The table of the time that the limiter adds to admitted requests, by mode and region.
pub(crate) fn latencies(judged: &[JudgedRun], trace: &Trace, setting: &Setting) -> Section {
    let regions = &setting.network.regions;
    let head = regions
        .iter()
        .map(|region| format!("{}, p50 / p99", region.name));
    let mut table = MarkdownTable::new(
        ["mode".to_owned()]
            .into_iter()
            .chain(head)
            .chain(["waited for nothing".to_owned()]),
    );
    for one in judged {
        let cells = (0..regions.len()).map(|region| {
            let outcomes = trace.requests.iter().zip(&one.run.outcomes);
            let mut waits: Vec<u64> = outcomes
                .filter(|(request, outcome)| {
                    usize::from(request.region) == region && outcome.admitted
                })
                .map(|(_, outcome)| outcome.waited)
                .collect();
            waits.sort_unstable();
            let at = |hundredth: usize| {
                let place = (waits.len() * hundredth).div_ceil(100).saturating_sub(1);
                let wait = waits.get(place).copied();
                wait.map_or_else(|| "-".to_owned(), |wait| decimal(wait.into(), 1000, 0))
            };
            format!("{} / {} ms", at(50), at(99))
        });
        let at_once = (one.run.outcomes.iter())
            .filter(|outcome| outcome.admitted && outcome.waited == 0)
            .count() as u64;
        table.row(
            [one.mode.name().to_owned()]
                .into_iter()
                .chain(cells)
                .chain([percent(at_once, one.accuracy.admitted)]),
        );
    }
    Section {
        name: "the latencies",
        text: table.markdown(),
    }
}

/// The table of the costs of a million such requests, in the modes that the limiter offers.
pub(crate) fn costs(judged: &[JudgedRun], setting: &Setting, cpu: Option<Cpu>) -> Section {
    let head = ["mode", "round trips", "billed commands", "Upstash"];
    let of_cpu = ["CPU ms per request", "CPU"];
    let of_cpu = of_cpu.iter().filter(|_| cpu.is_some());
    let mut table = MarkdownTable::new(head.iter().chain(of_cpu).copied());
    for one in judged {
        if !SimulatedMode::OF_THE_LIMITER.contains(&one.mode) {
            continue;
        }
        let requests = one.run.outcomes.len() as u128;
        let per_million = |number: u64| decimal(u128::from(number) * 1_000_000, requests, 0);
        let grouped = |number| {
            per_million(number)
                .parse()
                .map_or_else(|_| "-".to_owned(), count)
        };
        let cells = [
            name(one.mode, setting),
            grouped(one.run.calls),
            grouped(one.run.billed),
            of_commands(&one.run),
        ];
        let of_cpu = cpu.map(|cpu| cpu.cells(&one.run)).into_iter().flatten();
        table.row(cells.into_iter().chain(of_cpu));
    }
    Section {
        name: "the cost",
        text: table.markdown(),
    }
}

/// The table of the algorithms, which are compared without regions.
pub(crate) fn algorithms(trace: &Trace, setting: &Setting) -> Result<Section, Failure> {
    let quota = &setting.quota;
    let ideal = Contestant::IdealLog.outcomes(trace, quota)?;
    let reference = judge(trace, quota, &ideal);
    let mut table = MarkdownTable::new([
        "algorithm",
        "admitted",
        "denied",
        "worst interval",
        "in excess, of the admitted",
        "denied with room, of the denied",
        "admitted, against the ideal log",
        "verdicts unlike the ideal log's",
    ]);
    for contestant in Contestant::ALL {
        let outcomes = contestant.outcomes(trace, quota)?;
        let accuracy = judge(trace, quota, &outcomes);
        let unlike = (outcomes.iter().zip(&ideal)).filter(|(one, other)| one != other);
        let unlike = unlike.count() as u64;
        table.row([
            contestant.name().to_owned(),
            count(accuracy.admitted),
            count(accuracy.denied()),
            worst(&accuracy, setting),
            with_percent(accuracy.excess, accuracy.admitted),
            with_percent(accuracy.denied_with_room, accuracy.denied()),
            difference(accuracy.admitted, reference.admitted),
            with_percent(unlike, accuracy.requests),
        ]);
    }
    Ok(Section {
        name: "the algorithms",
        text: table.markdown(),
    })
}

fn name(mode: SimulatedMode, setting: &Setting) -> String {
    match mode {
        SimulatedMode::Lease => format!("{} of {}", mode.name(), setting.lease),
        _ => mode.name().to_owned(),
    }
}

fn worst(accuracy: &Accuracy, setting: &Setting) -> String {
    let limit = u64::from(setting.quota.limit());
    let over = accuracy.worst.saturating_sub(limit);
    match over {
        0 => count(accuracy.worst),
        _ => format!("{} (+{})", count(accuracy.worst), percent(over, limit)),
    }
}

fn with_percent(part: u64, whole: u64) -> String {
    format!("{} ({})", count(part), percent(part, whole))
}

impl SimulatedMode {
    /// The most units of a caller that can be admitted in any interval of
    /// [`bound_length`](Self::bound_length). `None` if the mode has no such bound.
    pub(crate) fn bound(self, setting: &Setting) -> Option<u64> {
        let limit = u64::from(setting.quota.limit());
        let regions = setting.network.regions.len() as u64;
        match self {
            Self::Strict | Self::Lease | Self::IdealLog => Some(limit),
            Self::TwoCounter => Some(2 * limit),
            Self::Regional => Some(regions * limit),
            Self::Divided => Some(regions * (limit / regions).max(1)),
            Self::Memory => Some(regions * u64::from(setting.isolates) * limit),
            Self::Replicated => None,
        }
    }

    /// The window, less the greatest difference between clocks, and less the greatest time by which the
    /// order of decisions can differ from the order of arrivals.
    pub(crate) fn bound_length(self, setting: &Setting) -> Millis {
        let (window, network) = (setting.quota.window(), &setting.network);
        let messages = match self {
            Self::Memory => return window,
            Self::Regional | Self::Divided => network.local / 2 * network.jitter / 100,
            _ => network.spread(),
        };
        // Arrivals and clocks are in whole milliseconds.
        let difference = messages.div_ceil(1000) + setting.skew + 1;
        Millis::new(window.get().saturating_sub(difference))
    }
}
