//! A datacenter as a replicated log that applies in order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_crdt::{Add, Dot, KeyEffect, Origin, OriginName, Txn, TxnHead, Vector, txn_hash};
use meridian_gossip::{OplogChunk, Remote, RemoteOutcome, View};
use uuid::Uuid;

/// Nodes of each DC, with ids from 1.
pub const NODES: u64 = 3;

/// 2024-01-01 in Unix milliseconds, where HLC stamps begin.
const HLC_EPOCH_MS: u64 = 1_704_067_200_000;

fn origin_name(dc: usize) -> OriginName {
    OriginName { dc: meridian_gossip::sim::name(dc), epoch: Uuid::from_u128(100 + dc as u128) }
}

/// Something on its way into a DC's log.
pub struct Proposal {
    pub dc: usize,
    pub node: u64,
    pub term: u64,
    pub ticket: u64,
    pub remote: Remote,
}

/// What one DC holds on a majority.
pub struct Dc {
    pub own: OriginName,
    pub leader: Option<u64>,
    pub term: u64,
    /// Deposed leaders that do not know it, with the view that they stopped at.
    pub stale: BTreeMap<u64, View>,
    pub vector: Vector,
    pub contents: BTreeSet<Dot>,
    pub oplog: Vec<(Dot, Bytes)>,
    /// (origin, seq) -> position.
    index: BTreeMap<Dot, u64>,
    origins: Vec<OriginName>,
    tips: BTreeMap<Origin, u64>,
    own_deps: Vector,
    members: Vec<Origin>,
    reports: BTreeMap<Origin, Vector>,
    counted: BTreeMap<Origin, Vector>,
    acked: Vector,
    stable: Vector,
    digest: u64,
}

impl Dc {
    pub fn new(dc: usize, dcs: usize) -> Self {
        let own = origin_name(dc);
        Self {
            leader: None,
            term: 0,
            stale: BTreeMap::new(),
            vector: Vector::new(),
            contents: BTreeSet::new(),
            oplog: Vec::new(),
            index: BTreeMap::new(),
            origins: vec![own.clone()],
            tips: BTreeMap::new(),
            own_deps: Vector::new(),
            members: (0..dcs).filter(|d| *d != dc).map(|d| origin_name(d).origin()).collect(),
            reports: BTreeMap::new(),
            counted: BTreeMap::new(),
            acked: Vector::new(),
            stable: Vector::new(),
            digest: 0,
            own,
        }
    }

    pub fn view(&self, node: u64) -> View {
        View {
            leading: (self.leader == Some(node)).then_some(self.term),
            leader_node: self.leader,
            vector: self.vector.clone(),
            oplog_end: self.oplog.len() as u64,
            floor: Vector::new(),
            origins: self.origins.clone(),
            own: Some(self.own.clone()),
            ..View::default()
        }
    }

    /// The term in which `node` believes to lead.
    pub fn seen_term(&self, node: u64) -> u64 {
        self.stale.get(&node).and_then(|view| view.leading).unwrap_or(self.term)
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn stable(&self) -> &Vector {
        &self.stable
    }

    pub fn write(&mut self, size: usize, unix_ms: u64) {
        let origin = self.own.origin();
        let dot = Dot::new(origin, self.vector.get(origin) + 1);
        let mut deps = self.vector.above(&self.own_deps);
        deps.set(origin, 0);
        self.own_deps.join(&deps);
        let prev = self.tips.get(&origin).copied().unwrap_or(0);
        let head = TxnHead { dot, hlc: (unix_ms - HLC_EPOCH_MS) << 22, prev, deps };
        let add = Add { path: Bytes::from_static(b"p"), payload: vec![dot.seq as u8; size].into() };
        let effect = KeyEffect { space: "s".into(), key: "k".into(), removes: vec![], adds: vec![add] };
        let bytes = Txn { head, effects: vec![effect] }.encode();
        self.take(dot, bytes);
    }

    pub fn apply(&mut self, remote: Remote) -> Vec<RemoteOutcome> {
        let outcomes = match remote {
            Remote::Txns(txns) => txns.into_iter().map(|txn| self.apply_txn(txn)).collect(),
            Remote::Register(name) => {
                if self.origins.contains(&name) {
                    vec![RemoteOutcome::Duplicate]
                } else {
                    self.origins.push(name);
                    vec![RemoteOutcome::Applied]
                }
            }
            Remote::Admit { .. } => unreachable!("nobody has lost anything"),
            Remote::Report { member, vector } => {
                self.reports.entry(member).or_default().join(&vector);
                vec![RemoteOutcome::Applied]
            }
        };
        self.check_stability();
        outcomes
    }

    fn apply_txn(&mut self, bytes: Bytes) -> RemoteOutcome {
        let head = Txn::decode(&bytes).expect("whole txns only").head;
        let dot = head.dot;
        assert!(self.origins.iter().any(|o| o.origin() == dot.origin), "only registered origins");
        if self.vector.covers(dot) {
            return RemoteOutcome::Duplicate;
        }
        assert_eq!(dot.seq, self.vector.get(dot.origin) + 1, "I3: seqs are contiguous");
        assert!(self.vector.covers_all(&head.deps), "I2: deps of {dot} are applied");
        assert_eq!(head.prev, self.tips.get(&dot.origin).copied().unwrap_or(0), "the chain holds");
        self.take(dot, bytes);
        RemoteOutcome::Applied
    }

    fn take(&mut self, dot: Dot, bytes: Bytes) {
        self.vector.advance(dot);
        self.contents.insert(dot);
        self.digest = self.digest.wrapping_add(txn_hash(&bytes));
        self.tips.insert(dot.origin, txn_hash(&bytes));
        self.oplog.push((dot, bytes));
        self.index.insert(dot, self.oplog.len() as u64);
    }

    /// I5: stable <= acked <= every member's vector, as told; neither falls.
    fn check_stability(&mut self) {
        for (member, report) in &self.reports {
            if report.get(*member) <= self.vector.get(*member) {
                self.counted.insert(*member, report.clone());
            }
        }
        let meet = |reports: &BTreeMap<Origin, Vector>| {
            let mut meet = self.vector.clone();
            for member in &self.members {
                meet.meet(reports.get(member).unwrap_or(&Vector::new()));
            }
            meet
        };
        let (acked, stable) = (meet(&self.reports), meet(&self.counted));
        assert!(acked.covers_all(&self.acked) && stable.covers_all(&self.stable), "I5: neither falls");
        assert!(acked.covers_all(&stable), "I5: stable <= acked");
        self.acked = acked;
        self.stable = stable;
    }

    /// The host's side of reading the oplog, with an index of dots.
    pub fn read(&self, from: u64, lacking: &Vector, want: &Vector, bytes_max: u64) -> OplogChunk {
        let firsts = want.iter().map(|dot| Dot::new(dot.origin, lacking.get(dot.origin) + 1));
        let first = firsts.filter_map(|dot| self.index.get(&dot).copied()).min();
        let mut chunk = OplogChunk { entries: Vec::new(), next: self.oplog.len() as u64 + 1 };
        let mut bytes = 0;
        let Some(start) = first else { return chunk };
        for position in start.max(from)..=self.oplog.len() as u64 {
            let (dot, txn) = &self.oplog[position as usize - 1];
            if lacking.covers(*dot) || !want.covers(*dot) {
                continue;
            }
            bytes += txn.len() as u64;
            if bytes > bytes_max && !chunk.entries.is_empty() {
                chunk.next = position;
                break;
            }
            chunk.entries.push((position, txn.clone()));
        }
        chunk
    }
}
