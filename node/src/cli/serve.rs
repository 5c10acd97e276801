//! `serve` and `config check`: from a file to a running node, or to what is wrong with the file.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::ServeArgs;
use super::{complain, failure, out, processors, runtime};
use crate::access::SpaceTokens;
use crate::config::{Config, NODE_VARIABLE, node_names};
use crate::server::{self, ServeOptions};

/// The process' variables that are text; others cannot be ours.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// What the flags of `serve` override, as dotted paths.
fn overrides(args: &ServeArgs) -> Vec<(String, String)> {
    let mut overrides = args.set.clone();
    for (key, value) in [
        ("node.data_dir", &args.data_dir),
        ("node.client_listen", &args.client_listen),
        ("node.peer_listen", &args.peer_listen),
    ] {
        if let Some(value) = value {
            overrides.push((key.into(), value.clone()));
        }
    }
    overrides
}

/// Loads the configuration, starts the log, and runs the node until it is told to stop.
pub(super) fn serve(args: &ServeArgs, json: bool) -> ExitCode {
    let config = match Config::load(&args.config, args.node.as_deref(), variables(), &overrides(args)) {
        Ok(config) => config,
        Err(e) => return failure(json, &e.to_string()),
    };
    if let Err(wrong) = start_log(&config) {
        return failure(json, &wrong);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let threads = config.runtime.threads_on(processors());
    let runtime = match runtime(threads) {
        Ok(runtime) => runtime,
        Err(wrong) => return failure(json, &wrong),
    };
    match runtime.block_on(server::serve(config, ServeOptions { allow_faults: args.allow_faults })) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("the node stops: {e}");
            failure(json, &e.to_string())
        }
    }
}

/// Directs what the process writes about itself to standard error, as `[log]` says.
fn start_log(config: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .map_err(|e| format!("log.level: {:?} is not a level: {e}", config.log.level))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = if config.log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|e| format!("the log cannot be started: {e}"))
}

/// `config check`: every node of the file, or the one that is named.
pub(super) fn check(file: &Path, node: Option<&str>, json: bool) -> ExitCode {
    let named = node
        .map(str::to_string)
        .or_else(|| std::env::var(NODE_VARIABLE).ok().filter(|name| !name.is_empty()));
    let names: Vec<Option<String>> = match named {
        Some(name) => vec![Some(name)],
        None => match node_names(file) {
            // What is wrong with the file is said once, by loading it.
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        },
    };
    let mut configs = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for name in names {
        match Config::load(file, name.as_deref(), variables(), &[]) {
            Ok(config) => configs.push(config),
            Err(e) => {
                for problem in e.problems.iter().map(ToString::to_string) {
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
    }
    if !problems.is_empty() {
        if json {
            out(&json!({"valid": false, "problems": problems}).to_string());
            return ExitCode::from(1);
        }
        complain(&problems.join("\n"));
        return ExitCode::from(1);
    }
    if json {
        let nodes: Vec<_> = configs.iter().map(summary_json).collect();
        return out(&json!({"valid": true, "nodes": nodes}).to_string());
    }
    out(&configs.iter().map(summary).collect::<Vec<_>>().join("\n\n"))
}

fn summary_json(config: &Config) -> serde_json::Value {
    let tokens = |tokens: &SpaceTokens| json!({"read": tokens.read.len(), "write": tokens.write.len()});
    let spaces: serde_json::Map<_, _> =
        config.access.spaces.iter().map(|(space, all)| (space.clone(), tokens(all))).collect();
    json!({"cluster": config.cluster.name, "dc": config.dc, "node": config.node.name, "id": config.node.id,
           "data_dir": config.node.data_dir, "client_listen": config.node.client_listen,
           "peer_listen": config.node.peer_listen, "peers": config.peers, "clients": config.client_addrs,
           "remotes": config.remotes, "spaces": spaces, "warnings": config.warnings})
}

/// What a configuration amounts to, for people.
fn summary(config: &Config) -> String {
    let mut text = String::new();
    let node = &config.node;
    let secret = match (config.cluster.secret.is_empty(), config.cluster.insecure) {
        (false, _) => "with a secret",
        (true, true) => "WITHOUT a secret, insecure",
        (true, false) => "without a secret, on loopback only",
    };
    let lines = [
        format!(
            "node {} (id {}) of DC {} in cluster {}, {secret}",
            node.name, node.id, config.dc, config.cluster.name
        ),
        format!("  data      {}", node.data_dir.display()),
        format!("  clients   listens on {}, told as {}", node.client_listen, node.client_advertise),
        format!("  peers     listens on {}, dialled at {}", node.peer_listen, node.peer_advertise),
        format!("  this DC   {}", addresses(&config.peers)),
    ];
    for line in lines {
        // Writing into a string does not fail.
        writeln!(text, "{line}").ok();
    }
    for (dc, peers) in &config.remotes {
        writeln!(text, "  DC {dc}   {}", addresses(peers)).ok();
    }
    for (space, tokens) in &config.access.spaces {
        let (read, write) = (tokens.read.len(), tokens.write.len());
        writeln!(text, "  space {space}   {read} tokens to read, {write} to read and write").ok();
    }
    for (section, settings) in config.show_settings() {
        let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        writeln!(text, "  [{section}] {}", settings.join(", ")).ok();
    }
    for warning in &config.warnings {
        writeln!(text, "  WARNING: {warning}").ok();
    }
    text.truncate(text.trim_end().len());
    text
}

fn addresses(peers: &std::collections::BTreeMap<u64, String>) -> String {
    peers.iter().map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(", ")
}
