//! The client that waits for the nodes at the start, and at the end demands that all are equal and reads them out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::history::{COUNTERS, REMOVED, SETS};
use crate::http::{Ask, ask};
use crate::workload::{Phase, Shared};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(4);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the cluster may take to be ready at first.
const READY_MAX: Duration = Duration::from_secs(60);

/// Leads the run from phase to phase; the driver alone ends the load.
pub(crate) async fn inspect(shared: Shared, converge_max: Duration) {
    let nodes: Vec<String> = shared.shape.places().into_iter().map(|p| shared.shape.host(p)).collect();
    let deadline = Instant::now() + READY_MAX;
    for node in &nodes {
        while !is_ready(node).await {
            if Instant::now() > deadline {
                shared.history().violated(format!("{node} is not ready after {READY_MAX:?}"));
                shared.phase.send_replace(Phase::Over);
                return;
            }
            sleep(PAUSE).await;
        }
    }
    shared.phase.send_replace(Phase::Load);
    shared.reached(Phase::Healed).await;
    let deadline = Instant::now() + converge_max;
    // The sender is `shared`.
    let _ = shared.working.subscribe().wait_for(|working| *working == 0).await;
    let mut differences = String::new();
    while Instant::now() < deadline {
        differences = difference(&nodes).await;
        if differences.is_empty() {
            break;
        }
        sleep(PAUSE).await;
    }
    if !differences.is_empty() {
        shared.history().violated(format!("not equal {converge_max:?} after healing: {differences}"));
    }
    for node in &nodes {
        match contents(node).await {
            Some(contents) => shared.history().check_final(node, &contents),
            None => shared.history().violated(format!("{node} cannot be read at the end")),
        }
    }
    shared.phase.send_replace(Phase::Over);
}

async fn is_ready(node: &str) -> bool {
    ask(node, &Ask::get("/readyz"), DEADLINE).await.is_ok_and(|answer| answer.status == 200)
}

/// What is different among the nodes; empty if nothing is.
async fn difference(nodes: &[String]) -> String {
    let mut seen: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let status = ask(node, &Ask::get("/v1/status"), DEADLINE).await;
        let view = match (status, is_ready(node).await) {
            (Ok(answer), true) if answer.status == 200 => {
                format!("vector {} digest {}", answer.body["vector"], answer.body["digest"])
            }
            _ => "not ready".to_owned(),
        };
        seen.entry(view).or_default().push(node);
    }
    match seen.len() {
        1 if !seen.contains_key("not ready") => String::new(),
        _ => format!("{seen:?}"),
    }
}

/// What a node holds under the keys of the workload.
async fn contents(node: &str) -> Option<BTreeMap<String, Json>> {
    let mut found = BTreeMap::new();
    for key in SETS.into_iter().chain([REMOVED]).chain(COUNTERS) {
        let get =
            Ask::get(format!("/v1/spaces/default/keys/{key}")).header("meridian-consistency", "eventual");
        let answer = ask(node, &get, DEADLINE).await.ok()?;
        match answer.status {
            200 => {
                found.insert(key.to_owned(), answer.body["value"].clone());
            }
            404 => {}
            _ => return None,
        }
    }
    Some(found)
}
