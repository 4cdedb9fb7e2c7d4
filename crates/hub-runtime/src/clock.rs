//! The wall clock of controllers, and since when something is so by clocks that may be wrong.
//!
//! How long ago something was is asked of tokio's time, which nobody sets; what is written into objects or compared with what
//! others wrote there is asked of a [`WallClock`].

use jiff::Timestamp;
use tokio::time::Instant;

use crate::views::{ConditionView, time};

/// Where controllers ask what time it is.
#[derive(Clone, Copy, Debug, Default)]
pub enum WallClock {
    /// The machine's.
    #[default]
    System,
    /// One that moves with tokio's time, which tests pause and advance.
    Simulated {
        /// What it shows …
        start: Timestamp,
        /// … at this moment.
        since: Instant,
    },
}

impl WallClock {
    /// A clock that shows `start` now and moves with tokio's time from here on.
    pub fn simulated(start: Timestamp) -> Self {
        Self::Simulated { start, since: Instant::now() }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Simulated { start, since } => start.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }
}

/// Since when a condition is so by the clock of who wrote it, if that can be right: a box without a clock writes a time before
/// the object existed, or one that is still to come.
pub fn plausible_since(condition: &ConditionView<'_>, created: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let since = time(condition.last_transition_time.as_deref()?)?;
    (created <= since && since <= now).then_some(since)
}

/// Since when something is seen to be so. The hub's own clock may be set back: what was seen by it later than now was seen now,
/// or whoever waits would wait until the clock is there again.
pub fn seen_since(known: Option<Timestamp>, now: Timestamp) -> Timestamp {
    known.filter(|since| *since <= now).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_moves_with_paused_time() {
        let start: Timestamp = "1970-01-01T00:00:00Z".parse().expect("it is a time");
        let clock = WallClock::simulated(start);
        assert_eq!(clock.now(), start);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().as_second(), 3600);
    }

    #[test]
    fn what_was_seen_later_than_now_was_seen_now() {
        let at = |second| Timestamp::from_second(second).expect("it is in range");
        assert_eq!(seen_since(None, at(5)), at(5));
        assert_eq!(seen_since(Some(at(3)), at(5)), at(3));
        assert_eq!(seen_since(Some(at(9)), at(5)), at(5));
    }
}
