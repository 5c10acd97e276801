//! Workloads that mean the same to several systems: puts, as fast as they go and at the same rate for all, increments,
//! reads, mixes and transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Run;
use crate::driver::{Kind, etcd, redis};
use crate::load::{self, Load, Measured, Source, Target};
use crate::machine::Stolen;
use crate::op::{HOT_COUNTER, Level, Op, Random, TXN_KEYS};
use crate::record::{ASKED, Record, STOLEN};
use crate::system::System;

/// Warm-up as a part of the measured time.
const WARM_UP_PART: f64 = 0.2;
/// Connections while data is filled in.
const FILL_CLIENTS: usize = 16;
/// Requests that each of them has in flight.
const FILL_IN_FLIGHT: usize = 8;
/// How long filling data in may take.
const FILL_PATIENCE: Duration = Duration::from_secs(600);
/// Connections of the workloads that read.
const READERS: usize = 50;
/// Connections of mixes, increments and transactions, and of puts at a rate.
const CLIENTS: usize = 64;
/// Puts per second that all systems are given alike: all of them can do that many on the smallest machine.
const EQUAL_RATES: [u32; 3] = [1000, 2000, 4000];

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Put,
    Read(Level),
    Add,
    /// So many reads in a hundred operations, the others puts.
    Mix(u64),
    Txn,
}

/// One workload.
#[derive(Clone, Debug)]
struct Workload {
    name: String,
    what: What,
    clients: usize,
    in_flight: usize,
    /// Operations per second; as many as go if there is none.
    rate: Option<u32>,
    systems: &'static [Kind],
}

impl Workload {
    /// Whether every operation writes, so that syncs can be shared out among them.
    fn writes_only(&self) -> bool {
        matches!(self.what, What::Put | What::Add | What::Txn)
    }
}

fn workloads() -> Vec<Workload> {
    let all = &Kind::ALL[..];
    let mut list = Vec::new();
    let mut add = |name: String, what, clients, in_flight, systems| {
        list.push(Workload { name, what, clients, in_flight, rate: None, systems });
    };
    for clients in [1, 16, 64, 256, 1024] {
        add(format!("put-{clients}"), What::Put, clients, 1, all);
    }
    add("counter".into(), What::Add, CLIENTS, 1, all);
    for in_flight in [1, 16] {
        let name = |level: &str| format!("read-{level}-{in_flight}");
        // What etcd calls serializable is compared with `eventual`, and Redis' GET with the level that clients of
        // Meridian have unless they ask for another.
        let (meridian_etcd, meridian_redis) = (&[Kind::Meridian, Kind::Etcd], &[Kind::Meridian, Kind::Redis]);
        add(name("eventual"), What::Read(Level::Eventual), READERS, in_flight, meridian_etcd);
        add(name("session"), What::Read(Level::Session), READERS, in_flight, meridian_redis);
        add(name("linearizable"), What::Read(Level::Linearizable), READERS, in_flight, meridian_etcd);
    }
    for reads in [95, 50] {
        add(format!("mix-{reads}-{}", 100 - reads), What::Mix(reads), CLIENTS, 1, all);
    }
    add(format!("txn-{TXN_KEYS}-keys"), What::Txn, CLIENTS, 1, all);
    list.extend(EQUAL_RATES.map(|rate| Workload {
        name: format!("put-at-{rate}"),
        what: What::Put,
        clients: CLIENTS,
        in_flight: 1,
        rate: Some(rate),
        systems: all,
    }));
    list
}

