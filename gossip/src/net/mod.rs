//! The driver: runs the [machine](crate::proto::Machine) over WebSockets on authenticated streams and over a [`Host`].
//!
//! One task owns the machine; everything else reaches it through bounded channels. What it must not know: what a txn
//! says, and which link needs what; that is the machine's.

mod driver;
mod host;
mod socket;

use std::sync::Arc;

pub use host::{BoxStream, Host, HostError, Stream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::{GossipConfig, Identity};
use crate::proto::status::GossipStatus;

/// Authenticated streams that may wait for the driver to take them. When full, a further one is dropped, which its
/// peer sees as a closed connection and tries again.
const ACCEPT_QUEUE_MAX: usize = 64;

/// Starts replication on the current tokio runtime. It runs until [`GossipHandle::shutdown`], or until the handle is
/// dropped.
pub fn start(identity: Identity, config: GossipConfig, host: Arc<dyn Host>) -> GossipHandle {
    let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE_MAX);
    let (stop, stopped) = watch::channel(false);
    let (status, status_seen) = watch::channel(Arc::new(GossipStatus::default()));
    let driver = driver::Driver::new(identity, config, host, status);
    let task = tokio::spawn(driver.run(accepted, stopped));
    GossipHandle { accept, stop, status: status_seen, task: Mutex::new(Some(task)) }
}

/// The running replication of one node.
#[derive(Debug)]
pub struct GossipHandle {
    accept: mpsc::Sender<BoxStream>,
    stop: watch::Sender<bool>,
    status: watch::Receiver<Arc<GossipStatus>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl GossipHandle {
    /// Hands over an inbound stream whose peer has been authenticated. False if it was dropped because too many wait
    /// or replication has stopped.
    pub fn accept(&self, stream: BoxStream) -> bool {
        self.accept.try_send(stream).is_ok()
    }

    /// What an operator is shown; refreshed several times a second while this node leads.
    pub fn status(&self) -> watch::Receiver<Arc<GossipStatus>> {
        self.status.clone()
    }

    /// Closes all links and returns when the driver has ended. Calling it again does nothing.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(failed) = task.await
        {
            tracing::error!(error = %failed, "the replication task failed");
        }
    }
}
