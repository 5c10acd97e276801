//! Between two datacenters: how soon a write can be read in the other one, how fast it catches up after a cut, and how
//! many bytes travel for each write. Only Meridian has this; the bounds to compare with are the delay and the value.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Run, settled};
use crate::driver::meridian::Connection;
use crate::driver::{Done, Kind};
use crate::load::{self, Load, Measured, Target};
use crate::machine::Stolen;
use crate::op::{Level, Op, Random, VALUE_BYTES, key_name};
use crate::record::{Record, STOLEN};
use crate::system::meridian::Cluster;

/// The datacenter that writes, and the one that reads.
const NAMES: [&str; 2] = ["home", "away"];
const AWAY: usize = 1;
/// One-way delays that are tried.
const DELAYS_MS: [u64; 3] = [0, 20, 80];
/// Clients of the load in the background.
const CLIENTS: usize = 64;
/// Keys that the probe writes, apart from those of the load.
const PROBE_KEYS: u64 = 1_000;
/// From one probe to the next, however long they take: as many at each delay.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Who probe in turn. One waits for its own probe alone, and none takes as long as they all together.
const PROBERS: u32 = 32;
/// How long catching up may take.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked at meanwhile.
const CATCH_UP_POLL: Duration = Duration::from_millis(20);

/// Runs everything that is asked for.
pub async fn run(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    let wants = |name: &str| run.suite.wants(name);
    if kind != Kind::Meridian {
        return Ok(());
    }
    for delay_ms in DELAYS_MS {
        let (at_rest, loaded) =
            (format!("visibility-{delay_ms}ms-rest"), format!("visibility-{delay_ms}ms-load"));
        let others = delay_ms == DELAYS_MS[1] && (wants("wan-bytes") || wants("catch-up"));
        if !wants(&at_rest) && !wants(&loaded) && !others {
            continue;
        }
        let delay = Duration::from_millis(delay_ms);
        let cluster = Cluster::start(run.suite, &run.folder.join("links"), &NAMES, delay).await?;
        if wants(&at_rest) {
            keep(visibility(run, &cluster, &at_rest).await?)?;
        }
        if wants(&loaded) || others {
            let peak = load(run, &cluster, None, run.suite.seconds).await?.rate();
            settled(&cluster, NAMES[0]).await?;
            if wants(&loaded) {
                let background = load(run, &cluster, Some(peak / 2.0), run.suite.seconds * 1.5);
                let (record, measured) = tokio::join!(visibility(run, &cluster, &loaded), background);
                let (record, measured) = (record?, measured?);
                keep(record.with("background_ops_per_second", measured.rate()))?;
                settled(&cluster, NAMES[0]).await?;
            }
            if others {
                if wants("wan-bytes") {
                    keep(wan_bytes(run, &cluster, peak / 2.0).await?)?;
                }
                if wants("catch-up") {
                    keep(catch_up(run, &cluster, peak / 2.0).await?)?;
                }
            }
        }
        cluster.stop().await?;
    }
    Ok(())
}

async fn load(run: Run<'_>, cluster: &Cluster, rate: Option<f64>, seconds: f64) -> Result<Measured, String> {
    let keys = run.suite.keys;
    let next = move |random: &mut Random| Some(Op::Put(PROBE_KEYS + random.below(keys)));
    let load = Load {
        clients: CLIENTS,
        in_flight: 1,
        warm_up: Duration::ZERO,
        length: Duration::from_secs_f64(seconds),
        rate,
        threads: 1,
    };
    load::run(cluster.target(0).await?, load, Arc::new(next)).await
}

/// Does one operation and waits for its answer.
async fn ask(connection: &mut Connection, op: Op) -> Result<(), String> {
    let mut done: Vec<Done> = Vec::new();
    connection.queue(0, op);
    connection.exchange(&mut done).await?;
    done.pop().map_or_else(|| Err("no answer".into()), |(_, outcome)| outcome)
}

/// Writes in one datacenter, and at the answer reads in the other with the writer's token: that read waits until the
/// write is there, so that the time of its answer is when it can be read.
async fn visibility(run: Run<'_>, cluster: &Cluster, name: &str) -> Result<Record, String> {
    let (from, to) = (cluster.target(0).await?, cluster.target(AWAY).await?);
    let probers = (0..PROBERS).map(|n| probe(run, n, &from.addresses[0], &to.addresses[0]));
    let (mut latency_us, stolen) = (histogram()?, Stolen::begin());
    for of_one in futures_util::future::try_join_all(probers).await? {
        latency_us.add(of_one).map_err(|e| e.to_string())?;
    }
    let quantile = |q| latency_us.value_at_quantile(q) as f64 / 1000.0;
    Ok(Record::new(run.round, Kind::Meridian, name)
        .with("probes", latency_us.len() as f64)
        .with("visible_p50_ms", quantile(0.5))
        .with("visible_p99_ms", quantile(0.99))
        .with("visible_max_ms", latency_us.max() as f64 / 1000.0)
        .with(STOLEN, stolen.percent()))
}

