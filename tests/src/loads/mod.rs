//! Loads: what clients do while faults strike, and what must hold of it afterwards.
//!
//! Each load makes a history and is held to it by the checkers of [`crate::checkers`]; it checks nothing itself while it
//! runs. Its sessions are few and paced, so that all loads run side by side on one cluster. Everything that a session
//! draws comes from a seed and its number; when its answers come does not.

mod interactive;
mod judge;
mod rw_register;
mod session;
mod simple;
mod txns;
mod watching;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::Client;
use crate::history::{History, Outcome};
use session::{Ground, Session};
use watching::Watched;

/// The DCs that loads write to.
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Every acknowledged element of a set is read everywhere (set-full).
    Set,
    /// Every acknowledged edit of a document is read everywhere, once.
    Document,
    /// Increments count once each.
    Counter,
    /// Registers that all DCs set: one winner, and nothing that a session knew replaced.
    Register,
    /// Registers that one DC sets: linearizable there.
    Linear,
    /// Transfers between accounts keep the total, at every moment and in every DC.
    Bank,
    /// Post, reply, reply: never a reply without what it answers.
    Causal,
    /// Two writes of one DC appear in the same order to everybody there.
    Fork,
    /// Transactions that append to lists are serializable in their DC.
    Txn,
    /// Interactive transactions through the Rust client are serializable in their DC.
    Interactive,
    /// Interactive transactions over several registers: what each level promises in a DC, and causal between DCs.
    RwRegister,
    /// Sessions that move between all nodes keep the four guarantees.
    Moves,
    /// A name that must be absent is claimed by one.
    Claims,
    /// What is deleted stays deleted, and what is made again stays.
    Recreate,
    /// Watchers that move are shown each change once, whole and in order.
    Watch,
}

impl Load {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 15] = [
        Self::Set,
        Self::Document,
        Self::Counter,
        Self::Register,
        Self::Linear,
        Self::Bank,
        Self::Causal,
        Self::Fork,
        Self::Txn,
        Self::Interactive,
        Self::RwRegister,
        Self::Moves,
        Self::Claims,
        Self::Recreate,
        Self::Watch,
    ];

    /// Its name on the command line and in the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Document => "document",
            Self::Counter => "counter",
            Self::Register => "register",
            Self::Linear => "linear",
            Self::Bank => "bank",
            Self::Causal => "causal",
            Self::Fork => "fork",
            Self::Txn => "txn",
            Self::Interactive => "interactive",
            Self::RwRegister => "rw-register",
            Self::Moves => "moves",
            Self::Claims => "claims",
            Self::Recreate => "recreate",
            Self::Watch => "watch",
        }
    }

    /// What its clients do and what must hold, in a few words.
    pub fn story(self) -> &'static str {
        match self {
            Self::Set => {
                "unique elements into shared sets from all DCs: every acknowledged one is read everywhere (set-full)"
            }
            Self::Document => {
                "edits of shared documents from all DCs, each an update of Yjs: every acknowledged one is read everywhere, once"
            }
            Self::Counter => "increments from all DCs, repeated with their request ids: each counts once",
            Self::Register => {
                "unique values into shared registers from all DCs: causal consistency, one winner everywhere"
            }
            Self::Linear => {
                "registers that one DC sets and reads at `linearizable` through all its nodes: linearizability"
            }
            Self::Bank => {
                "transfers between four counters from all DCs: every look at all of them sees the same total"
            }
            Self::Causal => {
                "post, reply, reply, each in another DC by a client who read what it answers: no reply without it"
            }
            Self::Fork => {
                "two registers set at the same time in one DC: all its nodes show them in the same order (no long fork)"
            }
            Self::Txn => {
                "transactions that read lists, append, and commit if nothing changed: strict serializability in the DC"
            }
            Self::Interactive => {
                "interactive transactions over the native protocol that read lists and append: strict serializability in the DC"
            }
            Self::RwRegister => {
                "interactive transactions that read and write several registers: strict serializability or snapshot isolation in \
                 the DC that owns the keys; everywhere causal, seen as a whole, and no update lost within a DC"
            }
            Self::Moves => {
                "sessions that move between all nodes with their token: the four session guarantees"
            }
            Self::Claims => {
                "names set on condition that they are absent: one winner each, serializable in the DC"
            }
            Self::Recreate => {
                "keys set, deleted and made again by a session that moves between DCs: exactly what it left"
            }
            Self::Watch => {
                "watchers that move between nodes and DCs: each change once, each transaction whole, in causal order"
            }
        }
    }

    /// The load of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.name() == name)
    }

    fn sessions(self) -> usize {
        match self {
            Self::Set | Self::Document | Self::Counter | Self::Register => 4,
            Self::Linear | Self::Bank | Self::Txn | Self::Interactive | Self::Claims => 6,
            Self::Causal | Self::Moves | Self::Watch => 5,
            Self::Fork => 6,
            Self::RwRegister => rw_register::SESSIONS,
            Self::Recreate => 3,
        }
    }
}

