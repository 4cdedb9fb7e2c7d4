//! Tests of `queue`, in paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn queue() -> Queue<&'static str> {
    Queue::new(QueueOptions::default())
}

/// The next key and how many milliseconds it was waited for; `None` when nothing comes within a minute.
async fn next(queue: &Queue<&'static str>) -> Option<(&'static str, u128)> {
    let began = Instant::now();
    let key = tokio::time::timeout(Duration::from_secs(60), queue.next()).await.ok()??;
    Some((key, began.elapsed().as_millis()))
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_run() {
    let queue = queue();
    queue.add("a");
    queue.add("b");
    queue.add("a");
    assert_eq!(next(&queue).await, Some(("a", 5)));
    assert_eq!(next(&queue).await, Some(("b", 0)));
    queue.done("a", Outcome::Done);
    queue.done("b", Outcome::Done);
    assert_eq!(next(&queue).await, None);
    assert!(queue.state.lock().entries.is_empty(), "what is done is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_while_it_runs_runs_again_afterwards() {
    let queue = queue();
    queue.add("a");
    next(&queue).await;
    queue.add("a");
    assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err(), "one key runs once at a time");
    queue.done("a", Outcome::Done);
    assert!(next(&queue).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_long_run_is_followed_by_a_rest() {
    let queue = queue();
    queue.add("a");
    next(&queue).await;
    tokio::time::advance(Duration::from_millis(100)).await;
    queue.done("a", Outcome::Done);
    queue.add("a");
    assert_eq!(next(&queue).await, Some(("a", 200)));
}

#[tokio::test(start_paused = true)]
async fn a_failed_key_waits_longer_each_time_and_others_do_not_wait() {
    let queue = queue();
    queue.add("a");
    next(&queue).await;
    for pause in [100, 200, 400, 800] {
        queue.done("a", Outcome::Failed);
        queue.add("b");
        assert_eq!(next(&queue).await, Some(("b", 5)));
        queue.done("b", Outcome::Done);
        let (key, waited) = next(&queue).await.unwrap();
        assert_eq!(key, "a");
        // Half of it is random; 5 of it have passed with `b`.
        assert!((pause / 2 - 6..=pause + 1).contains(&waited), "{pause}: {waited}");
    }
    for _ in 0..20 {
        queue.done("a", Outcome::Failed);
        assert!(next(&queue).await.unwrap().1 <= 30_001);
    }
    assert_eq!(queue.lengths(), QueueLengths { ready: 0, later: 0, running: 1, failing: 1 });
    queue.done("a", Outcome::Done);
    assert_eq!(queue.lengths(), QueueLengths::default());
}

#[tokio::test(start_paused = true)]
async fn a_change_brings_a_failed_key_back_sooner() {
    let queue = queue();
    queue.add("a");
    next(&queue).await;
    for _ in 0..8 {
        queue.done("a", Outcome::Failed);
        next(&queue).await;
    }
    queue.done("a", Outcome::Failed);
    queue.add("a");
    assert_eq!(next(&queue).await, Some(("a", 1000)));
}

#[tokio::test(start_paused = true)]
async fn a_key_comes_again_when_it_said_so_or_sooner() {
    let queue = queue();
    queue.add("a");
    next(&queue).await;
    queue.done("a", Outcome::After(Duration::from_secs(15)));
    assert_eq!(next(&queue).await, Some(("a", 15_000)));
    queue.done("a", Outcome::After(Duration::from_secs(15)));
    queue.add("a");
    assert_eq!(next(&queue).await, Some(("a", 5)));
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_keys_and_never_one_key() {
    let queue = Arc::new(Queue::<usize>::new(QueueOptions::default()));
    let running: Arc<Vec<AtomicUsize>> = Arc::new((0..10).map(|_| AtomicUsize::new(0)).collect());
    let (most, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, running, most, runs) = (queue.clone(), running.clone(), most.clone(), runs.clone());
            tokio::spawn(async move {
                while let Some(key) = queue.next().await {
                    assert_eq!(running[key].fetch_add(1, Ordering::SeqCst), 0, "one key runs once at a time");
                    let now = running.iter().map(|one| one.load(Ordering::SeqCst)).sum();
                    most.fetch_max(now, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    running[key].fetch_sub(1, Ordering::SeqCst);
                    runs.fetch_add(1, Ordering::SeqCst);
                    queue.done(key, Outcome::Done);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        (0..10).for_each(|key| queue.add(key));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    queue.close();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 4, "all workers work");
    assert_eq!(runs.load(Ordering::SeqCst), 50);
}
