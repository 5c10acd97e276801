//! The proof that both ends know the cluster's secret, before anything else is read.
//!
//! Messages have fixed sizes. Each end proves itself over both nonces, the cluster's name and its own role, so that
//! nothing can be replayed or reflected. An end that refuses says why in one byte; both ends report it.

use std::io;
use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use crate::seams::{BoxStream, Random};

const MAGIC: &[u8; 8] = b"MERIDIAN";
const VERSION: u8 = 1;
const NONCE: usize = 32;
const PROOF: usize = 32;
const OPENING: usize = 8 + 1 + 8 + NONCE;
const REPLY: usize = 1 + NONCE + PROOF;
const CLOSING: usize = 1 + PROOF;

const OK: u8 = 0;
const WRONG_SECRET: u8 = 1;
const FOREIGN_CLUSTER: u8 = 2;
const OTHER_VERSION: u8 = 3;

/// The secret of the cluster. It is never shown.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret in these bytes; empty is no secret, which only an insecure configuration may use.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a connection was not let in. Nothing was exchanged over it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The other end knows another secret.
    #[error("the cluster secret of the other end is another one")]
    WrongSecret,
    /// The other end belongs to another cluster.
    #[error("the other end belongs to another cluster")]
    ForeignCluster,
    /// The other end speaks another version of this handshake.
    #[error("the other end speaks another version of the peer protocol")]
    OtherVersion,
    /// What came is not this protocol at all.
    #[error("what came is not the peer protocol")]
    NotAPeer,
    /// The other end said nothing for too long.
    #[error("the other end was silent for too long")]
    Silent,
    /// The other end refused this node.
    #[error("the other end refused this node: {0}")]
    Refused(super::Refusal),
    /// This node refused the other end.
    #[error("this node refuses the other end: {0}")]
    NotAdmitted(super::Refusal),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl HandshakeError {
    fn byte(&self) -> u8 {
        match self {
            HandshakeError::ForeignCluster => FOREIGN_CLUSTER,
            HandshakeError::OtherVersion => OTHER_VERSION,
            _ => WRONG_SECRET,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            WRONG_SECRET => HandshakeError::WrongSecret,
            FOREIGN_CLUSTER => HandshakeError::ForeignCluster,
            OTHER_VERSION => HandshakeError::OtherVersion,
            _ => HandshakeError::NotAPeer,
        }
    }
}

/// What both ends prove.
pub(super) struct Proving<'a> {
    pub(super) secret: &'a Secret,
    pub(super) cluster: &'a str,
    pub(super) random: &'a dyn Random,
    pub(super) limit: Duration,
}

impl Proving<'_> {
    fn proof(&self, role: &[u8], dialer: &[u8], acceptor: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256> as Mac>::new_from_slice(&self.secret.0).expect("HMAC takes keys of every length");
        for part in [role, self.cluster.as_bytes(), dialer, acceptor] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        self.random.fill(&mut nonce);
        nonce
    }

    fn cluster_hash(&self) -> [u8; 8] {
        xxh3_64(self.cluster.as_bytes()).to_be_bytes()
    }

    /// Proves this end to the one that it dialled, and the other way round.
    ///
    /// `next` is what this end says after the proof. It goes out with it, once the other end has proved itself, and
    /// saves a round trip; the other end looks at it only when it has checked the proof.
    pub(super) async fn dial(&self, stream: &mut BoxStream, next: &[u8]) -> Result<(), HandshakeError> {
        within(self.limit, self.dial_steps(stream, next)).await
    }

    async fn dial_steps(&self, stream: &mut BoxStream, next: &[u8]) -> Result<(), HandshakeError> {
        let mine = self.nonce();
        let mut opening = Vec::with_capacity(OPENING);
        opening.extend_from_slice(MAGIC);
        opening.push(VERSION);
        opening.extend_from_slice(&self.cluster_hash());
        opening.extend_from_slice(&mine);
        send(stream, &opening).await?;
        let reply: [u8; REPLY] = receive(stream).await?;
        if reply[0] != OK {
            return Err(HandshakeError::from_byte(reply[0]));
        }
        let (theirs, proof) = reply[1..].split_at(NONCE);
        if self.proof(b"accept", &mine, theirs).verify_slice(proof).is_err() {
            let mut refusal = [0; CLOSING];
            refusal[0] = WRONG_SECRET;
            send(stream, &refusal).await?;
            return Err(HandshakeError::WrongSecret);
        }
        let mut closing = Vec::with_capacity(CLOSING + next.len());
        closing.push(OK);
        closing.extend_from_slice(&self.proof(b"dial", &mine, theirs).finalize().into_bytes());
        closing.extend_from_slice(next);
        send(stream, &closing).await?;
        match receive::<1>(stream).await?[0] {
            OK => Ok(()),
            byte => Err(HandshakeError::from_byte(byte)),
        }
    }

    /// Proves this end to the one that dialled it, and the other way round.
    pub(super) async fn accept(&self, stream: &mut BoxStream) -> Result<(), HandshakeError> {
        within(self.limit, self.accept_steps(stream)).await
    }

    async fn accept_steps(&self, stream: &mut BoxStream) -> Result<(), HandshakeError> {
        let opening: [u8; OPENING] = receive(stream).await?;
        if &opening[..8] != MAGIC {
            return Err(HandshakeError::NotAPeer);
        }
        let refusal = match (opening[8] == VERSION, opening[9..17] == self.cluster_hash()) {
            (false, _) => Some(HandshakeError::OtherVersion),
            (true, false) => Some(HandshakeError::ForeignCluster),
            (true, true) => None,
        };
        if let Some(refusal) = refusal {
            let mut reply = [0; REPLY];
            reply[0] = refusal.byte();
            send(stream, &reply).await?;
            return Err(refusal);
        }
        let (theirs, mine) = (&opening[17..], self.nonce());
        let mut reply = Vec::with_capacity(REPLY);
        reply.push(OK);
        reply.extend_from_slice(&mine);
        reply.extend_from_slice(&self.proof(b"accept", theirs, &mine).finalize().into_bytes());
        send(stream, &reply).await?;
        let closing: [u8; CLOSING] = receive(stream).await?;
        if closing[0] != OK {
            return Err(HandshakeError::from_byte(closing[0]));
        }
        if self.proof(b"dial", theirs, &mine).verify_slice(&closing[1..]).is_err() {
            send(stream, &[WRONG_SECRET]).await?;
            return Err(HandshakeError::WrongSecret);
        }
        Ok(send(stream, &[OK]).await?)
    }
}

