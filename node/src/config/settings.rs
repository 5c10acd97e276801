//! The settings of each subsystem: what each means, its range, its default and why, and when to change it.
//!
//! Every number that bounds something in a running node stands here. The defaults suit three nodes on machines with
//! 4 GiB of memory or more and a disk that syncs within a few milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::wire::headers::{WAIT_DEFAULT, WAIT_MAX};
use meridian_client::wire::request::TXN_OPS_MAX;

use super::reader::{Reader, Setting};
use super::units::ByteSize;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// When the other editors of a node are given an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Fanout {
    /// Once a majority of the datacenter has it on disk.
    Durable,
    /// As soon as it is checked.
    Early,
}

/// Declares a section: its struct, its keys, its defaults, and how it is read within its ranges.
macro_rules! section {
    (
        $(#[$struct_doc:meta])*
        $name:ident = $section:literal {
            $( $(#[$doc:meta])* $field:ident: $type:ty = $default:expr, $min:expr => $max:expr; )*
        }
    ) => {
        $(#[$struct_doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $name {
            /// The section's name in the file.
            pub const SECTION: &'static str = $section;
            /// The section's keys.
            pub const KEYS: &'static [&'static str] = &[$( stringify!($field), )*];

            pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
                Self { $( $field: reader.ranged(stringify!($field), $default, &$min, &$max), )* }
            }

            /// Every key with its effective value, as they would stand in a file.
            pub fn show(&self) -> BTreeMap<&'static str, String> {
                BTreeMap::from([$( (stringify!($field), self.$field.show()), )*])
            }
        }
    };
}

section! {
    /// `[raft]`: how the nodes of one DC agree.
    RaftConfig = "raft" {
        /// How often a leader tells its followers that it lives. 10 ms to 10 s, default 150 ms: several beats fit into
        /// the shortest election, and a busy core may miss one. Raise it, with both elections, on slow machines.
        heartbeat: Duration = ms(150), ms(10) => secs(10);
        /// The shortest time that a follower draws. It stands for election once it has heard nothing for `election_max`, within which
        /// its leader may rely on it, and for what it drew besides. At least 3 heartbeats; default 600 ms, so that a follower stands
        /// 1.8 to 2.4 s after a leader's death. Raise it where elections happen without a death; lower both for shorter gaps.
        election_min: Duration = ms(600), ms(50) => secs(60);
        /// The longest time that it draws. Above `election_min`; default 1200 ms. A leader that has not heard from its majority for so
        /// long answers `no_quorum`.
        election_max: Duration = ms(1200), ms(60) => secs(120);
        /// Most bytes of waiting requests that one log entry packs. 16 KiB to 2 MiB, default 1 MiB: larger groups cost
        /// latency, smaller ones more syncs.
        entry_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(16) => ByteSize::mib(2);
        /// Most requests that one log entry packs. 1 to 10,000, default 1000.
        entry_requests_max: u64 = 1000, 1 => 10_000;
        /// While an entry is under way and the node's threads are busy more than half of the time, the next one waits until it has so
        /// many requests, or none is under way any more. 1 to 10,000, default 32: an entry costs three nodes as much processor
        /// time as seven small requests. 1 never waits.
        entry_requests_gathered: u64 = 32, 1 => 10_000;
        /// Entries proposed and not yet applied. 1 to 1024, default 16: it keeps the disk busy while the network is
        /// under way; more adds only waiting.
        entries_in_flight_max: u64 = 16, 1 => 1024;
        /// How long an entry may take from its proposal until it is applied, before its requests are answered with
        /// `outcome_unknown`. 1 s to 10 min, default 10 s: above an election. Raise it, with `limits.request_timeout`, where large
        /// requests come faster than the disk takes them; what was proposed is done all the same. A node that does not lead
        /// answers 5 s after the request's own wait in any case.
        propose_timeout: Duration = secs(10), secs(1) => secs(600);
        /// Entries after which the log may go behind the next checkpoint; half as many stay, for followers that were away. 100 to
        /// 10,000,000, default 20,000. Raise it when followers need snapshots too often.
        snapshot_every: u64 = 20_000, 100 => 10_000_000;
        /// How long one piece of a snapshot may take. 1 s to 10 min, default 30 s. Raise it on slow networks.
        snapshot_timeout: Duration = secs(30), secs(1) => secs(600);
    }
}

