//! PROTOCOL.md cannot rot: its examples are decoded, and its tables compared with the code.
//!
//! An example is a fenced block called `request`, `answer` or `token`: lines of hexadecimal bytes, then what they say.

use std::fmt::Write;

use meridian_client::wire::frame::{Frame, Request, close};
use meridian_client::wire::token::cluster_id;
use meridian_client::wire::{ErrorCode, Token, msgpack};
use meridian_crdt::Value;

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

struct Example {
    kind: &'static str,
    bytes: Vec<u8>,
    says: String,
}

fn is_hex(line: &str) -> bool {
    !line.is_empty() && line.split(' ').all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
}

fn examples() -> Vec<Example> {
    let mut found = Vec::new();
    let mut lines = PROTOCOL.lines();
    while let Some(line) = lines.next() {
        let Some(kind) =
            line.strip_prefix("```").filter(|kind| ["request", "answer", "token"].contains(kind))
        else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let hex: Vec<&str> = body.iter().copied().take_while(|line| is_hex(line)).collect();
        let bytes = hex.iter().flat_map(|line| line.split(' '));
        found.push(Example {
            kind,
            bytes: bytes.map(|byte| u8::from_str_radix(byte, 16).expect("checked")).collect(),
            says: body[hex.len()..].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
        });
    }
    found
}

/// The notation of PROTOCOL.md: JSON with a space behind `,` and `:`, and bytes as `h'00ff'`.
fn notation(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Bytes(bytes) => {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("memory");
                hex
            });
            format!("h'{hex}'")
        }
        Value::Array(items) => format!("[{}]", list(items.iter().map(notation).collect())),
        Value::Map(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", serde_json::Value::from(name.as_str()), notation(value))
            };
            format!("{{{}}}", list(fields.iter().map(field).collect()))
        }
        other => meridian_client::wire::json::from_value(other).to_string(),
    }
}

#[test]
fn every_example_decodes_to_what_it_says() {
    let examples = examples();
    for kind in ["request", "answer"] {
        assert!(examples.iter().filter(|example| example.kind == kind).count() > 5, "there are examples");
    }
    for Example { kind, bytes, says } in examples {
        match kind {
            "request" => {
                Request::decode(&bytes).unwrap_or_else(|e| panic!("{says}: {e:?}"));
            }
            "answer" => {
                Frame::decode(&bytes).unwrap_or_else(|e| panic!("{says}: {e:?}"));
            }
            _ => continue,
        }
        let value = msgpack::from_slice(&bytes).expect("decoded before");
        assert_eq!(notation(&value), says);
        assert_eq!(msgpack::to_vec(&value), bytes, "{says}: the shortest form");
    }
}

#[test]
fn every_verb_and_every_kind_of_answer_has_an_example() {
    let examples = examples();
    for verb in
        ["hello", "status", "read", "list", "write", "txn", "begin", "commit", "abort", "watch", "stop"]
    {
        let is_shown =
            examples.iter().any(|e| e.kind == "request" && e.says.contains(&format!(", \"{verb}\", ")));
        assert!(is_shown, "{verb}");
    }
    for word in ["ok", "error", "event"] {
        let is_shown =
            examples.iter().any(|e| e.kind == "answer" && e.says.contains(&format!(", \"{word}\", ")));
        assert!(is_shown, "{word}");
    }
}

#[test]
fn the_example_of_a_token_is_one() {
    let example = examples().into_iter().find(|example| example.kind == "token").expect("there is one");
    let token = Token::from_bytes(&example.bytes).expect("valid");
    let dots = token.dots.iter().map(|dot| format!("{:08x}: {}", dot.origin.0, dot.seq));
    let dots = dots.collect::<Vec<_>>().join(", ");
    assert_eq!(token.cluster, cluster_id("shop"));
    let says = format!("cluster {:08x}, {{{dots}}}, text {}", token.cluster, token.to_text());
    assert_eq!(example.says, says);
}

#[test]
fn the_tables_of_errors_and_of_close_codes_are_those_of_the_code() {
    for code in ErrorCode::ALL {
        let row = format!("| `{code}` | {} | ", code.status());
        assert!(PROTOCOL.contains(&row), "{row}");
    }
    let codes = [
        close::GOING_AWAY,
        close::INTERNAL,
        close::BAD_FRAME,
        close::HELLO_FIRST,
        close::HELLO_TWICE,
        close::NO_COMMON_VERSION,
        close::HELLO_LATE,
        close::SILENT,
        close::FRAME_TOO_LARGE,
        close::TEXT_MESSAGE,
    ];
    for code in codes {
        assert!(PROTOCOL.contains(&format!("| {code} | ")), "{code}");
    }
}
