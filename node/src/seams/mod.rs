//! The seams: everything through which a node reaches the world outside its own memory.
//!
//! They exist so that the same node runs whole inside a simulator: network, disk, clock, storage threads, load and
//! randomness are traits, bundled in [`Seams`], and nothing else in the node names their real counterparts. Production
//! implementations are beside each trait; [`SimDisk`] is a disk in memory whose power can be cut. Nothing here knows
//! what is sent, stored or timed.

mod clock;
mod disk;
mod executor;
mod load;
mod net;
mod random;
mod sim_disk;

use std::sync::Arc;

pub use clock::{Clock, SystemClock};
pub use disk::{Backend, DIRECT_ALIGN, Disk, FileDisk, FolderLock};
pub use executor::{Executor, InlineExecutor, Job, ThreadExecutor, Urgency, Worker, WorkerStopped, run_on};
pub use load::{Load, RuntimeLoad};
pub use net::{BoxStream, Listener, Net, Stream, TcpNet};
pub use random::{OsRandom, Random};
pub use sim_disk::SimDisk;

/// The seams of one node.
#[derive(Clone)]
pub struct Seams {
    /// Listening and connecting.
    pub net: Arc<dyn Net>,
    /// Files and folders.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where blocking storage work runs.
    pub executor: Arc<dyn Executor>,
    /// Where ids and nonces come from.
    pub random: Arc<dyn Random>,
    /// How busy the threads are that run tasks.
    pub load: Arc<dyn Load>,
}

impl Seams {
    /// The real world: TCP, files, the system's clock, threads, the system's randomness, the runtime's own counts.
    pub fn production() -> Self {
        Self {
            net: Arc::new(TcpNet),
            disk: Arc::new(FileDisk),
            clock: Arc::new(SystemClock::new()),
            executor: Arc::new(ThreadExecutor),
            random: Arc::new(OsRandom),
            load: Arc::new(RuntimeLoad),
        }
    }
}
