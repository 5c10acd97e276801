//! Whole datacenters inside a program, for the tests and the documentation of programs that use Meridian.
//!
//! Each is one real node: it listens on ports of loopback that the system chooses, speaks every protocol, and keeps its
//! data in memory unless it is given a folder. Here the node is started and stopped, and nothing else; how it is built
//! is `server`'s business. A datacenter that must outlive the loss of a machine is several processes of
//! `meridian serve`, never this.
//!
//! ```
//! use meridian::embedded::Node;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await?;
//! let mut stream = tokio::net::TcpStream::connect(node.addr()).await?;
//! stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).await?;
//! assert!(answer.starts_with("HTTP/1.1 200"));
//! node.stop().await?;
//! # Ok(()) }
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{ByteSize, Config, ConfigError};
use crate::seams::{Listener, Seams, SimDisk};
use crate::server::{self, ServeError, ServeOptions};

/// The name of the cluster that these datacenters form.
pub const CLUSTER: &str = "embedded";

/// The name of the datacenter that [`Node::start`] makes.
pub const DC: &str = "eu-west";

/// How long a node may take to become ready.
const START_MAX: Duration = Duration::from_secs(30);

/// Any port of loopback that is free.
const ANY_PORT: &str = "127.0.0.1:0";

/// The size of a file of the log where files are memory.
const MEMORY_SEGMENT: ByteSize = ByteSize::mib(1);

/// Why no node was started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings, or a datacenter's name, are wrong. Nothing was started.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The node did not start, or stopped again at once.
    #[error("{0}")]
    Serve(#[from] ServeError),
    /// It was stopped before it was ready, as by the end of the runtime.
    #[error("the node was stopped before it was ready")]
    Stopped,
    /// It took too long. It has been stopped.
    #[error("the node was not ready within {} s", START_MAX.as_secs())]
    NotReady,
}

/// What the nodes have in common that [`Setup::start`] starts. Without a choice: data in memory, and the settings that a
/// node has by default.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    settings: String,
    folder: Option<PathBuf>,
}

impl Setup {
    /// Adds sections of a node's configuration file, such as `[limits]\nbody_max = "64KiB"`.
    #[must_use]
    pub fn settings(mut self, toml: &str) -> Self {
        self.settings.push_str(toml);
        self.settings.push('\n');
        self
    }

    /// Keeps the data on disk: each datacenter in the folder of its name below this one. One that has data goes on with
    /// them.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts one datacenter; returns when it is ready to serve.
    ///
    /// # Errors
    /// Then nothing goes on running.
    pub async fn start(self, dc: &str) -> Result<Node, StartError> {
        Place::bind(dc).await?.start(&self, "").await
    }

    /// Starts datacenters that replicate each other's writes; returns when each of them is ready to serve.
    ///
    /// # Errors
    /// Then nothing goes on running.
    pub async fn start_all(self, dcs: &[&str]) -> Result<Vec<Node>, StartError> {
        // All ports are bound before the first node starts, so that each knows where the others are.
        let places = try_join_all(dcs.iter().map(|dc| Place::bind(dc))).await?;
        let remotes: Vec<String> = places.iter().map(|place| place.as_remote_of(&places)).collect();
        let nodes = places.into_iter().zip(&remotes).map(|(place, remotes)| place.start(&self, remotes));
        try_join_all(nodes).await
    }
}

/// A datacenter of one node in this process. It stops when this is dropped, or sooner and in order with
/// [`Node::stop`].
#[derive(Debug)]
pub struct Node {
    dc: String,
    addr: String,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
}

impl Node {
    /// Starts the datacenter `eu-west` with its data in memory; returns when it is ready to serve.
    ///
    /// # Errors
    /// Then nothing goes on running.
    pub async fn start() -> Result<Self, StartError> {
        Setup::default().start(DC).await
    }

    /// The name of its datacenter.
    pub fn dc(&self) -> &str {
        &self.dc
    }

