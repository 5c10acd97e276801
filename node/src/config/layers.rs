//! Lays variables and flags over the file.
//!
//! A variable's name has only capitals, digits and `_`, so each of its parts is matched against the keys that exist,
//! letters of either case and `-` like `_`. What matches nothing is an error, because a misspelt override that is
//! ignored is found only after the damage.

use std::collections::BTreeMap;

use config::{FileFormat, Source, Value, ValueKind};

use super::access::SPACE_KEYS;
use super::error::{ConfigError, Problem};
use super::reader::{Findings, suggestion};
use super::settings::{
    ClockConfig, DocumentsConfig, GossipConfig, LimitsConfig, LogConfig, RaftConfig, RuntimeConfig,
    SessionsConfig, StorageConfig, TransactionsConfig, WatchConfig,
};
use super::topology::{CLUSTER_KEYS, DC_KEYS, NODE_KEYS, REMOTE_KEYS, is_loopback, split_address};

/// What overriding variables start with; the parts behind it are divided by the same two underscores.
const PREFIX: &str = "MERIDIAN__";

/// Sections whose keys are fixed.
const PLAIN: [(&str, &[&str]); 13] = [
    ("cluster", CLUSTER_KEYS),
    ("dc", DC_KEYS),
    (RaftConfig::SECTION, RaftConfig::KEYS),
    (StorageConfig::SECTION, StorageConfig::KEYS),
    (GossipConfig::SECTION, GossipConfig::KEYS),
    (LimitsConfig::SECTION, LimitsConfig::KEYS),
    (SessionsConfig::SECTION, SessionsConfig::KEYS),
    (TransactionsConfig::SECTION, TransactionsConfig::KEYS),
    (WatchConfig::SECTION, WatchConfig::KEYS),
    (DocumentsConfig::SECTION, DocumentsConfig::KEYS),
    (ClockConfig::SECTION, ClockConfig::KEYS),
    (RuntimeConfig::SECTION, RuntimeConfig::KEYS),
    (LogConfig::SECTION, LogConfig::KEYS),
];

/// Sections whose tables are named by the operator, and the keys within each.
const NAMED: [(&str, &[&str]); 3] = [("nodes", NODE_KEYS), ("remotes", REMOTE_KEYS), ("spaces", SPACE_KEYS)];

/// The merged tree, and which layer set each overridden key.
pub(super) struct Layers {
    pub(super) root: BTreeMap<String, Value>,
    pub(super) origins: BTreeMap<String, String>,
}

/// Every section's name.
pub(super) fn section_names() -> impl Iterator<Item = &'static str> {
    PLAIN.iter().chain(NAMED.iter()).map(|(name, _)| *name)
}

