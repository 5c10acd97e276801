//! Loads 20,000 real flights into three DCs at once, breaks the cluster meanwhile, and compares what every DC holds with
//! the truth. Exit code 0 only if all are equal.
//!
//! The program is also the nodes: it starts itself again as `serve`, so that nothing else has to be built. See
//! [`load`] for what merges and what must not.

mod client;
mod compare;
mod data;
mod faults;
mod load;
mod progress;
mod report;
mod truth;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use meridian::dev::{Cluster, ClusterOptions, DevError};

use client::{ClientError, Dc};
use data::Flight;
use progress::{Progress, say};
use report::{DcResult, Report};
use truth::Facts;

/// How long the nodes may take to be ready, at the start and after the faults.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the DCs may take to become equal after the last write.
const CONVERGENCE_PATIENCE: Duration = Duration::from_secs(60);
/// The one-way delay between DCs.
const WAN_LATENCY: Duration = Duration::from_millis(40);
/// Fewer flights leave no room for the faults in the middle.
const FLIGHTS_MIN: u64 = 100;

/// Writes real flights into three DCs at once, with faults, and compares every DC with the truth.
#[derive(Debug, Parser)]
struct Args {
    /// How many of the 20,000 flights to write [default: all]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(FLIGHTS_MIN..))]
    flights: Option<usize>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Data(#[from] data::BadRecord),
    #[error("the cluster: {0}")]
    Cluster(#[from] DevError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the nodes are not equal after {CONVERGENCE_PATIENCE:?}:\n{0}")]
    NotEqual(String),
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("interrupted")]
    Interrupted,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "serve") {
        return meridian::cli::main(std::env::args_os());
    }
    let args = Args::parse();
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(&args)),
        Err(e) => Err(Failure::Io("cannot start threads", e)),
    };
    let equal = outcome.and_then(|report| {
        let text = if args.json { report.json().to_string() } else { report.table() };
        writeln!(std::io::stdout(), "{text}").map_err(|e| Failure::Io("cannot print the result", e))?;
        Ok(report.all_equal())
    });
    match equal {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            say(&format!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs all of it in a temporary folder, which stays for inspection if there is no result.
async fn run(args: &Args) -> Result<Report, Failure> {
    let flights = data::load(args.flights)?;
    let binary = std::env::current_exe().map_err(|e| Failure::Io("cannot find this program", e))?;
    let folder = tempfile::Builder::new().prefix("meridian-flights-").tempdir();
    let folder = folder.map_err(|e| Failure::Io("cannot make a folder", e))?;
    let options = ClusterOptions {
        dcs: Some(3),
        nodes: Some(3),
        latency: WAN_LATENCY,
        ..ClusterOptions::new(binary, folder.path())
    };
    say(&format!("starting three DCs of three nodes in {} ...", folder.path().display()));
    let cluster = Cluster::start(options).await?;
    let outcome = tokio::select! {
        outcome = experiment(&cluster, &flights) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    cluster.stop().await?;
    if !matches!(outcome, Ok(_) | Err(Failure::Interrupted)) {
        say(&format!("the nodes' folders and logs are kept in {}", folder.keep().display()));
    }
    outcome
}

async fn experiment(cluster: &Cluster, flights: &[Flight]) -> Result<Report, Failure> {
    cluster.wait_ready(READY_PATIENCE).await?;
    let dcs = dcs(cluster);
    let total = flights.len() as u64;
    let progress = Arc::new(Progress::new(dcs.iter().map(|dc| dc.name.clone()), total));
    progress.event(&format!("ready; writing {total} flights, a third in each DC"));
    let work = async {
        tokio::try_join!(async { load::run(&dcs, flights, &progress).await.map_err(Failure::from) }, async {
            faults::inject(cluster, &progress).await.map_err(Failure::from)
        },)
    };
    let ((), faults) = tokio::select! {
        done = work => done?,
        never = progress.show() => match never {},
    };
    let wrote_in = progress.elapsed();
    progress.event("every flight is acknowledged; waiting until all nodes are equal");
    let common = compare::converged(cluster, CONVERGENCE_PATIENCE).await.map_err(Failure::NotEqual)?;
    let converged_in = progress.elapsed() - wrote_in;
    progress.event("all nodes have equal vectors and digests; reading every key in every DC");
    let truth = Facts::of(flights);
    let dcs = results(&dcs, &progress, &truth).await?;
    Ok(Report { flights: total, truth, wrote_in, faults, converged_in, common, dcs })
}

/// The DCs as their clients know them.
fn dcs(cluster: &Cluster) -> Vec<Arc<Dc>> {
    let described = cluster.description().dcs.into_iter();
    let dcs = described.map(|dc| {
        let servers = dc.nodes.into_iter().map(|node| node.client).collect();
        Arc::new(Dc { name: dc.name, servers })
    });
    dcs.collect()
}

/// Reads every DC and compares it with the truth.
async fn results(dcs: &[Arc<Dc>], progress: &Progress, truth: &Facts) -> Result<Vec<DcResult>, ClientError> {
    let mut results = Vec::new();
    for (dc, counted) in dcs.iter().zip(&progress.dcs) {
        let facts = compare::read(dc).await?;
        let differences = truth.differences(&facts);
        results.push(DcResult { name: dc.name.clone(), counts: counted.counts(), facts, differences });
    }
    Ok(results)
}
