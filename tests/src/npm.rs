//! Programs that are installed by npm, exactly as their lock files say, into a folder of the build.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// What npm makes itself.
const INSTALLED: &str = "node_modules";

/// Copies the package in `source` to `folder` and installs what it needs there; `false`, with words, where there is no npm.
///
/// # Panics
/// When npm does not install it.
pub async fn install(source: &Path, folder: &Path) -> bool {
    copy(source, folder).unwrap_or_else(|error| panic!("{} cannot be copied: {error}", source.display()));
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder).stdin(Stdio::null());
    let output = match npm.output().await {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: npm cannot be run ({error}), and {} needs it", source.display());
            return false;
        }
    };
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    true
}

fn copy(source: &Path, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let (from, to) = (entry.path(), folder.join(entry.file_name()));
        if entry.file_type()?.is_file() {
            std::fs::copy(from, to)?;
        } else if entry.file_name() != INSTALLED {
            copy(&from, &to)?;
        }
    }
    Ok(())
}
