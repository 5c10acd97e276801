//! Metrics in Prometheus' text format: names, units and help in one place.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::count::{Count, Counted, Histogram};
use crate::docs::Docs;
use crate::shard::Shard;
use crate::txn::oplog;

/// Upper bounds of the latency histogram, in milliseconds.
const LATENCY_BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1000, 2500, 10_000];

#[derive(Clone, Debug)]
struct Route {
    by_status: BTreeMap<u16, u64>,
    took_ms: Histogram<{ LATENCY_BUCKETS_MS.len() }>,
}

impl Default for Route {
    fn default() -> Self {
        Self { by_status: BTreeMap::new(), took_ms: Histogram::new(&LATENCY_BUCKETS_MS) }
    }
}

/// Counters of this process. Routes, methods and statuses are few, so the memory is bounded.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: Mutex<BTreeMap<(&'static str, &'static str), Route>>,
    sessions: Arc<Sessions>,
}

/// Connections of the native protocol.
#[derive(Debug, Default)]
struct Sessions {
    open: Count,
    closed: Mutex<BTreeMap<u16, u64>>,
}

/// One open connection of the native protocol, counted until it is dropped.
pub struct OpenSession {
    sessions: Arc<Sessions>,
    _counted: Counted,
}

impl OpenSession {
    /// Counts why this node closed it.
    pub fn closed(&self, code: u16) {
        *self.sessions.closed.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }
}

fn known_method(method: &str) -> &'static str {
    match method {
        "GET" => "get",
        "POST" => "post",
        "DELETE" => "delete",
        "NATIVE" => "native",
        _ => "other",
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn request(&self, route: &'static str, method: &str, status: u16, took_ms: u64) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry((route, known_method(method))).or_default();
        *route.by_status.entry(status).or_default() += 1;
        route.took_ms.record(took_ms);
    }

    /// Counts a connection of the native protocol.
    pub fn session(&self) -> OpenSession {
        OpenSession { sessions: self.sessions.clone(), _counted: self.sessions.open.enter().0 }
    }

    /// Everything, as Prometheus reads it.
    pub fn render(&self, shard: &Shard, docs: &Docs) -> String {
        let mut page = Page::default();
        self.render_requests(&mut page);
        self.render_sessions(&mut page);
        render_raft(shard, &mut page);
        render_state(shard, &mut page);
        render_transactions(shard, &mut page);
        render_health(shard, &mut page);
        render_links(shard, &mut page);
        render_watches(shard, &mut page);
        render_docs(docs, &mut page);
        page.0
    }

    fn render_sessions(&self, page: &mut Page) {
        let open = self.sessions.open.now();
        page.single("meridian_sessions_open", "gauge", "Open connections of the native protocol.", open);
        let help = "Connections of the native protocol that this node closed, by close code.";
        page.head("meridian_sessions_closed_total", "counter", help);
        for (code, count) in &*self.sessions.closed.lock().unwrap_or_else(PoisonError::into_inner) {
            page.line("meridian_sessions_closed_total", &format!("code=\"{code}\""), count);
        }
    }

    fn render_requests(&self, page: &mut Page) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        page.head(
            "meridian_http_requests_total",
            "counter",
            "Requests answered, by route, method and status.",
        );
        for ((route, method), counts) in &routes {
            for (status, count) in &counts.by_status {
                let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
                page.line("meridian_http_requests_total", &labels, count);
            }
        }
        page.head(
            "meridian_http_request_ms",
            "histogram",
            "Time from a request's head to its answer, in milliseconds.",
        );
        for ((route, method), counts) in &routes {
            let labels = format!("route=\"{route}\",method=\"{method}\"");
            page.histogram("meridian_http_request_ms", &labels, &counts.took_ms, 1);
        }
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    /// The lines of a histogram whose values are shown in a unit of `unit` of theirs.
    fn histogram<const N: usize>(&mut self, name: &str, labels: &str, of: &Histogram<N>, unit: u64) {
        let shown = |value: u64| value as f64 / unit as f64;
        let (bucket, comma) = (format!("{name}_bucket"), if labels.is_empty() { "" } else { "," });
        for (bound, count) in of.buckets() {
            self.line(&bucket, &format!("{labels}{comma}le=\"{}\"", shown(bound)), count);
        }
        self.line(&bucket, &format!("{labels}{comma}le=\"+Inf\""), of.count());
        self.line(&format!("{name}_sum"), labels, shown(of.sum()));
        self.line(&format!("{name}_count"), labels, of.count());
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }
}

