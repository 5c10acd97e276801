//! How files, variables and flags become a configuration, and how mistakes are answered.

use std::time::Duration;

use super::*;
use crate::access::{Right, Shown};

const THREE: &str = r#"
[cluster]
name = "shop"
secret = "0123456789abcdef0123"
[dc]
name = "eu-west"
[nodes.eu-west-1]
id = 1
data_dir = "/data/1"
client_listen = "127.0.0.1:7401"
peer_listen = "0.0.0.0:7501"
peer_advertise = "eu-west-1.example.net:7501"
[nodes.eu-west-2]
id = 2
data_dir = "/data/2"
client_listen = "127.0.0.1:7402"
peer_listen = "127.0.0.1:7502"
[nodes.eu-west-3]
id = 3
data_dir = "/data/3"
client_listen = "127.0.0.1:7403"
peer_listen = "127.0.0.1:7503"
[remotes.us-east]
peers = "1=us-1:7500, 2=us-2:7500,3=us-3:7500"
[raft]
heartbeat = "100ms"
"#;

const ONE: &str = r#"
cluster = { name = "solo" }
dc = { name = "home" }
[nodes.n1]
id = 1
data_dir = "data"
"#;

fn parse(
    text: &str,
    node: Option<&str>,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, String> {
    let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    let flags: Vec<(String, String)> = flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Config::parse("test.toml", text, node, env, &flags).map_err(|e| e.to_string())
}

#[test]
fn a_file_per_dc_gives_the_chosen_node_and_the_addresses_of_all() {
    let config = parse(THREE, Some("eu-west-1"), &[], &[]).expect("valid");
    assert_eq!((config.dc.as_str(), config.node.id, config.node.name.as_str()), ("eu-west", 1, "eu-west-1"));
    assert_eq!(config.peers[&1], "eu-west-1.example.net:7501");
    assert_eq!(config.peers[&3], "127.0.0.1:7503");
    assert_eq!(config.client_addrs[&2], "127.0.0.1:7402");
    assert_eq!(config.remotes["us-east"][&2], "us-2:7500");
    assert_eq!(config.raft.heartbeat, Duration::from_millis(100));
    assert_eq!(config.raft.election_min, RaftConfig::default().election_min);
    assert_eq!(config.cluster.secret, b"0123456789abcdef0123");
}

#[test]
fn a_file_with_one_node_needs_no_choice_and_every_default_is_valid() {
    let config = parse(ONE, None, &[], &[]).expect("valid");
    assert_eq!(config.node.client_listen, "127.0.0.1:7400");
    assert_eq!(config.peers[&1], "127.0.0.1:7500");
    assert!(config.remotes.is_empty() && config.warnings.is_empty());
}

#[test]
fn flags_override_variables_which_override_the_file() {
    let variable = ("MERIDIAN__RAFT__HEARTBEAT", "120ms");
    let config = parse(THREE, Some("eu-west-2"), &[variable], &[]).expect("valid");
    assert_eq!(config.raft.heartbeat, Duration::from_millis(120));
    let flags = [("raft.heartbeat", "130ms"), ("node.data_dir", "/elsewhere")];
    let config = parse(THREE, Some("eu-west-2"), &[variable], &flags).expect("valid");
    assert_eq!(config.raft.heartbeat, Duration::from_millis(130));
    assert_eq!(config.node.data_dir, Path::new("/elsewhere"));
}

#[test]
fn variables_reach_tables_with_dashes_in_their_names() {
    let env = [
        ("MERIDIAN_NODE", "eu-west-3"),
        ("MERIDIAN__NODES__EU_WEST_3__CLIENT_LISTEN", "127.0.0.1:9000"),
        ("meridian__remotes__us_east__peers", "7=elsewhere:1"),
        ("MERIDIAN__LIMITS__CONNECTIONS_MAX", "12"),
        ("MERIDIAN__CLUSTER__INSECURE", "true"),
        ("MERIDIAN_SERVER", "is not ours"),
        ("HOME", "/root"),
    ];
    let config = parse(THREE, None, &env, &[]).expect("valid");
    assert_eq!(config.node.client_listen, "127.0.0.1:9000");
    assert_eq!(config.client_addrs[&3], "127.0.0.1:9000");
    assert_eq!(config.remotes["us-east"], BTreeMap::from([(7, "elsewhere:1".to_string())]));
    assert_eq!(config.limits.connections_max, 12);
    assert!(config.cluster.insecure);
}

#[test]
fn a_node_moved_to_loopback_by_a_variable_is_advertised_there() {
    let listen = ("MERIDIAN__NODES__EU_WEST_1__PEER_LISTEN", "127.0.0.1:9001");
    let config = parse(THREE, Some("eu-west-2"), &[listen], &[]).expect("valid");
    assert_eq!(config.peers[&1], "127.0.0.1:9001");
    let advertise = ("MERIDIAN__NODES__EU_WEST_1__PEER_ADVERTISE", "tunnel:1");
    let config = parse(THREE, Some("eu-west-2"), &[listen, advertise], &[]).expect("valid");
    assert_eq!(config.peers[&1], "tunnel:1");
    let elsewhere = ("MERIDIAN__NODES__EU_WEST_1__PEER_LISTEN", "10.0.0.1:9001");
    let config = parse(THREE, Some("eu-west-2"), &[elsewhere], &[]).expect("valid");
    assert_eq!(config.peers[&1], "eu-west-1.example.net:7501");
}

#[test]
fn the_flag_for_the_node_wins_over_the_variable() {
    let config = parse(THREE, Some("eu-west-1"), &[("MERIDIAN_NODE", "eu-west-2")], &[]).expect("valid");
    assert_eq!(config.node.id, 1);
}

#[test]
fn an_unknown_key_names_the_nearest_valid_one_wherever_it_stands() {
    let file =
        parse(&format!("{ONE}\n[raft]\nhartbeat = \"1s\"\n[gosip]\n"), None, &[], &[]).expect_err("typos");
    assert!(
        file.contains("test.toml: raft.hartbeat: there is no such key; did you mean \"heartbeat\"?"),
        "{file}"
    );
    assert!(file.contains("gosip") && file.contains("did you mean \"gossip\"?"), "{file}");
    let variable = parse(ONE, None, &[("MERIDIAN__LIMITS__BODYMAX", "1MiB")], &[]).expect_err("typo");
    assert!(
        variable.contains("MERIDIAN__LIMITS__BODYMAX") && variable.contains("\"body_max\""),
        "{variable}"
    );
    let node =
        parse(THREE, Some("eu-west-1"), &[("MERIDIAN__NODES__EU_WEST_9__ID", "4")], &[]).expect_err("typo");
    assert!(node.contains("\"eu-west-"), "{node}");
    let flag = parse(ONE, None, &[], &[("node.data_dri", "x")]).expect_err("typo");
    assert!(flag.contains("\"data_dir\""), "{flag}");
    let chosen = parse(THREE, Some("eu-wset-1"), &[], &[]).expect_err("typo");
    assert!(chosen.contains("did you mean \"eu-west-1\"?"), "{chosen}");
}

#[test]
fn all_mistakes_are_told_at_once_with_what_would_be_right() {
    let text = format!(
        "{ONE}\n[raft]\nheartbeat = 5\nelection_min = \"20ms\"\n[limits]\nbody_max = \"1EB\"\nconnections_max = -1\n"
    );
    let all = parse(&text, None, &[], &[]).expect_err("four mistakes");
    for part in [
        "raft.heartbeat: the number 5 is not a duration; write a duration such as \"250ms\"",
        "raft.election_min: \"20ms\" is out of range; it must be from \"50ms\" to \"1m\" (default \"600ms\")",
        "limits.body_max: \"1EB\" has the unknown unit \"EB\"",
        "limits.connections_max: -1 is negative",
    ] {
        assert!(all.contains(part), "{part} is not in:\n{all}");
    }
}

#[test]
fn a_problem_names_the_variable_that_caused_it() {
    let message =
        parse(ONE, None, &[("MERIDIAN__RAFT__HEARTBEAT", "soon")], &[]).expect_err("not a duration");
    assert!(message.starts_with("variable MERIDIAN__RAFT__HEARTBEAT: raft.heartbeat:"), "{message}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let message = parse(ONE, None, &[("MERIDIAN__RAFT__HEARTBEAT", "400ms")], &[]).expect_err("3 heartbeats");
    assert!(message.contains("raft.election_min") && message.contains("3 heartbeats"), "{message}");
    let message =
        parse(ONE, None, &[], &[("limits.txn_bytes_max", "512KiB")]).expect_err("larger than a txn");
    assert!(message.contains("must fit into a txn"), "{message}");
}

#[test]
fn a_dc_has_one_three_or_five_nodes_with_ids_of_their_own() {
    let two = format!(
        "{ONE}\n[nodes.n2]\nid = 1\nclient_listen = \"127.0.0.1:1\"\npeer_listen = \"127.0.0.1:2\"\n"
    );
    let message = parse(&two, Some("n1"), &[], &[]).expect_err("two nodes");
    assert!(message.contains("the DC has 2 nodes; a DC has 1, 3 or 5"), "{message}");
    assert!(message.contains("n1 has the id 1 too"), "{message}");
    let message = parse(&ONE.replace("id = 1", "id = 0"), None, &[], &[]).expect_err("0");
    assert!(message.contains("0 is not a node id"), "{message}");
    let message = parse(&ONE.replace("id = 1", ""), None, &[], &[]).expect_err("none");
    assert!(message.contains("nodes.n1.id: it is missing"), "{message}");
}

#[test]
fn listening_beyond_loopback_without_a_secret_is_refused_unless_it_is_called_insecure() {
    let flags = [("node.peer_listen", "0.0.0.0:7500"), ("node.peer_advertise", "10.0.0.1:7500")];
    let message = parse(ONE, None, &[], &flags).expect_err("open to all");
    assert!(message.contains("beyond loopback") && message.contains("cluster.insecure = true"), "{message}");
    assert!(parse(ONE, None, &[("MERIDIAN__CLUSTER__INSECURE", "true")], &flags).is_ok());
    assert!(parse(ONE, None, &[("MERIDIAN__CLUSTER__SECRET", "0123456789abcdef")], &flags).is_ok());
    let local = [("node.peer_listen", "localhost:7500"), ("node.client_listen", "[::1]:7400")];
    assert!(parse(ONE, None, &[], &local).is_ok());
}

#[test]
fn a_wildcard_needs_an_address_that_others_can_use() {
    let message =
        parse(&THREE.replace("peer_advertise", "#"), Some("eu-west-2"), &[], &[]).expect_err("wildcard");
    assert!(message.contains("give peer_advertise"), "{message}");
}

#[test]
fn a_secret_comes_from_a_file_and_a_variable_replaces_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    std::fs::write(&path, "abcdefghijklmnopqrstuvwxyz\n").expect("written");
    let file = path.display().to_string();
    let config = parse(ONE, None, &[], &[("cluster.secret_file", &file)]).expect("valid");
    assert_eq!(config.cluster.secret, b"abcdefghijklmnopqrstuvwxyz");
    let text = ONE.replace("name = \"solo\"", &format!("name = \"solo\", secret_file = {file:?}"));
    let config =
        parse(&text, None, &[("MERIDIAN__CLUSTER__SECRET", "0123456789abcdef")], &[]).expect("valid");
    assert_eq!(config.cluster.secret, b"0123456789abcdef");
    let gone = parse(ONE, None, &[], &[("cluster.secret_file", "/nonexistent/secret")]).expect_err("absent");
    assert!(gone.contains("cannot be read"), "{gone}");
    let short = parse(ONE, None, &[("MERIDIAN__CLUSTER__SECRET", "short")], &[]).expect_err("short");
    assert!(short.contains("at least 16"), "{short}");
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "a secret must not be printed");
}

