//! Writes the flights of one DC: one atomic transaction for each, by many clients at once.
//!
//! # What merges, and what must not
//!
//! - `departures:PHX` is a **counter**: every DC adds 1, and concurrent additions sum up. What must not happen is that a
//!   retry adds again: every transaction has a request id, and is repeated under it in its own DC only.
//! - `destinations:PHX` is a **set**: every DC adds, and the union is what anybody wants. Adding twice does no harm.
//! - `latest:PHX-LAS`, the delay of the latest flight of a route *by the flight's date*, does **not** merge as one
//!   register. A register keeps what was *written* last; of two DCs that write at the same time it would keep one by the
//!   time of writing, and lose the later flight if the other DC had it. A precondition does not help, because it is
//!   decided in one DC, before the other's write arrives. So the key is a **map** with one register for each DC,
//!   `{"eu-west": ["2001-01-13 14:56", 32], ...}`: no two DCs ever write the same register, nothing is left to merge,
//!   and whoever reads takes the field with the newest date.
//!
//! Within a DC many clients do write the same field. There the precondition is what makes it right: a client reads the
//! route, and writes its field only if the flight is newer, on the condition that the key still has the `version` it
//! read (or is still `absent`). Otherwise the whole transaction, counter and set included, is refused with nothing
//! changed, and the client reads again and forms another, with another request id. A flight that is not newer needs no
//! condition: the field of a DC only ever moves forward.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use meridian::cli::http::{HttpClient, encode};
use meridian_client::wire::ErrorCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Ask, Client, ClientError, Dc, code};
use crate::data::Flight;
use crate::progress::Progress;
use crate::truth::Latest;

/// The space of all keys of the example.
pub const SPACE: &str = "flights";
/// Clients of each DC that write at the same time.
const CLIENTS_PER_DC: usize = 24;

/// What stands before the airport in the key of its counter.
pub const DEPARTURES: &str = "departures:";
/// What stands before the airport in the key of its set.
pub const DESTINATIONS: &str = "destinations:";
/// What stands before the route in the key of its map.
pub const LATEST: &str = "latest:";

/// One DC's share of the work.
struct Share {
    dc: Arc<Dc>,
    /// The DC's place in the cluster.
    place: usize,
    flights: Vec<Flight>,
    /// The next flight that no client has taken.
    next: AtomicUsize,
}

/// A route as a client has read it.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    /// `None` when the key is absent.
    version: Option<String>,
    latest: BTreeMap<String, Latest>,
}

