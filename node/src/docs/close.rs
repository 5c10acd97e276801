//! Why a node closes an editor's connection. After 4400 to 4499 clients of `y-websocket` stay away; after any other code
//! they come back, here or at another node, and both sides give each other what they lack.

use meridian_client::wire::{ApiError, ErrorCode};

/// A WebSocket close code and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The code.
    pub code: u16,
    /// The reason, for people.
    pub reason: &'static str,
}

impl Close {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    /// The node stops.
    pub const STOPPING: Close = Close::new(1001, "the node is stopping; another one goes on");
    /// The room has ended for a reason that concerns the node alone.
    pub const GONE: Close = Close::new(1013, "the document is to be opened anew");
    /// The editor does not take what is sent.
    pub const SLOW: Close = Close::new(1013, "frames were not taken in time");
    /// The editor has a document that was begun in another datacenter, and this one has not heard of that yet.
    pub const UNHEARD: Close = Close::new(1013, "the document as you have it has yet to arrive here");
    /// The editor has not given a sign of life.
    pub const SILENT: Close = Close::new(1013, "no sign of life");
    /// As many rooms, editors or watches as the node takes.
    pub const BUSY: Close = Close::new(1013, "the node has as much open as it takes");
    /// An edit could not be kept: no majority, no leader, no room on the disk.
    pub const NOT_KEPT: Close = Close::new(1013, "an edit could not be kept; it is still with you");
    /// The node has met a fault of its own.
    pub const INTERNAL: Close = Close::new(1011, "the node met a fault of its own");
    /// A frame that is no message.
    pub const BAD_MESSAGE: Close = Close::new(4400, "a frame is no message of the protocol");
    /// An update that is none.
    pub const BAD_UPDATE: Close = Close::new(4400, "an update does not decode, or holds what is not taken");
    /// States of those present that are none.
    pub const BAD_AWARENESS: Close = Close::new(4400, "the states of those present are not taken");
    /// The space takes only who shows an access token.
    pub const UNAUTHORIZED: Close = Close::new(4401, "the space takes only who shows an access token of it");
    /// The access token is for something else.
    pub const FORBIDDEN: Close = Close::new(4403, "the access token is not for this space");
    /// The name is one of those that nodes keep for themselves.
    pub const RESERVED: Close = Close::new(4403, "this name is kept for the nodes themselves");
    /// The document was deleted while the editor had it open.
    pub const DELETED: Close = Close::new(4404, "the document was deleted");
    /// The key holds something else.
    pub const WRONG_TYPE: Close = Close::new(4409, "the key holds a value of another type");
    /// An update, or the document, is above its limit.
    pub const TOO_LARGE: Close = Close::new(4413, "an update or the document is above its limit");
    /// An edit, or the document, nests too deep.
    pub const TOO_DEEP: Close = Close::new(4422, "shared types nest too deep");
    /// A message of text.
    pub const TEXT: Close = Close::new(4415, "messages are binary");

    /// Whether clients stay away.
    pub fn is_permanent(self) -> bool {
        (4400..4500).contains(&self.code)
    }

    /// What an error means for the editors whom it concerns: of a write, for those whose edits it held.
    pub fn of(error: &ApiError) -> Close {
        match error.code {
            ErrorCode::WrongType => Close::WRONG_TYPE,
            ErrorCode::TooLarge => Close::TOO_LARGE,
            ErrorCode::BadValue => Close::BAD_UPDATE,
            // The only condition of an edit is that the document was not deleted.
            ErrorCode::PreconditionFailed => Close::DELETED,
            ErrorCode::Unauthorized => Close::UNAUTHORIZED,
            ErrorCode::Forbidden => Close::FORBIDDEN,
            ErrorCode::Internal => Close::INTERNAL,
            ErrorCode::ShuttingDown => Close::STOPPING,
            ErrorCode::Overloaded => Close::BUSY,
            _ => Close::NOT_KEPT,
        }
    }
}
