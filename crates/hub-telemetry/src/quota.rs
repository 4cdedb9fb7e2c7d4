//! How much a node may send over time.
//!
//! What a node may *hold* is bounded by budgets and by [`crate::retention`]; what it may *send* is bounded here, so that a
//! gateway that was stolen, or whose rules run wild, does not keep the hub's link and disk busy day and night. Each
//! sender has a balance that fills at a steady rate up to a burst: a node that comes back from a long outage sends what it
//! has kept at full speed for a while, and at the rate from then on.
//!
//! A batch is read as long as there is any balance and charged for what was read, so a balance may go below zero by the
//! batches that were on their way. No length that a sender claims is believed.

use std::collections::HashMap;
use std::time::Duration;

use base_retry::{Allowance, AllowanceLaw};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Bounds of what one node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// What it may send for ever. The default is what ten thousand readings of 1.6 KB a second need, and far more than one
    /// gateway has.
    pub bytes_per_second: u32,
    /// What it may send at once when it has sent little before. The default lets a day's readings of an ordinary gateway
    /// through at full speed.
    pub burst_bytes: u32,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        Self { bytes_per_second: 16 << 20, burst_bytes: 512 << 20 }
    }
}

/// Senders that are remembered before those with a full balance are forgotten.
const SENDERS_KEPT: usize = 1024;

pub(crate) struct Quotas {
    law: AllowanceLaw,
    senders: Mutex<HashMap<String, Allowance>>,
}

impl Quotas {
    pub fn new(limits: QuotaLimits) -> Self {
        let law = AllowanceLaw { per_second: limits.bytes_per_second, burst: limits.burst_bytes };
        Self { law, senders: Mutex::default() }
    }

    /// Whether the sender may send now; if not, when it may.
    pub fn check(&self, user: &str, now: Instant) -> Result<(), Duration> {
        let mut senders = self.senders.lock();
        let Some(balance) = senders.get_mut(user) else { return Ok(()) };
        let left = balance.left(self.law, now);
        if left > 0 {
            return Ok(());
        }
        let missing = left.unsigned_abs() + 1;
        Err(Duration::from_millis(missing.div_ceil(u64::from(self.law.per_second.max(1)))))
    }

    /// Charges the sender for what was read of it.
    pub fn charge(&self, user: &str, bytes: u64, now: Instant) {
        let mut senders = self.senders.lock();
        if let Some(balance) = senders.get_mut(user) {
            return balance.charge(self.law, bytes, now);
        }
        if senders.len() >= SENDERS_KEPT && senders.len() == senders.capacity() {
            // Whoever has its whole burst is as good as never seen.
            senders.retain(|_, balance| !balance.is_full(self.law, now));
        }
        let mut balance = Allowance::full(self.law, now);
        balance.charge(self.law, bytes, now);
        senders.insert(user.to_owned(), balance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuotaLimits = QuotaLimits { bytes_per_second: 1000, burst_bytes: 10_000 };

    #[test]
    fn a_burst_goes_through_and_then_the_rate_counts() {
        let quotas = Quotas::new(LIMITS);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        quotas.charge("a", 9_999, at(0));
        assert_eq!(quotas.check("a", at(0)), Ok(()));
        // One that was on its way may be larger than what is left.
        quotas.charge("a", 2_001, at(0));
        let wait = quotas.check("a", at(0)).expect_err("it has sent its burst");
        assert_eq!(wait, Duration::from_millis(2001));
        assert!(quotas.check("a", at(2000)).is_err());
        assert_eq!(quotas.check("a", at(2001)), Ok(()));
        assert_eq!(quotas.check("b", at(0)), Ok(()), "each has its own");
        // A balance grows to the burst and no further.
        quotas.charge("a", 10_000, at(1_000_000));
        assert!(quotas.check("a", at(1_000_000)).is_err());
    }

    #[test]
    fn looking_often_neither_gains_nor_loses() {
        let quotas = Quotas::new(LIMITS);
        let start = Instant::now();
        quotas.charge("a", 11_000, start);
        for step in 0..3001_u64 {
            let looked = quotas.check("a", start + Duration::from_micros(step * 333));
            assert!(looked.is_err(), "after {} us", step * 333);
        }
        assert!(quotas.check("a", start + Duration::from_millis(1001)).is_ok());
    }

    #[test]
    fn numbers_that_cannot_be_overflow_nothing() {
        let limits = QuotaLimits { bytes_per_second: 0, burst_bytes: u32::MAX };
        let quotas = Quotas::new(limits);
        let start = Instant::now();
        for _ in 0..3 {
            quotas.charge("a", u64::MAX, start);
        }
        assert!(quotas.check("a", start + Duration::from_secs(1 << 30)).is_err());
    }

    #[test]
    fn senders_that_owe_nothing_are_forgotten() {
        let quotas = Quotas::new(LIMITS);
        let start = Instant::now();
        for number in 0..20_000_u64 {
            // Each is full again a millisecond later.
            quotas.charge(&number.to_string(), 1, start + Duration::from_millis(number * 10));
        }
        let kept = quotas.senders.lock().len();
        assert!(kept < 8_000, "{kept} of 20,000");
    }
}
