//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first pause is up to so many times the least one: when a broker fails, a whole fleet loses its links at once.
const FIRST: u32 = 8;

/// Exponential backoff with jitter, so that a fleet does not come back all at once.
pub(super) struct Backoff {
    min: u32,
    max: u32,
    limit: u32,
}

impl Backoff {
    /// Milliseconds.
    pub(super) fn new(min: u32, max: u32) -> Backoff {
        Backoff { min, max, limit: first(min, max) }
    }

    /// The last connection was a good one.
    pub(super) fn reset(&mut self) {
        self.limit = first(self.min, self.max);
    }

    /// The pause after a failure of the network: each up to twice as long as the one before.
    pub(super) fn next(&mut self) -> Duration {
        let pause = between(self.min / 2, self.limit);
        self.limit = self.limit.saturating_mul(2).min(self.max);
        pause
    }

    /// The pause when trying sooner is of no use: the longest, less up to half of it.
    pub(super) fn long(&mut self) -> Duration {
        self.limit = self.max;
        between(self.max / 2, self.max)
    }
}

fn first(min: u32, max: u32) -> u32 {
    min.saturating_mul(FIRST).min(max)
}

fn between(least: u32, most: u32) -> Duration {
    // The standard library seeds each of its hashers from the system.
    let random = RandomState::new().hash_one(most);
    let span = u64::from(most.saturating_sub(least).max(1));
    Duration::from_millis(u64::from(least) + random % span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit_with_jitter() {
        let mut backoff = Backoff::new(500, 60_000);
        let pauses: Vec<u128> = (0..200).map(|_| backoff.next().as_millis()).collect();
        assert!(pauses.iter().all(|p| (250..=60_000).contains(p)));
        assert!(pauses[0] < 4000 && pauses.iter().any(|p| *p > 30_000));
        let late: std::collections::BTreeSet<_> = pauses[50..].iter().collect();
        assert!(late.len() > 100, "no jitter");
        backoff.reset();
        assert!(backoff.next().as_millis() < 4000);
        // A thousand devices that lose their links at once come back over seconds.
        let firsts = (0..1000).map(|_| Backoff::new(500, 60_000).next().as_millis() / 1000);
        let mut seconds = [0; 4];
        firsts.for_each(|second| seconds[usize::try_from(second).unwrap()] += 1);
        assert!(seconds.iter().all(|count| *count < 400), "{seconds:?}");
    }

    #[test]
    fn who_was_refused_waits_long_at_once_and_after_that() {
        let mut backoff = Backoff::new(500, 60_000);
        for _ in 0..100 {
            assert!((30_000..=60_000).contains(&backoff.long().as_millis()));
        }
        let after: Vec<u128> = (0..50).map(|_| backoff.next().as_millis()).collect();
        assert!(after.iter().any(|p| *p > 10_000), "{after:?}");
    }
}
