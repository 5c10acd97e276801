//! Histories as Jepsen writes them, in EDN, one operation a line: what Elle reads for its models of lists and registers.
//!
//! Every operation is a `:txn` of micro-operations, once as `:invoke` and once as it ended: `:ok`, `:fail`, or `:info`
//! for an unknown outcome. A process of Jepsen ends with an unknown outcome, so that a session goes on as another
//! process, whose number is higher by the number of sessions.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Action, History, Op, Outcome, narrow};

/// Appends to and reads of lists, for Elle's `list-append`.
pub fn list_append(history: &History) -> String {
    lines(history, |action, known| match action {
        Action::Append { key, value } => Some(format!("[:append {key:?} {value}]")),
        Action::List { key, values } => {
            let seen = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            Some(if known { format!("[:r {key:?} [{seen}]]") } else { format!("[:r {key:?} nil]") })
        }
        _ => None,
    })
}

/// Sets and reads of registers, for Elle's `rw-register`.
pub fn rw_register(history: &History) -> String {
    lines(history, |action, known| match action {
        Action::Set { key, value } => Some(format!("[:w {key:?} {value}]")),
        Action::Get { key, value } => match value {
            Some(value) if known => Some(format!("[:r {key:?} {value}]")),
            _ => Some(format!("[:r {key:?} nil]")),
        },
        _ => None,
    })
}

/// One line for each call and each end, in the order of time. `micro` is given an action and whether what it read is
/// known, and leaves out what the model does not have.
fn lines(history: &History, micro: impl Fn(&Action, bool) -> Option<String>) -> String {
    let history = narrow(history, |action| micro(action, true).is_some());
    let sessions = history.ops.iter().map(|op| op.session + 1).max().unwrap_or(0);
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (i, op) in history.ops.iter().enumerate() {
        moments.push((op.begin_ns, false, i));
        moments.push((op.end_ns, true, i));
    }
    // A session's answer comes before its next call, also within one nanosecond.
    moments.sort_by_key(|(time, end, i)| (*time, *i, *end));
    let mut processes = BTreeMap::<usize, usize>::new();
    let mut text = String::new();
    for (index, (time, end, i)) in moments.into_iter().enumerate() {
        let op: &Op = &history.ops[i];
        let kind = match (end, op.outcome) {
            (false, _) => "invoke",
            (true, Outcome::Ok) => "ok",
            (true, Outcome::Failed) => "fail",
            (true, Outcome::Unknown) => "info",
        };
        let micros: Vec<String> = op.actions.iter().filter_map(|a| micro(a, kind == "ok")).collect();
        let process = processes.entry(op.session).or_insert(op.session);
        let value = micros.join(" ");
        writeln!(
            text,
            "{{:index {index}, :type :{kind}, :process {process}, :time {time}, :f :txn, :value [{value}]}}"
        )
        .expect("text grows");
        if kind == "info" {
            *process += sessions;
        }
    }
    text
}