fn render_raft(shard: &Shard, page: &mut Page) {
    let leadership = shard.raft.leadership_now();
    let status = shard.raft.status();
    page.single(
        "meridian_raft_leading",
        "gauge",
        "1 while this node leads its datacenter.",
        u8::from(leadership.leading),
    );
    page.single("meridian_raft_term", "gauge", "The current Raft term.", status.term);
    let applied = shard.publisher.applied().borrow().index;
    page.single("meridian_raft_applied_index", "gauge", "The last log entry applied here.", applied);
    let log = shard.raft.log_counts();
    let counters = [
        (
            "meridian_log_syncs_total",
            "Batches made durable in the Raft log, each with one sync.",
            log.batches,
        ),
        (
            "meridian_log_entries_total",
            "Entries in them; with more load there are more in each.",
            log.entries,
        ),
        ("meridian_log_bytes_total", "Bytes written to the Raft log.", log.bytes),
    ];
    for (name, help, count) in counters {
        page.single(name, "counter", help, count);
    }
    let help = "Time that a batch takes to be written to the Raft log and synced, in milliseconds.";
    page.head("meridian_log_sync_ms", "histogram", help);
    page.histogram("meridian_log_sync_ms", "", &shard.raft.log_sync_us(), 1000);
    page.single("meridian_log_segments", "gauge", "Files that the Raft log consists of.", log.segments);
    let help = "Bytes of entries of the Raft log that wait for this node's disk.";
    page.single("meridian_log_backlog_bytes", "gauge", help, log.backlog);
    page.single(
        "meridian_ready",
        "gauge",
        "1 once everything committed at start is applied.",
        u8::from(*shard.ready.borrow()),
    );
    page.single(
        "meridian_disk_room",
        "gauge",
        "0 while writes are refused for lack of disk.",
        u8::from(*shard.room.borrow()),
    );
}

fn render_state(shard: &Shard, page: &mut Page) {
    let state = shard.publisher.applied().borrow().state.clone();
    page.single(
        "meridian_lww_conflicts_total",
        "counter",
        "Register values that lost to a concurrent one.",
        state.lww_conflicts,
    );
    page.single(
        "meridian_lww_future_wins_total",
        "counter",
        "Of these, won by a value dated ahead of the clock here by more than clocks may differ.",
        state.lww_future_wins,
    );
    page.single("meridian_oplog_txns", "gauge", "Txns in the oplog.", oplog::len(&state));
    page.single(
        "meridian_state_memory_bytes",
        "gauge",
        "Changed rows in memory that no checkpoint has put into the file yet, estimated.",
        shard.store.bytes_in_memory() as u64,
    );
    page.single(
        "meridian_writing_bytes",
        "gauge",
        "Bytes of the writes that this node works on.",
        shard.write_room.taken() as u64,
    );
    let durable = shard.store.durable().index();
    page.single("meridian_checkpoint_index", "gauge", "The log entry up to which the file goes.", durable);
    let remembered = state.requests_end - state.requests_first;
    page.single("meridian_request_ids", "gauge", "Request ids remembered.", remembered);
    page.single(
        "meridian_client_answers",
        "gauge",
        "Answers remembered for numbered requests.",
        state.clients.slots,
    );
    page.single(
        "meridian_numbering_clients",
        "gauge",
        "Clients that number their requests and are remembered.",
        state.clients.known,
    );
    let recovering = u64::from(state.recovering.is_some());
    let what = "1 while the datacenter takes no writes, because it has lost its newest txns.";
    page.single("meridian_recovering", "gauge", what, recovering);
    page.head("meridian_applied_seq", "gauge", "The highest seq applied, by origin.");
    for dot in state.vector.iter() {
        let labels =
            format!("dc=\"{}\",origin=\"{}\"", state.dc_of(dot.origin).unwrap_or("unknown"), dot.origin);
        page.line("meridian_applied_seq", &labels, dot.seq);
    }
    page.head("meridian_stable_seq", "gauge", "The highest stable seq, by origin.");
    for dot in state.stable.iter() {
        let labels =
            format!("dc=\"{}\",origin=\"{}\"", state.dc_of(dot.origin).unwrap_or("unknown"), dot.origin);
        page.line("meridian_stable_seq", &labels, dot.seq);
    }
}

