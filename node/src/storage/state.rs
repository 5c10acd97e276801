//! The state of one shard: rows in 32 numbered tables, and how far the log has been applied to them.
//!
//! Writes go to memory and are visible to views at once. A checkpoint freezes what has been written so far and puts it
//! into the file in one durable transaction, on a worker of its own, while writes go on above it. A crash takes the
//! state back to its last checkpoint, never to a place in between.
//!
//! What is in memory is bounded: a generation of changes grows to [`FolderConfig::overlay_bytes`], and by the one write
//! that goes beyond that; then it is frozen. If the one before is still being written, [`StateStore::room`] lets the
//! writer wait. So there are two generations at most, and a third one only as long as a view of it is kept.
//!
//! [`FolderConfig::overlay_bytes`]: super::FolderConfig::overlay_bytes

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, Durability};
use tokio::sync::watch;

use super::overlay::{Changes, Layer};
use super::state_file::{Base, Outlived, commit};
use super::state_rows::{StateView, StateWrite};
use super::{Applied, Fatal, Folder, StorageError};
use crate::seams::Worker;

/// The state of a shard. Clones are handles to the same one.
#[derive(Clone)]
pub struct StateStore(Arc<Inner>);

struct Inner {
    now: Mutex<Now>,
    // Held by the one write that is under way, or the exchange of the file.
    writer: Mutex<()>,
    overlay_bytes: usize,
    worker: Box<dyn Worker>,
    fatal: Fatal,
    // Sent after each checkpoint, exchange of the file, and failure: whoever waits looks again.
    changed: watch::Sender<()>,
    /// Bytes that the last checkpoint wrote.
    cost: AtomicU64,
    // Declared last: the folder stays locked until the file is closed.
    folder: Arc<Folder>,
}

/// Changes that are being written into the file, and where the log stood behind them.
#[derive(Clone)]
struct Frozen {
    rows: Layer,
    applied: Applied,
    writes: u64,
}

/// The newest rows. It is locked for moments only.
struct Now {
    applied: Applied,
    /// How many writes there were.
    writes: u64,
    active: Layer,
    frozen: Option<Frozen>,
    base: Arc<Base>,
    /// How many of the writes are in the file.
    durable_writes: u64,
    /// The view of these rows, once somebody has asked for it.
    view: Option<StateView>,
    /// What is in the file by now. It is kept until no view shows it any more, so that it is the worker who takes it
    /// down: that can take as long as many writes.
    written: Option<Layer>,
    db: Arc<Database>,
    outlived: Outlived,
    /// How often the file was exchanged.
    exchanges: u64,
}

impl std::fmt::Debug for StateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateStore")
    }
}

impl StateStore {
    /// The state in `db`; `worker` writes its checkpoints.
    pub(super) fn new(
        db: Database,
        worker: Box<dyn Worker>,
        overlay_bytes: usize,
        folder: Arc<Folder>,
        fatal: Fatal,
    ) -> Result<Self, StorageError> {
        let outlived = Outlived::default();
        let base = Arc::new(Base::open(&db, &outlived)?);
        let now = Now {
            applied: base.applied.clone(),
            writes: 0,
            active: Layer::default(),
            frozen: None,
            base,
            durable_writes: 0,
            view: None,
            written: None,
            db: Arc::new(db),
            outlived,
            exchanges: 0,
        };
        Ok(Self(Arc::new(Inner {
            now: Mutex::new(now),
            writer: Mutex::new(()),
            overlay_bytes,
            worker,
            fatal,
            changed: watch::Sender::new(()),
            cost: AtomicU64::new(0),
            folder,
        })))
    }

    /// The rows as they are now.
    pub fn view(&self) -> StateView {
        self.0.now().view()
    }

    /// The rows as the last checkpoint left them in the file: a crash does not take them back.
    pub fn durable_view(&self) -> StateView {
        StateView::of_file(self.0.now().base.clone())
    }

    /// How far the log is applied now.
    pub fn applied(&self) -> Applied {
        self.0.now().applied.clone()
    }

    /// How far the log is applied in the file.
    pub fn durable(&self) -> Applied {
        self.0.now().base.applied.clone()
    }

    /// About how many bytes of changes are in memory and not in the file.
    pub fn bytes_in_memory(&self) -> usize {
        let now = self.0.now();
        now.active.bytes() + now.frozen.as_ref().map_or(0, |frozen| frozen.rows.bytes())
    }

    /// Tells whoever waits on it of each checkpoint that was written, and of some other changes.
    pub fn checkpoints(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Bytes that the last checkpoint since the start wrote into the file; 0 if there was none.
    pub fn checkpoint_cost(&self) -> u64 {
        self.0.cost.load(Ordering::Relaxed)
    }

    /// Runs `work` on the rows and then makes what it wrote visible as a whole. An error of `work` leaves the rows as
    /// they were. Wait for [`StateStore::room`] before.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&mut StateWrite) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.0.check()?;
        let _writer = self.0.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut rows = StateWrite::new(self.view());
        let done = work(&mut rows)?;
        let StateWrite { below, changed, applied } = rows;
        // What nobody else looks at is changed in place.
        drop(below);
        let mut now = self.0.now();
        now.view = None;
        now.writes += 1;
        now.absorb(changed);
        if let Some(applied) = applied {
            now.applied = applied;
        }
        self.0.take_down(&mut now)?;
        Ok(done)
    }

    /// Waits until a write may add to what is in memory: until the generation of changes is below its bound, or can be
    /// frozen because the one before it is in the file.
    pub async fn room(&self) -> Result<(), StorageError> {
        let mut changed = self.0.changed.subscribe();
        loop {
            self.0.check()?;
            if self.0.has_room() {
                return Ok(());
            }
            if !self.start_checkpoint()? {
                // The sender is in `self`, so that waiting ends with a change only.
                let _ = changed.changed().await;
            }
        }
    }