section! {
    /// `[storage]`: the state and the log of a node and the room they need.
    StorageConfig = "storage" {
        /// The longest time after which the state is made durable; a crash replays the log from there. 100 ms to 10 min,
        /// default 60 s. Shorter means faster restarts, shorter stalls and more writing.
        checkpoint_interval: Duration = secs(60), ms(100) => secs(600);
        /// How many bytes of the log make the state durable earlier; more if the last time it wrote more than half of
        /// that. 64 KiB to 16 GiB, default 16 MiB: some seconds of writes, which a restart replays in less.
        checkpoint_log: ByteSize = ByteSize::mib(16), ByteSize::kib(64) => ByteSize::gib(16);
        /// Room on the disk below which writes are refused with `storage_full` while reads go on. 1 MiB to 1 TiB,
        /// default 256 MiB: enough for one checkpoint and one snapshot of a small store. Raise it with the data.
        disk_headroom: ByteSize = ByteSize::mib(256), ByteSize::mib(1) => ByteSize::gib(1024);
        /// How often the room on the disk is looked at. 100 ms to 1 min, default 1 s.
        disk_check_interval: Duration = secs(1), ms(100) => secs(60);
        /// Memory for pages of the state. 1 MiB to 1 TiB, default 128 MiB. Raise it until the hot keys fit.
        state_cache: ByteSize = ByteSize::mib(128), ByteSize::mib(1) => ByteSize::gib(1024);
        /// Memory for changed rows of the state between two checkpoints, and as much again for those that are on their
        /// way into the file. 64 KiB to 16 GiB, default 64 MiB: when it is full a checkpoint begins early, and when both
        /// halves are full, writes wait for the disk. Raise it where many different keys are written between checkpoints.
        overlay: ByteSize = ByteSize::mib(64), ByteSize::kib(64) => ByteSize::gib(16);
        /// Size of the files that the Raft log is made of. Each is filled with zeros before it is used, and used again when
        /// its entries are no longer needed. 16 KiB to 1 GiB, default 16 MiB: the node starts at once, and a file lasts
        /// some seconds under full load. Raise it on a disk that is slow to make files; there are at least two or three.
        log_segment: ByteSize = ByteSize::mib(16), ByteSize::kib(16) => ByteSize::gib(1);
        /// Bytes of log entries that may wait for the disk of a node that leads. 1 MiB to 16 GiB, default 64 MiB. The others may have
        /// them on their disks, and then they are committed; beyond this, writes wait, and after `raft.propose_timeout` they are
        /// `overloaded`.
        log_backlog: ByteSize = ByteSize::mib(64), ByteSize::mib(1) => ByteSize::gib(16);
        /// About how long the scrubber takes to read every row once and verify its checksum; a rotten one stops the
        /// node. 1 min to 365 d, default 7 d. Shorter finds rot sooner and reads more.
        scrub_interval: Duration = secs(7 * 86_400), secs(60) => secs(365 * 86_400);
        /// Rows that one entry of housekeeping looks at: in the oplog, among the request ids, behind a cleared
        /// collection. 1 to 100,000, default 1000: small enough that no write waits for it; as long as the oplog has
        /// more to cut, entries follow each other. The entry carries the leader's number, so that nodes may differ.
        sweep_cells_max: u64 = 1000, 1 => 100_000;
    }
}

