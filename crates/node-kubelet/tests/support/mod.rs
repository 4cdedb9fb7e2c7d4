//! A runtime and a hub that do just enough, and can be looked into.

mod hub;
mod runtime;

use std::time::Duration;

pub use hub::{FakeHub, Issuing};
pub use runtime::FakeRuntime;

/// Waits until `check` is content; after a while it tells what it saw last.
pub async fn eventually(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match check() {
            Ok(()) => return,
            Err(seen) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: not so after 30 s; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
