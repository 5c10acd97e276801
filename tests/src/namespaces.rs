//! Machines of a network of their own, where the system lets us make one: a network namespace for each, wired to one bridge.
//!
//! Unlike through a proxy, a cut here is what a cut is: the packets of a connection vanish, and its ends learn of it from
//! nothing but silence. Cuts are made by forwarding to a hardware address that nobody has, so they may hold in one
//! direction only; a machine is unplugged by taking its wire down. Everything is taken down when it is dropped.

use std::net::Ipv4Addr;
use std::process::Command;

/// A hardware address that no machine has: what is sent there is lost.
const NOWHERE: &str = "02:00:00:00:00:01";
/// The host's own number on the network.
const HOST: u8 = 254;

/// A number of machines on one bridge, and this process beside them.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    prefix: [u8; 3],
    machines: u8,
}

impl Network {
    /// Wires up so many machines. `Err` says why this cannot be done here, as when the rights are missing: the caller then
    /// reports its test as skipped.
    ///
    /// # Errors
    /// The reason.
    pub fn new(machines: u8) -> Result<Self, String> {
        // Networks of other processes on this machine have other names and addresses.
        let id = std::process::id();
        let prefix = [10, 128 + (id >> 8 & 0x7f) as u8, (id & 0xff) as u8];
        let network = Self { bridge: format!("mb{id}"), prefix, machines };
        ip(&["link", "add", &network.bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", network.address(HOST)), "dev", &network.bridge])?;
        ip(&["link", "set", &network.bridge, "up"])?;
        for machine in 0..machines {
            network.wire(machine)?;
        }
        Ok(network)
    }

    fn wire(&self, machine: u8) -> Result<(), String> {
        let (space, wire) = (self.space(machine), self.wire_of(machine));
        ip(&["netns", "add", &space])?;
        ip(&["link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["link", "set", &wire, "master", &self.bridge, "up"])?;
        let address = format!("{}/24", self.address(machine));
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    /// The address of a machine.
    pub fn address(&self, machine: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, if machine == HOST { HOST } else { machine + 1 })
    }

    /// How a program is started on a machine: these words, then its own.
    pub fn run_on(&self, machine: u8) -> [String; 4] {
        ["ip".into(), "netns".into(), "exec".into(), self.space(machine)]
    }

    /// What `from` sends to `to` is lost from now on.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut_one_way(&self, from: u8, to: u8) {
        self.must(from, &["neigh", "replace", &self.address(to).to_string(), "lladdr", NOWHERE], "permanent");
    }

    /// What `from` sends to `to` arrives again.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn heal_one_way(&self, from: u8, to: u8) {
        // Forgotten, the right address is asked for with the next packet.
        self.must(from, &["neigh", "replace", &self.address(to).to_string()], "failed");
    }

    fn must(&self, machine: u8, words: &[&str], state: &str) {
        let space = self.space(machine);
        let all = [&["-n", &space][..], words, &["dev", "eth0", "nud", state]].concat();
        ip(&all).unwrap_or_else(|why| panic!("{all:?}: {why}"));
    }

    /// Pulls the wire of a machine out, or puts it back in.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn plug(&self, machine: u8, plugged: bool) {
        let wire = self.wire_of(machine);
        let state = if plugged { "up" } else { "down" };
        ip(&["link", "set", &wire, state]).unwrap_or_else(|why| panic!("{wire} {state}: {why}"));
    }

    fn space(&self, machine: u8) -> String {
        format!("{}-{machine}", self.bridge)
    }

    fn wire_of(&self, machine: u8) -> String {
        format!("{}w{machine}", self.bridge)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace lives on as long as a process in it, so its wire is removed first. What was never made cannot be
        // removed, and need not.
        for machine in 0..self.machines {
            ip(&["link", "del", &self.wire_of(machine)]).ok();
            ip(&["netns", "del", &self.space(machine)]).ok();
        }
        if let Err(why) = ip(&["link", "del", &self.bridge]) {
            println!("the bridge {} stays: {why}", self.bridge);
        }
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
    }
}