section! {
    /// `[gossip]`: the exchange of txns with the other DCs.
    GossipConfig = "gossip" {
        /// How often each side of a link shows that it lives. 10 ms to 1 min, default 500 ms.
        heartbeat: Duration = ms(500), ms(10) => secs(60);
        /// Silence after which a link counts as broken and is dialled again. At least 2 heartbeats; default 3 s: above
        /// any round trip on earth with retransmissions.
        silence_max: Duration = secs(3), ms(50) => secs(300);
        /// First pause before a broken link is dialled again; it doubles, with jitter. 1 ms to 1 min, default 50 ms.
        reconnect_min: Duration = ms(50), ms(1) => secs(60);
        /// Longest such pause. Not below `reconnect_min`; default 300 ms, so that a healed cut is noticed at once. Raise it
        /// where dialling costs money.
        reconnect_max: Duration = ms(300), ms(1) => secs(600);
        /// How long dialling and the handshake may take. 100 ms to 1 min, default 3 s.
        connect_timeout: Duration = secs(3), ms(100) => secs(60);
        /// Bytes of txns that may be under way to a DC without its acknowledgement. 64 KiB to 1 GiB, default 8 MiB:
        /// 100 MiB/s over a round trip of 80 ms. Raise it on long fast links.
        link_credit_bytes: ByteSize = ByteSize::mib(8), ByteSize::kib(64) => ByteSize::gib(1);
        /// Memory for txns that wait for others they depend on. 64 KiB to 16 GiB, default 64 MiB; when it is full the
        /// furthest ones are dropped and asked for again.
        gate_bytes: ByteSize = ByteSize::mib(64), ByteSize::kib(64) => ByteSize::gib(16);
        /// How long a txn of a third DC may be missing at a peer before it is relayed. 10 ms to 10 min, default 500 ms;
        /// three times the usual delay of that origin's acknowledgements applies when that is longer. Lower it to route
        /// around broken links sooner, at the price of doubled traffic.
        relay_after: Duration = ms(500), ms(10) => secs(600);
        /// Most bytes of txns in one message; a single larger txn goes alone. 4 KiB to 256 KiB, default 256 KiB: larger
        /// ones would hold up heartbeats.
        message_bytes_max: ByteSize = ByteSize::kib(256), ByteSize::kib(4) => ByteSize::kib(256);
        /// How long txns are gathered before they are acknowledged. 1 ms to 10 s, default 10 ms.
        ack_interval: Duration = ms(10), ms(1) => secs(10);
        /// How often stability and acknowledgements are written to the log of this DC. 50 ms to 10 min, default 1 s.
        /// Shorter frees metadata sooner and costs entries.
        stability_interval: Duration = secs(1), ms(50) => secs(600);
    }
}

section! {
    /// `[limits]`: what a request and a client may cost. What is beyond is refused with `too_large` or `overloaded` by
    /// the node that takes the request, before it is proposed.
    LimitsConfig = "limits" {
        /// Most bytes of a request's body. 1 KiB to 16 MiB, default 4 MiB.
        body_max: ByteSize = ByteSize::mib(4), ByteSize::kib(1) => ByteSize::mib(16);
        /// Most bytes of a key that is written. 1 B to 1024 B, default 1024 B: keys stand in every index.
        key_max: ByteSize = ByteSize(1024), ByteSize(1) => ByteSize(1024);
        /// Most bytes of one value, encoded. 64 B to 1 MiB, default 1 MiB. Not above `txn_bytes_max`. (An element of a
        /// set or the name of a field is part of a key on disk: 4 KiB and 1 KiB at most, always.)
        value_max: ByteSize = ByteSize::mib(1), ByteSize(64) => ByteSize::mib(1);
        /// Most levels of arrays, objects and maps within each other. 1 to 32, default 32.
        depth_max: u64 = 32, 1 => 32;
        /// Most mutations in one txn. 1 to 10,000, default 1000.
        txn_ops_max: u64 = 1000, 1 => TXN_OPS_MAX as u64;
        /// Most bytes of one txn, as encoded in the log; a larger one would hold up all others. 1 KiB to 2 MiB, default
        /// 2 MiB. What it comes to is held to 2 MiB too, always.
        txn_bytes_max: ByteSize = ByteSize::mib(2), ByteSize::kib(1) => ByteSize::mib(2);
        /// Most elements in one `add_all` or `remove_all`. 1 to 100,000, default 10,000.
        elements_max: u64 = 10_000, 1 => 100_000;
        /// Most entries of one page: elements of a collection, keys of a listing. 1 to 100,000, default 10,000.
        page_max: u64 = 10_000, 1 => 100_000;
        /// Most open client connections. 1 to 1,000,000, default 10,000; keep the process' limit of open files above.
        connections_max: u64 = 10_000, 1 => 1_000_000;
        /// Most requests that a node works on at once; more are `overloaded`. 1 to 1,000,000, default 4096.
        in_flight_max: u64 = 4096, 1 => 1_000_000;
        /// Most bytes of the writes that a node works on at once, its own clients' and those that other nodes forward to it; more
        /// are `overloaded`, but one, however large it is. 2 MiB to 2 GiB, default 64 MiB.
        writing_max: ByteSize = ByteSize::mib(64), ByteSize::mib(2) => ByteSize::gib(2);
        /// How long a request may take, waiting included. 100 ms to 10 min, default 40 s: above the longest
        /// `Meridian-Wait`.
        request_timeout: Duration = secs(40), ms(100) => secs(600);
        /// How long a client may take to send a request's head, to send its body, and to take any of the answer. 100 ms
        /// to 10 min, default 15 s: slow readers and writers must not hold connections.
        read_timeout: Duration = secs(15), ms(100) => secs(600);
        /// How long a stopping node waits for the requests it works on. 0 to 10 min, default 5 s.
        drain_timeout: Duration = secs(5), ms(0) => secs(600);
    }
}

