//! How much somebody may do over time: a burst at once, and a steady rate for ever.

use std::time::Duration;

use tokio::time::Instant;

/// Bounds of what somebody does, in pieces: requests, events, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowanceLaw {
    /// Pieces that are allowed for ever.
    pub per_second: u32,
    /// Pieces that are allowed at once, after a time of silence.
    pub burst: u32,
}

impl AllowanceLaw {
    /// The largest balance, in thousandths of a piece.
    fn full(self) -> i64 {
        i64::from(self.burst) * 1000
    }
}

/// What somebody may still do; plain and synchronous, for owners that are handed the time.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// What a rate per second gives in a millisecond is a whole number of them.
    thousandths: i64,
    at: Instant,
}

impl Allowance {
    /// The whole burst.
    pub fn full(law: AllowanceLaw, now: Instant) -> Self {
        Self { thousandths: law.full(), at: now }
    }

    /// What is left now, in thousandths of a piece; below zero when more was charged than there was.
    pub fn left(&mut self, law: AllowanceLaw, now: Instant) -> i64 {
        let elapsed = now.duration_since(self.at);
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        // Only whole milliseconds are counted, the rest stays for the next time.
        self.at = now - (elapsed - Duration::from_millis(elapsed_ms.unsigned_abs()));
        let filled = elapsed_ms.saturating_mul(i64::from(law.per_second));
        self.thousandths = self.thousandths.saturating_add(filled).min(law.full());
        self.thousandths
    }

    /// Takes pieces away, also more than are left.
    pub fn charge(&mut self, law: AllowanceLaw, pieces: u64, now: Instant) {
        let charged = i64::try_from(pieces.saturating_mul(1000)).unwrap_or(i64::MAX);
        self.thousandths = self.left(law, now).saturating_sub(charged);
    }

    /// Whether the burst is whole: whoever has it need not be remembered.
    pub fn is_full(&mut self, law: AllowanceLaw, now: Instant) -> bool {
        self.left(law, now) >= law.full()
    }
}
