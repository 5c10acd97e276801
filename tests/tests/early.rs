//! Documents with `documents.fanout = "early"`: editors of a node see each other's edits before these are kept.

use std::path::Path;
use std::time::Duration;

use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const DC: &str = "eu-west";
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long an edit is tried before its editors are sent away: what is seen sooner is seen before it is kept.
const BEFORE_IT_IS_GIVEN_UP: Duration = Duration::from_secs(10);

/// Story: two write at a node that has lost its majority. They see each other's words, which nobody else does, and which the
/// store does not have. A third one comes in meanwhile, and sees the same: it could not show what is written next otherwise. Once there
/// is a majority again everything is kept and seen by all, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editors_of_a_node_see_edits_before_a_majority_has_them_and_all_see_them_once_it_has() {
    let Some(folder) = editors::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    let editors = Editors::start(&folder);
    let early = "[documents]\nfanout = \"early\"\n";
    let fleet = Fleet::start_with(BINARY, 1, 3, Duration::ZERO, early).await;
    let leader = fleet.leader(DC).await;
    let others: Vec<String> = fleet.node_names().into_iter().filter(|node| *node != leader).collect();
    let node = fleet.node(&leader);
    editors.open("a", &node, "notes").await;
    editors.open("b", &node, "notes").await;
    editors.types("a", "kept; ", None).await;
    editors.agree(&["a", "b"], PATIENCE, text_is("kept; ")).await;
    wait::until("the first words are kept", PATIENCE, async || is_kept(&node.value("notes").await, "kept; "))
        .await;
    for other in &others {
        fleet.cluster().kill(other).await.expect("killed");
    }
    editors.types("a", "from a; ", None).await;
    editors.agree(&["a", "b"], BEFORE_IT_IS_GIVEN_UP, text_is("kept; from a; ")).await;
    editors.types("b", "from b; ", None).await;
    editors.agree(&["a", "b"], BEFORE_IT_IS_GIVEN_UP, text_is("kept; from a; from b; ")).await;
    editors.open("late", &node, "notes").await;
    editors.agree(&["late"], BEFORE_IT_IS_GIVEN_UP, text_is("kept; from a; from b; ")).await;
    editors.types("late", "from c; ", None).await;
    let all = "kept; from a; from b; from c; ";
    editors.agree(&["a", "b", "late"], BEFORE_IT_IS_GIVEN_UP, text_is(all)).await;
    is_kept(&node.value("notes").await, "kept; ").expect("nothing else is kept");
    for other in &others {
        fleet.cluster().restart(other).await.expect("restarted");
    }
    editors.agree(&["a", "b", "late"], PATIENCE, text_is(all)).await;
    for name in fleet.node_names() {
        let node = fleet.node(&name);
        wait::until("everything is kept", PATIENCE, async || is_kept(&node.value("notes").await, all)).await;
    }
}

fn text_is(text: &str) -> impl Fn(&Value) -> bool {
    move |seen| seen["t"] == text
}

fn is_kept(value: &Value, text: &str) -> Result<(), String> {
    if *value == json!({"t": text}) { Ok(()) } else { Err(value.to_string()) }
}
