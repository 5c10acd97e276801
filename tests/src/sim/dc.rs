//! One simulated datacenter: a replicated log that elects, loses leaders and forgets exactly what Raft allows.
//!
//! There is one log. Up to `committed` a majority has it and nothing ever forgets it; what stands above may be kept or
//! forgotten from any point on when the leader changes, and becomes committed with the first entry of the next term.
//! Each node has applied a prefix. A deposed leader that does not know it goes on, and nothing that it proposes
//! reaches the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use meridian::txn::{Entry, Item, ShardState, oplog};
use meridian_crdt::{MemCells, Origin, TxnHead, Vector};
use meridian_gossip::sim::At;

use super::clock::Time;
use super::node::{Node, Queued, Reign};
use super::options::Options;

/// Why clients' writes are refused after a loss: until another life has begun, which then sees to itself, or until the
/// links have stood for a while. An operator who has lost all disks of a datacenter must let it hear the others before
/// clients come back.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine {
    /// The life that goes on; none if it has lost even that.
    pub life: Option<Origin>,
    /// Whether that life has lost txns of its own. Where no other datacenter has them clients may know of them all the
    /// same, so that it never writes again.
    pub own_txns: bool,
}

/// One datacenter.
pub struct Dc {
    /// Its number.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Its nodes; the one with id 1 first.
    pub nodes: Vec<Node>,
    /// The log, the entry with index 1 first: encoded entries, and none where a term begins.
    pub log: Vec<Option<Bytes>>,
    /// Up to where a majority has the log.
    pub committed: u64,
    /// The newest term.
    pub term: u64,
    /// Whom a majority follows.
    pub leader: Option<u64>,
    /// When the last proposed entry reaches a majority.
    pub commit_due_ms: u64,
    /// Until then its disks are slow.
    pub slow_until_ms: u64,
    /// Lives that it has begun.
    pub lives_begun: u64,
    /// What it has lost, while its operator keeps clients' writes away for that.
    pub quarantine: Option<Quarantine>,
    /// Where its leader stood when it last looked whether something is to be swept.
    pub swept_at: Option<(u64, Vector, u64)>,
    /// For each index what state and reply came to on the node that applied it first.
    prints: Vec<u128>,
    /// The committed state, as the node that is furthest has it, at `seen`.
    seen: u64,
    /// Its vector.
    pub vector: Vector,
    /// What was acked and stable there.
    pub acked: Vector,
    /// See above.
    pub stable: Vector,
    /// See above.
    own: Option<Origin>,
}

impl Dc {
    /// A datacenter without entries.
    pub fn new(id: usize, options: &Options, time: &Time) -> Dc {
        let node = |node| Node::new(At { dc: id, node }, time, options.kept, options.open);
        Dc {
            id,
            name: meridian_gossip::sim::name(id),
            nodes: (1..=options.nodes[id]).map(node).collect(),
            log: Vec::new(),
            committed: 0,
            term: 0,
            leader: None,
            commit_due_ms: 0,
            slow_until_ms: 0,
            lives_begun: 0,
            quarantine: None,
            swept_at: None,
            prints: Vec::new(),
            seen: 0,
            vector: Vector::new(),
            acked: Vector::new(),
            stable: Vector::new(),
            own: None,
        }
    }

    /// A node by its id.
    pub fn node(&self, node: u64) -> &Node {
        &self.nodes[node as usize - 1]
    }

