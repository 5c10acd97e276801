//! The accepting end: lets connections in and hands their requests to whoever answers them.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::client::PeerConfig;
use super::frames::{self, FrameReader};
use super::handshake::{Proving, within};
use super::{HandshakeError, Kind, PeerHandler, PeerIdentity, RaftHandler, hello};
use crate::seams::{BoxStream, Listener, Random, Seams};

/// Connections at one time, handshakes included; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// Requests of one connection in work; more wait in its socket.
const IN_FLIGHT_MAX: usize = 1024;
/// Answers gathered before a write.
const OUT_BYTES_MAX: usize = 1 << 20;

/// Serves the peer port; dropping it closes the port and all connections except those handed over.
#[derive(Debug)]
pub struct PeerServer {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl PeerServer {
    /// Closes the port and all connections, and returns when nothing of them runs any more.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Shared {
    config: PeerConfig,
    random: Arc<dyn Random>,
    peers: Arc<dyn PeerHandler>,
    raft: Arc<dyn RaftHandler>,
}

/// Starts to serve the peer port.
pub fn serve(
    listener: Box<dyn Listener>,
    config: PeerConfig,
    seams: &Seams,
    peers: Arc<dyn PeerHandler>,
    raft: Arc<dyn RaftHandler>,
) -> PeerServer {
    let shared = Arc::new(Shared { config, random: seams.random.clone(), peers, raft });
    let mut tasks = JoinSet::new();
    let (stop, stopping) = watch::channel(false);
    tasks.spawn(accept(listener, shared, stopping));
    PeerServer { tasks, stop }
}

async fn accept(mut listener: Box<dyn Listener>, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepting = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let next = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => None,
            next = accepting => Some(next),
        };
        let Some((permit, accepted)) = next else {
            return connections.shutdown().await;
        };
        match accepted {
            Ok((stream, from)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = connection(stream, &shared).await {
                        match error {
                            HandshakeError::Io(error) => {
                                tracing::debug!(%from, %error, "a peer connection ended")
                            }
                            error => tracing::warn!(%from, %error, "refused a peer connection"),
                        }
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!(%error, "cannot accept peer connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: BoxStream, shared: &Shared) -> Result<(), HandshakeError> {
    let PeerConfig { me, secret, handshake_limit, admission } = &shared.config;
    let random = shared.random.as_ref();
    let proving = Proving { secret, cluster: &me.cluster, random, limit: *handshake_limit };
    proving.accept(&mut stream).await?;
    let (peer, kind) = within(*handshake_limit, hello::accept(&mut stream, me, admission.as_ref())).await?;
    match kind {
        Kind::Gossip => shared.peers.gossip(stream, peer),
        Kind::Snapshot => shared.raft.snapshot(peer.node, stream).await,
        Kind::Raft | Kind::Forward | Kind::Presence => requests(stream, kind, &peer, shared).await?,
    }
    Ok(())
}

/// Answers the requests of one connection; they start in order and may finish in any.
async fn requests(stream: BoxStream, kind: Kind, peer: &PeerIdentity, shared: &Shared) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader);
    let mut working: FuturesUnordered<BoxFuture<'_, (u64, bytes::Bytes)>> = FuturesUnordered::new();
    let mut out = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            Some((id, answer)) = working.next(), if out.len() < OUT_BYTES_MAX => frames::put(&mut out, id, &answer),
            written = writer.write_buf(&mut out), if !out.is_empty() => {
                written?;
                if out.is_empty() {
                    writer.flush().await?;
                }
            }
            frame = reader.next(), if working.len() < IN_FLIGHT_MAX => {
                let Some((id, body)) = frame? else { return Ok(()) };
                if id == frames::PING {
                    frames::put(&mut out, id, &[]);
                    continue;
                }
                working.push(Box::pin(async move {
                    let answer = match kind {
                        Kind::Raft => shared.raft.rpc(peer.node, body).await,
                        Kind::Presence => shared.peers.presence(peer, body).await,
                        _ => shared.peers.forward(peer.node, body).await,
                    };
                    (id, answer)
                }));
            }
        }
    }
}
