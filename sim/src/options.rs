//! What a run is made of, drawn from its seed unless the caller says otherwise.

use rand::Rng;
use rand::rngs::SmallRng;

/// What the caller of a run decides; the rest comes from the seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How many DCs, 1 to 3; drawn when `None`.
    pub dcs: Option<usize>,
    /// How many nodes each DC has, 1 or 3; drawn when `None`.
    pub nodes: Option<usize>,
    /// How long faults and load last, in milliseconds of virtual time (default 20 s).
    pub load_ms: u64,
    /// How many faults are injected in that time (default 8); 0 for none.
    pub faults: usize,
    /// How many client sessions there are in each DC (default 3).
    pub sessions: usize,
    /// How many editors of documents there are in each DC at first (default 2).
    pub editors: usize,
    /// How many editors in each DC edit a document that is deleted again and again (default 0: no deletes).
    pub editors_erased: usize,
    /// How long after healing all DCs must be equal, in milliseconds of virtual time (default 60 s).
    pub converge_ms_max: u64,
    /// Whether the lines of the trace are kept beside their hash.
    pub keep_trace: bool,
    /// Makes disks say that they have synced when they have not. For the proof that a run finds what it should.
    pub lying_disks: bool,
    /// Makes sessions forget their tokens. For the same proof.
    pub forget_tokens: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dcs: None,
            nodes: None,
            load_ms: 20_000,
            faults: 8,
            sessions: 3,
            editors: 2,
            editors_erased: 0,
            converge_ms_max: 60_000,
            keep_trace: false,
            lying_disks: false,
            forget_tokens: false,
        }
    }
}

/// The names of the DCs.
const DC_NAMES: [&str; 3] = ["eu-west", "us-east", "ap-south"];

/// One node's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) dc: usize,
    pub(crate) id: u64,
}

/// A cluster: how many DCs of how many nodes, and the settings that all nodes have.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) dcs: usize,
    pub(crate) nodes: usize,
    /// One-way delay between DCs, at least and at most.
    pub(crate) wan_ms: (u64, u64),
    /// Whether editors are shown edits of others at their node before these are kept.
    pub(crate) is_early: bool,
    settings: String,
}

impl Shape {
    pub(crate) fn draw(options: &Options, rng: &mut SmallRng) -> Self {
        let dcs =
            options.dcs.unwrap_or_else(|| rng.random_range(1..=DC_NAMES.len())).clamp(1, DC_NAMES.len());
        let nodes = options.nodes.unwrap_or_else(|| if rng.random_bool(0.3) { 1 } else { 3 });
        let wan_ms = rng.random_range(10..80);
        let wan_ms = (wan_ms, wan_ms + rng.random_range(5..40));
        // Not drawn by itself, so that seeds mean what they meant.
        let is_early = wan_ms.0 % 5 < 2;
        Self { dcs, nodes, wan_ms, is_early, settings: settings(is_early, rng) }
    }

    pub(crate) fn dc_name(&self, dc: usize) -> &'static str {
        DC_NAMES[dc % DC_NAMES.len()]
    }

    pub(crate) fn host(&self, place: Place) -> String {
        format!("{}-{}", self.dc_name(place.dc), place.id)
    }

    /// Its name in a history.
    pub(crate) fn node(&self, place: Place) -> String {
        format!("{}/{}", self.dc_name(place.dc), place.id)
    }

    pub(crate) fn client_host(&self, dc: usize) -> String {
        format!("client-{}", self.dc_name(dc))
    }

    /// All nodes, DC by DC.
    pub(crate) fn places(&self) -> Vec<Place> {
        (0..self.dcs).flat_map(|dc| self.places_of(dc)).collect()
    }

    /// The nodes of one DC.
    pub(crate) fn places_of(&self, dc: usize) -> Vec<Place> {
        (1..=self.nodes as u64).map(|id| Place { dc, id }).collect()
    }

    /// The configuration file of a DC.
    pub(crate) fn config_text(&self, dc: usize) -> String {
        let mut text = format!(
            "[cluster]\nname = \"sim\"\nsecret = \"a secret of the simulation\"\n[dc]\nname = \"{}\"\n",
            self.dc_name(dc)
        );
        for place in self.places_of(dc) {
            let host = self.host(place);
            text.push_str(&format!(
                "[nodes.n{}]\nid = {}\ndata_dir = \"/data\"\nclient_listen = \"0.0.0.0:7400\"\n\
                 peer_listen = \"0.0.0.0:7500\"\nclient_advertise = \"{host}:7400\"\n\
                 peer_advertise = \"{host}:7500\"\n",
                place.id, place.id
            ));
        }
        for remote in (0..self.dcs).filter(|remote| *remote != dc) {
            let peers = self.places_of(remote).into_iter();
            let peers: Vec<String> =
                peers.map(|place| format!("{}={}:7500", place.id, self.host(place))).collect();
            let name = self.dc_name(remote);
            text.push_str(&format!("[remotes.{name}]\npeers = \"{}\"\n", peers.join(", ")));
        }
        text + &self.settings
    }
}

/// Settings of all nodes; now and then tiny limits, so that rare branches are taken.
fn settings(is_early: bool, rng: &mut SmallRng) -> String {
    let mut pick =
        |usual: &str, tiny: &str| if rng.random_bool(0.3) { tiny.to_owned() } else { usual.to_owned() };
    let raft = format!(
        "[raft]\nsnapshot_every = {}\nentries_in_flight_max = {}\nentry_requests_max = {}\nentry_requests_gathered = 3\n",
        pick("2000", "100"),
        pick("16", "1"),
        pick("1000", "1"),
    );
    let storage = format!(
        "[storage]\ncheckpoint_interval = \"{}\"\nsweep_cells_max = {}\nstate_cache = \"4MiB\"\nlog_segment = \"{}\"\n\
         overlay = \"128KiB\"\n",
        pick("2s", "100ms"),
        pick("1000", "1"),
        pick("256KiB", "16KiB"),
    );
    let gossip = format!(
        "[gossip]\nlink_credit_bytes = \"{}\"\ngate_bytes = \"{}\"\nmessage_bytes_max = \"{}\"\n\
         stability_interval = \"{}\"\n",
        pick("8MiB", "64KiB"),
        pick("64MiB", "64KiB"),
        pick("256KiB", "4KiB"),
        pick("1s", "50ms"),
    );
    let fanout = if is_early { "early" } else { "durable" };
    // Longer than any fault: who is let in with what the DC has not heard of may bring back what was deleted elsewhere.
    let documents = format!(
        "[documents]\ncompact_rows_min = {}\nfanout = \"{fanout}\"\nunheard = \"10m\"\n",
        pick("40", "4"),
    );
    raft + &storage + &gossip + &documents
}