#[test]
fn bad_addresses_and_peers_are_refused() {
    for bad in ["127.0.0.1", "127.0.0.1:70000", ":7400", "a b:1", "[::g]:1", "::1:7400"] {
        assert!(parse(ONE, None, &[], &[("node.client_listen", bad)]).is_err(), "{bad}");
    }
    for bad in ["", "1:host:1", "0=h:1", "1=h:1,1=i:1", "1=h:1,2=h:2", "x=h:1", "1=0.0.0.0:7500"] {
        let text = format!("{ONE}\n[remotes.us]\npeers = {bad:?}\n");
        assert!(parse(&text, None, &[], &[]).is_err(), "{bad}");
    }
    let own = format!("{ONE}\n[remotes.home]\npeers = \"1=h:1\"\n");
    assert!(parse(&own, None, &[], &[]).expect_err("itself").contains("the DC itself"));
}

#[test]
fn text_that_is_not_toml_and_a_file_that_is_absent_are_told_apart() {
    assert!(parse("[cluster\n", None, &[], &[]).expect_err("broken").contains("this is not TOML"));
    let absent =
        Config::load(Path::new("/nonexistent.toml"), None, std::iter::empty(), &[]).expect_err("absent");
    assert!(absent.to_string().contains("/nonexistent.toml: the file cannot be read"), "{absent}");
}

