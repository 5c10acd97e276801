//! What every pair of concurrent mutations comes to, as data.
//!
//! The tests run each row against the implementation, and docs/TYPES.md is generated from the same rows, so that what
//! users read is what the code does.

use std::fmt::Write;

use bytes::Bytes;

use crate::document;
use crate::types::doc::DocContent;
use crate::types::{CounterOp, DocOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type};
use crate::value::Value;

/// Two mutations made concurrently in two datacenters, and what every datacenter reads once it has both.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The type that the row is about.
    pub ty: Type,
    /// What both datacenters had applied before.
    pub before: Vec<Mutation>,
    /// One mutation.
    pub one: Mutation,
    /// The other one, with the higher (hlc, origin).
    pub other: Mutation,
    /// What is read then, as [`ReadValue::to_value`](crate::ReadValue::to_value); `None` if the key is absent.
    pub reads: Option<Value>,
    /// The rule in a few words.
    pub rule: &'static str,
}

/// Every pair of mutations of each type, in both orders where the order matters.
pub fn pairs() -> Vec<Pair> {
    [registers(), counters(), flags(), sets(), maps(), docs(), mixed()].concat()
}

/// The name of what a mutation does, as in the API.
pub fn op_name(mutation: &Mutation) -> &'static str {
    match mutation {
        Mutation::Register(RegisterOp::Set(_)) | Mutation::MvRegister(RegisterOp::Set(_)) => "set",
        Mutation::Register(RegisterOp::Clear) | Mutation::MvRegister(RegisterOp::Clear) => "clear",
        Mutation::Counter(CounterOp::Add(_)) => "add",
        Mutation::Counter(CounterOp::Reset) => "reset",
        Mutation::Flag(FlagOp::Enable) | Mutation::DwFlag(FlagOp::Enable) => "enable",
        Mutation::Flag(FlagOp::Disable) | Mutation::DwFlag(FlagOp::Disable) => "disable",
        Mutation::Set(op) | Mutation::RwSet(op) => match op {
            SetOp::Add(_) => "add",
            SetOp::Remove(_) => "remove",
            SetOp::AddAll(_) => "add_all",
            SetOp::RemoveAll(_) => "remove_all",
            SetOp::Clear => "clear",
        },
        Mutation::Map(MapOp::Update { .. }) => "update",
        Mutation::Map(MapOp::Remove { .. }) => "remove",
        Mutation::Map(MapOp::Clear) => "clear",
        Mutation::Doc(DocOp::Update(_)) => "update",
        Mutation::Doc(DocOp::UpdateEach(_) | DocOp::UpdateAll(_)) => "update_all",
        Mutation::Delete(_) => "delete",
    }
}

fn text(s: &str) -> Value {
    Value::Str(s.to_owned())
}

fn array(items: &[&str]) -> Option<Value> {
    Some(Value::Array(items.iter().map(|s| text(s)).collect()))
}

const DELETE: Mutation = Mutation::Delete(None);

/// Rows of one type: what stood before is the same for all of them.
struct Rows {
    ty: Type,
    before: Vec<Mutation>,
    rows: Vec<Pair>,
}

impl Rows {
    fn new(ty: Type, before: Vec<Mutation>) -> Rows {
        Rows { ty, before, rows: Vec::new() }
    }

    fn row(&mut self, one: &Mutation, other: &Mutation, reads: Option<Value>, rule: &'static str) {
        let (one, other) = (one.clone(), other.clone());
        self.rows.push(Pair { ty: self.ty, before: self.before.clone(), one, other, reads, rule });
    }

    /// The same for each of `others`.
    fn each(&mut self, one: &Mutation, others: &[&Mutation], reads: Option<Value>, rule: &'static str) {
        for other in others {
            self.row(one, other, reads.clone(), rule);
        }
    }

    /// Every pair out of mutations that leave nothing.
    fn nothing(&mut self, of: &[&Mutation], rule: &'static str) {
        for (i, one) in of.iter().enumerate() {
            self.each(one, &of[i..], None, rule);
        }
    }
}

fn registers() -> Vec<Pair> {
    let make: [fn(RegisterOp) -> Mutation; 2] = [Mutation::Register, Mutation::MvRegister];
    let mut all = Vec::new();
    for (ty, of) in [Type::Register, Type::MvRegister].into_iter().zip(make) {
        let set = |s| of(RegisterOp::Set(text(s)));
        let clear = of(RegisterOp::Clear);
        let alone = if ty == Type::Register { Some(text("a")) } else { array(&["a"]) };
        let mut rows = Rows::new(ty, vec![set("old")]);
        if ty == Type::Register {
            rows.row(&set("a"), &set("b"), Some(text("b")), "the highest (hlc, origin) is read");
        } else {
            rows.row(&set("a"), &set("b"), array(&["a", "b"]), "all concurrent values are read");
            rows.row(&set("a"), &set("a"), array(&["a"]), "equal values are read once");
        }
        rows.each(&set("a"), &[&clear, &DELETE], alone, "a removal takes out only what it observed");
        rows.nothing(&[&clear, &DELETE], "both removed what was there");
        all.append(&mut rows.rows);
    }
    all
}

