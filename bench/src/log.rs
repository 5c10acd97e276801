//! What one durable batch of the Raft log costs, beside a commit of the database that held the log before, and beside
//! the least that any log can do: one write and one sync in a file whose blocks are there already.
//!
//! All of them take turns within one run, so that what else the machine does falls on all alike.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use redb::{Database, Durability, TableDefinition};

use crate::instructions::log as store;

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("meta");
/// The bare file begins again when it is at its end.
const FILE_BYTES: u64 = 16 << 20;
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// One way to make a batch durable.
trait Way {
    /// Makes entries of one batch durable, the first of which is the `index`-th.
    fn write(&mut self, index: u64, batch: &[Bytes]) -> Result<(), String>;
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Bare(File);

impl Bare {
    fn make(path: &Path) -> Result<Self, String> {
        let file = File::create(path).map_err(told)?;
        file.write_all_at(&vec![0; FILE_BYTES as usize], 0).map_err(told)?;
        file.sync_all().map_err(told)?;
        Ok(Self(file))
    }
}

impl Way for Bare {
    fn write(&mut self, index: u64, batch: &[Bytes]) -> Result<(), String> {
        let bytes = batch.concat();
        let at = index / batch.len() as u64 * bytes.len() as u64 % (FILE_BYTES - bytes.len() as u64);
        self.0.write_all_at(&bytes, at).map_err(told)?;
        self.0.sync_data().map_err(told)
    }
}

struct Segments(meridian::storage::LogStore);

impl Way for Segments {
    fn write(&mut self, index: u64, batch: &[Bytes]) -> Result<(), String> {
        // As Raft does: what is committed is told with the next batch.
        self.0.put_lazily(b"committed", index.to_be_bytes().to_vec());
        store::append_one(&self.0, (index..).zip(batch.iter().cloned()).collect())
    }
}

struct Commit(Database);

impl Way for Commit {
    fn write(&mut self, index: u64, batch: &[Bytes]) -> Result<(), String> {
        let mut txn = self.0.begin_write().map_err(told)?;
        txn.set_durability(Durability::Immediate).map_err(told)?;
        txn.set_two_phase_commit(true);
        {
            let mut entries = txn.open_table(ENTRIES).map_err(told)?;
            let mut meta = txn.open_table(META).map_err(told)?;
            meta.insert(&b"committed"[..], &index.to_be_bytes()[..]).map_err(told)?;
            for (index, entry) in (index..).zip(batch) {
                entries.insert(index, &entry[..]).map_err(told)?;
            }
        }
        txn.commit().map_err(told)
    }
}

/// Writes `batches` batches in each way and round, and shows what they took. The files are in a folder of `folder`.
pub fn compare(folder: &Path, rounds: u32, batches: u64, entries: usize, bytes: usize) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(told)?;
    let folder = tempfile::tempdir_in(folder).map_err(told)?;
    let database = Database::create(folder.path().join("log.redb")).map_err(told)?;
    let mut ways: [(&str, Box<dyn Way>); 3] = [
        ("bare file", Box::new(Bare::make(&folder.path().join("bare"))?)),
        ("segments", Box::new(Segments(store::open(folder.path())?))),
        ("redb", Box::new(Commit(database))),
    ];
    let batch = vec![Bytes::from(vec![7; bytes]); entries];
    let empty = Histogram::<u64>::new_with_max(LATENCY_NS_MAX, 3).map_err(told)?;
    let mut taken = vec![empty; ways.len()];
    for round in 0..u64::from(rounds) {
        for ((_, way), taken) in ways.iter_mut().zip(&mut taken) {
            for n in 0..batches {
                let index = (round * batches + n) * entries as u64;
                let start = Instant::now();
                way.write(index, &batch)?;
                taken.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }
    crate::say(&format!("{entries} entries of {bytes} bytes in a batch; microseconds of a durable batch"));
    crate::say(&format!("{:<12} {:>8} {:>8} {:>8} {:>14}", "way", "p50", "p90", "p99", "p50 / bare"));
    let bare = taken[0].value_at_quantile(0.5) as f64;
    for ((name, _), taken) in ways.iter().zip(&taken) {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|at| taken.value_at_quantile(at) as f64);
        let [us50, us90, us99] = [p50, p90, p99].map(|ns| ns / 1000.0);
        crate::say(&format!("{name:<12} {us50:>8.0} {us90:>8.0} {us99:>8.0} {:>14.2}", p50 / bare));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_way_writes_its_batches() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(super::compare(folder.path(), 2, 3, 2, 100), Ok(()));
    }
}
