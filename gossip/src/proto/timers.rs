//! What time alone brings about: dials, deadlines, relays, bookkeeping. Looked at every `poll_ms`.

use super::Machine;
use super::event::{ConnId, Output};

impl Machine {
    /// When the next [`Tick`](super::event::Event::Tick) is due; `None` while there is nothing to wait for.
    pub fn deadline_ms(&self) -> Option<u64> {
        if self.reign.is_none() && self.conns.is_empty() {
            return None;
        }
        Some(self.ack_due_ms().map_or(self.poll_next_ms, |due| due.min(self.poll_next_ms)))
    }

    pub(super) fn run_timers(&mut self) {
        if self.now.ms < self.poll_next_ms {
            return;
        }
        self.poll_next_ms = self.now.ms + self.config.poll_ms;
        self.close_the_silent();
        if self.reign.is_none() {
            return;
        }
        self.propose_bookkeeping();
        self.dial_the_missing();
        self.relay_the_overdue();
    }

    /// Ends connections that took too long to say `Hello`, and links of which nothing was heard for too long.
    fn close_the_silent(&mut self) {
        let now_ms = self.now.ms;
        let slow: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.link.is_none() && now_ms >= c.opened_ms + self.config.connect_ms_max)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in slow {
            self.close(conn, "the peer did not say Hello in time");
        }
        let silent = self.links.iter().filter(|l| now_ms >= l.heard_ms + self.config.silence_ms_max);
        let silent: Vec<ConnId> = silent.filter_map(|l| Some(l.live.as_ref()?.conn)).collect();
        for conn in silent {
            self.close(conn, "nothing was heard of the peer for too long");
        }
    }

    fn dial_the_missing(&mut self) {
        if self.lost_tail.is_some() {
            return;
        }
        for id in 0..self.links.len() {
            let link = &mut self.links[id];
            if link.live.is_some() || self.now.ms < link.stopped_until_ms {
                continue;
            }
            if let Some((node, attempt)) = link.dial.start(self.now.ms) {
                let dc = link.dc.clone();
                self.put(Output::Dial { dc, node, attempt });
            }
        }
    }

    fn relay_the_overdue(&mut self) {
        let Some(reign) = self.reign else { return };
        for link in &mut self.links {
            let Some(live) = &mut link.live else { continue };
            let sender = &mut live.sender;
            let acked = sender.acked().clone();
            for dot in sender.relay.overdue(reign.own, &self.view.vector, &acked, self.now.ms) {
                sender.request(dot);
            }
        }
    }
}
