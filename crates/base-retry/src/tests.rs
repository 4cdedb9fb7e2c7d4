//! Delays, keys and wakes, in paused time.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::{Backoff, BackoffLaw, Jitter, KeyedBackoff, Resumed, Retry, Wake};

const LAW: BackoffLaw = BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(30));
const EXACT: BackoffLaw = LAW.with_jitter(Jitter::None);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn delays_double_up_to_the_longest_and_begin_anew_after_a_success() {
    let mut backoff = Backoff::new(EXACT);
    let delays: Vec<u64> = (0..7).map(|_| backoff.next_delay().as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(backoff.failures(), 7);
    backoff.reset();
    assert_eq!((backoff.failures(), backoff.next_delay()), (0, seconds(1)));
}

#[test]
fn what_ended_at_once_has_not_succeeded() {
    let mut backoff = Backoff::new(EXACT);
    backoff.next_delay();
    backoff.reset_after(seconds(29));
    assert_eq!(backoff.next_delay(), seconds(2));
    backoff.reset_after(seconds(30));
    assert_eq!(backoff.next_delay(), seconds(1));
}

#[test]
fn a_seed_repeats_the_delays() {
    let delays = |seed| -> Vec<Duration> {
        let mut backoff = Backoff::with_seed(LAW, seed);
        (0..5).map(|_| backoff.next_delay()).collect()
    };
    assert_eq!(delays(1), delays(1));
    assert_ne!(delays(1), delays(2));
}

proptest! {
    #[test]
    fn no_delay_is_longer_than_the_longest_or_shorter_than_its_jitter_allows(
        min in 0u64..=u64::MAX, max in 0u64..=u64::MAX, failures: u32, random in 0.0f64..1.0
    ) {
        let law = BackoffLaw::new(Duration::from_millis(min), Duration::from_millis(max));
        let whole = law.with_jitter(Jitter::None).delay(failures, random);
        let equal = law.delay(failures, random);
        let full = law.with_jitter(Jitter::Full).delay(failures, random);
        prop_assert!(whole <= law.max && equal <= whole && full <= whole);
        // Halving rounds, and so do floats of centuries.
        prop_assert!(equal.as_secs_f64() >= whole.as_secs_f64() / 2.0 * 0.999_999 - 2e-9);
    }
}

#[test]
fn keys_back_off_apart_and_are_forgotten_when_they_succeed_or_no_longer_fail() {
    let (mut keys, start) = (KeyedBackoff::new(EXACT), Instant::now());
    assert_eq!(keys.next_delay("a", start), seconds(1));
    assert_eq!(keys.next_delay("a", start), seconds(2));
    assert_eq!(keys.next_delay("b", start + seconds(50)), seconds(1));
    assert_eq!((keys.failures("a"), keys.failures("b"), keys.len()), (2, 1, 2));
    keys.forget_idle(start + seconds(61));
    assert_eq!((keys.failures("a"), keys.failures("b")), (0, 1));
    keys.forget("b");
    assert!(keys.is_empty());
}

#[test]
fn keys_of_objects_that_were_deleted_do_not_pile_up() {
    let (mut keys, start) = (KeyedBackoff::new(EXACT), Instant::now());
    for number in 0..100_000u32 {
        keys.next_delay(number, start + Duration::from_millis(u64::from(number) * 100));
    }
    // Within a minute 600 fail.
    assert!(keys.len() < 3000, "{}", keys.len());
}

#[tokio::test(start_paused = true)]
async fn a_pause_lasts_as_long_as_the_law_says() {
    let mut retry = Retry::new(EXACT).with_wake(&Wake::new());
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        retry.attempt();
        assert_eq!(retry.pause().await, Resumed::Elapsed);
    }
    assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4);
    retry.succeeded();
    assert_eq!(retry.failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_notice_wakes_all_who_wait() {
    let wake = Wake::new();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let mut retry = Retry::new(LAW).with_wake(&wake);
        waiting.spawn(async move {
            // Deep in an outage, where a pause lasts half a minute.
            for _ in 0..10 {
                retry.attempt();
                retry.pause().await;
            }
            retry.attempt();
            while retry.pause().await == Resumed::Elapsed {
                retry.attempt();
            }
            (tokio::time::Instant::now(), retry.failures())
        });
    }
    tokio::time::sleep(Duration::from_secs(400)).await;
    let woken_at = tokio::time::Instant::now();
    wake.wake_all();
    while let Some(woken) = waiting.join_next().await {
        let (resumed_at, failures) = woken.expect("no waiter panics");
        assert!(resumed_at >= woken_at && resumed_at <= woken_at + seconds(1), "after {:?}", resumed_at - woken_at);
        assert_eq!(failures, 1, "what failed before the notice is forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_during_the_attempt_ends_the_pause_after_it() {
    let wake = Wake::new();
    let mut retry = Retry::new(EXACT).with_wake(&wake);
    for _ in 0..5 {
        retry.attempt();
        retry.pause().await;
    }
    wake.wake_all();
    retry.attempt();
    assert_eq!(retry.pause().await, Resumed::Elapsed, "a notice before the attempt was answered by the attempt");
    retry.attempt();
    wake.wake_all();
    let start = tokio::time::Instant::now();
    assert_eq!(retry.pause().await, Resumed::Woken);
    assert_eq!(start.elapsed(), seconds(1), "the shortest delay is kept, for links that come and go");
}

#[tokio::test(start_paused = true)]
async fn a_retry_outlives_its_wake() {
    let wake = Wake::new();
    let mut retry = Retry::new(EXACT).with_wake(&wake);
    drop(wake);
    retry.attempt();
    assert_eq!(retry.pause().await, Resumed::Elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_notice_ends_a_rest_and_is_not_lost_between_two_waits() {
    let wake = Wake::new();
    let mut retry = Retry::new(EXACT).with_wake(&wake);
    let start = tokio::time::Instant::now();
    assert_eq!(retry.rest(seconds(60)).await, Resumed::Elapsed);
    wake.wake_all();
    assert_eq!(retry.rest(seconds(60)).await, Resumed::Woken);
    assert_eq!(start.elapsed(), seconds(61), "the shortest delay is kept");
    assert_eq!(retry.failures(), 0, "a rest follows no failure, whoever ends it");

    let mut notice = wake.notice();
    wake.wake_all();
    notice.called().await;
    wake.wake_all();
    notice.seen();
    let waited = tokio::time::timeout(seconds(5), notice.called()).await;
    assert!(waited.is_err(), "what was seen is not noticed again");
}
