//! The files in configs/ are valid as they are, for each of their nodes, and fit together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use meridian::access::{Right, Shown};
use meridian::config::{Config, node_names};

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("configs/").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn load(file: &Path, node: &str) -> Config {
    Config::load(file, Some(node), std::iter::empty(), &[]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_shipped_file_is_valid_for_each_of_its_nodes() {
    let files = shipped();
    let names: Vec<_> = files.iter().filter_map(|f| f.file_name()?.to_str()).collect();
    assert_eq!(names, ["ap-south.toml", "eu-west.toml", "single.toml", "three-node.toml", "us-east.toml"]);
    for file in files {
        let nodes = node_names(&file);
        assert!(!nodes.is_empty(), "{} has nodes", file.display());
        for node in nodes {
            let config = load(&file, &node);
            let placeholder = config.cluster.secret.starts_with(b"change-me");
            assert_eq!(placeholder, !config.warnings.is_empty(), "a placeholder secret is warned of");
        }
    }
}

#[test]
fn a_shipped_file_shows_how_a_space_is_closed() {
    let config = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/three-node.toml"), "n1");
    let right = |space: &str, token: &str| config.access.right(space, &Shown::of([token])).ok();
    assert_eq!(right("documents", "change-me-this-token-lets-read"), Some(Right::Read));
    assert_eq!(right("documents", "change-me-this-token-lets-write"), Some(Right::Write));
    assert_eq!(
        (right("documents", "no-token-of-anything"), right("default", "")),
        (None, Some(Right::Write))
    );
    assert!(
        config.warnings.iter().any(|warning| warning.contains("spaces.documents")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn the_three_regions_name_each_other_as_each_names_itself() {
    let dcs = ["eu-west", "us-east", "ap-south"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let configs: BTreeMap<&str, Config> =
        dcs.map(|dc| (dc, load(&folder.join(format!("{dc}.toml")), &format!("{dc}-2")))).into();
    for (dc, config) in &configs {
        assert_eq!(config.dc, *dc);
        assert_eq!(config.remotes.len(), 2);
        for (other, peers) in &config.remotes {
            assert_eq!(*peers, configs[other.as_str()].peers, "{dc} knows {other}");
        }
        assert_eq!(config.cluster, configs["eu-west"].cluster);
    }
}

#[test]
fn config_check_says_what_a_file_amounts_to_or_what_is_wrong_with_it() {
    let check = |file: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.args(["config", "check"]).arg(file).args(more).env_remove("MERIDIAN_NODE");
        let output = command.output().expect("run");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/three-node.toml");
    let (code, out, _) = check(&file, &[]);
    assert_eq!(code, Some(0));
    for part in ["node n1 (id 1) of DC home", "node n3 (id 3)", "heartbeat = \"150ms\"", "WARNING"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(out.contains("space documents   1 tokens to read, 1 to read and write"), "{out}");
    assert!(!out.contains("lets-read") && !out.contains("lets-write"), "a token is never printed: {out}");
    let (code, out, _) = check(&file, &["--node", "n2", "--json"]);
    assert_eq!((code, out.contains("\"valid\":true")), (Some(0), true), "{out}");
    assert!(
        out.contains(r#""spaces":{"documents":{"read":1,"write":1}}"#) && !out.contains("lets-"),
        "{out}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.toml");
    let text = std::fs::read_to_string(&file).expect("read").replace("heartbeat", "hartbeat");
    std::fs::write(&broken, text).expect("written");
    let (code, _, err) = check(&broken, &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("raft.hartbeat: there is no such key; did you mean \"heartbeat\"?"), "{err}");
    assert_eq!(check(&broken, &["--nod", "x"]).0, Some(2));
}
