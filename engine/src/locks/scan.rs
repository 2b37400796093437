//! One look at all threads of a process: who waits in C, for which lock, who has it, and who waits for ever.
//!
//! There is no instant at which all of this can be read, and one look at a busy program shows deadlocks that
//! are none: a thread got the lock between two reads. So what is believed is only what was read while all who
//! are concerned stood still: how often each was switched in is read before and after everything else, and
//! who has moved is left out.

mod glance;
mod known;
mod through_go;

use alloc::vec::Vec;

pub use self::known::Whose;
use self::known::{Known, Wait};
use super::graph::{Cycle, Edge, Node, cycles};
use super::mutex::{Kind, Lock, Owner, lock};
use super::refers::Object;
use super::standing::{Call, FutexWait, Standing};
use super::threads::{self, M, OnThread};
use crate::layout::Status;
use crate::memory::{Addr, Error, Image, Memory};
use crate::runtime::Runtime;

/// Name of a function of C.
pub type CFunction = heapless::String<{ glg_proto::locks::C_FUNCTION_MAX }>;

/// A thread, by its number as we see it and as its process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tid {
    /// In the namespace of the process: what locks and the runtime have written down.
    pub inner: u32,
    /// In ours: what `/proc` calls it.
    pub outer: u32,
}

/// The threads of a process, as the kernel tells of them.
pub trait Threads {
    /// Fills in all threads, at most `max`; says whether there are more.
    ///
    /// # Errors
    /// [`Error::Gone`].
    fn list(&mut self, max: usize, out: &mut Vec<Tid>) -> Result<bool, Error>;

    /// Whether the process has a thread of this number of its own, listed or not.
    ///
    /// # Errors
    /// As [`Threads::list`].
    fn lives(&mut self, inner: u32) -> Result<bool, Error>;

    /// Where a thread stands.
    ///
    /// # Errors
    /// [`Error::Gone`] when the thread has ended, [`Error::Unsupported`] when the kernel does not say.
    fn standing(&mut self, tid: Tid) -> Result<Standing, Error>;

    /// How often a thread was switched in.
    ///
    /// # Errors
    /// As [`Threads::standing`].
    fn switches(&mut self, tid: Tid) -> Result<u64, Error>;

    /// For how many milliseconds a thread has been blocked at least, if the kernel says so.
    fn blocked_ms(&mut self, tid: Tid) -> Option<u64>;

    /// The function of C that asked for what a thread waits for; empty when that cannot be told.
    fn asked_by(&mut self, memory: &mut dyn Memory, runtime: &Runtime, waiter: &Waiter) -> CFunction;
}

/// Goroutines that are followed from one wait in Go to the next.
const PARKED_MAX: usize = 16;

/// A process whose threads are looked at.
pub struct Subject<'a> {
    /// Its Go runtime.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its executable file.
    pub image: &'a mut dyn Image,
    /// Its threads.
    pub threads: &'a mut dyn Threads,
}

/// What all threads of a process do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many there are.
    pub threads: u32,
    /// Those that wait for a futex in C.
    pub waiting: u32,
    /// Those that are blocked in C, or in a system call that is none of the scheduler's own.
    pub away: u32,
}

/// Bounds of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLimits {
    /// Threads looked at.
    pub threads: usize,
    /// Goroutines looked at to conclude who could end a wait in Go; with more, nothing is concluded.
    pub goroutines: u64,
}

/// A thread that waits in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Which.
    pub tid: Tid,
    /// The call that it is blocked in.
    pub call: Call,
    /// The futex.
    pub futex: FutexWait,
    /// What that belongs to.
    pub lock: Lock,
    /// How often it was switched in: while this stays the same, so does the wait.
    pub switches: u64,
    /// The goroutine that is in C on it.
    pub goroutine: Option<OnThread>,
    /// Where Go has left the stack on which C runs, if it has called C there.
    pub g0_sp: Option<Addr>,
}

impl Waiter {
    /// One of whom no more is known yet.
    fn new(tid: Tid, call: Call, futex: FutexWait, switches: u64) -> Waiter {
        let lock = Lock { kind: Kind::Futex, at: futex.word, owner: Owner::Unknown };
        Waiter { tid, call, futex, lock, switches, goroutine: None, g0_sp: None }
    }
}

/// What a look saw; made once, used for every look.
#[derive(Debug, Default)]
pub struct Scan {
    /// Threads of the process.
    pub threads: Vec<Tid>,
    /// The runtime's own list of them; empty when it could not be read.
    pub ms: Vec<M>,
    /// Those that wait in C, by number.
    pub waiters: Vec<Waiter>,
    /// Circles of threads and goroutines that wait for each other.
    pub deadlocks: Vec<Cycle>,
    /// What all of them do.
    pub figures: Figures,
    /// Whether there are more threads than were looked at.
    pub cut: bool,
    /// Threads that moved while they were looked at.
    pub restless: u32,
    /// Parked goroutines that a thread waits for, and what they themselves wait for.
    pub parked: Vec<Parked>,
    edges: Vec<Edge>,
    inner: Vec<u32>,
    known: Known,
}

/// A parked goroutine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Which.
    pub goroutine: OnThread,
    /// The thread it is locked to, if it is.
    pub tid: Option<u32>,
    /// What it waits for.
    pub object: Option<Object>,
}

