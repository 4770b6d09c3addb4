//! The next delay of something that is tried again: doubling, capped, jittered, seeded.

use std::time::Duration;

/// A back-off in progress. Pure: the same seed gives the same delays.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self { base, cap, attempt: 0, seed }
    }

    /// The next delay: `base * 2^attempt`, at most `cap`, give or take a fifth.
    pub(crate) fn next(&mut self) -> Duration {
        let plain = self.base.saturating_mul(1 << self.attempt.min(16)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        plain.mul_f64(0.8 + 0.4 * unit(&mut self.seed))
    }

    pub(crate) const fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A number in `[0, 1)` from a splitmix64 step. Spreads load; nothing secret depends on it.
pub(crate) fn unit(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let unit = (z >> 11) as f64 / (1_u64 << 53) as f64;
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 7);
        let delays: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(delays[0] <= Duration::from_millis(120));
        assert!(delays[1] >= Duration::from_millis(160));
        assert!(delays[39] >= Duration::from_millis(1600));
        assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(2400)));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(120));
    }
}
