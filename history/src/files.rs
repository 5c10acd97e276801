//! Writes a history into a folder, in every format that fits it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Action, History, edn, plume, porcupine};

/// The variable that names the folder into which tests write their histories.
pub const FOLDER_VARIABLE: &str = "MERIDIAN_TEST_HISTORIES";

/// Writes the history if [`FOLDER_VARIABLE`] is set, and says where on standard output.
///
/// # Panics
/// When the folder cannot be written to.
pub fn write_if_asked(history: &History, name: &str) {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        let files =
            write(history, Path::new(&folder), name).expect("the folder for histories can be written to");
        println!("history: {files:?}");
    }
}

/// Writes `NAME.list-append.edn`, `NAME.rw-register.edn`, `NAME.plume.txt` and `NAME.porcupine.json`, each if the
/// history has something for it.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write(history: &History, folder: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let has = |fits: fn(&Action) -> bool| history.ops.iter().flat_map(|op| &op.actions).any(fits);
    let lists = has(|a| matches!(a, Action::Append { .. } | Action::List { .. }));
    let registers = has(|a| matches!(a, Action::Set { .. } | Action::Get { .. }));
    let counters = has(|a| matches!(a, Action::Add { .. } | Action::Sum { .. }));
    let mut files = Vec::new();
    for (fits, ending, text) in [
        (lists, "list-append.edn", edn::list_append as fn(&History) -> String),
        (registers, "rw-register.edn", edn::rw_register),
        (registers, "plume.txt", plume::registers),
        (registers || counters, "porcupine.json", porcupine::operations),
    ] {
        if fits {
            let file = folder.join(format!("{name}.{ending}"));
            std::fs::write(&file, text(history))?;
            files.push(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{add, delete, get, ok, op, set, sum};

    /// Two sessions, and at least one of everything that a format must say somehow.
    fn sample() -> History {
        let append = |value| Action::Append { key: "l".into(), value };
        let list = |values: &[i64]| Action::List { key: "l".into(), values: values.to_vec() };
        History {
            ops: vec![
                ok(0, 10, 20, vec![set("x", 11), append(1)]),
                ok(1, 15, 25, vec![get("x", None), list(&[])]),
                op(1, 30, 40, Outcome::Failed, vec![set("x", 12)]),
                op(0, 30, 45, Outcome::Unknown, vec![set("y", 13), append(2)]),
                op(0, 50, 55, Outcome::Unknown, vec![set("y", 14)]),
                ok(1, 50, 60, vec![get("y", 13), get("x", 11), list(&[1, 2])]),
                ok(0, 60, 65, vec![set("z", 15)]),
                ok(1, 70, 75, vec![get("z", 15)]),
                op(0, 70, 80, Outcome::Unknown, vec![get("z", None)]),
                op(0, 90, 95, Outcome::Unknown, vec![set("z", 16)]),
                ok(1, 90, 95, vec![add("c", 3)]),
                ok(1, 96, 97, vec![sum("c", 3)]),
                ok(1, 98, 99, vec![set("deleted", 1)]),
                ok(1, 100, 101, vec![delete("deleted")]),
            ],
        }
    }

    /// Each file as a checker outside this project reads it. A change here is a change of what those are given.
    #[test]
    fn a_history_is_written_in_every_format_as_it_always_was() {
        for (written, golden) in [
            (edn::list_append(&sample()), include_str!("../golden/list-append.edn")),
            (edn::rw_register(&sample()), include_str!("../golden/rw-register.edn")),
            (plume::registers(&sample()), include_str!("../golden/plume.txt")),
            (porcupine::operations(&sample()), include_str!("../golden/porcupine.json")),
        ] {
            assert_eq!(written, golden, "\n{written}");
        }
    }

    #[test]
    fn only_the_formats_that_fit_a_history_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = write(&sample(), folder.path(), "all").expect("written");
        assert_eq!(all.len(), 4);
        let counter = History { ops: vec![ok(0, 1, 2, vec![add("c", 1)])] };
        let files = write(&counter, folder.path(), "counter").expect("written");
        assert_eq!(files, [folder.path().join("counter.porcupine.json")]);
        let text = std::fs::read_to_string(&files[0]).expect("read");
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed[0]["input"]["value"], 1);
    }
}