impl Scan {
    /// Bytes that a look at so many threads takes, all of them waiting, and what is remembered of as many.
    #[must_use]
    pub const fn bytes(threads: usize) -> usize {
        let seen = size_of::<Tid>() + size_of::<u32>() + size_of::<M>() + size_of::<Waiter>();
        threads * (seen + size_of::<Edge>() + size_of::<Wait>())
    }

    /// Numbers of the process's threads in its own namespace, in ascending order.
    #[must_use]
    pub fn tids(&self) -> &[u32] {
        &self.inner
    }

    /// Looks at everything. What is found replaces what was found before.
    ///
    /// # Errors
    /// As [`Scan::glance`].
    pub fn look(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        self.glance(subject, limits)?;
        if self.waiters.is_empty() {
            return Ok(());
        }
        self.read_locks(subject)?;
        self.ask_for_ended(subject)?;
        self.read_goroutines(subject, limits)?;
        self.through_go(subject, limits)?;
        self.moved_on(subject)?;
        self.deadlocks = cycles(&self.edges);
        Ok(())
    }

    fn read_locks(&mut self, subject: &mut Subject<'_>) -> Result<(), Error> {
        let before = self.waiters.len();
        let (threads, mut gone) = (&self.inner, false);
        self.waiters.retain_mut(|waiter| match lock(&waiter.futex, threads, subject.memory) {
            // The kernel has just handed it on to the one that waits.
            Ok(Some(Lock { kind: Kind::PiMutex, owner: Owner::Thread(tid), .. }))
                if tid == waiter.tid.inner =>
            {
                false
            }
            Ok(Some(lock)) => {
                waiter.lock = lock;
                true
            }
            // Free by now: it is about to move.
            Ok(None) => false,
            Err(error) => {
                gone |= error == Error::Gone;
                // Unmapped under it: a wait all the same.
                true
            }
        });
        self.count_restless(before);
        if gone { Err(Error::Gone) } else { Ok(()) }
    }

    /// An owner that is not on the list may be newer than that, or was left out: the kernel's list of threads has
    /// gaps while some end (fs/proc/base.c, `next_tid`). Who has the lock after it was found to be no more has ended.
    fn ask_for_ended(&mut self, subject: &mut Subject<'_>) -> Result<(), Error> {
        let before = self.waiters.len();
        let (threads, mut failed) = (&self.inner, Ok(()));
        self.waiters.retain_mut(|waiter| {
            let Owner::Exited(tid @ 1..) = waiter.lock.owner else { return true };
            match subject.threads.lives(tid) {
                Ok(true) => {
                    waiter.lock.owner = Owner::Thread(tid);
                    true
                }
                Ok(false) => lock(&waiter.futex, threads, subject.memory) == Ok(Some(waiter.lock)),
                Err(error) => {
                    failed = Err(error);
                    false
                }
            }
        });
        self.count_restless(before);
        failed
    }

    /// Reads the runtime's own list of threads.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub(super) fn read_ms(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        match threads::list(subject.runtime, subject.memory, limits.threads, &mut self.ms) {
            Err(Error::Gone) => Err(Error::Gone),
            // Without it there still are threads, locks and owners.
            Err(_) => {
                self.ms.clear();
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// The goroutines on the threads, and the edges between all of them.
    fn read_goroutines(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        self.read_ms(subject, limits)?;
        for waiter in &mut self.waiters {
            if let Some(m) = self.ms.iter().find(|m| m.tid == waiter.tid.inner) {
                waiter.goroutine = m.curg.map(|g| read(subject, g)).transpose()?.flatten();
                waiter.g0_sp = threads::g0_sp(subject.runtime, subject.memory, m).ok();
            }
            let Owner::Thread(owner) = waiter.lock.owner else { continue };
            let (from, to) = (Node::Thread(waiter.tid.inner), Node::Thread(owner));
            self.edges.push(Edge { from, to, inferred: false });
        }
        Ok(())
    }

    /// Leaves out who has moved meanwhile, and the edges from there.
    fn moved_on(&mut self, subject: &mut Subject<'_>) -> Result<(), Error> {
        let before = self.waiters.len();
        let mut failed = Ok(());
        let edges = &mut self.edges;
        self.waiters.retain(|waiter| {
            let same = subject.threads.switches(waiter.tid).map(|now| now == waiter.switches);
            let same = ended(same).unwrap_or_else(|error| {
                failed = Err(error);
                false
            });
            if !same {
                edges.retain(|edge| edge.from != Node::Thread(waiter.tid.inner));
            }
            same
        });
        self.count_restless(before);
        for parked in &self.parked {
            let still = read(subject, parked.goroutine.g)? == Some(parked.goroutine);
            if !still {
                self.edges.retain(|edge| edge.from != Node::Goroutine(parked.goroutine.goid));
            }
        }
        failed
    }

    fn count_restless(&mut self, before: usize) {
        let moved = before.saturating_sub(self.waiters.len());
        self.restless = self.restless.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
    }
}

/// A thread that has ended has moved.
fn ended(same: Result<bool, Error>) -> Result<bool, Error> {
    match same {
        Err(Error::Gone) => Ok(false),
        other => other,
    }
}

fn read(subject: &mut Subject<'_>, g: Addr) -> Result<Option<OnThread>, Error> {
    match threads::goroutine(subject.runtime, subject.memory, g) {
        Err(Error::Gone) => Err(Error::Gone),
        Err(_) => Ok(None),
        Ok(found) => Ok(found.filter(|g| g.status != Status::Running)),
    }
}
