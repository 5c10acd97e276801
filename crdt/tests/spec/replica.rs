//! A datacenter reduced to its state: cells, vector, own seq and clock, what it keeps to ship, and its bookkeeping of
//! stability. It follows the rules that a node must follow, and asserts them.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use meridian_crdt::{
    Applied, Ctx, DigestDeltas, DocCompaction, Dot, ExecuteError, Executed, Key, KeyEffect, Limits, MemCells,
    Mutation, Origin, Query, Snapshot, Swept, Table, Txn, TxnHead, Vector, Version, apply, compact_doc,
    doc_tail, execute, merge_state, read, stage_doc_part, sweep, txn_hash, unstage_doc_parts, validate,
};

/// The last txn of an origin that a replica has applied: enough to check the next and to complete its deps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    pub hash: u64,
    pub deps: Vector,
}

/// What a replica knows of another member's vector.
#[derive(Clone, Debug, Default)]
struct Reports {
    /// Counts: we have applied the member's own txns up to it.
    counted: Vector,
    /// Arrived, and does not count yet.
    waiting: Vec<Vector>,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    pub origin: Origin,
    pub cells: MemCells,
    pub vector: Vector,
    pub stable: Vector,
    /// Counts applied txns and merges.
    pub index: u64,
    /// Each txn as it was shipped, for as long as nothing forces us to forget it.
    pub log: BTreeMap<Dot, Bytes>,
    /// How many collections were dropped without a look at their cells.
    pub cleared: u64,
    tips: BTreeMap<Origin, Tip>,
    reports: BTreeMap<Origin, Reports>,
    clock_skew: i64,
    hlc: u64,
}

impl Replica {
    pub fn new(origin: Origin, members: &[Origin], clock_skew: i64) -> Self {
        let others = members.iter().filter(|member| **member != origin);
        Replica {
            origin,
            cells: MemCells::new(),
            vector: Vector::new(),
            stable: Vector::new(),
            index: 0,
            log: BTreeMap::new(),
            cleared: 0,
            tips: BTreeMap::new(),
            reports: others.map(|member| (*member, Reports::default())).collect(),
            clock_skew,
            hlc: 0,
        }
    }

    /// The name of the next own txn.
    pub fn next_dot(&self) -> Dot {
        Dot::new(self.origin, self.vector.get(self.origin) + 1)
    }

    /// Own stamps rise; they need not follow those of others, which a clock that is behind cannot.
    pub fn stamp(&mut self, now: u64) -> u64 {
        self.hlc = now.saturating_add_signed(self.clock_skew).max(self.hlc + 1);
        self.hlc
    }

    pub fn execute(&self, hlc: u64, ops: &[(Key, Mutation)]) -> Result<Executed, ExecuteError<Infallible>> {
        let ctx = Ctx {
            dot: self.next_dot(),
            hlc,
            deps: &self.vector,
            index: self.index + 1,
            stable: &self.stable,
        };
        execute(&self.cells, &ctx, ops, &Limits::default())
    }

    /// Commits what [`Replica::execute`] answered.
    pub fn commit(&mut self, hlc: u64, executed: Executed) -> Dot {
        let dot = self.next_dot();
        let tip = self.tips.entry(self.origin).or_default();
        let mut news = self.vector.above(&tip.deps);
        news.set(self.origin, 0);
        let head = TxnHead { dot, hlc, prev: tip.hash, deps: news };
        let bytes = Txn { head, effects: executed.effects }.encode();
        assert!(self.receive(&bytes), "an own txn applies");
        dot
    }

    /// Takes a txn as it was shipped; `false` if it was applied before.
    pub fn receive(&mut self, bytes: &Bytes) -> bool {
        let head = TxnHead::decode(bytes).expect("a head");
        if self.vector.covers(head.dot) {
            return false;
        }
        assert!(self.ready(&head), "{:?} does not have {:?}", self.vector, head);
        let txn = Txn::decode(bytes).expect("a txn");
        validate(&txn).expect("an own encoding is valid");
        let tip = self.tips.entry(head.dot.origin).or_default();
        assert_eq!(tip.hash, head.prev, "the chain of {} holds", head.dot);
        let deps = full_deps(tip, &head);
        *tip = Tip { hash: txn_hash(bytes), deps: deps.clone() };
        self.index += 1;
        let ctx = Ctx { dot: head.dot, hlc: head.hlc, deps: &deps, index: self.index, stable: &self.stable };
        let mut digests = DigestDeltas::default();
        let applied = apply(&mut self.cells, &ctx, &txn.effects, &mut digests).expect("memory does not fail");
        digests.write(&mut self.cells).expect("memory does not fail");
        self.check_applied(&applied, &txn.effects);
        self.cleared += applied.cleared;
        self.vector.advance(head.dot);
        self.log.insert(head.dot, bytes.clone());
        self.count_reports();
        true
    }

