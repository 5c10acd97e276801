//! The access tokens of spaces: `[spaces.NAME]`.
//!
//! A token is hashed as soon as it is read, and no message repeats one.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Value, ValueKind};
use meridian_client::wire::AccessToken;
use meridian_client::wire::request;

use super::reader::{Findings, Reader};
use super::topology::PLACEHOLDER_SECRET;
use crate::access::{Access, SpaceTokens, TokenHash};

pub(super) const SPACE_KEYS: &[&str] = &["read", "write", "read_file", "write_file"];

/// Tokens that one space may have; all are compared with each request.
const TOKENS_MAX: usize = 1000;
/// Shortest token that is accepted; `openssl rand -hex 32` gives 64 characters.
const TOKEN_BYTES_MIN: usize = 16;
/// The largest file of tokens.
const FILE_BYTES_MAX: u64 = 1 << 20;
const RIGHT: &str =
    "make tokens with `openssl rand -hex 32`; write several as \"ONE, TWO\" or [\"ONE\", \"TWO\"]";

/// Reads the tokens of every space that has some.
pub(super) fn read_spaces(
    tables: BTreeMap<String, Value>,
    warnings: &mut Vec<String>,
    findings: &mut Findings<'_>,
) -> Access {
    let mut spaces = BTreeMap::new();
    for (name, value) in tables {
        let section = format!("spaces.{name}");
        if request::key(&name, "k").is_err() {
            findings.add(&section, "this is not the name of a space", "use 1 to 64 of a-z A-Z 0-9 _ . -");
        }
        let mut reader = Reader::open(&section, Some(value), findings);
        let mut list = |key: &str| read_tokens(&mut reader, key);
        let (read, write) = (list("read"), list("write"));
        reader.close(SPACE_KEYS);
        check(&section, &read, &write, warnings, findings);
        let hashes = |tokens: Vec<AccessToken>| tokens.iter().map(|t| TokenHash::of(t.as_str())).collect();
        spaces.insert(name, SpaceTokens { read: hashes(read), write: hashes(write) });
    }
    Access { spaces }
}

/// What concerns all tokens of a space together.
fn check(
    section: &str,
    read: &[AccessToken],
    write: &[AccessToken],
    warnings: &mut Vec<String>,
    findings: &mut Findings<'_>,
) {
    if read.is_empty() && write.is_empty() {
        // A space that was meant to be closed must not be open because a variable is missing.
        findings.add(
            section,
            "the space has no tokens",
            "give it some, or remove its table to leave it open",
        );
    }
    if read.len() + write.len() > TOKENS_MAX {
        findings.add(section, format!("the space has more than {TOKENS_MAX} tokens"), "remove some");
    }
    if read.iter().any(|token| write.contains(token)) {
        let right = "a token that may write may read, too; keep it under write alone";
        findings.add(section, "a token stands under read and under write", right);
    }
    if read.iter().chain(write).any(|token| token.as_str().starts_with(PLACEHOLDER_SECRET)) {
        warnings.push(format!(
            "{section} still has a placeholder that everybody can read as a token: put the output of \
             `openssl rand -hex 32` in its place"
        ));
    }
}

/// The tokens under `key`, or in the file that `key_file` names.
fn read_tokens(reader: &mut Reader<'_, '_>, key: &str) -> Vec<AccessToken> {
    let path = reader.path(key);
    let inline = reader.take(key);
    let file: Option<String> = reader.optional(&format!("{key}_file"));
    let texts = match (inline, file) {
        (None, None) => return Vec::new(),
        (Some(_), Some(_)) => {
            let wrong = format!("both {key} and {key}_file are given");
            reader.findings.add(&path, wrong, format!("keep one; {key}_file is the safer place"));
            return Vec::new();
        }
        (Some(value), None) => inline_texts(value),
        (None, Some(file)) => file_texts(Path::new(&file)),
    };
    let tokens = texts.and_then(|texts| texts.into_iter().map(token).collect::<Result<Vec<_>, _>>());
    match tokens {
        Ok(tokens) if tokens.is_empty() => {
            reader.findings.add(&path, "it holds no token", RIGHT);
            Vec::new()
        }
        Ok(tokens) => tokens,
        Err(wrong) => {
            reader.findings.add(&path, wrong, RIGHT);
            Vec::new()
        }
    }
}

fn token(text: String) -> Result<AccessToken, String> {
    if text.len() < TOKEN_BYTES_MIN {
        return Err(format!("a token has {} bytes, and at least {TOKEN_BYTES_MIN} are needed", text.len()));
    }
    text.parse()
}

/// Tokens as they stand in the configuration: a list, or one text with commas, as variables have it.
fn inline_texts(value: Value) -> Result<Vec<String>, String> {
    let wrong = || "it is neither text nor a list of texts".to_owned();
    let one = |text: &str| text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
    let texts = match value.kind {
        ValueKind::String(text) => one(&text),
        ValueKind::Array(items) => {
            let text = |item: Value| match item.kind {
                ValueKind::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            items.into_iter().map(text).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Tokens of a file: one a line; empty lines and lines that begin with `#` are left out.
fn file_texts(path: &Path) -> Result<Vec<String>, String> {
    let unreadable = |e: std::io::Error| format!("{} cannot be read: {e}", path.display());
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is above {FILE_BYTES_MAX} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
