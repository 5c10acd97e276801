//! The load generator, the same for every system: clients in a closed loop, or at a rate, each waiting for its answers.
//!
//! It runs in threads of its own, each with a runtime of one thread, so that it costs the servers as little of the
//! machine as it can. What is done during warm-up is not counted; what is under way at the end neither.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::driver::{Connection, Done, Kind};
use crate::op::{Op, Random};
use crate::pace::Pace;

/// The longest latency that a histogram can hold, in microseconds.
pub const LATENCY_US_MAX: u64 = 120_000_000;
/// How long an answer may take before the connection is given up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(20);

/// Where to send what.
#[derive(Clone, Debug)]
pub struct Target {
    /// The system.
    pub kind: Kind,
    /// Clients spread over these.
    pub addresses: Vec<String>,
}

/// Says what a client does next; `None` once there is nothing left to do.
pub trait Source: Send + Sync {
    /// The next operation.
    fn next(&self, random: &mut Random) -> Option<Op>;
}

impl<F: Fn(&mut Random) -> Option<Op> + Send + Sync> Source for F {
    fn next(&self, random: &mut Random) -> Option<Op> {
        self(random)
    }
}

/// How hard to press.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections.
    pub clients: usize,
    /// Operations that each has in flight, at most 256.
    pub in_flight: usize,
    /// What is not counted before.
    pub warm_up: Duration,
    /// What is counted; a source that ends may end it earlier.
    pub length: Duration,
    /// Operations per second of all clients together; as fast as answers come if there is none.
    pub rate: Option<f64>,
    /// Threads of the load generator.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// Operations that were answered as they should be within the counted time.
    pub ops: u64,
    /// The same, with those of the warm-up.
    pub ops_ever: u64,
    /// Operations that failed, at any time.
    pub errors: u64,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// How long was counted.
    pub seconds: f64,
    /// Latencies in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Measured {
    fn new() -> Result<Self, String> {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3).map_err(|e| e.to_string())?;
        Ok(Self { ops: 0, ops_ever: 0, errors: 0, last_error: None, seconds: 0.0, latency_us })
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.ops as f64 / self.seconds } else { 0.0 }
    }

    /// A quantile of the latency, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// When the parts of a run are.
#[derive(Clone, Copy, Debug)]
struct Times {
    counted_from: Instant,
    end: Instant,
}

struct Worker {
    target: Target,
    load: Load,
    times: Times,
    source: Arc<dyn Source>,
    /// When operations are due, if there is a rate.
    pace: Option<Arc<Pace>>,
    measured: RefCell<Measured>,
}

/// Runs a load to its end.
pub async fn run(target: Target, load: Load, source: Arc<dyn Source>) -> Result<Measured, String> {
    if target.addresses.is_empty() || load.clients == 0 {
        return Err("a load needs clients and addresses".into());
    }
    let start = Instant::now();
    let counted_from = start + load.warm_up;
    let times = Times { counted_from, end: counted_from + load.length };
    let threads = load.threads.clamp(1, load.clients);
    let pace = load.rate.map(|rate| Pace::begin(start, times.end, rate)).transpose();
    let pace = pace.map_err(|e| e.to_string())?;
    let mut running = Vec::new();
    for thread in 0..threads {
        let (target, source, pace) = (target.clone(), source.clone(), pace.clone());
        let work = move || {
            let measured = RefCell::new(Measured::new()?);
            let worker = Worker { target, load, times, source, pace, measured };
            worker.work((thread..load.clients).step_by(threads))
        };
        running.push(tokio::task::spawn_blocking(work));
    }
    let mut total = Measured::new()?;
    for thread in running {
        let part = thread.await.map_err(|e| e.to_string())??;
        total.ops += part.ops;
        total.ops_ever += part.ops_ever;
        total.errors += part.errors;
        total.last_error = part.last_error.or(total.last_error);
        total.latency_us.add(part.latency_us).map_err(|e| e.to_string())?;
    }
    total.seconds = Instant::now().min(times.end).saturating_duration_since(counted_from).as_secs_f64();
    Ok(total)
}

