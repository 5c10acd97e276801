//! Reads the settings of one section, collects what is wrong instead of stopping at the first, and refuses keys that
//! do not exist. It knows how a value is read, not what any key means.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use config::{Value, ValueKind};

use super::error::{Problem, nearest};
use super::settings::Fanout;
use super::units::{ByteSize, format_duration, parse_duration};

/// A type that a setting may have.
pub trait Setting: Clone + PartialOrd {
    /// Reads a value; the error is a sentence fragment that says what is wrong.
    fn read(value: &Value) -> Result<Self, String>;
    /// Writes it as it would stand in the file.
    fn show(&self) -> String;
    /// What the type expects, with an example.
    fn expects() -> &'static str;
}

/// What a value is, for the message that refuses it.
fn kind(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "nothing".into(),
        ValueKind::Boolean(b) => format!("the boolean {b}"),
        ValueKind::String(s) => format!("the text {s:?}"),
        ValueKind::Float(x) => format!("the number {x}"),
        ValueKind::Table(_) => "a table".into(),
        ValueKind::Array(_) => "a list".into(),
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            format!("the number {value}")
        }
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::I64(n) => Self::try_from(*n).map_err(|_| format!("{n} is negative")),
            ValueKind::U64(n) => Ok(*n),
            // Variables and flags arrive as text.
            ValueKind::String(text) => text.parse().map_err(|_| format!("{text:?} is not a whole number")),
            _ => Err(format!("{} is not a whole number", kind(value))),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn expects() -> &'static str {
        "a whole number such as 1000"
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::Boolean(b) => Ok(*b),
            ValueKind::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            ValueKind::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(format!("{} is neither true nor false", kind(value))),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn expects() -> &'static str {
        "true or false"
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::String(text) if text.is_empty() => Err("the text is empty".into()),
            ValueKind::String(text) => Ok(text.clone()),
            _ => Err(format!("{} is not text in quotes", kind(value))),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }

    fn expects() -> &'static str {
        "text in quotes"
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::String(text) => parse_duration(text),
            _ => Err(format!("{} is not a duration", kind(value))),
        }
    }

    fn show(&self) -> String {
        format!("\"{}\"", format_duration(*self))
    }

    fn expects() -> &'static str {
        "a duration such as \"250ms\""
    }
}

impl Setting for ByteSize {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::String(text) => text.parse(),
            _ => Err(format!("{} is not a size", kind(value))),
        }
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }

    fn expects() -> &'static str {
        "a size such as \"64MiB\""
    }
}

impl Setting for Fanout {
    fn read(value: &Value) -> Result<Self, String> {
        match &value.kind {
            ValueKind::String(text) if text == "durable" => Ok(Self::Durable),
            ValueKind::String(text) if text == "early" => Ok(Self::Early),
            _ => Err(format!("{} is neither \"durable\" nor \"early\"", kind(value))),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Durable => "\"durable\"".into(),
            Self::Early => "\"early\"".into(),
        }
    }

    fn expects() -> &'static str {
        "\"durable\" or \"early\""
    }
}

/// Collects problems, and knows which layer each key was last set by.
pub(super) struct Findings<'a> {
    file: &'a str,
    /// Dotted path -> the variable or flag that set it.
    origins: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, origins: &'a BTreeMap<String, String>) -> Self {
        Self { file, origins, problems: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        let place = self.origins.get(key).map_or(self.file, String::as_str).to_string();
        self.problems.push(Problem { place, key: key.into(), wrong: wrong.into(), right: right.into() });
    }

    /// Refuses a key that does not exist, naming the nearest that does.
    pub(super) fn unknown<'k>(&mut self, key: &str, written: &str, valid: impl IntoIterator<Item = &'k str>) {
        let valid: Vec<&str> = valid.into_iter().collect();
        self.add(key, "there is no such key", suggestion(written, &valid));
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// "did you mean" when a valid name is near, the list of valid names otherwise.
pub(super) fn suggestion(written: &str, valid: &[&str]) -> String {
    match nearest(written, valid.iter().copied()) {
        Some(name) => format!("did you mean {name:?}?"),
        None => format!("the valid ones are {}", valid.join(", ")),
    }
}

/// One section's table while it is read.
pub(super) struct Reader<'r, 'a> {
    /// The dotted path of the section.
    pub(super) section: String,
    table: HashMap<String, Value>,
    pub(super) findings: &'r mut Findings<'a>,
}

impl<'r, 'a> Reader<'r, 'a> {
    /// Takes a section's table apart; a section that is absent is an empty table, so that every default holds.
    pub(super) fn open(section: &str, value: Option<Value>, findings: &'r mut Findings<'a>) -> Self {
        let table = match value.map(|v| v.kind) {
            None => HashMap::new(),
            Some(ValueKind::Table(table)) => table.into_iter().collect(),
            Some(_) => {
                findings.add(section, "this is not a table", format!("write it as [{section}]"));
                HashMap::new()
            }
        };
        Self { section: section.into(), table, findings }
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    /// The setting as it stands, for those that are read in a way of their own.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.table.remove(key)
    }

    /// The setting if it is given and readable.
    pub(super) fn optional<T: Setting>(&mut self, key: &str) -> Option<T> {
        let value = self.table.remove(key)?;
        match T::read(&value) {
            Ok(setting) => Some(setting),
            Err(wrong) => {
                self.findings.add(&self.path(key), wrong, format!("write {}", T::expects()));
                None
            }
        }
    }

    /// The setting, or its default; outside its range it is refused.
    pub(super) fn ranged<T: Setting>(&mut self, key: &str, default: T, min: &T, max: &T) -> T {
        let Some(value) = self.optional::<T>(key) else { return default };
        if value < *min || value > *max {
            self.findings.add(
                &self.path(key),
                format!("{} is out of range", value.show()),
                format!("it must be from {} to {} (default {})", min.show(), max.show(), default.show()),
            );
            return default;
        }
        value
    }

    /// Refuses what is left in the table: keys that nobody asked for.
    pub(super) fn close(self, valid: &[&str]) {
        let mut left: Vec<&String> = self.table.keys().collect();
        left.sort();
        for key in left {
            self.findings.unknown(&format!("{}.{key}", self.section), key, valid.iter().copied());
        }
    }
}
