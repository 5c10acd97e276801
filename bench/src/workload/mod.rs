//! The workloads. Those of [`compared`] run one after the other on one running system; each of the others makes its own.

pub mod compared;
mod failover;
mod links;
mod many_keys;
mod sets;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::args::Suite;
use crate::driver::Kind;
use crate::record::Record;
use crate::system::meridian::Cluster;

/// How long the other datacenter may take to have everything, at rest.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(50);
/// How long acknowledgements may take that follow the last txn.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// What every workload is given.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The options.
    pub suite: &'a Suite,
    /// The round, from 1.
    pub round: u32,
    /// Where files may be.
    pub folder: &'a Path,
}

/// Runs everything that is asked for of one system in one round, and gives each result to `keep` at once.
pub async fn run_all(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    compared::run(run, kind, keep).await?;
    // What takes long is measured once: its results are ratios of long runs already.
    if run.round > 1 {
        return Ok(());
    }
    sets::run(run, kind, keep).await?;
    links::run(run, kind, keep).await?;
    many_keys::run(run, kind, keep).await?;
    failover::run(run, kind, keep).await
}

/// Waits until the second datacenter has everything that the first one, called `origin`, had when this began.
async fn settled(cluster: &Cluster, origin: &str) -> Result<(), String> {
    let goal = cluster.applied(0, origin).await?;
    let deadline = Instant::now() + SETTLE_PATIENCE;
    while cluster.applied(1, origin).await? < goal {
        if Instant::now() > deadline {
            return Err("the other datacenter does not catch up".into());
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
    tokio::time::sleep(AFTERWARDS).await;
    Ok(())
}
