//! What is said of locks in C: threads that wait for them, and threads that wait for each other. Append only,
//! as everything in [`crate::wire`].

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::wire::Target;

/// Members of a deadlock that one alert can describe.
pub const MEMBERS_MAX: usize = 4;
/// Longest name of a function of C in an alert, in bytes.
pub const C_FUNCTION_MAX: usize = 24;
/// Longest name of a function of Go in an alert about locks, in bytes.
pub const GO_FUNCTION_MAX: usize = 36;

/// Threads, and goroutines, that wait for each other and never go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlock {
    /// The program.
    pub target: Target,
    /// Seconds for which the youngest of the waits has lasted, as far as it was seen.
    pub age_s: u32,
    /// Whether a wait among them is concluded from what a goroutine refers to, not written in a lock.
    pub inferred: bool,
    /// How many they are.
    pub total: u16,
    /// Who waits, in the order of their waiting: each for the next, the last for the first.
    pub members: Vec<Stuck, MEMBERS_MAX>,
}

/// A lock that is waited for very long, by a thread that is in no deadlock we know of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWait {
    /// The program.
    pub target: Target,
    /// Seconds for which it waits, as far as it was seen.
    pub waited_s: u32,
    /// Threads that wait for the same lock.
    pub waiters: u16,
    /// Who has the lock.
    pub owner: LockOwner,
    /// Who waits.
    pub waiter: Stuck,
}

/// More and more threads that do not come back from C or from system calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckThreads {
    /// The program.
    pub target: Target,
    /// Its threads.
    pub threads: u32,
    /// Those that are in C, or in a system call.
    pub away: u32,
    /// Those in the same place at the start of the window.
    pub baseline: u32,
    /// Length of the window, in seconds.
    pub window_s: u32,
    /// Goroutines locked to a thread.
    pub pinned: u32,
    /// Threads of which Go's runtime does not know.
    pub foreign: u32,
}

/// A lock that many wait for again and again: how often and how long within some time of observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contention {
    /// The program.
    pub target: Target,
    /// For how long it was observed, in milliseconds.
    pub observed_ms: u32,
    /// Waits for the lock.
    pub waits: u32,
    /// How long they lasted all together, in milliseconds: with several threads at once more than was observed.
    pub total_ms: u32,
    /// How long the longest lasted, in microseconds.
    pub longest_us: u32,
    /// Within how many microseconds half of them ended, to the next power of two.
    pub median_us: u32,
    /// The same of 99 in a hundred.
    pub p99_us: u32,
    /// What was waited for, and one who was seen waiting; without a thread, a goroutine and names when nobody was.
    pub waiter: Stuck,
}

/// Someone who waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Its thread, by the number that the program itself sees; 0 for a goroutine without one.
    pub tid: u32,
    /// Its goroutine; 0 for a thread of C.
    pub goid: u64,
    /// What it waits for.
    pub kind: LockKind,
    /// Where that is; 0 when unknown.
    pub lock: u64,
    /// The function of C that asked for the lock; empty when unknown.
    pub c_function: String<C_FUNCTION_MAX>,
    /// The function of Go that called C, or waits; empty for a thread of C.
    pub go_function: String<GO_FUNCTION_MAX>,
    /// Its line there; 0 when unknown.
    pub line: u32,
}

/// What is waited for. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// `pthread_mutex_lock`.
    Mutex,
    /// The same of a robust mutex.
    RobustMutex,
    /// The same of one with priority inheritance.
    PiMutex,
    /// A read-write lock that a writer has.
    RwLock,
    /// The end of a thread: `pthread_join`.
    Join,
    /// A futex that says nothing of an owner.
    Futex,
    /// A channel or a lock of Go.
    Go,
    /// A condition, or what is waited for in the same way: a semaphore.
    Condition,
}

impl LockKind {
    /// As people call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LockKind::Mutex => "mutex",
            LockKind::RobustMutex => "robust mutex",
            LockKind::PiMutex => "PI mutex",
            LockKind::RwLock => "rwlock",
            LockKind::Join => "join",
            LockKind::Futex => "futex",
            LockKind::Go => "Go",
            LockKind::Condition => "condition",
        }
    }
}

/// Who has a lock. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOwner {
    /// The lock does not say.
    Unknown,
    /// This thread.
    Thread(u32),
    /// A thread that has ended with the lock held.
    Exited(u32),
}
