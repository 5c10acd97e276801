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
use crate::options::{Place, Shape};
use crate::seams::{Knobs, seams};
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
    stop: watch::Sender<bool>,
    /// Why the node ended by itself, if it did.
    ended: Option<Result<(), String>>,
    /// Whether its disk was made to fail.
    doomed: bool,
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One life of the node.
    async fn live(self: Arc<Self>) {
        let (disk, boot, mut stopped) = {
            let mut state = self.state();
            state.boots += 1;
            state.ended = None;
            state.stop = watch::Sender::new(false);
            (state.disk.clone(), state.boots, state.stop.subscribe())
        };
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(boot);
        let seams = seams(&self.host, seed, disk, &self.knobs, &self.trace);
        self.trace.note(&self.host, format_args!("boot {boot}"));
        let stop = async move {
            // A dropped sender belongs to an earlier life.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let ended = run(self.config.clone(), ServeOptions::default(), seams, stop.boxed()).await;
        let ended = ended.map_err(|error| error.to_string());
        self.trace.note(&self.host, format_args!("ended {ended:?}"));
        self.state().ended = Some(ended);
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
            let stop = watch::Sender::new(false);
            let state = State { disk, boots: 0, stop, ended: None, doomed: false };
            let machine = Arc::new(Machine {
                host: host.clone(),
                config,
                seed: rng.random(),
                trace: trace.clone(),
                knobs: Knobs::default(),
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
        Ok(Self { shape: shape.clone(), all, cuts: Vec::new(), down: BTreeMap::new(), trace: trace.clone(), rng })
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

    /// Nodes that ended by themselves although nothing was done to them.
    pub(crate) fn unexpected_ends(&self) -> Vec<String> {
        let mut found = Vec::new();
        for machine in self.all.values() {
            let mut state = machine.state();
            if let (Some(Err(why)), false) = (&state.ended, state.doomed) {
                found.push(format!("{} ended by itself: {why}", machine.host));
                state.doomed = true;
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
                    self.power_off(sim, *place);
                }
            }
            Fault::DiskDies(place, changes) => {
                self.take_down(*place);
                let mut state = self.all[place].state();
                state.doomed = true;
                state.disk.cut_after(*changes);
            }
            Fault::Stop(place) => {
                self.take_down(*place);
                self.all[place].state().stop.send_replace(true);
            }
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
            Fault::DiskDies(place, _) | Fault::Stop(place) => self.bring_up(sim, *place),
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

    /// Nothing of the process survives, and of the disk what was synced and some of the rest.
    fn power_off(&mut self, sim: &mut Sim<'_>, place: Place) {
        let machine = self.all[&place].clone();
        // What the dying process still wants to write does not reach the disk.
        machine.state().disk.cut_after(0);
        sim.crash(&*machine.host);
        let seed = self.rng.random();
        let mut state = machine.state();
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
        let stopped_well = matches!(machine.state().ended, Some(Ok(())));
        if !stopped_well || machine.state().doomed {
            self.power_off(sim, place);
        }
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