impl Worker {
    fn work(self, clients: impl Iterator<Item = usize>) -> Result<Measured, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let worker = Rc::new(self);
        let local = LocalSet::new();
        for client in clients {
            let worker = worker.clone();
            local.spawn_local(async move { worker.client(client).await });
        }
        runtime.block_on(local);
        drop(runtime);
        let worker = Rc::into_inner(worker).ok_or("a client outlived its thread")?;
        Ok(worker.measured.into_inner())
    }

    async fn client(&self, client: usize) {
        let address = &self.target.addresses[client % self.target.addresses.len()];
        let salt = (client as u64) << 40;
        let mut random = Random::new(salt ^ 0x5bd1_e995);
        let mut connection = None;
        let mut slots: Vec<Option<Instant>> = vec![None; self.load.in_flight.clamp(1, 256)];
        let mut done: Vec<Done> = Vec::new();
        loop {
            let now = Instant::now();
            if now >= self.times.end {
                return;
            }
            let open = match &mut connection {
                Some(open) => open,
                None => match Connection::connect(self.target.kind, address, salt).await {
                    Ok(open) => connection.insert(open),
                    Err(why) => {
                        self.failed(why).await;
                        continue;
                    }
                },
            };
            let asked = self.fill(open, &mut slots, &mut random).await;
            if matches!(asked, Ok(false)) {
                return;
            }
            // A client that waits at the end is not waited for.
            let patience = self.times.end.min(Instant::now() + ANSWER_PATIENCE);
            let outcome = match asked {
                Ok(_) => match tokio::time::timeout_at(patience.into(), open.exchange(&mut done)).await {
                    Ok(outcome) => outcome,
                    Err(_) if patience == self.times.end => return,
                    Err(_) => Err("no answer in time".into()),
                },
                Err(why) => Err(why),
            };
            let now = Instant::now();
            let mut refused = None;
            for (id, answer) in done.drain(..) {
                let since = slots.get_mut(usize::from(id)).and_then(Option::take);
                match (answer, since) {
                    (Ok(()), Some(since)) => self.counted(since, now),
                    (Ok(()), None) => refused = Some("an answer to nothing that was asked".to_owned()),
                    (Err(why), _) => refused = Some(why),
                }
            }
            if let Err(why) = outcome {
                connection = None;
                slots.fill(None);
                refused = Some(why);
            }
            if let Some(why) = refused {
                self.failed(why).await;
            }
        }
    }

    /// Asks as much as may be asked; false if there is nothing left to ask or to wait for.
    async fn fill(
        &self,
        connection: &mut Connection,
        slots: &mut [Option<Instant>],
        random: &mut Random,
    ) -> Result<bool, String> {
        for (id, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
            // At a rate, latency counts from when an operation was due, so that a stall is not hidden.
            let since = match &self.pace {
                Some(pace) => pace.next().await,
                None => Some(Instant::now()),
            };
            let Some(since) = since else { break };
            let Some(op) = self.source.next(random) else { break };
            *slot = Some(since);
            connection.queue(u8::try_from(id).unwrap_or(u8::MAX), op)?;
        }
        Ok(slots.iter().any(Option::is_some))
    }

    fn counted(&self, since: Instant, now: Instant) {
        let mut measured = self.measured.borrow_mut();
        measured.ops_ever += 1;
        if now >= self.times.counted_from && now <= self.times.end {
            measured.ops += 1;
            let us = u64::try_from((now - since).as_micros()).unwrap_or(LATENCY_US_MAX);
            measured.latency_us.saturating_record(us.min(LATENCY_US_MAX));
        }
    }

    async fn failed(&self, why: String) {
        {
            let mut measured = self.measured.borrow_mut();
            measured.errors += 1;
            measured.last_error = Some(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
