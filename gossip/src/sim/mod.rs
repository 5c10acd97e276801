//! A seeded simulation of links between datacenters: the real protocol machines, a virtual network that delays,
//! resets, duplicates and cuts, and a virtual clock.
//!
//! What a datacenter is stands behind [`World`]: a few lines in the tests of this crate, replicated logs of the
//! production apply with clients in the tests of whole clusters. Everything follows from the seed: one thread, one
//! queue of events, one source of randomness. It must not know what a txn means, how logs elect leaders, or what
//! clients ask.

mod network;
pub mod rng;
pub mod trace;
pub mod world;

use std::collections::{BTreeMap, VecDeque};

use crate::config::{GossipConfig, Identity};
use crate::proto::Machine;
use crate::proto::event::{Event, Now, Output};
use crate::proto::message::Message;
use crate::proto::status::LinkStatus;

pub use self::network::Network;
pub use self::rng::Rng;
pub use self::trace::Trace;
pub use self::world::{At, Env, World};

use self::network::Side;
use self::world::Action;

/// The longest that a read of the oplog takes, in milliseconds.
const READ_MS_MAX: u64 = 3;

/// What does not change during a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes each datacenter has.
    pub nodes: Vec<u64>,
    /// What the machines run with.
    pub config: GossipConfig,
    /// One-way delay between datacenters, from and to, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Of 1000 messages so many arrive twice.
    pub duplicates: u64,
    /// Of 1000 messages so many reset their connection.
    pub resets: u64,
}

/// The name of a datacenter.
pub fn name(dc: usize) -> String {
    format!("dc{dc}")
}

#[derive(Clone, Debug)]
enum Ev<E> {
    Tick { at: At, generation: u64 },
    Deliver { side: Side, conn: u64, event: Event },
    Machine { at: At, life: u64, event: Event },
    Heal { from: usize, to: usize, cut: u64 },
    World(E),
}

struct Node {
    machine: Machine,
    life: u64,
    up: bool,
    tick_at: Option<u64>,
    tick_generation: u64,
}

/// One run.
pub struct Sim<W: World> {
    /// What does not change, except that healing ends duplicates and resets.
    pub options: Options,
    /// The run's randomness.
    pub rng: Rng,
    /// Virtual milliseconds since the start.
    pub now_ms: u64,
    /// The datacenters behind the machines.
    pub world: W,
    /// Connections and cuts.
    pub network: Network,
    nodes: BTreeMap<At, Node>,
    queue: BTreeMap<(u64, u64), Ev<W::Event>>,
    queued: u64,
    due: VecDeque<Action<W::Event>>,
    trace: Trace,
}

impl<W: World> Sim<W> {
    /// Machines of all nodes, up and without a leader.
    pub fn new(seed: u64, options: Options, world: W, traced: bool) -> Self {
        let mut sim = Self {
            rng: Rng::new(seed),
            now_ms: 1,
            world,
            network: Network::new(),
            nodes: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            due: VecDeque::new(),
            trace: Trace::new(traced),
            options,
        };
        for dc in 0..sim.options.nodes.len() {
            for node in 1..=sim.options.nodes[dc] {
                let at = At { dc, node };
                let machine = sim.machine(at);
                let state = Node { machine, life: 0, up: true, tick_at: None, tick_generation: 0 };
                sim.nodes.insert(at, state);
            }
        }
        sim
    }

