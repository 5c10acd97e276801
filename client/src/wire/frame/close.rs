//! Why a node closes a connection of the native protocol: WebSocket close codes.

/// The node is stopping; what was asked before is answered. Go to another node.
pub const GOING_AWAY: u16 = 1001;
/// The node met a fault of its own.
pub const INTERNAL: u16 = 1011;
/// A frame is not MessagePack, or not of the shape `[id, verb, {arguments}]`.
pub const BAD_FRAME: u16 = 4400;
/// The first request is not hello.
pub const HELLO_FIRST: u16 = 4401;
/// A second hello.
pub const HELLO_TWICE: u16 = 4402;
/// Node and client have no version of the protocol in common.
pub const NO_COMMON_VERSION: u16 = 4403;
/// No hello came in time.
pub const HELLO_LATE: u16 = 4408;
/// The client did not answer a ping.
pub const SILENT: u16 = 4410;
/// A frame is above the limit that hello's answer tells.
pub const FRAME_TOO_LARGE: u16 = 4413;
/// A text message; frames are binary messages.
pub const TEXT_MESSAGE: u16 = 4415;
