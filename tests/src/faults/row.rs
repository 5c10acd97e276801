//! One row of the matrix: a cluster, one fault again and again, all loads side by side, and what came of it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use meridian::cli::http::encode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::observer::{Observer, seqs};
use super::{Fault, World};
use crate::checkers::convergence::{self, Contents, View};
use crate::checkers::observed::Observed;
use crate::checkers::{determinism, stability};
use crate::client::{Ask, Client};
use crate::history::Outcome;
use crate::history::files::write_if_asked;
use crate::history::rest::Rest;
use crate::loads::{Load, Plan, Running, join_text, panic_text};

/// Quiet between two strikes, in milliseconds.
const QUIET_MS: std::ops::Range<u64> = 300..1500;
/// How long everything may take to be whole again once the last fault has healed: liveness has this bound.
const LIVE_LIMIT: Duration = Duration::from_secs(90);
/// How long a load may take to go on.
const GO_ON_LIMIT: Duration = Duration::from_secs(20);
/// Operations that each load must do after the last fault.
const GO_ON: usize = 5;
/// Keys per page of a listing.
const PAGE: usize = 500;
/// Reads under way at one node.
const READS: usize = 8;
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub struct RowPlan {
    /// What goes wrong.
    pub fault: Fault,
    /// What clients do meanwhile.
    pub loads: Vec<Load>,
    /// Draws the faults' victims and what sessions do.
    pub seed: u64,
    /// How long the fault strikes again and again.
    pub lasts: Duration,
    /// Mean pause of a session between two operations.
    pub pace: Duration,
}

/// What came of one load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// How many runs it sums up.
    pub runs: usize,
    /// Operations that were answered with success.
    pub done: usize,
    /// Operations that surely did not take place.
    pub refused: usize,
    /// Operations whose outcome is unknown.
    pub unknown: usize,
    /// Everything that broke a law.
    pub violations: Vec<String>,
}

/// What came of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The seeds of its runs.
    pub seeds: Vec<u64>,
    /// Why this machine cannot make the fault: then nothing was run.
    pub skipped: Option<String>,
    /// How many faults struck.
    pub faults: usize,
    /// By load.
    pub cells: BTreeMap<Load, Cell>,
    /// What broke without being a load's: a fault that did not bite, a node that does not return, nodes that differ.
    pub violations: Vec<String>,
    /// The longest time from the last fault until all nodes were ready, all loads had gone on, and, not counting the
    /// time that loads took to end, all nodes were found equal.
    pub whole_after: Duration,
}

impl Row {
    /// All violations, each with the load that it is of.
    pub fn all_violations(&self) -> Vec<String> {
        let own = self.violations.iter().cloned();
        let of_loads = self.cells.iter().flat_map(|(load, cell)| {
            cell.violations.iter().map(move |violation| format!("{}: {violation}", load.name()))
        });
        own.chain(of_loads).collect()
    }

    /// Adds what came of another run of the same row.
    pub fn add(&mut self, other: Row) {
        self.seeds.extend(other.seeds);
        self.skipped = self.skipped.take().or(other.skipped);
        self.faults += other.faults;
        self.violations.extend(other.violations);
        self.whole_after = self.whole_after.max(other.whole_after);
        for (load, cell) in other.cells {
            let sum = self.cells.entry(load).or_default();
            sum.runs += cell.runs;
            sum.done += cell.done;
            sum.refused += cell.refused;
            sum.unknown += cell.unknown;
            sum.violations.extend(cell.violations);
        }
    }
}

impl RowPlan {
    /// Runs it with `binary` as the program. A run that fails as a whole is a violation, not a panic.
    pub async fn run(&self, binary: &str) -> Row {
        let row = AssertUnwindSafe(self.attempt(binary)).catch_unwind().await;
        row.unwrap_or_else(|panic| Row {
            seeds: vec![self.seed],
            violations: vec![format!("the run failed: {}", panic_text(panic))],
            ..Row::default()
        })
    }

    async fn attempt(&self, binary: &str) -> Row {
        let mut row = Row { seeds: vec![self.seed], ..Row::default() };
        let world = match World::start(binary, self.fault).await {
            Ok(world) => world,
            Err(why) => return Row { skipped: Some(why), ..row },
        };
        let nodes: Vec<(String, Client)> =
            world.fleet().node_names().into_iter().map(|n| (n.clone(), world.fleet().node(&n))).collect();
        let plan = Plan { seed: self.seed, run: "run".into(), pace: self.pace, operations_max: usize::MAX };
        let running: Vec<Running> = self.loads.iter().map(|load| load.start(&plan, &nodes)).collect();
        let observer = Observer::start(&nodes);
        self.strike(&world, &mut row).await;
        let struck = Instant::now();
        if let Err(why) = world.heal_all().await {
            row.violations.push(why);
        }
        if let Err(e) = world.fleet().cluster().wait_ready(LIVE_LIMIT).await {
            row.violations.push(format!("not ready {LIVE_LIMIT:?} after the last fault: {e}"));
        }
        let ready = struck.elapsed();
        go_on(&running, &mut row).await;
        let on = struck.elapsed();
        let mut done = Vec::new();
        running.iter().for_each(Running::stop);
        for running in running {
            done.push(running.finish().await);
        }
        let ended = struck.elapsed();
        let at_rest = at_rest(&nodes).await;
        let seen = observer.finish().await;
        let rest = match at_rest {
            Ok(views) => {
                match seen {
                    Ok(seen) => row.violations.extend(always(&seen, &views)),
                    Err(why) => row.violations.push(why),
                }
                row.violations.extend(convergence::check(&views).iter().map(ToString::to_string));
                let rest = |view: View| Rest { node: view.node, contents: view.contents };
                views.into_iter().map(rest).collect()
            }
            Err(why) => {
                row.violations.push(why);
                Vec::new()
            }
        };
        row.whole_after = on + struck.elapsed().saturating_sub(ended);
        println!(
            "  after the last fault: ready {:.1} s, all loads went on {:.1} s; ended {:.1} s, found equal {:.1} s",
            ready.as_secs_f64(),
            on.as_secs_f64(),
            ended.as_secs_f64(),
            struck.elapsed().as_secs_f64()
        );
        for mut done in done {
            done.catch_up(&nodes).await;
            let judging = done.clone();
            let rest: Vec<Rest> = rest.clone();
            let judged = tokio::task::spawn_blocking(move || judging.judge(&rest)).await;
            let mut violations = done.broken.clone();
            match judged {
                Ok(judged) => violations.extend(judged.iter().map(ToString::to_string)),
                Err(e) => violations.push(format!("the checker failed: {}", join_text(e))),
            }
            let cell = Cell {
                runs: 1,
                done: done.history.count(Outcome::Ok),
                refused: done.history.count(Outcome::Failed),
                unknown: done.history.count(Outcome::Unknown),
                violations,
            };
            for (name, history) in done.histories() {
                write_if_asked(&history, &format!("{}-{name}-{}", self.fault.name(), self.seed));
            }
            row.cells.insert(done.load, cell);
        }
        if !row.all_violations().is_empty() {
            world.keep_files();
        }
        row
    }

