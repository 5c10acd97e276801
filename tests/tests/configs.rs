//! The files in configs/ for three regions work as they are: nine nodes are started from them with only their folders,
//! ports and the addresses of the others overridden, as on nine machines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian::cli::http::HttpClient;
use meridian_tests::checkers::convergence::{self, View};
use meridian_tests::client::{Ask, Client, add, add_element};
use meridian_tests::fleet::contents;
use meridian_tests::program::{Port, Running};
use meridian_tests::wait;
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];

struct Machine {
    dc: &'static str,
    id: usize,
    client: Port,
    peer: Port,
    folder: PathBuf,
}

impl Machine {
    fn name(&self) -> String {
        format!("{}-{}", self.dc, self.id)
    }
}

fn machines(folder: &Path) -> Vec<Machine> {
    let machine = |dc: &'static str, id| {
        let folder = folder.join(format!("{dc}-{id}"));
        std::fs::create_dir(&folder).expect("made");
        Machine { dc, id, client: Port::choose(), peer: Port::choose(), folder }
    };
    DCS.iter().flat_map(|dc| (1..=3).map(move |id| machine(dc, id))).collect()
}

/// A name as a part of a variable.
fn part(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// What the machine's own process is told, and nothing else.
fn variables(machine: &Machine, all: &[Machine]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for other in all.iter().filter(|other| other.dc == machine.dc) {
        let prefix = format!("MERIDIAN__NODES__{}", part(&other.name()));
        variables.push((format!("{prefix}__CLIENT_LISTEN"), other.client.address.to_string()));
        variables.push((format!("{prefix}__PEER_LISTEN"), other.peer.address.to_string()));
    }
    let data = machine.folder.join("data").to_string_lossy().into_owned();
    variables.push((format!("MERIDIAN__NODES__{}__DATA_DIR", part(&machine.name())), data));
    for dc in DCS.iter().filter(|dc| **dc != machine.dc) {
        let peers: Vec<String> = all
            .iter()
            .filter(|other| other.dc == *dc)
            .map(|other| format!("{}={}", other.id, other.peer.address))
            .collect();
        variables.push((format!("MERIDIAN__REMOTES__{}__PEERS", part(dc)), peers.join(", ")));
    }
    variables
}

fn start(machine: &Machine, all: &[Machine]) -> Running {
    let config =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(format!("{}.toml", machine.dc));
    let variables = variables(machine, all);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let (config, name) = (config.to_string_lossy(), machine.name());
    let words = ["serve", "--config", &config, "--node", &name];
    Running::start(BINARY, &words, &variables, &machine.folder.join("log"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_nodes_start_from_the_files_of_three_regions_and_all_take_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let machines = machines(folder.path());
    // The order of starting does not matter: here the last node of the last region is first.
    let running: Vec<Running> = machines.iter().rev().map(|machine| start(machine, &machines)).collect();
    let http = HttpClient::new();
    let clients: Vec<Client> = machines.iter().map(|m| Client::new(http.clone(), m.client.address)).collect();
    for (machine, client) in machines.iter().zip(&clients) {
        let log = machine.folder.join("log");
        wait::until(&format!("{} is ready", machine.name()), PATIENCE, async || {
            let reply = client.send(&Ask::get("/readyz")).await;
            let ready = reply.as_ref().is_ok_and(|reply| reply.done());
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            if ready { Ok(()) } else { Err(format!("{reply:?}\n{}", log())) }
        })
        .await;
    }
    for (machine, client) in machines.iter().zip(&clients) {
        client.write("writes", add(1)).await;
        client.write("writers", add_element(machine.name())).await;
    }
    let mut names: Vec<String> = machines.iter().map(Machine::name).collect();
    names.sort();
    let (views, took) = wait::until("all nine agree", PATIENCE, async || {
        let mut views = Vec::new();
        for (machine, client) in machines.iter().zip(&clients) {
            let status = client.status().await.map_err(|e| e.to_string())?;
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
            views.push(View {
                node: machine.name(),
                vector: status["vector"].clone(),
                digest: text(&status["digest"]),
                contents: contents(client).await,
            });
        }
        let violations = convergence::check(&views);
        if violations.is_empty() { Ok(views) } else { Err(format!("{violations:#?}")) }
    })
    .await;
    println!("configs: nine nodes from three files agree {took:?} after the last write");
    assert_eq!(views[0].contents["writes"], json!(9));
    assert_eq!(views[0].contents["writers"], json!(names));
    for node in running {
        assert_eq!(node.stop().await, Some(0));
    }
}
