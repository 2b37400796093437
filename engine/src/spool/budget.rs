//! What may be written to flash in a day, because flash wears out.
//!
//! Counted is what the device has to write, not what was asked for: whole pages of [`PAGE`] bytes, and one
//! for each piece of the file system's own books that changes with them (the file's entry in the table of
//! files, the directory). So a message of 100 bytes counts 8 KiB.

/// Bytes that flash writes at least.
pub const PAGE: u32 = 4096;
/// Length of a day in milliseconds, by the clock that runs since the device was started.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How the budget stood at some moment: what is kept on flash of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes written since the day began.
    pub spent: u32,
    /// How long ago that was, in seconds.
    pub day_s: u32,
}

/// How much of the budget somebody may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Half: checkpoints of the history.
    Half,
    /// Three quarters: routine messages, acknowledgements.
    Routine,
    /// Seven eighths: warnings.
    Most,
    /// All of it: what is critical, and the last words of an agent that ends.
    All,
    /// More than all of it, when it must be: what is written for safety's sake.
    Beyond,
}

/// The budget of the day.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limit: u32,
    spent: u32,
    /// When the day began; none before the first write.
    began_ms: Option<i64>,
}

impl Budget {
    /// So many bytes a day.
    #[must_use]
    pub fn new(limit: u32) -> Budget {
        Budget { limit, spent: 0, began_ms: None }
    }

    /// Goes on where an earlier agent ended. How long the device was off nobody knows, so that does not count.
    pub fn resume(&mut self, stamp: Stamp, now_ms: u64) {
        self.spent = stamp.spent;
        self.began_ms = Some(signed(now_ms) - i64::from(stamp.day_s) * 1000);
    }

    /// Takes note of the time.
    pub fn at(&mut self, now_ms: u64) {
        if self.began_ms.is_some_and(|began| signed(now_ms) - began >= DAY_MS) {
            (self.spent, self.began_ms) = (0, None);
        }
    }

    /// Whether so many bytes may be written.
    #[must_use]
    pub fn allows(&self, cost: u32, share: Share) -> bool {
        let limit = match share {
            Share::Half => self.limit / 2,
            Share::Routine => self.limit / 4 * 3,
            Share::Most => self.limit / 8 * 7,
            Share::All => self.limit,
            Share::Beyond => return true,
        };
        self.spent.saturating_add(cost) <= limit
    }

    /// So many bytes were written.
    pub fn charge(&mut self, cost: u32, now_ms: u64) {
        self.spent = self.spent.saturating_add(cost);
        self.began_ms.get_or_insert(signed(now_ms));
    }

    /// Bytes written since the day began.
    #[must_use]
    pub fn spent(&self) -> u32 {
        self.spent
    }

    /// Bytes a day.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// What is to be kept of it.
    #[must_use]
    pub fn stamp(&self, now_ms: u64) -> Stamp {
        let age_ms = self.began_ms.map_or(0, |began| (signed(now_ms) - began).clamp(0, DAY_MS));
        Stamp { spent: self.spent, day_s: u32::try_from(age_ms / 1000).unwrap_or(u32::MAX) }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 2)
}

/// Pages that a write from one byte to another touches, in bytes.
#[must_use]
pub fn pages(from: u32, to: u32) -> u32 {
    let last = to.saturating_sub(1) / PAGE;
    if to <= from { 0 } else { (last - from / PAGE + 1).saturating_mul(PAGE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole() {
        for (from, to, wanted) in [(0, 0, 0), (0, 1, 1), (0, 4096, 1), (4095, 4097, 2), (4096, 4097, 1)] {
            assert_eq!(pages(from, to), wanted * PAGE, "{from}..{to}");
        }
    }

    #[test]
    fn a_day_ends_and_another_agent_does_not_begin_a_new_one() {
        let mut budget = Budget::new(100);
        budget.charge(90, 1000);
        assert!(!budget.allows(1, Share::Most) && budget.allows(10, Share::All));
        assert!(!budget.allows(11, Share::All) && budget.allows(11, Share::Beyond));
        budget.at(3_600_000);
        let mut next = Budget::new(100);
        next.resume(budget.stamp(3_600_000), 5000);
        assert_eq!(next.spent(), 90);
        let rest = 24 * 3600 - 3599;
        next.at(5000 + rest * 1000 - 1);
        assert_eq!(next.spent(), 90);
        next.at(5000 + rest * 1000);
        assert_eq!((next.spent(), next.stamp(0)), (0, Stamp::default()));
    }
}