section! {
    /// `[sessions]`: how long requests wait for what their tokens demand, and connections of the native protocol.
    SessionsConfig = "sessions" {
        /// How long a request waits for what its token demands, unless it says `Meridian-Wait`. 0 to 30 s, default 2 s.
        wait_default: Duration = WAIT_DEFAULT, ms(0) => WAIT_MAX;
        /// The longest `Meridian-Wait`. 0 to 30 s, default 30 s.
        wait_max: Duration = WAIT_MAX, ms(0) => WAIT_MAX;
        /// Most requests of one connection of the native protocol that are worked on at once; at the bound its frames
        /// are not read until one is answered. 1 to 65,536, default 256. Raise it for few connections with much to do.
        in_flight_max: u64 = 256, 1 => 65_536;
        /// How often a client of the native protocol that is silent is asked whether it is still there; after two
        /// intervals without a sign it is dropped. 100 ms to 10 min, default 10 s.
        ping_interval: Duration = secs(10), ms(100) => secs(600);
    }
}

section! {
    /// `[transactions]`: interactive transactions that are open on this node.
    TransactionsConfig = "transactions" {
        /// Most transactions that are open at once; one more is `overloaded`. 1 to 100,000, default 1000.
        open_max: u64 = 1000, 1 => 100_000;
        /// Memory for what all of them have read and written. 1 MiB to 16 GiB, default 256 MiB: when it is full, what comes
        /// next in any of them is `overloaded`, and can be tried again when others have ended.
        memory_max: ByteSize = ByteSize::mib(256), ByteSize::mib(1) => ByteSize::gib(16);
        /// How long a transaction may stay open; then it ends with `conflict`. 100 ms to 5 min, default 10 s: while it
        /// is open, what others overwrite keeps its room on the disk.
        life_max: Duration = secs(10), ms(100) => secs(300);
    }
}

