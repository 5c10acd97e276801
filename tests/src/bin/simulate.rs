//! Replays seeds of the deterministic simulation.
//!
//! The output of one seed depends on nothing but the seed: no time, no path, no process id. Exit code 0: nothing was
//! violated; 1: something was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use meridian_tests::history::files;
use meridian_tests::sim::{Options, Run, Verdict, keep_panics_quiet, run_seed};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Datacenters as replicated logs over the production apply, replication and sessions: very fast.
    Dc,
    /// Whole nodes, with their Raft, their sockets and their disks.
    Node,
}

/// Replays histories of whole clusters from their seeds.
#[derive(Debug, Parser)]
struct Args {
    /// Replay one seed.
    #[arg(long, conflicts_with_all = ["seeds", "hours"])]
    seed: Option<u64>,
    /// Run many seeds: `0..1000`, the end left out.
    #[arg(long, value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Run seeds from the first one of `--seeds`, or a fresh one, for so many hours.
    #[arg(long)]
    hours: Option<f64>,
    /// What is simulated.
    #[arg(long, value_enum, default_value = "dc")]
    level: Level,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Write the history of the seed into this folder, in the formats of docs/HISTORIES.md; level dc only.
    #[arg(long, requires = "seed")]
    histories: Option<PathBuf>,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    Ok((number(from)?, number(to)?))
}

/// What came of one seed.
struct Ran {
    /// What to print of it.
    text: String,
    /// The first violation.
    violation: Option<String>,
    requests: u64,
    faults: u64,
}

fn run(level: Level, seed: u64, traced: bool) -> Ran {
    match level {
        Level::Dc => run_dcs(seed, traced).0,
        Level::Node => run_nodes(seed, traced),
    }
}

fn run_dcs(seed: u64, traced: bool) -> (Ran, Run) {
    let (verdict, run) = run_seed(seed, traced);
    let mut text = format!("seed {seed}\n{}\n", Options::draw(seed));
    text.extend(run.trace().lines().iter().map(|line| format!("{line}\n")));
    let lines = run.trace().count();
    let ran = match verdict {
        Verdict::Clean(summary) => {
            text += &format!("{}\ntrace {:016x}, {lines} lines\nclean", summary.text, summary.hash);
            Ran { text, violation: None, requests: summary.requests, faults: summary.faults }
        }
        Verdict::Violation { what, hash } => {
            text += &format!("trace {hash:016x}, {lines} lines\nviolation: {what}");
            Ran { text, violation: Some(what), requests: 0, faults: 0 }
        }
    };
    (ran, run)
}

/// Replays a seed and writes what clients asked and were told.
fn run_and_write(seed: u64, traced: bool, folder: &Path) -> Ran {
    let (mut ran, run) = run_dcs(seed, traced);
    match files::write(run.history(), folder, &format!("seed-{seed}")) {
        Ok(files) => eprintln!("{} files written", files.len()),
        Err(error) => {
            let what = format!("the history cannot be written: {error}");
            ran.text += &format!("\n{what}");
            ran.violation = Some(what);
        }
    }
    ran
}

fn run_nodes(seed: u64, traced: bool) -> Ran {
    let mut options = meridian_sim::Options::default();
    options.keep_trace = traced;
    let report = meridian_sim::run(seed, &options);
    let trace: String = report.trace.iter().map(|line| format!("{line}\n")).collect();
    let counts = &report.counts;
    Ran {
        text: format!("{trace}{report}"),
        violation: report.violations.first().cloned(),
        requests: counts.acked + counts.unknown + counts.refused + counts.reads + counts.reads_failed,
        faults: counts.faults,
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    keep_panics_quiet();
    match (args.seed, args.hours) {
        (Some(seed), _) => {
            let ran = match (&args.histories, args.level) {
                (Some(folder), Level::Dc) => run_and_write(seed, args.trace, folder),
                (Some(_), Level::Node) => {
                    eprintln!("simulate: whole nodes keep no history of clients");
                    return ExitCode::from(2);
                }
                (None, level) => run(level, seed, args.trace),
            };
            println!("{}", ran.text);
            if ran.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        (None, Some(hours)) => {
            let first = args.seeds.map_or_else(fresh, |(from, _)| from);
            many(args.level, first, u64::MAX, Some(Duration::from_secs_f64(hours * 3600.0)))
        }
        (None, None) => {
            let (from, to) = args.seeds.unwrap_or((0, 100));
            many(args.level, from, to, None)
        }
    }
}

/// A seed that nobody has tried; it is printed.
fn fresh() -> u64 {
    u64::from(rand::random::<u32>()) << 16
}

/// Runs seeds until the last one, or until the time is over; each violation is printed, and its seed replays it.
fn many(level: Level, from: u64, to: u64, time: Option<Duration>) -> ExitCode {
    let started = Instant::now();
    let (mut runs, mut violations, mut requests, mut faults) = (0u64, 0u64, 0, 0);
    println!("seeds from {from}");
    for seed in from..to {
        if time.is_some_and(|time| started.elapsed() >= time) {
            break;
        }
        let ran = run(level, seed, false);
        runs += 1;
        requests += ran.requests;
        faults += ran.faults;
        if let Some(what) = ran.violation {
            violations += 1;
            println!("seed {seed}: {}", what.lines().next().unwrap_or_default());
        }
    }
    println!("{runs} histories, {requests} requests, {faults} faults, {violations} violations");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
