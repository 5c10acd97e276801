//! Unmodified clients of `y-websocket` and of Hocuspocus edit documents at nodes of two datacenters: together, apart and again together,
//! through the death of nodes, and when what they edit is deleted.

#[path = "documents/access.rs"]
mod access;
#[path = "documents/bounds.rs"]
mod bounds;
#[path = "documents/early.rs"]
mod early;
#[path = "documents/elsewhere.rs"]
mod elsewhere;
#[path = "documents/http.rs"]
mod http;
#[path = "documents/line.rs"]
mod line;

use std::path::Path;
use std::time::Duration;

use meridian_tests::client::{Ask, Client, set};
use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// Words that are typed around the death of a node.
const WORDS: usize = 60;

/// Story: one cluster for all, because starting six processes is what costs time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_edited_together_in_two_datacenters() {
    let Some(folder) = editors::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    let editors = Editors::start(&folder);
    let fleet = Fleet::start_with(BINARY, 2, 3, LATENCY, access::CONFIG).await;
    edits_made_at_the_same_time_merge_everywhere(&fleet, &editors).await;
    those_present_at_a_node_see_each_other(&fleet, &editors).await;
    edits_made_apart_merge_when_the_editor_comes_back_to_another_datacenter(&fleet, &editors).await;
    edits_made_in_datacenters_that_are_cut_off_merge_when_the_cut_heals(&fleet, &editors).await;
    updates_by_http_reach_those_who_edit(&fleet, &editors).await;
    a_deleted_document_sends_its_editors_away_for_good(&fleet, &editors).await;
    a_deleted_document_does_not_come_back_from_memory(&fleet, &editors).await;
    a_txn_of_many_updates_reaches_its_editors(&fleet, &editors).await;
    what_others_have_seen_survives_the_death_of_a_node(&fleet, &editors).await;
    clients_of_hocuspocus_share_a_connection_and_documents_with_others(&fleet, &editors).await;
    an_edit_that_was_acknowledged_survives_the_death_of_its_node(&fleet, &editors).await;
    what_no_client_sends_ends_its_connection_alone(&fleet, &editors).await;
    http::what_is_put_reaches_editors_and_merges_with_what_they_type(&fleet, &editors).await;
    http::an_acknowledgement_becomes_a_token_that_another_datacenter_waits_for(&fleet, &editors).await;
    a_document_within_a_document_is_one_of_its_own(&fleet, &editors).await;
    http::versions_are_in_every_datacenter(&fleet, &editors).await;
    http::a_large_document_opens_while_it_is_edited(&fleet, &editors).await;
    access::who_shows_no_token_is_sent_away_and_who_may_read_sees_and_is_seen(&fleet, &editors).await;
    access::an_editor_of_hocuspocus_is_let_in_as_far_as_its_token_goes(&fleet, &editors).await;
    fleet.agreed(PATIENCE).await;
}

fn text_is(text: &str) -> impl Fn(&Value) -> bool {
    move |seen| seen["t"] == text
}

async fn edits_made_at_the_same_time_merge_everywhere(fleet: &Fleet, editors: &Editors) {
    // A name with a slash, as editors that keep folders have them.
    let doc = "notes%2Fone";
    let nodes = ["eu-west/1", "eu-west/2", "us-east/1", "us-east/3"].map(|name| fleet.node(name));
    let all = ["a", "b", "c", "d"];
    for (editor, node) in all.iter().zip(&nodes) {
        editors.open(editor, node, doc).await;
    }
    editors.types("a", "Hello 😀", None).await;
    editors.agree(&all, PATIENCE, text_is("Hello 😀")).await;
    for editor in all {
        editors.types(editor, &format!(" from {editor}"), None).await;
        editors.tell(editor, "set", json!({"key": editor, "value": {"of": editor}})).await;
    }
    editors.tell("d", "paragraph", json!({"text": "rich"})).await;
    editors.tell("b", "erase", json!({"at": 0, "length": 5})).await;
    let merged = |seen: &Value| {
        let text = seen["t"].as_str().unwrap_or_default();
        let typed = all.iter().all(|editor| text.contains(&format!("from {editor}")));
        typed && !text.contains("Hello") && seen["m"].as_object().is_some_and(|m| m.len() == 4)
    };
    let seen = editors.agree(&all, PATIENCE, |seen| merged(seen) && seen["x"] == "<p>rich</p>").await;
    a_document_is_read_in_each_format(&nodes[3], editors, &seen).await;
    // A node reads the same as the editors do.
    for name in fleet.node_names() {
        let node = fleet.node(&name);
        wait::until("the node reads what the editors see", PATIENCE, async || {
            let read = node.value("notes/one").await;
            if read == seen { Ok(()) } else { Err(read.to_string()) }
        })
        .await;
    }
    for editor in all {
        editors.tell(editor, "leave", json!({})).await;
    }
}