section! {
    /// `[watch]`: streams of changes.
    WatchConfig = "watch" {
        /// Watches open at once on this node; a further one is refused with `overloaded`. 1 to 100,000, default 1000.
        /// Each may read `chunk_bytes` ahead while it catches up. Raise it together with `limits.connections_max`.
        watches_max: u64 = 1000, 1 => 100_000;
        /// Bytes of txns that one watch reads at a time. 4 KiB to 4 MiB, default 256 KiB: larger ones catch up faster
        /// and take more memory.
        chunk_bytes: ByteSize = ByteSize::kib(256), ByteSize::kib(4) => ByteSize::mib(4);
        /// How often a watch that has nothing to show tells how far it is, if it has come further. 100 ms to 10 min,
        /// default 10 s: it is what a client that resumes does not have to go through again.
        progress_interval: Duration = secs(10), ms(100) => secs(600);
        /// How long a stream may be silent before a comment shows that it lives. 100 ms to 15 s, default 10 s: below
        /// what proxies wait.
        keep_alive: Duration = secs(10), ms(100) => secs(15);
        /// How long a watch of the native protocol waits for its client to take an event; then it ends with `overloaded`
        /// and the cursor to resume from. 100 ms to 10 min, default 5 s.
        slow_after: Duration = secs(5), ms(100) => secs(600);
    }
}

section! {
    /// `[documents]`: documents that are edited, when they are compacted, and their versions.
    DocumentsConfig = "documents" {
        /// When the other editors of this node are given an edit: `durable`, once a majority of this DC has it on disk, or
        /// `early`, as soon as it is checked. Default `durable`: what anybody has seen is kept, whatever dies. With `early`
        /// an edit is seen a commit sooner, and may be lost if this node dies and all who have seen it go with it.
        fanout: Fanout = Fanout::Durable, Fanout::Durable => Fanout::Early;
        /// How long after a write of a document has begun the next one begins, unless 64 edits wait. 0 to 1 s, default
        /// 20 ms: an edit after a pause is written at once, and where many type, several share one commit.
        gather: Duration = ms(20), ms(0) => secs(1);
        /// How long after its first edit, or after the last version, a version is made of a document that is edited by way of
        /// this node. 0 to 365 d, default 0: none is made by itself. A version is a whole copy of the document.
        version_interval: Duration = ms(0), ms(0) => secs(365 * 86_400);
        /// How many versions that were made by themselves are kept of a document; then the oldest goes. 1 to 500, default 24.
        versions_kept: u64 = 24, 1 => 500;
        /// How many versions of one document people may make; then `too_large`. 1 to 500, default 100.
        versions_named_max: u64 = 100, 1 => 500;
        /// From how many rows on a document is compacted: up to 16 updates since the last time are one, if they were written
        /// together. 2 to 1,000,000, default 250: opening a document with fewer costs a few milliseconds more than opening its
        /// snapshot. Raise it where leaders are short of CPU and documents are seldom opened.
        compact_rows_min: u64 = 250, 2 => 1_000_000;
        /// Documents that are open on this node at once, with those that nobody has open any more and that stay for `idle`;
        /// who opens a further one is closed with 1013. 1 to 1,000,000, default 10,000. Lower it where documents are large.
        rooms_max: u64 = 10_000, 1 => 1_000_000;
        /// Editors of one document on this node; a further one is closed with 1013. 1 to 100,000, default 2,000: each edit
        /// goes to all of them.
        editors_max: u64 = 2_000, 1 => 100_000;
        /// Bytes of a document that is edited: what was compacted, and all updates since. An edit beyond it is refused with
        /// 4413, and a document beyond it is not opened. 16 KiB to 64 MiB, default 64 MiB. It should be the same at all nodes
        /// of all DCs: what one takes, another may not open.
        bytes_max: ByteSize = ByteSize::mib(64), ByteSize::kib(16) => ByteSize::mib(64);
        /// How long a document without editors stays in memory. 0 to 1 h, default 30 s: who reconnects finds it there.
        idle: Duration = secs(30), ms(0) => secs(3_600);
        /// How long an editor is sent nothing before it is sent an empty message. 1 to 20 s, default 20 s: clients give a
        /// connection up after 30 s. Lower it where proxies close silent connections sooner. It is looked at once a second.
        keep_alive: Duration = secs(20), secs(1) => secs(20);
        /// How long an editor is sent away with 1013 who comes from another DC with a document that this one has not heard of.
        /// 0 to 1 h, default 10 s: far more than a healthy link takes. Then it is let in, and what it brings stays here even
        /// if the other DC has deleted the document.
        unheard: Duration = secs(10), ms(0) => secs(3_600);
        /// For how long an edit is tried. Then its editor is closed with 1013, and whoever else was shown it; they have it and bring
        /// it again. 100 ms to 1 min, default 15 s: an election takes less.
        write_timeout: Duration = secs(15), ms(100) => secs(60);
    }
}

