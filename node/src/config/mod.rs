//! The configuration of a node: a TOML file, overridden by variables, overridden by flags, checked as a whole.
//!
//! It exists so that a mistake is found before anything starts, with a message that says what would be right. It reads
//! the configuration file and the secret's file and nothing else; what a setting does is not its business.

mod access;
mod error;
mod layers;
mod reader;
mod settings;
mod topology;
mod units;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::{ConfigError, Problem, nearest};
pub use reader::Setting;
pub use settings::{
    ClockConfig, DocumentsConfig, Fanout, GossipConfig, LimitsConfig, LogConfig, RaftConfig, RuntimeConfig,
    SessionsConfig, StorageConfig, TransactionsConfig, WatchConfig,
};
pub use topology::{ClusterConfig, NodeConfig, split_address};
pub use units::{ByteSize, format_duration, parse_duration};

use crate::access::Access;
use reader::{Findings, Reader};

/// The variable that chooses the node when a file describes several.
pub const NODE_VARIABLE: &str = "MERIDIAN_NODE";

/// Everything a node needs to know before it starts; checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What all DCs have in common.
    pub cluster: ClusterConfig,
    /// The name of this DC.
    pub dc: String,
    /// The node that this process is.
    pub node: NodeConfig,
    /// The advertised peer address of every node of this DC by id, this one included.
    pub peers: BTreeMap<u64, String>,
    /// The advertised client address of every node of this DC by id, this one included.
    pub client_addrs: BTreeMap<u64, String>,
    /// The peer addresses of every other DC, by its name and the node's id there.
    pub remotes: BTreeMap<String, BTreeMap<u64, String>>,
    /// Which spaces take only who shows an access token, from `[spaces.NAME]`.
    pub access: Access,
    /// How the nodes of this DC agree.
    pub raft: RaftConfig,
    /// The files of this node.
    pub storage: StorageConfig,
    /// The exchange with the other DCs.
    pub gossip: GossipConfig,
    /// What a request may cost.
    pub limits: LimitsConfig,
    /// Tokens, waiting and request ids.
    pub sessions: SessionsConfig,
    /// Interactive transactions.
    pub transactions: TransactionsConfig,
    /// Streams of changes.
    pub watch: WatchConfig,
    /// Versions of documents.
    pub documents: DocumentsConfig,
    /// How far clocks are trusted.
    pub clock: ClockConfig,
    /// The threads of the node.
    pub runtime: RuntimeConfig,
    /// What the process writes about itself.
    pub log: LogConfig,
    /// What is allowed but should not stay so; said at start and by `config check`.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads `file`, lets `MERIDIAN__SECTION__KEY` variables of `env` and then `overrides` (dotted path, value; `node.`
    /// stands for the table of the chosen node) replace what it says, and checks the whole.
    ///
    /// `node` chooses this process' node when the file describes several; without it `MERIDIAN_NODE` does.
    ///
    /// # Errors
    /// Everything that is wrong, at once. Nothing was changed.
    pub fn load(
        file: &Path,
        node: Option<&str>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|e| ConfigError {
            problems: vec![Problem {
                place: name.clone(),
                key: String::new(),
                wrong: format!("the file cannot be read: {e}"),
                right: "see configs/ for files to start from".into(),
            }],
        })?;
        Self::parse(&name, &text, node, env, overrides)
    }

    /// As [`Config::load`], for a file that has been read already and is called `name` in messages.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn parse(
        name: &str,
        text: &str,
        node: Option<&str>,
        env: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let variables: Vec<(String, String)> = env.collect();
        let from_variable = variables.iter().find(|(key, value)| key == NODE_VARIABLE && !value.is_empty());
        let chosen = node.or(from_variable.map(|(_, value)| value.as_str()));
        let layers = layers::merge(name, text, chosen, &variables, overrides)?;
        let mut findings = Findings::new(name, &layers.origins);
        let config = Self::read(layers.root.clone(), chosen, &mut findings);
        let problems = findings.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }

    /// The effective settings of every subsystem, section by section, as they would stand in a file.
    pub fn show_settings(&self) -> Vec<(&'static str, BTreeMap<&'static str, String>)> {
        vec![
            (RaftConfig::SECTION, self.raft.show()),
            (StorageConfig::SECTION, self.storage.show()),
            (GossipConfig::SECTION, self.gossip.show()),
            (LimitsConfig::SECTION, self.limits.show()),
            (SessionsConfig::SECTION, self.sessions.show()),
            (TransactionsConfig::SECTION, self.transactions.show()),
            (WatchConfig::SECTION, self.watch.show()),
            (DocumentsConfig::SECTION, self.documents.show()),
            (ClockConfig::SECTION, self.clock.show()),
            (RuntimeConfig::SECTION, self.runtime.show()),
            (LogConfig::SECTION, self.log.show()),
        ]
    }

    /// Reads every section; `None` only if a finding says why.
    fn read(
        mut root: BTreeMap<String, config::Value>,
        chosen: Option<&str>,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        /// Reads one section of settings and refuses its unknown keys.
        macro_rules! settings {
            ($type:ty) => {{
                let mut reader = Reader::open(<$type>::SECTION, root.remove(<$type>::SECTION), findings);
                let section = <$type>::read(&mut reader);
                reader.close(<$type>::KEYS);
                section
            }};
        }
        let raft = settings!(RaftConfig);
        let storage = settings!(StorageConfig);
        let gossip = settings!(GossipConfig);
        let limits = settings!(LimitsConfig);
        let sessions = settings!(SessionsConfig);
        let transactions = settings!(TransactionsConfig);
        let watch = settings!(WatchConfig);
        let documents = settings!(DocumentsConfig);
        let clock = settings!(ClockConfig);
        let runtime = settings!(RuntimeConfig);
        let log = settings!(LogConfig);
        settings::check_pairs(&raft, &gossip, &limits, &sessions, findings);

        let mut warnings = Vec::new();
        let cluster = topology::read_cluster(root.remove("cluster"), &mut warnings, findings);
        let dc = topology::read_dc(root.remove("dc"), findings);
        let nodes = layers::tables("nodes", root.remove("nodes"), findings);
        let remotes = layers::tables("remotes", root.remove("remotes"), findings);
        let remotes = topology::read_remotes(remotes, &dc, findings);
        let spaces = layers::tables("spaces", root.remove("spaces"), findings);
        let access = access::read_spaces(spaces, &mut warnings, findings);
        for key in root.keys() {
            findings.unknown(key, key, layers::section_names());
        }
        let own = topology::read_nodes(nodes, chosen, findings)?;
        topology::check_exposure(&cluster, &own.node, findings);
        Some(Self {
            cluster,
            dc,
            node: own.node,
            peers: own.peers,
            client_addrs: own.client_addrs,
            remotes,
            access,
            raft,
            storage,
            gossip,
            limits,
            sessions,
            transactions,
            watch,
            documents,
            clock,
            runtime,
            log,
            warnings,
        })
    }
}

/// The names of the nodes that a file describes; none if it cannot be read, which loading it will explain.
pub fn node_names(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    layers::node_names(&text)
}

#[cfg(test)]
mod tests;
