//! The client that waits for the nodes at the start, and at the end demands that all are equal and reads them out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_history::kind::ELEMENTS;
use meridian_history::rest::Rest;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use crate::documents::{self, Copy, copy};
use crate::http::{Ask, ask};
use crate::ledger::{COUNTERS, DOCS, REMOVED, SETS, linear, register};
use crate::options::Shape;
use crate::slate::SLATE;
use crate::workload::{Phase, Shared};

/// How long an answer may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the cluster may take to be ready at first.
const READY_MAX: Duration = Duration::from_secs(60);
/// For how long a node may still try to write what an editor has left behind: `documents.write_timeout`, 15 s, and what the last attempt takes.
const STILL_TRIED_MAX: Duration = Duration::from_secs(20);

/// Leads the run from phase to phase; the driver alone ends the load.
pub(crate) async fn inspect(shared: Shared) {
    let nodes: Vec<String> = shared.shape.places().into_iter().map(|p| shared.shape.host(p)).collect();
    let deadline = Instant::now() + READY_MAX;
    for node in &nodes {
        while !is_ready(node).await {
            if Instant::now() > deadline {
                shared.ledger().violated(format!("{node} is not ready after {READY_MAX:?}"));
                shared.phase.send_replace(Phase::Over);
                return;
            }
            sleep(PAUSE).await;
        }
    }
    shared.phase.send_replace(Phase::Load);
    shared.reached(Phase::Healed).await;
    let converge_max = shared.converge_max;
    let deadline = Instant::now() + converge_max;
    // The sender is `shared`.
    let _ = shared.working.subscribe().wait_for(|working| *working == 0).await;
    sleep(STILL_TRIED_MAX).await;
    let mut differences = String::new();
    while Instant::now() < deadline {
        differences = difference(&nodes).await;
        if differences.is_empty() {
            break;
        }
        sleep(PAUSE).await;
    }
    if !differences.is_empty() {
        shared.ledger().violated(format!("not equal {converge_max:?} after healing: {differences}"));
    }
    let documents = read_documents(&shared).await;
    read_out(&shared, &documents).await;
    if differences.is_empty() {
        shared.phase.send_replace(Phase::Rested);
        let _ = shared.comparing.subscribe().wait_for(|comparing| *comparing == 0).await;
    }
    shared.phase.send_replace(Phase::Over);
}

/// Reads every document at every node, where all must show the same.
async fn read_documents(shared: &Shared) -> BTreeMap<&'static str, Vec<(String, Copy)>> {
    let mut documents = BTreeMap::new();
    for key in DOCS.into_iter().chain([SLATE]) {
        let copies = copies_of(shared, key).await;
        let difference = documents::difference(&copies);
        let mut ledger = shared.ledger();
        if !difference.is_empty() {
            ledger.violated(format!("{key} is not the same everywhere: {difference}"));
        }
        // Who is shown early what is not kept may build on that, and be gone before it comes back.
        let torn = copies.iter().filter(|(_, copy)| copy.lacks_foundations && !shared.shape.is_early);
        for (node, _) in torn {
            ledger.violated(format!("{node} holds in {key} what builds on something that it does not hold"));
        }
        ledger.counts.compacted += copies.iter().filter(|(_, copy)| copy.snapshots > 0).count() as u64;
        if let Some((_, copy)) = copies.first() {
            ledger.agreed.insert(key.to_owned(), copy.elements.clone());
        }
        drop(ledger);
        documents.insert(key, copies);
    }
    documents
}

/// What each node that has the document holds of it.
async fn copies_of(shared: &Shared, key: &str) -> Vec<(String, Copy)> {
    let mut copies = Vec::new();
    for place in shared.shape.places() {
        let node = shared.shape.host(place);
        match copy(&node, key).await {
            Ok(Some(copy)) => copies.push((node, copy)),
            // One that nobody has written yet; whoever has lost it is found by what it should hold.
            Ok(None) => {}
            Err(why) => shared.ledger().violated(format!("{key} at {node}: {why}")),
        }
    }
    copies
}

/// What every node holds at the end.
async fn read_out(shared: &Shared, documents: &BTreeMap<&'static str, Vec<(String, Copy)>>) {
    let keys = keys(&shared.shape, shared.ledger().sessions);
    for place in shared.shape.places() {
        let node = shared.shape.host(place);
        let contents = contents(&node, &keys).await;
        let mut ledger = shared.ledger();
        match contents {
            Some(mut contents) => {
                for (key, copies) in documents {
                    let held = copies.iter().find(|(at, _)| *at == node).map(|(_, copy)| &copy.elements);
                    contents.extend(held.map(|elements| ((*key).to_owned(), json!({ELEMENTS: elements}))));
                }
                ledger.check_final(&node, &contents);
                for elements in contents.values_mut().filter_map(|value| value.get_mut(ELEMENTS)) {
                    // A history has no word for what is there twice, which has been found by now.
                    let once: BTreeSet<i64> =
                        elements.as_array().into_iter().flatten().filter_map(Json::as_i64).collect();
                    *elements = json!(once);
                }
                ledger.rest.push(Rest { node: shared.shape.node(place), contents });
            }
            None => ledger.violated(format!("{node} cannot be read at the end")),
        }
    }
}

/// All keys of the workload.
fn keys(shape: &Shape, sessions: u64) -> Vec<String> {
    let fixed = SETS.into_iter().chain([REMOVED]).chain(COUNTERS).map(str::to_owned);
    let linear = (0..shape.dcs).map(|dc| linear(shape.dc_name(dc)));
    fixed.chain(linear).chain((0..sessions).map(register)).collect()
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

/// What a node holds under these keys.
async fn contents(node: &str, keys: &[String]) -> Option<BTreeMap<String, Json>> {
    let mut found = BTreeMap::new();
    for key in keys {
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
