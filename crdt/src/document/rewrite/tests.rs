//! Documents that are made to hold something else, alone and while others edit them.

use proptest::prelude::*;
use yrs::types::Attrs;
use yrs::{Text as _, XmlTextRef};

use super::*;

const AUTHOR: u64 = 77;

/// A document that an editor has made.
fn edited(client: u64, edit: impl FnOnce(&mut TransactionMut<'_>)) -> YrsDocument {
    let mut options = Options::with_guid_and_client_id("".into(), ClientID::new(client));
    options.offset_kind = OffsetKind::Utf16;
    let doc = Doc::with_options(options);
    edit(&mut doc.transact_mut());
    YrsDocument { doc, ..YrsDocument::default() }
}

fn typed(client: u64, text: &str) -> YrsDocument {
    edited(client, |txn| txn.get_or_insert_text("t").insert(txn, 0, text))
}

fn text<'c>(text: &'c str) -> Content<'c> {
    Content::Text { root: "t", text }
}

/// A copy of a document with these updates put in.
fn with(document: &YrsDocument, updates: &[Bytes]) -> YrsDocument {
    let mut copy = YrsDocument::default();
    copy.integrate(&document.diff(FROM_NOTHING).expect("a difference")).expect("an update");
    for update in updates {
        super::super::check_update(update).expect("what is made here is what is taken");
        copy.integrate(update).expect("an update");
    }
    copy
}

/// What a document comes to hold; asked again, nothing is left to do.
fn holding(document: &YrsDocument, content: Content<'_>) -> (YrsDocument, Vec<Bytes>) {
    let rewritten = document.rewritten(&content, AUTHOR).expect("can be written");
    let after = with(document, &rewritten.updates);
    let again = after.rewritten(&content, AUTHOR + 1).expect("can be written");
    assert_eq!(again.updates, Vec::<Bytes>::new(), "the same content twice changes nothing");
    (after, rewritten.updates)
}