fn counters() -> Vec<Pair> {
    let add = |by| Mutation::Counter(CounterOp::Add(by));
    let reset = Mutation::Counter(CounterOp::Reset);
    let mut rows = Rows::new(Type::Counter, vec![add(10)]);
    rows.row(&add(2), &add(3), Some(Value::Int(15)), "adds sum up");
    rows.each(&add(2), &[&reset, &DELETE], Some(Value::Int(2)), "exactly what was observed is taken out");
    rows.nothing(&[&reset, &DELETE], "what both observed is taken out once");
    rows.rows
}

fn flags() -> Vec<Pair> {
    let [enable, disable] = [FlagOp::Enable, FlagOp::Disable].map(Mutation::Flag);
    let on = || Some(Value::Bool(true));
    let mut rows = Rows::new(Type::Flag, vec![enable.clone()]);
    rows.row(&enable, &enable, on(), "enable wins");
    rows.each(&enable, &[&disable, &DELETE], on(), "enable wins");
    rows.nothing(&[&disable, &DELETE], "both removed what was there");
    let mut all = rows.rows;

    let [enable, disable] = [FlagOp::Enable, FlagOp::Disable].map(Mutation::DwFlag);
    let mut rows = Rows::new(Type::DwFlag, vec![enable.clone()]);
    rows.row(&enable, &enable, on(), "nothing contradicts it");
    rows.each(&enable, &[&disable, &DELETE], None, "disable wins");
    rows.nothing(&[&disable, &DELETE], "disable wins");
    all.append(&mut rows.rows);
    all
}

fn sets() -> Vec<Pair> {
    let make: [fn(SetOp) -> Mutation; 2] = [Mutation::Set, Mutation::RwSet];
    let mut all = Vec::new();
    for (ty, of) in [Type::Set, Type::RwSet].into_iter().zip(make) {
        let add_wins = ty == Type::Set;
        let add = |s| of(SetOp::Add(text(s)));
        let remove = of(SetOp::Remove(text("x")));
        let add_all = of(SetOp::AddAll(vec![text("x"), text("y")]));
        let remove_all = of(SetOp::RemoveAll(vec![text("x"), text("y")]));
        let clear = of(SetOp::Clear);
        let mut rows = Rows::new(ty, vec![add("x")]);
        rows.row(&add("x"), &add("x"), array(&["x"]), "an element is there once");
        rows.row(&add("x"), &add_all, array(&["x", "y"]), "adds of all elements count");
        rows.row(&add_all, &add_all, array(&["x", "y"]), "an element is there once");
        let removals = [&remove, &remove_all, &clear, &DELETE];
        let (one, rule) = if add_wins { (array(&["x"]), "add wins") } else { (None, "remove wins") };
        rows.each(&add("x"), &removals, one, rule);
        for removal in removals {
            let names_y = removal == &remove_all;
            let reads = match (add_wins, names_y) {
                (true, _) => array(&["x", "y"]),
                (false, true) => None,
                (false, false) => array(&["y"]),
            };
            let rule = if add_wins { "add wins" } else { "remove wins, over what it observed or named" };
            rows.row(&add_all, removal, reads, rule);
        }
        rows.each(&add("y"), &[&clear, &DELETE], array(&["y"]), "only what was observed is removed");
        rows.nothing(&removals, "both removed what was there");
        all.append(&mut rows.rows);
    }
    all
}

fn update(field: &str, mutation: Mutation) -> Mutation {
    Mutation::Map(MapOp::Update { field: field.to_owned(), mutation: Box::new(mutation) })
}

fn field(name: &str, ty: Type, value: Value) -> (String, Value) {
    let parts = [("type".to_owned(), text(ty.name())), ("value".to_owned(), value)];
    (name.to_owned(), Value::Map(parts.into()))
}

fn one_field(ty: Type, value: Value) -> Option<Value> {
    Some(Value::Map([field("f", ty, value)].into()))
}

