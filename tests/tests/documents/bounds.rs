//! What happens at the bounds of documents: who comes beyond one is refused as docs/DOCUMENTS.md says, and nobody else notices.

use std::path::Path;
use std::time::Duration;

use meridian::docs::wire::{step_2 as all_of_mine, update as edit};
use meridian_tests::client::{Ask, Client};
use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

use super::line::{self, Line, deleted, named, typed};
use super::{BINARY, PATIENCE, text_is};

/// Bounds that are soon reached.
const SMALL: &str = "[documents]\nrooms_max = 3\neditors_max = 2\nbytes_max = \"64KiB\"\nidle = \"0s\"\n\
                     keep_alive = \"1s\"\ncompact_rows_min = 2";
const NODE: &str = "eu-west/1";
/// What an editor of Hocuspocus is told who is let in.
const LET_IN: &[u8] = b"\x02\x0aread-write";
/// A piece of a text of which three fit into a document, and a fourth does not.
const PIECE_BYTES: usize = 20_000;

async fn metric_is(node: &Client, name: &str, expected: u64) {
    wait::until(&format!("{name} is {expected}"), PATIENCE, async || match node.metric(name).await {
        Some(value) if value == expected => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Waits until nobody has anything open any more.
async fn all_is_quiet(node: &Client) {
    metric_is(node, "meridian_doc_rooms_open", 0).await;
}

/// Story: one node for all, because starting it is what costs time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_beyond_a_bound_is_refused_and_nobody_else_notices() {
    let fleet = Fleet::start_with(BINARY, 1, 1, Duration::ZERO, SMALL).await;
    let node = fleet.node(NODE);
    a_node_has_so_many_rooms(&node).await;
    all_is_quiet(&node).await;
    a_room_has_so_many_editors(&node).await;
    all_is_quiet(&node).await;
    a_room_without_editors_goes_and_comes_back_with_what_it_had(&node).await;
    all_is_quiet(&node).await;
    a_document_takes_so_many_bytes(&node).await;
    all_is_quiet(&node).await;
    edits_in_one_burst_do_not_bring_a_document_beyond_its_bound(&node).await;
    all_is_quiet(&node).await;
}

async fn a_node_has_so_many_rooms(node: &Client) {
    let mut one = Line::open(node, "one").await.expect("let in");
    let mut other = Line::open(node, "one").await.expect("let in");
    let two = Line::open(node, "two").await.expect("let in");
    let mut third = Line::of_hocuspocus(node).await;
    assert_eq!(third.enters("three").await.as_deref(), Ok(LET_IN));
    assert_eq!(Line::open(node, "four").await.err(), Some(1013));
    let mut fourth = Line::of_hocuspocus(node).await;
    assert_eq!(fourth.enters("four").await, Err(1013));
    metric_is(node, "meridian_doc_rooms_open", 3).await;
    metric_is(node, "meridian_doc_editors", 4).await;
    // Those who are in go on, and other interfaces need no room.
    let update = typed(1, 0, "still here");
    one.says(edit(&update)).await;
    other.sees(&update).await;
    third.says(named("three", &edit(&typed(2, 0, "and here")))).await;
    third.is_kept("three").await;
    let by_http = json!({"type": "doc", "op": "update", "update": {"$bytes": "AQEBAAQBAXQBYQA="}});
    node.ask(Ask::mutate("four", &by_http)).await.ok();
    assert_eq!(node.value("four").await, json!({"t": "a"}));
    drop(two);
    wait::until("there is room again", PATIENCE, async || match Line::open(node, "four").await {
        Ok(_) => Ok(()),
        Err(code) => Err(code.to_string()),
    })
    .await;
    third.leaves("three").await;
    let mut fifth = Line::of_hocuspocus(node).await;
    metric_is(node, "meridian_doc_rooms_open", 1).await;
    assert_eq!(fifth.enters("five").await.as_deref(), Ok(LET_IN));
    fifth.says(named("five", &edit(&typed(2, 0, "in")))).await;
    fifth.is_kept("five").await;
}

async fn a_room_has_so_many_editors(node: &Client) {
    let mut first = Line::open(node, "full").await.expect("let in");
    let mut second = Line::of_hocuspocus(node).await;
    assert_eq!(second.enters("full").await.as_deref(), Ok(LET_IN));
    assert_eq!(Line::open(node, "full").await.err(), Some(1013));
    // A connection that has another document open comes again as a whole.
    let mut third = Line::of_hocuspocus(node).await;
    assert_eq!(third.enters("elsewhere").await.as_deref(), Ok(LET_IN));
    assert_eq!(third.enters("full").await, Err(1013));
    let update = typed(1, 0, "two are company");
    second.says(named("full", &edit(&update))).await;
    first.sees(&update).await;
    second.is_kept("full").await;
    // A place is free as soon as its editor has left the document, though the connection goes on.
    second.leaves("full").await;
    metric_is(node, "meridian_doc_editors", 1).await;
    let mut fourth = Line::open(node, "full").await.expect("let in");
    let update = typed(3, 0, "again. ");
    first.says(edit(&update)).await;
    fourth.sees(&update).await;
}

/// Story: a room without editors goes, and whoever opens the document then has what was there. One with an editor who says
/// nothing stays, and shows that it does.
async fn a_room_without_editors_goes_and_comes_back_with_what_it_had(node: &Client) {
    let opened = async || node.metric("meridian_doc_rooms_opened_total").await.expect("a metric");
    let before = opened().await;
    let mut silent = Line::open(node, "quiet").await.expect("let in");
    for _ in 0..3 {
        let sign = line::sign_of_life();
        let life = silent.hears(|frame| (frame == sign).then_some(()));
        tokio::time::timeout(Duration::from_secs(5), life).await.expect("in time").expect("it lives");
    }
    assert_eq!(opened().await, before + 1);
    silent.says(edit(&typed(1, 0, "kept"))).await;
    // What was said last is written, although whoever said it is gone.
    drop(silent);
    all_is_quiet(node).await;
    metric_is(node, "meridian_doc_rooms_live", 0).await;
    let mut reader = Line::open(node, "quiet").await.expect("let in");
    assert_eq!(opened().await, before + 2);
    reader.says(line::question()).await;
    let whole = reader.hears(|frame| frame.starts_with(line::ANSWER).then(|| frame.to_vec())).await;
    let whole = whole.expect("it is not closed");
    assert!(whole.windows(4).any(|part| part == b"kept"), "{whole:?}");
    assert_eq!(node.value("quiet").await, json!({"t": "kept"}));
}

async fn bytes_of(node: &Client, doc: &str) -> u64 {
    let stats = node.ask(Ask::get(&format!("/v1/spaces/default/docs/{doc}/stats"))).await.ok();
    stats.body["bytes"].as_u64().expect("a number")
}

/// Story: a document is full. Whoever brings more is sent away, by either protocol; who brings nothing new is not, however much it
/// brings. Once something is deleted and compacted, there is room again.
async fn a_document_takes_so_many_bytes(node: &Client) {
    let piece = "x".repeat(PIECE_BYTES);
    let mut writer = Line::open(node, "long").await.expect("let in");
    let mut other = Line::open(node, "long").await.expect("let in");
    for upto in [0, 1, 2] {
        let update = typed(1, upto * PIECE_BYTES, &piece);
        writer.says(edit(&update)).await;
        other.sees(&update).await;
    }
    writer.says(edit(&typed(1, 3 * PIECE_BYTES, &piece))).await;
    assert_eq!(writer.closed().await, 4413);
    let mut many = Line::of_hocuspocus(node).await;
    for name in ["long", "short"] {
        assert_eq!(many.enters(name).await.as_deref(), Ok(LET_IN));
    }
    many.says(named("long", &edit(&typed(2, 0, &piece)))).await;
    assert!(many.is_over("long").await.contains("above its limit"));
    // Its connection goes on, and it keeps no place in the room.
    many.says(named("short", &edit(&typed(2, 0, "short")))).await;
    many.is_kept("short").await;
    let full = json!({"t": "x".repeat(3 * PIECE_BYTES)});
    assert_eq!(node.value("long").await, full);
    // Who comes back brings all that it has.
    let mut back = Line::open(node, "long").await.expect("let in");
    back.says(all_of_mine(&typed(1, 0, &"x".repeat(3 * PIECE_BYTES)))).await;
    back.says(line::question()).await;
    let whole = back.hears(|frame| frame.starts_with(line::ANSWER).then_some(frame.len())).await;
    assert!(whole.expect("it is not closed") > 3 * PIECE_BYTES);
    // What is small has room yet, and so has what makes room.
    let update = deleted(1, 3 * PIECE_BYTES);
    other.says(edit(&update)).await;
    back.sees(&update).await;
    wait::until("the document is compacted", PATIENCE, async || match bytes_of(node, "long").await {
        bytes if bytes < PIECE_BYTES as u64 => Ok(()),
        bytes => Err(bytes.to_string()),
    })
    .await;
    let update = typed(3, 0, &piece);
    back.says(edit(&update)).await;
    other.sees(&update).await;
    assert_eq!(node.value("long").await, json!({"t": piece}));
}

/// Story: edits were measured against what the document had, and not against what was on its way there. Whoever brought many at
/// once got them all in, and then nobody could open the document any more.
async fn edits_in_one_burst_do_not_bring_a_document_beyond_its_bound(node: &Client) {
    let piece = "y".repeat(PIECE_BYTES);
    let mut writer = Line::open(node, "burst").await.expect("let in");
    for upto in 0..10 {
        writer.says(edit(&typed(1, upto * PIECE_BYTES, &piece))).await;
    }
    assert_eq!(writer.closed().await, 4413);
    let kept = bytes_of(node, "burst").await;
    assert!((3 * PIECE_BYTES as u64..=64 << 10).contains(&kept), "{kept}");
    let mut reader = Line::open(node, "burst").await.expect("let in");
    reader.says(line::question()).await;
    let whole = reader.hears(|frame| frame.starts_with(line::ANSWER).then_some(frame.len())).await;
    assert!(whole.expect("it is not closed") > 3 * PIECE_BYTES);
}

/// Bounds as they are by default.
const USUAL: &str = "[documents]\nidle = \"0s\"";

/// Story: one node for all, because starting it is what costs time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_so_many_documents_and_so_much_that_waits_for_it() {
    let fleet = Fleet::start_with(BINARY, 1, 1, Duration::ZERO, USUAL).await;
    let node = fleet.node(NODE);
    a_connection_of_hocuspocus_has_so_many_documents(&node).await;
    all_is_quiet(&node).await;
    let pid = fleet.cluster().description().dcs[0].nodes[0].pid.expect("it runs");
    who_does_not_read_is_closed_and_who_does_sees_everything(&node, pid).await;
    all_is_quiet(&node).await;
    let Some(folder) = editors::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    editors_with_a_session_each_share_a_connection_and_a_document(&node, &Editors::start(&folder)).await;
}

/// Documents of one connection.
const DOCUMENTS_MAX: u64 = 100;

async fn a_connection_of_hocuspocus_has_so_many_documents(node: &Client) {
    let name = |number: u64| format!("many/{number}");
    let mut line = Line::of_hocuspocus(node).await;
    for number in 0..DOCUMENTS_MAX {
        assert_eq!(line.enters(&name(number)).await.as_deref(), Ok(LET_IN), "{number}");
    }
    let refused = line.enters("one-more").await.expect("the connection goes on");
    let (outcome, reason) = refused.split_at(2);
    assert_eq!(outcome[0], 1, "{refused:?}");
    assert_eq!(reason, b"too many documents on one connection");
    // Who asks again for one that it has needs no further place.
    assert_eq!(line.enters(&name(7)).await.as_deref(), Ok(LET_IN));
    // What it says there all the same is not heard.
    line.says(named("one-more", &edit(&typed(1, 0, "unheard")))).await;
    for number in [0, DOCUMENTS_MAX - 1] {
        line.says(named(&name(number), &edit(&typed(1, 0, "heard")))).await;
        line.is_kept(&name(number)).await;
    }
    assert_eq!(node.value("one-more").await, Value::Null);
    metric_is(node, "meridian_doc_editors", DOCUMENTS_MAX).await;
    line.leaves(&name(0)).await;
    assert_eq!(line.enters("one-more").await.as_deref(), Ok(LET_IN));
    line.says(named("one-more", &edit(&typed(1, 0, "heard")))).await;
    line.is_kept("one-more").await;
    assert_eq!(node.value("one-more").await, json!({"t": "heard"}));
    // One that is over takes no place, though the client has not left it.
    assert_eq!(line.enters("refused").await.map(|answer| answer[0]), Ok(1));
    node.ask(Ask::delete(&name(DOCUMENTS_MAX - 1))).await.ok();
    assert!(line.is_over(&name(DOCUMENTS_MAX - 1)).await.contains("was deleted"));
    assert_eq!(line.enters("two-more").await.as_deref(), Ok(LET_IN));
}

/// How many read nothing.
const SLEEPERS: u64 = 30;
/// How many edits of how many bytes come meanwhile: several times what may wait for one editor, on this side and that.
const EDITS: usize = 32;
const EDIT_BYTES: usize = 512 << 10;
/// By how much the node may grow: the document and the log take several times its bytes, in a debug build, and the sleepers hardly
/// any. If each had a copy of what it was to be sent, these would be 480 MiB.
const GROWTH_MAX: u64 = 320 << 20;

/// Story: an editor who does not read, as one whose laptop was closed, is closed when too much waits for it. Who reads sees
/// every edit, and the node does not keep copies for those who do not.
async fn who_does_not_read_is_closed_and_who_does_sees_everything(node: &Client, pid: u32) {
    let mut writer = Line::open(node, "watched").await.expect("let in");
    let mut reader = Line::open(node, "watched").await.expect("let in");
    let mut sleepers = Vec::new();
    for _ in 0..SLEEPERS {
        sleepers.push(Line::open_narrow(node, "watched").await);
    }
    let before = resident_bytes(pid);
    for number in 0..EDITS {
        let letter = char::from(b'a' + (number % 26) as u8).to_string();
        let update = typed(1, number * EDIT_BYTES, &letter.repeat(EDIT_BYTES));
        writer.says(edit(&update)).await;
        // The very next frame with an edit is this one: none is left out.
        let next = reader.hears(|frame| frame.starts_with(&[0, 2]).then(|| frame.to_vec())).await;
        assert!(next.expect("who reads is not closed") == edit(&update), "edit {number}");
    }
    metric_is(node, "meridian_doc_slow_total", SLEEPERS).await;
    let growth = resident_bytes(pid).saturating_sub(before);
    println!("the node grew by {} MiB", growth >> 20);
    assert!(growth < GROWTH_MAX, "{growth}");
    // What was on its way still comes, in order, and then the reason.
    let mut sleeper = sleepers.pop().expect("a sleeper");
    let mut got = 0;
    let code = loop {
        match sleeper.next().await {
            Ok(frame) if frame.starts_with(&[0, 2]) => got += 1,
            Ok(_) => {}
            Err(code) => break code,
        }
    };
    assert_eq!(code, 1013);
    assert!(got < EDITS, "nothing was held back: {got}");
    drop(sleepers);
    // It comes back, and gets what it lacks.
    let mut back = Line::open(node, "watched").await.expect("let in");
    back.says(line::question()).await;
    let whole = back.hears(|frame| frame.starts_with(line::ANSWER).then_some(frame.len())).await;
    assert!(whole.expect("it is not closed") > EDITS * EDIT_BYTES);
    metric_is(node, "meridian_doc_slow_total", SLEEPERS).await;
}

/// What a process has in memory.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// Story: two editors of a page have the same document open on one connection, each with a session of its own. They are two
/// people to everybody: each sees the other, both are seen, and when one goes the other stays.
async fn editors_with_a_session_each_share_a_connection_and_a_document(node: &Client, editors: &Editors) {
    let server = format!("ws://{}/v1/spaces/default/hocuspocus", node.server());
    let all = ["left", "right", "other"];
    for editor in ["left", "right"] {
        let what = json!({"server": server, "doc": "page", "socket": "page", "session": true});
        editors.tell(editor, "enter", what).await;
    }
    editors.open("other", node, "page").await;
    for editor in ["left", "right"] {
        editors.kept(editor).await;
    }
    for editor in all {
        editors.tell(editor, "present", json!({"user": editor})).await;
    }
    let see = async |who: &[&str], whom: Value| {
        for editor in who {
            wait::until("editors see who is there", PATIENCE, async || {
                let seen = editors.tell(editor, "present", json!({})).await;
                if seen == whom { Ok(()) } else { Err(format!("{editor}: {seen}")) }
            })
            .await;
        }
    };
    see(&all, json!(["left", "other", "right"])).await;
    editors.types("left", "from the left; ", None).await;
    editors.agree(&all, PATIENCE, text_is("from the left; ")).await;
    editors.types("right", "from the right", None).await;
    editors.agree(&all, PATIENCE, text_is("from the left; from the right")).await;
    for editor in ["left", "right"] {
        editors.kept(editor).await;
    }
    assert_eq!(node.value("page").await, json!({"t": "from the left; from the right"}));
    editors.tell("left", "leave", json!({})).await;
    see(&["right", "other"], json!(["other", "right"])).await;
    editors.types("right", "; alone", None).await;
    editors.agree(&["right", "other"], PATIENCE, text_is("from the left; from the right; alone")).await;
    for editor in ["right", "other"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}
