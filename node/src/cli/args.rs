//! What can be typed: the commands, their options and their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meridian_client::wire::AccessToken;

use crate::config::{parse_duration, split_address};

/// An active-active, geo-replicated store with CRDT types and causal sessions.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// Options of every command that asks a server.
    #[command(flatten)]
    pub client: ClientOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command that asks a server.
#[derive(Args, Clone, Debug)]
pub struct ClientOptions {
    /// A node's client address; repeat it to name others to ask when one cannot be reached [default: MERIDIAN_SERVER,
    /// else the first node of ./meridian-dev/cluster.json, else 127.0.0.1:7400]
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse_address)]
    pub server: Vec<String>,
    /// The space that keys are in
    #[arg(long, global = true, default_value = "default")]
    pub space: String,
    /// Keeps the session token in this file, so that the next command sees what this one wrote and read
    #[arg(long, global = true, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// The access token of the space; better given as the variable, since others may see what is typed
    #[arg(long, global = true, value_name = "TOKEN", env = "MERIDIAN_TOKEN", hide_env_values = true)]
    pub token: Option<AccessToken>,
    /// `eventual`, `session` or `linearizable`
    #[arg(long, global = true, value_name = "LEVEL")]
    pub consistency: Option<String>,
    /// How long the server may wait to catch up with the session, such as 500ms
    #[arg(long, global = true, value_name = "DURATION")]
    pub wait: Option<String>,
    /// Who must hold a write before it is answered: `local`, `dcs:2` or `all`
    #[arg(long, global = true, value_name = "LEVEL")]
    pub commit: Option<String>,
    /// Names the request, so that repeating it within the DC does it once [default: a random one]
    #[arg(long, global = true, value_name = "ID")]
    pub request_id: Option<String>,
    /// How long one server may take to answer
    #[arg(long, global = true, default_value = "35s", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Prints JSON instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a node until it is told to stop
    Serve(ServeArgs),
    /// Looks at configuration files
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// What asks a server, or runs several.
    #[command(flatten)]
    Task(Task),
}

/// What asks a server, or runs several.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Runs a whole geo-cluster on this machine, or controls the one that runs
    Dev(DevArgs),
    /// Last-writer-wins registers: set KEY VALUE, clear KEY, delete KEY
    Register(Mutate),
    /// Registers that keep concurrent values: set KEY VALUE, clear KEY, delete KEY
    Mvregister(Mutate),
    /// Counters: add KEY N, reset KEY, delete KEY
    Counter(Mutate),
    /// Flags where enabling wins: enable KEY, disable KEY, delete KEY
    Flag(Mutate),
    /// Flags where disabling wins: enable KEY, disable KEY, delete KEY
    Dwflag(Mutate),
    /// Sets where adding wins: add KEY ELEMENT.., remove KEY ELEMENT.., clear KEY, delete KEY
    Set(Mutate),
    /// Sets where removing wins: add KEY ELEMENT.., remove KEY ELEMENT.., clear KEY, delete KEY
    Rwset(Mutate),
    /// Maps: update KEY FIELD TYPE OP [ARG..], remove KEY FIELD, clear KEY, delete KEY
    Map(Mutate),
    /// Reads a key
    Get {
        /// The key.
        key: String,
        /// Asks only whether a set holds this element (JSON, else plain text)
        #[arg(long, allow_hyphen_values = true)]
        element: Option<String>,
        /// Most elements of a collection to read
        #[arg(long)]
        limit: Option<u64>,
        /// Where the last page ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Deletes a key of any type
    Delete {
        /// The key.
        key: String,
    },
    /// Lists keys in byte order
    List {
        /// Only keys that start with this
        #[arg(default_value = "")]
        prefix: String,
        /// Most keys to list
        #[arg(long)]
        limit: Option<u64>,
        /// Where the last page ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows which concurrent writes a key is made of, and which of them are visible
    Explain {
        /// The key.
        key: String,
    },
    /// Commits several mutations at once: {"if":[..],"ops":[..]} from a file, or from standard input as `-`
    Txn {
        /// The file, or `-`.
        file: PathBuf,
    },
    /// Shows nodes, leaders, links and lag
    Status,
    /// Measures how fast servers answer
    Bench(BenchArgs),
}

/// A mutation of one type.
#[derive(Args, Debug)]
pub struct Mutate {
    /// The operation
    pub op: String,
    /// The key
    pub key: String,
    /// Its arguments: JSON, else plain text
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
}

/// `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of the file's nodes this is [default: MERIDIAN_NODE, else the only one]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Serves /v1/faults/*, by which anybody can disturb the node; for tests
    #[arg(long)]
    pub allow_faults: bool,
    /// Overrides the node's data_dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Overrides the node's client_listen
    #[arg(long, value_name = "HOST:PORT")]
    pub client_listen: Option<String>,
    /// Overrides the node's peer_listen
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Overrides any setting, as in raft.heartbeat=200ms; repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Says what a file amounts to, or everything that is wrong with it
    Check {
        /// The configuration file
        file: PathBuf,
        /// Which of the file's nodes; without it, and with several, each is checked
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
}

/// `dev`.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// How many DCs: eu-west, us-east, ap-south, then dc4 ... [default: 3, or what the folder holds]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub dcs: Option<u64>,
    /// How many nodes each DC has: 1, 3 or 5 [default: 3, or what the folder holds]
    #[arg(long)]
    pub nodes: Option<u64>,
    /// The one-way delay between DCs
    #[arg(long, default_value = "80ms", value_name = "DURATION", value_parser = parse_duration)]
    pub wan_latency: Duration,
    /// The folder of the cluster
    #[arg(long, global = true, default_value = "./meridian-dev", value_name = "DIR")]
    pub data: PathBuf,
    /// Controls the cluster that runs in the folder
    #[command(subcommand)]
    pub control: Option<DevCommand>,
}

