//! Remembers the data folder of each node of this DC, so that a node that lost its disk is not taken for itself.
//!
//! Raft counts on a voter remembering its vote and its log. A wiped voter that returns under its old id could elect a
//! leader without acknowledged entries; whoever has met it before refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::log_adapter::is_initialised;
use crate::peer::{Admission, PeerIdentity, Refusal};
use crate::storage::{LogStore, StorageError};

/// The data folders of the nodes met so far, kept beside the log.
#[derive(Clone)]
pub struct KnownPeers(Arc<Inner>);

struct Inner {
    dc: String,
    log: LogStore,
    known: Mutex<BTreeMap<u64, Uuid>>,
    // Who was met before there was a group, to be remembered once there is one: their connections outlive that moment.
    early: Mutex<BTreeMap<u64, Uuid>>,
}

impl std::fmt::Debug for KnownPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KnownPeers")
    }
}

impl KnownPeers {
    /// The nodes of `dc` that this log remembers.
    pub fn new(dc: impl Into<String>, log: LogStore) -> Self {
        Self(Arc::new(Inner { dc: dc.into(), log, known: Mutex::default(), early: Mutex::default() }))
    }

    async fn check(&self, peer: &PeerIdentity) -> Result<bool, StorageError> {
        let mut known = self.0.known.lock().await;
        if let Some(store_id) = known.get(&peer.node) {
            return Ok(*store_id == peer.store_id);
        }
        let key = row_key(peer.node);
        if let Some(row) = self.0.log.row(&key)? {
            let store_id = Uuid::from_slice(&row).map_err(|_| StorageError::corrupt("a row about a peer"))?;
            known.insert(peer.node, store_id);
            return Ok(store_id == peer.store_id);
        }
        // Before there is a group, a folder may be made anew without harm.
        if is_initialised(&self.0.log)? {
            self.0.log.put(&key, peer.store_id.as_bytes().to_vec()).await?;
            known.insert(peer.node, peer.store_id);
        } else {
            self.0.early.lock().await.insert(peer.node, peer.store_id);
        }
        Ok(true)
    }

    async fn remember_early(&self) -> Result<(), StorageError> {
        let early = std::mem::take(&mut *self.0.early.lock().await);
        let mut known = self.0.known.lock().await;
        for (node, store_id) in early {
            let key = row_key(node);
            if !known.contains_key(&node) && self.0.log.row(&key)?.is_none() {
                self.0.log.put(&key, store_id.as_bytes().to_vec()).await?;
                known.insert(node, store_id);
            }
        }
        Ok(())
    }
}

fn row_key(node: u64) -> Vec<u8> {
    [b"peer/".as_slice(), &node.to_be_bytes()].concat()
}

impl Admission for KnownPeers {
    fn admit<'a>(&'a self, peer: &'a PeerIdentity) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            if peer.dc != self.0.dc {
                return Ok(());
            }
            match self.check(peer).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Refusal::Wiped),
                Err(error) => {
                    tracing::error!(%error, node = peer.node, "cannot look up what is known of a peer");
                    Err(Refusal::Unknown)
                }
            }
        })
    }

    fn group_exists<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.remember_early().await {
                tracing::error!(%error, "cannot remember the peers that were met before the group was there");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_adapter::initialised_for_tests;
    use super::*;
    use crate::seams::{Seams, SimDisk};
    use crate::storage::{Folder, FolderConfig, Identity};

    /// Symptom: a wiped node was taken for itself if its peers had connected to it before the group was there, and not
    /// since. Mechanism: a folder was remembered only by a handshake after that moment.
    #[tokio::test]
    async fn a_peer_met_before_the_group_is_remembered_once_the_group_exists() {
        let seams = Seams { disk: Arc::new(SimDisk::new()), ..Seams::production() };
        let owner = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
        let opened = Folder::open(FolderConfig::new("/data", owner), &seams).unwrap();
        let known = KnownPeers::new("eu", opened.log.clone());
        let peer = |id| PeerIdentity {
            cluster: "c".into(),
            dc: "eu".into(),
            node: 2,
            store_id: Uuid::from_u128(id),
        };
        assert_eq!(known.admit(&peer(1)).await, Ok(()));
        assert_eq!(known.admit(&peer(2)).await, Ok(()), "without a group a folder may be made anew");
        initialised_for_tests(&opened.log).await;
        known.group_exists().await;
        assert_eq!(known.admit(&peer(3)).await, Err(Refusal::Wiped));
        let after_a_restart = KnownPeers::new("eu", opened.log.clone());
        assert_eq!(after_a_restart.admit(&peer(3)).await, Err(Refusal::Wiped));
        assert_eq!(after_a_restart.admit(&peer(2)).await, Ok(()));
    }
}
