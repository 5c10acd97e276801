//! What a million keys cost in memory and on disk, and how long a system takes to work again after it was killed with
//! them.

use std::time::Instant;

use super::Run;
use super::compared::fill;
use crate::driver::{Connection, Done, Kind};
use crate::op::{Level, Op};
use crate::record::Record;
use crate::system::{NODES, System};

/// Runs it on one system.
pub async fn run(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    if !run.suite.wants("many-keys") {
        return Ok(());
    }
    let mut system = System::start(run.suite, kind, &run.folder.join("many-keys")).await?;
    let (before, disk_before) = (system.usage(), system.disk_bytes());
    let keys = run.suite.many_keys;
    let begun = Instant::now();
    fill(&system.target(false).await?, keys).await?;
    let filling = begun.elapsed().as_secs_f64();
    let (after, disk_after) = (system.usage(), system.disk_bytes());
    // Of each node, for a million keys.
    let each = |bytes: u64| bytes as f64 / NODES as f64 * 1e6 / keys as f64 / f64::from(1 << 20);
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    let written = after.since(&before).written_bytes;
    for node in 0..NODES {
        system.kill(node).await?;
    }
    let begun = Instant::now();
    for node in 0..NODES {
        system.start_again(node)?;
    }
    system.wait_ready().await?;
    let target = system.target(false).await?;
    let mut connection = Connection::connect(kind, &target.addresses[0], 1).await?;
    for op in [Op::Put(0), Op::Get(keys - 1, Level::Linearizable)] {
        let mut done: Vec<Done> = Vec::new();
        connection.queue(0, op)?;
        connection.exchange(&mut done).await?;
        done.into_iter().try_for_each(|(_, outcome)| outcome)?;
    }
    let startup = begun.elapsed().as_secs_f64();
    keep(
        Record::new(run.round, kind, "many-keys")
            .with("keys", keys as f64)
            .with("fill_seconds", filling)
            .with("memory_mib_per_million", each(grown))
            .with("disk_mib_per_million", each(disk_after.saturating_sub(disk_before)))
            .with("written_mib_per_million", each(written))
            .with("startup_after_kill_seconds", startup),
    )?;
    system.stop().await
}
