//! Writes what each parser accepts into its corpus, so that fuzzing does not have to find out by itself.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for parser in meridian_tests::parsers::PARSERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(parser.name);
        std::fs::create_dir_all(&folder)?;
        for (i, sample) in (parser.samples)().iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{i}")), sample)?;
        }
    }
    Ok(())
}
