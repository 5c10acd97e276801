//! Write levels: whenever a leader would say that a datacenter holds a write, a majority there has applied it.
//!
//! Who holds a write is the production code's decision, over what the production protocol machine has heard. How long a
//! client is kept waiting for it is not simulated.

use meridian::shard::levels::holders;
use meridian_gossip::sim::{At, Sim, name};

use super::world::Cluster;

/// The newest writes that are looked at.
const NEWEST: usize = 60;

/// Asks every leader of its newest acknowledged writes who holds them.
pub fn check(sim: &mut Sim<Cluster>) {
    if sim.world.tail_lost {
        return;
    }
    let (mut asked, mut by_all) = (0, 0);
    let world = &sim.world;
    for dc in &world.dcs {
        let Some(node) = dc.serving() else { continue };
        let links = sim.links(At { dc: dc.id, node });
        let dots = world.clients.ledger.facts.iter().rev().take(NEWEST).filter_map(|fact| fact.dot);
        for dot in dots.filter(|dot| Some(dot.origin) == dc.own()) {
            let named = holders(&dc.name, &links, dot);
            for other in world.dcs.iter().filter(|other| named.contains(&name(other.id))) {
                assert!(
                    other.vector.covers(dot),
                    "I4: {} says that {dot} is held by {}, which has {:?}",
                    dc.name,
                    other.name,
                    other.vector
                );
            }
            asked += 1;
            by_all += u64::from(named.len() == world.dcs.len());
        }
    }
    sim.world.counts.levels.0 += asked;
    sim.world.counts.levels.1 += by_all;
}