    /// Strikes again and again for as long as the row lasts.
    async fn strike(&self, world: &World, row: &mut Row) {
        // Rows with the same seed are not to strike the same victims all the same.
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(100).wrapping_add(self.fault as u64));
        let until = Instant::now() + self.lasts;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(random.random_range(QUIET_MS))).await;
            let struck = self.fault.strike(world, random.random()).await;
            for note in &struck.notes {
                println!("    {note}");
            }
            row.faults += struck.times;
            row.violations.extend(struck.violations);
        }
    }
}

/// What must have held of nodes at any moment, and did not.
fn always(seen: &[Observed], rest: &[View]) -> Vec<String> {
    let vectors: Vec<_> =
        rest.iter().map(|view| (view.node.clone(), seqs(&view.vector).unwrap_or_default())).collect();
    let (mut violations, compared) = determinism::check(seen);
    violations.extend(stability::check(seen, &vectors));
    println!("  nodes were seen {} times, {compared} times at an index that was known", seen.len());
    violations.iter().map(ToString::to_string).collect()
}

/// Waits until every load has done something since the last fault.
async fn go_on(running: &[Running], row: &mut Row) {
    let wanted: Vec<usize> = running.iter().map(|load| load.done() + GO_ON).collect();
    let deadline = Instant::now() + GO_ON_LIMIT;
    let behind = || -> Vec<&str> {
        let loads = running.iter().zip(&wanted);
        loads.filter(|(load, wanted)| load.done() < **wanted).map(|(load, _)| load.load().name()).collect()
    };
    while !behind().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    for load in behind() {
        row.violations.push(format!("{load} does not go on within {GO_ON_LIMIT:?} after the last fault"));
    }
}

/// What all nodes hold, once all have applied the same.
async fn at_rest(nodes: &[(String, Client)]) -> Result<Vec<View>, String> {
    let deadline = Instant::now() + LIVE_LIMIT;
    loop {
        match statuses(nodes).await {
            Ok(seen) => {
                let mut views = Vec::new();
                for ((node, client), (vector, digest)) in nodes.iter().zip(seen) {
                    let contents = contents(client).await.map_err(|why| format!("{node}: {why}"))?;
                    views.push(View { node: node.clone(), vector, digest, contents });
                }
                return Ok(views);
            }
            Err(why) if Instant::now() > deadline => {
                return Err(format!("no convergence within {LIVE_LIMIT:?} after the last fault: {why}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The vector and the digest of each node, if all have the same vector. Digests may differ: that is for the checker.
async fn statuses(nodes: &[(String, Client)]) -> Result<Vec<(Value, String)>, String> {
    let mut seen: Vec<(Value, String)> = Vec::new();
    for (name, client) in nodes {
        let status = client.status().await.map_err(|e| format!("{name}: {e}"))?;
        let digest = status["digest"].as_str().unwrap_or_default().to_string();
        if let Some((first, _)) = seen.first()
            && *first != status["vector"]
        {
            return Err(format!("{name} has {}, the first {first}", status["vector"]));
        }
        seen.push((status["vector"].clone(), digest));
    }
    Ok(seen)
}

/// Everything that a node reads, now.
async fn contents(client: &Client) -> Result<Contents, String> {
    let mut keys = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let after = cursor.map(|cursor| format!("&cursor={}", encode(&cursor))).unwrap_or_default();
        let page = get(client, &format!("/v1/spaces/default/keys?limit={PAGE}{after}")).await?;
        let rows = page["keys"].as_array().into_iter().flatten();
        keys.extend(rows.filter_map(|row| row["key"].as_str().map(str::to_string)));
        cursor = page["cursor"].as_str().map(str::to_string);
        if cursor.is_none() {
            break;
        }
    }
    let reads = keys.into_iter().map(|key| async move {
        let value = get(client, &format!("/v1/spaces/default/keys/{}", encode(&key))).await?;
        Ok((key, value["value"].clone()))
    });
    let read: Vec<Result<(String, Value), String>> =
        stream::iter(reads).buffer_unordered(READS).collect().await;
    read.into_iter().collect()
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let reply = client.send(&Ask::get(path).eventual()).await.map_err(|e| e.to_string())?;
    if reply.done() { Ok(reply.body) } else { Err(format!("{path}: {} {}", reply.status, reply.body)) }
}
