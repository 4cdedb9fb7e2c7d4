//! The program's memory: one allocator that gives back what is free, and the code that only a start needs.
//!
//! A gateway runs for years between two bursts. glibc's allocator keeps what a burst took: after a thousand connections have
//! come and closed it holds 40 KiB of each, and after two tables of 50,000 pods twice what the pods need. mimalloc holds a
//! third of that, and serves SQLite as well (docs/adr/0007-allocator.md has the figures).

use std::cell::Cell;
use std::time::{Duration, Instant};

use tracing::debug;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The first time comes when what a start sets going has settled.
const FIRST: Duration = Duration::from_secs(1);
/// What a burst has used is given back after this time.
const PERIOD: Duration = Duration::from_secs(600);

/// How often a thread that has nothing to do gives back what it holds; sooner when it is visited, because a burst has ended.
const COLLECT_PERIOD: Duration = Duration::from_secs(5);

thread_local! {
    /// When this thread did so last, and after which visit.
    static COLLECTED: Cell<(Option<Instant>, u64)> = const { Cell::new((None, 0)) };
}

unsafe extern "C" {
    /// Frees what other threads have released of this thread's pages, and returns what is free to the system.
    fn mi_collect(is_forced: bool);
}

/// What a thread of a runtime does before it sleeps, now and then: a connection is often freed by another thread than the one that
/// made it, and then the allocator leaves its memory to the maker, who has no reason to look.
pub fn give_back() {
    let (now, visit) = (Instant::now(), base_observe::thread_visits());
    COLLECTED.with(|collected| {
        let (last, last_visit) = collected.get();
        if visit != last_visit || last.is_none_or(|last| now.duration_since(last) >= COLLECT_PERIOD) {
            // SAFETY: it takes no pointer, and looks after the calling thread's own heap.
            unsafe { mi_collect(true) };
            collected.set((Some(now), visit));
        }
    });
}

/// Unmaps, now and then, the code and the constants that have been touched: most of it was for the start or a rare request, and
/// what runs all the time is mapped again from the page cache, at the cost of some hundred minor faults.
pub(crate) async fn keep_small() {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = PERIOD;
        match base_fs::unmap_untouched_files() {
            Ok(bytes) => debug!(bytes, "Unmapped code that was used."),
            // It only costs memory.
            Err(error) => {
                debug!(%error, "Failed to look at the program's mappings; the code that was used stays mapped.")
            }
        }
    }
}