    /// A node by its id.
    pub fn node_mut(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    /// The life under which it writes.
    pub fn own(&self) -> Option<Origin> {
        self.own
    }

    /// Whether `node`, believing to lead in `term`, really does.
    pub fn really_leads(&self, node: u64, term: u64) -> bool {
        self.leader == Some(node) && self.term == term
    }

    /// Whether more than half of the nodes run and hear each other.
    pub fn has_majority(&self, now_ms: u64) -> bool {
        let well = self.nodes.iter().filter(|n| n.up && n.deaf_until_ms <= now_ms).count();
        well * 2 > self.nodes.len()
    }

    /// The leader that speaks and really leads.
    pub fn serving(&self) -> Option<u64> {
        let node = self.leader?;
        let reign = self.node(node).reign.as_ref()?;
        (reign.speaks && self.really_leads(node, reign.term)).then_some(node)
    }

    /// Begins a term under `node`, whose log is that of the majority. Its first index.
    pub fn begin_term(&mut self, node: u64, skipped: u64) -> u64 {
        self.term += 1 + skipped;
        self.leader = Some(node);
        self.log.push(None);
        let (term, first) = (self.term, self.log.len() as u64);
        let reign = Reign { term, first, speaks: false, queue: VecDeque::new(), in_flight: VecDeque::new() };
        let leader = self.node_mut(node);
        leader.leader = Some(node);
        leader.reign = Some(reign);
        first
    }

    /// The term ends; of what no majority has, the first `kept` entries survive.
    pub fn end_term(&mut self, kept: u64) {
        self.leader = None;
        self.log.truncate((self.committed + kept) as usize);
        self.commit_due_ms = 0;
    }

    /// Packs what waits at a leader into entries and proposes them. The indexes at which they stand; entries of a
    /// deposed leader stand nowhere.
    pub fn propose(&mut self, node: u64, items_max: usize, in_flight_max: usize) -> Vec<u64> {
        let mut proposed = Vec::new();
        loop {
            let genuine = self.node(node).reign.as_ref().is_some_and(|r| self.really_leads(node, r.term));
            let index = if genuine { self.log.len() as u64 + 1 } else { u64::MAX };
            let leader = self.node_mut(node);
            let now_ms = leader.unix_ms();
            let Some(reign) = leader.reign.as_mut().filter(|r| r.speaks) else { return proposed };
            if reign.queue.is_empty() || reign.in_flight.len() >= in_flight_max {
                return proposed;
            }
            let (mut items, mut tickets) = (Vec::new(), Vec::new());
            while let Some(Queued { mut item, ticket }) = reign.queue.pop_front() {
                if let Item::Client(txn) = &mut item {
                    txn.hlc = leader.hlc.stamp(now_ms).unwrap_or(0);
                }
                items.push(item);
                tickets.push(ticket);
                if items.len() >= items_max {
                    break;
                }
            }
            let bytes = Entry { now_ms, items }.encode().unwrap_or_else(|e| panic!("an entry encodes: {e}"));
            reign.in_flight.push_back((index, tickets));
            if genuine {
                self.log.push(Some(bytes));
                proposed.push(index);
            }
        }
    }

    /// Applies the next committed entry on `node` and compares with the other nodes. What it answered.
    pub fn apply_next(&mut self, node: u64) -> meridian::txn::Reply {
        let index = self.node(node).applied + 1;
        assert!(index <= self.committed, "an entry is applied that no majority has");
        let bytes = self.log[index as usize - 1].clone();
        let first = index > self.seen;
        let before = if first { Some(self.node(node).state.clone()) } else { None };
        let applied = &mut self.nodes[node as usize - 1];
        let reply = applied.apply(bytes.as_ref());
        let print = applied.fingerprint(&reply);
        match before {
            Some(before) => {
                check_step(&before, &applied.state, &applied.rows);
                let state = &applied.state;
                (self.vector, self.acked, self.stable) =
                    (state.vector.clone(), state.acked.clone(), state.stable.clone());
                self.own = state.own;
                self.seen = index;
                self.prints.push(print);
            }
            None => {
                let known = self.prints[index as usize - 1];
                assert_eq!(print, known, "I6: {}/{node} differs from its peers at index {index}", self.id);
            }
        }
        reply
    }

    /// The nodes that stand at the same index have the same rows.
    pub fn compare_rows(&self) {
        let mut by_index: BTreeMap<u64, &Node> = BTreeMap::new();
        for node in self.nodes.iter().filter(|n| n.up) {
            let first = by_index.entry(node.applied).or_insert(node);
            assert!(first.rows == node.rows, "I6: rows differ at index {} of {}", node.applied, self.name);
            let mut decoded = ShardState::load(&node.rows).unwrap_or_else(|never| match never {});
            if let Ok(decoded) = &mut decoded {
                decoded.kept = node.state.kept;
            }
            assert_eq!(decoded.as_ref(), Ok(&node.state), "the state row is what {} knows", node.at);
        }
    }

    /// All disks lose everything above a checkpoint and `kept` more entries. The vector of what is left.
    pub fn lose_tail(&mut self, kept: u64) -> Vector {
        let oldest = self.nodes.iter().map(|n| n.checkpoint.clone()).min_by_key(|(index, _)| *index);
        let (index, rows) = oldest.unwrap_or_else(|| (0, MemCells::new()));
        let end = (index + kept).min(self.committed);
        self.leader = None;
        self.log.truncate(end as usize);
        self.prints.truncate(end as usize);
        self.committed = end;
        for node in &mut self.nodes {
            node.checkpoint = (index, rows.clone());
            node.crash();
        }
        let left = self.replay(end);
        self.own = left.own;
        self.seen = end;
        (self.vector, self.acked, self.stable) = (left.vector.clone(), left.acked, left.stable);
        left.vector
    }

    /// The links have stood for a while since it has lost its tail.
    pub fn let_clients_back(&mut self) {
        self.quarantine = self.quarantine.filter(|lost| lost.own_txns);
    }

    /// It has begun the life `own`, or goes on in it.
    pub fn lives(&mut self, own: Option<Origin>) {
        self.quarantine = self.quarantine.filter(|lost| lost.life.is_none() || lost.life == own);
    }

    /// The state at an index, from any checkpoint below it.
    fn replay(&self, end: u64) -> ShardState {
        let node = &self.nodes[0];
        let mut rows = node.rows.clone();
        let mut state = node.state.clone();
        for logged in &self.log[node.applied as usize..end as usize] {
            let entry = logged.as_ref().and_then(|bytes| Entry::decode(bytes).ok());
            if let Some(entry) = entry {
                meridian::txn::apply_entry(&mut state, &mut rows, entry).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        state
    }
}

/// What one entry may do to the state: I3 and I2 by the txns that it added to the oplog, I5, and I8.
fn check_step(before: &ShardState, after: &ShardState, rows: &MemCells) {
    assert!(after.vector.covers_all(&before.vector), "the vector falls");
    assert!(
        after.acked.covers_all(&before.acked) && after.stable.covers_all(&before.stable),
        "I5: neither falls"
    );
    assert!(after.acked.covers_all(&after.oplog_floor), "I8: the oplog is cut past acked");
    let mut vector = before.vector.clone();
    let mut deps: BTreeMap<Origin, Vector> =
        before.chains.iter().map(|(origin, chain)| (*origin, chain.deps.clone())).collect();
    for position in before.oplog_end + 1..=after.oplog_end {
        let txn = oplog::at(rows, position).unwrap_or_else(|never| match never {});
        // A txn may have been cut in the entry that brought it, when nobody else needs it.
        let Some(head) = txn.and_then(|txn| TxnHead::decode(&txn).ok()) else { return };
        let dot = head.dot;
        assert_eq!(dot.seq, vector.get(dot.origin) + 1, "I3: {dot} is not the next of its origin");
        let whole = deps.entry(dot.origin).or_default();
        whole.join(&head.deps);
        assert!(vector.covers_all(whole), "I2: {dot} depends on {whole:?} above {vector:?}");
        vector.advance(dot);
    }
    assert_eq!(vector, after.vector, "the vector names what is in the oplog");
}
