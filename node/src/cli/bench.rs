//! `bench`: a closed loop of clients, each waiting for its answer before it asks again.
//!
//! It shares its machine's cores with the servers that it measures, so its clients are cheap: requests are formed once
//! per kind, answers are parsed only for status and length, and nothing is allocated per request.

mod http;
mod native;
pub mod websocket;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use meridian_client::wire::AccessToken;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::{BenchArgs, ClientOptions, Transport, Workload};
use super::{complain, failure, out, request, say, usage};

/// How long one request may take before it counts as an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an error, so that a server that refuses is not flooded.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// How long keys are written before reads are measured; what is written by then is what is read.
const PRELOAD_MAX: Duration = Duration::from_secs(5);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);
/// Most bytes of an answer.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reads for each write in `mix`.
const READS_PER_WRITE: u64 = 9;

/// What all clients of a run share.
struct Run {
    workload: Workload,
    keys: AtomicU64,
    space: String,
    access: Option<AccessToken>,
    value: String,
    ops: AtomicU64,
    errors: AtomicU64,
    measuring: AtomicBool,
    latencies_us: Mutex<Histogram<u64>>,
}

impl Run {
    fn new(
        workload: Workload,
        keys: u64,
        (space, access): (String, Option<AccessToken>),
        value_size: u64,
    ) -> Option<Run> {
        Some(Run {
            workload,
            keys: AtomicU64::new(keys),
            space,
            access,
            value: "v".repeat(usize::try_from(value_size).unwrap_or(usize::MAX)),
            ops: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            latencies_us: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).ok()?),
        })
    }

    /// What a client does next.
    fn turn(&self, turn: u64) -> Workload {
        match self.workload {
            Workload::Mix if turn.is_multiple_of(READS_PER_WRITE + 1) => Workload::Put,
            Workload::Mix => Workload::Get,
            other => other,
        }
    }

    fn is_over(&self, end: Instant) -> bool {
        Instant::now() >= end || !self.measuring.load(Ordering::Relaxed)
    }

    fn done(&self, start: Instant) {
        let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
        self.ops.fetch_add(1, Ordering::Relaxed);
    }

    async fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

/// Whether a status is an answer to the workload; an absent key is one to a read.
fn is_answer(status: u16, workload: Workload) -> bool {
    status == 200 || (status == 404 && workload == Workload::Get)
}

/// `bench`.
pub(super) async fn run(options: &ClientOptions, args: &BenchArgs) -> ExitCode {
    if args.transport == Transport::Http && args.pipeline > 1 {
        return usage("--pipeline needs --transport native: HTTP answers one request after the other");
    }
    let mut servers = match request::servers(options) {
        Ok(servers) => servers,
        Err(wrong) => return wrong.report(options.json),
    };
    servers.extend(args.more_servers.iter().cloned());
    let place = (options.space.clone(), options.token.clone());
    let Some(run) = Run::new(args.workload, args.keys, place, args.value_size) else {
        return failure(options.json, "the histogram cannot be made");
    };
    let run = Arc::new(run);
    if matches!(args.workload, Workload::Get | Workload::Mix)
        && let Err(reason) = preload(&run, &servers, args).await
    {
        return failure(options.json, &reason);
    }
    let (elapsed, reason) = measure(&run, &servers, args).await;
    report(&run, args, elapsed, options.json, reason)
}

