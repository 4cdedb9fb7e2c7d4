//! Waiting for a state, with a deadline that names the last one seen.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a state is looked at. Short against every deadline, long against the cost of a look.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// Looks until `look` answers, at most until the deadline; the last refusal is part of the error.
pub fn eventually<T, E: Display>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(last) if start.elapsed() >= deadline => bail!("no {what} within {deadline:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(POLL_PERIOD),
        }
    }
}