/// How loads run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Draws what sessions do.
    pub seed: u64,
    /// Begins the names of all keys: two runs with different ones do not meet.
    pub run: String,
    /// Mean pause of a session between two operations.
    pub pace: Duration,
    /// Most operations of a session.
    pub operations_max: usize,
}

/// A load at work.
#[derive(Debug)]
pub struct Running {
    load: Load,
    ground: Arc<Ground>,
    sessions: JoinSet<()>,
}

/// What a load was told.
#[derive(Clone, Debug)]
pub struct Done {
    /// The load.
    pub load: Load,
    /// What its sessions asked and were told.
    pub history: History,
    /// How often each error was met.
    pub refusals: BTreeMap<String, usize>,
    /// What no answer should have been.
    pub broken: Vec<String>,
    /// Begins the names of its keys.
    prefix: String,
    watched: Vec<Watched>,
}

impl Load {
    /// Sends its sessions off among these nodes, named as in `eu-west/1`.
    pub fn start(self, plan: &Plan, nodes: &[(String, Client)]) -> Running {
        let prefix = format!("{}/{}", plan.run, self.name());
        let ground = Arc::new(Ground::new(nodes.to_vec(), prefix, plan.pace));
        let mut sessions = JoinSet::new();
        for number in 0..self.sessions() {
            let seed = plan.seed.wrapping_mul(100).wrapping_add(self as u64);
            self.spawn(&mut sessions, Session::new(ground.clone(), number, seed, plan.operations_max));
        }
        Running { load: self, ground, sessions }
    }

    fn spawn(self, sessions: &mut JoinSet<()>, session: Session) {
        match self {
            Self::Set => sessions.spawn(simple::sets(session)),
            Self::Document => sessions.spawn(simple::documents(session)),
            Self::Counter => sessions.spawn(simple::counters(session)),
            Self::Register => sessions.spawn(simple::registers(session)),
            Self::Linear => sessions.spawn(simple::linear(session)),
            Self::Bank => sessions.spawn(txns::bank(session)),
            Self::Causal => sessions.spawn(txns::chains(session)),
            Self::Fork => sessions.spawn(txns::fork(session)),
            Self::Txn => sessions.spawn(txns::lists(session)),
            Self::Interactive => sessions.spawn(interactive::interactive(session)),
            Self::RwRegister => sessions.spawn(rw_register::rw_register(session)),
            Self::Claims => sessions.spawn(txns::claims(session)),
            Self::Recreate => sessions.spawn(txns::recreate(session)),
            Self::Watch => sessions.spawn(watching::watching(session)),
            Self::Moves => sessions.spawn(simple::moves(session)),
        };
    }
}

impl Running {
    /// Which load it is.
    pub fn load(&self) -> Load {
        self.load
    }

    /// How many operations were done so far.
    pub fn done(&self) -> usize {
        self.ground.recorder.count(Outcome::Ok)
    }

    /// Asks each session to end after its operation.
    pub fn stop(&self) {
        self.ground.stop.store(true, Ordering::Relaxed);
    }

    /// Lets each session end its operation, and returns what they were told.
    pub async fn finish(mut self) -> Done {
        self.stop();
        let mut broken = Vec::new();
        while let Some(ended) = self.sessions.join_next().await {
            if let Err(e) = ended {
                broken.push(join_text(e));
            }
        }
        Done {
            load: self.load,
            history: self.ground.recorder.history(),
            refusals: self.ground.refusals(),
            broken,
            prefix: self.ground.prefix.clone(),
            watched: self.ground.watched.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Done {
    /// Its history under its name, and below that what checkers outside this project may be asked to find serializable, or of
    /// snapshot isolation.
    pub fn histories(&self) -> Vec<(String, History)> {
        let mut histories = vec![(self.load.name().to_string(), self.history.clone())];
        if self.load == Load::RwRegister {
            for (dc, part) in DCS.iter().flat_map(|dc| rw_register::OWNED.map(|part| (dc, part))) {
                let asked = rw_register::of_part(&self.history, &self.prefix, dc, part);
                histories.push((format!("{}-{dc}-{}", self.load.name(), part.name()), asked));
            }
        }
        histories
    }

    /// Lets its watchers read what they have not been shown yet, at any node; everything must have come to rest.
    pub async fn catch_up(&mut self, nodes: &[(String, Client)]) {
        for (i, watched) in self.watched.iter_mut().enumerate() {
            let (name, node) = &nodes[i * nodes.len() / 2 % nodes.len()];
            if let Err(why) = watched.catch_up(node.server()).await {
                self.broken.push(format!("a watcher cannot catch up at {name}: {why}"));
            }
        }
    }
}

/// Why a task did not end well.
pub(crate) fn join_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_text(panic),
        Err(e) => e.to_string(),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or("it panicked".into(), |text| text.to_string()),
    }
}
