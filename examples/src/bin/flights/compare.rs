//! Reads the cluster back: first that all nodes hold the same, then what each DC says about the flights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use meridian::cli::http::{HttpClient, encode};
use meridian::dev::Cluster;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Ask, Client, ClientError, Dc};
use crate::load::{DEPARTURES, DESTINATIONS, LATEST, SPACE, fields, key_path};
use crate::truth::Facts;

/// Pause between two looks at the nodes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Keys of one page of a listing.
const PAGE: usize = 200;
/// Keys of one DC that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// What all nodes have in common once they have converged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Transactions of each DC, applied by every node.
    pub vector: BTreeMap<String, u64>,
    /// The digest of the contents.
    pub digest: String,
}

impl Common {
    /// All transactions.
    pub fn txns(&self) -> u64 {
        self.vector.values().sum()
    }
}

/// Waits until every node runs and all report the same vector and the same digest; else says what they report.
pub async fn converged(cluster: &Cluster, patience: Duration) -> Result<Common, String> {
    let deadline = Instant::now() + patience;
    loop {
        let statuses = cluster.statuses().await;
        let common: Vec<Option<Common>> = statuses.iter().map(|s| s.as_ref().and_then(read_status)).collect();
        match common.split_first() {
            Some((Some(first), rest)) if rest.iter().all(|other| other.as_ref() == Some(first)) => {
                return Ok(first.clone());
            }
            _ if Instant::now() < deadline => tokio::time::sleep(LOOK_PAUSE).await,
            _ => return Err(statuses.iter().map(describe).collect::<Vec<_>>().join("\n")),
        }
    }
}

fn read_status(status: &Value) -> Option<Common> {
    let entry = |(dc, seq): (&String, &Value)| Some((dc.clone(), seq.as_u64()?));
    let vector = status.get("vector")?.as_object()?.iter().map(entry).collect::<Option<_>>()?;
    Some(Common { vector, digest: status.get("digest")?.as_str()?.to_owned() })
}

fn describe(status: &Option<Value>) -> String {
    let Some(status) = status else { return "  no answer".into() };
    format!("  {}/{}: vector {}, digest {}", status["dc"], status["node"], status["vector"], status["digest"])
}

/// Lists and reads every key of a DC, its nodes in turn.
pub async fn read(dc: &Arc<Dc>) -> Result<Facts, ClientError> {
    let http = HttpClient::new();
    let keys = list(&mut Client::new(http.clone(), dc.clone(), 0)).await?;
    let reads = keys.iter().enumerate().map(|(number, key)| {
        let mut client = Client::new(http.clone(), dc.clone(), number);
        async move {
            let ask = Ask::get(key_path(key));
            let answer = client.ask(&ask).await?;
            let body = answer.json().filter(|_| answer.status == 200);
            body.map(|body| (key, body)).ok_or_else(|| client.unexpected(&ask, &answer))
        }
    });
    let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    let mut facts = Facts::default();
    while let Some((key, body)) = reads.try_next().await? {
        if note(&mut facts, key, &body).is_none() {
            let what = format!("a read of {key}");
            return Err(ClientError::Unexpected {
                dc: dc.name.clone(),
                what,
                status: 200,
                body: body.to_string(),
            });
        }
    }
    Ok(facts)
}

/// Every key of the space, page by page.
async fn list(client: &mut Client) -> Result<Vec<String>, ClientError> {
    let (mut keys, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let from = cursor.map(|cursor| format!("&cursor={}", encode(&cursor))).unwrap_or_default();
        let ask = Ask::get(format!("/v1/spaces/{SPACE}/keys?limit={PAGE}{from}"));
        let answer = client.ask(&ask).await?;
        let page = answer.json().filter(|_| answer.status == 200).and_then(|body| {
            let key = |entry: &Value| Some(entry.get("key")?.as_str()?.to_owned());
            let page: Vec<String> = body.get("keys")?.as_array()?.iter().map(key).collect::<Option<_>>()?;
            Some((page, body.get("cursor").and_then(Value::as_str).map(String::from)))
        });
        let (page, next) = page.ok_or_else(|| client.unexpected(&ask, &answer))?;
        keys.extend(page);
        if next.is_none() {
            return Ok(keys);
        }
        cursor = next;
    }
}

/// Adds what one key says; `None` if it is not of the form that was written.
fn note(facts: &mut Facts, key: &str, body: &Value) -> Option<()> {
    let value = body.get("value")?;
    if let Some(airport) = key.strip_prefix(DEPARTURES) {
        facts.departures.insert(airport.into(), value.as_i64()?);
    } else if let Some(airport) = key.strip_prefix(DESTINATIONS) {
        let names = value.as_array()?.iter().map(|name| name.as_str().map(String::from));
        facts.destinations.insert(airport.into(), names.collect::<Option<BTreeSet<_>>>()?);
    } else {
        // Each DC has written its own latest flight; the latest of these is the latest of all.
        let latest = fields(value)?.into_values().max()?;
        facts.latest.insert(key.strip_prefix(LATEST)?.into(), latest);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_route_reads_as_the_newest_of_the_dcs_fields() {
        let field = |date: &str, delay: i64| json!({"type": "register", "value": [date, delay]});
        let body =
            json!({"value": {"eu": field("2001-02-01 10:00", 7), "us": field("2001-01-01 10:00", 99)}});
        let mut facts = Facts::default();
        assert_eq!(note(&mut facts, "latest:SAN-SJC", &body), Some(()));
        assert_eq!(note(&mut facts, "departures:SAN", &json!({"value": 12})), Some(()));
        assert_eq!(note(&mut facts, "destinations:SAN", &json!({"value": ["PHX", "SJC"]})), Some(()));
        assert_eq!(facts.latest["SAN-SJC"], ("2001-02-01 10:00".into(), 7));
        assert_eq!((facts.departures_sum(), facts.destinations_sum()), (12, 2));
        assert_eq!(note(&mut facts, "elsewhere:SAN", &json!({"value": 1})), None, "nobody wrote that");
    }

    #[test]
    fn a_status_without_vector_or_digest_is_no_agreement() {
        let status = json!({"vector": {"eu": 3, "us": 4}, "digest": "ab"});
        assert_eq!(read_status(&status).map(|common| common.txns()), Some(7));
        assert_eq!(read_status(&json!({"vector": {"eu": 3}})), None);
    }
}
