//! Who this node is to the protocol, and the bounds and delays it works with.

use std::collections::BTreeMap;

/// Who runs the machine and which DCs it talks to; fixed for the life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id of the cluster (a hash of its name); a peer with another one is refused.
    pub cluster: u64,
    /// The name of this DC.
    pub dc: String,
    /// The id of this node within its DC.
    pub node: u64,
    /// Every other DC of the cluster with the ids of its nodes.
    pub members: BTreeMap<String, Vec<u64>>,
}

/// Bounds and delays of replication. Every field has a default that suits WAN links of up to some 300 ms round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipConfig {
    /// Bytes of txns that a peer may have under way to us without an acknowledgement, per link. Default 8 MiB: 300 ms
    /// round trip at about 25 MB/s. Raise it for longer or fatter links.
    pub credit_bytes: u64,
    /// Bytes of txns of one link that may wait at the gate; beyond it the furthest are dropped and asked for again.
    /// Default 16 MiB; at least `credit_bytes`, or well-behaved peers are made to send twice.
    pub gate_bytes_max: u64,
    /// Bytes beyond its credit that a sender may use for what the peer has asked for. Default 256 KiB. It keeps a
    /// full credit from blocking the one txn that everything waits for.
    pub want_reserve_bytes: u64,
    /// The largest encoded txn that is taken from a peer. Default 64 MiB; above the largest that any origin makes.
    pub txn_bytes_max: u64,
    /// Bytes of one read of the oplog. Default 256 KiB, which is also the largest message.
    pub read_bytes_max: u64,
    /// Bytes of txns in one proposal to the Raft group. Default 1 MiB.
    pub propose_bytes_max: u64,
    /// Txns in one proposal. Default 1024.
    pub propose_txns_max: usize,
    /// How long nothing is proposed after a proposal failed. Default 100 ms.
    pub propose_pause_ms: u64,
    /// The shortest time between two acknowledgements on a link. Default 10 ms.
    pub ack_interval_ms: u64,
    /// So many newly applied txns are acknowledged at once. Default 512.
    pub ack_txns: u64,
    /// A link sends something at least so often. Default 500 ms.
    pub heartbeat_ms: u64,
    /// A link that was silent for so long is closed. Default 3000 ms; at least three heartbeats.
    pub silence_ms_max: u64,
    /// How long dialing, with TCP, handshakes and the peer's `Hello`, may take. Default 3000 ms.
    pub connect_ms_max: u64,
    /// How long one flush to a socket may take before the connection is given up. Default 5000 ms.
    pub send_ms_max: u64,
    /// The first delay before dialing again; doubled up to `backoff_ms_max`, each jittered by half. Default 50 ms.
    pub backoff_ms_min: u64,
    /// The longest delay before dialing again. Default 300 ms: a healed link should be up within a second or so.
    pub backoff_ms_max: u64,
    /// The delay after a refusal or after a txn that apply refused. Default 10 s.
    pub refusal_backoff_ms: u64,
    /// The shortest delay after which a txn of another origin is relayed to a peer that has not acknowledged it.
    /// Default 500 ms.
    pub relay_ms_min: u64,
    /// The longest such delay, however long that origin's acknowledgements usually take. Default 5000 ms.
    pub relay_ms_max: u64,
    /// How long a dep that its own origin's link should bring is waited for before it is asked for elsewhere.
    /// Default 500 ms.
    pub want_grace_ms: u64,
    /// The shortest time between two requests on a link. Default 50 ms.
    pub want_interval_ms: u64,
    /// After so long without progress a request is repeated. Default 1000 ms.
    pub want_retry_ms: u64,
    /// The shortest time between two reports of one peer's vector to the Raft group. Default 300 ms.
    pub report_interval_ms: u64,
    /// A txn dated further than this ahead of our clock flags its link. Default 5000 ms.
    pub clock_drift_ms_max: u64,
    /// How often slow timers are looked at. Default 25 ms.
    pub poll_ms: u64,
    /// Inbound connections that have not said `Hello` yet; more are closed at once. Default 64.
    pub greeting_max: usize,
    /// Messages that may queue for one socket; a connection that falls further behind is closed. Default 4096.
    pub queue_messages_max: usize,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            credit_bytes: 8 << 20,
            gate_bytes_max: 16 << 20,
            want_reserve_bytes: 256 << 10,
            txn_bytes_max: 64 << 20,
            read_bytes_max: 256 << 10,
            propose_bytes_max: 1 << 20,
            propose_txns_max: 1024,
            propose_pause_ms: 100,
            ack_interval_ms: 10,
            ack_txns: 512,
            heartbeat_ms: 500,
            silence_ms_max: 3000,
            connect_ms_max: 3000,
            send_ms_max: 5000,
            backoff_ms_min: 50,
            backoff_ms_max: 300,
            refusal_backoff_ms: 10_000,
            relay_ms_min: 500,
            relay_ms_max: 5000,
            want_grace_ms: 500,
            want_interval_ms: 50,
            want_retry_ms: 1000,
            report_interval_ms: 300,
            clock_drift_ms_max: 5000,
            poll_ms: 25,
            greeting_max: 64,
            queue_messages_max: 4096,
        }
    }
}