    /// Apply says of each key that it touched what a reader sees of it.
    fn check_applied(&self, applied: &Applied, effects: &[KeyEffect]) {
        assert_eq!(applied.versions.len(), effects.len());
        for (effect, version) in effects.iter().zip(&applied.versions) {
            let key = Key::new(effect.space.as_str(), effect.key.as_str()).expect("well formed");
            let read = read(&self.cells, &key, &Query::default()).expect("memory does not fail");
            assert_eq!(read.content.map_or(Version(0), |content| content.version), *version);
            assert_eq!(read.changed_index, self.index);
        }
        assert!(applied.lww_wins <= applied.lww_conflicts);
    }

    /// Whether a txn with this head can be applied now.
    pub fn ready(&self, head: &TxnHead) -> bool {
        head.dot.seq == self.vector.get(head.dot.origin) + 1 && self.vector.covers_all(&head.deps)
    }

    /// The txns that this replica could give to `other` now.
    pub fn offers<'r>(&'r self, other: &'r Replica) -> impl Iterator<Item = &'r Bytes> {
        let next = |origin: Origin| Dot::new(origin, other.vector.get(origin) + 1);
        let next: Vec<Dot> = self.vector.iter().map(|dot| next(dot.origin)).collect();
        let kept = next.into_iter().filter_map(|dot| self.log.get(&dot));
        kept.filter(|bytes| other.ready(&TxnHead::decode(bytes).expect("a head")))
    }

    /// Merges the whole state of `donor`, at whatever vector it stands.
    pub fn merge(&mut self, donor: &Replica) {
        self.index += 1;
        merge_state(&donor.cells, &donor.vector, &mut self.cells, &self.vector, self.index)
            .expect("memory does not fail");
        for (origin, tip) in &donor.tips {
            if donor.vector.get(*origin) > self.vector.get(*origin) {
                self.tips.insert(*origin, tip.clone());
            }
        }
        self.vector.join(&donor.vector);
        self.count_reports();
    }

    /// Stages a snapshot of some updates of a document, if it has any. It holds them as they came.
    pub fn stage(&mut self, key: &Key, updates_max: usize, part_bytes: usize) -> Option<DocCompaction> {
        let tail = doc_tail(&self.cells, key, 1, updates_max).expect("memory does not fail")?;
        let mut snapshot = Snapshot::default();
        for bytes in &tail.content.snapshots {
            snapshot.apart.extend(Snapshot::decode(bytes).expect("an own encoding").apart);
        }
        snapshot.apart.extend(tail.content.updates);
        let bytes = snapshot.encode();
        let mut compaction = tail.compaction;
        compaction.bytes = bytes.len() as u64;
        for part in bytes.chunks(part_bytes.max(bytes.len() / 1000)) {
            let part = Bytes::copy_from_slice(part);
            let DocCompaction { of, number, parts, .. } = &compaction;
            let staged = stage_doc_part(&mut self.cells, key, of, *number, *parts, &part);
            staged.expect("memory does not fail").expect("its incarnations live");
            compaction.parts += 1;
        }
        Some(compaction)
    }

    /// Ends a compaction, or gives it up.
    pub fn compact(&mut self, key: &Key, compaction: &DocCompaction) {
        let before = self.cells.clone();
        let refused = compact_doc(&mut self.cells, key, compaction).expect("memory does not fail").is_err();
        if refused {
            assert_eq!(self.cells, before, "what is refused changes nothing");
            unstage_doc_parts(&mut self.cells, key, &compaction.of, compaction.number)
                .expect("memory does not fail");
        } else {
            // A second time it is refused.
            let again = compact_doc(&mut self.cells, key, compaction).expect("memory does not fail");
            assert!(again.is_err());
        }
    }

    /// Another member says where it stands, or stood.
    pub fn hear(&mut self, member: Origin, vector: Vector) {
        self.reports.get_mut(&member).expect("a member").waiting.push(vector);
        self.count_reports();
    }

    fn count_reports(&mut self) {
        for (member, reports) in &mut self.reports {
            let own = self.vector.get(*member);
            for report in reports.waiting.extract_if(.., |report| own >= report.get(*member)) {
                reports.counted.join(&report);
            }
        }
    }

    /// Moves stability to what the counted reports allow.
    pub fn stabilize(&mut self) {
        let mut stable = self.vector.clone();
        for reports in self.reports.values() {
            stable.meet(&reports.counted);
        }
        assert!(stable.covers_all(&self.stable), "stable never falls");
        self.stable = stable;
    }

    /// One step of sweeping.
    pub fn sweep(&mut self, keep_from_index: u64, limit: usize) -> Swept {
        let swept =
            sweep(&mut self.cells, &self.stable, keep_from_index, limit).expect("memory does not fail");
        assert!(swept.examined <= limit.max(2) && swept.removed <= swept.examined);
        swept
    }

    /// Sweeps for as long as it says that there may be more to do.
    pub fn sweep_all(&mut self, limit: usize) {
        let bound = 10 * (self.cells.count(Table::SWEEP) + 1).pow(2);
        let mut sweeps = 0;
        while self.sweep(self.index + 1, limit).ripe_left {
            sweeps += 1;
            assert!(sweeps < bound, "a sweep comes to an end");
        }
    }
}

fn full_deps(tip: &Tip, head: &TxnHead) -> Vector {
    let mut deps = tip.deps.clone();
    deps.join(&head.deps);
    deps.set(head.dot.origin, head.dot.seq - 1);
    deps
}
