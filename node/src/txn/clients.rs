//! The memory of numbered requests: the last 256 answers of each client, and for idle clients only up to which number
//! everything is forgotten.
//!
//! A client counts its requests upwards. Number `n` has the slot `n % 256`, which keeps the answer until a higher number
//! takes the slot; so an equal number is a retry, a lower number than the one in its slot is a request whose answer is
//! gone, and only a number above all that its slot has seen is new. A client that is idle for ten minutes of log time
//! loses its slots; one row says for a day which numbers may have been among them. So no number is ever applied twice
//! while anything is known of its client.
//!
//! ```text
//! CLIENT_SLOTS  client u128 | slot u8      -> number, fingerprint, answer
//! CLIENTS       client u128                -> last use, forgotten up to, place in the order
//! CLIENT_ORDER  0 or 1 | number u64        -> client          0: has answers, 1: has none; each by last use
//! ```

use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_crdt::{Cells, ReadCells};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::bounds::{
    CLIENT_ANSWERS_KEPT, CLIENT_SLOTS_MAX, CLIENT_USE_NOTED_MS, CLIENTS_KEPT_MAX, CLIENTS_KEPT_MS,
    CLIENTS_LOOKED_AT_EVERY_MS, REQUESTS_KEPT_MS,
};
use super::entry::{Answer, Numbered};
use super::requests::{self, Recall};
use super::state::{ShardState, tables};

/// Rows that parking or dropping a client takes besides its slots.
const ROWS_PER_CLIENT: usize = 2;

#[derive(Serialize, Deserialize)]
struct Slot {
    number: u64,
    fingerprint: u64,
    answer: Answer,
}

/// The front of a [`Slot`]: enough to know which number it holds.
#[derive(Deserialize)]
struct SlotNumber(u64, serde::de::IgnoredAny, serde::de::IgnoredAny);

/// Whether a client has answers, as the first byte of its place in the order.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Queue {
    Live = 0,
    Parked = 1,
}

#[derive(Serialize, Deserialize)]
struct Client {
    /// Log time, noted coarsely.
    used_ms: u64,
    /// Up to this number everything is forgotten.
    forgotten: u64,
    queue: Queue,
    place: u64,
}

fn slot_key(id: Numbered) -> [u8; 17] {
    let mut key = [0; 17];
    key[..16].copy_from_slice(&id.client.to_be_bytes());
    // The remainder of a division by 256 is one byte.
    key[16] = id.number.to_be_bytes()[7];
    key
}
const _: () = assert!(CLIENT_ANSWERS_KEPT == 256);

fn order_key(queue: Queue, place: u64) -> [u8; 9] {
    let mut key = [queue as u8; 9];
    key[1..].copy_from_slice(&place.to_be_bytes());
    key
}

/// A row that does not decode was written by another version: what it said is taken as unknown, on the safe side.
fn decode<T: DeserializeOwned>(row: &[u8]) -> Option<T> {
    rmp_serde::from_slice(row).ok()
}

fn encode<T: Serialize>(row: &T) -> Bytes {
    let row = rmp_serde::to_vec(row).unwrap_or_else(|e| unreachable!("numbers and answers encode: {e}"));
    row.into_boxed_slice().into()
}

/// Looks a numbered request up. Without a fingerprint whatever was answered under the number is the answer.
pub fn recall<C: ReadCells>(cells: &C, id: Numbered, fingerprint: Option<u64>) -> Result<Recall, C::Error> {
    if let Some(row) = cells.get(tables::CLIENT_SLOTS, &slot_key(id))? {
        let Some(slot) = decode::<Slot>(&row) else { return Ok(Recall::Forgotten) };
        if slot.number > id.number {
            return Ok(Recall::Forgotten);
        }
        if slot.number == id.number {
            let same = requests::is_same(slot.fingerprint, fingerprint);
            return Ok(if same { Recall::Answered(Box::new(slot.answer)) } else { Recall::Reused });
        }
    }
    Ok(match cells.get(tables::CLIENTS, &id.client.to_be_bytes())? {
        Some(row) if decode::<Client>(&row).is_none_or(|client| client.forgotten >= id.number) => {
            Recall::Forgotten
        }
        _ => Recall::New,
    })
}

/// Keeps `answer` for a number that [`recall`] has found to be new.
pub fn remember<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    id: Numbered,
    fingerprint: u64,
    answer: &Answer,
) -> Result<(), C::Error> {
    let key = slot_key(id);
    if cells.get(tables::CLIENT_SLOTS, &key)?.is_none() {
        state.clients.slots += 1;
    }
    let slot = Slot { number: id.number, fingerprint, answer: answer.clone() };
    cells.put(tables::CLIENT_SLOTS, &key, encode(&slot))?;
    note_use(state, cells, id.client)
}

/// Notes that a client was used, unless that was noted a moment ago.
fn note_use<C: Cells>(state: &mut ShardState, cells: &mut C, client: u128) -> Result<(), C::Error> {
    let known = cells.get(tables::CLIENTS, &client.to_be_bytes())?;
    let forgotten = match known.as_deref().map(decode::<Client>) {
        Some(Some(row)) => {
            let noted = row.used_ms.saturating_add(CLIENT_USE_NOTED_MS) > state.log_time_ms;
            if noted && row.queue == Queue::Live {
                return Ok(());
            }
            cells.remove(tables::CLIENT_ORDER, &order_key(row.queue, row.place))?;
            row.forgotten
        }
        // Of a row that does not decode recall has said that its numbers are forgotten, so none of them comes here.
        Some(None) => 0,
        None => {
            state.clients.known += 1;
            0
        }
    };
    place(
        state,
        cells,
        client,
        &mut Client { used_ms: state.log_time_ms, forgotten, queue: Queue::Live, place: 0 },
    )
}

