//! Acknowledgements and heartbeats: what a majority of this DC holds and it has applied, told in batches.

use super::Machine;
use super::gate::LinkId;
use super::message::Message;

impl Machine {
    /// Sends an acknowledgement if something new may be told now, or a heartbeat if it is time for one.
    pub(super) fn acknowledge(&mut self, id: LinkId) {
        let Some(live) = &mut self.links[id].live else { return };
        let vector = &self.view.vector;
        let changed = live.ack.sent != *vector;
        let due = changed
            && (self.now.ms >= live.ack.changed_ms + self.config.ack_interval_ms
                || vector.txns_above(&live.ack.sent) >= self.config.ack_txns);
        if !due && self.now.ms < live.ack.sent_ms + self.config.heartbeat_ms {
            return;
        }
        live.ack.sent.clone_from(vector);
        live.ack.sent_ms = self.now.ms;
        if changed {
            live.ack.changed_ms = self.now.ms;
        }
        let (conn, vector) = (live.conn, vector.clone());
        self.send(conn, Message::Ack(vector));
    }

    /// When the next acknowledgement of something new is due.
    pub(super) fn ack_due_ms(&self) -> Option<u64> {
        let live = self.links.iter().filter_map(|link| link.live.as_ref());
        live.filter(|live| live.ack.sent != self.view.vector)
            .map(|live| live.ack.changed_ms + self.config.ack_interval_ms)
            .min()
    }
}
