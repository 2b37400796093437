//! Records and map layouts of waits for locks in C.

use super::joined;

/// Whose waits are measured, and where the members stand that tell of them, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Thread-group id in the initial PID namespace; 0 for nobody's.
    pub tgid: u32,
    /// Of `pid` in `task_struct`; `tgid` follows it.
    pub pid: u32,
    /// Of `__state` in `task_struct`, before Linux 5.14 `state`.
    pub state: u32,
    /// Of `stack` in `task_struct`.
    pub stack: u32,
    /// Of the user's saved registers from where a thread's kernel stack begins.
    pub registers: u32,
    /// Always 0.
    pub reserved: u32,
    /// Where Go's code begins in the process: waits in it are the Go runtime's own.
    pub text_start: u64,
    /// Where it ends.
    pub text_end: u64,
    /// Nanoseconds from which on a wait is told as a [`LongWait`].
    pub long_ns: u64,
}

impl Observed {
    /// Bytes of it.
    pub const BYTES: usize = 48;

    /// As the map holds it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let pair = |a, b| u64::from_ne_bytes(joined(a, b));
        let words = [
            pair(self.tgid, self.pid),
            pair(self.state, self.stack),
            pair(self.registers, self.reserved),
            self.text_start,
            self.text_end,
            self.long_ns,
        ];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// A thread that waits for a futex.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedThread {
    /// `CLOCK_MONOTONIC` when it gave up the processor.
    pub since_ns: u64,
    /// Address of the futex.
    pub word: u64,
    /// Its operation, flags included.
    pub op: u32,
    /// What the futex had to hold for it to wait.
    pub value: u32,
    /// As [`LockKey::on_stack`].
    pub on_stack: u32,
    /// Always 0.
    pub reserved: u32,
}

impl BlockedThread {
    /// Bytes of it.
    pub const BYTES: usize = 32;

    /// From what the map holds.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [since_ns, word, operation, last] = words(bytes);
        let ((op, value), (on_stack, reserved)) = (parts(operation), parts(last));
        Self { since_ns, word, op, value, on_stack, reserved }
    }
}

/// A futex, and how it is waited for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey {
    /// Its address.
    pub word: u64,
    /// The operation, flags included.
    pub op: u32,
    /// 1 for a variable on the stack of who waits.
    pub on_stack: u32,
}

impl LockKey {
    /// From what the map holds.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [word, last] = words(bytes);
        let (op, on_stack) = parts(last);
        Self { word, op, on_stack }
    }
}

/// The waits for a futex that have ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWaits {
    /// How many.
    pub waits: u64,
    /// How long all together.
    pub total_ns: u64,
    /// How long the longest.
    pub longest_ns: u64,
    /// What the futex had to hold in the last.
    pub value: u32,
    /// Always 0.
    pub reserved: u32,
    /// How many by [`LockWaits::bucket`].
    pub histogram: [u32; LockWaits::BUCKETS],
}

impl LockWaits {
    /// Classes of duration.
    pub const BUCKETS: usize = 24;
    /// Bytes of it.
    pub const BYTES: usize = 128;
    /// The class of a duration: 0 for less than a microsecond, then n for less than 2^n of them, and the last for
    /// everything from 4.2 s on.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(ns: u64) -> usize {
        let bits = u64::BITS - (ns / 1000).leading_zeros();
        if bits as usize >= Self::BUCKETS { Self::BUCKETS - 1 } else { bits as usize }
    }

    /// From what the map holds.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let all: [u64; Self::BYTES / 8] = words(bytes);
        let [waits, total_ns, longest_ns, value, counts @ ..] = all;
        let (value, reserved) = parts(value);
        let mut histogram = [0; Self::BUCKETS];
        for (pair, word) in histogram.chunks_exact_mut(2).zip(counts) {
            let (first, second) = parts(word);
            pair.copy_from_slice(&[first, second]);
        }
        Self { waits, total_ns, longest_ns, value, reserved, histogram }
    }
}

