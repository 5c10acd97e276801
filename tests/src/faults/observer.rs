//! Asks all nodes again and again what they have applied, for the checkers of what must hold of nodes at any moment.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::checkers::observed::{Observed, Seqs};
use crate::client::Client;

/// Between two rounds.
const EVERY: Duration = Duration::from_millis(100);
/// A node that does not answer within this is passed over: it may be dead, stopped or cut off.
const PATIENCE: Duration = Duration::from_millis(500);
/// Rounds of one run at most, so that memory is bounded.
const ROUNDS_MAX: usize = 10_000;

/// A task that asks until it is stopped.
#[derive(Debug)]
pub struct Observer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Observed>>,
}

impl Observer {
    /// Begins to ask.
    pub fn start(nodes: &[(String, Client)]) -> Self {
        let (stop, stopped) = oneshot::channel();
        let nodes = nodes.to_vec();
        Self { stop, task: tokio::spawn(observe(nodes, stopped)) }
    }

    /// Ends the task. What nodes said, in the order in which they were asked.
    ///
    /// # Errors
    /// When the task failed.
    pub async fn finish(self) -> Result<Vec<Observed>, String> {
        // The task may have come to its last round by itself.
        let _ = self.stop.send(());
        self.task.await.map_err(|e| format!("the observer failed: {e}"))
    }
}

async fn observe(nodes: Vec<(String, Client)>, mut stopped: oneshot::Receiver<()>) -> Vec<Observed> {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let round = join_all(nodes.iter().map(|(name, client)| async move {
            let status = tokio::time::timeout(PATIENCE, client.status()).await.ok()?.ok()?;
            observed(name, &status)
        }));
        seen.extend(round.await.into_iter().flatten());
        if tokio::time::timeout(EVERY, &mut stopped).await.is_ok() {
            break;
        }
    }
    seen
}

fn observed(name: &str, status: &Value) -> Option<Observed> {
    Some(Observed {
        dc: status["dc"].as_str()?.to_string(),
        node: name.to_string(),
        index: status["applied_index"].as_u64()?,
        vector: seqs(&status["vector"])?,
        acked: seqs(&status["acked"])?,
        stable: seqs(&status["stable"])?,
        digest: status["digest"].as_str()?.to_string(),
    })
}

/// A vector as a node shows it.
pub fn seqs(vector: &Value) -> Option<Seqs> {
    Seqs::deserialize(vector).ok()
}
