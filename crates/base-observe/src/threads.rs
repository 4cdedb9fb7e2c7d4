//! Threads that have nothing to do are woken now and then, so that they can put their own affairs in order.

use std::time::Duration;

use tokio::runtime::Handle;

/// Often enough for what a burst left behind, seldom enough for a battery.
const PERIOD: Duration = Duration::from_secs(10);

/// Tasks for each thread in a visit: a thread that was just woken has work to steal.
const TASKS_PER_THREAD: usize = 4;

/// Work that lasts as long as another thread takes to wake up.
const VISIT: Duration = Duration::from_micros(50);

/// Wakes the worker threads of the runtime that it is spawned on every ten seconds, as far as they are not busy anyway, so that their
/// `on_thread_park` is called: a thread that a burst has left asleep would never get to it. It does not end by itself.
pub async fn visit_threads() {
    let mut visits = tokio::time::interval(PERIOD);
    visits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        visits.tick().await;
        let handle = Handle::current();
        for _ in 0..handle.metrics().num_workers() * TASKS_PER_THREAD {
            handle.spawn(async {
                let begin = std::time::Instant::now();
                while begin.elapsed() < VISIT {
                    std::hint::spin_loop();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while PARKS.load(Ordering::Relaxed) < 2 {
            assert!(std::time::Instant::now() < end, "both threads have parked");
            std::thread::yield_now();
        }
    }
}