fn maps() -> Vec<Pair> {
    let set = |f: &str, s| update(f, Mutation::Register(RegisterOp::Set(text(s))));
    let remove = Mutation::Map(MapOp::Remove { field: "f".to_owned() });
    let clear = Mutation::Map(MapOp::Clear);
    let mut rows = Rows::new(Type::Map, vec![set("f", "old")]);
    let both = [field("f", Type::Register, text("a")), field("g", Type::Register, text("b"))];
    rows.row(&set("f", "a"), &set("g", "b"), Some(Value::Map(both.into())), "fields are apart");
    let b = one_field(Type::Register, text("b"));
    rows.row(&set("f", "a"), &set("f", "b"), b, "the rule of the field's type");
    let a = one_field(Type::Register, text("a"));
    let wins = "the update wins and keeps only itself";
    rows.each(&set("f", "a"), &[&remove, &clear, &DELETE], a, wins);
    rows.nothing(&[&remove, &clear, &DELETE], "both removed what was there");
    let mut all = rows.rows;
    all.append(&mut map_fields(&remove));
    all
}

/// What the removal of a field leaves of its concurrent update, by the type of the field.
fn map_fields(remove: &Mutation) -> Vec<Pair> {
    let wins = "the update wins and keeps only itself";
    let mut all = Vec::new();
    let mut of = |before: Mutation, one: Mutation, ty, reads| {
        let mut rows = Rows::new(Type::Map, vec![update("f", before)]);
        rows.row(&update("f", one), remove, one_field(ty, reads), wins);
        all.append(&mut rows.rows);
    };
    let counter = |by| Mutation::Counter(CounterOp::Add(by));
    of(counter(10), counter(2), Type::Counter, Value::Int(2));
    for (ty, make) in [(Type::Set, Mutation::Set as fn(SetOp) -> Mutation), (Type::RwSet, Mutation::RwSet)] {
        let add = |s| make(SetOp::Add(text(s)));
        of(add("x"), add("y"), ty, Value::Array(vec![text("y")]));
    }
    for (ty, make) in
        [(Type::Flag, Mutation::Flag as fn(FlagOp) -> Mutation), (Type::DwFlag, Mutation::DwFlag)]
    {
        of(make(FlagOp::Enable), make(FlagOp::Enable), ty, Value::Bool(true));
    }
    let inner = |by| update("g", counter(by));
    let reads = Value::Map([field("g", Type::Counter, Value::Int(2))].into());
    of(inner(10), inner(2), Type::Map, reads);
    all
}

/// An update of the editor `client` that puts a character at the front of the text `t`.
fn typed(client: u8, character: u8) -> Bytes {
    Bytes::copy_from_slice(&[1, 1, client, 0, 4, 1, 1, b't', 1, character, 0])
}

fn docs() -> Vec<Pair> {
    let update = |client, character| Mutation::Doc(DocOp::Update(typed(client, character)));
    let all = |one, other| Mutation::Doc(DocOp::UpdateAll(vec![one, other]));
    let reads = |text: &str| Some(Value::Map([("t".to_owned(), self::text(text))].into()));
    let (a, b) = (update(1, b'a'), update(2, b'b'));
    let (cd, ef) = (all(typed(3, b'c'), typed(4, b'd')), all(typed(5, b'e'), typed(6, b'f')));
    let mut rows = Rows::new(Type::Doc, vec![update(9, b'o')]);
    let merges = "Yjs merges the updates";
    rows.row(&a, &b, reads("abo"), merges);
    rows.row(&a, &cd, reads("acdo"), merges);
    rows.row(&cd, &ef, reads("cdefo"), merges);
    rows.each(&DELETE, &[&a, &cd], None, "delete wins over concurrent updates");
    rows.nothing(&[&DELETE], "both removed what was there");
    let mut created = Rows::new(Type::Doc, vec![]);
    created.row(&a, &b, reads("ab"), "concurrent creations are read together");
    [rows.rows, created.rows].concat()
}

/// Creations of one key, or one field, as two types.
fn mixed() -> Vec<Pair> {
    let set = Mutation::Register(RegisterOp::Set(text("a")));
    let add = Mutation::Counter(CounterOp::Add(2));
    let rule = "the type with the smaller code is shown; explain shows both; delete removes both";
    let mut rows = Rows::new(Type::Register, vec![]);
    rows.row(&add, &set, Some(text("a")), rule);
    let mut fields = Rows::new(Type::Map, vec![]);
    let shown = one_field(Type::Register, text("a"));
    fields.row(&update("f", add), &update("f", set), shown, rule);
    [rows.rows, fields.rows].concat()
}

/// The rows as docs/TYPES.md.
pub fn markdown() -> String {
    let mut out = String::from(
        "# What concurrent mutations come to\n\n\
         This file is generated from `crdt/src/table.rs`; its rows are what the tests run.\n\n\
         Two datacenters have applied *before*. Then each makes one mutation without having seen the other's; the \
         *other* one has the higher (hlc, origin). Once a datacenter has both, it *reads* what stands in the last \
         column but one, in whatever order they arrived. Mutations that are not concurrent simply follow each other.\n",
    );
    let pairs = pairs();
    for ty in Type::ALL {
        let _ = write!(out, "\n## {ty}\n\n| before | one | other | reads | rule |\n|---|---|---|---|---|\n");
        for pair in pairs.iter().filter(|pair| pair.ty == ty) {
            let before: Vec<String> = pair.before.iter().map(describe).collect();
            let reads = pair.reads.as_ref().map_or("absent".to_owned(), |v| format!("`{}`", literal(v)));
            let (one, other) = (describe(&pair.one), describe(&pair.other));
            let _ = writeln!(out, "| {} | {one} | {other} | {reads} | {} |", before.join(", "), pair.rule);
        }
    }
    out
}

