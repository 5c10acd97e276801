//! The driver: builds the cluster of a seed, lets virtual time pass, injects the faults and heals them.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use crate::editors::Editor;
use crate::eraser::Eraser;
use crate::faults::{self, Planned};
use crate::inspector::inspect;
use crate::judge::judge;
use crate::ledger::{DRAFT, Ledger};
use crate::machines::Machines;
use crate::options::{Options, Shape};
use crate::quiet::quietly;
use crate::record::recorder;
use crate::report::Report;
use crate::seams::EPOCH_MS;
use crate::slate::SLATE;
use crate::trace::{LogToTrace, Trace};
use crate::workload::{Phase, Session, Shared};

/// How much virtual time passes between two looks of the network at its messages.
const TICK: Duration = Duration::from_millis(2);
/// The end of a run that never gets anywhere, beyond all its own bounds.
const GIVE_UP_MS: u64 = 120_000;
/// Segments that a connection holds.
const TCP_SEGMENTS_MAX: usize = 1024;

/// Runs one seed: builds its cluster, loads it, breaks it, heals it, checks it. Everything but the panic message of a
/// node that panics is a function of the arguments.
pub fn run(seed: u64, options: &Options) -> Report {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shape = Arc::new(Shape::draw(options, &mut rng));
    let trace = Trace::new(options.keep_trace);
    let ledger = Ledger::of((options.sessions * shape.dcs) as u64);
    let editors = options.editors + options.editors_erased;
    let working = options.sessions + editors + usize::from(options.editors_erased > 0);
    let shared = Shared {
        ledger: Arc::new(ledger.into()),
        recorder: recorder(),
        phase: Arc::new(watch::Sender::new(Phase::Boot)),
        working: Arc::new(watch::Sender::new(working * shape.dcs)),
        comparing: Arc::new(watch::Sender::new(editors * shape.dcs)),
        converge_max: Duration::from_millis(options.converge_ms_max),
        shape: shape.clone(),
        forget_tokens: options.forget_tokens,
    };
    let subscriber = LogToTrace::new(trace.clone());
    let driven = quietly(|| {
        tracing::subscriber::with_default(subscriber, || drive(options, &shared, &trace, &mut rng))
    });
    let history = shared.recorder.history();
    let mut ledger = shared.ledger();
    if let Err(why) = driven {
        ledger.violated(why);
    }
    // Where nothing came to rest, operations under way are missing, and the rest would be blamed for it.
    if !ledger.rest.is_empty() {
        for violation in judge(&history, &ledger.rest) {
            ledger.violated(violation.to_string());
        }
    }
    let (trace_hash, trace_events) = trace.digest();
    Report {
        seed,
        cluster: format!("{} DCs of {} nodes", shape.dcs, shape.nodes),
        trace_hash,
        trace_events,
        virtual_ms: trace.now_ms(),
        counts: ledger.counts,
        violations: std::mem::take(&mut ledger.violations),
        history,
        trace: trace.take_lines(),
    }
}

fn build(shape: &Shape, rng: &mut SmallRng) -> Sim<'static> {
    let mut builder = Builder::new();
    builder
        .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(Duration::MAX)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(TCP_SEGMENTS_MAX)
        .enable_random_order()
        .rng_seed(rng.random());
    let sim = builder.build();
    // Addresses are given in the order of the first look-up.
    for place in shape.places() {
        sim.lookup(shape.host(place));
    }
    sim
}

fn drive(options: &Options, shared: &Shared, trace: &Trace, rng: &mut SmallRng) -> Result<(), String> {
    let shape = shared.shape.clone();
    let mut sim = build(&shape, rng);
    let machines = Machines::new(&mut sim, options, &shape, trace, rng)?;
    machines.set_delays(&sim, 0);
    for dc in 0..shape.dcs {
        let sessions: Vec<Session> = (0..options.sessions)
            .map(|i| Session::new((dc * options.sessions + i) as u64, dc, rng.random(), shared.clone()))
            .collect();
        // Those of the document that is deleted come behind the others, and behind them who deletes it.
        let all = options.editors + options.editors_erased + 1;
        let first = options.sessions * shape.dcs + dc * all;
        let editors: Vec<Editor> = (0..all - 1)
            .map(|i| {
                let document = if i < options.editors { DRAFT } else { SLATE };
                Editor::new((first + i) as u64, document, dc, rng.random(), shared.clone())
            })
            .collect();
        let eraser = (options.editors_erased > 0)
            .then(|| Eraser::new((first + all - 1) as u64, dc, rng.random(), shared.clone()));
        sim.client(shape.client_host(dc), async move {
            let mut clients: Vec<_> =
                sessions.into_iter().map(|session| tokio::spawn(session.run())).collect();
            clients.extend(editors.into_iter().map(|editor| tokio::spawn(editor.run())));
            clients.extend(eraser.map(|eraser| tokio::spawn(eraser.run())));
            for client in clients {
                client.await?;
            }
            Ok(())
        });
    }
    let inspected = shared.clone();
    sim.client("inspector", async move {
        inspect(inspected).await;
        Ok(())
    });
    let plan = faults::plan(options, &shape, rng);
    shared.ledger().counts.faults = plan.len() as u64;
    let mut run = Run { sim, machines, shared, trace };
    run.until(|phase| phase >= Phase::Load)?;
    if *shared.phase.borrow() == Phase::Load {
        run.load(&plan, options.load_ms)?;
        run.until(|phase| phase == Phase::Over)?;
    }
    let boots = run.machines.boots();
    shared.ledger().counts.boots = boots;
    Ok(())
}

struct Run<'a> {
    sim: Sim<'static>,
    machines: Machines,
    shared: &'a Shared,
    trace: &'a Trace,
}

impl Run<'_> {
    fn step(&mut self) -> Result<u64, String> {
        self.sim.step().map_err(|error| format!("the simulation failed: {error}"))?;
        for what in self.machines.bury(&mut self.sim) {
            self.shared.ledger().violated(what);
        }
        let now_ms = u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.trace.set_now_ms(now_ms);
        Ok(now_ms)
    }

    fn until(&mut self, reached: impl Fn(Phase) -> bool) -> Result<(), String> {
        let start_ms = self.trace.now_ms();
        while !reached(*self.shared.phase.borrow()) {
            if self.step()? > start_ms + GIVE_UP_MS {
                return Err(format!("the run does not end; it is in {:?}", *self.shared.phase.borrow()));
            }
        }
        Ok(())
    }

    /// Injects the faults at their times, and ends all of them.
    fn load(&mut self, plan: &[Planned], load_ms: u64) -> Result<(), String> {
        let start_ms = self.trace.now_ms();
        let mut begun: Vec<usize> = Vec::new();
        let mut next = 0;
        loop {
            let at_ms = self.trace.now_ms() - start_ms;
            let (over, running): (Vec<usize>, Vec<usize>) =
                begun.into_iter().partition(|i| plan[*i].until_ms <= at_ms);
            begun = running;
            for i in over {
                self.machines.end(&mut self.sim, i, &plan[i].fault);
            }
            while next < plan.len() && plan[next].from_ms <= at_ms {
                self.machines.begin(&mut self.sim, next, &plan[next].fault);
                begun.push(next);
                next += 1;
            }
            if at_ms >= load_ms && begun.is_empty() && next == plan.len() {
                break;
            }
            self.step()?;
        }
        self.trace.note("driver", format_args!("healed"));
        self.shared.phase.send_replace(Phase::Healed);
        Ok(())
    }
}
