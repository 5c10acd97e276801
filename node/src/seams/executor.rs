//! Where blocking storage work runs: a thread per store in production, inline in simulation.
//!
//! A worker runs its jobs one after the other in the order of submission; the stores rely on that order.

use std::sync::mpsc;

use thiserror::Error;
use tokio::sync::oneshot;

/// One piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// What a worker's jobs are to the requests of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Requests wait for them.
    Foreground,
    /// Nobody waits for them as long as they are done some time: where processors are short they come last.
    Background,
}

/// How much nicer than the rest a thread of [`Urgency::Background`] is. With 10 it gets a tenth of a processor that somebody
/// else wants whole, so that it still gets on.
const BACKGROUND_NICENESS: i32 = 10;

impl Urgency {
    /// Gives the calling thread its priority.
    fn take_priority(self) {
        // On Linux a priority is that of the thread that asks. To be nicer is always allowed; where a system knows no such
        // thing, jobs are done all the same.
        if self == Urgency::Background
            && let Err(error) = rustix::process::nice(BACKGROUND_NICENESS)
        {
            tracing::warn!(%error, "a storage thread keeps the priority of the others");
        }
    }
}

/// Makes workers.
pub trait Executor: Send + Sync + 'static {
    /// A worker of its own for the store called `name`.
    fn worker(&self, name: &str, urgency: Urgency) -> Box<dyn Worker>;
}

/// Runs jobs one after the other.
pub trait Worker: Send + Sync + 'static {
    /// Runs `job` after all jobs submitted before it. The queue has no bound of its own: each store bounds what it
    /// submits (one drain of its queue at a time, one apply at a time). Errors only when the worker has died.
    fn submit(&self, job: Job) -> Result<(), WorkerStopped>;
}

/// The worker's thread is gone, because a job panicked. Nothing more can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the storage worker has stopped")]
pub struct WorkerStopped;

/// Runs `work` on `worker` and waits for what it returns.
pub async fn run_on<T: Send + 'static>(
    worker: &dyn Worker,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerStopped> {
    let (tx, rx) = oneshot::channel();
    worker.submit(Box::new(move || {
        // The waiter may have been cancelled; the work is done all the same.
        let _ = tx.send(work());
    }))?;
    rx.await.map_err(|_| WorkerStopped)
}

/// A thread for each worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadExecutor;

struct ThreadWorker(mpsc::Sender<Job>);

impl Executor for ThreadExecutor {
    fn worker(&self, name: &str, urgency: Urgency) -> Box<dyn Worker> {
        let (tx, rx) = mpsc::channel::<Job>();
        let spawned = std::thread::Builder::new().name(format!("meridian-{name}")).spawn(move || {
            urgency.take_priority();
            while let Ok(job) = rx.recv() {
                job();
            }
        });
        if let Err(error) = spawned {
            // The receiver died with the closure, so that every submission reports the stop.
            tracing::error!(%error, name, "cannot start a storage thread");
        }
        Box::new(ThreadWorker(tx))
    }
}

impl Worker for ThreadWorker {
    fn submit(&self, job: Job) -> Result<(), WorkerStopped> {
        self.0.send(job).map_err(|_| WorkerStopped)
    }
}

/// Runs each job at once in the caller, so that a simulation has no threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineExecutor;

struct InlineWorker;

impl Executor for InlineExecutor {
    fn worker(&self, _name: &str, _urgency: Urgency) -> Box<dyn Worker> {
        Box::new(InlineWorker)
    }
}

impl Worker for InlineWorker {
    fn submit(&self, job: Job) -> Result<(), WorkerStopped> {
        job();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_of_a_worker_run_in_order_and_return_their_results() {
        for executor in [&ThreadExecutor as &dyn Executor, &InlineExecutor] {
            let worker = executor.worker("test", Urgency::Background);
            let mut waits = Vec::new();
            let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            for i in 0..10 {
                let log = log.clone();
                waits.push(run_on(worker.as_ref(), move || log.lock().unwrap().push(i)));
            }
            for wait in waits {
                wait.await.unwrap();
            }
            assert_eq!(*log.lock().unwrap(), (0..10).collect::<Vec<_>>());
        }
    }
}