/// Controls a running `dev` from another terminal.
#[derive(Clone, Debug, Subcommand)]
pub enum DevCommand {
    /// Stops the bytes between two DCs, both ways; nothing is reset
    Cut {
        /// One DC
        a: String,
        /// The other
        b: String,
    },
    /// Lets the bytes pass again between two DCs; without names between all
    Heal {
        /// One DC
        #[arg(requires = "b")]
        a: Option<String>,
        /// The other
        b: Option<String>,
    },
    /// Kills a node with SIGKILL; it stays dead
    Kill {
        /// The node, as in eu-west/1
        node: String,
    },
    /// Stops a node if it runs, and starts it with its ports and data
    Restart {
        /// The node, as in eu-west/1
        node: String,
    },
    /// Moves a node's clock
    Clock {
        /// The node, as in eu-west/1
        node: String,
        /// By how much from the true time, as in +1h, -500ms, or +0s to repair it
        #[arg(allow_hyphen_values = true)]
        offset: String,
    },
}

/// `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What the clients do
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub workload: Workload,
    /// How many clients ask at the same time, each waiting for its answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub value_size: u64,
    /// How many keys the clients spread over
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// How the clients speak
    #[arg(long, value_enum, default_value_t = Transport::Http)]
    pub transport: Transport,
    /// How many requests each client has in flight, with --transport native
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=200))]
    pub pipeline: u64,
    /// Further servers, so that `--server a b c` works
    #[arg(hide = true, value_name = "HOST:PORT", value_parser = parse_address)]
    pub more_servers: Vec<String>,
}

/// What a benchmark's clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Sets registers.
    Put,
    /// Adds to counters.
    Counter,
    /// Reads keys.
    Get,
    /// Nine reads, then one set.
    Mix,
}

impl Workload {
    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Counter => "counter",
            Self::Get => "get",
            Self::Mix => "mix",
        }
    }
}

/// How a benchmark's clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// HTTP/1.1, one connection per client.
    Http,
    /// The session WebSocket.
    Native,
}

/// An address that can be dialled, whether anybody is there or not.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let address = text.trim();
    match split_address(address) {
        Ok(_) => Ok(address.to_string()),
        Err(wrong) => Err(format!("{wrong}; write HOST:PORT, such as 127.0.0.1:7400")),
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write SECTION.KEY=VALUE")?;
    Ok((key.trim().to_string(), value.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for words in [
            ["meridian", "--server", "a:1", "--json", "counter", "add", "visits", "-5"],
            ["meridian", "counter", "add", "visits", "-5", "--server", "a:1", "--json"],
        ] {
            let cli = Cli::try_parse_from(words).expect("parsed");
            assert_eq!((cli.client.server, cli.client.json), (vec!["a:1".to_string()], true));
            let Command::Task(Task::Counter(mutate)) = cli.command else { panic!("not a counter") };
            assert_eq!(mutate.args, ["-5"]);
        }
    }

    #[test]
    fn dev_takes_its_folder_before_or_after_the_control_command() {
        for words in [
            ["meridian", "dev", "--data", "/d", "clock", "eu-west/1", "-1h"],
            ["meridian", "dev", "clock", "eu-west/1", "-1h", "--data", "/d"],
        ] {
            let cli = Cli::try_parse_from(words).expect("parsed");
            let Command::Task(Task::Dev(dev)) = cli.command else { panic!("not dev") };
            assert_eq!(dev.data, PathBuf::from("/d"));
            assert!(matches!(dev.control, Some(DevCommand::Clock { offset, .. }) if offset == "-1h"));
        }
    }

    #[test]
    fn bench_takes_several_servers_behind_one_option() {
        let words = ["meridian", "bench", "--server", "a:1", "b:2", "--workload", "mix", "--clients", "3"];
        let cli = Cli::try_parse_from(words).expect("parsed");
        assert_eq!(cli.client.server, ["a:1"]);
        let Command::Task(Task::Bench(bench)) = cli.command else { panic!("not bench") };
        assert_eq!((bench.more_servers, bench.workload), (vec!["b:2".to_string()], Workload::Mix));
    }

    /// Story: `bench load` took the stray word for one more server, and half of all operations failed.
    #[test]
    fn what_is_no_address_is_refused_before_anything_is_asked() {
        for words in [
            &["meridian", "bench", "load"][..],
            &["meridian", "bench", "--server", "a:1", "b"],
            &["meridian", "get", "k", "--server", "localhost"],
            &["meridian", "get", "k", "--server", "http://localhost:7400"],
            &["meridian", "get", "k", "--server", ":7400"],
        ] {
            let error = Cli::try_parse_from(words).expect_err("refused").to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
        for server in ["localhost:7400", "10.0.0.1:7400", "[::1]:7400"] {
            let cli = Cli::try_parse_from(["meridian", "--server", server, "get", "k"]).expect("parsed");
            assert_eq!(cli.client.server, [server]);
        }
    }
}
