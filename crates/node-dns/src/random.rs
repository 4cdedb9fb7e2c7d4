//! Unpredictable numbers: ids of questions are the half of what an attacker must guess to plant an answer.

use ring::rand::{SecureRandom as _, SystemRandom};

/// The kernel's random numbers, some at a time.
pub(crate) struct Random {
    system: SystemRandom,
    pool: [u8; 128],
    used: usize,
}

impl Random {
    pub(crate) fn new() -> Self {
        Self { system: SystemRandom::new(), pool: [0; 128], used: 128 }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > self.pool.len() {
            self.system.fill(&mut self.pool).expect("the kernel has random numbers since it booted");
            self.used = 0;
        }
        self.used += N;
        std::array::from_fn(|index| self.pool[self.used - N + index])
    }

    pub(crate) fn next_u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}
