//! A failing fsync: a small library, preloaded into the program, whose `fsync` and `fdatasync` fail while a file beside
//! the node's configuration exists. It is built here, with the C compiler of the machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library. A disk that fails a flush has failed it for good: what it may have dropped stays unknown.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int broken(void) {
    const char *sign = getenv("BAD_SYNC_SIGN");
    return sign && access(sign, F_OK) == 0;
}

int fsync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (broken()) { errno = EIO; return -1; }
    return next(file);
}

int fdatasync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (broken()) { errno = EIO; return -1; }
    return next(file);
}
"#;

/// The program under test behind the library.
#[derive(Debug)]
pub(super) struct BadSync {
    /// What to start instead of the program; same arguments.
    pub(super) program: PathBuf,
}

impl BadSync {
    /// Builds the library and a script that starts `binary` with it, in `folder`.
    ///
    /// # Errors
    /// Why it cannot be built here.
    pub(super) fn build(binary: &str, folder: &Path) -> Result<Self, String> {
        let (source, library) = (folder.join("bad_sync.c"), folder.join("bad_sync.so"));
        std::fs::write(&source, SOURCE).map_err(|e| e.to_string())?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .map_err(|e| format!("no C compiler: {e}"))?;
        if !built.status.success() {
            return Err(format!("the C compiler fails: {}", String::from_utf8_lossy(&built.stderr).trim()));
        }
        // The arguments are `serve --config FILE ...`: the sign stands beside the file. The shell itself is not preloaded.
        let script = format!(
            "#!/bin/sh\nBAD_SYNC_SIGN=\"$3.bad-sync\" LD_PRELOAD={} exec {binary} \"$@\"\n",
            library.display()
        );
        let program = folder.join("with_bad_sync");
        std::fs::write(&program, script).map_err(|e| e.to_string())?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())?;
        Ok(Self { program })
    }

    /// The file that makes the syncs of a node such as `eu-west/1` fail as long as it exists.
    pub(super) fn sign(cluster: &Path, node: &str) -> PathBuf {
        cluster.join(format!("{node}.toml.bad-sync"))
    }
}
