//! Transfers between a few hot accounts by many clients at once, as interactive transactions, while readers in every DC
//! add all accounts up. The total is the same for every reader at every moment, and nobody overdraws.
//!
//! Within a DC the transactions are serializable: a transfer whose accounts changed since it read them is a conflict, and
//! is run again. To other DCs each travels as a whole, so a reader there sees none of it or all of it. With `--spread` the
//! transfers are made in all DCs at once; then the total still holds, but two DCs may spend the same money before they
//! hear of each other: that a balance stays above zero is a decision for one place.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::future::try_join_all;
use meridian_client::net::TransactionOptions;
use meridian_client::{Client, Error, Session, Space};
use meridian_examples::playground::{self, Failure, Playground, Where};
use rand::Rng;
use tokio::task::JoinSet;

/// What every account begins with.
const START: i64 = 1_000;
/// The most that one transfer moves.
const AMOUNT_MAX: i64 = 100;
/// How long one transfer may be run again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause of a reader between two looks, so that the readers leave the machine to the transfers.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Moves money between hot accounts and counts it in every DC.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// How many transfers to make
    #[arg(long, default_value_t = 10_000)]
    transactions: u64,
    /// How many clients make them at once
    #[arg(long, default_value_t = 32)]
    clients: u64,
    /// How many accounts there are
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=1000))]
    accounts: u32,
    /// Make the transfers in all DCs at once, not in the first one only
    #[arg(long)]
    spread: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    committed: AtomicU64,
    declined: AtomicU64,
    runs: AtomicU64,
    unknown: AtomicU64,
    done: AtomicBool,
}

fn main() -> ExitCode {
    playground::main(|args: &Args| &args.place, run)
}

fn account(n: u32) -> String {
    format!("account:{n}")
}

async fn run(playground: &Playground, args: &Args) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for dc in 0..playground.dcs().len() {
        clients.push(playground.client(dc).connect().await?);
    }
    let funding = clients[0].session();
    let funded = (0..args.accounts).fold(bank(&funding).txn(), |txn, n| txn.add(account(n), START));
    funded.commit().await?;
    let token = funding.token();
    println!(
        "{} accounts hold {START} each; {} clients make {} transfers",
        args.accounts, args.clients, args.transactions
    );

    let counts = Arc::new(Counts::default());
    let mut readers = JoinSet::new();
    for client in &clients {
        let session = client.resume(&token)?;
        readers.spawn(read_all(client.current_dc().to_owned(), session, args.clone(), Arc::clone(&counts)));
    }
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for n in 0..args.clients {
        let at = if args.spread { usize::try_from(n).unwrap_or(0) % clients.len() } else { 0 };
        writers.spawn(transfer_all(clients[at].resume(&token)?, args.clone(), Arc::clone(&counts)));
    }
    let (outcome, seen) = finish(writers, readers, &counts).await;
    let took = started.elapsed();
    report(&counts, took, &seen);
    outcome?;
    last_words(&clients, args).await
}

fn bank(session: &Session) -> Space {
    session.space("bank")
}

/// Waits for the writers, then for the readers, even if one of them fails.
async fn finish(
    mut writers: JoinSet<Result<Session, Failure>>,
    mut readers: JoinSet<Result<(String, u64), Failure>>,
    counts: &Counts,
) -> (Result<(), Failure>, Vec<(String, u64)>) {
    let mut outcome = Ok(());
    let mut note = |failure| {
        if outcome.is_ok() {
            outcome = Err(failure);
        }
    };
    let mut broke = |joined: tokio::task::JoinError| Failure::Setup(format!("a task broke: {joined}"));
    while let Some(ended) = writers.join_next().await {
        match ended.map_err(&mut broke) {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) | Err(failure) => note(failure),
        }
    }
    counts.done.store(true, Ordering::Release);
    let mut seen = Vec::new();
    while let Some(ended) = readers.join_next().await {
        match ended.map_err(&mut broke) {
            Ok(Ok(reader)) => seen.push(reader),
            Ok(Err(failure)) | Err(failure) => note(failure),
        }
    }
    seen.sort();
    (outcome, seen)
}

