//! Meridian's native protocol on a bare connection: WebSocket frames with a mask of zeroes, and of answers no more is
//! read than is needed to check them.
//!
//! Each client is a session: it sends the last token that it was given, with reads of the level `session` and with
//! writes.

use meridian::cli::bench::websocket::{BINARY, CLOSE, KEY, PING, PONG, frame, next_frame};
use meridian_client::wire::frame::{Frame, Request, VERSION, Verb};

use super::Done;
use super::msgpack::{Cursor, array, binary, map, text};
use super::wire::Wire;
use crate::op::{HOT_COUNTER, Level, Op, element_name, is_value_of, key_name, set_name, value};

/// Bytes of a token's checksum, which stands at its end.
const CHECKSUM_BYTES: usize = 4;

/// One connection, which is one session.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    request: Vec<u8>,
    asked: Vec<Option<Op>>,
    token: Vec<u8>,
    salt: u64,
}

impl Connection {
    /// Connects and says hello.
    pub async fn connect(address: &str, salt: u64) -> Result<Self, String> {
        let mut wire = Wire::connect(address).await?;
        wire.outgoing = format!(
            "GET /v1/session HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        )
        .into_bytes();
        let hello =
            Verb::Hello { versions: vec![VERSION], client: "meridian-bench".into(), access: Vec::new() };
        frame(&mut wire.outgoing, BINARY, &Request::new(0, hello).encode());
        wire.flush().await?;
        let head = loop {
            if let Some(end) = wire.unread().windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            wire.read_more().await?;
        };
        if !wire.unread().starts_with(b"HTTP/1.1 101") {
            return Err(format!("{address} does not speak the native protocol"));
        }
        wire.take(head);
        let (start, end) = loop {
            match next_frame(wire.unread())? {
                Some((_, start, end)) => break (start, end),
                None => wire.read_more().await?,
            }
        };
        check(&wire.unread()[start..end], None)?.outcome?;
        wire.take(end);
        Ok(Self { wire, request: Vec::new(), asked: vec![None; 256], token: Vec::new(), salt })
    }

    /// The token of the last answer.
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// Goes on with the session of another connection.
    pub fn adopt(&mut self, token: &[u8]) {
        self.token = token.to_vec();
    }

    /// Adds an operation to those that the next exchange sends.
    pub fn queue(&mut self, id: u8, op: Op) {
        self.salt = self.salt.wrapping_add(1);
        self.request.clear();
        let out = &mut self.request;
        out.extend([0x93, 0xcc, id]);
        let eventual = matches!(op, Op::Get(_, Level::Eventual));
        let level = matches!(op, Op::Get(_, Level::Linearizable | Level::Eventual));
        let session = !self.token.is_empty() && !eventual;
        let terms = u8::from(level) + u8::from(session);
        match op {
            Op::Get(key, _) => {
                text(out, "read");
                map(out, 1 + terms);
                words(out, &["key", &key_name(key)]);
            }
            Op::Put(key) => {
                text(out, "write");
                map(out, 2 + terms);
                words(out, &["key", &key_name(key), "mutation"]);
                map(out, 3);
                words(out, &["type", "register", "op", "set", "value", &value(key, self.salt)]);
            }
            Op::Add => {
                text(out, "write");
                map(out, 2 + terms);
                words(out, &["key", HOT_COUNTER, "mutation"]);
                map(out, 3);
                words(out, &["type", "counter", "op", "add", "by"]);
                out.push(1);
            }
            Op::Txn(keys) => {
                text(out, "txn");
                map(out, 1 + terms);
                text(out, "ops");
                array(out, keys.len());
                for key in keys {
                    map(out, 4);
                    words(out, &["key", &key_name(key), "type", "register", "op", "set", "value"]);
                    text(out, &value(key, self.salt));
                }
            }
            Op::SetAdd { set, first, count } => {
                text(out, "write");
                map(out, 2 + terms);
                words(out, &["key", &set_name(set), "mutation"]);
                map(out, 3);
                words(out, &["type", "set", "op", "add_all", "elements"]);
                array(out, usize::try_from(count).unwrap_or(usize::MAX));
                for element in first..first + count {
                    text(out, &element_name(element));
                }
            }
        }
        if level {
            words(out, &["consistency", if eventual { "eventual" } else { "linearizable" }]);
        }
        if session {
            text(out, "session");
            binary(out, &self.token);
        }
        frame(&mut self.wire.outgoing, BINARY, &self.request);
        self.asked[usize::from(id)] = Some(op);
    }

    /// Sends what was queued and takes all answers that are there, at least one.
    pub async fn exchange(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        self.wire.flush().await?;
        loop {
            while let Some((opcode, start, end)) = next_frame(self.wire.unread())? {
                let payload = &self.wire.unread()[start..end];
                match opcode {
                    BINARY => {
                        let answer = check(payload, Some(&self.asked))?;
                        if is_later(answer.token, &self.token) {
                            let token = answer.token.to_vec();
                            let (id, outcome) = (answer.id, answer.outcome);
                            self.token = token;
                            done.push((id, outcome));
                        } else {
                            done.push((answer.id, answer.outcome));
                        }
                    }
                    PING => {
                        let payload = payload.to_vec();
                        frame(&mut self.wire.outgoing, PONG, &payload);
                    }
                    CLOSE => return Err("the server closed the session".into()),
                    _ => {}
                }
                self.wire.take(end);
            }
            if !done.is_empty() {
                return Ok(());
            }
            self.wire.flush().await?;
            self.wire.read_more().await?;
        }
    }
}

fn words(out: &mut Vec<u8>, words: &[&str]) {
    for word in words {
        text(out, word);
    }
}

/// Whether a token demands more than another of the same session: its origins or their numbers grow.
fn is_later(token: &[u8], than: &[u8]) -> bool {
    let body = |token: &'_ [u8]| token.len().saturating_sub(CHECKSUM_BYTES);
    (token.len(), &token[..body(token)]) > (than.len(), &than[..body(than)])
}

struct Answer<'a> {
    id: u8,
    outcome: Result<(), String>,
    token: &'a [u8],
}

