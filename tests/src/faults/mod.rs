//! Faults over real processes: each is a small value that strikes a cluster, lasts, and heals.
//!
//! What a fault strikes is drawn from a seed. A fault that this machine cannot make says so when its [`World`] is built,
//! and counts as skipped, never as passed; one that was made and did not bite, or that a node took in a way it must not,
//! is a violation of its own. Faults know nodes only from outside, as all of this library does.

mod bad_sync;
mod disk;
mod observer;
mod report;
mod row;
mod strike;
mod world;

pub use report::{Machine, report};
pub use row::{Cell, Row, RowPlan};
pub use strike::Struck;
pub use world::World;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing: a store that fails this row needs no faults to lose data.
    None,
    /// The leader of a DC dies (SIGKILL) and returns.
    KillLeader,
    /// A follower dies and returns.
    KillFollower,
    /// All nodes of a DC die at once and return.
    KillDc,
    /// All nodes of all DCs die at once and return.
    KillAll,
    /// A leader stops for longer than an election (SIGSTOP) and goes on as if nothing had been.
    PauseLeader,
    /// Two DCs are cut off from each other.
    CutDcs,
    /// One DC is cut off from all others.
    IsolateDc,
    /// What one DC sends does not reach another; the other way works.
    CutOneWay,
    /// Two DCs are cut off and joined again several times a second.
    Flapping,
    /// A leader is cut off from its followers.
    CutLeader,
    /// A leader no longer hears its followers, or they no longer hear it.
    CutLeaderOneWay,
    /// A DC falls apart: into a majority and one node, or into single nodes.
    SplitDc,
    /// Every connection between nodes breaks, several times.
    Breaks,
    /// Packets are lost, between DCs and inside them.
    Loss,
    /// Delays between DCs and inside them grow and vary.
    Delay,
    /// The disk of a node is full.
    FullDisk,
    /// The fsync of a node fails.
    FailingSync,
    /// The clock of a node jumps by an hour, forward or back.
    SkewedClock,
    /// The clock of a node jumps again and again, forward and back.
    SteppingClock,
    /// The nodes of a DC are restarted in good order, one after the other.
    RollingRestart,
    /// One of the others after another, except those that need a disk or a library of their own.
    Mixed,
}

impl Fault {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 22] = [
        Self::None,
        Self::KillLeader,
        Self::KillFollower,
        Self::KillDc,
        Self::KillAll,
        Self::PauseLeader,
        Self::CutDcs,
        Self::IsolateDc,
        Self::CutOneWay,
        Self::Flapping,
        Self::CutLeader,
        Self::CutLeaderOneWay,
        Self::SplitDc,
        Self::Breaks,
        Self::Loss,
        Self::Delay,
        Self::FullDisk,
        Self::FailingSync,
        Self::SkewedClock,
        Self::SteppingClock,
        Self::RollingRestart,
        Self::Mixed,
    ];

    /// Its name on the command line and in the matrix.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What it does, in a few words.
    pub fn story(self) -> &'static str {
        self.words().1
    }

    /// The fault of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::None => ("none", "nothing goes wrong"),
            Self::KillLeader => ("kill-leader", "a leader is killed (SIGKILL) and restarted"),
            Self::KillFollower => ("kill-follower", "a follower is killed and restarted"),
            Self::KillDc => ("kill-dc", "all nodes of a DC are killed at once and restarted"),
            Self::KillAll => ("kill-all", "all nodes of all DCs are killed at once and restarted"),
            Self::PauseLeader => {
                ("pause-leader", "a leader is stopped for longer than an election, then goes on")
            }
            Self::CutDcs => ("cut-dcs", "two DCs are cut off from each other"),
            Self::IsolateDc => ("isolate-dc", "one DC is cut off from all others"),
            Self::CutOneWay => ("cut-one-way", "what one DC sends does not reach another"),
            Self::Flapping => ("flapping", "two DCs are cut off and joined several times a second"),
            Self::CutLeader => ("cut-leader", "a leader is cut off from its followers"),
            Self::CutLeaderOneWay => ("cut-leader-one-way", "a leader is cut off from its followers one way"),
            Self::SplitDc => ("split-dc", "a DC falls apart, with or without a majority"),
            Self::Breaks => ("breaks", "all connections between nodes break, several times"),
            Self::Loss => ("loss", "a tenth of the packets between nodes is lost and sent again"),
            Self::Delay => ("delay", "delays between nodes grow and vary"),
            Self::FullDisk => ("full-disk", "a node's disk is full, then has room again"),
            Self::FailingSync => ("failing-fsync", "a node's fsync fails; it must stop, and is restarted"),
            Self::SkewedClock => ("skewed-clock", "a node's clock jumps by an hour, forward or back"),
            Self::SteppingClock => ("stepping-clock", "a node's clock jumps again and again"),
            Self::RollingRestart => ("rolling-restart", "a DC's nodes are restarted one after the other"),
            Self::Mixed => ("mixed", "one fault after another, drawn at random"),
        }
    }
}