/// One client: transfers until all are made.
async fn transfer_all(session: Session, args: Args, counts: Arc<Counts>) -> Result<Session, Failure> {
    while counts.begun.fetch_add(1, Ordering::Relaxed) < args.transactions {
        let from = rand::rng().random_range(0..args.accounts);
        let to = (from + rand::rng().random_range(1..args.accounts)) % args.accounts;
        let amount = rand::rng().random_range(1..=AMOUNT_MAX);
        match transfer(&session, from, to, amount, &counts).await {
            Ok(true) => counts.committed.fetch_add(1, Ordering::Relaxed),
            Ok(false) => counts.declined.fetch_add(1, Ordering::Relaxed),
            // It took place as a whole or not at all, so the total holds either way.
            Err(Error::OutcomeUnknown { .. }) => counts.unknown.fetch_add(1, Ordering::Relaxed),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(session)
}

async fn transfer(
    session: &Session,
    from: u32,
    to: u32,
    amount: i64,
    counts: &Counts,
) -> Result<bool, Error> {
    let options = TransactionOptions::default().attempts_max(10_000).timeout(PATIENCE);
    let space = bank(session);
    let moved = space.transaction_with(options, |txn| async move {
        counts.runs.fetch_add(1, Ordering::Relaxed);
        let (giver, taker) = (txn.counter(account(from)), txn.counter(account(to)));
        let (balance, _) = tokio::try_join!(giver.value(), taker.value())?;
        if *balance < amount {
            return Ok::<_, Error>(false);
        }
        giver.add(-amount);
        taker.add(amount);
        Ok(true)
    });
    moved.await
}

/// One reader: adds everything up, again and again, each time from one snapshot.
async fn read_all(
    dc: String,
    session: Session,
    args: Args,
    counts: Arc<Counts>,
) -> Result<(String, u64), Failure> {
    let mut times = 0;
    loop {
        let last = counts.done.load(Ordering::Acquire);
        check(&dc, &session, &args).await?;
        times += 1;
        if last {
            return Ok((dc, times));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

async fn check(dc: &str, session: &Session, args: &Args) -> Result<(), Failure> {
    let count = args.accounts;
    let read = |txn: meridian_client::Transaction| async move {
        let accounts: Vec<_> = (0..count).map(|n| txn.counter(account(n))).collect();
        let balances = try_join_all(accounts.iter().map(|account| account.value())).await?;
        Ok::<_, Error>(balances.into_iter().map(|balance| balance.into_inner()).collect::<Vec<_>>())
    };
    let balances = bank(session).transaction(read).await?;
    let (total, expected) = (balances.iter().sum::<i64>(), START * i64::from(count));
    if total != expected {
        return Err(Failure::Violation(format!("{dc} holds {total} in all, not {expected}: {balances:?}")));
    }
    match balances.iter().find(|balance| **balance < 0) {
        Some(balance) if !args.spread => {
            Err(Failure::Violation(format!("{dc} shows a balance of {balance}: {balances:?}")))
        }
        _ => Ok(()),
    }
}

fn report(counts: &Counts, took: Duration, seen: &[(String, u64)]) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (committed, declined) = (count(&counts.committed), count(&counts.declined));
    let again = count(&counts.runs).saturating_sub(committed + declined + count(&counts.unknown));
    let rate = committed as f64 / took.as_secs_f64();
    println!("{committed} transfers committed in {:.1} s: {rate:.0} per second", took.as_secs_f64());
    println!("{declined} declined for lack of money; {again} conflicts, each run again");
    println!("{} with unknown outcome", count(&counts.unknown));
    for (dc, times) in seen {
        println!("{dc}: added up {times} times, always the same total");
    }
}

/// When all is quiet every DC holds the same, and all of it.
async fn last_words(clients: &[Client], args: &Args) -> Result<(), Failure> {
    for client in clients {
        check(client.current_dc(), client, args).await?;
    }
    println!("no money was lost or made");
    Ok(())
}
