//! Replays seeds of the deterministic simulation.
//!
//! The output of one seed depends on nothing but the seed: no time, no path, no process id. Exit code 0: nothing was
//! violated; 1: something was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use meridian_tests::history::{History, files};
use meridian_tests::sim::{Options, Verdict, run_seed};

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
    /// Write the history of the seed into this folder, in the formats of docs/HISTORIES.md that fit it.
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
    /// What clients asked and were told.
    history: History,
}

impl Ran {
    /// Writes what clients asked and were told.
    fn write(&mut self, folder: &Path, name: &str) {
        match files::write(&self.history, folder, name) {
            Ok(files) => eprintln!("{} files written", files.len()),
            Err(error) => {
                let what = format!("the history cannot be written: {error}");
                self.text += &format!("\n{what}");
                self.violation = Some(what);
            }
        }
    }
}

fn run(level: Level, seed: u64, traced: bool) -> Ran {
    match level {
        Level::Dc => run_dcs(seed, traced),
        Level::Node => run_nodes(seed, traced),
    }
}

fn run_dcs(seed: u64, traced: bool) -> Ran {
    let (verdict, run) = run_seed(seed, traced);
    let mut text = format!("seed {seed}\n{}\n", Options::draw(seed));
    text.extend(run.trace().lines().iter().map(|line| format!("{line}\n")));
    let (lines, history) = (run.trace().count(), run.history().clone());
    match verdict {
        Verdict::Clean(summary) => {
            text += &format!("{}\ntrace {:016x}, {lines} lines\nclean", summary.text, summary.hash);
            Ran { text, violation: None, requests: summary.requests, faults: summary.faults, history }
        }
        Verdict::Violation { what, hash } => {
            text += &format!("trace {hash:016x}, {lines} lines\nviolation: {what}");
            Ran { text, violation: Some(what), requests: 0, faults: 0, history }
        }
    }
}

fn run_nodes(seed: u64, traced: bool) -> Ran {
    let mut options = meridian_sim::Options::default();
    options.keep_trace = traced;
    // In a third of the seeds a document is deleted and made again while people edit it.
    options.editors_erased = usize::from(seed.is_multiple_of(3));
    let report = meridian_sim::run(seed, &options);
    let trace: String = report.trace.iter().map(|line| format!("{line}\n")).collect();
    let counts = &report.counts;
    let writes = counts.acked + counts.unknown + counts.refused + counts.edits + counts.edits_unknown;
    Ran {
        text: format!("{trace}{report}"),
        violation: report.violations.first().cloned(),
        requests: writes + counts.reads + counts.reads_failed,
        faults: counts.faults,
        history: report.history,
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match (args.seed, args.hours) {
        (Some(seed), _) => {
            let mut ran = run(args.level, seed, args.trace);
            if let Some(folder) = &args.histories {
                ran.write(folder, &name_of(args.level, seed));
            }
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

/// How the files of a history begin: those of both levels have room in one folder.
fn name_of(level: Level, seed: u64) -> String {
    match level {
        Level::Dc => format!("seed-{seed}"),
        Level::Node => format!("node-seed-{seed}"),
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
