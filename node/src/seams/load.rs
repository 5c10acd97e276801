//! How busy the threads are that run a node's tasks.

use std::time::Duration;

use tokio::runtime::Handle;

/// How busy the threads are that run a node's tasks.
pub trait Load: Send + Sync + 'static {
    /// For how long each of them has worked since it started, on average. It never falls.
    fn worked(&self) -> Duration;
}

/// What the runtime that runs the caller says of itself; without one nobody works.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeLoad;

impl Load for RuntimeLoad {
    fn worked(&self) -> Duration {
        let Ok(runtime) = Handle::try_current() else { return Duration::ZERO };
        let metrics = runtime.metrics();
        let threads = metrics.num_workers();
        let all: Duration = (0..threads).map(|thread| metrics.worker_total_busy_duration(thread)).sum();
        all / u32::try_from(threads.max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_thread_has_worked_while_its_tasks_ran_and_not_while_they_waited() {
        assert_eq!(RuntimeLoad.worked(), Duration::ZERO, "there is no runtime here");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let task = async {
            let work = Duration::from_millis(30);
            let begun = Instant::now();
            while begun.elapsed() < work {
                std::hint::spin_loop();
            }
            let before = RuntimeLoad.worked();
            // What a thread has done is told when it has nothing more to do.
            tokio::time::sleep(work).await;
            (before, RuntimeLoad.worked(), work)
        };
        let runtime = runtime.expect("starts");
        let (before, after, work) = runtime.block_on(async { tokio::spawn(task).await }).expect("ends");
        assert!(before < work && after >= work, "{before:?} {after:?}");
    }
}
