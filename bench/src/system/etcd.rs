//! etcd as Debian ships it, with its defaults, which sync every batch of writes on a majority.

use std::path::Path;

use super::process::Process;
use super::{NODES, free_addresses};
use crate::driver::etcd::status;

/// Room for the database, so that no run ends in an alarm.
const QUOTA_BYTES: u64 = 8 << 30;
/// Operations that one transaction may have; the default is too few to fill it with data quickly.
const TXN_OPS_MAX: u32 = 1024;

/// Starts the nodes.
pub async fn start(folder: &Path) -> Result<(Vec<String>, Vec<Process>), String> {
    let addresses = free_addresses(2 * NODES)?;
    let (clients, peers) = addresses.split_at(NODES);
    let cluster: Vec<String> =
        peers.iter().enumerate().map(|(i, peer)| format!("n{i}=http://{peer}")).collect();
    let mut processes = Vec::new();
    for (i, (client, peer)) in clients.iter().zip(peers).enumerate() {
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let data = folder.join(format!("n{i}"));
        let args = [
            ("name", format!("n{i}")),
            ("data-dir", data.to_string_lossy().into_owned()),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peer.clone()),
            ("initial-advertise-peer-urls", peer),
            ("initial-cluster", cluster.join(",")),
            ("initial-cluster-state", "new".to_owned()),
            ("quota-backend-bytes", QUOTA_BYTES.to_string()),
            ("max-txn-ops", TXN_OPS_MAX.to_string()),
            ("log-level", "error".to_owned()),
            ("logger", "zap".to_owned()),
        ];
        let args = args.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
        processes.push(Process::start(Path::new("etcd"), args, folder.join(format!("n{i}.log")))?);
    }
    Ok((clients.to_vec(), processes))
}

/// What keeps the system from being ready.
pub async fn missing(addresses: &[String]) -> Option<String> {
    for address in addresses {
        match status(address).await {
            Ok(status) if status.leader != 0 => {}
            Ok(_) => return Some(format!("{address} has no leader")),
            Err(why) => return Some(why),
        }
    }
    None
}

/// Which node leads.
pub async fn leader(addresses: &[String]) -> Option<usize> {
    for (node, address) in addresses.iter().enumerate() {
        if status(address).await.is_ok_and(|status| status.leader == status.member && status.leader != 0) {
            return Some(node);
        }
    }
    None
}