/// Reads `[id, "ok", {body}, token, staleness]`. Without `asked` the body is not looked at.
fn check<'a>(frame: &'a [u8], asked: Option<&[Option<Op>]>) -> Result<Answer<'a>, String> {
    let mut cursor = Cursor(frame);
    let mut read = || {
        cursor.nested()?;
        let id = u8::try_from(cursor.uint()?).ok()?;
        let fine = cursor.text()? == b"ok";
        let mut value = None;
        match asked.and_then(|asked| asked.get(usize::from(id)).copied().flatten()) {
            Some(Op::Get(key, _)) if fine => {
                for _ in 0..cursor.nested()? / 2 {
                    if cursor.text()? == b"value" {
                        value = Some(is_value_of(key, cursor.text()?));
                    } else {
                        cursor.skip()?;
                    }
                }
                value = value.or(Some(false));
            }
            _ => cursor.skip()?,
        }
        let token = Cursor(cursor.0).text().unwrap_or_default();
        Some((id, fine, value, token))
    };
    let Some((id, fine, value, token)) = read() else { return Err("an answer that cannot be read".into()) };
    let outcome = match (fine, value) {
        (true, None | Some(true)) => Ok(()),
        (true, Some(false)) => Err("a value of another key".to_owned()),
        (false, _) => Err(match Frame::decode(frame) {
            Ok(Frame::Answer { outcome: Err(error), .. }) => {
                format!("{}: {}", error.code.as_str(), error.message)
            }
            other => format!("{other:?}"),
        }),
    };
    Ok(Answer { id, outcome, token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_client::wire::ApiError;
    use meridian_client::wire::ErrorCode;
    use meridian_crdt::Value;

    async fn formed(op: Op) -> Request {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let wire =
            Wire::connect(&listener.local_addr().expect("bound").to_string()).await.expect("connected");
        let mut connection =
            Connection { wire, request: vec![], asked: vec![None; 256], token: vec![1; 21], salt: 0 };
        connection.queue(200, op);
        Request::decode(&connection.request).expect("a request that the protocol reads")
    }

    #[tokio::test]
    async fn what_is_queued_is_what_the_protocol_reads() {
        for (op, verb) in [
            (Op::Put(1), "write"),
            (Op::Add, "write"),
            (Op::Get(1, Level::Linearizable), "read"),
            (Op::Txn([1, 2, 3, 4]), "txn"),
            (Op::SetAdd { set: 1, first: 5, count: 300 }, "write"),
        ] {
            let request = formed(op).await;
            assert_eq!((request.id, request.verb.name()), (200, verb));
            assert_eq!(request.session, Some(vec![1; 21]));
        }
        assert_eq!(formed(Op::Get(1, Level::Eventual)).await.session, None);
    }

    #[test]
    fn answers_are_checked() {
        let mut asked = vec![None; 256];
        asked[3] = Some(Op::Get(7, Level::Session));
        let answer = |key| {
            let body = [
                ("type".to_owned(), Value::Str("register".into())),
                ("value".to_owned(), Value::Str(value(key, 1))),
            ];
            let outcome = Ok(body.into());
            Frame::Answer { id: 3, outcome, session: Some(vec![9; 21]), staleness: vec![] }.encode()
        };
        let good = answer(7);
        let read = check(&good, Some(&asked)).expect("readable");
        assert_eq!((read.id, read.outcome, read.token), (3, Ok(()), &[9; 21][..]));
        assert!(check(&answer(8), Some(&asked)).expect("readable").outcome.is_err());
        let error = ApiError::new(ErrorCode::NotFound, "no");
        let error = Frame::Answer { id: 3, outcome: Err(error), session: None, staleness: vec![] }.encode();
        let outcome = check(&error, Some(&asked)).expect("readable").outcome;
        assert_eq!(outcome, Err("not_found: no".into()));
    }

    #[test]
    fn a_later_token_has_higher_numbers_whatever_its_checksum() {
        let token = |seq: u8, checksum: u8| [&[1; 16][..], &[seq], &[checksum; 4]].concat();
        assert!(is_later(&token(2, 0), &token(1, 9)));
        assert!(!is_later(&token(1, 9), &token(1, 0)));
        assert!(is_later(&token(1, 1), &[]));
        assert!(!is_later(&[], &token(1, 1)));
    }
}
