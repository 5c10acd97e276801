//! A cluster of real processes for one test, and looks at all of its nodes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian::cli::http::{HttpClient, encode};
use meridian::dev::{Cluster, ClusterOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::checkers::convergence::{self, Contents, View};
use crate::client::{Ask, Client};
use crate::wait;

/// How long a cluster may take to become ready. Nine processes on a busy machine take their time.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a DC may take to have a leader that takes writes.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// Tests of one program run in parallel; clusters do not, since they would only measure each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// A running cluster with a folder of its own; everything ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    cluster: Cluster,
    http: HttpClient,
    folder: TempDir,
    keep: AtomicBool,
    _turn: MutexGuard<'static, ()>,
}

impl Fleet {
    /// Starts `dcs` DCs of `nodes` nodes, `latency` apart, and waits until they are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start(binary: &str, dcs: usize, nodes: usize, latency: Duration) -> Self {
        Self::start_with(binary, dcs, nodes, latency, "").await
    }

    /// The same, with further lines in each configuration file.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_with(
        binary: &str,
        dcs: usize,
        nodes: usize,
        latency: Duration,
        extra_config: &str,
    ) -> Self {
        let prepare = |folder: &Path| {
            Ok(ClusterOptions {
                dcs: Some(dcs),
                nodes: Some(nodes),
                latency,
                extra_config: extra_config.into(),
                ..ClusterOptions::new(binary, folder)
            })
        };
        Self::start_prepared(prepare).await.expect("nothing is prepared")
    }

    /// Starts what `prepare` says, once it has prepared the cluster's folder, and waits until it is ready.
    ///
    /// # Errors
    /// Those of `prepare`.
    ///
    /// # Panics
    /// When the cluster does not start or become ready.
    pub async fn start_prepared(
        prepare: impl FnOnce(&Path) -> Result<ClusterOptions, String>,
    ) -> Result<Self, String> {
        let fleet = Self::begin_prepared(prepare).await?;
        fleet.ready().await;
        Ok(fleet)
    }

    /// The same, not waiting until it is ready.
    ///
    /// # Errors
    /// Those of `prepare`.
    ///
    /// # Panics
    /// When the cluster does not start.
    pub async fn begin_prepared(
        prepare: impl FnOnce(&Path) -> Result<ClusterOptions, String>,
    ) -> Result<Self, String> {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let options = prepare(folder.path())?;
        let cluster = Cluster::start(options).await.expect("the cluster starts");
        Ok(Self { cluster, http: HttpClient::new(), folder, keep: AtomicBool::new(false), _turn: turn })
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn ready(&self) {
        self.cluster.wait_ready(READY_LIMIT).await.expect("the cluster becomes ready");
    }

    /// The cluster, to cut, heal, kill and restart.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// Keeps the cluster's files when it ends, and says where they are.
    pub fn keep_files(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// The client of a node such as `eu-west/1`.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&self, name: &str) -> Client {
        Client::new(self.http.clone(), self.cluster.client(name).expect("a node of the cluster"))
    }

    /// The clients of all nodes of a DC.
    pub fn dc(&self, name: &str) -> Vec<Client> {
        self.node_names()
            .iter()
            .filter(|node| node.starts_with(&format!("{name}/")))
            .map(|n| self.node(n))
            .collect()
    }

    /// The names of all nodes, as in `eu-west/1`.
    pub fn node_names(&self) -> Vec<String> {
        let dcs = self.cluster.description().dcs;
        dcs.iter().flat_map(|dc| dc.nodes.iter().map(|node| format!("{}/{}", dc.name, node.id))).collect()
    }

    /// The name of a DC's leader, once it says itself that it leads.
    ///
    /// # Panics
    /// When no node does in time.
    pub async fn leader(&self, dc: &str) -> String {
        let (leader, _) = wait::until(&format!("{dc} has a leader"), LEADER_LIMIT, async || {
            let statuses = self.cluster.statuses().await;
            let leads = |status: &&Value| status["dc"] == dc && status["role"] == "leader";
            let leader = statuses.iter().flatten().find(leads);
            leader.map(|status| format!("{dc}/{}", status["node"])).ok_or_else(|| "nobody leads".to_string())
        })
        .await;
        leader
    }

    /// Waits until every node answers, is ready and has applied the same txns with the same digest; says how long that
    /// took.
    ///
    /// # Panics
    /// When it takes longer than `limit`.
    pub async fn converged(&self, limit: Duration) -> Duration {
        self.nodes_converged(&self.node_names(), limit).await
    }

    /// The same for some nodes only.
    ///
    /// # Panics
    /// When it takes longer than `limit`.
    pub async fn nodes_converged(&self, names: &[String], limit: Duration) -> Duration {
        let nodes: Vec<Client> = names.iter().map(|name| self.node(name)).collect();
        converged(&nodes, limit).await
    }

    /// What every node holds. The cluster must be at rest.
    ///
    /// # Panics
    /// When a node does not answer.
    pub async fn views(&self) -> Vec<View> {
        let mut views = Vec::new();
        for name in self.node_names() {
            views.push(view(&name, &self.node(&name)).await);
        }
        views
    }

    /// Waits for convergence, then demands that all nodes agree; returns what they hold and how long they took.
    ///
    /// # Panics
    /// When they do not converge within `limit`, or differ.
    pub async fn agreed(&self, limit: Duration) -> (Contents, Duration) {
        let took = self.converged(limit).await;
        let mut views = self.views().await;
        let violations = convergence::check(&views);
        assert!(violations.is_empty(), "{violations:#?}");
        (views.swap_remove(0).contents, took)
    }
}

