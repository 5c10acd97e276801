//! A cluster to run an example on: one of its own in a temporary folder, or the one that `--server` names.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser};
use meridian::dev::{Cluster, ClusterOptions, DevError};
use meridian_client::Client;
use meridian_client::net::Builder;
use tempfile::TempDir;

/// How long the nodes may take to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// The one-way delay between DCs.
const WAN_LATENCY: Duration = Duration::from_millis(40);

/// A DC of a cluster that runs already.
#[derive(Clone, Debug)]
pub struct Server {
    name: String,
    nodes: Vec<String>,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, nodes) = text.split_once('=').ok_or("give it as DC=HOST:PORT,HOST:PORT")?;
        Ok(Self { name: name.to_owned(), nodes: nodes.split(',').map(str::to_owned).collect() })
    }
}

/// Where an example runs.
#[derive(Clone, Debug, Args)]
pub struct Where {
    /// A DC of a cluster that runs already, as eu-west=127.0.0.1:7400,127.0.0.1:7401; repeat it for each DC, nearest
    /// first [default: start a cluster]
    #[arg(long = "server")]
    pub servers: Vec<Server>,
    /// How many DCs to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    pub dcs: u8,
    /// How many nodes per DC to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nodes: u8,
}

/// Why an example has failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A request.
    #[error(transparent)]
    Client(#[from] meridian_client::Error),
    /// The cluster.
    #[error("the cluster: {0}")]
    Cluster(#[from] DevError),
    /// The machine.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// A promise was broken: what the example exists to show is not so.
    #[error("VIOLATION: {0}")]
    Violation(String),
    /// The example asks for what is not there.
    #[error("{0}")]
    Setup(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// The cluster of an example.
pub struct Playground {
    dcs: Vec<(String, Vec<String>)>,
    own: Option<(Cluster, TempDir)>,
}

impl Playground {
    async fn open(wanted: &Where) -> Result<Playground, Failure> {
        if !wanted.servers.is_empty() {
            let dcs =
                wanted.servers.iter().map(|server| (server.name.clone(), server.nodes.clone())).collect();
            return Ok(Playground { dcs, own: None });
        }
        let binary = std::env::current_exe().map_err(|e| Failure::Io("cannot find this program", e))?;
        let folder = tempfile::Builder::new().prefix("meridian-example-").tempdir();
        let folder = folder.map_err(|e| Failure::Io("cannot make a folder", e))?;
        let options = ClusterOptions {
            dcs: Some(wanted.dcs.into()),
            nodes: Some(wanted.nodes.into()),
            latency: WAN_LATENCY,
            ..ClusterOptions::new(binary, folder.path())
        };
        println!("starting {} DCs of {} nodes ...", wanted.dcs, wanted.nodes);
        let cluster = Cluster::start(options).await?;
        if let Err(error) = cluster.wait_ready(READY_PATIENCE).await {
            cluster.stop().await?;
            return Err(error.into());
        }
        let described = cluster.description().dcs.into_iter();
        let dcs = described.map(|dc| (dc.name, dc.nodes.into_iter().map(|node| node.client).collect()));
        Ok(Playground { dcs: dcs.collect(), own: Some((cluster, folder)) })
    }

    /// The names of the DCs.
    pub fn dcs(&self) -> Vec<&str> {
        self.dcs.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The cluster, if the example has started it, to break it.
    ///
    /// # Errors
    /// If it is someone else's.
    pub fn cluster(&self) -> Result<&Cluster, Failure> {
        let own = self.own.as_ref().map(|(cluster, _)| cluster);
        own.ok_or_else(|| Failure::Setup("this example breaks its cluster: run it without --server".into()))
    }

    /// A client to whom the DC with that number is the nearest, and then the others in order.
    pub fn client(&self, nearest: usize) -> Builder {
        let count = self.dcs.len();
        let order = (0..count).map(|i| &self.dcs[(nearest + i) % count]);
        order.fold(Client::builder(), |builder, (name, nodes)| builder.dc(name, nodes.clone()))
    }

    /// The nodes of a DC, as faults name them.
    pub fn nodes(&self, dc: usize) -> Vec<String> {
        let (name, nodes) = &self.dcs[dc];
        (1..=nodes.len()).map(|node| format!("{name}/{node}")).collect()
    }
}

/// The whole program: arguments, a cluster, the example, the end of the cluster, the exit code. The program is also the
/// nodes: it starts itself again as `serve`, so that nothing else has to be built.
pub fn main<A: Parser>(
    of: impl Fn(&A) -> &Where,
    example: impl AsyncFnOnce(&Playground, &A) -> Result<(), Failure>,
) -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "serve") {
        return meridian::cli::main(std::env::args_os());
    }
    let args = A::parse();
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(&args, of(&args), example)),
        Err(e) => Err(Failure::Io("cannot start threads", e)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run<A>(
    args: &A,
    wanted: &Where,
    example: impl AsyncFnOnce(&Playground, &A) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let playground = Playground::open(wanted).await?;
    let outcome = tokio::select! {
        outcome = example(&playground, args) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    let Some((cluster, folder)) = playground.own else { return outcome };
    cluster.stop().await?;
    if !matches!(outcome, Ok(()) | Err(Failure::Interrupted)) {
        eprintln!("the nodes' folders and logs are kept in {}", folder.keep().display());
    }
    outcome
}