fn render_transactions(shard: &Shard, page: &mut Page) {
    let transactions = &shard.transactions;
    let open = transactions.open();
    page.single("meridian_txns_open", "gauge", "Interactive transactions open on this node.", open);
    let help = "Bytes of memory that they take, about; bounded by transactions.memory_max.";
    page.single("meridian_txns_bytes", "gauge", help, transactions.memory_bytes());
    let counters = &transactions.counters;
    let counters = [
        ("meridian_txns_begun_total", "Interactive transactions begun here.", &counters.begun),
        ("meridian_txns_committed_total", "Of these, committed.", &counters.committed),
        (
            "meridian_txns_conflicts_total",
            "Of these, refused because others had changed what they read or wrote.",
            &counters.conflicts,
        ),
        ("meridian_txns_expired_total", "Of these, ended because their life was over.", &counters.expired),
    ];
    for (name, help, counter) in counters {
        page.single(name, "counter", help, counter.load(Ordering::Relaxed));
    }
}

fn render_health(shard: &Shard, page: &mut Page) {
    page.single(
        "meridian_threads_busy_seconds_total",
        "counter",
        "Seconds that each thread for tasks (runtime.threads) has worked, on average; above half of the time, entries of the log wait for more requests.",
        shard.seams.load.worked().as_secs_f64(),
    );
    let health = &shard.health;
    let counters = [
        ("meridian_scrubbed_rows_total", "Rows that the scrubber has verified.", &health.scrubbed_rows),
        (
            "meridian_doc_updates_compacted_total",
            "Updates of documents that this node, as the leader, has had put into snapshots.",
            &health.compacted_updates,
        ),
        ("meridian_scrub_laps_total", "Times that the scrubber has read everything.", &health.scrub_laps),
        (
            "meridian_digest_checks_total",
            "Comparisons of state with the leader's at the same log index.",
            &health.digest_checks,
        ),
        (
            "meridian_digest_mismatch",
            "Comparisons that found a difference; must be 0.",
            &health.digest_mismatches,
        ),
    ];
    for (name, help, counter) in counters {
        page.single(name, "counter", help, counter.load(Ordering::Relaxed));
    }
    let rotten = u8::from(health.rotten.load(Ordering::Relaxed));
    page.single("meridian_rotten", "gauge", "1 once a rotten row was met; the node stops.", rotten);
    page.single(
        "meridian_clock_ahead_ms",
        "gauge",
        "How far this clock is ahead of the median of its datacenter's, in milliseconds.",
        health.clock_ahead_ms.load(Ordering::Relaxed),
    );
    let clock_unsafe = u8::from(!health.clock_is_safe());
    page.single("meridian_clock_unsafe", "gauge", "1 while this clock may not stamp writes.", clock_unsafe);
}

fn render_watches(shard: &Shard, page: &mut Page) {
    let counts = &shard.watches.counts;
    let open = counts.open.now();
    page.single("meridian_watches_open", "gauge", "Open watches.", open);
    page.head("meridian_watch_events_total", "counter", "Events given to watches, by kind.");
    for (kind, count) in [("txn", &counts.txns), ("cursor", &counts.cursors)] {
        let labels = format!("kind=\"{kind}\"");
        page.line("meridian_watch_events_total", &labels, count.load(Ordering::Relaxed));
    }
    let counters = [
        ("meridian_watches_refused_total", "Watches refused because there were too many.", &counts.refused),
        (
            "meridian_watches_expired_total",
            "Watches to whose cursor the oplog no longer reached back.",
            &counts.expired,
        ),
        (
            "meridian_watches_cut_off_total",
            "Watches closed while their client took nothing.",
            &counts.cut_off,
        ),
    ];
    for (name, help, counter) in counters {
        page.single(name, "counter", help, counter.load(Ordering::Relaxed));
    }
}

