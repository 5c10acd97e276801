//! A watch in one DC of what is written in others, through the loss of the DC that it looks at.
//!
//! Each transaction that touched the prefix is told whole and once, those of one writer in their order. When the watch's
//! DC is killed it goes on at another one, from its cursor.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures_util::StreamExt;
use meridian_client::{Client, Error, WatchItem};
use meridian_examples::playground::{self, Failure, Playground, Where};

/// How long the next event may take, the failover included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Watches orders through the loss of a DC.
#[derive(Debug, Parser)]
struct Args {
    /// Orders to write in each of two DCs
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(i64).range(2..))]
    orders: i64,
    #[command(flatten)]
    place: Where,
}

fn main() -> ExitCode {
    playground::main(|args: &Args| &args.place, run)
}

async fn run(playground: &Playground, args: &Args) -> Result<(), Failure> {
    let cluster = playground.cluster()?;
    let count = playground.dcs().len();
    if count < 3 {
        return Err(Failure::Setup("this example needs three DCs: two that write, one that is lost".into()));
    }
    let lost = count - 1;
    let writers = [playground.client(0).connect().await?, playground.client(1).connect().await?];
    let watcher = playground.client(lost).connect().await?;
    println!(
        "{} and {} write; the watch is at {}",
        writers[0].current_dc(),
        writers[1].current_dc(),
        watcher.current_dc()
    );
    let mut watch = watcher.watch_prefix("order:");
    // Its first item says where it stands: everything after that is told.
    next(&mut watch).await?;

    let mut told: BTreeMap<String, i64> = BTreeMap::new();
    let half = args.orders / 2;
    write(&writers, 1..=half).await?;
    read(&mut watch, &mut told, 2 * half).await?;
    println!("{half} orders of each were told at {}", watcher.current_dc());

    for node in playground.nodes(lost) {
        cluster.kill(&node).await?;
    }
    println!("-- all nodes of {} are killed", playground.dcs()[lost]);
    write(&writers, half + 1..=args.orders).await?;
    read(&mut watch, &mut told, 2 * args.orders).await?;
    println!("the rest was told at {}; each order once, in its writer's order", watcher.current_dc());
    Ok(())
}

/// Writes orders at both writers: two keys in one transaction each.
async fn write(writers: &[Client], numbers: std::ops::RangeInclusive<i64>) -> Result<(), Error> {
    for n in numbers {
        for writer in writers {
            let dc = writer.current_dc();
            let order = writer.txn().set(format!("order:{dc}:{n}"), n).add(format!("order:{dc}:count"), 1);
            order.commit().await?;
        }
    }
    Ok(())
}

async fn next(watch: &mut meridian_client::net::Watch) -> Result<WatchItem, Failure> {
    match tokio::time::timeout(PATIENCE, watch.next()).await {
        Ok(Some(item)) => Ok(item?),
        Ok(None) => Err(Failure::Violation("the watch has ended".into())),
        Err(_) => Err(Failure::Violation(format!("nothing was told for {PATIENCE:?}"))),
    }
}

/// Reads events until `total` orders were told; each must be the next one of its DC, and whole.
async fn read(
    watch: &mut meridian_client::net::Watch,
    told: &mut BTreeMap<String, i64>,
    total: i64,
) -> Result<(), Failure> {
    while told.values().sum::<i64>() < total {
        let txn = match next(watch).await? {
            WatchItem::Txn(txn) => txn,
            WatchItem::CursorExpired(_) => {
                return Err(Failure::Violation("the oplog no longer reaches back".into()));
            }
            _ => continue,
        };
        let last = told.entry(txn.dc.clone()).or_default();
        let expected = format!("order:{}:{}", txn.dc, *last + 1);
        let keys: Vec<&str> = txn.changes.iter().map(|change| change.key.as_str()).collect();
        if keys.len() != 2 || !keys.contains(&expected.as_str()) {
            return Err(Failure::Violation(format!("{expected} is next, but {keys:?} was told")));
        }
        *last += 1;
    }
    Ok(())
}
