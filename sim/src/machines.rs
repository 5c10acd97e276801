//! The machines of a cluster: their disks, clocks and nodes, and what the faults do to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use meridian::config::Config;
use meridian::seams::SimDisk;
use meridian::server::{ServeOptions, run};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use turmoil::Sim;

use crate::faults::Fault;
use crate::options::{Options, Place, Shape};
use crate::seams::{Connections, Knobs, seams};
use crate::trace::Trace;

/// The usual delay inside a DC, at most.
const LAN_MS_MAX: u64 = 4;

/// What a node's process and the driver share.
struct Machine {
    host: Arc<str>,
    config: Config,
    seed: u64,
    trace: Trace,
    knobs: Knobs,
    state: Mutex<State>,
}

struct State {
    disk: SimDisk,
    boots: u64,
    connections: Connections,
    told: watch::Sender<Told>,
    process: Process,
    /// Whether its disk was made to fail.
    doomed: bool,
}

/// What a process is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Run,
    /// As by SIGTERM.
    Stop,
    /// As by SIGKILL.
    Die,
}

/// What has become of a machine's process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Process {
    Running,
    /// It has ended, as told or by itself, and the driver has not seen it yet.
    Ended(Result<(), String>),
    Gone,
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One life of the node. It never returns: the driver removes what is left of an ended process.
    async fn live(self: Arc<Self>) {
        let (disk, boot, told, connections) = {
            let mut state = self.state();
            state.boots += 1;
            state.process = Process::Running;
            state.told = watch::Sender::new(Told::Run);
            state.connections = Connections::default();
            (state.disk.clone(), state.boots, state.told.subscribe(), state.connections.clone())
        };
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(boot);
        let seams = seams(&self.host, seed, disk.clone(), &self.knobs, connections.clone(), &self.trace);
        self.trace.note(&self.host, format_args!("boot {boot}"));
        // A dropped sender belongs to an earlier life.
        let told = |what: Told| {
            let mut told = told.clone();
            async move { drop(told.wait_for(|told| *told == what).await) }
        };
        let mut running =
            run(self.config.clone(), ServeOptions::default(), seams, told(Told::Stop).boxed()).boxed();
        let ended = tokio::select! {
            biased;
            () = told(Told::Die) => Ok(()),
            ended = &mut running => ended.map_err(|error| error.to_string()),
        };
        // Nothing of an ended process touches the disk any more, and the system closes its connections.
        disk.cut_after(0);
        connections.close();
        drop(running);
        self.trace.note(&self.host, format_args!("ended {ended:?}"));
        self.state().process = Process::Ended(ended);
        std::future::pending::<()>().await;
    }
}

/// All machines of a cluster.
pub(crate) struct Machines {
    shape: Arc<Shape>,
    all: BTreeMap<Place, Arc<Machine>>,
    cuts: Vec<(usize, Vec<String>, Vec<String>, bool)>,
    down: BTreeMap<Place, u32>,
    trace: Trace,
    rng: SmallRng,
}