fn render_docs(docs: &Docs, page: &mut Page) {
    let counts = &docs.counts;
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    page.single("meridian_doc_rooms_open", "gauge", "Documents open in memory.", docs.rooms_open());
    let live = "Documents in memory to be looked into, and not as bytes only.";
    page.single("meridian_doc_rooms_live", "gauge", live, counts.live.now());
    page.single("meridian_doc_editors", "gauge", "Connected editors.", load(&counts.editors));
    let presence = &docs.presence.counts;
    let help = "Clients of this node of whom others are told.";
    page.single("meridian_presence_own", "gauge", help, docs.presence.own());
    let help = "Clients of other nodes who are present in documents of this one.";
    page.single("meridian_presence_elsewhere", "gauge", help, load(&presence.elsewhere));
    let counters = [
        (
            "meridian_presence_messages_sent_total",
            "Messages about who is present that all their receivers got.",
            &presence.sent,
        ),
        (
            "meridian_presence_messages_lost_total",
            "Messages about who is present that did not get to all receivers, and were made anew.",
            &presence.lost,
        ),
        (
            "meridian_presence_messages_handed_on_total",
            "Messages of other datacenters that were handed on in this one.",
            &presence.handed_on,
        ),
        (
            "meridian_presence_states_dropped_total",
            "States that were not taken or not told, because of a bound.",
            &presence.dropped,
        ),
        ("meridian_doc_rooms_opened_total", "Documents opened.", &counts.rooms_opened),
        ("meridian_doc_updates_total", "Updates of editors that were kept.", &counts.updates),
        ("meridian_doc_frames_total", "Frames given to editors.", &counts.frames),
        ("meridian_doc_slow_total", "Editors closed because they did not take frames.", &counts.slow),
    ];
    for (name, help, counter) in counters {
        page.single(name, "counter", help, load(counter));
    }
}

fn render_links(shard: &Shard, page: &mut Page) {
    let status = shard.gossip.status().borrow().clone();
    type Gauge = (&'static str, &'static str, &'static str, fn(&meridian_gossip::LinkStatus) -> u64);
    let gauges: [Gauge; 8] = [
        ("meridian_link_connected", "gauge", "1 while the link is up.", |l| u64::from(l.connected)),
        ("meridian_link_lag_txns", "gauge", "Txns that the other datacenter has and we lack.", |l| {
            l.lag_txns
        }),
        ("meridian_link_lag_ms", "gauge", "For how long we may have been behind, in milliseconds.", |l| {
            l.lag_ms
        }),
        (
            "meridian_link_unacked_txns",
            "gauge",
            "Txns here that the other datacenter has not acknowledged.",
            |l| l.unacked_txns,
        ),
        ("meridian_link_sent_txns_total", "counter", "Txns sent, repeats included.", |l| l.sent_txns),
        ("meridian_link_received_txns_total", "counter", "Txns received, duplicates included.", |l| {
            l.received_txns
        }),
        ("meridian_link_gate_bytes", "gauge", "Bytes of txns that wait for their deps.", |l| l.gate_bytes),
        (
            "meridian_link_clock_ahead_ms",
            "gauge",
            "How far the other's stamps are ahead, above the limit.",
            |l| l.clock_ahead_ms,
        ),
    ];
    for (name, kind, help, read) in gauges {
        page.head(name, kind, help);
        for link in &status.links {
            page.line(name, &format!("dc=\"{}\"", link.dc), read(link));
        }
    }
    page.head("meridian_lag_ms", "gauge", "How stale reads here may be, by datacenter, in milliseconds.");
    for (dc, lag) in shard.lag() {
        page.line("meridian_lag_ms", &format!("dc=\"{dc}\""), lag.ms);
    }
}
