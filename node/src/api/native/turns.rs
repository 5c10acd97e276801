//! How connections take turns between reading and answering.
//!
//! A client that waits for an answer sleeps, and waking it costs more than writing to it. So connections that have
//! requests at the same moment read all of them before the first is answered: their answers leave one after the other,
//! and whoever waits for several is woken once. Redis answers what one wait of its event loop brought in the same way.

use std::future::poll_fn;
use std::task::Poll;

use crate::count::Count;

thread_local! {
    /// How many connections have given way on this thread and have not gone on yet, on whichever thread they do.
    static WAITING: Count = Count::default();
}

/// Lets others that are ready have their turn.
///
/// The first to give way goes on when the runtime has looked for new events, and costs no other thread anything. Those
/// after it queue up behind what is ready now, without waiting for more: a task that queues may wake a thread that is
/// idle, which a lone request should not.
pub async fn give_way() {
    let (_waiting, others) = WAITING.with(Count::enter);
    if others == 0 {
        return tokio::task::yield_now().await;
    }
    let mut has_queued = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use futures_util::task::{ArcWake, waker};
    use tokio::task::LocalSet;

    use super::*;

    fn waiting() -> usize {
        WAITING.with(Count::now)
    }

    /// Story: three connections have requests at once. All are read before the first is answered; those behind the first
    /// are answered before the runtime looks whether there are more.
    #[tokio::test]
    async fn all_that_are_ready_read_before_the_first_answers() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let connections = LocalSet::new();
        for name in ["a", "b", "c"] {
            let log = log.clone();
            connections.spawn_local(async move {
                log.borrow_mut().push(("reads", name));
                give_way().await;
                log.borrow_mut().push(("answers", name));
            });
        }
        connections.await;
        let log = log.borrow();
        assert_eq!(log[..3], [("reads", "a"), ("reads", "b"), ("reads", "c")]);
        let mut answered = log[3..].to_vec();
        answered.sort_unstable();
        assert_eq!(answered, [("answers", "a"), ("answers", "b"), ("answers", "c")]);
        assert_eq!(waiting(), 0);
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Who is alone is woken when the runtime has looked for events; those behind others queue at once.
    #[tokio::test]
    async fn only_those_behind_others_queue_at_once() {
        let woken = Arc::<Woken>::default();
        let waker = waker(woken.clone());
        let times = || woken.0.load(Ordering::Relaxed);
        let cx = &mut Context::from_waker(&waker);
        let mut first = pin!(give_way());
        assert!(first.as_mut().poll(cx).is_pending());
        assert_eq!((waiting(), times()), (1, 0));
        {
            let mut second = pin!(give_way());
            let mut third = Box::pin(give_way());
            assert!(second.as_mut().poll(cx).is_pending() && third.as_mut().poll(cx).is_pending());
            assert_eq!((waiting(), times()), (3, 2));
            // One is given up where it stands, as when its client goes away.
            drop(third);
            assert_eq!(waiting(), 2);
            assert!(second.as_mut().poll(cx).is_ready());
        }
        assert_eq!(waiting(), 1);
        first.await;
        assert_eq!(waiting(), 0);
    }
}
