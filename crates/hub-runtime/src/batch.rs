//! Many writes of one key, few at first: when the first is rejected, the thousandth is not tried.

use std::future::Future;

use tokio::task::JoinSet;

/// Most writes of one key that are in flight.
pub const IN_FLIGHT_MAX: usize = 250;

/// What became of a batch.
#[derive(Debug)]
pub struct Batched<T, E> {
    /// What succeeded.
    pub done: Vec<T>,
    /// The first failure; nothing was started after it.
    pub error: Option<E>,
    /// Items that were not tried.
    pub untried: usize,
}

/// Does `act` for each item: one at first, and with each success one more at a time, up to [`IN_FLIGHT_MAX`]; none after the
/// first failure. So the number in flight doubles as responses come, and the slowest of many never holds up the others. Each
/// runs as a task of its own, so that all cores take part.
pub async fn slow_start<I, T, E, F>(items: Vec<I>, mut act: impl FnMut(I) -> F) -> Batched<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut batched = Batched { done: Vec::with_capacity(items.len()), error: None, untried: items.len() };
    let mut items = items.into_iter();
    let mut window = 1;
    // Dropping the set (at shutdown) ends what is in flight.
    let mut in_flight = JoinSet::new();
    loop {
        if batched.error.is_none() {
            for item in items.by_ref().take(window - in_flight.len()) {
                base_observe::spawn_in_set(&mut in_flight, "batched-write", act(item));
                batched.untried -= 1;
            }
        }
        match in_flight.join_next().await {
            None => return batched,
            Some(Ok(Ok(done))) => {
                batched.done.push(done);
                window = (window + 1).min(IN_FLIGHT_MAX);
            }
            Some(Ok(Err(error))) => drop(batched.error.get_or_insert(error)),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_in_flight_grows_up_to_a_limit() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let batched: Batched<usize, ()> = slow_start((0..1000).collect(), |item| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(item)
            }
        })
        .await;
        assert_eq!((batched.done.len(), batched.untried), (1000, 0));
        assert!((100..=IN_FLIGHT_MAX).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[tokio::test]
    async fn what_is_rejected_once_is_not_tried_a_thousand_times() {
        let tried = Arc::new(AtomicUsize::new(0));
        let batched: Batched<(), &str> = slow_start((0..1000).collect(), |item: usize| {
            let tried = tried.clone();
            async move {
                tried.fetch_add(1, Ordering::SeqCst);
                if item == 5 { Err("no") } else { Ok(()) }
            }
        })
        .await;
        let tried = tried.load(Ordering::SeqCst);
        assert!((6..20).contains(&tried), "{tried} were tried");
        assert_eq!((batched.done.len(), batched.error, batched.untried), (tried - 1, Some("no"), 1000 - tried));
    }
}
