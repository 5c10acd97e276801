//! Runs one seed of the simulation of whole nodes and prints what came of it: the same bytes for the same arguments.
//!
//! `simulate_nodes SEED [--dcs N] [--nodes N] [--load-ms N] [--faults N] [--sessions N] [--trace]`; exit code 0 if nothing was violated,
//! 1 if something was, 2 for a mistake in the arguments.

use std::process::ExitCode;

use meridian_sim::{Options, run};

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok((seed, options)) => {
            let report = run(seed, &options);
            for line in &report.trace {
                println!("{line}");
            }
            println!("{report}");
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(mistake) => {
            eprintln!("{mistake}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(u64, Options), String> {
    let seed = args.next().ok_or("which seed?")?;
    let seed = seed.parse().map_err(|_| format!("{seed} is not a number"))?;
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64, String> {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse().map_err(|_| format!("{value} is not a number"))
        };
        let count = |n: u64| usize::try_from(n).map_err(|error| error.to_string());
        match arg.as_str() {
            "--dcs" => options.dcs = Some(count(number()?)?),
            "--nodes" => options.nodes = Some(count(number()?)?),
            "--load-ms" => options.load_ms = number()?,
            "--faults" => options.faults = count(number()?)?,
            "--sessions" => options.sessions = count(number()?)?,
            "--trace" => options.keep_trace = true,
            _ => return Err(format!("{arg} is not known")),
        }
    }
    Ok((seed, options))
}