/// Limits the time of a part of a handshake.
pub(super) async fn within<T>(
    limit: Duration,
    steps: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    timeout(limit, steps).await.unwrap_or(Err(HandshakeError::Silent))
}

async fn send(stream: &mut BoxStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn receive<const N: usize>(stream: &mut BoxStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::OsRandom;

    fn proving<'a>(secret: &'a Secret, cluster: &'a str) -> Proving<'a> {
        Proving { secret, cluster, random: &OsRandom, limit: Duration::from_millis(200) }
    }

    async fn meet(
        dialer: (&Secret, &str),
        acceptor: (&Secret, &str),
    ) -> (Result<(), HandshakeError>, Result<(), HandshakeError>) {
        let (a, b) = tokio::io::duplex(1024);
        let (mut a, mut b): (BoxStream, BoxStream) = (Box::new(a), Box::new(b));
        let (dialing, accepting) = (proving(dialer.0, dialer.1), proving(acceptor.0, acceptor.1));
        tokio::join!(dialing.dial(&mut a, b""), accepting.accept(&mut b))
    }

    #[tokio::test]
    async fn equal_secrets_and_clusters_meet() {
        let secret = Secret::new("s");
        let (d, a) = meet((&secret, "c"), (&secret, "c")).await;
        d.unwrap();
        a.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_secret_is_told_at_both_ends() {
        let (d, a) = meet((&Secret::new("s"), "c"), (&Secret::new("t"), "c")).await;
        assert!(matches!(d, Err(HandshakeError::WrongSecret)));
        assert!(matches!(a, Err(HandshakeError::WrongSecret)));
    }

    #[tokio::test]
    async fn a_foreign_cluster_is_told_at_both_ends() {
        let secret = Secret::new("s");
        let (d, a) = meet((&secret, "c"), (&secret, "other")).await;
        assert!(matches!(d, Err(HandshakeError::ForeignCluster)));
        assert!(matches!(a, Err(HandshakeError::ForeignCluster)));
    }

    #[tokio::test]
    async fn garbage_and_silence_are_refused() {
        let secret = Secret::new("s");
        let (mut a, b) = tokio::io::duplex(1024);
        a.write_all(&[b'x'; OPENING]).await.unwrap();
        let mut b: BoxStream = Box::new(b);
        assert!(matches!(proving(&secret, "c").accept(&mut b).await, Err(HandshakeError::NotAPeer)));
        let (_silent, b) = tokio::io::duplex(1024);
        let mut b: BoxStream = Box::new(b);
        assert!(matches!(proving(&secret, "c").accept(&mut b).await, Err(HandshakeError::Silent)));
    }
}
