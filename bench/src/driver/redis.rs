//! Redis by its own protocol: each write is followed by `WAIT 1` in the same bytes, and both are one operation.

use std::collections::VecDeque;

use super::Done;
use super::wire::Wire;
use crate::op::{HOT_COUNTER, Op, element_name, is_value_of, key_name, set_name, value};

/// How long `WAIT` waits for the replica, in milliseconds.
const WAIT_MS: &str = "10000";

/// One connection; answers come in the order of requests.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    asked: VecDeque<(u8, Op)>,
    salt: u64,
}

/// A reply, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
enum Reply<'a> {
    Text(&'a [u8]),
    Number(i64),
    Nil,
    Items(usize),
    Error(&'a [u8]),
}

impl Connection {
    /// Connects.
    pub async fn connect(address: &str, salt: u64) -> Result<Self, String> {
        Ok(Self { wire: Wire::connect(address).await?, asked: VecDeque::new(), salt })
    }

    /// Adds an operation to those that the next exchange sends.
    pub fn queue(&mut self, id: u8, op: Op) {
        self.salt = self.salt.wrapping_add(1);
        let out = &mut self.wire.outgoing;
        match op {
            Op::Put(key) => command(out, &["SET", &key_name(key), &value(key, self.salt)]),
            Op::Get(key, _) => command(out, &["GET", &key_name(key)]),
            Op::Add => command(out, &["INCR", HOT_COUNTER]),
            Op::Txn(keys) => {
                command(out, &["MULTI"]);
                for key in keys {
                    command(out, &["SET", &key_name(key), &value(key, self.salt)]);
                }
                command(out, &["EXEC"]);
            }
            Op::SetAdd { set, first, count } => {
                let mut words = vec!["SADD".to_owned(), set_name(set)];
                words.extend((first..first + count).map(element_name));
                command(out, &words);
            }
        }
        if op.writes() > 0 {
            command(out, &["WAIT", "1", WAIT_MS]);
        }
        self.asked.push_back((id, op));
    }

    /// Sends what was queued and takes all answers that are there, at least one.
    pub async fn exchange(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        self.wire.flush().await?;
        loop {
            while let Some((id, op)) = self.asked.front().copied() {
                let Some((end, outcome)) = outcome(self.wire.unread(), op)? else { break };
                self.wire.take(end);
                self.asked.pop_front();
                done.push((id, outcome));
            }
            if !done.is_empty() {
                return Ok(());
            }
            self.wire.read_more().await?;
        }
    }
}

/// One command and its reply as text, for looking after servers.
pub async fn ask(address: &str, words: &[&str]) -> Result<String, String> {
    let mut wire = Wire::connect(address).await?;
    command(&mut wire.outgoing, words);
    wire.flush().await?;
    loop {
        if let Some((reply, _)) = reply(wire.unread())? {
            return match reply {
                Reply::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
                Reply::Number(n) => Ok(n.to_string()),
                Reply::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                Reply::Nil | Reply::Items(_) => Ok(String::new()),
            };
        }
        wire.read_more().await?;
    }
}

fn command<W: AsRef<str>>(out: &mut Vec<u8>, words: &[W]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The reply that `bytes` begin with and where it ends; the items of an array are replies of their own.
fn reply(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, String> {
    let Some(line_end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let (line, next) = (&bytes[1..line_end], line_end + 2);
    let number = || {
        let text = std::str::from_utf8(line).map_err(|e| e.to_string())?;
        text.parse::<i64>().map_err(|e| format!("{text}: {e}"))
    };
    Ok(Some(match bytes[0] {
        b'+' => (Reply::Text(line), next),
        b'-' => (Reply::Error(line), next),
        b':' => (Reply::Number(number()?), next),
        b'*' => (Reply::Items(usize::try_from(number()?).unwrap_or(0)), next),
        b'$' => match usize::try_from(number()?) {
            Err(_) => (Reply::Nil, next),
            Ok(len) if bytes.len() >= next + len + 2 => {
                (Reply::Text(&bytes[next..next + len]), next + len + 2)
            }
            Ok(_) => return Ok(None),
        },
        other => return Err(format!("no reply begins with {other:#x}")),
    }))
}

/// Where the replies to an operation end, and what they amount to.
type Ended = (usize, Result<(), String>);

/// What all replies to one operation amount to, once they are all there, and where they end.
fn outcome(bytes: &[u8], op: Op) -> Result<Option<Ended>, String> {
    let mut at = 0;
    let mut left = match op {
        Op::Get(..) => 1,
        Op::Txn(keys) => 1 + keys.len() + 1 + 1,
        _ => 2,
    };
    let mut outcome = Ok(());
    while left > 0 {
        let Some((reply, len)) = reply(&bytes[at..])? else { return Ok(None) };
        at += len;
        left -= 1;
        let fine = match (&reply, op) {
            (Reply::Items(items), Op::Txn(keys)) if *items == keys.len() => {
                left += items;
                true
            }
            (Reply::Text(found), Op::Get(key, _)) => is_value_of(key, found),
            (Reply::Text(text), _) => matches!(*text, b"OK" | b"QUEUED"),
            // The last reply is that of WAIT: how many replicas have it.
            (Reply::Number(n), _) => *n >= i64::from(left == 0),
            _ => false,
        };
        if !fine && outcome.is_ok() {
            outcome = Err(match reply {
                Reply::Error(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?} in answer to {op:?}"),
            });
        }
    }
    Ok(Some((at, outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Level;

    #[test]
    fn a_write_is_done_when_a_replica_has_it() {
        assert_eq!(outcome(b"+OK\r\n", Op::Put(1)), Ok(None));
        assert_eq!(outcome(b"+OK\r\n:2\r\n", Op::Put(1)), Ok(Some((9, Ok(())))));
        assert!(matches!(outcome(b"+OK\r\n:0\r\n", Op::Put(1)), Ok(Some((9, Err(_))))));
        let txn =
            b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n:1\r\n";
        assert_eq!(outcome(txn, Op::Txn([1; 4])), Ok(Some((txn.len(), Ok(())))));
        assert_eq!(outcome(&txn[..txn.len() - 4], Op::Txn([1; 4])), Ok(None));
    }

    #[test]
    fn a_read_is_checked() {
        let get = Op::Get(7, Level::Session);
        let good = format!("$256\r\n{}\r\n", value(7, 3));
        assert_eq!(outcome(good.as_bytes(), get), Ok(Some((good.len(), Ok(())))));
        let other = format!("$256\r\n{}\r\n", value(8, 3));
        assert!(matches!(outcome(other.as_bytes(), get), Ok(Some((_, Err(_))))));
        assert!(matches!(outcome(b"$-1\r\n", get), Ok(Some((5, Err(_))))));
    }
}
