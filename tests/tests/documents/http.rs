//! What HTTP offers for documents, beside unmodified editors and between datacenters.

use meridian_tests::client::{Ask, Client};
use meridian_tests::editors::Editors;
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

use super::{PATIENCE, text_is};

fn path(doc: &str, behind: &str) -> String {
    format!("/v1/spaces/default/docs/{doc}{behind}")
}

async fn put_text(at: &Client, doc: &str, text: &str) -> Value {
    // A datacenter may have lost its leader a moment ago.
    let (body, _) = wait::until("a text is put", PATIENCE, async || {
        let reply = at.ask(Ask::put(&path(doc, "?format=text&root=t"), text)).await;
        if reply.status == 503 { Err(format!("{reply:?}")) } else { Ok(reply.ok().body) }
    })
    .await;
    body
}

/// Story: the same text is put into a new document in two datacenters at once, as two importers do; it is there once. Later
/// a whole text is put while somebody types: both are there.
pub async fn what_is_put_reaches_editors_and_merges_with_what_they_type(fleet: &Fleet, editors: &Editors) {
    let (here, there) = (fleet.node("eu-west/2"), fleet.node("us-east/2"));
    fleet.cluster().cut("eu-west", "us-east").expect("cut");
    for at in [&here, &there] {
        assert_eq!(put_text(at, "seeded", "A 😀 seed.").await["changed"], true);
    }
    fleet.cluster().heal(None).expect("healed");
    editors.open("put-e", &here, "seeded").await;
    editors.open("put-u", &there, "seeded").await;
    editors.agree(&["put-e", "put-u"], PATIENCE, text_is("A 😀 seed.")).await;
    fleet.agreed(PATIENCE).await;
    for name in fleet.node_names() {
        assert_eq!(fleet.node(&name).value("seeded").await, json!({"t": "A 😀 seed."}), "{name}");
    }
    fleet.cluster().cut("eu-west", "us-east").expect("cut");
    editors.types("put-e", " Typed.", None).await;
    assert_eq!(put_text(&there, "seeded", "A 😁 seedling.").await["changed"], true);
    fleet.cluster().heal(None).expect("healed");
    let is_merged = |seen: &Value| {
        let text = seen["t"].as_str().unwrap_or_default();
        text.contains("A 😁 seedling.")
            && text.contains("Typed.")
            && text.len() == "A 😁 seedling. Typed.".len()
    };
    let seen = editors.agree(&["put-e", "put-u"], PATIENCE, is_merged).await;
    let merged = seen["t"].as_str().expect("text");
    for at in [&here, &there] {
        wait::until("the node reads what the editors see", PATIENCE, async || {
            let read = at.value("seeded").await;
            if read == json!({"t": merged}) { Ok(()) } else { Err(read.to_string()) }
        })
        .await;
        assert_eq!(put_text(at, "seeded", merged).await["changed"], false);
    }
    let stats = here.ask(Ask::get(&path("seeded", "/stats"))).await.ok().body;
    assert_eq!((&stats["editors_here"], &stats["incarnations"]), (&json!(1), &json!(2)), "{stats}");
    for editor in ["put-e", "put-u"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}

/// Story: an editor hears that its edit is kept; another node of its datacenter turns that into a token. With the token
/// another datacenter, cut off, refuses to read without the edit, and waits for it once the cut heals.
pub async fn an_acknowledgement_becomes_a_token_that_another_datacenter_waits_for(
    fleet: &Fleet,
    editors: &Editors,
) {
    let (here, there) = (fleet.node("eu-west/1"), fleet.node("us-east/1"));
    put_text(&here, "acked", "base").await;
    let read = path("acked", "?format=json");
    wait::until("the other datacenter has it", PATIENCE, async || match there.ask(Ask::get(&read)).await {
        reply if reply.status == 200 => Ok(()),
        reply => Err(format!("{reply:?}")),
    })
    .await;
    editors.enter("acker", &here, "acked", "acker").await;
    fleet.cluster().cut("eu-west", "us-east").expect("cut");
    editors.types("acker", ", kept", None).await;
    editors.kept("acker").await;
    let told = fleet.node("eu-west/3").ask(Ask::get(&path("acked", "/token")).eventual()).await.ok();
    let token = told.body["token"].as_str().expect("a token").to_owned();
    assert_eq!(told.token(), token);
    let early = there.ask(Ask::get(&read).after(&token).wait("100ms")).await;
    assert_eq!((early.status, early.code()), (503, "not_caught_up"));
    fleet.cluster().heal(None).expect("healed");
    let late = there.ask(Ask::get(&read).after(&token).wait("10s")).await.ok();
    assert_eq!((late.value(), &late.body["version"]), (&json!({"t": "base, kept"}), &told.body["version"]));
    editors.tell("acker", "leave", json!({})).await;
}

pub async fn versions_are_in_every_datacenter(fleet: &Fleet, editors: &Editors) {
    let (here, there) = (fleet.node("eu-west/2"), fleet.node("us-east/3"));
    editors.open("v-e", &here, "versioned").await;
    editors.types("v-e", "first", None).await;
    editors.tell("v-e", "paragraph", json!({"text": "rich"})).await;
    wait::until("the node has it", PATIENCE, async || match here.value("versioned").await {
        read if read == json!({"t": "first", "x": "<p>rich</p>"}) => Ok(()),
        read => Err(read.to_string()),
    })
    .await;
    let made = here.ask(Ask::post(&path("versioned", "/versions"), &json!({"name": "v"}))).await.ok();
    editors.types("v-e", " and second", None).await;
    editors.tell("v-e", "paragraph", json!({"text": "more"})).await;
    editors.open("v-u", &there, "versioned").await;
    editors.agree(&["v-e", "v-u"], PATIENCE, text_is("first and second")).await;
    // The session of who made it sees it in the other datacenter.
    let listed = there.ask(Ask::get(&path("versioned", "/versions")).after(made.token())).await.ok();
    assert_eq!(listed.body, json!({"versions": [made.body]}));
    let id = made.body["id"].as_str().expect("an id");
    let restore = path("versioned", &format!("/versions/{id}/restore"));
    assert_eq!(there.ask(Ask::post(&restore, &json!(null))).await.ok().body["changed"], true);
    let restored = |seen: &Value| seen["t"] == "first" && seen["x"] == "<p>rich</p>";
    editors.agree(&["v-e", "v-u"], PATIENCE, restored).await;
    // Who deletes the document deletes its versions, everywhere.
    here.ask(Ask::delete("versioned")).await.ok();
    for name in fleet.node_names() {
        let list = "/v1/spaces/default/keys?prefix=%F4%8F%BF%BF";
        wait::until("the versions are gone", PATIENCE, async || {
            let keys = fleet.node(&name).ask(Ask::get(list)).await.ok().body["keys"].to_string();
            if keys == "[]" { Ok(()) } else { Err(keys) }
        })
        .await;
    }
}

/// Characters of each of three roots: together more than may wait for an editor beside one large frame.
const LARGE_ROOT_CHARS: usize = 3 << 19;

/// Story: a document that is larger than everything that may wait for an editor is opened by clients of both protocols, while
/// somebody types in it: what he types comes behind the document, and nobody is sent away for being slow.
pub async fn a_large_document_opens_while_it_is_edited(fleet: &Fleet, editors: &Editors) {
    let node = fleet.node("eu-west/1");
    for root in ["u", "v", "w"] {
        let text = "large; ".repeat(LARGE_ROOT_CHARS / 7);
        node.ask(Ask::put(&format!("/v1/spaces/default/docs/large?format=text&root={root}"), &text))
            .await
            .ok();
    }
    let slow = node.metric("meridian_doc_slow_total").await;
    editors.open("large-typist", &node, "large").await;
    for (reader, hocuspocus) in [("large-y", false), ("large-h", true), ("large-z", false)] {
        editors.types("large-typist", "before; ", None).await;
        if hocuspocus {
            editors.enter(reader, &node, "large", reader).await;
        } else {
            editors.begin(reader, &node, "large").await;
        }
        editors.types("large-typist", "after; ", None).await;
    }
    for reader in ["large-typist", "large-y", "large-h", "large-z"] {
        wait::until("all see what was typed", PATIENCE, async || {
            let text = editors.text(reader).await;
            if text == "before; after; ".repeat(3) { Ok(()) } else { Err(format!("{reader}: {text:?}")) }
        })
        .await;
        editors.tell(reader, "leave", json!({})).await;
    }
    assert_eq!(node.metric("meridian_doc_slow_total").await, slow);
}