    /// What happened so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    fn machine(&mut self, at: At) -> Machine {
        let all = self.options.nodes.iter().enumerate();
        let members = all.filter(|(dc, _)| *dc != at.dc).map(|(dc, n)| (name(dc), (1..=*n).collect()));
        let identity = Identity { cluster: 7, dc: name(at.dc), node: at.node, members: members.collect() };
        Machine::new(identity, self.options.config.clone(), self.rng.next())
    }

    fn push(&mut self, at_ms: u64, ev: Ev<W::Event>) {
        self.queued += 1;
        self.queue.insert((at_ms, self.queued), ev);
    }

    fn note(&mut self, what: &str) {
        self.trace.add(format!("{} {what}", self.now_ms));
    }

    /// Runs until `until_ms`.
    pub fn run(&mut self, until_ms: u64) {
        while let Some(entry) = self.queue.first_entry() {
            let at_ms = entry.key().0;
            if at_ms > until_ms {
                break;
            }
            let ev = entry.remove();
            self.now_ms = self.now_ms.max(at_ms);
            self.step(ev);
            self.perform_due();
        }
        self.now_ms = until_ms;
    }

    /// Calls the world, and does what it asks for.
    pub fn with_world<R>(&mut self, call: impl FnOnce(&mut W, &mut Env<'_, W::Event>) -> R) -> R {
        let result = self.call(call);
        self.perform_due();
        result
    }

    fn call<R>(&mut self, call: impl FnOnce(&mut W, &mut Env<'_, W::Event>) -> R) -> R {
        let mut env =
            Env { now_ms: self.now_ms, rng: &mut self.rng, trace: &mut self.trace, actions: Vec::new() };
        let result = call(&mut self.world, &mut env);
        self.due.extend(env.actions);
        result
    }

    fn perform_due(&mut self) {
        while let Some(action) = self.due.pop_front() {
            match action {
                Action::After { delay_ms, event } => self.push(self.now_ms + delay_ms, Ev::World(event)),
                Action::Give { at, event } => {
                    if self.nodes[&at].up {
                        self.give(at, event);
                    }
                }
                Action::Start { at } => self.node(at).up = true,
                Action::Stop { at, silently } => self.stop(at, silently),
                Action::Cut { from, to, lasting_ms } => self.cut(from, to, lasting_ms),
                Action::ResetAny => {
                    let conns = self.network.open_conns();
                    if !conns.is_empty() {
                        let conn = *self.rng.pick(&conns);
                        self.note(&format!("fault: connection {conn} is reset"));
                        self.reset(conn);
                    }
                }
            }
        }
    }

    fn node(&mut self, at: At) -> &mut Node {
        self.nodes.get_mut(&at).expect("every node is there from the start")
    }

    fn stop(&mut self, at: At, silently: bool) {
        if !self.nodes[&at].up {
            return;
        }
        let machine = self.machine(at);
        self.drop_conns_of(at, silently);
        let node = self.node(at);
        node.up = false;
        node.life += 1;
        node.machine = machine;
        node.tick_at = None;
        node.tick_generation += 1;
    }

    /// The links of a node, as an operator is shown them.
    pub fn links(&self, at: At) -> Vec<LinkStatus> {
        self.nodes[&at].machine.status(self.now(at)).links
    }

    /// All that a node's machine shows of itself, for a failed run.
    pub fn describe(&self, at: At) -> String {
        let node = &self.nodes[&at];
        format!("life {} {:#?}", node.life, node.machine.status(self.now(at)))
    }

    fn now(&self, at: At) -> Now {
        Now { ms: self.now_ms, unix_ms: self.world.unix_ms(at, self.now_ms) }
    }

    fn step(&mut self, ev: Ev<W::Event>) {
        match ev {
            Ev::Tick { at, generation } => {
                let node = self.node(at);
                if node.up && node.tick_generation == generation {
                    node.tick_at = None;
                    self.give(at, Event::Tick);
                }
            }
            Ev::Machine { at, life, event } => {
                if self.nodes[&at].up && self.nodes[&at].life == life {
                    self.give(at, event);
                }
            }
            Ev::Deliver { side, conn, event } => self.deliver(side, conn, event),
            Ev::Heal { from, to, cut } => {
                if self.network.cuts.get(&(from, to)) == Some(&cut) {
                    self.heal(from, to);
                }
            }
            Ev::World(event) => self.call(|world, env| world.handle(event, env)),
        }
    }

    /// Gives an event to a machine and does what it says.
    fn give(&mut self, at: At, event: Event) {
        if !matches!(event, Event::Tick) {
            self.note(&format!("{at} <- {}", brief(&event)));
        }
        let now = self.now(at);
        let node = self.node(at);
        node.machine.handle(event, now);
        node.machine.validate();
        let mut outputs = Vec::new();
        while let Some(output) = node.machine.poll_output() {
            outputs.push(output);
        }
        let deadline = node.machine.deadline_ms();
        if let Some(due) = deadline
            && node.tick_at.is_none_or(|known| due < known)
        {
            node.tick_at = Some(due);
            node.tick_generation += 1;
            let generation = node.tick_generation;
            self.push(due.max(self.now_ms + 1), Ev::Tick { at, generation });
        }
        for output in outputs {
            self.perform(at, output);
        }
    }

    /// Schedules an event for a machine of this life.
    fn later(&mut self, delay_ms: u64, at: At, event: Event) {
        let life = self.nodes[&at].life;
        self.push(self.now_ms + delay_ms, Ev::Machine { at, life, event });
    }

    fn perform(&mut self, at: At, output: Output) {
        match output {
            Output::Dial { dc: to, node: to_node, attempt } => self.dial(at, to, to_node, attempt),
            Output::Send { conn, message } => {
                self.world.sends(at, &message);
                self.transmit(at, conn, Event::Received { conn, message });
            }
            Output::Close { conn, why } => self.transmit(at, conn, Event::Closed { conn, why }),
            Output::ReadOplog { conn, ticket, from, lacking, want, bytes_max } => {
                let result = self.world.read_oplog(at, from, &lacking, &want, bytes_max);
                let delay = self.rng.below(READ_MS_MAX);
                self.later(delay, at, Event::OplogRead { conn, ticket, result });
            }
            Output::Propose { ticket, remote } => {
                self.call(|world, env| world.propose(at, ticket, remote, env));
            }
            Output::LostTail { lost } => self.call(|world, env| world.lost_tail(at, lost, env)),
            Output::Alarm { dc: about, what } => {
                self.note(&format!("{at} alarm about {about}: {what}"));
                self.call(|world, env| world.alarm(at, &about, &what, env));
            }
        }
    }
}

/// An event in a few words.
fn brief(event: &Event) -> String {
    match event {
        Event::View(view) => {
            format!("view {:?} {:?} {:?} {}", view.leading, view.leader_node, view.vector, view.oplog_end)
        }
        Event::Received { conn, message } => match message {
            Message::Hello(hello) => {
                format!("{conn} hello {} {:?} {:?}", hello.dc, hello.leading, hello.vector)
            }
            Message::Txns(txns) => {
                format!(
                    "{conn} {} txns, {} bytes",
                    txns.len(),
                    txns.iter().map(bytes::Bytes::len).sum::<usize>()
                )
            }
            Message::Part { total, data } => format!("{conn} {} of {total} bytes", data.len()),
            other => format!("{conn} {other:?}"),
        },
        Event::OplogRead { conn, ticket, result } => match result {
            Ok(chunk) => format!("{conn} read {ticket}: {} txns, next {}", chunk.entries.len(), chunk.next),
            Err(why) => format!("{conn} read {ticket}: {why}"),
        },
        other => format!("{other:?}"),
    }
}
