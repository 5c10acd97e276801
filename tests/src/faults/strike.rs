//! How each fault strikes, lasts and heals.

use std::time::Duration;

use futures_util::future::join_all;
use meridian::dev::wan::Weather;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::Fault;
use super::bad_sync::BadSync;
use super::world::{DCS, SMALL_DISKS_DC, World};
use crate::client::{Ask, add};

/// How long most faults last, in milliseconds: around the silence after which links count as broken.
const LASTS_MS: std::ops::Range<u64> = 1500..4500;
/// How long a paused leader sleeps: longer than the longest election.
const PAUSE_MS: std::ops::Range<u64> = 2500..4500;
/// How long the dead stay dead.
const DEAD_MS: std::ops::Range<u64> = 300..2500;
/// Between two moves of a fault that moves.
const STEP_MS: std::ops::Range<u64> = 100..500;
/// How long may pass until a DC has a leader, a node is ready, or a fault shows its effect.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// An hour, as far as clocks are set wrong.
const HOUR_MS: i64 = 3_600_000;
/// One in ten.
const LOSS_PER_MILLE: u16 = 100;
/// The key of the writes that provoke or probe a fault.
const PROBE: &str = "faults/probe";

/// What a strike did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// How many faults that were.
    pub times: usize,
    /// What was done to whom.
    pub notes: Vec<String>,
    /// What should have followed from the fault and did not, or could not be repaired.
    pub violations: Vec<String>,
}

impl Struck {
    fn note(&mut self, note: impl Into<String>) {
        self.times += 1;
        self.notes.push(note.into());
    }
}

/// What one strike needs at hand.
struct Striking<'w> {
    world: &'w World,
    random: StdRng,
    struck: Struck,
}

impl Fault {
    /// Strikes once, lasts, and heals. Everything is drawn from `seed`; who leads at the moment is not.
    pub async fn strike(self, world: &World, seed: u64) -> Struck {
        let mut striking = Striking { world, random: StdRng::seed_from_u64(seed), struck: Struck::default() };
        if let Err(why) = striking.strike(self).await {
            striking.struck.violations.push(format!("{}: {why}", self.name()));
        }
        striking.struck
    }
}