/// Writes the keys that will be read.
async fn preload(run: &Arc<Run>, servers: &[String], args: &BenchArgs) -> Result<(), String> {
    let until = Instant::now() + PRELOAD_MAX;
    let next = Arc::new(AtomicU64::new(0));
    let written = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..args.clients {
        let (run, server) = (run.clone(), server_of(servers, client));
        let (next, written, keys) = (next.clone(), written.clone(), args.keys);
        let transport = args.transport;
        clients.spawn(async move {
            let mut connection = Preload::new(transport, server, run.access.clone());
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= keys || Instant::now() >= until {
                    return Ok(());
                }
                match connection.put(&run, key).await {
                    Ok(200) => written.fetch_max(key + 1, Ordering::Relaxed),
                    Ok(status) => return Err(format!("{} answers {status}", connection.server())),
                    Err(e) => return Err(format!("{}: {e}", connection.server())),
                };
            }
        });
    }
    let mut reason = "nothing was written within the time for preparation".to_string();
    while let Some(ended) = clients.join_next().await {
        if let Ok(Err(e)) = ended {
            reason = e;
        }
    }
    match written.load(Ordering::Relaxed) {
        0 => Err(format!("the keys to read could not be written: {reason}")),
        keys => {
            run.keys.store(keys, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// A connection of either kind, for writing what will be read.
enum Preload {
    Http(http::Connection),
    Native(native::Connection),
}

impl Preload {
    fn new(transport: Transport, server: String, access: Option<AccessToken>) -> Self {
        match transport {
            Transport::Http => Preload::Http(http::Connection::new(server)),
            Transport::Native => Preload::Native(native::Connection::new(server, access)),
        }
    }

    fn server(&self) -> &str {
        match self {
            Preload::Http(connection) => &connection.server,
            Preload::Native(connection) => &connection.server,
        }
    }

    async fn put(&mut self, run: &Run, key: u64) -> Result<u16, String> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        match self {
            Preload::Http(connection) => {
                connection.form(run, Workload::Put, key);
                connection.exchange(deadline).await
            }
            Preload::Native(connection) => {
                connection.form(run, Workload::Put, key, 0);
                connection.exchange(deadline).await.map(|(_, status)| status)
            }
        }
    }
}

fn server_of(servers: &[String], client: u64) -> String {
    let index = usize::try_from(client).unwrap_or(0) % servers.len().max(1);
    servers.get(index).cloned().unwrap_or_default()
}

/// Runs all clients for the time asked for; returns how long it took and the last error, if any.
async fn measure(run: &Arc<Run>, servers: &[String], args: &BenchArgs) -> (Duration, Option<String>) {
    run.measuring.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let mut clients = JoinSet::new();
    for client in 0..args.clients {
        let (run, server) = (run.clone(), server_of(servers, client));
        match args.transport {
            Transport::Http => clients.spawn(client_loop(run, server, client, end)),
            Transport::Native => clients.spawn(native::client_loop(run, server, client, args.pipeline, end)),
        };
    }
    let progress = tokio::spawn(show_progress(run.clone(), start));
    tokio::time::sleep_until(end).await;
    // What is answered after the end is not counted.
    run.measuring.store(false, Ordering::Relaxed);
    let elapsed = start.elapsed();
    progress.abort();
    if std::io::stderr().is_terminal() {
        complain("");
    }
    let mut reason = None;
    while let Some(ended) = clients.join_next().await {
        if let Ok(Some(e)) = ended {
            reason = Some(e);
        }
    }
    (elapsed, reason)
}

async fn client_loop(run: Arc<Run>, server: String, client: u64, end: Instant) -> Option<String> {
    let mut connection = http::Connection::new(server);
    let mut random = Xorshift::new(client);
    let mut last_error = None;
    let mut turn = client;
    while Instant::now() < end {
        turn += 1;
        let workload = run.turn(turn);
        let key = random.below(run.keys.load(Ordering::Relaxed));
        connection.form(&run, workload, key);
        let start = Instant::now();
        // A client that waits at the end is not waited for.
        let outcome = connection.exchange(end.min(start + REQUEST_TIMEOUT)).await;
        if run.is_over(end) {
            break;
        }
        match outcome {
            Ok(status) if is_answer(status, workload) => run.done(start),
            Ok(status) => {
                last_error = Some(format!("{} answers {status}", connection.server));
                run.failed().await;
            }
            Err(e) => {
                connection.stream = None;
                last_error = Some(format!("{}: {e}", connection.server));
                run.failed().await;
            }
        }
    }
    last_error
}

async fn show_progress(run: Arc<Run>, start: Instant) {
    let terminal = std::io::stderr().is_terminal();
    let mut before = 0;
    let mut tick = tokio::time::interval_at(start + PROGRESS, PROGRESS);
    loop {
        tick.tick().await;
        let ops = run.ops.load(Ordering::Relaxed);
        let errors = run.errors.load(Ordering::Relaxed);
        let line = format!("{:>4} s  {:>8} ops/s  {errors} errors", start.elapsed().as_secs(), ops - before);
        before = ops;
        if terminal {
            use std::io::Write;
            // Progress that cannot be shown is not worth a failure.
            write!(std::io::stderr(), "\r{line}").ok();
        } else {
            complain(&line);
        }
    }
}

fn report(run: &Run, args: &BenchArgs, elapsed: Duration, json: bool, reason: Option<String>) -> ExitCode {
    let ops = run.ops.load(Ordering::Relaxed);
    let errors = run.errors.load(Ordering::Relaxed);
    let rate = ops as f64 / elapsed.as_secs_f64();
    let latencies = run.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let rounded = |x: f64| (x * 1000.0).round() / 1000.0;
    if let Some(reason) = reason {
        complain(&format!("last error: {reason}"));
    }
    if !json {
        say(&format!(
            "{} with {} clients: {ops} ops in {:.1} s, {rate:.0} ops/s, {errors} errors\n\
             latency: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            run.workload.name(),
            args.clients,
            elapsed.as_secs_f64(),
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(0.999),
            latencies.max() as f64 / 1000.0,
        ));
    }
    let line = json!({"workload": run.workload.name(), "clients": args.clients, "ops": ops, "errors": errors,
        "ops_per_s": rounded(rate), "p50_ms": rounded(ms(0.5)), "p99_ms": rounded(ms(0.99))});
    let shown = out(&line.to_string());
    if ops == 0 { ExitCode::from(1) } else { shown }
}

/// A tiny generator for choosing keys: quality does not matter, cost does.
struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}
