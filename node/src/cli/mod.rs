//! The command line: what can be typed, what is asked for it, and what is shown.
//!
//! Exit codes: 0 when it is done, 1 when it failed, 2 when it was typed wrongly. It speaks to nodes over HTTP only,
//! except for `serve`, which becomes one.

pub mod args;
pub mod bench;
mod data;
pub mod http;
pub mod mutation;
mod request;
mod serve;
pub mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Runtime;

use args::{Cli, ClientOptions, Command, ConfigCommand, Task};

/// Exit code of a command that was typed wrongly.
const USAGE: u8 = 2;

/// Runs the program with these arguments, the first being its name.
///
/// It is not generic, so that the node is compiled once, with this library, and not again with each program that
/// calls it.
pub fn main(args: std::env::ArgsOs) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are not mistakes; if they cannot be printed nobody is reading.
            e.print().ok();
            return ExitCode::from(if e.use_stderr() { USAGE } else { 0 });
        }
    };
    let json = cli.client.json;
    match cli.command {
        // How many threads a node has stands in its configuration.
        Command::Serve(args) => serve::serve(&args, json),
        Command::Config { command: ConfigCommand::Check { file, node } } => {
            serve::check(&file, node.as_deref(), json)
        }
        Command::Task(task) => match runtime(processors()) {
            Ok(runtime) => runtime.block_on(run(task, &cli.client)),
            Err(wrong) => failure(json, &wrong),
        },
    }
}

/// How many processors this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A runtime of so many threads.
fn runtime(threads: usize) -> Result<Runtime, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().worker_threads(threads).global_queue_interval(SHARED_QUEUE_TURN);
    let runtime = runtime.thread_stack_size(THREAD_STACK_BYTES).build();
    runtime.map_err(|e| format!("cannot start threads: {e}"))
}

/// How many tasks a thread runs before it takes one from the queue that all threads share. What a thread has no room for, beyond
/// 256 tasks, waits there, and with tokio's usual 61 it waits for long where no other thread is idle: of 800 linearizable reads
/// in flight on one thread one in a hundred took 65 ms, with 2 it takes 9.
const SHARED_QUEUE_TURN: u32 = 2;

/// The stack of each worker thread. Without optimisation the frames of the Raft core alone exceed the usual 2 MiB;
/// only what is touched takes memory.
const THREAD_STACK_BYTES: usize = 8 << 20;

async fn run(task: Task, options: &ClientOptions) -> ExitCode {
    match task {
        Task::Dev(args) => crate::dev::run::run(args, options.json).await,
        Task::Register(words) => data::mutate(options, "register", &words).await,
        Task::Mvregister(words) => data::mutate(options, "mvregister", &words).await,
        Task::Counter(words) => data::mutate(options, "counter", &words).await,
        Task::Flag(words) => data::mutate(options, "flag", &words).await,
        Task::Dwflag(words) => data::mutate(options, "dwflag", &words).await,
        Task::Set(words) => data::mutate(options, "set", &words).await,
        Task::Rwset(words) => data::mutate(options, "rwset", &words).await,
        Task::Map(words) => data::mutate(options, "map", &words).await,
        Task::Get { key, element, limit, cursor } => {
            data::get(options, &key, element.as_deref(), limit, cursor.as_deref()).await
        }
        Task::Delete { key } => data::delete(options, &key).await,
        Task::List { prefix, limit, cursor } => data::list(options, &prefix, limit, cursor.as_deref()).await,
        Task::Explain { key } => data::explain(options, &key).await,
        Task::Txn { file } => data::txn(options, &file).await,
        Task::Status => status::run(options).await,
        Task::Bench(args) => bench::run(options, &args).await,
    }
}

/// Writes a line to standard output. Whoever closed it does not want to know.
pub(crate) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).ok();
}

/// Writes a line to standard error.
pub(crate) fn complain(text: &str) {
    // There is nowhere left to report that this failed.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Shows a result, and succeeds only if it could be shown.
pub(crate) fn out(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

/// Says why a command failed: for people on standard error, for programs as JSON on standard output.
pub(crate) fn failure(json: bool, reason: &str) -> ExitCode {
    if json {
        out(&serde_json::json!({"error": {"code": "failed", "message": reason}}).to_string());
    } else {
        complain(&format!("error: {reason}"));
    }
    ExitCode::from(1)
}

/// Says why a command cannot be understood.
pub(crate) fn usage(reason: &str) -> ExitCode {
    complain(&format!("error: {reason}\n\nFor more information, try '--help'."));
    ExitCode::from(USAGE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Poll;

    use super::*;

    /// Story: many more tasks than a thread has room for are ready all the time, and there is one thread.
    #[test]
    fn a_task_in_the_queue_that_threads_share_has_its_turn() {
        const TASKS: usize = 800;
        const TURNS: u64 = 1_000;
        let runtime = runtime(1).expect("threads start");
        let (most, turns) = (Arc::<AtomicU64>::default(), Arc::new([const { AtomicU64::new(0) }; TASKS]));
        let task = |task: usize| {
            let (most, turns) = (most.clone(), turns.clone());
            std::future::poll_fn(move |cx| {
                let mine = turns[task].fetch_add(1, Ordering::Relaxed) + 1;
                if most.fetch_max(mine, Ordering::Relaxed) >= TURNS {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        };
        let tasks: Vec<_> = (0..TASKS).map(task).collect();
        runtime.block_on(async {
            // The thread that is to run them is busy until all are there, so that none has a start.
            let spawned = tokio::spawn(async { tasks.into_iter().map(tokio::spawn).collect::<Vec<_>>() });
            for task in spawned.await.expect("all are there") {
                task.await.expect("it ends");
            }
        });
        let least = turns.iter().map(|turns| turns.load(Ordering::Relaxed)).min();
        assert!(least >= Some(TURNS / 5), "while one task had {TURNS} turns another had {least:?}");
    }
}
