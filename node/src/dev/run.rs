//! The `dev` command: runs a cluster and shows how it is, or asks the one that runs to do something.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cluster::{Cluster, ClusterOptions, DevError};
use super::control::{self, Request, parse_offset};
use super::layout::dc_name;
use crate::cli::args::{DevArgs, DevCommand};
use crate::cli::{complain, failure, say, usage};

/// How often leaders and lag are looked at.
const REFRESH: Duration = Duration::from_secs(1);
/// How long the cluster may take to be ready before it is said what is missing; again and again.
const REPORT_MISSING_AFTER: Duration = Duration::from_secs(5);

/// `dev` and its control commands.
pub async fn run(args: DevArgs, json: bool) -> ExitCode {
    match args.control.clone() {
        Some(command) => {
            let request = match request(command) {
                Ok(request) => request,
                Err(wrong) => return usage(&wrong),
            };
            match control::ask(&args.data, &request).await {
                Ok(()) => {
                    say(if json { "{\"done\":true}" } else { "done" });
                    ExitCode::SUCCESS
                }
                Err(reason) => failure(json, &reason),
            }
        }
        None => match run_cluster(args, json).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e @ DevError::BadShape(_)) => usage(&e.to_string()),
            Err(e) => failure(json, &e.to_string()),
        },
    }
}

fn request(command: DevCommand) -> Result<Request, String> {
    Ok(match command {
        DevCommand::Cut { a, b } => Request::Cut { a, b },
        DevCommand::Heal { a, b } => Request::Heal { pair: a.zip(b) },
        DevCommand::Kill { node } => Request::Kill { node },
        DevCommand::Restart { node } => Request::Restart { node },
        DevCommand::Clock { node, offset } => Request::Clock { node, offset_ms: parse_offset(&offset)? },
    })
}

/// The signals that end `dev` in good order.
struct Ending([Signal; 3]);

impl Ending {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn recv(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn run_cluster(args: DevArgs, json: bool) -> Result<(), DevError> {
    let io = |what: &str| {
        let what = what.to_string();
        move |cause| DevError::Io { what, cause }
    };
    // Before any process is started, so that none outlives a signal that comes early.
    let mut ending = Ending::new().map_err(io("cannot wait for signals"))?;
    let binary = std::env::current_exe().map_err(io("cannot find this program"))?;
    let count = |n: Option<u64>| n.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let options = ClusterOptions {
        dcs: count(args.dcs),
        nodes: count(args.nodes),
        latency: args.wan_latency,
        usual_ports: true,
        ..ClusterOptions::new(binary, &args.data)
    };
    let cluster = Arc::new(Cluster::start(options).await?);
    let socket = control::listen(cluster.folder()).map_err(io("cannot make the control socket"))?;
    let server = tokio::spawn(control::serve(socket, cluster.clone()));
    let shown = tokio::select! {
        shown = async {
            become_ready(&cluster, json).await?;
            present(&cluster, &args, json);
            show(&cluster, json).await
        } => shown,
        () = ending.recv() => Ok(()),
    };
    server.abort();
    if !json {
        say("\nstopping all nodes");
    }
    cluster.stop().await?;
    shown
}

/// Waits as long as it takes, and says every few seconds what is missing.
async fn become_ready(cluster: &Cluster, json: bool) -> Result<(), DevError> {
    let shape = cluster.shape();
    if !json {
        say(&format!(
            "starting {} DCs of {} nodes in {}",
            shape.dcs,
            shape.nodes,
            cluster.folder().display()
        ));
    }
    loop {
        match cluster.wait_ready(REPORT_MISSING_AFTER).await {
            Err(DevError::Failed(missing)) => {
                if cluster.description().dcs.iter().all(|dc| dc.nodes.iter().all(|node| node.pid.is_none())) {
                    return Err(DevError::Failed(missing));
                }
                complain(&format!("waiting: {missing}"));
            }
            done => return done,
        }
    }
}

/// The table of addresses and the first thing to try.
fn present(cluster: &Cluster, args: &DevArgs, json: bool) {
    let description = cluster.description();
    if json {
        say(&json!(description).to_string());
        return;
    }
    let mut text = format!("\n{:<14} {:<22} {:<22} PID\n", "NODE", "CLIENT", "PEER");
    for dc in &description.dcs {
        for node in &dc.nodes {
            let pid = node.pid.map_or("dead".into(), |pid| pid.to_string());
            let name = format!("{}/{}", dc.name, node.id);
            // Writing into a string does not fail.
            writeln!(text, "{name:<14} {:<22} {:<22} {pid}", node.client, node.peer).ok();
        }
    }
    let first = description.first_client().unwrap_or_default();
    let last = description.dcs.last().and_then(|dc| dc.nodes.first()).map(|node| node.client.clone());
    let latency = crate::config::format_duration(args.wan_latency);
    writeln!(text, "\n{latency} one way between DCs. Write in one, read in another:").ok();
    writeln!(
        text,
        "  curl -d '{{\"type\":\"counter\",\"op\":\"add\",\"by\":5}}' http://{first}/v1/spaces/default/keys/visits"
    )
    .ok();
    writeln!(text, "  curl http://{}/v1/spaces/default/keys/visits", last.unwrap_or(first)).ok();
    say(&text);
}

/// Shows leaders and lag until the cluster ends: as a table that refreshes on a terminal, else as a line when
/// something changes.
async fn show(cluster: &Cluster, json: bool) -> Result<(), DevError> {
    let terminal = std::io::stdout().is_terminal() && !json;
    let mut before = Vec::new();
    let mut lines_shown = 0;
    let mut tick = tokio::time::interval(REFRESH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let view = views(cluster).await;
        if terminal {
            let lines: Vec<String> = view.iter().map(DcView::line).collect();
            let up = if lines_shown > 0 { format!("\x1b[{lines_shown}A\x1b[J") } else { String::new() };
            // Without wrapping, a line too long for the terminal is still one line to go up over.
            say(&format!("{up}\x1b[?7l{}\x1b[?7h", lines.join("\n")));
            lines_shown = lines.len();
            continue;
        }
        for (i, dc) in view.iter().enumerate() {
            if before.get(i) != Some(&dc.state) {
                say(&if json { dc.json().to_string() } else { dc.line() });
            }
        }
        before = view.into_iter().map(|dc| dc.state).collect();
    }
}

/// What is shown of a DC; a change of it is news.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DcState {
    name: String,
    leader: Option<u64>,
    running: usize,
    nodes: usize,
    /// Other DC, and whether the link to it is up.
    links: Vec<(String, bool)>,
    /// Other DCs that it is cut from.
    cut_from: Vec<String>,
}

struct DcView {
    state: DcState,
    /// Origin, txns that are missing here, and for how long in milliseconds.
    lag: Vec<(String, u64, u64)>,
}

impl DcView {
    fn line(&self) -> String {
        let state = &self.state;
        let leader = state.leader.map_or("no leader".into(), |id| format!("leader {id}"));
        let mut line = format!("{:<10} {leader}, {}/{} nodes", state.name, state.running, state.nodes);
        for (dc, up) in &state.links {
            line.push_str(&format!(", {dc} {}", if *up { "up" } else { "DOWN" }));
        }
        for dc in &state.cut_from {
            line.push_str(&format!(", cut from {dc}"));
        }
        for (dc, txns, ms) in &self.lag {
            line.push_str(&format!(", {txns} txns / {ms} ms behind {dc}"));
        }
        line
    }

