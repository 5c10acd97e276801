//! What nodes tell each other of who is present: a version byte and MessagePack.
//!
//! ```text
//! Rooms   which rooms have you opened since ..?   answered at once if there are any, else a little later
//! Push    states of clients of mine, for nodes of yours   answered with what became of them at each
//! Gone    clients of yours whom I hold for gone           answered with nothing
//! ```
//!
//! It is pure, and says nothing of who is asked when.

use bytes::Bytes;
use meridian_crdt::Key;
use serde::{Deserialize, Serialize};

use crate::peer::codec;

const VERSION: u8 = 1;
/// The largest message that is read. Those that are written are a quarter of it at most.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A node, in one life of its process. What an earlier life has said is void.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// Its datacenter.
    pub dc: String,
    /// Its number there.
    pub node: u64,
    /// Another one for each start.
    pub life: u64,
}

/// What a client says of itself; `null` when it has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The client, by its number in Yjs.
    pub client: u64,
    /// Its clock.
    pub clock: u64,
    /// JSON.
    pub text: String,
}

/// States of one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStates {
    /// The document.
    pub key: Key,
    /// The states that have changed.
    pub states: Vec<Said>,
}

/// States for some nodes of one datacenter. Who receives it from another datacenter hands it on to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Whose clients they are.
    pub from: Source,
    /// The nodes that are to get them.
    pub to: Vec<u64>,
    /// The states.
    pub rooms: Vec<RoomStates>,
}

/// What one node asks of, or tells, another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Which rooms have you opened that I do not know?
    Rooms {
        /// Who asks, and so lives.
        from: Source,
        /// The life of whom it asks that it knows rooms of; 0 for none.
        life: u64,
        /// It knows those up to this one.
        since: u64,
    },
    /// Here are states.
    Push(Push),
    /// You say that these are there, and my editors have heard that they are gone. Let them raise their clocks.
    Gone(RoomStates),
}

/// Rooms that are open, in the order in which they were opened. There may be more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rooms {
    /// The life of the node.
    pub life: u64,
    /// It has named those up to this one.
    pub upto: u64,
    /// The number of each opening, which only rises, and the document.
    pub rooms: Vec<(u64, Key)>,
}

/// What became of the states of one room at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// The room has them.
    Taken,
    /// There is no such room: send no more of it until it is opened.
    NotOpen,
    /// The room has as much to do as it takes: send them again.
    Busy,
}

/// What became of a [`Push`] at one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The node.
    pub node: u64,
    /// Its life.
    pub life: u64,
    /// No room that it opened later than this one is meant.
    pub at: u64,
    /// For each room of the push.
    pub fates: Vec<Fate>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Rooms`].
    Rooms(Rooms),
    /// To [`Ask::Push`], of the nodes that were reached; to [`Ask::Gone`], of none.
    Pushed(Vec<Receipt>),
    /// It is not taken.
    Refused(String),
}

/// Encodes a question or an answer.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    codec::encode(VERSION, message)
}

/// Reads what [`encode`] wrote.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(format!("a message of {} bytes", bytes.len()));
    }
    codec::decode("presence", VERSION, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of different versions of this program talk to each other: these bytes must stay readable.
    #[test]
    fn messages_read_as_they_were_written() {
        let from = Source { dc: "eu".into(), node: 1, life: 9 };
        let key = Key::new("s", "k").expect("a key");
        let said = Said { client: 7, clock: 2, text: "{}".into() };
        let rooms = vec![RoomStates { key: key.clone(), states: vec![said] }];
        let push = Ask::Push(Push { from: from.clone(), to: vec![2, 3], rooms });
        let asks = [
            (push, "0181a4507573689393a265750109920203919292a173a16b91930702a27b7d"),
            (Ask::Rooms { from, life: 5, since: 6 }, "0181a5526f6f6d739393a2657501090506"),
        ];
        for (ask, golden) in asks {
            let bytes = encode(&ask).expect("encodes");
            assert_eq!(hex(&bytes), golden);
            assert_eq!(decode(&bytes), Ok(ask));
        }
        let receipt =
            Receipt { node: 2, life: 3, at: 4, fates: vec![Fate::Taken, Fate::NotOpen, Fate::Busy] };
        let answers =
            [Answer::Rooms(Rooms { life: 1, upto: 2, rooms: vec![(2, key)] }), Answer::Pushed(vec![receipt])];
        for answer in answers {
            assert_eq!(decode(&encode(&answer).expect("encodes")), Ok(answer));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(decode::<Ask>(&[]).is_err());
        assert!(decode::<Ask>(&[VERSION + 1, 0xc0]).is_err());
        assert!(decode::<Ask>(&[VERSION, 0xc0]).is_err());
        assert!(decode::<Ask>(&vec![VERSION; MESSAGE_BYTES_MAX + 1]).is_err());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
