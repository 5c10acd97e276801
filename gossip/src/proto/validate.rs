//! The machine's invariants as assertions.

use super::Machine;

impl Machine {
    /// Asserts what must hold between any two events. Its cost grows with what waits and what is in flight, so the
    /// simulation calls it after every step and production does not.
    pub fn validate(&self) {
        self.gate.validate();
        if self.reign.is_none() {
            assert!(self.links.iter().all(|l| l.live.is_none()), "only a leader keeps links");
            assert_eq!(self.proposals.len(), 0, "only a leader proposes");
        }
        for (id, link) in self.links.iter().enumerate() {
            assert!(self.gate.bytes(id) <= self.config.gate_bytes_max, "the gate is bounded");
            let Some(live) = &link.live else {
                assert_eq!(self.gate.bytes(id), 0, "nothing waits of a link that is down");
                continue;
            };
            let conn = self.conns.get(&live.conn).expect("a live connection is open");
            assert_eq!(conn.link, Some(id), "a live connection knows its link");
            assert!(
                self.view.vector.covers_all(&live.ack.sent),
                "I4: only what the view shows is acknowledged"
            );
            live.sender.validate(&self.view.vector);
        }
        for (conn, open) in &self.conns {
            if let Some(id) = open.link {
                let live = self.links[id].live.as_ref().map(|live| live.conn);
                assert_eq!(live, Some(*conn), "a linked connection is its link's live one");
            }
        }
    }
}