const SPACES: &str = "[spaces.shop]\nread = [\"reader-one-of-shop\", \"reader-two-of-shop\"]\n\
                      [spaces.\"a.B\"]\nwrite = \"writer-one-of-ab, writer-two-of-ab\"\n";

fn right(config: &Config, space: &str, token: &str) -> Option<Right> {
    config.access.right(space, &Shown::of([token])).ok()
}

#[test]
fn spaces_have_tokens_from_the_file_from_other_files_and_from_variables() {
    let text = format!("{ONE}{SPACES}");
    let config = parse(&text, None, &[], &[]).expect("valid");
    assert_eq!(right(&config, "shop", "reader-two-of-shop"), Some(Right::Read));
    assert_eq!(right(&config, "a.B", "writer-two-of-ab"), Some(Right::Write));
    assert_eq!(right(&config, "shop", "writer-two-of-ab"), None);
    assert_eq!(right(&config, "elsewhere", ""), Some(Right::Write), "open");
    // A variable replaces what the file says of the same right, and leaves the rest.
    let env = [
        ("MERIDIAN__SPACES__SHOP__READ", "reader-of-a-variable"),
        ("MERIDIAN__SPACES__SHOP__WRITE", "w-of-a-variable-0, w-of-a-variable-1"),
    ];
    let config = parse(&text, None, &env, &[]).expect("valid");
    assert_eq!(right(&config, "shop", "reader-two-of-shop"), None);
    assert_eq!(right(&config, "shop", "reader-of-a-variable"), Some(Right::Read));
    assert_eq!(right(&config, "shop", "w-of-a-variable-1"), Some(Right::Write));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    std::fs::write(&path, "# of the reader\nreader-of-a-file-0\n\n  reader-of-a-file-1  \n")
        .expect("written");
    let file = path.display().to_string();
    let config = parse(&text, None, &[], &[("spaces.shop.read_file", &file)]).expect("valid");
    for token in ["reader-of-a-file-0", "reader-of-a-file-1"] {
        assert_eq!(right(&config, "shop", token), Some(Right::Read));
    }
    assert_eq!(right(&config, "shop", "reader-two-of-shop"), None, "the flag gives it in another form");
}

