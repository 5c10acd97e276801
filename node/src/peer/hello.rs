//! After the handshake: who is there, what the connection is for, and whether this node may be talked to.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{HandshakeError, Kind};
use crate::seams::BoxStream;

const HELLO_VERSION: u8 = 1;
const HELLO_BYTES_MAX: usize = 1024;
const ADMITTED: u8 = 0;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// The cluster's name.
    pub cluster: String,
    /// The datacenter's name.
    pub dc: String,
    /// The node's id in its datacenter.
    pub node: u64,
    /// The id of its data folder; another one for a known node means that it lost its disk.
    pub store_id: Uuid,
}

/// Why a peer that knows the secret is not talked to all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A node of this id was here before with other data: a wiped node needs a new id.
    #[error("a node of this id was known with another data folder; a wiped node must return with a new id")]
    Wiped,
    /// A node of another DC wants a connection that only nodes of this DC get.
    #[error("only nodes of the same datacenter may ask that")]
    OtherDc,
    /// A reason that this program does not know.
    #[error("for a reason that this program does not know")]
    Unknown,
}

impl Refusal {
    fn byte(self) -> u8 {
        match self {
            Refusal::Wiped => 1,
            Refusal::OtherDc => 2,
            Refusal::Unknown => 0xff,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Refusal::Wiped,
            2 => Refusal::OtherDc,
            _ => Refusal::Unknown,
        }
    }
}

/// Decides who is talked to.
pub trait Admission: Send + Sync + 'static {
    /// Whether this node talks to that one. Asked on both ends of every connection.
    fn admit<'a>(&'a self, peer: &'a PeerIdentity) -> BoxFuture<'a, Result<(), Refusal>>;

    /// The Raft group is there from now on: whoever was admitted before belongs to it and is to be remembered.
    fn group_exists<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// Talks to everybody who knows the secret.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit<'a>(&'a self, _peer: &'a PeerIdentity) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }
}

/// What the dialling end says first: who it is, and what the connection is for.
pub(super) fn greeting(me: &PeerIdentity, kind: Kind) -> Result<Vec<u8>, HandshakeError> {
    let mut greeting = encode_hello(me)?;
    greeting.push(kind as u8);
    Ok(greeting)
}

/// Hears what becomes of a connection that this end has dialled and greeted on.
pub(super) async fn admitted(
    stream: &mut BoxStream,
    admission: &dyn Admission,
) -> Result<PeerIdentity, HandshakeError> {
    match stream.read_u8().await? {
        ADMITTED => {}
        byte => return Err(HandshakeError::Refused(Refusal::from_byte(byte))),
    }
    let peer = receive_hello(stream).await?;
    admission.admit(&peer).await.map_err(HandshakeError::NotAdmitted)?;
    Ok(peer)
}

/// Answers a connection that the other end has dialled.
pub(super) async fn accept(
    stream: &mut BoxStream,
    me: &PeerIdentity,
    admission: &dyn Admission,
) -> Result<(PeerIdentity, Kind), HandshakeError> {
    let peer = receive_hello(stream).await?;
    let kind = Kind::from_byte(stream.read_u8().await?).ok_or(HandshakeError::OtherVersion)?;
    let admitted = match kind {
        Kind::Gossip => Ok(()),
        Kind::Presence if peer.dc != me.dc => Ok(()),
        _ if peer.dc != me.dc => Err(Refusal::OtherDc),
        _ => admission.admit(&peer).await,
    };
    if let Err(refusal) = admitted {
        stream.write_u8(refusal.byte()).await?;
        stream.flush().await?;
        return Err(HandshakeError::NotAdmitted(refusal));
    }
    let mut answer = vec![ADMITTED];
    answer.extend_from_slice(&encode_hello(me)?);
    stream.write_all(&answer).await?;
    stream.flush().await?;
    Ok((peer, kind))
}

fn encode_hello(me: &PeerIdentity) -> Result<Vec<u8>, HandshakeError> {
    let body = rmp_serde::to_vec(me).map_err(std::io::Error::other)?;
    let len = u16::try_from(body.len() + 1).map_err(std::io::Error::other)?;
    let mut hello = len.to_be_bytes().to_vec();
    hello.push(HELLO_VERSION);
    hello.extend_from_slice(&body);
    Ok(hello)
}

async fn receive_hello(stream: &mut BoxStream) -> Result<PeerIdentity, HandshakeError> {
    let len = usize::from(stream.read_u16().await?);
    if len == 0 || len > HELLO_BYTES_MAX {
        return Err(HandshakeError::NotAPeer);
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    if body[0] != HELLO_VERSION {
        return Err(HandshakeError::OtherVersion);
    }
    rmp_serde::from_slice(&body[1..]).map_err(|_| HandshakeError::NotAPeer)
}
