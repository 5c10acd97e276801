//! Which other nodes live, as far as their presence is concerned. It is pure: the time is an argument.

use std::collections::BTreeMap;

use super::message::Source;

/// How long a node counts as living after it was heard. Who has clients to tell of asks every [`super::HOLD`] at least.
pub const HEARD_MS: u64 = 5_000;
/// Nodes that are remembered; there are never so many in a cluster.
const SOURCES_MAX: usize = 1024;

/// When each node was heard last, and in which life.
#[derive(Debug, Default)]
pub struct Sources {
    heard: BTreeMap<(String, u64), (u64, u64)>,
}

impl Sources {
    /// A node was heard. `false` if there are too many, which counts as silence.
    pub fn heard(&mut self, source: &Source, now_ms: u64) -> bool {
        if self.heard.len() >= SOURCES_MAX {
            self.heard.retain(|_, (_, at_ms)| now_ms.saturating_sub(*at_ms) < HEARD_MS);
        }
        let is_known = self.heard.contains_key(&(source.dc.clone(), source.node));
        let fits = is_known || self.heard.len() < SOURCES_MAX;
        if fits {
            self.heard.insert((source.dc.clone(), source.node), (source.life, now_ms));
        }
        fits
    }

    /// Whether this life of a node goes on.
    pub fn hears(&self, source: &Source, now_ms: u64) -> bool {
        let heard = self.heard.get(&(source.dc.clone(), source.node));
        heard.is_some_and(|(life, at_ms)| *life == source.life && now_ms.saturating_sub(*at_ms) < HEARD_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(node: u64, life: u64) -> Source {
        Source { dc: "eu".into(), node, life }
    }

    #[test]
    fn a_node_lives_while_it_is_heard_and_does_not_start_anew() {
        let mut sources = Sources::default();
        assert!(!sources.hears(&source(1, 7), 0));
        sources.heard(&source(1, 7), 10);
        assert!(sources.hears(&source(1, 7), 10 + HEARD_MS - 1));
        assert!(!sources.hears(&source(1, 7), 10 + HEARD_MS));
        sources.heard(&source(1, 7), 20);
        sources.heard(&source(1, 8), 30);
        assert!(!sources.hears(&source(1, 7), 30) && sources.hears(&source(1, 8), 30));
    }

    #[test]
    fn silent_nodes_make_room_for_others() {
        let mut sources = Sources::default();
        for node in 0..SOURCES_MAX as u64 {
            assert!(sources.heard(&source(node, 1), 0));
        }
        assert!(!sources.heard(&source(5_000, 1), 1));
        assert!(sources.heard(&source(5, 1), 1), "one that is known");
        assert!(sources.heard(&source(5_000, 1), HEARD_MS));
    }
}