/// Runs what is asked for on one fresh system.
pub async fn run(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    let wanted: Vec<Workload> = workloads()
        .into_iter()
        .filter(|workload| run.suite.wants(&workload.name) && workload.systems.contains(&kind))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let system = System::start(run.suite, kind, &run.folder.join(kind.name())).await?;
    let target = system.target(run.suite.spread).await?;
    fill(&system.target(false).await?, run.suite.keys).await?;
    let mut added = 0;
    for workload in wanted {
        let (syncs_before, before) = (system.log_syncs().await?, system.usage());
        let (begun, stolen) = (Instant::now(), Stolen::begin());
        let measured = measure(run, &workload, &target).await?;
        let (used, took, stolen) = (system.usage().since(&before), begun.elapsed(), stolen.percent());
        let syncs = system.log_syncs().await?.zip(syncs_before).map(|(after, before)| after - before);
        let mut record = Record::new(run.round, kind, &workload.name)
            .with("clients", workload.clients as f64)
            .with("in_flight", workload.in_flight as f64)
            .with_load(&measured)
            .with_usage(&used, measured.ops_ever)
            .with(STOLEN, stolen);
        if let Some(rate) = workload.rate {
            record = record.with(ASKED, f64::from(rate));
        }
        if let Some(syncs) = syncs.filter(|syncs| *syncs > 0.0 && workload.writes_only()) {
            record = record
                .with("syncs_per_s", syncs / took.as_secs_f64())
                .with("writes_per_sync", measured.ops_ever as f64 / syncs);
        }
        if workload.what == What::Add {
            added += measured.ops_ever;
            let counted = counter(&target).await?;
            // Increments that were under way at the end may count or not.
            let most = added + measured.errors + workload.clients as u64;
            if !(added..=most).contains(&counted) {
                record.errors += 1;
                record.last_error = Some(format!("the counter is {counted}, not {added} to {most}"));
            }
            added = counted;
        }
        keep(record)?;
    }
    system.stop().await
}

async fn measure(run: Run<'_>, workload: &Workload, target: &Target) -> Result<Measured, String> {
    let (keys, what) = (run.suite.keys, workload.what);
    let next = move |random: &mut Random| {
        Some(match what {
            What::Put => Op::Put(random.below(keys)),
            What::Read(level) => Op::Get(random.below(keys), level),
            What::Add => Op::Add,
            What::Mix(reads) if random.below(100) < reads => Op::Get(random.below(keys), Level::Session),
            What::Mix(_) => Op::Put(random.below(keys)),
            What::Txn => Op::Txn(distinct(random.below(keys), keys)),
        })
    };
    let load = Load {
        clients: workload.clients,
        in_flight: workload.in_flight,
        warm_up: Duration::from_secs_f64(run.suite.seconds * WARM_UP_PART),
        length: Duration::from_secs_f64(run.suite.seconds),
        rate: workload.rate.map(f64::from),
        threads: usize::try_from(run.suite.threads).unwrap_or(1),
    };
    load::run(target.clone(), load, Arc::new(next)).await
}

/// Keys far apart, no two of them equal: etcd takes no key twice in a transaction.
fn distinct(first: u64, keys: u64) -> [u64; TXN_KEYS] {
    let apart = keys / TXN_KEYS as u64;
    std::array::from_fn(|i| (first + i as u64 * apart) % keys)
}

/// The hot counter's value.
async fn counter(target: &Target) -> Result<u64, String> {
    let address = &target.addresses[0];
    match target.kind {
        Kind::Meridian => {
            let path = format!("/v1/spaces/default/keys/{HOT_COUNTER}");
            let found = crate::system::http::get_json(address, &path).await?;
            found["value"].as_u64().ok_or_else(|| format!("no counter: {found}"))
        }
        Kind::Etcd => etcd::counter(address).await,
        Kind::Redis => {
            let text = redis::ask(address, &["GET", HOT_COUNTER]).await?;
            text.parse().map_err(|e| format!("{text}: {e}"))
        }
    }
}

/// Gives each of so many keys a value.
pub async fn fill(target: &Target, keys: u64) -> Result<Measured, String> {
    let next = AtomicU64::new(0);
    let source = move |_: &mut Random| {
        let first = next.fetch_add(TXN_KEYS as u64, Ordering::Relaxed);
        // The last one may write some of the first keys again.
        (first < keys).then(|| Op::Txn(std::array::from_fn(|i| (first + i as u64) % keys)))
    };
    fill_from(target, FILL_IN_FLIGHT, Arc::new(source)).await
}

/// Does everything that a source has, `in_flight` operations of each connection at a time, and fails if anything of it does.
pub async fn fill_from(
    target: &Target,
    in_flight: usize,
    source: Arc<dyn Source>,
) -> Result<Measured, String> {
    let load = Load {
        clients: FILL_CLIENTS,
        in_flight,
        warm_up: Duration::ZERO,
        length: FILL_PATIENCE,
        rate: None,
        threads: 1,
    };
    let measured = load::run(target.clone(), load, source).await?;
    match measured.last_error {
        Some(why) => Err(format!("cannot fill {} with data: {why}", target.kind.name())),
        None => Ok(measured),
    }
}