fn json(value: &Value) -> &BTreeMap<String, Value> {
    let Value::Map(roots) = value else { panic!("roots") };
    roots
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

fn string(text: &str) -> Value {
    Value::Str(text.into())
}

#[test]
fn a_text_changes_only_where_it_differs_and_merges_with_what_is_typed_meanwhile() {
    let before = typed(1, "the quick brown fox 😀 jumps");
    let wanted = "the slow brown fox 😁 jumps high";
    let (after, updates) = holding(&before, text(wanted));
    assert_eq!((after.text("t").as_str(), updates.len()), (wanted, 1));
    assert!(updates[0].len() < 80, "{} bytes", updates[0].len());
    // Somebody has typed behind `brown` meanwhile.
    let meanwhile = edited(2, |txn| {
        let all = before.diff(FROM_NOTHING).expect("a difference");
        txn.apply_update(Update::decode_v1(&all).expect("an update")).expect("applied");
        txn.get_or_insert_text("t").insert(txn, 15, " and red");
    });
    assert_eq!(with(&meanwhile, &updates).text("t"), "the slow brown and red fox 😁 jumps high");
}

#[test]
fn characters_outside_of_the_basic_plane_are_never_split() {
    // They differ in their second half alone.
    let (after, _) = holding(&typed(1, "a😀b"), text("a😁b"));
    assert_eq!(after.text("t"), "a😁b");
    let (after, _) = holding(&after, text("😁a😀"));
    assert_eq!(after.text("t"), "😁a😀");
}

#[test]
fn a_text_keeps_its_formatting_and_what_stands_in_it() {
    let picture = || Any::from_json(r#"{"image":"a.png"}"#).expect("JSON");
    let bold = || Attrs::from([("b".into(), true.into())]);
    let before = edited(1, |txn| {
        let text = txn.get_or_insert_text("t");
        text.insert(txn, 0, "plain ");
        text.insert_with_attributes(txn, 6, "bold", bold());
        text.insert_embed(txn, 10, picture());
        text.insert_with_attributes(txn, 11, " end", Attrs::new());
    });
    let (after, _) = holding(&before, text("plainer bolder end"));
    let txn = after.doc.transact();
    let Some((_, root)) = txn.root_refs().next() else { panic!("a root") };
    let Node::Text(runs) = Node::of(root, &txn, 0).expect("a tree") else { panic!("text") };
    let shown: Vec<_> = runs.iter().map(|run| (run.insert.clone(), run.marks.len())).collect();
    let chars = |text: &str| Piece::Chars(text.to_owned());
    let picture = Piece::Embed(picture());
    let expected = [(chars("plainer "), 0), (chars("bolder"), 1), (picture, 1), (chars(" end"), 0)];
    assert_eq!(shown, expected, "what is new looks like what is before it");
    let odd = edited(1, |txn| {
        let text = txn.get_or_insert_text("t");
        text.insert(txn, 0, "a");
        text.insert_embed(txn, 1, Any::from("picture"));
    });
    assert!(matches!(odd.rewritten(&text("x"), AUTHOR), Err(RewriteError::Unsupported(_))));
}

#[test]
fn the_same_text_put_into_an_empty_document_twice_counts_once() {
    let empty = YrsDocument::default();
    let here = empty.rewritten(&text("seed"), 1).expect("can be written");
    let there = empty.rewritten(&text("seed"), 2).expect("can be written");
    assert!(here.is_import && here == there, "their author is the content");
    let both = with(&with(&empty, &here.updates), &there.updates);
    assert_eq!(both.text("t"), "seed");
    let other = empty.rewritten(&text("seedling"), 1).expect("can be written");
    assert_ne!(other.updates, here.updates);
    // Also in what is not empty: whoever makes the same of the same makes the same edits.
    let next = both.rewritten(&text("seedling"), 1).expect("can be written");
    let again = both.rewritten(&text("seedling"), 2).expect("can be written");
    assert!(!next.is_import && next == again);
    assert_eq!(with(&with(&both, &next.updates), &again.updates).text("t"), "seedling");
    let other = both.rewritten(&text("seeds"), 1).expect("can be written");
    assert_eq!(with(&with(&both, &next.updates), &other.updates).text("t").len(), "seedling".len() + 1);
}

#[test]
fn a_large_text_comes_in_several_updates_and_a_broken_off_import_goes_on() {
    let large = "0123456789 😀 ".repeat(50_000);
    let empty = YrsDocument::default();
    let import = empty.rewritten(&text(&large), AUTHOR).expect("can be written");
    assert!(import.updates.len() > 4, "{}", import.updates.len());
    assert!(import.updates.iter().all(|update| update.len() < 2 * UPDATE_BYTES));
    assert!(with(&empty, &import.updates).text("t") == large);
    let half = with(&empty, &import.updates[..2]);
    let rest = half.rewritten(&text(&large), AUTHOR).expect("can be written");
    assert!(rest.is_import);
    // Whoever goes on, and whoever had not yet broken off: it is the same content, once.
    let all = with(&with(&half, &rest.updates), &import.updates);
    assert!(all.text("t") == large);
}

/// Story: two datacenters are cut from each other. In each an editor deletes another word of an imported text, which leaves no
/// author behind, and the text is imported once more. What each has put in again is not the same.
#[test]
fn what_is_imported_again_after_a_deletion_is_new() {
    let words = "one two three four";
    let empty = YrsDocument::default();
    let import = empty.rewritten(&text(words), AUTHOR).expect("can be written");
    let imported_again = |from: u32, len: u32| {
        let document = with(&empty, &import.updates);
        {
            let mut txn = document.doc.transact_mut();
            txn.get_or_insert_text("t").remove_range(&mut txn, from, len);
        }
        let again = document.rewritten(&text(words), AUTHOR).expect("can be written");
        assert!(!again.is_import);
        let whole = with(&document, &again.updates);
        assert_eq!(whole.text("t"), words);
        whole.diff(FROM_NOTHING).expect("a difference").into()
    };
    let (here, there): (Bytes, Bytes) = (imported_again(0, 4), imported_again(4, 4));
    let merged =
        [[&here, &there], [&there, &here]].map(|both| with(&empty, &both.map(Clone::clone)).text("t"));
    assert_eq!(merged[0], merged[1], "whichever comes first");
    assert!(merged[0].contains("one ") && merged[0].contains("two ") && merged[0].len() == words.len());
}

/// Story: an import comes in several txns and is broken off in the middle of an object. Whoever goes on makes what the first one
/// would have made, wherever it was.
#[test]
fn an_import_of_nested_objects_goes_on_as_it_began() {
    let row = |n: i64| (0..400).map(|f| (format!("f{f}"), Value::Int(n * 1000 + f))).collect();
    let rows = (0..8).map(|n| Value::Map(row(n))).collect();
    let wanted = object([("a", Value::Array(rows)), ("t", string("a title"))]);
    let content = Content::Json(json(&wanted));
    let empty = YrsDocument::default();
    let import = empty.rewritten(&content, AUTHOR).expect("can be written");
    assert!(import.updates.len() > 3, "{}", import.updates.len());
    for parts in 1..import.updates.len() {
        let begun = with(&empty, &import.updates[..parts]);
        let rest = begun.rewritten(&content, AUTHOR).expect("can be written");
        assert!(rest.is_import);
        // Whoever goes on may be broken off in turn, and the first one not have been broken off at all.
        for more in 1..=rest.updates.len() {
            let all = with(&with(&begun, &rest.updates[..more]), &import.updates);
            let left = all.rewritten(&content, AUTHOR).expect("can be written");
            assert_eq!(left.updates, Vec::<Bytes>::new(), "broken off after {parts} and {more}");
        }
    }
}

#[test]
fn json_is_compared_into_maps_arrays_and_texts() {
    let before = edited(1, |txn| {
        txn.get_or_insert_text("t").insert(txn, 0, "a text");
        let map = txn.get_or_insert_map("m");
        map.insert(txn, "n", 1);
        map.insert(txn, "gone", true);
        map.insert(txn, "plain", Any::from_json(r#"{"a":[1,2]}"#).expect("JSON"));
        let inner = map.insert(txn, "inner", MapPrelim::default());
        inner.insert(txn, "kept", "kept");
        inner.insert(txn, "text", TextPrelim::new("hello world"));
        let array = txn.get_or_insert_array("a");
        array.insert_range(txn, 0, ["x", "y", "z"]);
        array.push_back(txn, MapPrelim::from([("k", 1), ("l", 2)]));
    });
    let wanted = object([
        ("t", string("a longer text")),
        (
            "m",
            object([
                ("n", Value::Int(2)),
                ("plain", object([("a", Value::Array(vec![Value::Int(1), Value::Int(2)]))])),
                ("inner", object([("kept", string("kept")), ("text", string("hello, world"))])),
                ("new", object([("deep", Value::Array(vec![object([("b", Value::Bool(false))])]))])),
            ]),
        ),
        (
            "a",
            Value::Array(vec![
                string("x"),
                string("new"),
                string("z"),
                object([("k", Value::Int(3)), ("l", Value::Int(2))]),
            ]),
        ),
        ("r", Value::Array(vec![Value::Nil, Value::Float(1.5), Value::Bytes(vec![1, 2])])),
    ]);
    let (after, updates) = holding(&before, Content::Json(json(&wanted)));
    assert_eq!(after.to_value(), wanted);
    // What stays was not touched: an edit of it made meanwhile is still there.
    let meanwhile = edited(2, |txn| {
        let all = before.diff(FROM_NOTHING).expect("a difference");
        txn.apply_update(Update::decode_v1(&all).expect("an update")).expect("applied");
        let map = txn.get_or_insert_map("m");
        let Some(Out::YMap(inner)) = map.get(txn, "inner") else { panic!("a map") };
        inner.insert(txn, "kept", "edited");
        let Some(Out::YMap(last)) = txn.get_or_insert_array("a").get(txn, 3) else { panic!("a map") };
        last.insert(txn, "l", 20);
    });
    let both = with(&meanwhile, &updates).to_value();
    let roots = json(&both);
    let (Value::Map(m), Value::Array(a)) = (&roots["m"], &roots["a"]) else { panic!("{both:?}") };
    assert_eq!(m["inner"], object([("kept", string("edited")), ("text", string("hello, world"))]));
    assert_eq!(a[3], object([("k", Value::Int(3)), ("l", Value::Int(20))]));
    // Roots that are not named are emptied, whatever they are.
    let (emptied, _) = holding(&after, Content::Json(&BTreeMap::new()));
    let Value::Map(roots) = emptied.to_value() else { panic!("roots") };
    assert!(roots.values().all(|root| *root == string("")), "{roots:?}");
}

#[test]
fn what_yjs_knows_no_way_to_is_refused() {
    let refused = |document: &YrsDocument, content: Content<'_>| {
        document.rewritten(&content, AUTHOR).expect_err("is refused")
    };
    let map = edited(1, |txn| {
        txn.get_or_insert_map("t").insert(txn, "k", 1);
    });
    let other = RewriteError::OtherType { root: "t".into(), is: "a map", asked: "text" };
    assert_eq!(refused(&map, text("x")), other);
    let wanted = object([("t", Value::Array(Vec::new()))]);
    assert!(matches!(refused(&map, Content::Json(json(&wanted))), RewriteError::OtherType { .. }));
    let scalar = object([("n", Value::Int(1))]);
    assert!(matches!(refused(&map, Content::Json(json(&scalar))), RewriteError::Unsupported(_)));
    let deep = (0..=tree::DEPTH_MAX).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    assert_eq!(refused(&map, Content::Json(json(&object([("d", deep)])))), RewriteError::TooDeep);
    // XML is shown as a text: as long as it stays as it is, that is well.
    let xml = rich(1);
    let mut shown = json(&xml.to_value()).clone();
    let kept = xml.rewritten(&Content::Json(&shown), AUTHOR).expect("nothing to do");
    assert_eq!(kept.updates, Vec::<Bytes>::new());
    shown.insert("x".into(), string("<p>other</p>"));
    assert!(matches!(refused(&xml, Content::Json(&shown)), RewriteError::OtherType { .. }));
}

/// A document as rich editors make them.
fn rich(client: u64) -> YrsDocument {
    edited(client, |txn| {
        let root = txn.get_or_insert_xml_fragment("x");
        for n in 0..3 {
            let p = root.push_back(txn, XmlElementPrelim::empty("p"));
            p.insert_attribute(txn, "level", n);
            let text: XmlTextRef = p.push_back(txn, XmlTextPrelim::new("some text"));
            text.insert_with_attributes(txn, 4, " bold", Attrs::from([("strong".into(), true.into())]));
        }
        txn.get_or_insert_map("meta").insert(txn, "title", "T");
    })
}

#[test]
fn a_document_is_made_to_hold_what_another_holds_with_formatting_and_xml() {
    let old = rich(1);
    // The old state as it is kept: in another document, with other identities.
    let (copy, _) = holding(&YrsDocument::default(), Content::Document(&old));
    assert_eq!(copy.to_value(), old.to_value());
    let live = edited(2, |txn| {
        let all = old.diff(FROM_NOTHING).expect("a difference");
        txn.apply_update(Update::decode_v1(&all).expect("an update")).expect("applied");
        let root = txn.get_or_insert_xml_fragment("x");
        let Some(yrs::XmlOut::Element(first)) = root.get(txn, 0) else { panic!("an element") };
        first.insert_attribute(txn, "level", 9);
        first.insert_attribute(txn, "new", "n");
        let Some(yrs::XmlOut::Text(text)) = first.get(txn, 0) else { panic!("a text") };
        text.remove_range(txn, 0, 5);
        root.remove_range(txn, 2, 1);
        root.insert(txn, 0, XmlElementPrelim::empty("h1"));
        txn.get_or_insert_map("meta").insert(txn, "title", "Other");
        txn.get_or_insert_text("notes").insert(txn, 0, "not there before");
    });
    assert_ne!(live.to_value(), old.to_value());
    let (restored, updates) = holding(&live, Content::Document(&old));
    let (is, was) = (restored.doc.transact(), old.doc.transact());
    let mut roots = tree::roots(&is).expect("a tree");
    assert_eq!(roots.remove("notes"), Some(Node::Nothing));
    assert_eq!(roots, tree::roots(&was).expect("a tree"));
    // The middle paragraph was never touched, so whoever edits it meanwhile loses nothing.
    let size: usize = updates.iter().map(Bytes::len).sum();
    assert!(size < 400, "{size} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_becomes_any_other(before in "[abc \n😀é]{0,30}", between in "[abc \n😀é]{0,30}", after in "[abc 😀]{0,30}") {
        let document = typed(1, &before);
        let (document, _) = holding(&document, text(&between));
        prop_assert_eq!(document.text("t"), between);
        let (document, _) = holding(&document, text(&after));
        prop_assert_eq!(document.text("t"), after);
    }

    #[test]
    fn any_json_becomes_any_other(all in proptest::collection::vec(values(), 1..4)) {
        let mut document = YrsDocument::default();
        for value in all {
            let wanted = object([("m", object([("v", value)]))]);
            document = holding(&document, Content::Json(json(&wanted))).0;
            prop_assert_eq!(document.to_value(), wanted);
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        (-1000i64..1000).prop_map(Value::Int),
        "[ab]{0,3}".prop_map(Value::Str),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(Value::Map),
        ]
    })
}
