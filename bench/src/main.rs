//! The benchmark suite: `meridian-bench` compares, `meridian-bench instructions` counts instructions,
//! `meridian-bench log` times the log's writes, and `meridian-bench serve` is a node of Meridian, so that the suite needs
//! no other program of this project. The inner parts are timed by `cargo bench -p meridian-bench`.

mod args;
mod driver;
mod load;
mod log;
mod machine;
mod pace;
mod record;
mod report;
mod system;
mod workload;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command, Suite};
use meridian_bench::{instructions, op, say};
use record::Record;

fn main() -> ExitCode {
    // A node's words are the same as those of the program `meridian`.
    if std::env::args_os().nth(1).is_some_and(|word| word == "serve") {
        return meridian::cli::main(std::env::args_os());
    }
    let args = Args::parse();
    let outcome = match args.command {
        Some(Command::Instructions { only, times, file, record }) => {
            instructions::count_all(&only, times, &file, record)
        }
        Some(Command::Log { folder, rounds, batches, entries, bytes }) => {
            log::compare(&folder, rounds, batches, entries, bytes)
        }
        Some(Command::Case { name, times }) => instructions::run_case(&name, times),
        None => compare(&args.suite),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

fn compare(suite: &Suite) -> Result<(), String> {
    let raw = suite.report.with_extension("jsonl");
    if suite.report_only {
        return report::write(&suite.report, &raw);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(async {
        tokio::select! {
            outcome = measure(suite, &raw) => outcome,
            // Ending here ends all servers, for nobody holds them any more.
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })?;
    report::write(&suite.report, &raw)
}

async fn measure(suite: &Suite, raw: &std::path::Path) -> Result<(), String> {
    machine::install_peers(&suite.systems).await?;
    let data = std::path::absolute(&suite.data).map_err(|e| e.to_string())?;
    let told = |e: std::io::Error| format!("{}: {e}", raw.display());
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).append(suite.append).truncate(!suite.append);
    let mut file = options.open(raw).map_err(told)?;
    let about = machine::describe(suite).await?;
    writeln!(file, "{about}").map_err(told)?;
    let mut keep = |record: Record| {
        say(&report::one_line(&record));
        let line = serde_json::to_string(&record).map_err(|e| e.to_string())?;
        writeln!(file, "{line}").map_err(told)
    };
    for round in 1..=suite.rounds {
        for kind in &suite.systems {
            let run = workload::Run { suite, round, folder: &data };
            workload::run_all(run, *kind, &mut keep).await?;
        }
    }
    Ok(())
}
