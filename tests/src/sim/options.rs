//! The shape and the faults of one run, drawn from its seed.

use meridian::shard::open::TransactionBounds;
use meridian::txn::InteractiveBounds;
use meridian::txn::bounds::Kept;
use meridian_gossip::GossipConfig;
use meridian_gossip::sim::Rng;

/// Keeps the options of a run apart from what happens in it.
const OPTIONS_SALT: u64 = 0x6d65_7269_6469_616e;
/// Bounds of one transaction; none comes near them.
const IN_TXN: InteractiveBounds = InteractiveBounds { ops_max: 100, bytes_max: 1 << 20 };

/// The options of one run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes each datacenter has: 1, 3 or 5.
    pub nodes: Vec<u64>,
    /// What replication runs with.
    pub gossip: GossipConfig,
    /// One-way delay between datacenters, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Of 1000 messages so many arrive twice.
    pub duplicates: u64,
    /// Of 1000 messages so many reset their connection.
    pub resets: u64,
    /// What is kept by count.
    pub kept: Kept,
    /// How many rows one housekeeping entry looks at.
    pub tidy_rows_max: u32,
    /// Milliseconds until a majority has an entry.
    pub commit_ms: (u64, u64),
    /// Milliseconds until a follower hears of a commit.
    pub lag_ms: (u64, u64),
    /// Items of one entry.
    pub entry_items_max: usize,
    /// Entries under way.
    pub entries_in_flight_max: usize,
    /// Milliseconds between two checkpoints of a node.
    pub checkpoint_ms: u64,
    /// A follower that lacks more entries than this is given a snapshot.
    pub snapshot_gap: u64,
    /// Sessions at the start.
    pub sessions: usize,
    /// Sessions that run interactive transactions.
    pub txn_sessions: usize,
    /// Bounds of the transactions that are open on a node.
    pub open: TransactionBounds,
    /// Watchers.
    pub watchers: usize,
    /// How long a watcher is away at most when it comes back to its cursor late, in milliseconds.
    pub away_ms: u64,
    /// Milliseconds that a session thinks between two requests, on average.
    pub think_ms: u64,
    /// Of 1000 answers so many are lost.
    pub answers_lost: u64,
    /// How long clients and faults go on.
    pub chaos_ms: u64,
    /// Milliseconds between two faults, on average; 0 for none.
    pub fault_every_ms: u64,
    /// Whether clocks jump.
    pub clocks: bool,
    /// Whether a datacenter loses its newest entries once, on all nodes.
    pub tail_loss: bool,
    /// Whether limits are so small that rare branches are forced.
    pub tiny: bool,
}

impl Options {
    /// The options that follow from `seed`.
    pub fn draw(seed: u64) -> Options {
        let mut rng = Rng::new(seed ^ OPTIONS_SALT);
        let dcs = 2 + rng.below(3) as usize;
        let mut options = Options {
            nodes: (0..dcs).map(|_| *rng.pick(&[1, 3, 3, 3, 5])).collect(),
            gossip: GossipConfig::default(),
            delay_ms: (rng.below(20), 20 + rng.below(120)),
            duplicates: *rng.pick(&[0, 20, 100]),
            resets: *rng.pick(&[0, 1, 10]),
            kept: Kept { oplog_txns: 200, headers_txns: 200 },
            tidy_rows_max: 1000,
            commit_ms: (1, 2 + rng.below(12)),
            lag_ms: (1, 2 + rng.below(60)),
            entry_items_max: 1 + rng.below(64) as usize,
            entries_in_flight_max: 1 + rng.below(4) as usize,
            checkpoint_ms: 300 + rng.below(2500),
            snapshot_gap: *rng.pick(&[20, 60, 1000]),
            sessions: 4 + rng.below(8) as usize,
            txn_sessions: 1 + rng.below(3) as usize,
            open: TransactionBounds {
                open_max: 100,
                life_ms: 2_000,
                memory_bytes_max: 1 << 20,
                each: IN_TXN,
            },
            watchers: 1 + rng.below(4) as usize,
            away_ms: *rng.pick(&[50, 500, 3_000]),
            think_ms: 10 + rng.below(70),
            answers_lost: *rng.pick(&[0, 10, 50]),
            chaos_ms: 5000 + rng.below(3000),
            fault_every_ms: 150 + rng.below(900),
            clocks: rng.chance(1, 2),
            tail_loss: false,
            tiny: rng.chance(1, 2),
        };
        options.gossip.poll_ms = 50;
        if options.tiny {
            options.be_tiny(&mut rng);
        }
        options.tail_loss = rng.chance(1, 8);
        if options.tail_loss {
            // What was lost must still be elsewhere: nothing but oplogs brings it back.
            options.kept = Kept { oplog_txns: 1_000_000, ..options.kept };
        }
        if rng.chance(1, 20) {
            options.fault_every_ms = 0;
        }
        options
    }

    fn be_tiny(&mut self, rng: &mut Rng) {
        let gossip = &mut self.gossip;
        gossip.credit_bytes = 200 + rng.below(3000);
        gossip.gate_bytes_max = 300 + rng.below(4000);
        gossip.want_reserve_bytes = 1 + rng.below(1000);
        gossip.read_bytes_max = 1 + rng.below(2000);
        gossip.propose_txns_max = 1 + rng.below(8) as usize;
        gossip.report_interval_ms = 50 + rng.below(300);
        self.kept = Kept { oplog_txns: rng.below(20), headers_txns: rng.below(20) };
        self.tidy_rows_max = 1 + rng.below(40) as u32;
        self.open.open_max = 1 + rng.below(3) as usize;
        self.open.life_ms = 200 + rng.below(1_000);
    }
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gossip = &self.gossip;
        writeln!(
            f,
            "nodes {:?}  delay {:?} ms  commit {:?} ms  lag {:?} ms",
            self.nodes, self.delay_ms, self.commit_ms, self.lag_ms
        )?;
        writeln!(
            f,
            "duplicates {}/1000  resets {}/1000  answers lost {}/1000  a fault every {} ms  clocks jump {}  tail loss {}",
            self.duplicates, self.resets, self.answers_lost, self.fault_every_ms, self.clocks, self.tail_loss
        )?;
        writeln!(
            f,
            "tiny {}  credit {} B  gate {} B  oplog kept {}  headers kept {}  tidy rows {}",
            self.tiny,
            gossip.credit_bytes,
            gossip.gate_bytes_max,
            self.kept.oplog_txns,
            self.kept.headers_txns,
            self.tidy_rows_max
        )?;
        write!(
            f,
            "entry items {}  in flight {}  checkpoint every {} ms  snapshot gap {}  sessions {}  think {} ms  chaos {} ms\ntransactions by {} sessions, open {} for {} ms  watchers {} away {} ms",
            self.entry_items_max,
            self.entries_in_flight_max,
            self.checkpoint_ms,
            self.snapshot_gap,
            self.sessions,
            self.think_ms,
            self.chaos_ms,
            self.txn_sessions,
            self.open.open_max,
            self.open.life_ms,
            self.watchers,
            self.away_ms
        )
    }
}
