//! Adding elements to sets of 10, 10,000 and 1,000,000: what one costs in time, in bytes written and in bytes shipped.
//!
//! What is written is counted from a moment in which nothing waits in memory for a checkpoint until the next such moment:
//! the filling is not counted, and what was added is to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Run, settled};
use crate::driver::Kind;
use crate::load::{self, Load, Target};
use crate::machine::Stolen;
use crate::op::{Op, Random};
use crate::record::{Record, STOLEN};
use crate::system::System;
use crate::system::meridian::Cluster;
use crate::system::process::Usage;
use crate::workload::compared::fill_from;

/// Sizes of the smaller sets.
const SMALL: u64 = 10;
const MIDDLE: u64 = 10_000;
/// Elements that are added while it is measured, one by one.
const ADDED: u64 = 200_000;
/// Most elements that a set of the smallest kind gains, so that it stays small: there are many of these.
const GAINED_MAX: u64 = 5;
/// Elements that one operation adds while sets are filled.
const BATCH: u64 = 1_000;
/// So many of them of each connection at once: with eight, a slow machine had more to do than it can in the ten seconds after
/// which a node answers that it does not know the outcome.
const FILL_IN_FLIGHT: usize = 2;
/// Connections while it is measured.
const CLIENTS: usize = 16;
/// Changed rows in memory below which a node counts as settled: it always has some of its own housekeeping.
const SETTLED_BYTES: u64 = 64 << 10;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// The name of the other datacenter, and of the first.
const NAMES: [&str; 2] = ["home", "away"];

/// The system, which for Meridian has a second datacenter so that something is shipped.
enum Host {
    Cluster(Cluster),
    System(System),
}

impl Host {
    async fn start(run: Run<'_>, kind: Kind) -> Result<Self, String> {
        let folder = run.folder.join("sets");
        Ok(match kind {
            Kind::Meridian => {
                Self::Cluster(Cluster::start(run.suite, &folder, &NAMES, Duration::ZERO).await?)
            }
            _ => Self::System(System::start(run.suite, kind, &folder).await?),
        })
    }

    async fn target(&self) -> Result<Target, String> {
        match self {
            Self::Cluster(cluster) => cluster.target(0).await,
            Self::System(system) => system.target(false).await,
        }
    }

    /// What the nodes of the first datacenter have used.
    fn usage(&self) -> Usage {
        match self {
            Self::Cluster(cluster) => cluster.usage(0),
            Self::System(system) => system.usage(),
        }
    }

    /// Bytes shipped so far, once all that was written has arrived.
    async fn shipped(&self) -> Result<u64, String> {
        match self {
            Self::Cluster(cluster) => {
                settled(cluster, NAMES[0]).await?;
                Ok(cluster.wan.bytes())
            }
            Self::System(_) => Ok(0),
        }
    }

    /// Waits until all that was written is where a restart finds it without the log.
    async fn settled(&self) -> Result<(), String> {
        match self {
            Self::Cluster(cluster) => cluster.checkpointed(SETTLED_BYTES, PATIENCE).await,
            Self::System(_) => Ok(()),
        }
    }

    async fn stop(self) -> Result<(), String> {
        match self {
            Self::Cluster(cluster) => cluster.stop().await,
            Self::System(system) => system.stop().await,
        }
    }
}

/// Runs it on systems that have sets.
pub async fn run(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    if kind == Kind::Etcd || !run.suite.wants("set-add") {
        return Ok(());
    }
    let host = Host::start(run, kind).await?;
    let mut first_set = 0;
    for size in [SMALL, MIDDLE.min(run.suite.large_set), run.suite.large_set] {
        let sets = if size == SMALL { ADDED / GAINED_MAX } else { 1 };
        fill(&host.target().await?, first_set, sets, size).await?;
        let shipped = host.shipped().await?;
        host.settled().await?;
        let used = host.usage();
        let next = AtomicU64::new(0);
        let source = move |_: &mut Random| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            (n < ADDED).then(|| Op::SetAdd { set: first_set + n % sets, first: size + n / sets, count: 1 })
        };
        let load = Load {
            clients: CLIENTS,
            in_flight: 1,
            warm_up: Duration::ZERO,
            length: PATIENCE,
            rate: None,
            threads: 1,
        };
        let stolen = Stolen::begin();
        let measured = load::run(host.target().await?, load, Arc::new(source)).await?;
        let stolen = stolen.percent();
        // Processor time and memory are of the adding alone, what is written is of all that it brings.
        let working = host.usage().since(&used);
        host.settled().await?;
        let used = Usage { written_bytes: host.usage().since(&used).written_bytes, ..working };
        let mut record = Record::new(run.round, kind, &format!("set-add-{size}"))
            .with("clients", CLIENTS as f64)
            .with_load(&measured)
            .with_usage(&used, measured.ops_ever)
            .with(STOLEN, stolen);
        if matches!(host, Host::Cluster(_)) {
            let shipped = host.shipped().await? - shipped;
            record = record.with("wan_bytes_per_op", shipped as f64 / measured.ops_ever.max(1) as f64);
        }
        keep(record)?;
        first_set += sets;
    }
    host.stop().await
}

/// Fills `sets` sets from `first_set` on with `size` elements each.
async fn fill(target: &Target, first_set: u64, sets: u64, size: u64) -> Result<(), String> {
    let (next, batches) = (AtomicU64::new(0), size.div_ceil(BATCH));
    let source = move |_: &mut Random| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let first = n % batches * BATCH;
        let count = BATCH.min(size - first);
        (n < sets * batches).then(|| Op::SetAdd { set: first_set + n / batches, first, count })
    };
    fill_from(target, FILL_IN_FLIGHT, Arc::new(source)).await.map(drop)
}