/// Writes every flight, each in the DC whose turn it is, and returns when all are acknowledged.
pub async fn run(dcs: &[Arc<Dc>], flights: &[Flight], progress: &Arc<Progress>) -> Result<(), ClientError> {
    // Dropping the set, on the first failure, ends all clients.
    let mut clients = JoinSet::new();
    for (place, dc) in dcs.iter().enumerate() {
        let flights = flights.iter().skip(place).step_by(dcs.len()).cloned().collect();
        let share = Arc::new(Share { dc: dc.clone(), place, flights, next: AtomicUsize::new(0) });
        let http = HttpClient::new();
        for number in 0..CLIENTS_PER_DC {
            let client = Client::new(http.clone(), dc.clone(), number);
            clients.spawn(work(share.clone(), client, progress.clone()));
        }
    }
    while let Some(ended) = clients.join_next().await {
        match ended {
            Ok(result) => result?,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    Ok(())
}

/// One client: takes the next flight and writes it, until none is left.
async fn work(share: Arc<Share>, mut client: Client, progress: Arc<Progress>) -> Result<(), ClientError> {
    loop {
        let number = share.next.fetch_add(1, Ordering::Relaxed);
        let Some(flight) = share.flights.get(number) else { return Ok(()) };
        let conflicts = write(&mut client, &share.dc.name, number, flight).await?;
        progress.acknowledge(share.place, client.take_retries(), conflicts);
    }
}

/// Writes one flight and returns how often its route had changed in between.
async fn write(client: &mut Client, dc: &str, number: usize, flight: &Flight) -> Result<u64, ClientError> {
    for conflicts in 0.. {
        let route = read_route(client, &flight.route()).await?;
        // Another try is another request: the refusal of the first one is remembered under its id.
        let id = format!("{dc}/{number}/{conflicts}");
        let ask = Ask::post(format!("/v1/spaces/{SPACE}/txn"), id, &transaction(dc, flight, &route));
        let answer = client.ask(&ask).await?;
        match code(&answer) {
            _ if answer.status == 200 => return Ok(conflicts),
            Some(ErrorCode::PreconditionFailed) => {}
            _ => return Err(client.unexpected(&ask, &answer)),
        }
    }
    unreachable!("the numbers of tries do not end")
}

/// The transaction of one flight: three mutations, or two when the DC knows a later flight of the route.
fn transaction(dc: &str, flight: &Flight, route: &Route) -> Value {
    let mut ops = vec![
        json!({"key": format!("{DEPARTURES}{}", flight.origin), "type": "counter", "op": "add", "by": 1}),
        json!({"key": format!("{DESTINATIONS}{}", flight.origin), "type": "set", "op": "add",
            "element": flight.destination}),
    ];
    let seen = (flight.date.clone(), flight.delay);
    if route.latest.get(dc).is_some_and(|latest| *latest >= seen) {
        return json!({ "ops": ops });
    }
    let key = format!("{LATEST}{}", flight.route());
    let unchanged = match &route.version {
        Some(version) => json!({"key": key, "version": version}),
        None => json!({"key": key, "absent": true}),
    };
    ops.push(json!({"key": key, "type": "map", "op": "update", "field": dc,
        "do": {"type": "register", "op": "set", "value": [seen.0, seen.1]}}));
    json!({ "if": [unchanged], "ops": ops })
}

/// Reads a route as this client's session may see it.
async fn read_route(client: &mut Client, route: &str) -> Result<Route, ClientError> {
    let ask = Ask::get(key_path(&format!("{LATEST}{route}")));
    let answer = client.ask(&ask).await?;
    if code(&answer) == Some(ErrorCode::NotFound) {
        return Ok(Route { version: None, latest: BTreeMap::new() });
    }
    let read = answer.json().filter(|_| answer.status == 200).and_then(|body| {
        let version = body.get("version")?.as_str()?.to_owned();
        Some(Route { version: Some(version), latest: fields(body.get("value")?)? })
    });
    read.ok_or_else(|| client.unexpected(&ask, &answer))
}

/// The path of a key.
pub fn key_path(key: &str) -> String {
    format!("/v1/spaces/{SPACE}/keys/{}", encode(key))
}

/// The value of a route as it is read: for each DC, the latest flight that it has seen.
pub fn fields(value: &Value) -> Option<BTreeMap<String, Latest>> {
    let field = |(dc, field): (&String, &Value)| {
        let [date, delay] = field.get("value")?.as_array()?.as_slice() else { return None };
        Some((dc.clone(), (date.as_str()?.to_owned(), delay.as_i64()?)))
    };
    value.as_object()?.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(date: &str) -> Flight {
        Flight { date: date.into(), origin: "SAN".into(), destination: "SJC".into(), delay: 32 }
    }

    fn route(version: Option<&str>, latest: &[(&str, &str)]) -> Route {
        let latest = latest.iter().map(|(dc, date)| (dc.to_string(), (date.to_string(), 0))).collect();
        Route { version: version.map(String::from), latest }
    }

    #[test]
    fn a_newer_flight_moves_its_dcs_field_on_the_condition_that_the_route_is_as_it_was_read() {
        let read = route(Some("9f"), &[("eu", "2001-01-01 10:00"), ("us", "2001-03-01 10:00")]);
        let txn = transaction("eu", &flight("2001-02-01 10:00"), &read);
        assert_eq!(txn["if"], json!([{"key": "latest:SAN-SJC", "version": "9f"}]));
        assert_eq!(txn["ops"].as_array().map(Vec::len), Some(3));
        assert_eq!(txn["ops"][2]["field"], "eu");
        assert_eq!(txn["ops"][2]["do"]["value"], json!(["2001-02-01 10:00", 32]));
        let first = transaction("eu", &flight("2001-02-01 10:00"), &route(None, &[]));
        assert_eq!(first["if"], json!([{"key": "latest:SAN-SJC", "absent": true}]));
    }

    #[test]
    fn an_older_flight_counts_without_touching_the_route() {
        let read = route(Some("9f"), &[("eu", "2001-02-01 10:00")]);
        let txn = transaction("eu", &flight("2001-01-01 10:00"), &read);
        assert_eq!((txn.get("if"), txn["ops"].as_array().map(Vec::len)), (None, Some(2)));
    }

    #[test]
    fn the_fields_of_a_route_are_read_as_the_interface_shows_them() {
        let value = json!({"eu": {"type": "register", "value": ["2001-02-01 10:00", -3]}});
        assert_eq!(fields(&value), Some(BTreeMap::from([("eu".into(), ("2001-02-01 10:00".into(), -3))])));
        assert_eq!(fields(&json!({"eu": {"type": "register", "value": 1}})), None);
    }
}
