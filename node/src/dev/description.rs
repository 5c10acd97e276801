//! `cluster.json`: where the nodes of a cluster of `dev` are, for people, scripts and the command line.
//!
//! It is replaced as a whole (written beside, then renamed), so that no reader sees half of it, and it is there only
//! while what it says is true.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file's name in the folder of `dev`.
pub const FILE: &str = "cluster.json";

/// All DCs of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// In the order in which they were named.
    pub dcs: Vec<DcDescription>,
}

/// One DC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DcDescription {
    /// Its name.
    pub name: String,
    /// Its nodes by id.
    pub nodes: Vec<NodeDescription>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Its id in its DC.
    pub id: u64,
    /// Its client address.
    pub client: String,
    /// Its peer address.
    pub peer: String,
    /// Its process; `None` while it is dead.
    pub pid: Option<u32>,
}

impl Description {
    /// The client address of the first node.
    pub fn first_client(&self) -> Option<String> {
        Some(self.dcs.first()?.nodes.first()?.client.clone())
    }
}

/// Reads the file.
///
/// # Errors
/// When it is not there, cannot be read, or is something else.
pub fn read(file: &Path) -> io::Result<Description> {
    let text = std::fs::read(file)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Replaces the file of `folder`.
///
/// # Errors
/// When the folder cannot be written; the old file is then still whole.
pub fn write(folder: &Path, description: &Description) -> io::Result<()> {
    let beside = folder.join(format!("{FILE}.tmp"));
    let mut text = serde_json::to_vec(description).map_err(io::Error::other)?;
    text.push(b'\n');
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, folder.join(FILE))
}

/// Removes the file of `folder`, if it is there.
///
/// # Errors
/// When it is there and stays.
pub fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_documented_form_and_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = |id, pid| NodeDescription {
            id,
            client: "127.0.0.1:40001".into(),
            peer: "127.0.0.1:40002".into(),
            pid,
        };
        let description = Description {
            dcs: vec![DcDescription {
                name: "eu-west".into(),
                nodes: vec![node(1, Some(123)), node(2, None)],
            }],
        };
        write(folder.path(), &description).expect("written");
        let text = std::fs::read_to_string(folder.path().join(FILE)).expect("read");
        assert_eq!(
            text.trim_end(),
            r#"{"dcs":[{"name":"eu-west","nodes":[{"id":1,"client":"127.0.0.1:40001","peer":"127.0.0.1:40002","pid":123},{"id":2,"client":"127.0.0.1:40001","peer":"127.0.0.1:40002","pid":null}]}]}"#
        );
        assert_eq!(read(&folder.path().join(FILE)).expect("read"), description);
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing is left beside it");
        remove(folder.path()).expect("removed");
        remove(folder.path()).expect("removing what is gone is fine");
    }
}