fn describe(mutation: &Mutation) -> String {
    let name = op_name(mutation);
    let ty = mutation.ty().map_or("", Type::name);
    match mutation {
        Mutation::Register(RegisterOp::Set(v)) | Mutation::MvRegister(RegisterOp::Set(v)) => {
            format!("{ty} {name} `{}`", literal(v))
        }
        Mutation::Counter(CounterOp::Add(by)) => format!("{ty} {name} `{by}`"),
        Mutation::Set(op) | Mutation::RwSet(op) => match op {
            SetOp::Add(v) | SetOp::Remove(v) => format!("{ty} {name} `{}`", literal(v)),
            SetOp::AddAll(v) | SetOp::RemoveAll(v) => {
                format!("{ty} {name} `{}`", literal(&Value::Array(v.clone())))
            }
            SetOp::Clear => format!("{ty} {name}"),
        },
        Mutation::Map(MapOp::Update { field, mutation }) => {
            format!("{ty} {name} `{field}`: {}", describe(mutation))
        }
        Mutation::Map(MapOp::Remove { field }) => format!("{ty} {name} `{field}`"),
        Mutation::Doc(op) => {
            // Shown as what a document of these updates alone reads as.
            format!(
                "{ty} {name} `{}`",
                literal(&document::to_value(&DocContent {
                    updates: op.updates().to_vec(),
                    ..DocContent::default()
                }))
            )
        }
        Mutation::Delete(_) => name.to_owned(),
        _ => format!("{ty} {name}"),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Nil => "null".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Str(v) => format!("{v:?}"),
        Value::Bytes(v) => format!("{v:02x?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Map(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name:?}: {}", literal(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testkit::Replica;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/TYPES.md");

    fn run(pair: &Pair) {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        for (n, mutation) in pair.before.iter().enumerate() {
            let txn = a.write(n as u64 + 1, mutation.clone());
            b.receive(&txn);
        }
        let one = a.write(100, pair.one.clone());
        let other = b.write(200, pair.other.clone());
        a.receive(&other);
        b.receive(&one);
        assert_eq!(a.value(), pair.reads, "{pair:?}");
        assert_eq!(b.value(), pair.reads, "{pair:?}");
        assert_eq!(a.digest(), b.digest(), "{pair:?}");
        for replica in [&mut a, &mut b] {
            let before = replica.digest();
            replica.settle();
            assert_eq!((replica.value(), replica.digest()), (pair.reads.clone(), before), "{pair:?}");
        }
    }

    #[test]
    fn every_row_is_what_the_implementation_does() {
        pairs().iter().for_each(run);
    }

    #[test]
    fn every_pair_of_mutations_of_a_type_has_a_row() {
        let ops: [(Type, &[&str]); 9] = [
            (Type::Register, &["set", "clear", "delete"]),
            (Type::MvRegister, &["set", "clear", "delete"]),
            (Type::Counter, &["add", "reset", "delete"]),
            (Type::Flag, &["enable", "disable", "delete"]),
            (Type::DwFlag, &["enable", "disable", "delete"]),
            (Type::Set, &["add", "add_all", "remove", "remove_all", "clear", "delete"]),
            (Type::RwSet, &["add", "add_all", "remove", "remove_all", "clear", "delete"]),
            (Type::Map, &["update", "remove", "clear", "delete"]),
            (Type::Doc, &["update", "update_all", "delete"]),
        ];
        for (ty, names) in ops {
            let rows: BTreeSet<_> = pairs()
                .iter()
                .filter(|pair| pair.ty == ty)
                .flat_map(|p| [(op_name(&p.one), op_name(&p.other)), (op_name(&p.other), op_name(&p.one))])
                .collect();
            for one in names {
                for other in names {
                    assert!(rows.contains(&(*one, *other)), "{ty}: {one} and {other}");
                }
            }
        }
    }

    #[test]
    fn the_document_is_what_the_table_says() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(DOCUMENT, markdown()).expect("the document is written");
        }
        let document = std::fs::read_to_string(DOCUMENT).expect("docs/TYPES.md is there");
        assert!(document == markdown(), "run the tests of meridian-crdt once with UPDATE_DOCS=1");
    }
}
