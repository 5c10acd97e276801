//! Redis as Debian ships it: one primary and two replicas, each with an append-only file synced on every write.

use std::path::Path;

use super::process::Process;
use super::{NODES, free_addresses};
use crate::driver::redis::ask;

/// Starts the nodes; the first is the primary.
pub async fn start(folder: &Path) -> Result<(Vec<String>, Vec<Process>), String> {
    let addresses = free_addresses(NODES)?;
    let primary = addresses[0].replace(':', " ");
    let mut processes = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let data = folder.join(format!("n{i}"));
        std::fs::create_dir_all(&data).map_err(|e| e.to_string())?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let mut args: Vec<String> = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            &data.to_string_lossy(),
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            "--repl-diskless-sync-delay",
            "0",
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        if i > 0 {
            args.push("--replicaof".into());
            args.extend(primary.split(' ').map(ToOwned::to_owned));
        }
        let log = folder.join(format!("n{i}.log"));
        processes.push(Process::start(Path::new("redis-server"), args, log)?);
    }
    Ok((addresses, processes))
}

/// What keeps the system from being ready.
pub async fn missing(addresses: &[String]) -> Option<String> {
    for address in addresses {
        match ask(address, &["INFO", "persistence"]).await {
            Ok(info) if info.contains("loading:0") => {}
            Ok(_) => return Some(format!("{address} loads its file")),
            Err(why) => return Some(why),
        }
    }
    match ask(&addresses[0], &["INFO", "replication"]).await {
        Ok(info) if info.matches("state=online").count() == NODES - 1 => None,
        Ok(_) => Some("not all replicas are in step".into()),
        Err(why) => Some(why),
    }
}