    /// Starts to make everything written so far durable, unless a checkpoint is being written or there is nothing to
    /// write. Says whether it did.
    pub fn start_checkpoint(&self) -> Result<bool, StorageError> {
        self.0.check()?;
        let started = self.0.now().freeze();
        if started {
            let inner = self.0.clone();
            let changed = inner.changed.clone();
            self.0.submit(move || {
                inner.write_frozen();
                // Who waits may close the folder next, and this must not be what keeps it open.
                drop(inner);
                changed.send_replace(());
            })?;
        }
        Ok(started)
    }

    /// Makes everything written so far durable. Says how far that is.
    pub async fn checkpoint(&self) -> Result<Applied, StorageError> {
        let mut changed = self.0.changed.subscribe();
        let wanted = self.0.now().writes;
        loop {
            self.0.check()?;
            {
                let now = self.0.now();
                if now.durable_writes >= wanted {
                    return Ok(now.base.applied.clone());
                }
            }
            if !self.start_checkpoint()? {
                let _ = changed.changed().await;
            }
        }
    }

    /// Puts another file in the place of this one and of all that is in memory. Views of what was there before go on.
    pub(super) fn replace(&self, db: Database) -> Result<(), StorageError> {
        let _writer = self.0.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let outlived = Outlived::default();
        let base = Arc::new(Base::open(&db, &outlived)?);
        let mut now = self.0.now();
        let writes = now.writes + 1;
        let new = Now {
            applied: base.applied.clone(),
            writes,
            active: Layer::default(),
            frozen: None,
            base,
            durable_writes: writes,
            view: None,
            written: None,
            db: Arc::new(db),
            outlived,
            exchanges: now.exchanges + 1,
        };
        let Now { db, outlived, .. } = std::mem::replace(&mut *now, new);
        drop(now);
        outlived.get_or_init(|| db);
        self.0.changed.send_replace(());
        Ok(())
    }
}

impl Now {
    fn view(&mut self) -> StateView {
        let make = || {
            let frozen = self.frozen.as_ref().map(|frozen| frozen.rows.clone());
            StateView::new(self.applied.clone(), self.active.clone(), frozen, self.base.clone())
        };
        self.view.get_or_insert_with(make).clone()
    }

    /// Adds the changes of a write to the generation that is not yet on its way into the file.
    fn absorb(&mut self, changed: Changes) {
        let Now { active, frozen, base, .. } = self;
        active.absorb(changed, |table, key| match &*frozen {
            Some(frozen) => frozen.rows.may_show(base, table, key),
            None => base.may_have(table, key),
        });
    }

    /// Begins a new generation of changes, if the one before can be written and has anything to write.
    fn freeze(&mut self) -> bool {
        if self.frozen.is_some() || self.writes == self.durable_writes {
            return false;
        }
        let rows = std::mem::take(&mut self.active);
        self.frozen = Some(Frozen { rows, applied: self.applied.clone(), writes: self.writes });
        self.view = None;
        true
    }
}

impl Inner {
    fn now(&self) -> MutexGuard<'_, Now> {
        // A poisoned lock still guards whole rows: what panics under it is an allocation at most.
        self.now.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Refuses when storage has failed.
    fn check(&self) -> Result<(), StorageError> {
        if self.fatal.told().is_some() { Err(StorageError::Stopped) } else { Ok(()) }
    }

    fn has_room(&self) -> bool {
        self.now().active.bytes() < self.overlay_bytes
    }

    fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), StorageError> {
        self.worker.submit(Box::new(job)).map_err(|stopped| {
            self.fatal.report(format!("the state file: {stopped}"));
            self.changed.send_replace(());
            StorageError::from(stopped)
        })
    }

    /// Writes the frozen changes into the file, durably. Runs on the worker.
    fn write_frozen(&self) {
        let (frozen, db, outlived, exchanges) = {
            let now = self.now();
            // If the file was exchanged meanwhile, there is nothing left to write.
            let Some(frozen) = now.frozen.clone() else { return };
            (frozen, now.db.clone(), now.outlived.clone(), now.exchanges)
        };
        // Dropped in the other order: what woke somebody is told by then.
        let _woken = Woken(self);
        let _alarm = self.fatal.alarm("the state file: writing a checkpoint panicked");
        let before = self.folder.state_written();
        let written = commit(&db, Durability::Immediate, |file| {
            file.put_layer(&frozen.rows)?;
            file.set_applied(&frozen.applied)
        });
        self.cost.store(self.folder.state_written().saturating_sub(before), Ordering::Relaxed);
        match written.and_then(|()| Base::open(&db, &outlived)) {
            Ok(base) => {
                let mut now = self.now();
                if now.exchanges == exchanges {
                    let rows = now.frozen.take().map(|frozen| frozen.rows);
                    let older = std::mem::replace(&mut now.written, rows);
                    now.base = Arc::new(base);
                    now.durable_writes = frozen.writes;
                    now.view = None;
                    drop(now);
                    drop(older);
                }
            }
            Err(error) => self.fatal.report(format!("the state file: {error}")),
        }
    }

    /// Gives what is in the file by now to the worker to take down, once no view shows it.
    fn take_down(&self, now: &mut Now) -> Result<(), StorageError> {
        match &now.written {
            Some(written) if !written.is_shared() => {}
            _ => return Ok(()),
        }
        let written = now.written.take();
        self.submit(move || drop(written))
    }
}

/// Wakes whoever waits for a checkpoint that has panicked.
struct Woken<'i>(&'i Inner);

impl Drop for Woken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.changed.send_replace(());
        }
    }
}
