//! Clients of the SDK for the nodes of a cluster.

use std::time::Duration;

use meridian_client::Client;
use meridian_client::net::Builder;

use crate::fleet::Fleet;

/// How often each node is asked how it is: seldom, since tests have many clients on few cores.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// A client, not connected yet, that knows these nodes, as in `eu-west/1`; the datacenter of the first one is home.
///
/// # Panics
/// When there is no such node.
pub fn builder<N: AsRef<str>>(fleet: &Fleet, nodes: &[N]) -> Builder {
    let mut dcs: Vec<(String, Vec<String>)> = Vec::new();
    for node in nodes {
        let dc = node.as_ref().split('/').next().unwrap_or_default();
        let address = fleet.node(node.as_ref()).server().to_string();
        match dcs.iter_mut().find(|(name, _)| name == dc) {
            Some((_, addresses)) => addresses.push(address),
            None => dcs.push((dc.into(), vec![address])),
        }
    }
    let builder = Client::builder().probe(PROBE_INTERVAL, PROBE_TIMEOUT);
    dcs.into_iter().fold(builder, |builder, (dc, addresses)| builder.dc(dc, addresses))
}

/// A connected client that knows these nodes and no others.
///
/// # Panics
/// When none of them answers.
pub async fn client<N: AsRef<str>>(fleet: &Fleet, nodes: &[N]) -> Client {
    builder(fleet, nodes).connect().await.expect("a node answers")
}

/// A connected client of all nodes of a datacenter.
///
/// # Panics
/// When none of them answers.
pub async fn client_of(fleet: &Fleet, dc: &str) -> Client {
    let nodes: Vec<String> =
        fleet.node_names().into_iter().filter(|node| node.starts_with(&format!("{dc}/"))).collect();
    client(fleet, &nodes).await
}
