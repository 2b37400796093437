//! The goroutine counts, the lock waits and the memory of one target over time, in three fixed rings of decreasing
//! resolution.
//!
//! The coarser rings keep the smallest and largest count of each step: a leak raises the smallest, a burst
//! only the largest. Of the waits they keep the most and the longest, of the memory the smallest.

pub mod checkpoint;

use ringbuf::LocalRb;
use ringbuf::storage::Heap;
use ringbuf::traits::{Consumer, Observer, RingBuffer};

/// Counts and waits over one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Second in which the step began, in the engine's clock.
    pub at_s: u32,
    /// Smallest count seen in it.
    pub min: u32,
    /// Largest count seen in it.
    pub max: u32,
    /// Threads and their longest wait.
    pub waits: Waits,
    /// KiB of the process in memory, the smallest; 0 when that is not known.
    pub resident_kib: u32,
}

impl Sample {
    /// Takes a later one of the same step into this one.
    fn take(&mut self, later: Sample) {
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.waits.threads = self.waits.threads.max(later.waits.threads);
        self.waits.longest_s = self.waits.longest_s.max(later.waits.longest_s);
        self.resident_kib = match (self.resident_kib, later.resident_kib) {
            (0, known) | (known, 0) => known,
            (one, other) => one.min(other),
        };
    }
}

/// Threads that waited for a lock in C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// The most at a time.
    pub threads: u16,
    /// The longest that one had waited, in seconds.
    pub longest_s: u16,
}

/// Bytes one sample takes.
pub const SAMPLE_BYTES: usize = size_of::<Sample>();

/// Length of one ring and of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Seconds per step, at least 1.
    pub step_s: u32,
    /// Steps kept, at least 1.
    pub keep: u32,
}

/// A ring that drops its oldest sample when it is full, and counts what it dropped.
pub struct Ring {
    step_s: u32,
    samples: LocalRb<Heap<Sample>>,
    pushed: u64,
    /// The step that is still being filled.
    open: Option<Sample>,
}

impl Ring {
    /// An empty ring; this is the only allocation it ever makes.
    #[must_use]
    pub fn new(resolution: Resolution) -> Ring {
        Ring {
            step_s: resolution.step_s.max(1),
            samples: LocalRb::new(resolution.keep.max(1) as usize),
            pushed: 0,
            open: None,
        }
    }

    /// Adds what was seen at a second; returns the step that this closed, if any.
    pub fn add(&mut self, sample: Sample) -> Option<Sample> {
        let step = sample.at_s - sample.at_s % self.step_s;
        match &mut self.open {
            Some(open) if open.at_s == step => {
                open.take(sample);
                None
            }
            open => {
                let closed = open.replace(Sample { at_s: step, ..sample });
                if let Some(sample) = closed {
                    self.samples.push_overwrite(sample);
                    self.pushed += 1;
                }
                closed
            }
        }
    }

    /// Adds a wait that has ended to the step that is being filled.
    fn waited(&mut self, longest_s: u16) {
        if let Some(open) = &mut self.open {
            open.waits.longest_s = open.waits.longest_s.max(longest_s);
        }
    }

    /// Takes a step that an earlier agent has kept; the last may be `open` still. Only what comes after all that
    /// is there, and fits the steps of this ring; `false` for anything else.
    fn restore(&mut self, sample: Sample, open: bool) -> bool {
        let newest = self.open.or_else(|| self.samples.iter().next_back().copied());
        let fits = sample.at_s.is_multiple_of(self.step_s) && sample.min <= sample.max;
        if !fits || self.open.is_some() || newest.is_some_and(|newest| newest.at_s >= sample.at_s) {
            return false;
        }
        match open {
            true => self.open = Some(sample),
            false => {
                self.samples.push_overwrite(sample);
                self.pushed += 1;
            }
        }
        true
    }

    /// Closed samples, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Sample> + '_ {
        self.samples.iter().copied()
    }

    /// Samples held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.occupied_len()
    }

    /// Whether no step has been closed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Samples this ring can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.samples.capacity().get()
    }

    /// Samples that were overwritten by newer ones.
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.pushed - self.len() as u64
    }
}

