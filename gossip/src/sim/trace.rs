//! What happened in a run, as lines of text: always hashed, kept when asked for.

use xxhash_rust::xxh3::Xxh3;

/// The trace of a run. Its hash does not depend on whether the lines are kept.
pub struct Trace {
    hash: Xxh3,
    count: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Nothing has happened; `kept` lines can be read later.
    pub fn new(kept: bool) -> Self {
        Self { hash: Xxh3::new(), count: 0, lines: kept.then(Vec::new) }
    }

    /// Adds a line.
    pub fn add(&mut self, line: String) {
        self.count += 1;
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// How many lines there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    /// The lines, if they are kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or(&[])
    }
}
