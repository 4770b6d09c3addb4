//! When to try again: doubling delays with seeded jitter.
//!
//! The numbers of [`Backoff::reconnect`]: 0.5 s, 1 s, 2 s, then 4 s, each plus or minus 25 %. So no
//! wait is longer than 5 s: whatever the outage lasted, a node dials within 5 s of the cloud's
//! return. The jitter keeps nodes that lost the same cloud from dialling in step.

use std::time::Duration;

/// Doubling delays between a first and a highest one, each changed by up to a quarter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    highest: Duration,
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// Delays from `first`, doubling to `highest`, each times a factor from 0.75 to 1.25. `seed`
    /// should be random: it decides the factors.
    #[must_use]
    pub fn new(first: Duration, highest: Duration, seed: u64) -> Self {
        Self { first, highest: highest.max(first), attempt: 0, random: seed }
    }

    /// The delays between connections to the cloud: 0.5 s to 4 s before jitter, 5 s at most after.
    #[must_use]
    pub fn reconnect(seed: u64) -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(4), seed)
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let doubled =
            self.first.saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX));
        self.attempt = (self.attempt + 1).min(31);
        let base = doubled.min(self.highest);
        // 750 to 1250 thousandths.
        let thousandths = u32::try_from(750 + self.next_random() % 501).unwrap_or(1000);
        base.saturating_mul(thousandths) / 1000
    }

    /// How many delays have been given since the start or the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Starts over. For when an attempt has proved good, not merely begun well: a peer that accepts
    /// and hangs up at once must still be backed off from.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// SplitMix64: enough for jitter, and the same everywhere for the same seed.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_reconnect_waits_longer_than_five_seconds(seed: u64, attempts in 1usize..80) {
            let mut backoff = Backoff::reconnect(seed);
            for attempt in 0..attempts {
                let delay = backoff.next_delay().as_millis();
                let base = [500, 1000, 2000].get(attempt).copied().unwrap_or(4000);
                prop_assert!((base * 3 / 4..=base * 5 / 4).contains(&delay), "{attempt}: {delay}");
                prop_assert!(delay <= 5000);
            }
        }
    }

    #[test]
    fn two_nodes_do_not_dial_in_step() {
        let delays = |seed| {
            let mut backoff = Backoff::reconnect(seed);
            (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = Backoff::reconnect(7);
        for _ in 0..6 {
            backoff.next_delay();
        }
        assert_eq!(backoff.attempts(), 6);
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(625));
    }
}
