//! Threads that have nothing to do are woken now and then, so that they can put their own affairs in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// Often enough for what a trickle of work left behind, seldom enough for a battery.
const PERIOD: Duration = Duration::from_secs(10);

/// How often it is looked whether a burst has ended, which wakes one thread for a moment.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// All threads together are at work for so long between two looks while there is a burst.
const BURST: Duration = Duration::from_millis(100);

/// Tasks for each thread in a visit: a thread that was just woken has work to steal.
const TASKS_PER_THREAD: usize = 4;

/// Work that lasts as long as another thread takes to wake up.
const VISIT: Duration = Duration::from_micros(50);

static VISITS: AtomicU64 = AtomicU64::new(0);

/// How many visits there have been in this process: what a thread does when it parks may be due sooner after one.
pub fn thread_visits() -> u64 {
    VISITS.load(Ordering::Relaxed)
}

/// Wakes the worker threads of the runtime that it is spawned on when a burst of work has ended, and every ten seconds, as far as
/// they are not busy anyway, so that their `on_thread_park` is called: a thread that a burst has left asleep would never
/// get to it. It does not end by itself.
pub async fn visit_threads() {
    let mut looks = tokio::time::interval(CHECK_PERIOD);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut visits = Visits::default();
    loop {
        looks.tick().await;
        let handle = Handle::current();
        let metrics = handle.metrics();
        let worked = (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum();
        if !visits.is_due(worked, Instant::now()) {
            continue;
        }
        VISITS.fetch_add(1, Ordering::Relaxed);
        for _ in 0..metrics.num_workers() * TASKS_PER_THREAD {
            handle.spawn(async {
                let begin = Instant::now();
                while begin.elapsed() < VISIT {
                    std::hint::spin_loop();
                }
            });
        }
    }
}

/// When threads are visited.
#[derive(Default)]
struct Visits {
    /// For how long they had been at work when it was looked last.
    worked: Duration,
    is_burst: bool,
    visited: Option<Instant>,
}

impl Visits {
    fn is_due(&mut self, worked: Duration, now: Instant) -> bool {
        let is_burst = worked.saturating_sub(self.worked) >= BURST;
        let has_ended = self.is_burst && !is_burst;
        (self.worked, self.is_burst) = (worked, is_burst);
        let is_due = has_ended || self.visited.is_none_or(|visited| now.duration_since(visited) >= PERIOD);
        if is_due {
            self.visited = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn threads_are_visited_after_a_burst_and_every_ten_seconds() {
        let begin = Instant::now();
        let mut visits = Visits::default();
        let mut worked = Duration::ZERO;
        let mut seen = Vec::new();
        for second in 0..40 {
            // Little in all seconds but two: the burst of the 14th lasts to the 15th.
            worked += Duration::from_millis(if matches!(second, 14 | 15) { 900 } else { 5 });
            if visits.is_due(worked, begin + Duration::from_secs(second)) {
                seen.push(second);
            }
        }
        assert_eq!(seen, [0, 10, 16, 26, 36]);
    }

    #[test]
    fn every_thread_is_visited() {
        static PARKS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static IS_COUNTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .on_thread_park(|| {
                if !IS_COUNTED.replace(true) {
                    PARKS.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build()
            .expect("threads start");
        runtime.spawn(visit_threads());
        let end = Instant::now() + Duration::from_secs(30);
        while PARKS.load(Ordering::Relaxed) < 2 {
            assert!(Instant::now() < end, "both threads have parked");
            std::thread::yield_now();
        }
    }
}
