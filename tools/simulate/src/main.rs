//! `npm run simulate`: replays a traffic trace over several regions with given latencies, in every
//! mode in which a limiter can run. It reports how far each mode lets callers exceed the limit, and how
//! many requests it denies that are within the limit. `--help` lists the options, and docs/scaling.md
//! explains the tables.
//!
//! The library makes the decisions: its quotas and its memory store, with the wrappers that the Worker
//! puts around Upstash. Only the network and the time are simulated.
#![allow(clippy::print_stdout, clippy::print_stderr)] // This program prints its results.

use std::process::ExitCode;

use document::Section;
use failure::Failure;
use mode::SimulatedMode;
use options::{SimulationOptions, TraceSource, USAGE};
use report::JudgedRun;
use trace::Trace;

mod accuracy;
mod algorithm;
mod cost;
mod database;
mod document;
mod event_queue;
mod exact_log;
mod failure;
mod host;
mod hot_caller;
mod isolate;
mod mode;
mod network;
mod options;
mod outcome;
mod remote;
mod replicas;
mod report;
mod rng;
mod rule;
mod setting;
mod simulation;
mod table;
#[cfg(test)]
mod testing;
mod trace;
mod traffic;
mod two_counter;

fn main() -> ExitCode {
    match simulate(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let Some(options) = SimulationOptions::read(args)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let sections = sections(&options)?;
    if options.write {
        return write(&sections);
    }
    for section in sections {
        println!("{}\n\n{}", section.name, section.text);
    }
    Ok(())
}

fn sections(options: &SimulationOptions) -> Result<Vec<Section>, Failure> {
    let setting = &options.setting;
    let trace = match &options.source {
        TraceSource::Generated(traffic) => traffic.trace()?,
        TraceSource::File(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("--trace {path}: {error}")))?;
            let regions = &setting.network.regions;
            Trace::read(&text, regions, setting.isolates, setting.seed)?
        }
    };
    let judged = all_modes(&trace, options)?;
    let introduction = report::introduction(&trace, setting);
    Ok(vec![
        report::costs(&judged, setting, options.cpu),
        report::modes(&introduction, &judged, setting),
        report::latencies(&judged, &trace, setting),
        hot_caller::leases(setting)?,
        report::algorithms(&trace, setting)?,
    ])
}

/// Runs every mode in its own thread. The modes share nothing but the trace.
fn all_modes(trace: &Trace, options: &SimulationOptions) -> Result<Vec<JudgedRun>, Failure> {
    let setting = &options.setting;
    std::thread::scope(|scope| {
        let threads = SimulatedMode::ALL.map(|mode| {
            scope.spawn(move || {
                let run = simulation::replay(mode, trace, setting)?;
                JudgedRun::new(mode, run, trace, setting)
            })
        });
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<JudgedRun, Failure>>| {
            (thread.join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

fn write(sections: &[Section]) -> Result<(), Failure> {
    let path = document::PATH;
    let failed = |error: std::io::Error| {
        Failure::new(format!(
            "{path}: {error}; run this in the repository's root"
        ))
    };
    let page = std::fs::read_to_string(path).map_err(failed)?;
    std::fs::write(path, document::with(&page, sections)?).map_err(failed)?;
    println!("written: {path}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{document, sections};
    use crate::options::SimulationOptions;

    /// `--write` needs these places. A small trace is enough to test them.
    #[test]
    fn the_page_has_a_place_for_every_table() {
        let small = "--requests 5000 --minutes 1 --callers 100 --limit 10";
        let options = SimulationOptions::read(small.split(' ').map(str::to_owned));
        let options = options.unwrap().unwrap();
        let sections = sections(&options).unwrap();
        assert!(
            sections
                .iter()
                .all(|section| section.text.contains("| ---"))
        );
        let page = include_str!("../../../docs/scaling.md");
        let written = document::with(page, &sections).unwrap();
        assert!(
            sections
                .iter()
                .all(|section| written.contains(&section.text))
        );
    }
}