/// Capacities of the three rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// As sampled.
    pub fine: Resolution,
    /// Minutes.
    pub middle: Resolution,
    /// Quarters of an hour.
    pub coarse: Resolution,
}

impl HistoryConfig {
    /// Bytes one target's history takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        [self.fine, self.middle, self.coarse].iter().map(|r| r.keep.max(1) as usize * SAMPLE_BYTES).sum()
    }
}

/// One target's history.
pub struct History {
    /// As sampled.
    pub fine: Ring,
    /// Minutes.
    pub middle: Ring,
    /// Quarters of an hour.
    pub coarse: Ring,
}

impl History {
    /// Empty rings of the configured sizes.
    #[must_use]
    pub fn new(config: &HistoryConfig) -> History {
        History {
            fine: Ring::new(config.fine),
            middle: Ring::new(config.middle),
            coarse: Ring::new(config.coarse),
        }
    }

    /// Adds a wait of so many seconds that has ended since the last count.
    pub fn waited(&mut self, longest_s: u16) {
        self.fine.waited(longest_s);
    }

    /// Adds a count, and what was seen with it; each ring feeds the next coarser one. Says what the coarsest ring is
    /// that closed a step.
    pub fn add(&mut self, at_s: u32, count: u32, waits: Waits, resident_kib: u32) -> Closed {
        let now = Sample { at_s, min: count, max: count, waits, resident_kib };
        let Some(fine) = self.fine.add(now) else { return Closed::Nothing };
        let Some(middle) = self.middle.add(fine) else { return Closed::Fine };
        match self.coarse.add(middle) {
            None => Closed::Middle,
            Some(_) => Closed::Coarse,
        }
    }
}

/// How far a new count reached; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// It went into a step that is still open.
    Nothing,
    /// A step of the fine ring.
    Fine,
    /// A step of the middle ring.
    Middle,
    /// A step of the coarse ring.
    Coarse,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u32, min: u32, max: u32) -> Sample {
        Sample { at_s, min, max, waits: Waits::default(), resident_kib: 0 }
    }

    #[test]
    fn a_ring_never_exceeds_its_capacity_and_accounts_for_every_sample() {
        for keep in [1, 2, 7, 300] {
            let mut ring = Ring::new(Resolution { step_s: 2, keep });
            for i in 0..1000u32 {
                ring.add(sample(i, i, i));
                assert!(ring.len() <= keep as usize);
                assert_eq!(ring.capacity(), keep as usize);
                // Closed steps are held or counted as overwritten; one is open.
                assert_eq!(ring.len() as u64 + ring.overwritten(), u64::from(i / 2));
            }
            let newest = ring.iter().next_back().unwrap();
            assert_eq!(newest, sample(996, 996, 997));
        }
    }

    #[test]
    fn coarser_rings_keep_the_extremes() {
        let r = |step_s| Resolution { step_s, keep: 10 };
        let mut history = History::new(&HistoryConfig { fine: r(1), middle: r(60), coarse: r(900) });
        for second in 0..2000u32 {
            let waits = Waits { threads: u16::from(second % 60 == 40), longest_s: 3 };
            let resident_kib = if second % 7 == 0 { 0 } else { 1000 + second % 60 };
            history.add(second, if second % 60 == 30 { 500 } else { 10 + second / 60 }, waits, resident_kib);
        }
        let waits = Waits { threads: 1, longest_s: 3 };
        assert!(history.middle.iter().all(|minute| minute.waits == waits && minute.resident_kib < 1004));
        let minutes: alloc::vec::Vec<_> = history.middle.iter().collect();
        assert_eq!(minutes.len(), 10);
        assert!(minutes.iter().all(|m| m.max == 500 && m.min == 10 + m.at_s / 60), "{minutes:?}");
        let quarter = history.coarse.iter().next().unwrap();
        assert_eq!(quarter, Sample { waits, resident_kib: 1000, ..sample(0, 10, 500) });
    }
}