impl<'w> Striking<'w> {
    async fn strike(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::None => {
                self.last(LASTS_MS).await;
                Ok(())
            }
            Fault::KillLeader | Fault::KillFollower => self.kill_one(fault == Fault::KillLeader).await,
            Fault::KillDc => {
                let dc = self.dc();
                self.kill_many(Some(dc)).await
            }
            Fault::KillAll => self.kill_many(None).await,
            Fault::PauseLeader => self.pause_leader().await,
            Fault::CutDcs | Fault::IsolateDc | Fault::CutOneWay => self.cut_dcs(fault).await,
            Fault::Flapping => self.flap().await,
            Fault::CutLeader | Fault::CutLeaderOneWay => self.cut_leader(fault == Fault::CutLeader).await,
            Fault::SplitDc => self.split_dc().await,
            Fault::Breaks => self.break_connections().await,
            Fault::Loss | Fault::Delay => self.bad_weather(fault).await,
            Fault::FullDisk => self.fill_disk().await,
            Fault::FailingSync => self.fail_sync().await,
            Fault::SkewedClock => self.skew_clock().await,
            Fault::SteppingClock => self.step_clock().await,
            Fault::RollingRestart => self.restart_all_in_turn().await,
            Fault::Mixed => {
                let plain: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.is_plain()).collect();
                let drawn = *plain.choose(&mut self.random).expect("there are plain faults");
                Box::pin(self.strike(drawn)).await
            }
        }
    }

    async fn kill_one(&mut self, leader: bool) -> Result<(), String> {
        let dc = self.dc();
        let leads = self.leader(dc).await?;
        let victim = if leader { leads } else { self.other(dc, &leads) };
        self.cluster().kill(&victim).await.map_err(text)?;
        self.struck.note(format!("{victim} killed"));
        self.last(DEAD_MS).await;
        self.cluster().restart(&victim).await.map_err(text)
    }

    async fn kill_many(&mut self, dc: Option<&'static str>) -> Result<(), String> {
        let nodes: Vec<String> = self.nodes().into_iter().filter(|node| is_in(node, dc)).collect();
        let killed = match dc {
            Some(dc) => self.cluster().kill_dc(dc).await,
            None => self.cluster().kill_all().await,
        };
        killed.map_err(text)?;
        self.struck.note(format!("all of {} killed", dc.unwrap_or("all DCs")));
        self.last(DEAD_MS).await;
        let restarted = join_all(nodes.iter().map(|node| self.cluster().restart(node))).await;
        restarted.into_iter().collect::<Result<(), _>>().map_err(text)
    }

    async fn pause_leader(&mut self) -> Result<(), String> {
        let dc = self.dc();
        let victim = self.leader(dc).await?;
        self.cluster().pause(&victim).await.map_err(text)?;
        self.struck.note(format!("{victim} stopped"));
        self.last(PAUSE_MS).await;
        self.cluster().resume(&victim).await.map_err(text)
    }

    async fn cut_dcs(&mut self, fault: Fault) -> Result<(), String> {
        let (a, b) = self.two_dcs();
        let wan = self.cluster().wan();
        match fault {
            Fault::IsolateDc => DCS.iter().filter(|dc| **dc != a).for_each(|dc| wan.cut(a, dc)),
            Fault::CutOneWay => wan.cut_one_way(a, b),
            _ => wan.cut(a, b),
        }
        self.struck.note(format!("{}: {a}, {b}", fault.name()));
        self.last(LASTS_MS).await;
        self.cluster().wan().heal_all();
        Ok(())
    }

    async fn flap(&mut self) -> Result<(), String> {
        let (a, b) = self.two_dcs();
        for _ in 0..self.random.random_range(4..9) {
            self.cluster().wan().cut(a, b);
            self.struck.note(format!("{a}, {b} cut for a moment"));
            self.last(STEP_MS).await;
            self.cluster().wan().heal_all();
            self.last(STEP_MS).await;
        }
        Ok(())
    }

    async fn cut_leader(&mut self, both_ways: bool) -> Result<(), String> {
        let dc = self.dc();
        let leader = self.leader(dc).await?;
        let speaks = self.random.random_bool(0.5);
        let inside = self.world.inside();
        for other in self.nodes().iter().filter(|node| is_in(node, Some(dc)) && **node != leader) {
            match (both_ways, speaks) {
                (true, _) => inside.cut(&leader, other),
                (false, true) => inside.cut_one_way(other, &leader),
                (false, false) => inside.cut_one_way(&leader, other),
            }
        }
        let how = if both_ways {
            "cut off"
        } else if speaks {
            "deaf"
        } else {
            "mute"
        };
        self.struck.note(format!("the leader {leader} is {how}"));
        self.last(LASTS_MS).await;
        inside.heal_all();
        Ok(())
    }

    async fn split_dc(&mut self) -> Result<(), String> {
        let dc = self.dc();
        let nodes: Vec<String> = self.nodes().into_iter().filter(|node| is_in(node, Some(dc))).collect();
        let alone = nodes.choose(&mut self.random).expect("a DC has nodes").clone();
        let no_majority = self.random.random_bool(0.5);
        let inside = self.world.inside();
        for (i, a) in nodes.iter().enumerate() {
            for b in nodes[i + 1..].iter().filter(|b| no_majority || *a == alone || **b == alone) {
                inside.cut(a, b);
            }
        }
        let how = if no_majority { "in three".into() } else { format!("into {alone} and the rest") };
        self.struck.note(format!("{dc} falls apart {how}"));
        self.last(LASTS_MS).await;
        inside.heal_all();
        Ok(())
    }

    async fn break_connections(&mut self) -> Result<(), String> {
        for _ in 0..self.random.random_range(3..8) {
            self.cluster().wan().break_all();
            self.world.inside().break_all();
            self.struck.note("all connections broken");
            self.last(STEP_MS).await;
        }
        Ok(())
    }

    async fn bad_weather(&mut self, fault: Fault) -> Result<(), String> {
        let (wan, inside) = (self.cluster().wan(), self.world.inside());
        let (fair_wan, fair_inside) = (wan.weather(), inside.weather());
        let ms = Duration::from_millis;
        if fault == Fault::Loss {
            wan.set_weather(Weather { loss_per_mille: LOSS_PER_MILLE, ..fair_wan });
            inside.set_weather(Weather { loss_per_mille: LOSS_PER_MILLE, ..fair_inside });
        } else {
            wan.set_weather(Weather { latency: ms(150), jitter: ms(300), ..fair_wan });
            inside.set_weather(Weather { latency: ms(10), jitter: ms(60), ..fair_inside });
        }
        self.struck.note(fault.name());
        self.last(LASTS_MS).await;
        wan.set_weather(fair_wan);
        inside.set_weather(fair_inside);
        Ok(())
    }

    /// A full leader refuses writes and reads go on; a full follower stops nobody.
    async fn fill_disk(&mut self) -> Result<(), String> {
        let leader = self.leader(SMALL_DISKS_DC).await?;
        let strike_leader = self.random.random_bool(0.7);
        let victim = if strike_leader { leader.clone() } else { self.other(SMALL_DISKS_DC, &leader) };
        let disk = &self.world.disks[&victim];
        disk.fill()?;
        self.struck.note(format!("the disk of {victim} is full"));
        if strike_leader {
            let refused = self.until(async |striking| striking.probe(&victim).await == "storage_full");
            let refused = refused.await;
            let led = self.leader(SMALL_DISKS_DC).await? == leader;
            if !refused && led {
                self.struck.violations.push(format!("{victim} takes writes with a full disk"));
            }
            let read = Ask::read(PROBE).eventual().within(Duration::from_secs(3));
            let read = self.world.fleet().node(&victim).send(&read).await;
            if !read.as_ref().is_ok_and(|reply| reply.done() || reply.code() == "not_found") {
                self.struck.violations.push(format!("{victim} does not read with a full disk: {read:?}"));
            }
        }
        self.last(LASTS_MS).await;
        self.world.disks[&victim].make_room()?;
        if self.until(async |striking| striking.probe(&victim).await == "done").await {
            Ok(())
        } else {
            Err(format!("{victim} takes no writes although its disk has room again"))
        }
    }

    /// A node whose sync fails must stop; it may not go on with what it does not know to be on its disk.
    async fn fail_sync(&mut self) -> Result<(), String> {
        if !self.world.bad_sync {
            return Err("the nodes run without the library".into());
        }
        let dc = self.dc();
        let leader = self.leader(dc).await?;
        let victim = if self.random.random_bool(0.5) { leader } else { self.other(dc, &leader) };
        let sign = BadSync::sign(self.world.fleet().folder(), &victim);
        std::fs::write(&sign, "").map_err(text)?;
        self.struck.note(format!("the fsync of {victim} fails"));
        let ended = self.until(async |striking| {
            // Any write of the DC makes all its nodes sync.
            let other = striking.other(dc, &victim);
            striking.probe(&other).await;
            striking.pid(&victim).is_none()
        });
        if !ended.await {
            self.struck.violations.push(format!("{victim} limps on after a failed fsync"));
        }
        self.last(DEAD_MS).await;
        self.world.stop_bad_sync(&victim);
        self.cluster().restart(&victim).await.map_err(text)
    }

    async fn skew_clock(&mut self) -> Result<(), String> {
        let dc = self.dc();
        let one = self.nodes().choose(&mut self.random).cloned().expect("there are nodes");
        let whole_dc = self.random.random_bool(0.25);
        let offset = if self.random.random_bool(0.5) { HOUR_MS } else { -HOUR_MS };
        let victims: Vec<String> = if whole_dc {
            self.nodes().into_iter().filter(|n| is_in(n, Some(dc))).collect()
        } else {
            vec![one]
        };
        for victim in &victims {
            self.cluster().clock(victim, offset).await.map_err(text)?;
            self.struck.note(format!("the clock of {victim} is off by {offset} ms"));
        }
        self.last(LASTS_MS).await;
        for victim in &victims {
            self.cluster().clock(victim, 0).await.map_err(text)?;
        }
        Ok(())
    }

    async fn step_clock(&mut self) -> Result<(), String> {
        let dc = self.dc();
        let victim = self.leader(dc).await?;
        for _ in 0..self.random.random_range(4..9) {
            let most = *[200, 4000, 60_000, 2 * HOUR_MS].choose(&mut self.random).expect("four sizes");
            let offset = self.random.random_range(-most..=most);
            self.cluster().clock(&victim, offset).await.map_err(text)?;
            self.struck.note(format!("the clock of {victim} jumps to {offset} ms off"));
            self.last(STEP_MS).await;
        }
        self.cluster().clock(&victim, 0).await.map_err(text)
    }

    async fn restart_all_in_turn(&mut self) -> Result<(), String> {
        let dc = self.dc();
        for node in self.nodes().into_iter().filter(|node| is_in(node, Some(dc))) {
            self.cluster().restart(&node).await.map_err(text)?;
            self.struck.note(format!("{node} restarted in good order"));
            let client = self.world.fleet().node(&node);
            let ready = Ask::get("/readyz").within(Duration::from_secs(3));
            if !self.until(async |_| client.send(&ready).await.is_ok_and(|reply| reply.done())).await {
                return Err(format!("{node} is not ready again"));
            }
        }
        Ok(())
    }

    fn cluster(&self) -> &'w meridian::dev::Cluster {
        self.world.fleet().cluster()
    }

    fn nodes(&self) -> Vec<String> {
        self.world.fleet().node_names()
    }

    fn dc(&mut self) -> &'static str {
        DCS.choose(&mut self.random).expect("there are DCs")
    }

    fn two_dcs(&mut self) -> (&'static str, &'static str) {
        let drawn: Vec<&&str> = DCS.choose_multiple(&mut self.random, 2).collect();
        (drawn[0], drawn[1])
    }

    /// Another node of a DC than this one.
    fn other(&mut self, dc: &str, than: &str) -> String {
        let others: Vec<String> =
            self.nodes().into_iter().filter(|node| is_in(node, Some(dc)) && node != than).collect();
        others.choose(&mut self.random).expect("a DC has several nodes").clone()
    }

    fn pid(&self, node: &str) -> Option<u32> {
        let dcs = self.cluster().description().dcs;
        let named = |dc: &str, id: u64| format!("{dc}/{id}") == node;
        dcs.iter().find_map(|dc| dc.nodes.iter().find(|n| named(&dc.name, n.id)).and_then(|n| n.pid))
    }

    /// Who leads a DC by its own word.
    async fn leader(&mut self, dc: &str) -> Result<String, String> {
        let mut found = None;
        let seen = self.until(async |striking| {
            let statuses = striking.cluster().statuses().await;
            let leads = |status: &&Value| status["dc"] == dc && status["role"] == "leader";
            found = statuses.iter().flatten().find(leads).map(|status| format!("{dc}/{}", status["node"]));
            found.is_some()
        });
        seen.await;
        found.ok_or_else(|| format!("nobody leads {dc} within {PATIENCE:?}"))
    }

    /// Tries a write at a node; its error code, or `done`.
    async fn probe(&self, node: &str) -> String {
        let ask = Ask::mutate(PROBE, &add(1)).within(Duration::from_secs(3));
        match self.world.fleet().node(node).send(&ask).await {
            Ok(reply) if reply.done() => "done".into(),
            Ok(reply) => reply.code().into(),
            Err(e) => e.to_string(),
        }
    }

    /// Looks until something is so; false if it is not in time.
    async fn until(&mut self, mut holds: impl AsyncFnMut(&mut Self) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if holds(self).await {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    async fn last(&mut self, ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(ms))).await;
    }
}

impl Fault {
    /// Whether it can strike any world.
    fn is_plain(self) -> bool {
        !matches!(self, Self::None | Self::Mixed | Self::FullDisk | Self::FailingSync)
    }
}

fn is_in(node: &str, dc: Option<&str>) -> bool {
    dc.is_none_or(|dc| node.split_once('/').is_some_and(|(of, _)| of == dc))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