    /// Its client address, `host:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Tells it to stop, at once; the future ends when it has answered what was in flight and closed its files.
    ///
    /// # Errors
    /// If it had stopped by itself, because a durable write failed.
    pub fn stop(self) -> impl Future<Output = Result<(), ServeError>> + Send {
        let Self { stop, ended, .. } = self;
        // Who has stopped already hears nothing, and says below why it did.
        let _ = stop.send(());
        async move { ended.await.unwrap_or_else(|died| Err(ServeError::Fatal(died.to_string()))) }
    }
}

/// A datacenter before its node starts: its ports, bound.
struct Place {
    dc: String,
    seams: Seams,
    client: (String, Box<dyn Listener>),
    peer: (String, Box<dyn Listener>),
}

impl Place {
    async fn bind(dc: &str) -> Result<Self, ServeError> {
        let seams = Seams::production();
        let (client, peer) = (any_port(&seams).await?, any_port(&seams).await?);
        Ok(Self { dc: dc.to_owned(), seams, client, peer })
    }

    /// The sections that tell this node of the others.
    fn as_remote_of(&self, all: &[Self]) -> String {
        let mut text = String::new();
        for other in all.iter().filter(|other| other.peer.0 != self.peer.0) {
            // Writing into a string does not fail.
            writeln!(text, "[remotes.{}]\npeers = \"1={}\"", other.dc, other.peer.0).ok();
        }
        text
    }

    async fn start(self, setup: &Setup, remotes: &str) -> Result<Node, StartError> {
        let Self { dc, mut seams, client: (addr, client), peer: (peer_addr, peer) } = self;
        let data = setup.folder.clone().unwrap_or_default().join(&dc);
        let text = format!(
            "[cluster]\nname = {CLUSTER:?}\n[dc]\nname = {dc:?}\n[nodes.n1]\nid = 1\ndata_dir = {:?}\n\
             client_listen = {addr:?}\npeer_listen = {peer_addr:?}\n{remotes}{}",
            data.display().to_string(),
            setup.settings
        );
        let mut config = Config::parse(CLUSTER, &text, None, std::iter::empty(), &[])?;
        if setup.folder.is_none() {
            seams.disk = Arc::new(SimDisk::new());
            config.storage.log_segment = config.storage.log_segment.min(MEMORY_SEGMENT);
        }
        let node = server::Node::start(&config, &ServeOptions::default(), &seams, client, peer).await?;
        let mut ready = node.ready();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            // A dropped sender stops the node as well as a word would.
            let _ = stopped.await;
        };
        let mut ended = tokio::spawn(node.until(stopped));
        tokio::select! {
            is_ready = tokio::time::timeout(START_MAX, ready.wait_for(|ready| *ready)) => match is_ready {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(StartError::Stopped),
                Err(_) => return Err(StartError::NotReady),
            },
            ended = &mut ended => return Err(match ended {
                Ok(Err(error)) => StartError::Serve(error),
                _ => StartError::Stopped,
            }),
        }
        Ok(Node { dc, addr, stop, ended })
    }
}

/// A port that the system chooses, and its address.
async fn any_port(seams: &Seams) -> Result<(String, Box<dyn Listener>), ServeError> {
    let listener = server::listen(seams, ANY_PORT).await?;
    match listener.local_addr() {
        Ok(addr) => Ok((addr.to_string(), listener)),
        Err(error) => Err(ServeError::Listen { addr: ANY_PORT.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_with_a_folder_goes_on_with_its_data_and_one_without_starts_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let on_disk = Setup::default().folder(folder.path());
        on_disk.clone().start("a").await.expect("starts").stop().await.expect("in good order");
        assert!(folder.path().join("a").is_dir());
        on_disk.start("a").await.expect("starts again").stop().await.expect("in good order");
        let two = [Node::start().await.expect("starts"), Node::start().await.expect("beside the other")];
        assert_ne!(two[0].addr(), two[1].addr());
        assert_eq!(two[0].dc(), DC);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_settings_is_told() {
        let wrong = Setup::default().settings("[limits]\nbody_maximum = 1").start("a").await;
        assert!(
            matches!(&wrong, Err(StartError::Config(e)) if e.to_string().contains("body_max")),
            "{wrong:?}"
        );
        assert!(matches!(Setup::default().start("not a name").await, Err(StartError::Config(_))));
    }
}
