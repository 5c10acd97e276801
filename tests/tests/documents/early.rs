//! Documents with `documents.fanout = "early"`: editors of a node see each other's edits before these are kept.

use std::path::Path;
use std::time::Duration;

use meridian::docs::wire::update as edit;
use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

use super::line::{ANSWER, Line, question, typed};
use super::{BINARY, PATIENCE, text_is};

const DC: &str = "eu-west";
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
    let node = fleet.node(&leader);
    editors.open("a", &node, "notes").await;
    editors.open("b", &node, "notes").await;
    editors.types("a", "kept; ", None).await;
    editors.agree(&["a", "b"], PATIENCE, text_is("kept; ")).await;
    wait::until("the first words are kept", PATIENCE, async || is_kept(&node.value("notes").await, "kept; "))
        .await;
    let others = lose_the_majority(&fleet, &leader).await;
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
    all_keep(&fleet, &others, all).await;
    editors.agree(&["a", "b", "late"], PATIENCE, text_is(all)).await;
}

fn is_kept(value: &Value, text: &str) -> Result<(), String> {
    if *value == json!({"t": text}) { Ok(()) } else { Err(value.to_string()) }
}

/// A fleet of one datacenter in which a document was begun, and two who have it open at the leader.
async fn two_at_the_leader(more: &str) -> (Fleet, String, Line, Line) {
    let config = format!("[documents]\nfanout = \"early\"\n{more}");
    let fleet = Fleet::start_with(BINARY, 1, 3, Duration::ZERO, &config).await;
    let leader = fleet.leader(DC).await;
    let node = fleet.node(&leader);
    let mut author = Line::open(&node, "notes").await.expect("let in");
    let mut reader = Line::open(&node, "notes").await.expect("let in");
    let update = typed(1, 0, "kept; ");
    author.says(edit(&update)).await;
    reader.sees(&update).await;
    wait::until("the first words are kept", PATIENCE, async || is_kept(&node.value("notes").await, "kept; "))
        .await;
    (fleet, leader, author, reader)
}

async fn lose_the_majority(fleet: &Fleet, leader: &str) -> Vec<String> {
    let others: Vec<String> = fleet.node_names().into_iter().filter(|node| node != leader).collect();
    for other in &others {
        fleet.cluster().kill(other).await.expect("killed");
    }
    others
}

async fn all_keep(fleet: &Fleet, others: &[String], text: &str) {
    for other in others {
        fleet.cluster().restart(other).await.expect("restarted");
    }
    for name in fleet.node_names() {
        let node = fleet.node(&name);
        wait::until("everything is kept", PATIENCE, async || is_kept(&node.value("notes").await, text)).await;
    }
}

/// Story: an edit that was shown cannot be kept. Whoever was shown it holds what is not the document, so he is sent away as its author
/// is, and is not shown it when he comes in anew. Its author has it still and brings it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_shown_what_cannot_be_kept_is_sent_away_and_comes_in_without_it() {
    let (fleet, leader, mut author, mut reader) = two_at_the_leader("write_timeout = \"1s\"\n").await;
    let node = fleet.node(&leader);
    let others = lose_the_majority(&fleet, &leader).await;
    let lost = typed(1, 6, "shown; ");
    author.says(edit(&lost)).await;
    reader.sees(&lost).await;
    assert_eq!(author.closed().await, 1013, "its author");
    assert_eq!(reader.closed().await, 1013, "who was shown it");

    let mut reader = Line::open(&node, "notes").await.expect("let in again");
    reader.says(question()).await;
    let shown = reader.hears(|frame| frame.starts_with(ANSWER).then(|| frame.to_vec())).await;
    let shown = shown.expect("an answer");
    let holds = |text: &[u8]| shown.windows(text.len()).any(|bytes| bytes == text);
    assert!(holds(b"kept; ") && !holds(b"shown; "), "{}", shown.escape_ascii());

    let mut author = Line::open(&node, "notes").await.expect("let in again");
    author.says(edit(&lost)).await;
    all_keep(&fleet, &others, "kept; shown; ").await;
}

/// Story: an editor is sent away for a broken update while its edits wait. Others were shown them and write on upon them, so they are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_were_shown_is_kept_though_its_author_was_sent_away() {
    let (fleet, leader, mut author, mut reader) = two_at_the_leader("write_timeout = \"60s\"\n").await;
    let others = lose_the_majority(&fleet, &leader).await;
    // The first one is written at once, so the second one waits.
    for update in [typed(1, 6, "under way; "), typed(1, 17, "waiting; ")] {
        author.says(edit(&update)).await;
        reader.sees(&update).await;
    }
    author.says(edit(&[0xFF; 8])).await;
    assert_eq!(author.closed().await, 4400);
    all_keep(&fleet, &others, "kept; under way; waiting; ").await;
    // The room has gone on for those who have it open.
    let node = fleet.node(&leader);
    let after = typed(2, 0, "and on");
    let mut other = Line::open(&node, "notes").await.expect("let in");
    other.says(edit(&after)).await;
    reader.sees(&after).await;
}
