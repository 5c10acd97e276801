//! Histories of registers and counters as JSON, one operation each as porcupine's `Operation` has it: client, input,
//! call, output, return.
//!
//! An operation of unknown outcome returns after everything else, so that it may take effect at any time, and at the end
//! nobody is left to notice whether it did. Reads without an answer and writes that were refused are left out.

use serde_json::{Value, json};

use super::{Action, History, Op};

/// Every single action on a register or a counter, in the order of calls. Operations of several actions are left out:
/// linearizability is a property of each key by itself.
pub fn operations(history: &History) -> String {
    let after_all_ns = history.ops.iter().map(|op| op.end_ns).max().unwrap_or(0) + 1;
    let mut ops: Vec<&Op> = history.ops.iter().collect();
    ops.sort_by_key(|op| op.begin_ns);
    let lines: Vec<String> = ops.into_iter().filter_map(|op| line(op, after_all_ns)).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn line(op: &Op, after_all_ns: u64) -> Option<String> {
    let [action] = &op.actions[..] else { return None };
    let (input, output) = match action {
        Action::Set { value, .. } => (json!({"op": "set", "value": value}), Value::Null),
        Action::Delete { .. } => (json!({"op": "delete"}), Value::Null),
        Action::Get { value, .. } => (json!({"op": "get"}), json!(value)),
        Action::Add { by, .. } => (json!({"op": "add", "value": by}), Value::Null),
        Action::Sum { value, .. } => (json!({"op": "sum"}), json!(value)),
        _ => return None,
    };
    if !op.is_possible() || (!op.is_ok() && !action.is_write()) {
        return None;
    }
    let operation = json!({
        "client": op.session,
        "key": action.key(),
        "input": input,
        "call": op.begin_ns,
        "output": output,
        "return": op.deadline_ns().unwrap_or(after_all_ns),
    });
    Some(operation.to_string())
}