impl Machines {
    /// Machines with empty disks, registered as hosts of `sim`; an error is one of the configuration.
    pub(crate) fn new(
        sim: &mut Sim<'_>,
        options: &Options,
        shape: &Arc<Shape>,
        trace: &Trace,
        rng: &mut SmallRng,
    ) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for place in shape.places() {
            let text = shape.config_text(place.dc);
            let node = format!("n{}", place.id);
            let config = Config::parse("simulated", &text, Some(&node), std::iter::empty(), &[]);
            let config = config.map_err(|error| error.to_string())?;
            let host: Arc<str> = shape.host(place).into();
            let disk = SimDisk::new();
            let state = State {
                disk,
                boots: 0,
                connections: Connections::default(),
                told: watch::Sender::new(Told::Run),
                process: Process::Running,
                doomed: false,
            };
            let machine = Arc::new(Machine {
                host: host.clone(),
                config,
                seed: rng.random(),
                trace: trace.clone(),
                knobs: Knobs { is_disk_lying: options.lying_disks, ..Knobs::default() },
                state: Mutex::new(state),
            });
            all.insert(place, machine.clone());
            sim.host(&*host, move || {
                let life = machine.clone().live();
                async move {
                    life.await;
                    Ok(())
                }
            });
        }
        let rng = SmallRng::from_rng(rng);
        Ok(Self {
            shape: shape.clone(),
            all,
            cuts: Vec::new(),
            down: BTreeMap::new(),
            trace: trace.clone(),
            rng,
        })
    }

    fn hosts(&self, places: &[Place]) -> Vec<String> {
        places.iter().map(|place| self.shape.host(*place)).collect()
    }

    /// The usual delays.
    pub(crate) fn set_delays(&self, sim: &Sim<'_>, more_ms: u64) {
        let places = self.shape.places();
        for (i, a) in places.iter().enumerate() {
            for b in &places[i + 1..] {
                let (min, max) = if a.dc == b.dc { (1, LAN_MS_MAX) } else { self.shape.wan_ms };
                let (a, b) = (self.shape.host(*a), self.shape.host(*b));
                sim.set_link_latency(a.as_str(), b.as_str(), Duration::from_millis(min));
                sim.set_link_max_message_latency(a, b, Duration::from_millis(max + more_ms));
            }
        }
    }

    /// How often nodes were started.
    pub(crate) fn boots(&self) -> u64 {
        self.all.values().map(|machine| machine.state().boots).sum()
    }

    /// Removes what is left of processes that have ended; says which did although nothing was done to them.
    pub(crate) fn bury(&mut self, sim: &mut Sim<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let places: Vec<Place> = self.all.keys().copied().collect();
        for place in places {
            let machine = self.all[&place].clone();
            let (process, doomed) = {
                let state = machine.state();
                (state.process.clone(), state.doomed)
            };
            if let Process::Ended(ended) = process {
                self.remove(sim, place);
                if let (Err(why), false) = (ended, doomed) {
                    found.push(format!("{} ended by itself: {why}", machine.host));
                }
            }
        }
        found
    }

    /// Begins a fault.
    pub(crate) fn begin(&mut self, sim: &mut Sim<'_>, number: usize, fault: &Fault) {
        self.trace.note("driver", format_args!("begin {number} {fault:?}"));
        match fault {
            Fault::PowerCut(places) => {
                for place in places {
                    self.take_down(*place);
                    self.cut_power(sim, *place);
                }
            }
            Fault::DiskDies(place, changes) => {
                self.take_down(*place);
                let mut state = self.all[place].state();
                state.doomed = true;
                state.disk.cut_after(*changes);
            }
            Fault::Stop(place) => self.tell(*place, Told::Stop),
            Fault::Kill(place) => self.tell(*place, Told::Die),
            Fault::Cut { from, to, both_ways } => {
                self.cuts.push((number, self.hosts(from), self.hosts(to), *both_ways));
                self.apply_cuts(sim);
            }
            Fault::Loss(rate) => sim.set_fail_rate(*rate),
            Fault::Delay(more_ms) => self.set_delays(sim, *more_ms),
            Fault::SlowDisk(place, ms) => self.set_disk_delay(*place, *ms),
            Fault::ClockJump(place, ms) => self.set_clock(*place, *ms),
        }
    }

    /// Ends a fault.
    pub(crate) fn end(&mut self, sim: &mut Sim<'_>, number: usize, fault: &Fault) {
        self.trace.note("driver", format_args!("end {number}"));
        match fault {
            Fault::PowerCut(places) => {
                for place in places {
                    self.bring_up(sim, *place);
                }
            }
            Fault::DiskDies(place, _) | Fault::Stop(place) | Fault::Kill(place) => self.bring_up(sim, *place),
            Fault::Cut { .. } => {
                self.cuts.retain(|(cut, ..)| *cut != number);
                self.apply_cuts(sim);
            }
            Fault::Loss(_) => {
                sim.set_fail_rate(0.0);
                self.apply_cuts(sim);
            }
            Fault::Delay(_) => self.set_delays(sim, 0),
            Fault::SlowDisk(place, _) => self.set_disk_delay(*place, 0),
            Fault::ClockJump(place, _) => self.set_clock(*place, 0),
        }
    }

    fn set_disk_delay(&self, place: Place, ms: u64) {
        self.all[&place].knobs.disk_delay_ms_max.store(ms, std::sync::atomic::Ordering::Relaxed);
    }

    fn set_clock(&self, place: Place, ms: i64) {
        self.all[&place].knobs.clock_offset_ms.store(ms, std::sync::atomic::Ordering::Relaxed);
    }

    /// Counts the faults that keep a machine down: it comes up with the end of the last one.
    fn take_down(&mut self, place: Place) {
        *self.down.entry(place).or_default() += 1;
    }

    fn tell(&mut self, place: Place, what: Told) {
        self.take_down(place);
        self.all[&place].state().told.send_replace(what);
    }

    /// Nothing of the process survives; the disk keeps what was written.
    fn remove(&mut self, sim: &mut Sim<'_>, place: Place) {
        let machine = self.all[&place].clone();
        let mut state = machine.state();
        if state.process == Process::Gone {
            return;
        }
        state.process = Process::Gone;
        state.disk.cut_after(0);
        state.connections.close();
        let disk = state.disk.handover();
        let dying = std::mem::replace(&mut state.disk, disk);
        drop(state);
        self.trace.muted(|| sim.crash(&*machine.host));
        drop(dying);
    }

    /// As [`Self::remove`], and of the disk there is left what was synced and some of the rest.
    fn cut_power(&mut self, sim: &mut Sim<'_>, place: Place) {
        self.remove(sim, place);
        let seed = self.rng.random();
        let mut state = self.all[&place].state();
        state.disk = state.disk.restart(seed);
        state.doomed = false;
    }

    fn bring_up(&mut self, sim: &mut Sim<'_>, place: Place) {
        let faults = self.down.entry(place).or_insert(1);
        *faults -= 1;
        if *faults > 0 {
            return;
        }
        let machine = self.all[&place].clone();
        let doomed = machine.state().doomed;
        if doomed {
            self.cut_power(sim, place);
        }
        self.remove(sim, place);
        sim.bounce(&*machine.host);
    }

    /// Makes the network such as the current cuts say.
    fn apply_cuts(&self, sim: &Sim<'_>) {
        let all = self.shape.places();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                sim.repair(self.shape.host(*a), self.shape.host(*b));
            }
        }
        for (_, from, to, both_ways) in &self.cuts {
            for a in from {
                for b in to {
                    sim.partition_oneway(a.as_str(), b.as_str());
                    if *both_ways {
                        sim.partition_oneway(b.as_str(), a.as_str());
                    }
                }
            }
        }
    }
}
