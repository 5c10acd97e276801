//! Turns words into the JSON of a mutation, and checks only what words can get wrong: the server judges the rest.

use serde_json::{Map, Value, json};

/// Every type and its operations, `delete` aside, which all have.
const OPERATIONS: [(&str, &[&str]); 9] = [
    ("register", &["set", "clear"]),
    ("mvregister", &["set", "clear"]),
    ("counter", &["add", "reset"]),
    ("flag", &["enable", "disable"]),
    ("dwflag", &["enable", "disable"]),
    ("set", &["add", "remove", "clear"]),
    ("rwset", &["add", "remove", "clear"]),
    ("map", &["update", "remove", "clear"]),
    ("doc", &["update"]),
];

/// How deep maps may be written within maps on a command line; the server's limit is lower or equal in effect.
const DEPTH_MAX: usize = 64;

/// An argument as JSON if it is JSON, else as plain text.
pub fn parse_argument(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}

/// The JSON of `type op args`.
///
/// # Errors
/// A sentence that says what the operation takes.
pub fn mutation(kind: &str, op: &str, args: &[String]) -> Result<Value, String> {
    nested(kind, op, args, 0)
}

fn nested(kind: &str, op: &str, args: &[String], depth: usize) -> Result<Value, String> {
    let Some((_, ops)) = OPERATIONS.iter().find(|(name, _)| *name == kind) else {
        let types: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no type {kind:?}; the types are {}", types.join(", ")));
    };
    if !ops.contains(&op) && op != "delete" {
        return Err(format!("{kind} has no operation {op:?}; it has {}, delete", ops.join(", ")));
    }
    let mut body = Map::from_iter([("type".into(), json!(kind)), ("op".into(), json!(op))]);
    match (kind, op) {
        ("register" | "mvregister", "set") => {
            body.insert("value".into(), parse_argument(only(kind, op, args, "VALUE")?));
        }
        ("counter", "add") => {
            let text = only(kind, op, args, "N")?;
            let by: i64 = text.parse().map_err(|_| format!("{text:?} is not a whole number of 64 bits"))?;
            body.insert("by".into(), json!(by));
        }
        ("set" | "rwset", "add" | "remove") => elements(&mut body, kind, op, args)?,
        ("doc", "update") => {
            body.insert("update".into(), json!({"$bytes": only(kind, op, args, "BASE64")?}));
        }
        ("map", "remove") => {
            body.insert("field".into(), json!(only(kind, op, args, "FIELD")?));
        }
        ("map", "update") => {
            let [field, kind, op, rest @ ..] = args else {
                return Err("map update takes KEY FIELD TYPE OP [ARG..]".into());
            };
            if depth >= DEPTH_MAX {
                return Err(format!("maps within maps go {DEPTH_MAX} deep at most"));
            }
            body.insert("field".into(), json!(field));
            body.insert("do".into(), nested(kind, op, rest, depth + 1)?);
        }
        _ if !args.is_empty() => return Err(format!("{kind} {op} takes no further argument")),
        _ => {}
    }
    Ok(Value::Object(body))
}

fn only<'a>(kind: &str, op: &str, args: &'a [String], what: &str) -> Result<&'a str, String> {
    match args {
        [one] => Ok(one),
        _ => Err(format!("{kind} {op} takes KEY {what}, and {} arguments follow the key", args.len())),
    }
}

/// One element is `add`, several are `add_all`: one request, one txn.
fn elements(body: &mut Map<String, Value>, kind: &str, op: &str, args: &[String]) -> Result<(), String> {
    match args {
        [] => return Err(format!("{kind} {op} takes KEY ELEMENT..")),
        [one] => {
            body.insert("element".into(), parse_argument(one));
        }
        many => {
            body.insert("op".into(), json!(format!("{op}_all")));
            body.insert("elements".into(), many.iter().map(|text| parse_argument(text)).collect());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Value, String> {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        mutation(&words[0], &words[1], &words[2..])
    }

    #[test]
    fn every_data_command_gives_the_json_of_its_mutation() {
        for (line, expected) in [
            ("register set \"v\"", json!({"type":"register","op":"set","value":"v"})),
            ("register set plain", json!({"type":"register","op":"set","value":"plain"})),
            ("register set {\"a\":[1,null]}", json!({"type":"register","op":"set","value":{"a":[1,null]}})),
            ("register clear", json!({"type":"register","op":"clear"})),
            ("mvregister set 1.5", json!({"type":"mvregister","op":"set","value":1.5})),
            ("mvregister clear", json!({"type":"mvregister","op":"clear"})),
            ("counter add -5", json!({"type":"counter","op":"add","by":-5})),
            ("counter reset", json!({"type":"counter","op":"reset"})),
            ("counter delete", json!({"type":"counter","op":"delete"})),
            ("flag enable", json!({"type":"flag","op":"enable"})),
            ("flag disable", json!({"type":"flag","op":"disable"})),
            ("dwflag enable", json!({"type":"dwflag","op":"enable"})),
            ("dwflag disable", json!({"type":"dwflag","op":"disable"})),
            ("set add apple", json!({"type":"set","op":"add","element":"apple"})),
            ("set add apple 7", json!({"type":"set","op":"add_all","elements":["apple",7]})),
            ("set remove apple", json!({"type":"set","op":"remove","element":"apple"})),
            ("rwset remove a b", json!({"type":"rwset","op":"remove_all","elements":["a","b"]})),
            ("rwset clear", json!({"type":"rwset","op":"clear"})),
            (
                "map update name register set Ann",
                json!({"type":"map","op":"update","field":"name","do":{"type":"register","op":"set","value":"Ann"}}),
            ),
            (
                "map update home map update visits counter add 2",
                json!({"type":"map","op":"update","field":"home","do":{"type":"map","op":"update","field":"visits",
                       "do":{"type":"counter","op":"add","by":2}}}),
            ),
            ("map remove name", json!({"type":"map","op":"remove","field":"name"})),
            ("map clear", json!({"type":"map","op":"clear"})),
        ] {
            assert_eq!(words(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn words_that_make_no_mutation_are_refused() {
        for line in [
            "counter add",
            "counter add x",
            "counter add 1 2",
            "counter increment 1",
            "counter reset 1",
            "register set",
            "register set a b",
            "set add",
            "map update name",
            "map update name counter",
            "map update name heap push 1",
            "flag enable now",
            "heap push",
        ] {
            assert!(words(line).is_err(), "{line}");
        }
    }
}
