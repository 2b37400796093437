//! Locks in C that are waited for: what the kernel has measured in a time of observation, ranked by what they cost.

use glg_proto::probe::{BlockedThread, LockKey, LockWaits, LongWait, SWITCHES_PER_TIMED};
use heapless::{HistoryBuf, Vec};

use crate::locks::mutex::{self, Kind};
use crate::locks::standing::FutexWait;
use crate::memory::{Addr, Error, Memory};

/// Locks kept of an observation; the others are counted.
pub const LOCKS_KEPT: usize = 8;
/// Long waits kept of an observation, the last.
pub const LONG_WAITS_KEPT: usize = 32;
/// From when on a wait is told one by one, in nanoseconds.
pub const LONG_NS: u64 = 10_000_000;

/// What it costs to enter and leave the program at each switch, in nanoseconds, which the program's own clock does not
/// see. Two threads that woke each other on one processor of a virtual machine (Linux 6.18, amd64) took 195 ns more a
/// switch while another process was observed, of which the clock saw 105, and 410 to 620 ns more while they were
/// observed themselves, of which it saw 470.
const ENTRY_NS: f64 = 100.0;

/// What the kernel's program counts. The numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Switches between threads, of the whole machine.
    pub switches: u64,
    /// Nanoseconds that one in [`SWITCHES_PER_TIMED`] of them took.
    pub timed_ns: u64,
    /// Waits that have ended.
    pub waits: u64,
    /// Locks that were new to the map.
    pub locks_seen: u64,
    /// Waits not measured: too many threads waited.
    pub blocked_full: u64,
    /// Waits whose end the kernel did not tell.
    pub ends_missed: u64,
    /// Waits not accounted for: no room for their lock.
    pub locks_full: u64,
    /// Long waits not told: they were not fetched in time.
    pub long_waits_lost: u64,
    /// Threads that have blocked, of which it could not be read in which call.
    pub unreadable: u64,
}

impl Counted {
    /// What has been counted since an earlier time.
    #[must_use]
    pub fn since(self, start: Counted) -> Counted {
        Counted {
            switches: self.switches.saturating_sub(start.switches),
            timed_ns: self.timed_ns.saturating_sub(start.timed_ns),
            waits: self.waits.saturating_sub(start.waits),
            locks_seen: self.locks_seen.saturating_sub(start.locks_seen),
            blocked_full: self.blocked_full.saturating_sub(start.blocked_full),
            ends_missed: self.ends_missed.saturating_sub(start.ends_missed),
            locks_full: self.locks_full.saturating_sub(start.locks_full),
            long_waits_lost: self.long_waits_lost.saturating_sub(start.long_waits_lost),
            unreadable: self.unreadable.saturating_sub(start.unreadable),
        }
    }

    /// Processor time that the program has taken, in nanoseconds.
    #[must_use]
    pub fn cost_ns(&self) -> f64 {
        self.timed_ns as f64 * SWITCHES_PER_TIMED as f64 + self.switches as f64 * ENTRY_NS
    }

    /// Waits and records of them that were lost here; those whose end the kernel did not tell are not among them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.blocked_full + self.locks_full + self.long_waits_lost + self.unreadable
    }
}

/// A lock, and how it was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended {
    /// The futex that was waited for.
    pub word: Addr,
    /// Where the lock begins, as far as that can be told.
    pub at: Addr,
    /// What it is, as far as that can be told.
    pub kind: Kind,
    /// Waits, those that have not ended included.
    pub waits: u64,
    /// Those that have not ended.
    pub ongoing: u32,
    /// How long all of them together, in nanoseconds.
    pub total_ns: u64,
    /// How long the longest.
    pub longest_ns: u64,
    /// How many by [`LockWaits::bucket`].
    pub histogram: [u32; LockWaits::BUCKETS],
    /// The thread that has waited long last, by its number in the initial namespace.
    pub last_long: Option<u32>,
    /// How it was waited for last.
    op: u32,
    value: u32,
    on_stack: bool,
}

impl Contended {
    fn new(key: LockKey, value: u32) -> Contended {
        let (word, on_stack) = (Addr(key.word), key.on_stack != 0);
        let is_lock = mutex::is_lock_call(key.op, value, on_stack);
        Contended {
            word,
            at: word,
            kind: if is_lock { Kind::Mutex } else { Kind::Futex },
            waits: 0,
            ongoing: 0,
            total_ns: 0,
            longest_ns: 0,
            histogram: [0; LockWaits::BUCKETS],
            last_long: None,
            op: key.op,
            value,
            on_stack,
        }
    }

    fn add(&mut self, other: &Contended) {
        self.waits += other.waits;
        self.ongoing += other.ongoing;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        for (count, more) in self.histogram.iter_mut().zip(other.histogram) {
            *count = count.saturating_add(more);
        }
    }

    /// Whether somebody has it, and others wait for that to end. Who waits for a condition or for the end of a
    /// thread mostly has nothing else to do.
    #[must_use]
    pub fn is_lock(&self) -> bool {
        matches!(self.kind, Kind::Mutex | Kind::RobustMutex | Kind::PiMutex | Kind::RwLock)
    }