    fn json(&self) -> Value {
        let state = &self.state;
        let links: Vec<Value> =
            state.links.iter().map(|(dc, up)| json!({"dc": dc, "connected": up})).collect();
        let lag: Vec<Value> =
            self.lag.iter().map(|(dc, txns, ms)| json!({"dc": dc, "lag_txns": txns, "lag_ms": ms})).collect();
        json!({"dc": state.name, "leader": state.leader, "running": state.running, "nodes": state.nodes,
               "links": links, "cut_from": state.cut_from, "origins": lag})
    }
}

async fn views(cluster: &Cluster) -> Vec<DcView> {
    let statuses = cluster.statuses().await;
    let cuts = cluster.wan().cuts();
    let description = cluster.description();
    let nodes = cluster.shape().nodes;
    let view = |(index, statuses): (usize, &[Option<Value>])| {
        let name = dc_name(index);
        let cut_from = cuts.iter().filter_map(|(a, b)| {
            if *a == name {
                Some(b.clone())
            } else if *b == name {
                Some(a.clone())
            } else {
                None
            }
        });
        let running =
            description.dcs.get(index).map_or(0, |dc| dc.nodes.iter().filter(|n| n.pid.is_some()).count());
        let cut_from = cut_from.collect();
        view_of(name, statuses, running, cut_from)
    };
    statuses.chunks(nodes).enumerate().map(view).collect()
}

fn view_of(name: String, statuses: &[Option<Value>], running: usize, cut_from: Vec<String>) -> DcView {
    let leader = statuses.iter().flatten().find(|s| s.get("role").and_then(Value::as_str) == Some("leader"));
    let get = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut links = Vec::new();
    let mut lag = Vec::new();
    if let Some(leader) = leader {
        for link in leader.get("links").and_then(Value::as_array).into_iter().flatten() {
            let dc = link.get("dc").and_then(Value::as_str).unwrap_or("?").to_string();
            links.push((dc, link.get("connected").and_then(Value::as_bool).unwrap_or(false)));
        }
        for (dc, origin) in leader.get("origins").and_then(Value::as_object).into_iter().flatten() {
            lag.push((dc.clone(), get(origin, "lag_txns"), get(origin, "lag_ms")));
        }
    }
    links.sort();
    let leader = leader.and_then(|l| l.get("node")).and_then(Value::as_u64);
    DcView { state: DcState { name, leader, running, nodes: statuses.len(), links, cut_from }, lag }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_leads_which_links_are_up_and_how_far_behind_it_is() {
        let leader = json!({"role":"leader","node":2,"links":[{"dc":"us-east","connected":false}],
            "origins":{"us-east":{"lag_txns":3,"lag_ms":40}}});
        let view = view_of("eu-west".into(), &[None, Some(leader)], 1, vec!["us-east".into()]);
        let line = view.line();
        for part in
            ["leader 2, 1/2 nodes", "us-east DOWN", "cut from us-east", "3 txns / 40 ms behind us-east"]
        {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(view_of("eu-west".into(), &[None], 0, vec![]).state.leader, None);
    }
}
