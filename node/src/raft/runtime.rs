//! The runtime that openraft runs on: tokio, with randomness from the node's seam.
//!
//! openraft draws its election time-outs from a random generator of its runtime. Here each task of a shard carries the
//! node's [`Random`], so that one seed is one history in a simulation; everything else is tokio's, unchanged.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::impls::TokioRuntime;
use openraft_rand::SeedableRng;
use openraft_rand::rngs::SmallRng;

use crate::seams::{OsRandom, Random};

tokio::task_local! {
    static RANDOM: Arc<dyn Random>;
}

/// Runs `work`, and every task that openraft spawns from it, with this source of randomness.
pub(super) async fn with_random<F: Future>(random: Arc<dyn Random>, work: F) -> F::Output {
    RANDOM.scope(random, work).await
}

/// Tokio, with randomness from the seam of the node that the task belongs to.
#[derive(Debug)]
pub(crate) struct SeamRuntime(TokioRuntime);

impl AsyncRuntime for SeamRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match RANDOM.try_with(Arc::clone) {
            Ok(random) => TokioRuntime::spawn(RANDOM.scope(random, future)),
            // A call from outside of the shard's own tasks.
            Err(_) => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> SmallRng {
        let seed = RANDOM.try_with(|random| random.u64()).unwrap_or_else(|_| OsRandom.u64());
        SmallRng::seed_from_u64(seed)
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rand::Rng;

    use super::*;

    struct Fixed(u64);

    impl Random for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(self.0 as u8);
        }
    }

    async fn drawn_two_tasks_down(seed: u64) -> u64 {
        with_random(Arc::new(Fixed(seed)), async {
            let outer = SeamRuntime::spawn(async {
                SeamRuntime::spawn(async { SeamRuntime::thread_rng().next_u64() }).await
            });
            outer.await.unwrap().unwrap()
        })
        .await
    }

    #[tokio::test]
    async fn every_task_of_a_shard_draws_from_the_seam() {
        assert_eq!(drawn_two_tasks_down(1).await, drawn_two_tasks_down(1).await);
        assert_ne!(drawn_two_tasks_down(1).await, drawn_two_tasks_down(2).await);
        // Outside of a shard the system's randomness serves.
        assert_ne!(SeamRuntime::thread_rng().next_u64(), SeamRuntime::thread_rng().next_u64());
    }
}