#[test]
fn tokens_are_never_repeated_and_a_closed_space_does_not_come_open() {
    let wrong = |toml: &str| parse(&format!("{ONE}{toml}"), None, &[], &[]).expect_err("wrong");
    for (toml, told) in [
        ("[spaces.shop]\n", "spaces.shop: the space has no tokens"),
        ("[spaces.shop]\nread = \"\"\n", "spaces.shop.read: it holds no token"),
        ("[spaces.shop]\nread = \"s3cret\"\n", "a token has 6 bytes, and at least 16"),
        ("[spaces.shop]\nread = \"s3cret with spaces in it\"\n", "an access token is 1 to 512 of"),
        ("[spaces.shop]\nread = 5331234567890123456\n", "neither text nor a list"),
        ("[spaces.shop]\nread = [[\"s3cret-s3cret-s3cret\"]]\n", "neither text nor a list"),
        (
            "[spaces.shop]\nread = \"s3cret-s3cret-s3cret\"\nwrite = \"s3cret-s3cret-s3cret\"\n",
            "under read and under write",
        ),
        ("[spaces.shop]\nread = \"s3cret-s3cret-s3cret\"\nread_file = \"/x\"\n", "both read and read_file"),
        ("[spaces.shop]\nread_file = \"/nonexistent/tokens\"\n", "/nonexistent/tokens cannot be read"),
        ("[spaces.\"a b\"]\nread = \"s3cret-s3cret-s3cret\"\n", "this is not the name of a space"),
        ("[spaces.shop]\nreader = \"s3cret-s3cret-s3cret\"\n", "did you mean \"read\"?"),
    ] {
        let message = wrong(toml);
        assert!(message.contains(told), "{told} is not in {message}");
        assert!(!message.contains("s3cret") && !message.contains("533123"), "{message}");
    }
    let dotted = ("MERIDIAN__SPACES__A.B__WRITE", "writer-of-a-variable");
    let message = parse(&format!("{ONE}{SPACES}"), None, &[dotted], &[]).expect_err("a dot");
    assert!(message.contains("cannot be overridden") && !message.contains("writer-of"), "{message}");
    let absent = ("MERIDIAN__SPACES__BANK__WRITE", "writer-of-a-variable");
    let message = parse(&format!("{ONE}{SPACES}"), None, &[absent], &[]).expect_err("no such table");
    assert!(message.contains("bank") && !message.contains("writer-of"), "{message}");
    let shown = format!("{:?}", parse(&format!("{ONE}{SPACES}"), None, &[], &[]).expect("valid"));
    assert!(!shown.contains("of-shop") && !shown.contains("of-ab"), "{shown}");
    let placeholder = "[spaces.shop]\nwrite = \"change-me-change-me\"\n";
    let config = parse(&format!("{ONE}{placeholder}"), None, &[], &[]).expect("valid");
    assert!(config.warnings.iter().any(|warning| warning.contains("spaces.shop")), "{:?}", config.warnings);
}

#[test]
fn a_node_leaves_a_processor_to_its_storage_unless_it_is_told_otherwise() {
    let runtime = |flags: &[(&str, &str)]| parse(ONE, None, &[], flags).expect("valid").runtime;
    assert_eq!([1, 2, 8].map(|processors| runtime(&[]).threads_on(processors)), [1, 1, 7]);
    assert_eq!(runtime(&[("runtime.threads", "5")]).threads_on(2), 5);
}
