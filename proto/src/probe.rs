//! Records and map layouts shared by the eBPF programs and the agent.
//!
//! Both sides run on one machine and are built together, so these are `repr(C)` structs in native byte
//! order with explicit padding; no field is ever uninitialised.

mod waits;

pub use waits::{BlockedThread, LockKey, LockWaits, LongWait, Observed};

/// Ring buffer of [`ProcessEvent`].
pub const MAP_PROCESS_EVENTS: &str = "PROCESS_EVENTS";
/// Per-CPU array of [`Counter`] values, indexed by [`Counter`] as `u32`.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Hash map from thread-group id (`u32`) to [`AttributeTarget`]: whom the goroutine probes count.
pub const MAP_ATTRIBUTE_TARGETS: &str = "ATTRIBUTE_TARGETS";
/// Hash map from [`SiteKey`] to [`SiteCount`].
pub const MAP_SITES: &str = "SITES";
/// Array of one [`Observed`]: whose waits are measured, and how this kernel's structures are laid out.
pub const MAP_OBSERVED: &str = "OBSERVED";
/// Hash map from thread id (`u32`) to [`BlockedThread`].
pub const MAP_BLOCKED: &str = "BLOCKED";
/// Hash map from [`LockKey`] to [`LockWaits`]; evicts what was not waited for the longest.
pub const MAP_LOCKS: &str = "LOCKS";
/// Ring buffer of [`LongWait`].
pub const MAP_LONG_WAITS: &str = "LONG_WAITS";

/// A futex so close above the stack pointer, in bytes, is a variable of the waiting functions: musl's conditions are.
pub const STACK_NEAR: u64 = 1024;

/// Of so many switches one times itself. A prime, so that no rhythm of switches hides some of them: every
/// sixteenth of a ping-pong would always be the same player's.
pub const SWITCHES_PER_TIMED: u64 = 17;

/// A process began to run a new program, or ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEvent {
    /// [`ProcessEvent::EXEC`] or [`ProcessEvent::EXIT`].
    pub kind: u32,
    /// Thread-group id in the initial PID namespace.
    pub tgid: u32,
}

impl ProcessEvent {
    /// The process has replaced its program.
    pub const EXEC: u32 = 1;
    /// The process's first thread has ended.
    pub const EXIT: u32 = 2;

    /// Reads a record of [`MAP_PROCESS_EVENTS`]; `None` if it has not the size of one.
    #[must_use]
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let (kind, tgid) = record.split_first_chunk()?;
        Some(Self { kind: u32::from_ne_bytes(*kind), tgid: u32::from_ne_bytes(tgid.try_into().ok()?) })
    }
}

/// Indices into [`MAP_COUNTERS`]. Counts only grow; the agent works with differences.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Hits of the goroutine creation probe.
    CreateHits = 0,
    /// Hits of the goroutine exit probe.
    ExitHits = 1,
    /// Hits of the calibration probe.
    CalibrationHits = 2,
    /// Hits that found no free slot in [`MAP_SITES`].
    SitesFull = 3,
    /// Exits whose `g` could not be read.
    Unreadable = 4,
    /// Process events that found the ring buffer full.
    EventsLost = 5,
    /// Switches between threads seen while one was observed: of the whole machine.
    Switches = 6,
    /// Nanoseconds that one in [`SWITCHES_PER_TIMED`] of them took.
    SwitchTimedNs = 7,
    /// Waits that have ended.
    Waits = 8,
    /// Locks that were new to [`MAP_LOCKS`]: less those that it holds they are those that it has evicted.
    LocksSeen = 9,
    /// Waits that found no room in [`MAP_BLOCKED`] when they began.
    BlockedFull = 10,
    /// Waits whose lock found no room in [`MAP_LOCKS`], though another should have given way.
    LocksFull = 11,
    /// Long waits that found the ring buffer full.
    LongWaitsLost = 12,
    /// Threads that have blocked, of which it could not be read in which call.
    CallsUnreadable = 13,
    /// Waits whose end the kernel did not tell: the same thread has begun another.
    EndsMissed = 14,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: u32 = 15;
}

/// What the exit probe needs to know of a target's runtime.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeTarget {
    /// Byte offset of `gopc` in `runtime.g`.
    pub gopc_offset: u32,
    /// Always 0.
    pub reserved: u32,
}

impl AttributeTarget {
    /// As the map holds it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        joined(self.gopc_offset, self.reserved)
    }
}

/// A creation site: the return address of a `go` statement in one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteKey {
    /// Thread-group id in the initial PID namespace.
    pub tgid: u32,
    /// Always 0.
    pub reserved: u32,
    /// Program counter, as the process sees it.
    pub pc: u64,
}

impl SiteKey {
    /// From what the map holds.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (ids, pc) = halves(bytes);
        let [a, b, c, d, e, f, g, h] = ids;
        Self {
            tgid: u32::from_ne_bytes([a, b, c, d]),
            reserved: u32::from_ne_bytes([e, f, g, h]),
            pc: u64::from_ne_bytes(pc),
        }
    }
}

/// Goroutines created and ended at one site while the probes were attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCount {
    /// Goroutines created there.
    pub created: u64,
    /// Goroutines from there that ended.
    pub exited: u64,
}

impl SiteCount {
    /// From what the map holds.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (created, exited) = halves(bytes);
        Self { created: u64::from_ne_bytes(created), exited: u64::from_ne_bytes(exited) }
    }
}

fn joined(first: u32, second: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

fn halves(bytes: [u8; 16]) -> ([u8; 8], [u8; 8]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records lie in memory in the order in which `from_bytes` reads them.
    #[test]
    fn records_have_the_layout_that_both_sides_assume() {
        assert_eq!((size_of::<ProcessEvent>(), core::mem::offset_of!(ProcessEvent, tgid)), (8, 4));
        assert_eq!((size_of::<AttributeTarget>(), core::mem::offset_of!(AttributeTarget, reserved)), (8, 4));
        assert_eq!((size_of::<SiteKey>(), core::mem::offset_of!(SiteKey, pc)), (16, 8));
        assert_eq!((size_of::<SiteCount>(), core::mem::offset_of!(SiteCount, exited)), (16, 8));

        let word = |value: u64| value.to_ne_bytes();
        let pair = |first: u64, second: u64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&word(first));
            bytes[8..].copy_from_slice(&word(second));
            bytes
        };
        assert_eq!(SiteCount::from_bytes(pair(7, 9)), SiteCount { created: 7, exited: 9 });
        let mut key = pair(0, 0x40_1000);
        key[..4].copy_from_slice(&42u32.to_ne_bytes());
        assert_eq!(SiteKey::from_bytes(key), SiteKey { tgid: 42, reserved: 0, pc: 0x40_1000 });
        assert_eq!(AttributeTarget { gopc_offset: 288, reserved: 0 }.to_bytes()[..4], 288u32.to_ne_bytes());
        let mut event = [0; 8];
        event[..4].copy_from_slice(&ProcessEvent::EXEC.to_ne_bytes());
        event[4..].copy_from_slice(&11u32.to_ne_bytes());
        let expected = ProcessEvent { kind: ProcessEvent::EXEC, tgid: 11 };
        assert_eq!(ProcessEvent::from_bytes(&event), Some(expected));
        assert_eq!(ProcessEvent::from_bytes(&event[..7]), None);
    }
}
