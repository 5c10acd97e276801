//! What can be wrong with a configuration, said so that the operator can put it right without reading code.

use std::fmt;

/// One thing that is wrong: where it stands, what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, variable or flag that the value came from.
    pub place: String,
    /// The key as a dotted path, `raft.heartbeat`; empty when the whole file is at fault.
    pub key: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.wrong)?;
        if !self.right.is_empty() {
            write!(f, "; {}", self.right)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, at once; nothing has been started or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Never empty; in the order found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The valid name closest to what was written, if one is close enough to be what was meant.
pub fn nearest<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let (name, distance) = valid
        .into_iter()
        .map(|name| (name, distance(&written, &name.to_lowercase())))
        .min_by_key(|(_, d)| *d)?;
    // A third of the letters may differ: more than a typing error, less than another word.
    (distance <= 1 + written.chars().count() / 3).then_some(name)
}

/// Edit distance with transpositions of neighbours counted once, as typing errors are made.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_key_and_another_word_finds_none() {
        let valid = ["heartbeat", "election_min", "election_max"];
        assert_eq!(nearest("hearbeat", valid), Some("heartbeat"));
        assert_eq!(nearest("eleciton_min", valid), Some("election_min"));
        assert_eq!(nearest("Heart-Beat", valid), Some("heartbeat"));
        assert_eq!(nearest("colour", valid), None);
    }
}