    /// A time that `percent` of the waits do not exceed, in nanoseconds: the end of their class of duration.
    #[must_use]
    pub fn quantile_ns(&self, percent: u64) -> u64 {
        let all: u64 = self.histogram.iter().map(|count| u64::from(*count)).sum();
        let rank = (all * percent.min(100)).div_ceil(100).max(1);
        let mut below = 0;
        for (class, count) in self.histogram.iter().enumerate() {
            below += u64::from(*count);
            if below >= rank && class + 1 < LockWaits::BUCKETS {
                return (1000u64 << class).min(self.longest_ns);
            }
        }
        self.longest_ns
    }

    /// The more it costs the larger; first of all locks.
    fn weight(&self) -> (bool, u64) {
        (self.is_lock(), self.total_ns)
    }
}

/// What is known only as a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Locks.
    pub locks: u64,
    /// Waits for them.
    pub waits: u64,
}

/// A time in which one process was observed.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What was waited for, locks first, and of these the one first that was waited for longest all together.
    pub locks: Vec<Contended, LOCKS_KEPT>,
    /// What else was waited for.
    pub others: Rest,
    /// What the kernel had no room to keep: what was not waited for the longest.
    pub evicted: Rest,
    /// The last long waits.
    pub long_waits: HistoryBuf<LongWait, LONG_WAITS_KEPT>,
    /// Nanoseconds.
    pub observed_ns: u64,
    /// What was counted in it.
    pub counted: Counted,
    present: u64,
    accounted: u64,
    ends_missed: u64,
}

impl Observation {
    /// Takes note of a long wait.
    pub fn long_wait(&mut self, wait: LongWait) {
        self.long_waits.write(wait);
    }

    /// Adds what the kernel has measured of a lock.
    pub fn add(&mut self, key: LockKey, waits: &LockWaits) {
        self.present += 1;
        self.accounted += waits.waits;
        let LockWaits { waits, total_ns, longest_ns, value, histogram, .. } = *waits;
        self.keep(Contended { waits, total_ns, longest_ns, histogram, ..Contended::new(key, value) });
    }

    /// Adds a wait that has not ended at `now_ns`.
    pub fn add_ongoing(&mut self, wait: &BlockedThread, now_ns: u64) {
        let waited_ns = now_ns.saturating_sub(wait.since_ns);
        let key = LockKey { word: wait.word, op: wait.op, on_stack: wait.on_stack };
        let mut one = Contended::new(key, wait.value);
        (one.waits, one.ongoing, one.total_ns, one.longest_ns) = (1, 1, waited_ns, waited_ns);
        if let Some(count) = one.histogram.get_mut(LockWaits::bucket(waited_ns)) {
            *count = 1;
        }
        self.keep(one);
    }

    /// Adds waits that were found to have ended, without the kernel having told it.
    pub fn add_ends_missed(&mut self, waits: u64) {
        self.ends_missed += waits;
    }

    /// Adds a lock to those that are kept, or to the others. One that is waited for in two ways is one, as long as it
    /// is kept.
    fn keep(&mut self, lock: Contended) {
        if let Some(known) = self.locks.iter_mut().find(|known| known.word == lock.word) {
            return known.add(&lock);
        }
        let Err(lock) = self.locks.push(lock) else { return };
        let mut least = lock;
        if let Some(lightest) = self.locks.iter_mut().min_by_key(|kept| kept.weight())
            && lightest.weight() < lock.weight()
        {
            least = core::mem::replace(lightest, lock);
        }
        self.others.locks += 1;
        self.others.waits += least.waits;
    }

    /// Ends it, after everything was added.
    pub fn close(&mut self, observed_ns: u64, counted: Counted) {
        (self.observed_ns, self.counted) = (observed_ns, counted);
        self.counted.ends_missed += self.ends_missed;
        self.evicted = Rest {
            locks: counted.locks_seen.saturating_sub(self.present),
            waits: counted.waits.saturating_sub(self.accounted).saturating_sub(counted.locks_full),
        };
        for lock in &mut self.locks {
            let own = |wait: &&LongWait| wait.word == lock.word.0;
            lock.last_long = self.long_waits.oldest_ordered().rfind(own).map(|wait| wait.tid);
        }
        self.rank();
    }

    /// Looks at what the locks are; `threads` are the process's own, in ascending order.
    ///
    /// # Errors
    /// [`Error::Gone`]: then nothing more is known of them.
    pub fn classify(&mut self, threads: &[u32], memory: &mut dyn Memory) -> Result<(), Error> {
        for lock in &mut self.locks {
            let wait = FutexWait { word: lock.word, op: lock.op, value: lock.value, timed: false };
            (lock.kind, lock.at) = mutex::kind(&wait, lock.on_stack, threads, memory)?;
        }
        self.rank();
        Ok(())
    }

    fn rank(&mut self) {
        self.locks.sort_unstable_by(|a, b| b.weight().cmp(&a.weight()).then(a.word.cmp(&b.word)));
    }

    /// The lock that is waited for most, if all together for so many per cent of the time at least.
    #[must_use]
    pub fn contended(&self, percent: u32) -> Option<&Contended> {
        let most = self.locks.first().filter(|lock| lock.is_lock())?;
        let least = u128::from(self.observed_ns) * u128::from(percent);
        (self.observed_ns > 0 && u128::from(most.total_ns) * 100 >= least).then_some(most)
    }
}

#[cfg(test)]
mod tests;
