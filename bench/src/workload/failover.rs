//! How long nobody can write after the leader was killed. Redis has no failover of its own and takes no part.

use std::time::{Duration, Instant};

use super::Run;
use crate::driver::{Connection, Done, Kind};
use crate::op::Op;
use crate::record::Record;
use crate::system::System;

/// Leaders that are killed.
const KILLS: usize = 3;
/// How long one attempt to write may take before the next node is asked.
const ATTEMPT: Duration = Duration::from_millis(250);
/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(2);
/// How long it is written before a kill.
const BEFORE: Duration = Duration::from_secs(1);
/// How long it may take until somebody takes writes again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it on one system.
pub async fn run(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    if kind == Kind::Redis || !run.suite.wants("failover") {
        return Ok(());
    }
    let mut system = System::start(run.suite, kind, &run.folder.join("failover")).await?;
    let mut gaps = Vec::new();
    for _ in 0..KILLS {
        let leader = system.leader().await?;
        let mut writer = Writer::new(&system, leader);
        let begun = Instant::now();
        while begun.elapsed() < BEFORE {
            writer.write().await?;
            tokio::time::sleep(PAUSE).await;
        }
        let last = Instant::now();
        system.kill(leader).await?;
        while let Err(why) = writer.write().await {
            if last.elapsed() > PATIENCE {
                return Err(format!("no node of {} takes writes: {why}", kind.name()));
            }
        }
        gaps.push(last.elapsed().as_secs_f64() * 1000.0);
        system.start_again(leader)?;
        system.wait_ready().await?;
    }
    gaps.sort_by(f64::total_cmp);
    keep(
        Record::new(run.round, kind, "failover")
            .with("kills", KILLS as f64)
            .with("gap_median_ms", gaps[KILLS / 2])
            .with("gap_max_ms", gaps[KILLS - 1]),
    )?;
    system.stop().await
}

/// A client that goes to the next node when one fails it.
struct Writer {
    kind: Kind,
    addresses: Vec<String>,
    at: usize,
    connection: Option<Connection>,
    n: u64,
}

impl Writer {
    fn new(system: &System, at: usize) -> Self {
        let addresses = system.addresses().to_vec();
        Self { kind: system.kind(), addresses, at, connection: None, n: 0 }
    }

    async fn write(&mut self) -> Result<(), String> {
        let outcome = tokio::time::timeout(ATTEMPT, self.attempt()).await;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".into()));
        if outcome.is_err() {
            self.connection = None;
            self.at = (self.at + 1) % self.addresses.len();
            tokio::time::sleep(PAUSE).await;
        }
        outcome
    }

    async fn attempt(&mut self) -> Result<(), String> {
        let connection = match &mut self.connection {
            Some(open) => open,
            None => {
                self.connection.insert(Connection::connect(self.kind, &self.addresses[self.at], 7).await?)
            }
        };
        self.n += 1;
        let mut done: Vec<Done> = Vec::new();
        connection.queue(0, Op::Put(self.n))?;
        connection.exchange(&mut done).await?;
        done.into_iter().try_for_each(|(_, outcome)| outcome)
    }
}
