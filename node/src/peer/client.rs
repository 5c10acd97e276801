//! The dialling end: one multiplexed connection per node and kind, dialled on use.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::handshake::{Proving, within};
use super::link::Link;
use super::{Admission, ForwardError, HandshakeError, Kind, PeerIdentity, Refusal, Secret, hello};
use crate::seams::{BoxStream, Seams};

/// Where the nodes of a DC are; asked again at each connection, so that addresses may change.
pub trait Resolver: Send + Sync + 'static {
    /// The peer address (`host:port`) of a node of the DC.
    fn peer_addr(&self, node: u64) -> Option<String>;
}

impl<F: Fn(u64) -> Option<String> + Send + Sync + 'static> Resolver for F {
    fn peer_addr(&self, node: u64) -> Option<String> {
        self(node)
    }
}

/// What both ends of the peer port need to know.
#[derive(Clone)]
pub struct PeerConfig {
    /// Who this node is.
    pub me: PeerIdentity,
    /// The cluster's secret.
    pub secret: Secret,
    /// How long a handshake, or a connection attempt, may take (default 3 s).
    pub handshake_limit: Duration,
    /// Who is talked to.
    pub admission: Arc<dyn Admission>,
}

/// Asks other nodes. Clones share their connections.
#[derive(Clone)]
pub struct PeerClient(Arc<Inner>);

pub(super) struct Inner {
    config: PeerConfig,
    /// Where the nodes are that are asked by their number.
    dc: String,
    seams: Seams,
    resolver: Arc<dyn Resolver>,
    links: Mutex<BTreeMap<(u64, Kind), Link>>,
    refused: Mutex<Option<Refusal>>,
}

impl std::fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerClient")
    }
}

impl PeerClient {
    /// A client that dials as `config.me`, and asks nodes of its own DC.
    pub fn new(config: PeerConfig, seams: Seams, resolver: Arc<dyn Resolver>) -> Self {
        let dc = config.me.dc.clone();
        Self::asking(dc, config, seams, resolver)
    }

    /// One that asks nodes of another DC, which let nothing in by number but [`Self::presence`]. It has connections of its own.
    pub fn of_dc(&self, dc: &str, resolver: Arc<dyn Resolver>) -> Self {
        Self::asking(dc.to_owned(), self.0.config.clone(), self.0.seams.clone(), resolver)
    }

    fn asking(dc: String, config: PeerConfig, seams: Seams, resolver: Arc<dyn Resolver>) -> Self {
        let (links, refused) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { config, dc, seams, resolver, links, refused }))
    }

    /// Tells whoever decides on admission that the Raft group is there.
    pub async fn group_exists(&self) {
        self.0.config.admission.group_exists().await;
    }

    /// Asks another node of this DC and waits for the answer, `deadline` at most.
    pub async fn forward(
        &self,
        node: u64,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ForwardError> {
        self.call(node, Kind::Forward, request, deadline).await
    }

    /// Asks or tells another node about who is present and waits for the answer, `deadline` at most.
    pub async fn presence(
        &self,
        node: u64,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ForwardError> {
        self.call(node, Kind::Presence, request, deadline).await
    }

    /// A raw gossip connection to a peer port of any DC, handshake done.
    pub async fn dial_gossip(&self, addr: &str) -> io::Result<BoxStream> {
        self.dial_gossip_peer(addr).await.map(|(stream, _)| stream)
    }

    /// Like [`Self::dial_gossip`], and who is there.
    pub async fn dial_gossip_peer(&self, addr: &str) -> io::Result<(BoxStream, PeerIdentity)> {
        self.0.open(addr, Kind::Gossip).await.map_err(into_io)
    }

    /// Why another node has refused this one last, if one ever has.
    pub fn refusal(&self) -> Option<Refusal> {
        *self.0.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A raw snapshot connection to another node of this DC.
    pub(crate) async fn dial_snapshot(&self, node: u64) -> io::Result<BoxStream> {
        self.0.dial(node, Kind::Snapshot).await.map_err(into_io)
    }

    /// Sends a Raft RPC.
    pub(crate) async fn raft(
        &self,
        node: u64,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ForwardError> {
        self.call(node, Kind::Raft, request, deadline).await
    }

    async fn call(
        &self,
        node: u64,
        kind: Kind,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ForwardError> {
        let link = {
            let mut links = self.0.links.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            links
                .entry((node, kind))
                .or_insert_with(|| Link::start(Arc::downgrade(&self.0), node, kind))
                .clone()
        };
        link.call(request, deadline).await
    }
}

fn into_io(error: HandshakeError) -> io::Error {
    match error {
        HandshakeError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::PermissionDenied, other),
    }
}

impl Inner {
    /// Dials a node of the DC that is asked.
    pub(super) async fn dial(&self, node: u64, kind: Kind) -> Result<BoxStream, HandshakeError> {
        let addr = self.resolver.peer_addr(node);
        let addr = addr.ok_or_else(|| io::Error::other(format!("node {node} has no address")))?;
        let (stream, peer) = self.open(&addr, kind).await?;
        if peer.node != node || peer.dc != self.dc {
            let found = format!("{addr} is node {}/{}, not {}/{node}", peer.dc, peer.node, self.dc);
            return Err(io::Error::other(found).into());
        }
        Ok(stream)
    }

    async fn open(&self, addr: &str, kind: Kind) -> Result<(BoxStream, PeerIdentity), HandshakeError> {
        let PeerConfig { me, secret, handshake_limit, admission } = &self.config;
        let mut stream = within(*handshake_limit, async { Ok(self.seams.net.connect(addr).await?) }).await?;
        let random = self.seams.random.as_ref();
        let proving = Proving { secret, cluster: &me.cluster, random, limit: *handshake_limit };
        let opened = async {
            proving.dial(&mut stream, &hello::greeting(me, kind)?).await?;
            within(*handshake_limit, hello::admitted(&mut stream, admission.as_ref())).await
        };
        let peer = opened.await.inspect_err(|error| match error {
            HandshakeError::Refused(refusal) => {
                tracing::error!(addr, %refusal, "another node refuses this one");
                *self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(*refusal);
            }
            HandshakeError::Io(_) | HandshakeError::Silent => {
                tracing::debug!(addr, %error, "cannot open a peer connection");
            }
            _ => tracing::warn!(addr, %error, "a peer connection was refused"),
        })?;
        Ok((stream, peer))
    }
}