/// Puts a client at the end of its queue.
fn place<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    client: u128,
    row: &mut Client,
) -> Result<(), C::Error> {
    row.place = state.clients.order_end;
    state.clients.order_end += 1;
    cells.put(
        tables::CLIENT_ORDER,
        &order_key(row.queue, row.place),
        Bytes::copy_from_slice(&client.to_be_bytes()),
    )?;
    cells.put(tables::CLIENTS, &client.to_be_bytes(), encode(row))
}

/// Forgets clients that have been idle for long and parks those that have been idle for a while, until about `rows_max`
/// rows are looked at, and one client at least. What is too much goes whatever its age, the longest idle first. It
/// looks once in a while only, or when there is too much.
pub fn expire<C: Cells>(state: &mut ShardState, cells: &mut C, rows_max: usize) -> Result<(), C::Error> {
    let look_at_ms = state.clients.looked_ms.saturating_add(CLIENTS_LOOKED_AT_EVERY_MS);
    if state.log_time_ms < look_at_ms && !too_many(state) {
        return Ok(());
    }
    let mut rows = 0;
    while rows < rows_max {
        if drop_parked(state, cells)? {
            rows += ROWS_PER_CLIENT;
            continue;
        }
        match first_of(cells, Queue::Live)? {
            Some(first)
                if too_many(state) || first.is_idle_for(REQUESTS_KEPT_MS + CLIENT_USE_NOTED_MS, state) =>
            {
                rows += park(state, cells, first)?;
            }
            _ => {
                state.clients.looked_ms = state.log_time_ms;
                break;
            }
        }
    }
    Ok(())
}

fn too_many(state: &ShardState) -> bool {
    state.clients.slots > CLIENT_SLOTS_MAX || state.clients.known > CLIENTS_KEPT_MAX
}

/// The client at the front of a queue. Its row is missing or unreadable only if another version wrote it.
struct First {
    client: [u8; 16],
    order: Vec<u8>,
    row: Option<Client>,
}

impl First {
    fn is_idle_for(&self, ms: u64, state: &ShardState) -> bool {
        self.row.as_ref().is_none_or(|row| row.used_ms.saturating_add(ms) < state.log_time_ms)
    }
}

fn first_of<C: ReadCells>(cells: &C, queue: Queue) -> Result<Option<First>, C::Error> {
    let mut found = None;
    let end = [queue as u8 + 1];
    cells.scan(tables::CLIENT_ORDER, &[queue as u8], Some(&end), &mut |order, client| {
        found = client.try_into().ok().map(|client: [u8; 16]| (order.to_vec(), client));
        ControlFlow::Break(())
    })?;
    let Some((order, client)) = found else { return Ok(None) };
    let row = cells.get(tables::CLIENTS, &client)?.and_then(|row| decode(&row));
    Ok(Some(First { client, order, row }))
}

/// Drops the answers of a client and keeps in mind which numbers they were. Says how many rows that took.
fn park<C: Cells>(state: &mut ShardState, cells: &mut C, first: First) -> Result<usize, C::Error> {
    let row = first.row.as_ref();
    let (mut forgotten, used_ms) = row.map_or((0, state.log_time_ms), |row| (row.forgotten, row.used_ms));
    let mut slots = Vec::new();
    let (from, to) = (slot_bound(first.client, 0), slot_bound(first.client, 1));
    cells.scan(tables::CLIENT_SLOTS, &from, Some(&to), &mut |key, slot| {
        slots.push(key.to_vec());
        forgotten = forgotten.max(decode::<SlotNumber>(slot).map_or(u64::MAX, |slot| slot.0));
        ControlFlow::Continue(())
    })?;
    for key in &slots {
        cells.remove(tables::CLIENT_SLOTS, key)?;
    }
    state.clients.slots = state.clients.slots.saturating_sub(slots.len() as u64);
    cells.remove(tables::CLIENT_ORDER, &first.order)?;
    let mut row = Client { used_ms, forgotten, queue: Queue::Parked, place: 0 };
    place(state, cells, u128::from_be_bytes(first.client), &mut row)?;
    Ok(slots.len() + ROWS_PER_CLIENT)
}

/// Where the slots of a client begin (0), and what is behind their end (1): the slot's byte is extended by one.
fn slot_bound(client: [u8; 16], end: u8) -> Vec<u8> {
    let mut bound = client.to_vec();
    if end == 1 {
        bound.extend([u8::MAX, 0]);
    }
    bound
}

/// Forgets the longest idle of the clients without answers, if it is idle for long enough or there are too many.
fn drop_parked<C: Cells>(state: &mut ShardState, cells: &mut C) -> Result<bool, C::Error> {
    let Some(first) = first_of(cells, Queue::Parked)? else { return Ok(false) };
    if state.clients.known <= CLIENTS_KEPT_MAX && !first.is_idle_for(CLIENTS_KEPT_MS, state) {
        return Ok(false);
    }
    cells.remove(tables::CLIENT_ORDER, &first.order)?;
    cells.remove(tables::CLIENTS, &first.client)?;
    state.clients.known = state.clients.known.saturating_sub(1);
    Ok(true)
}