/// Story: a document has another one within it, which Yjs holds by its identity alone. Whoever has the outer one opens the
/// inner one under that name, in another datacenter too.
async fn a_document_within_a_document_is_one_of_its_own(fleet: &Fleet, editors: &Editors) {
    let (here, there) = (fleet.node("eu-west/2"), fleet.node("us-east/2"));
    editors.open("outer-e", &here, "outer").await;
    editors.open("outer-u", &there, "outer").await;
    let guid = editors.tell("outer-e", "nest", json!({"key": "inner"})).await;
    wait::until("the inner document is known there", PATIENCE, async || {
        let read = there.value("outer").await;
        if read == json!({"documents": {"inner": guid}}) { Ok(()) } else { Err(read.to_string()) }
    })
    .await;
    for (inner, outer, node) in [("inner-e", "outer-e", &here), ("inner-u", "outer-u", &there)] {
        let server = format!("ws://{}/v1/spaces/default/docs", node.server());
        wait::until("the inner document is there", PATIENCE, async || {
            let seen = editors.tell(outer, "nested", json!({"key": "inner"})).await;
            if seen == guid { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
        let opened =
            editors.tell(inner, "openWithin", json!({"of": outer, "key": "inner", "server": server})).await;
        assert_eq!(opened, guid);
    }
    editors.types("inner-e", "from one ", None).await;
    editors.agree(&["inner-e", "inner-u"], PATIENCE, text_is("from one ")).await;
    editors.types("inner-u", "and the other", None).await;
    editors.agree(&["inner-e", "inner-u"], PATIENCE, text_is("from one and the other")).await;
    let inner = guid.as_str().expect("an identity");
    assert_eq!(here.value(inner).await, json!({"t": "from one and the other"}));
    for editor in ["outer-e", "outer-u", "inner-e", "inner-u"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}

async fn a_document_is_read_in_each_format(node: &Client, editors: &Editors, seen: &Value) {
    let url = format!("http://{}/v1/spaces/default/docs/notes%2Fone", node.server());
    let get = async |query: &str| editors.tell("a", "get", json!({"url": format!("{url}{query}")})).await;
    wait::until("the node reads what the editors see", PATIENCE, async || {
        let body = get("").await["body"].as_str().unwrap_or_default().to_owned();
        let json: Value = serde_json::from_str(&body).unwrap_or_default();
        if json["type"] == "doc" && json["value"] == *seen { Ok(()) } else { Err(body) }
    })
    .await;
    assert_eq!(get("?format=text&root=t").await["body"], seen["t"]);
    editors.tell("copy", "begin", json!({"url": format!("{url}?format=update")})).await;
    editors.agree(&["a", "copy"], PATIENCE, |copy| copy == seen).await;
    for (query, status) in [("?format=yaml", 400), ("?format=text", 400), ("-not-there", 404)] {
        assert_eq!(get(query).await["status"], status, "{query}");
    }
}

async fn those_present_at_a_node_see_each_other(fleet: &Fleet, editors: &Editors) {
    let node = fleet.node("eu-west/1");
    editors.open("p", &node, "presence").await;
    editors.open("q", &node, "presence").await;
    editors.tell("p", "present", json!({"user": "Ann"})).await;
    editors.tell("q", "present", json!({"user": "Bob"})).await;
    let sees = async |editor: &str, whom: Value| {
        wait::until("editors see who is there", PATIENCE, async || {
            let seen = editors.tell(editor, "present", json!({})).await;
            if seen == whom { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
    };
    sees("p", json!(["Ann", "Bob"])).await;
    sees("q", json!(["Ann", "Bob"])).await;
    editors.tell("q", "leave", json!({})).await;
    sees("p", json!(["Ann"])).await;
    editors.tell("p", "leave", json!({})).await;
}

async fn edits_made_apart_merge_when_the_editor_comes_back_to_another_datacenter(
    fleet: &Fleet,
    editors: &Editors,
) {
    let (here, there) = (fleet.node("eu-west/3"), fleet.node("us-east/2"));
    editors.open("e", &here, "offline").await;
    editors.open("f", &here, "offline").await;
    editors.types("e", "base.", None).await;
    editors.agree(&["e", "f"], PATIENCE, text_is("base.")).await;
    editors.tell("e", "leave", json!({})).await;
    editors.types("e", "offline.", Some(0)).await;
    editors.types("f", "online.", None).await;
    // What is brought to a datacenter that does not have the document yet begins one there, which is read together with
    // the other; here it is to be one.
    wait::until("the other datacenter has it", PATIENCE, async || {
        let read = there.value("offline").await;
        if read == json!({"t": "base.online."}) { Ok(()) } else { Err(read.to_string()) }
    })
    .await;
    editors.open("e", &there, "offline").await;
    editors.agree(&["e", "f"], PATIENCE, text_is("offline.base.online.")).await;
    editors.open("f", &there, "offline").await;
    let updates = there.ask(Ask::get("/v1/spaces/default/keys/offline/explain")).await.ok();
    let cells = updates.body["cells"].as_array().cloned().unwrap_or_default();
    let dots = cells.iter().filter_map(|cell| cell["dots"].as_array()).flatten();
    let kept: u64 = dots.filter_map(|dot| dot["value"]["count"].as_u64()).sum();
    // Three edits: who comes back with nothing new adds nothing.
    assert_eq!(kept, 3, "{}", updates.body);
}

async fn edits_made_in_datacenters_that_are_cut_off_merge_when_the_cut_heals(
    fleet: &Fleet,
    editors: &Editors,
) {
    editors.open("g", &fleet.node("eu-west/1"), "cut").await;
    editors.open("h", &fleet.node("us-east/1"), "cut").await;
    editors.types("g", "base.", None).await;
    editors.agree(&["g", "h"], PATIENCE, text_is("base.")).await;
    fleet.cluster().cut("eu-west", "us-east").expect("cut");
    editors.types("g", "west.", Some(0)).await;
    editors.types("h", "east.", None).await;
    editors.open("i", &fleet.node("us-east/2"), "cut").await;
    // Another node of the same datacenter has it, although the others cannot be reached.
    editors.agree(&["h", "i"], PATIENCE, text_is("base.east.")).await;
    fleet.cluster().heal(None).expect("healed");
    editors.agree(&["g", "h", "i"], PATIENCE, text_is("west.base.east.")).await;
}

async fn updates_by_http_reach_those_who_edit(fleet: &Fleet, editors: &Editors) {
    editors.open("j", &fleet.node("eu-west/1"), "by-http").await;
    // The text `t` with an `a` of the client 1.
    let typed = json!({"type": "doc", "op": "update", "update": {"$bytes": "AQEBAAQBAXQBYQA="}});
    fleet.node("us-east/1").write("by-http", typed).await;
    editors.agree(&["j"], PATIENCE, text_is("a")).await;
    let broken = json!({"type": "doc", "op": "update", "update": {"$bytes": "AQEB"}});
    let refused = fleet.node("us-east/1").ask(Ask::mutate("by-http", &broken)).await;
    assert_eq!((refused.status, refused.code()), (400, "bad_value"));
    editors.tell("j", "leave", json!({})).await;
}

async fn a_deleted_document_sends_its_editors_away_for_good(fleet: &Fleet, editors: &Editors) {
    editors.open("k", &fleet.node("eu-west/2"), "deleted").await;
    editors.open("l", &fleet.node("us-east/2"), "deleted").await;
    editors.types("k", "secret", None).await;
    editors.agree(&["k", "l"], PATIENCE, text_is("secret")).await;
    let node = fleet.node("eu-west/1");
    node.ask(Ask::delete("deleted")).await.ok();
    closed_with(editors, "k", 4404).await;
    closed_with(editors, "l", 4404).await;
    editors.types("l", " typed too late", None).await;
    for name in fleet.node_names() {
        wait::until("the document is gone", PATIENCE, async || {
            let read = fleet.node(&name).value("deleted").await;
            if read.is_null() { Ok(()) } else { Err(read.to_string()) }
        })
        .await;
    }
    // A key that holds something else is no document.
    node.write("other", set("a register")).await;
    editors.open("m", &node, "other").await;
    editors.types("m", "text", None).await;
    closed_with(editors, "m", 4409).await;
}

/// Story: somebody works offline on a document that is deleted meanwhile, and somebody else has it open while it is. Neither
/// brings it back, whenever and wherever they connect again. Whoever begins it anew begins with nothing.
async fn a_deleted_document_does_not_come_back_from_memory(fleet: &Fleet, editors: &Editors) {
    let (here, there) = (fleet.node("eu-west/1"), fleet.node("us-east/1"));
    editors.open("absent", &here, "gone").await;
    editors.enter("present", &there, "gone", "memory").await;
    for word in ["secret", " plan"] {
        editors.types("absent", word, None).await;
        editors
            .agree(&["absent", "present"], PATIENCE, |seen| {
                seen["t"].as_str().is_some_and(|t| t.ends_with(word))
            })
            .await;
    }
    editors.tell("absent", "leave", json!({})).await;
    here.ask(Ask::delete("gone")).await.ok();
    closed_with(editors, "present", 1000).await;
    let is_gone = async || {
        for name in fleet.node_names() {
            wait::until("the document is gone", PATIENCE, async || {
                let read = fleet.node(&name).value("gone").await;
                if read.is_null() { Ok(()) } else { Err(read.to_string()) }
            })
            .await;
        }
    };
    is_gone().await;
    editors.types("absent", " of mine", None).await;
    editors.begin("absent", &there, "gone").await;
    closed_with(editors, "absent", 4404).await;
    editors.types("present", " of ours", None).await;
    editors.tell("present", "reconnect", json!({})).await;
    closed_with(editors, "present", 1000).await;
    is_gone().await;
    editors.open("anew", &here, "gone").await;
    editors.types("anew", "public", None).await;
    editors.agree(&["anew"], PATIENCE, text_is("public")).await;
    editors.begin("absent", &here, "gone").await;
    closed_with(editors, "absent", 4404).await;
    wait::until("what was begun anew is everywhere", PATIENCE, async || {
        let read = there.value("gone").await;
        if read == json!({"t": "public"}) { Ok(()) } else { Err(read.to_string()) }
    })
    .await;
    editors.tell("present", "leave", json!({})).await;
}

/// Story: one txn brings more updates than there was once room for on the way to an editor.
async fn a_txn_of_many_updates_reaches_its_editors(fleet: &Fleet, editors: &Editors) {
    let nodes = ["eu-west/2", "us-east/3"].map(|name| fleet.node(name));
    editors.open("many1", &nodes[0], "many").await;
    editors.open("many2", &nodes[1], "many").await;
    let updates = editors.tell("many1", "typed", json!({"count": 3_000})).await;
    let updates = updates.as_array().expect("a list").iter().map(|update| json!({"$bytes": update}));
    let updates: Vec<Value> = updates.collect();
    let txn = json!({"type": "doc", "op": "update_all", "updates": updates});
    nodes[0].ask(Ask::mutate("many", &txn)).await.ok();
    let all = "x".repeat(3_000);
    editors.agree(&["many1", "many2"], PATIENCE, text_is(&all)).await;
    for editor in ["many1", "many2"] {
        assert_eq!(editors.tell(editor, "closed", json!({})).await, Value::Null, "nobody was sent away");
        editors.tell(editor, "leave", json!({})).await;
    }
}

async fn closed_with(editors: &Editors, editor: &str, code: u16) {
    wait::until("an editor is sent away", PATIENCE, async || {
        let closed = editors.tell(editor, "closed", json!({})).await;
        if closed["code"] == code { Ok(()) } else { Err(format!("{editor}: {closed}")) }
    })
    .await;
}

/// Story: what one editor sees of another is held by a majority of a datacenter. So when the node of the one who types
/// dies, and everybody who has seen it goes away with all that they remember, it is there all the same. And who has
/// typed on without a node brings it to another one, once.
async fn what_others_have_seen_survives_the_death_of_a_node(fleet: &Fleet, editors: &Editors) {
    let leader = fleet.leader("eu-west").await;
    let other = fleet.node_names().into_iter().find(|name| name.starts_with("eu-west/") && *name != leader);
    let other = fleet.node(&other.expect("three nodes"));
    editors.open("writer", &fleet.node(&leader), "killed").await;
    editors.open("near", &other, "killed").await;
    editors.open("far", &fleet.node("us-east/3"), "killed").await;
    let mut seen = Vec::new();
    for word in 0..WORDS {
        editors.types("writer", &format!("w{word};"), None).await;
        if word == WORDS / 2 {
            wait::until("something is seen", PATIENCE, async || match editors.text("near").await {
                text if text.is_empty() => Err(text),
                _ => Ok(()),
            })
            .await;
            fleet.cluster().kill(&leader).await.expect("killed");
            for editor in ["near", "far"] {
                // Neither the network nor the editor's memory can help from here on.
                editors.tell(editor, "leave", json!({})).await;
                seen.extend(editors.text(editor).await.split_inclusive(';').map(str::to_owned));
            }
        }
    }
    assert!(!seen.is_empty());
    editors.open("reader", &other, "killed").await;
    // The reader's node may have been behind the one that died; what that one had shown comes all the same, once.
    wait::until("everything that was seen is there", PATIENCE, async || {
        let kept = editors.text("reader").await;
        let times = |word: &String| kept.split_inclusive(';').filter(|kept| kept == word).count();
        if seen.iter().all(|word| times(word) == 1) { Ok(()) } else { Err(format!("{seen:?} in {kept}")) }
    })
    .await;
    // The one who typed comes to another node with all that it has.
    editors.open("writer", &other, "killed").await;
    let all: String = (0..WORDS).map(|word| format!("w{word};")).collect();
    editors.agree(&["writer", "reader"], PATIENCE, text_is(&all)).await;
    fleet.cluster().restart(&leader).await.expect("restarted");
    println!("{} words were seen before {leader} was killed, and all are there", seen.len());
}

async fn clients_of_hocuspocus_share_a_connection_and_documents_with_others(
    fleet: &Fleet,
    editors: &Editors,
) {
    let (here, there) = (fleet.node("eu-west/2"), fleet.node("us-east/1"));
    editors.open("y", &here, "shared%2Fone").await;
    editors.types("y", "from y. ", None).await;
    editors.enter("h1", &here, "shared/one", "same").await;
    editors.enter("h2", &here, "shared/two", "same").await;
    editors.enter("h3", &there, "shared/one", "other").await;
    editors.agree(&["y", "h1", "h3"], PATIENCE, text_is("from y. ")).await;
    editors.types("h1", "from h1. ", None).await;
    editors.types("h2", "of its own", None).await;
    editors.agree(&["y", "h1", "h3"], PATIENCE, text_is("from y. from h1. ")).await;
    editors.types("h3", "from h3.", None).await;
    editors.agree(&["y", "h1", "h3"], PATIENCE, text_is("from y. from h1. from h3.")).await;
    editors.kept("h2").await;
    assert_eq!(here.value("shared/two").await, json!({"t": "of its own"}));
    // One whose token takes a while types before it is let in.
    let server = format!("ws://{}/v1/spaces/default/hocuspocus", there.server());
    let late = json!({"server": server, "doc": "shared/two", "socket": "other", "slow": 300});
    editors.tell("late", "enter", late).await;
    editors.types("late", "; early", None).await;
    editors.kept("late").await;
    editors
        .agree(&["h2", "late"], PATIENCE, |seen| {
            ["of its own", "; early"].iter().all(|part| seen["t"].as_str().is_some_and(|t| t.contains(part)))
        })
        .await;
    assert_eq!(editors.tell("late", "scope", json!({})).await["denied"], Value::Null);
    editors.tell("late", "erase", json!({"at": 0, "length": 17})).await;
    editors.types("late", "of its own", None).await;
    editors.agree(&["h2", "late"], PATIENCE, text_is("of its own")).await;
    editors.tell("late", "leave", json!({})).await;
    // One document of a connection ends; the other goes on.
    here.ask(Ask::delete("shared/one")).await.ok();
    closed_with(editors, "y", 4404).await;
    closed_with(editors, "h1", 1000).await;
    closed_with(editors, "h3", 1000).await;
    editors.types("h2", " all along", None).await;
    editors.kept("h2").await;
    assert_eq!(here.value("shared/two").await, json!({"t": "of its own all along"}));
    for editor in ["h1", "h2", "h3"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}

/// Story: what Hocuspocus calls synced is durable here. As soon as an editor has heard it, its node dies and it goes away
/// with all that it remembers.
async fn an_edit_that_was_acknowledged_survives_the_death_of_its_node(fleet: &Fleet, editors: &Editors) {
    let leader = fleet.leader("us-east").await;
    let other = fleet.node_names().into_iter().find(|name| name.starts_with("us-east/") && *name != leader);
    let other = fleet.node(&other.expect("three nodes"));
    editors.enter("typist", &fleet.node(&leader), "acknowledged", "typist").await;
    for word in 0..WORDS {
        editors.types("typist", &format!("w{word};"), None).await;
    }
    editors.kept("typist").await;
    fleet.cluster().kill(&leader).await.expect("killed");
    editors.tell("typist", "leave", json!({})).await;
    editors.enter("checker", &other, "acknowledged", "checker").await;
    let all: String = (0..WORDS).map(|word| format!("w{word};")).collect();
    editors.agree(&["checker"], PATIENCE, text_is(&all)).await;
    fleet.cluster().restart(&leader).await.expect("restarted");
}

async fn what_no_client_sends_ends_its_connection_alone(fleet: &Fleet, editors: &Editors) {
    let node = fleet.node("eu-west/2");
    editors.open("bystander", &node, "bounds").await;
    let server = format!("ws://{}/v1/spaces/default/docs", node.server());
    let raw = async |mut what: Value| {
        what["server"] = server.as_str().into();
        what["doc"] = "bounds".into();
        editors.tell("bystander", "raw", what).await
    };
    assert_eq!(raw(json!({"bytes": [9, 9]})).await, 4400, "no message");
    assert_eq!(raw(json!({"bytes": [0, 2, 1, 255]})).await, 4400, "no update");
    assert_eq!(raw(json!({"bytes": [0, 0, 1, 255]})).await, 4400, "no state vector");
    assert_eq!(raw(json!({"bytes": [1, 4, 1, 1, 1, 123]})).await, 4400, "no state of anybody");
    assert_eq!(raw(json!({"text": "hello"})).await, 4415, "text");
    assert_eq!(raw(json!({"size": (1 << 20) + 4096})).await, 4413, "above the limit");
    editors.types("bystander", "still here", None).await;
    wait::until("the other editor goes on", PATIENCE, async || {
        let read = node.value("bounds").await;
        if read == json!({"t": "still here"}) { Ok(()) } else { Err(read.to_string()) }
    })
    .await;
}
