//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::driver::Kind;

/// Keys below which a transaction could not find enough of them.
const MIN_KEYS: u64 = crate::op::TXN_KEYS as u64;

/// Most entries of a batch, and most bytes of an entry, of the log's benchmark.
const COUNT_MAX: usize = 1 << 16;

/// Compares Meridian with etcd and Redis on this machine, and writes a table of ratios.
#[derive(Debug, Parser)]
#[command(name = "meridian-bench", version, max_term_width = 110)]
pub struct Args {
    /// How to compare.
    #[command(flatten)]
    pub suite: Suite,
    /// Something else than comparing.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How to compare.
#[derive(clap::Args, Clone, Debug)]
pub struct Suite {
    /// For how long each workload is measured, in each round
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub seconds: f64,
    /// How often all systems are measured, in turn
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Only workloads of these names, or whose names go on after one of these with a dash, as in put,read-session
    /// [default: all]
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only these systems
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub systems: Vec<Kind>,
    /// Spreads clients over all nodes instead of asking the leader; Redis is asked at its primary all the same
    #[arg(long)]
    pub spread: bool,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
    /// Keys that clients read and write
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(MIN_KEYS..))]
    pub keys: u64,
    /// Keys of the workload that measures memory, disk and start-up
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(MIN_KEYS..))]
    pub many_keys: u64,
    /// Elements of the largest set
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub large_set: u64,
    /// How long the network is cut before catching up is measured
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    pub cut_seconds: f64,
    /// The program that Meridian's nodes run [default: this one, which can be a node itself]
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// Where the systems keep their files; its contents are removed
    #[arg(long, default_value = "target/bench")]
    pub data: PathBuf,
    /// The report; raw results are written beside it, with .jsonl at the end
    #[arg(long, default_value = "docs/BENCHMARKS.md")]
    pub report: PathBuf,
    /// Adds to the raw results that are there, instead of replacing them
    #[arg(long)]
    pub append: bool,
    /// Measures nothing and writes the report anew from the raw results
    #[arg(long)]
    pub report_only: bool,
}

/// Something else than comparing.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Counts the instructions of inner parts under callgrind, and shows them beside those that are recorded
    Instructions {
        /// Only cases whose names begin with this
        #[arg(default_value = "")]
        only: String,
        /// Steps of each case
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        times: u64,
        /// Where counts are recorded
        #[arg(long, default_value = "bench/INSTRUCTIONS.md")]
        file: PathBuf,
        /// Records the counts
        #[arg(long)]
        record: bool,
    },
    /// Times a durable batch of the Raft log, beside a commit of redb and a bare write and sync
    Log {
        /// Where files are made; they go with the run. It must be on the disk that is meant
        #[arg(long, default_value = "target/bench")]
        folder: PathBuf,
        /// How often all ways are measured, in turn
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Batches of each way and round
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
        batches: u64,
        /// Entries of a batch
        #[arg(long, default_value_t = 1, value_parser = positive_count)]
        entries: usize,
        /// Bytes of an entry
        #[arg(long, default_value_t = 300, value_parser = positive_count)]
        bytes: usize,
    },
    /// Runs one case, for callgrind
    #[command(hide = true)]
    Case {
        /// Its name
        name: String,
        /// How many steps
        #[arg(long, default_value_t = 100)]
        times: u64,
    },
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

fn positive_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=COUNT_MAX) => Ok(number),
        _ => Err(format!("a number from 1 to {COUNT_MAX} is needed")),
    }
}

impl Suite {
    /// Whether a workload is asked for.
    pub fn wants(&self, workload: &str) -> bool {
        let asked = |start: &String| {
            let rest = workload.strip_prefix(start.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.only.is_empty() || self.only.iter().any(asked)
    }

    /// The program that Meridian's nodes run.
    pub fn program_of_nodes(&self) -> Result<PathBuf, String> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe().map_err(|e| e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn workloads_are_chosen_by_how_their_names_begin() {
        let args =
            Args::try_parse_from(["meridian-bench", "--only", "put,read-session", "--systems", "etcd"]);
        let suite = args.expect("parsed").suite;
        assert!(suite.wants("put-64") && suite.wants("read-session-1") && !suite.wants("read-eventual-1"));
        assert!(!Suite { only: vec!["put-1".into()], ..suite.clone() }.wants("put-16"));
        assert_eq!(suite.systems, [Kind::Etcd]);
    }
}