impl Drop for Fleet {
    /// What a failed test leaves behind is kept: the nodes' logs say more than the test can.
    fn drop(&mut self) {
        if std::thread::panicking() || self.keep.load(Ordering::Relaxed) {
            println!("the cluster's files are kept in {}", self.folder.path().display());
            self.folder.disable_cleanup(true);
        }
    }
}

async fn view(name: &str, client: &Client) -> View {
    let status = client.status().await.unwrap_or_else(|e| panic!("{name}: {e}"));
    View {
        node: name.into(),
        vector: status["vector"].clone(),
        digest: status["digest"].as_str().unwrap_or_default().into(),
        contents: contents(client).await,
    }
}

/// Waits until each of these nodes answers, is ready and has applied the same txns with the same digest; says how long that
/// took.
///
/// # Panics
/// When it takes longer than `limit`.
pub async fn converged(nodes: &[Client], limit: Duration) -> Duration {
    let ((), took) = wait::until("nodes converge", limit, async || {
        let mut first: Option<(Value, Value)> = None;
        for node in nodes {
            let status = node.status().await.map_err(|e| format!("{}: {e}", node.server()))?;
            let now = (status["vector"].clone(), status["digest"].clone());
            let first = first.get_or_insert_with(|| now.clone());
            if status["ready"] != true || now != *first {
                let (dc, number, ready) = (&status["dc"], &status["node"], &status["ready"]);
                return Err(format!("{dc}/{number} has {now:?}, ready {ready}, the first {first:?}"));
            }
        }
        Ok(())
    })
    .await;
    took
}

/// Everything that a node reads in the space `default`, now.
///
/// # Panics
/// When the node does not answer, or has more keys than one page.
pub async fn contents(client: &Client) -> Contents {
    let listing = client.ask(Ask::get("/v1/spaces/default/keys").eventual()).await.ok();
    assert!(listing.body.get("cursor").is_none(), "more keys than a page holds");
    let mut contents = Contents::new();
    for row in listing.body["keys"].as_array().into_iter().flatten() {
        let key = row["key"].as_str().unwrap_or_default();
        let path = format!("/v1/spaces/default/keys/{}", encode(key));
        let reply = client.ask(Ask::get(&path).eventual()).await;
        // A key may have gone since the listing only if the cluster is not at rest.
        contents.insert(key.into(), reply.ok().value().clone());
    }
    contents
}
