//! `bench`: a closed loop of clients, each waiting for its answer before it asks again.
//!
//! It shares its machine's cores with the servers that it measures, so its clients are cheap: requests are formed once
//! per kind, answers are parsed only for status and length, and nothing is allocated per request.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::{BenchArgs, ClientOptions, Transport, Workload};
use super::http::encode;
use super::{complain, failure, out, request, say, usage};

/// How long one request may take before it counts as an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an error, so that a server that refuses is not flooded.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// How long keys are written before reads are measured; what is written by then is what is read.
const PRELOAD_MAX: Duration = Duration::from_secs(5);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);
/// Most bytes of an answer's head, and of its body.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reads for each write in `mix`.
const READS_PER_WRITE: u64 = 9;

/// What all clients of a run share.
struct Run {
    workload: Workload,
    keys: AtomicU64,
    space: String,
    value: String,
    ops: AtomicU64,
    errors: AtomicU64,
    measuring: AtomicBool,
    latencies_us: Mutex<Histogram<u64>>,
}

/// `bench`.
pub(super) async fn run(options: &ClientOptions, args: &BenchArgs) -> ExitCode {
    if args.transport == Transport::Native {
        return usage("--transport native is not available yet; use http");
    }
    let mut servers = request::servers(options);
    servers.extend(args.more_servers.iter().cloned());
    let Ok(histogram) = Histogram::new_with_bounds(1, 60_000_000, 3) else {
        return failure(options.json, "the histogram cannot be made");
    };
    let run = Arc::new(Run {
        workload: args.workload,
        keys: AtomicU64::new(args.keys),
        space: encode(&options.space),
        value: "v".repeat(usize::try_from(args.value_size).unwrap_or(usize::MAX)),
        ops: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        measuring: AtomicBool::new(false),
        latencies_us: Mutex::new(histogram),
    });
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
        clients.spawn(async move {
            let mut connection = Connection::new(server);
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= keys || Instant::now() >= until {
                    return Ok(());
                }
                connection.form(&run, Workload::Put, key);
                match connection.exchange(Instant::now() + REQUEST_TIMEOUT).await {
                    Ok(200) => written.fetch_max(key + 1, Ordering::Relaxed),
                    Ok(status) => return Err(format!("{} answers {status}", connection.server)),
                    Err(e) => return Err(format!("{}: {e}", connection.server)),
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
        clients.spawn(client_loop(run.clone(), server_of(servers, client), client, end));
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
    let mut connection = Connection::new(server);
    let mut random = Xorshift::new(client);
    let mut last_error = None;
    let mut turn = client;
    while Instant::now() < end {
        turn += 1;
        let workload = match run.workload {
            Workload::Mix if turn.is_multiple_of(READS_PER_WRITE + 1) => Workload::Put,
            Workload::Mix => Workload::Get,
            other => other,
        };
        let key = random.below(run.keys.load(Ordering::Relaxed));
        connection.form(&run, workload, key);
        let start = Instant::now();
        // A client that waits at the end is not waited for.
        let outcome = connection.exchange(end.min(start + REQUEST_TIMEOUT)).await;
        if Instant::now() >= end || !run.measuring.load(Ordering::Relaxed) {
            break;
        }
        // An absent key is an answer to a read.
        let error = match outcome {
            Ok(200) => None,
            Ok(404) if workload == Workload::Get => None,
            Ok(status) => Some(format!("{} answers {status}", connection.server)),
            Err(e) => {
                connection.stream = None;
                Some(format!("{}: {e}", connection.server))
            }
        };
        match error {
            None => {
                let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                run.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
                run.ops.fetch_add(1, Ordering::Relaxed);
            }
            Some(error) => {
                run.errors.fetch_add(1, Ordering::Relaxed);
                last_error = Some(error);
                tokio::time::sleep(ERROR_PAUSE).await;
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

/// One client's connection and its buffers, used again for each request.
struct Connection {
    server: String,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    fn new(server: String) -> Self {
        Self { server, stream: None, request: Vec::new(), answer: Vec::new() }
    }

    /// Forms the next request in the buffer of the last.
    fn form(&mut self, run: &Run, workload: Workload, key: u64) {
        use std::io::Write;
        self.request.clear();
        let (space, server, value) = (&run.space, &self.server, &run.value);
        // Writing into a vector does not fail.
        match workload {
            Workload::Get | Workload::Mix => write!(
                self.request,
                "GET /v1/spaces/{space}/keys/bench-put-{key} HTTP/1.1\r\nhost: {server}\r\n\r\n"
            ),
            Workload::Put => write!(
                self.request,
                "POST /v1/spaces/{space}/keys/bench-put-{key} HTTP/1.1\r\nhost: {server}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n\
                 {{\"type\":\"register\",\"op\":\"set\",\"value\":\"{value}\"}}",
                value.len() + r#"{"type":"register","op":"set","value":""}"#.len(),
            ),
            Workload::Counter => write!(
                self.request,
                "POST /v1/spaces/{space}/keys/bench-counter-{key} HTTP/1.1\r\nhost: {server}\r\n\
                 content-type: application/json\r\ncontent-length: 38\r\n\r\n\
                 {{\"type\":\"counter\",\"op\":\"add\",\"by\":1}}  "
            ),
        }
        .ok();
    }

    /// Sends the request and reads the whole answer; returns its status.
    async fn exchange(&mut self, deadline: Instant) -> Result<u16, String> {
        match tokio::time::timeout_at(deadline, self.exchange_unbounded()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.stream = None;
                Err("no answer in time".into())
            }
        }
    }

    async fn exchange_unbounded(&mut self) -> Result<u16, String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.server).await.map_err(|e| e.to_string())?;
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                self.stream.insert(stream)
            }
        };
        stream.write_all(&self.request).await.map_err(|e| e.to_string())?;
        self.answer.clear();
        let head = loop {
            read_more(stream, &mut self.answer).await?;
            if let Some(head) = parse_head(&self.answer)? {
                break head;
            }
            if self.answer.len() > HEAD_BYTES_MAX {
                return Err("the answer's head is too long".into());
            }
        };
        if head.body > BODY_BYTES_MAX {
            return Err("the answer is too long".into());
        }
        while self.answer.len() < head.end + head.body {
            read_more(stream, &mut self.answer).await?;
        }
        if head.close {
            self.stream = None;
        }
        Ok(head.status)
    }
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(buffer).await {
        Ok(0) => Err("the server closed the connection".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// What must be known of an answer's head.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    /// Where the body starts.
    end: usize,
    /// How long it is.
    body: usize,
    /// Whether the server closes the connection behind it.
    close: bool,
}

/// Reads a head that is complete; `None` if it is not yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "the answer is not HTTP")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or("the answer is not HTTP")?;
    let mut body = None;
    let mut close = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            body = Some(value.trim().parse().map_err(|_| "the answer has a bad content-length")?);
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let body = body.ok_or("the answer has no content-length")?;
    Ok(Some(Head { status, end: end + 4, body, close }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-le"), Ok(None));
        let head = parse_head(b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{");
        assert_eq!(head, Ok(Some(Head { status: 404, end: 65, body: 12, close: true })));
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(
            parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(),
            "an answer of unknown length would hang the client"
        );
    }

    #[test]
    fn the_lengths_of_formed_bodies_are_right() {
        let run = Run {
            workload: Workload::Put,
            keys: AtomicU64::new(1),
            space: "default".into(),
            value: "vv".into(),
            ops: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            measuring: AtomicBool::new(true),
            latencies_us: Mutex::new(Histogram::new(3).expect("valid")),
        };
        let mut connection = Connection::new("a:1".into());
        for workload in [Workload::Put, Workload::Counter] {
            connection.form(&run, workload, 7);
            let text = String::from_utf8(connection.request.clone()).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
            serde_json::from_str::<serde_json::Value>(body).expect("JSON");
        }
    }
}
