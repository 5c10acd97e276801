//! Runs seeds of the simulation of whole nodes and prints what came of them: the same bytes for the same arguments.
//!
//! `simulate_nodes SEED [--count N] [--dcs N] [--nodes N] [--load-ms N] [--faults N] [--sessions N] [--editors N] [--erased N] [--trace]`: one seed
//! with its whole report, or N seeds with a line each and the report of those that violated something. Exit code 0 if
//! nothing was violated, 1 if something was, 2 for a mistake in the arguments.

use std::process::ExitCode;

use meridian_sim::{Options, run};

/// What the arguments say.
struct Job {
    seed: u64,
    count: u64,
    options: Options,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(job) if perform(&job) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(mistake) => {
            eprintln!("{mistake}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was violated.
fn perform(job: &Job) -> bool {
    let mut failed = 0u64;
    for seed in job.seed..job.seed.saturating_add(job.count) {
        let report = run(seed, &job.options);
        let is_good = report.violations.is_empty();
        failed += u64::from(!is_good);
        for line in &report.trace {
            println!("{line}");
        }
        if job.count == 1 || !is_good {
            println!("{report}");
        } else {
            println!("seed {seed} on {}: {:016x}, good", report.cluster, report.trace_hash);
        }
    }
    if job.count > 1 {
        println!("{} seeds from {}: {failed} with violations", job.count, job.seed);
    }
    failed == 0
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Job, String> {
    let seed = args.next().ok_or("which seed?")?;
    let seed = seed.parse().map_err(|_| format!("{seed} is not a number"))?;
    let mut job = Job { seed, count: 1, options: Options::default() };
    let options = &mut job.options;
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64, String> {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse().map_err(|_| format!("{value} is not a number"))
        };
        let count = |n: u64| usize::try_from(n).map_err(|error| error.to_string());
        match arg.as_str() {
            "--count" => job.count = number()?,
            "--dcs" => options.dcs = Some(count(number()?)?),
            "--nodes" => options.nodes = Some(count(number()?)?),
            "--load-ms" => options.load_ms = number()?,
            "--faults" => options.faults = count(number()?)?,
            "--sessions" => options.sessions = count(number()?)?,
            "--editors" => options.editors = count(number()?)?,
            "--erased" => options.editors_erased = count(number()?)?,
            "--trace" => options.keep_trace = true,
            _ => return Err(format!("{arg} is not known")),
        }
    }
    Ok(job)
}
