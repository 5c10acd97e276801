//! The deliberate bugs of `mutants/` do not rot: each still applies to the code, and names tests that are still there.
//! Whether these catch it is tried by `tests/mutants/run`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mutant's line with a command that catches it.
const CAUGHT_BY: &str = "caught-by: ";

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    root.canonicalize().expect("the workspace is there")
}

fn patches() -> Vec<PathBuf> {
    let folder = root().join("tests/mutants");
    let entries = std::fs::read_dir(folder).expect("the folder of mutants");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut patches: Vec<PathBuf> =
        paths.filter(|path| path.extension() == Some(OsStr::new("patch"))).collect();
    patches.sort();
    assert!(patches.len() >= 12, "there are mutants: {patches:?}");
    patches
}

/// Appends the text of every Rust file below `folder`.
fn read_code(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_code(&path, code);
        } else if path.extension() == Some(OsStr::new("rs")) {
            code.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_mutant_still_applies() {
    let root = root();
    if !root.join(".git").exists() || Command::new("git").arg("--version").output().is_err() {
        println!(
            "skipped: whether mutants apply is asked of git, and this is no git checkout or there is no git"
        );
        return;
    }
    let mut stale = Vec::new();
    for patch in patches() {
        let check = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(&root).output();
        let check = check.expect("git runs");
        if !check.status.success() {
            stale.push(format!("{}: {}", patch.display(), String::from_utf8_lossy(&check.stderr)));
        }
    }
    assert!(stale.is_empty(), "write these anew for the code as it is now:\n{}", stale.join("\n"));
}

#[test]
fn every_mutant_says_what_it_breaks_and_names_tests_that_exist() {
    let root = root();
    let mut code = String::new();
    for part in ["crdt", "gossip", "client", "node", "history", "sim", "tests"] {
        for folder in ["src", "tests"] {
            let folder = root.join(part).join(folder);
            if folder.is_dir() {
                read_code(&folder, &mut code);
            }
        }
    }
    for patch in patches() {
        let name = patch.display();
        let text = std::fs::read_to_string(&patch).expect("text");
        let (words, _) = text.split_once("\ndiff --git ").expect("words, then a diff");
        let (story, rest) = words.split_once("\n\n").expect("a story, then the commands");
        assert!(story.ends_with('.') && story.len() > 40, "{name} begins with a sentence");
        let commands: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix(CAUGHT_BY)).collect();
        assert!(!commands.is_empty(), "{name} names what catches it");
        for command in commands {
            assert!(command.starts_with("cargo test -p meridian"), "{name}: {command}");
            let test = command.split_whitespace().last().expect("words");
            assert!(code.contains(&format!("fn {test}(")), "{name}: there is no test {test}");
        }
    }
}