/// One long wait.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongWait {
    /// Address of the futex.
    pub word: u64,
    /// `CLOCK_MONOTONIC` when it began.
    pub since_ns: u64,
    /// How long it lasted.
    pub waited_ns: u64,
    /// Operation of the futex, flags included.
    pub op: u32,
    /// What the futex had to hold for it to wait.
    pub value: u32,
    /// The thread, by its number in the initial PID namespace.
    pub tid: u32,
    /// Always 0.
    pub reserved: u32,
}

impl LongWait {
    /// Bytes of it.
    pub const BYTES: usize = 40;

    /// Reads a record of [`MAP_LONG_WAITS`]; `None` if it has not the size of one.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = record.try_into().ok()?;
        let [word, since_ns, waited_ns, operation, last] = words(bytes);
        let ((op, value), (tid, reserved)) = (parts(operation), parts(last));
        Some(Self { word, since_ns, waited_ns, op, value, tid, reserved })
    }
}

/// The words of 8 bytes of a record.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    }
    words
}

/// Two numbers of 4 bytes, the first in memory first.
fn parts(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records lie in memory in the order in which they are read.
    #[test]
    fn records_of_waits_have_the_layout_that_both_sides_assume() {
        use core::mem::offset_of;
        assert_eq!((size_of::<Observed>(), offset_of!(Observed, text_start)), (Observed::BYTES, 24));
        assert_eq!((size_of::<BlockedThread>(), offset_of!(BlockedThread, op)), (BlockedThread::BYTES, 16));
        assert_eq!((size_of::<LockKey>(), offset_of!(LockKey, op)), (16, 8));
        assert_eq!((size_of::<LockWaits>(), offset_of!(LockWaits, histogram)), (LockWaits::BYTES, 32));
        assert_eq!((size_of::<LongWait>(), offset_of!(LongWait, tid)), (LongWait::BYTES, 32));

        let mut bytes = [0u8; LockWaits::BYTES];
        for (at, place) in (0u8..).zip(bytes.chunks_exact_mut(4)) {
            place.copy_from_slice(&u32::from(at).to_ne_bytes());
        }
        let long = |low: u32, high: u32| u64::from_ne_bytes(joined(low, high));
        let waits = LockWaits::from_bytes(&bytes);
        assert_eq!((waits.waits, waits.total_ns, waits.longest_ns), (long(0, 1), long(2, 3), long(4, 5)));
        assert_eq!((waits.value, waits.reserved), (6, 7));
        assert_eq!((waits.histogram[0], waits.histogram[23]), (8, 31));
        let wait = LongWait::from_bytes(&bytes[..LongWait::BYTES]).unwrap();
        assert_eq!((wait.word, wait.since_ns, wait.waited_ns), (long(0, 1), long(2, 3), long(4, 5)));
        assert_eq!((wait.op, wait.value, wait.tid, wait.reserved), (6, 7, 8, 9));
        assert_eq!(LongWait::from_bytes(&bytes[..LongWait::BYTES - 1]), None);
        let blocked = BlockedThread::from_bytes(bytes[..32].try_into().unwrap());
        assert_eq!((blocked.since_ns, blocked.word), (long(0, 1), long(2, 3)));
        assert_eq!((blocked.op, blocked.value, blocked.on_stack, blocked.reserved), (4, 5, 6, 7));
        let key = LockKey::from_bytes(bytes[..16].try_into().unwrap());
        assert_eq!((key.word, key.op, key.on_stack), (long(0, 1), 2, 3));
        let observed =
            Observed { tgid: 1, pid: 2, state: 3, stack: 4, registers: 5, long_ns: 6, ..Default::default() };
        let bytes = observed.to_bytes();
        let short = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([0, 4, 8, 12, 16, 20, 40].map(short), [1, 2, 3, 4, 5, 0, 6]);
    }

    #[test]
    fn classes_of_durations() {
        let classes =
            [(0, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (3999, 2), (4000, 3), (1_000_000, 10)];
        for (ns, class) in classes {
            assert_eq!(LockWaits::bucket(ns), class, "{ns}");
        }
        assert_eq!(LockWaits::bucket((1 << 22) * 1000 - 1), 22);
        for ns in [(1 << 22) * 1000, u64::MAX] {
            assert_eq!(LockWaits::bucket(ns), LockWaits::BUCKETS - 1);
        }
    }
}