/// Parses the file and lays the variables and then the flags over it.
pub(super) fn merge(
    name: &str,
    text: &str,
    chosen: Option<&str>,
    variables: &[(String, String)],
    flags: &[(String, String)],
) -> Result<Layers, ConfigError> {
    let file = config::File::from_str(text, FileFormat::Toml);
    let tree = config::Config::builder().add_source(file.clone()).build().and_then(|c| c.collect());
    let tree =
        tree.map_err(|e| one(name, "", format!("this is not TOML: {e}"), "correct the line it names"))?;
    let named = Names::of(&tree);

    let mut builder = config::Config::builder().add_source(file);
    let mut origins = BTreeMap::new();
    let mut problems = Vec::new();
    let mut given: Vec<(String, Result<String, Problem>, &String)> = Vec::new();
    for (variable, value) in variables {
        // Letters of either case: some tools that set variables change it.
        let Some(rest) = variable.get(..PREFIX.len()).filter(|p| p.eq_ignore_ascii_case(PREFIX)) else {
            continue;
        };
        let parts: Vec<&str> = variable[rest.len()..].split("__").collect();
        given.push((format!("variable {variable}"), named.resolve(variable, &parts), value));
    }
    for (path, value) in flags {
        let parts: Vec<&str> = path.split('.').collect();
        let resolved = named.resolve_flag(path, &parts, chosen);
        given.push((format!("flag {path}"), resolved, value));
    }
    for (place, resolved, value) in given {
        match resolved {
            Err(problem) => problems.push(problem),
            Ok(path) => {
                // A later layer that gives the secret in one form replaces an earlier one that gave it in the other.
                if let Some(other) = other_secret(&path) {
                    builder = set(builder, &other, ValueKind::Nil, name)?;
                }
                builder = set(builder, &path, ValueKind::String(value.clone()), name)?;
                origins.insert(path, place);
            }
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let merged = builder.build().and_then(|c| c.collect());
    let merged = merged.map_err(|e| one(name, "", format!("the layers do not fit together: {e}"), ""))?;
    let mut root: BTreeMap<String, Value> = merged.into_iter().collect();
    for section in ["cluster", "spaces"] {
        drop_replaced(root.get_mut(section));
    }
    drop_unreachable_advertisements(&mut root, &origins);
    Ok(Layers { root, origins })
}

/// Takes out what was set to nothing because another form of it was given, in this table and those within it.
fn drop_replaced(section: Option<&mut Value>) {
    let Some(ValueKind::Table(table)) = section.map(|v| &mut v.kind) else { return };
    table.retain(|_, v| v.kind != ValueKind::Nil);
    table.values_mut().for_each(|v| drop_replaced(Some(v)));
}

/// A node that a variable or flag moves to loopback is not reachable at the address that the file advertises; unless
/// the advertised address is overridden too, the listening one takes its place. So a file for real machines runs on one
/// machine with its folders and ports overridden.
fn drop_unreachable_advertisements(root: &mut BTreeMap<String, Value>, origins: &BTreeMap<String, String>) {
    let Some(ValueKind::Table(nodes)) = root.get_mut("nodes").map(|v| &mut v.kind) else { return };
    for (name, node) in nodes {
        let ValueKind::Table(node) = &mut node.kind else { continue };
        for port in ["client", "peer"] {
            let (listen, advertise) = (format!("{port}_listen"), format!("{port}_advertise"));
            let overridden = |key: &str| origins.contains_key(&format!("nodes.{name}.{key}"));
            let on_loopback = match node.get(&listen).map(|v| &v.kind) {
                Some(ValueKind::String(address)) => {
                    split_address(address).is_ok_and(|(host, _)| is_loopback(host))
                }
                _ => false,
            };
            if on_loopback && overridden(&listen) && !overridden(&advertise) {
                node.remove(&advertise);
            }
        }
    }
}

type Builder = config::ConfigBuilder<config::builder::DefaultState>;

fn set(builder: Builder, path: &str, kind: ValueKind, file: &str) -> Result<Builder, ConfigError> {
    builder
        .set_override(path, kind)
        .map_err(|e| one(file, path, e.to_string(), "use letters, digits, - and _ in names"))
}

fn other_secret(path: &str) -> Option<String> {
    let secrets = ["secret", "read", "write"];
    let (section, key) = path.rsplit_once('.')?;
    if section != "cluster" && !section.starts_with("spaces.") {
        return None;
    }
    let other = match key.strip_suffix("_file") {
        Some(inline) if secrets.contains(&inline) => inline.to_owned(),
        None if secrets.contains(&key) => format!("{key}_file"),
        _ => return None,
    };
    Some(format!("{section}.{other}"))
}

fn one(place: &str, key: &str, wrong: impl Into<String>, right: impl Into<String>) -> ConfigError {
    let problem = Problem { place: place.into(), key: key.into(), wrong: wrong.into(), right: right.into() };
    ConfigError { problems: vec![problem] }
}

/// The tables of a section whose tables are named by the operator.
pub(super) fn tables(
    section: &str,
    value: Option<Value>,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, Value> {
    match value.map(|v| v.kind) {
        None => BTreeMap::new(),
        Some(ValueKind::Table(table)) => table.into_iter().collect(),
        Some(_) => {
            findings.add(section, "this is not a table", format!("write [{section}.NAME] tables"));
            BTreeMap::new()
        }
    }
}

/// The names of the `[nodes.NAME]` tables; none if the text is not TOML.
pub(super) fn node_names(text: &str) -> Vec<String> {
    let file = config::File::from_str(text, FileFormat::Toml);
    let tree = config::Config::builder().add_source(file).build().and_then(|c| c.collect());
    let mut names =
        tree.map(|tree| Names::of(&tree).tables.remove("nodes").unwrap_or_default()).unwrap_or_default();
    names.sort();
    names
}

/// The names that variables and flags may speak of: fixed ones, and those of the file's tables.
struct Names {
    tables: BTreeMap<&'static str, Vec<String>>,
}

impl Names {
    fn of(tree: &config::Map<String, Value>) -> Self {
        let mut tables = BTreeMap::new();
        for (section, _) in NAMED {
            let names = match tree.get(section).map(|v| &v.kind) {
                Some(ValueKind::Table(table)) => table.keys().cloned().collect(),
                _ => Vec::new(),
            };
            tables.insert(section, names);
        }
        Self { tables }
    }

    /// Finds the dotted path that the parts of an override mean.
    fn resolve(&self, place: &str, parts: &[&str]) -> Result<String, Problem> {
        let problem = |wrong: String, right: String| Problem {
            place: place.into(),
            key: parts.join(".").to_lowercase(),
            wrong,
            right,
        };
        let pick = |part: &str, valid: &[&str], what: &str| -> Result<String, Problem> {
            let mut found = valid.iter().filter(|name| loosely_equal(part, name));
            match (found.next(), found.next()) {
                (Some(name), None) => Ok((*name).to_string()),
                (Some(a), Some(b)) => Err(problem(
                    format!("{part:?} could be {a:?} or {b:?}"),
                    "rename one of the two tables".into(),
                )),
                (None, _) if valid.is_empty() => {
                    Err(problem(format!("the file has no {what}"), String::new()))
                }
                (None, _) => Err(problem(
                    format!("there is no {what} {:?}", part.to_lowercase()),
                    suggestion(part, valid),
                )),
            }
        };
        let sections: Vec<&str> = section_names().collect();
        let section = pick(parts.first().copied().unwrap_or_default(), &sections, "section")?;
        if let Some((_, keys)) = PLAIN.iter().find(|(name, _)| *name == section) {
            let [_, key] = parts else {
                return Err(problem(
                    "it is not SECTION and KEY".into(),
                    format!("write MERIDIAN__{}__KEY", section.to_uppercase()),
                ));
            };
            return Ok(format!("{section}.{}", pick(key, keys, "key")?));
        }
        let [_, table, key] = parts else {
            let right = format!("write MERIDIAN__{}__NAME__KEY", section.to_uppercase());
            return Err(problem("it is not SECTION, NAME and KEY".into(), right));
        };
        let names: Vec<&str> =
            self.tables.get(section.as_str()).into_iter().flatten().map(String::as_str).collect();
        let keys = NAMED.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, keys)| keys);
        let table = pick(table, &names, &format!("table [{section}.NAME] called"))?;
        if table.contains('.') {
            // In a path of settings the dot would divide the name.
            return Err(problem(
                format!("the table {table:?} has a dot in its name and cannot be overridden"),
                "write its settings into the file, or name files there".into(),
            ));
        }
        Ok(format!("{section}.{table}.{}", pick(key, keys, "key")?))
    }

    /// As [`Names::resolve`], where `node` stands for the table of the chosen node.
    fn resolve_flag(&self, place: &str, parts: &[&str], chosen: Option<&str>) -> Result<String, Problem> {
        let nodes = self.tables.get("nodes").map(Vec::as_slice).unwrap_or_default();
        let own = chosen.or(if let [only] = nodes { Some(only.as_str()) } else { None });
        match (parts, own) {
            (["node", key], Some(own)) => self.resolve(place, &["nodes", own, key]),
            (["node", _], None) => Err(Problem {
                place: place.into(),
                key: place.into(),
                wrong: "the file describes several nodes and none was chosen".into(),
                right: format!("pass --node with one of {}", nodes.join(", ")),
            }),
            _ => self.resolve(place, parts),
        }
    }
}

/// Whether a part of a variable's name means this key: case does not count, and `_` stands for `-` too.
fn loosely_equal(written: &str, name: &str) -> bool {
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    fold(written) == fold(name)
}