section! {
    /// `[clock]`: how far clocks are trusted.
    ClockConfig = "clock" {
        /// How far a clock may be off the others' before it is not believed. 10 ms to 10 min, default 5 s: NTP keeps
        /// machines within a fraction of it.
        max_clock_drift: Duration = secs(5), ms(10) => secs(600);
    }
}

section! {
    /// `[runtime]`: the threads that do a node's tasks, beside those of its storage.
    RuntimeConfig = "runtime" {
        /// Threads for connections, requests, links and Raft. 0 to 1024, default 0: one fewer than there are processors, and one
        /// at least, so that the threads of the storage find one free. Set it to the number of processors on a node that does
        /// little but serve readers.
        threads: u64 = 0, 0 => 1024;
    }
}

impl RuntimeConfig {
    /// How many threads these settings mean on a machine with so many processors.
    pub fn threads_on(&self, processors: usize) -> usize {
        match usize::try_from(self.threads) {
            Ok(0) => processors.saturating_sub(1).max(1),
            threads => threads.unwrap_or(usize::MAX),
        }
    }
}

section! {
    /// `[log]`: what the process writes about itself, to standard error.
    LogConfig = "log" {
        /// What is written: `error`, `warn`, `info`, `debug`, `trace`, or directives per module such as
        /// `info,meridian::raft=debug`. Default `info,openraft=warn`.
        level: String = "info,openraft=warn".to_string(), String::new() => "\u{10FFFF}".to_string();
        /// One JSON object a line instead of text, for log collectors. Default false.
        json: bool = false, false => true;
    }
}

/// What must hold between two settings; each failure is a finding.
pub(super) fn check_pairs(
    raft: &RaftConfig,
    gossip: &GossipConfig,
    limits: &LimitsConfig,
    sessions: &SessionsConfig,
    findings: &mut super::reader::Findings<'_>,
) {
    let mut demand = |holds: bool, key: &str, wrong: String, right: &str| {
        if !holds {
            findings.add(key, wrong, right);
        }
    };
    demand(
        raft.election_min >= raft.heartbeat * 3,
        "raft.election_min",
        format!("{} is less than 3 heartbeats of {}", raft.election_min.show(), raft.heartbeat.show()),
        "raise it, or lower raft.heartbeat",
    );
    demand(
        raft.election_max > raft.election_min,
        "raft.election_max",
        format!(
            "{} is not above raft.election_min of {}",
            raft.election_max.show(),
            raft.election_min.show()
        ),
        "twice raft.election_min is a good choice",
    );
    demand(
        gossip.silence_max >= gossip.heartbeat * 2,
        "gossip.silence_max",
        format!("{} is less than 2 heartbeats of {}", gossip.silence_max.show(), gossip.heartbeat.show()),
        "raise it, or lower gossip.heartbeat",
    );
    demand(
        gossip.reconnect_max >= gossip.reconnect_min,
        "gossip.reconnect_max",
        format!("{} is below gossip.reconnect_min", gossip.reconnect_max.show()),
        "make it at least gossip.reconnect_min",
    );
    demand(
        limits.value_max <= limits.txn_bytes_max,
        "limits.value_max",
        format!(
            "{} is above limits.txn_bytes_max of {}",
            limits.value_max.show(),
            limits.txn_bytes_max.show()
        ),
        "a value must fit into a txn",
    );
    demand(
        sessions.wait_default <= sessions.wait_max,
        "sessions.wait_default",
        format!(
            "{} is above sessions.wait_max of {}",
            sessions.wait_default.show(),
            sessions.wait_max.show()
        ),
        "lower it, or raise sessions.wait_max",
    );
}
