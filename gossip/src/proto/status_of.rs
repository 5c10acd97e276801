//! The machine's state as an operator is shown it.

use std::collections::BTreeMap;

use meridian_crdt::Origin;

use super::Machine;
use super::event::Now;
use super::link::Link;
use super::status::{GossipStatus, LinkStatus, OriginLag};

impl Machine {
    /// What an operator is shown at `now`.
    pub fn status(&self, now: Now) -> GossipStatus {
        let links: Vec<LinkStatus> = match self.reign {
            Some(_) => {
                self.links.iter().enumerate().map(|(id, link)| self.link_status(id, link, now)).collect()
            }
            None => Vec::new(),
        };
        GossipStatus {
            leading: self.reign.is_some(),
            links,
            origins: self.origin_lags(now),
            refusals: self.refusals.clone(),
            lost_tail: self.lost_tail,
            gate_bytes: self.gate.bytes_total(),
        }
    }

    fn link_status(&self, id: usize, link: &Link, now: Now) -> LinkStatus {
        let ours = &self.view.vector;
        let silent_ms = now.ms.saturating_sub(link.heard_ms);
        let connected = link.live.is_some() && silent_ms < self.config.silence_ms_max;
        let behind_ms = link.behind.ms(None, ours, now.ms);
        let sender = link.live.as_ref().map(|live| &live.sender);
        LinkStatus {
            connected,
            node: link.live.as_ref().map(|live| live.node),
            lag_txns: link.peer_vector.txns_above(ours),
            lag_ms: if connected { behind_ms } else { behind_ms.max(silent_ms) },
            unacked_txns: ours.txns_above(&link.peer_vector),
            acked: link.peer_vector.clone(),
            behind_oplog: sender.is_some_and(|s| s.behind_oplog),
            gate_bytes: self.gate.bytes(id),
            in_flight_bytes: sender.map_or(0, |s| s.in_flight_bytes()),
            ..link.stats.clone()
        }
    }

    fn origin_lags(&self, now: Now) -> BTreeMap<Origin, OriginLag> {
        let ours = &self.view.vector;
        let mut lags: BTreeMap<Origin, OriginLag> = BTreeMap::new();
        if self.reign.is_none() {
            return lags;
        }
        for name in self.view.origins.iter().filter(|name| Some(*name) != self.view.own.as_ref()) {
            lags.insert(name.origin(), OriginLag::default());
        }
        for link in &self.links {
            for dot in link.peer_vector.above(ours).iter() {
                let lag = lags.entry(dot.origin).or_default();
                lag.lag_txns = lag.lag_txns.max(dot.seq - ours.get(dot.origin));
                lag.lag_ms = lag.lag_ms.max(link.behind.ms(Some(dot.origin), ours, now.ms));
            }
        }
        for (origin, lag) in &mut lags {
            if let Some(hlc) = self.gate.oldest_hlc(*origin) {
                lag.lag_txns = lag.lag_txns.max(1);
                lag.lag_ms = lag.lag_ms.max(now.unix_ms.saturating_sub(meridian_crdt::unix_ms(hlc)));
            }
        }
        lags
    }
}