/// Probes as the `n`-th of all: how long each took, in microseconds.
async fn probe(run: Run<'_>, n: u32, from: &str, to: &str) -> Result<Histogram<u64>, String> {
    let mut writer = Connection::connect(from, 1 << 60 | u64::from(n) << 40).await?;
    let mut reader = Connection::connect(to, 0).await?;
    let mut latency_us = histogram()?;
    let start = Instant::now();
    let mut next = start + PROBE_INTERVAL * n;
    let mut key = u64::from(n);
    while start.elapsed().as_secs_f64() < run.suite.seconds {
        tokio::time::sleep_until(next.into()).await;
        next = (next + PROBE_INTERVAL * PROBERS).max(Instant::now());
        ask(&mut writer, Op::Put(key)).await?;
        let committed = Instant::now();
        reader.adopt(writer.token());
        ask(&mut reader, Op::Get(key, Level::Session)).await?;
        latency_us.saturating_record(u64::try_from(committed.elapsed().as_micros()).unwrap_or(u64::MAX));
        key = (key + u64::from(PROBERS)) % PROBE_KEYS;
    }
    Ok(latency_us)
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_max(load::LATENCY_US_MAX, 3).map_err(|e| e.to_string())
}

/// Bytes that pass between the datacenters, both ways, for each write under load.
async fn wan_bytes(run: Run<'_>, cluster: &Cluster, rate: f64) -> Result<Record, String> {
    let before = cluster.wan.bytes();
    let measured = load(run, cluster, Some(rate), run.suite.seconds).await?;
    settled(cluster, NAMES[0]).await?;
    let per_write = (cluster.wan.bytes() - before) as f64 / measured.ops_ever.max(1) as f64;
    let payload = (key_name(0).len() + VALUE_BYTES) as f64;
    Ok(Record::new(run.round, Kind::Meridian, "wan-bytes")
        .with("writes", measured.ops_ever as f64)
        .with("wan_bytes_per_write", per_write)
        .with("wan_bytes_per_payload_byte", per_write / payload))
}

/// Cuts the network under load, heals it while the load goes on, and sees how long the other datacenter takes to have
/// all that was written until then.
async fn catch_up(run: Run<'_>, cluster: &Cluster, rate: f64) -> Result<Record, String> {
    let cut = Duration::from_secs_f64(run.suite.cut_seconds);
    let started = cluster.applied(0, NAMES[0]).await?;
    let watch = async {
        cluster.wan.cut(true);
        tokio::time::sleep(cut).await;
        let goal = cluster.applied(0, NAMES[0]).await?;
        let missing = goal.saturating_sub(cluster.applied(AWAY, NAMES[0]).await?);
        cluster.wan.cut(false);
        let healed = Instant::now();
        while cluster.applied(AWAY, NAMES[0]).await? < goal {
            if healed.elapsed() > CATCH_UP_PATIENCE {
                return Err("the datacenter does not catch up".to_owned());
            }
            tokio::time::sleep(CATCH_UP_POLL).await;
        }
        let live_rate = goal.saturating_sub(started) as f64 / cut.as_secs_f64();
        Ok((missing, healed.elapsed().as_secs_f64(), live_rate))
    };
    // The load ends with the watch: it goes on for as long as that can take, and is dropped then.
    let target: Target = cluster.target(0).await?;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, keys) = (stop.clone(), run.suite.keys);
    let next = move |random: &mut Random| {
        let going = !stopped.load(std::sync::atomic::Ordering::Relaxed);
        going.then(|| Op::Put(PROBE_KEYS + random.below(keys)))
    };
    let load = Load {
        clients: CLIENTS,
        in_flight: 1,
        warm_up: Duration::ZERO,
        length: cut + CATCH_UP_PATIENCE,
        rate: Some(rate),
        threads: 1,
    };
    let watched = async {
        let outcome = watch.await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    };
    let (watched, measured) = tokio::join!(watched, load::run(target, load, Arc::new(next)));
    let ((missing, seconds, live_rate), measured) = (watched?, measured?);
    let caught_up_rate = missing as f64 / seconds;
    let mut record = Record::new(run.round, Kind::Meridian, "catch-up");
    record.errors = measured.errors;
    record.last_error = measured.last_error;
    Ok(record
        .with("cut_seconds", run.suite.cut_seconds)
        .with("missing_txns", missing as f64)
        .with("catch_up_seconds", seconds)
        .with("live_txns_per_second", live_rate)
        .with("caught_up_txns_per_second", caught_up_rate)
        .with("times_live_rate", caught_up_rate / live_rate.max(f64::MIN_POSITIVE)))
}
