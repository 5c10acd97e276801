//! Replays seeds of the deterministic simulation.
//!
//! The output of one seed depends on nothing but the seed: no time, no path, no process id. Exit code 0: nothing was
//! violated; 1: something was.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use meridian_tests::sim::{Options, Verdict, keep_panics_quiet, run_seed};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Datacenters as replicated logs over the production apply, replication and sessions: very fast.
    Dc,
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
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    Ok((number(from)?, number(to)?))
}

fn main() -> ExitCode {
    let args = Args::parse();
    keep_panics_quiet();
    let Level::Dc = args.level;
    match (args.seed, args.hours) {
        (Some(seed), _) => one(seed, args.trace),
        (None, Some(hours)) => {
            let first = args.seeds.map_or_else(fresh, |(from, _)| from);
            many(first, u64::MAX, Some(Duration::from_secs_f64(hours * 3600.0)))
        }
        (None, None) => {
            let (from, to) = args.seeds.unwrap_or((0, 100));
            many(from, to, None)
        }
    }
}

/// A seed that nobody has tried; it is printed.
fn fresh() -> u64 {
    u64::from(rand::random::<u32>()) << 16
}

fn one(seed: u64, traced: bool) -> ExitCode {
    println!("seed {seed}");
    println!("{}", Options::draw(seed));
    let (verdict, run) = run_seed(seed, traced);
    for line in run.trace().lines() {
        println!("{line}");
    }
    match verdict {
        Verdict::Clean(summary) => {
            println!("{}", summary.text);
            println!("trace {:016x}, {} lines", summary.hash, run.trace().count());
            println!("clean");
            ExitCode::SUCCESS
        }
        Verdict::Violation { what, hash } => {
            println!("trace {hash:016x}, {} lines", run.trace().count());
            println!("violation: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Runs seeds until the last one, or until the time is over; each violation is printed with the way to replay it.
fn many(from: u64, to: u64, time: Option<Duration>) -> ExitCode {
    let started = Instant::now();
    let (mut runs, mut violations, mut requests, mut faults) = (0u64, 0u64, 0, 0);
    println!("seeds from {from}");
    for seed in from..to {
        if time.is_some_and(|time| started.elapsed() >= time) {
            break;
        }
        runs += 1;
        match run_seed(seed, false).0 {
            Verdict::Clean(summary) => {
                requests += summary.requests;
                faults += summary.faults;
            }
            Verdict::Violation { what, .. } => {
                violations += 1;
                let first = what.lines().next().unwrap_or_default();
                println!("seed {seed}: {first}");
            }
        }
    }
    println!("{runs} histories, {requests} requests, {faults} faults, {violations} violations");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
