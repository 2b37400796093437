//! Proof from outside that blocked goroutines can never go on: what the collector knows, without stopping the
//! program (`runtime/mgcmark.go`; the runtime's own leak profile works alike, `runtime/mgc.go`,
//! `findGoroutineLeaks`).
//!
//! A goroutine that waits for a channel or a lock goes on only when another one uses that. Who could, must be able
//! to reach it: from a global variable, a timer, a finaliser, C, or the stack of a goroutine that can itself still
//! run. So one pass marks everything that is reachable from these, and each time that it reaches what a goroutine
//! waits for, that goroutine counts as one that can run, and its stack is looked at as well. Those that are left
//! at the end wait for ever.
//!
//! The program runs on meanwhile, so no pass sees one moment. Whatever moved while it was looked at counts as in
//! use (`pass`), and a proof is several passes at irregular distances that agree (`proof`).
//!
//! In the order in which the data flows: `places` → `spans` → `crowd` → `waits` → `mark` → `roots` and `stacks` → `pass` →
//! [`proof`] (and `reasons`, for what is not proven) → [`report`].

mod crowd;
pub mod frames;
mod mark;
mod pass;
mod places;
pub mod proof;
mod reasons;
pub mod report;
mod roots;
mod span;
mod spans;
mod stacks;
mod still;
mod waits;

use core::fmt;

use crate::memory::{Addr, Error};

pub use pass::{Figures, Subject};
pub use places::Places;

/// Bounds of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachLimits {
    /// Bytes that it may take.
    pub memory_bytes: usize,
    /// Goroutines that there may be.
    pub goroutines: u64,
}

/// Memory that C may keep pointers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub from: Addr,
    /// Bytes.
    pub len: u64,
}

/// Why nothing is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abstained {
    /// It takes more memory than it may.
    Memory,
    /// It takes longer than it may.
    Time,
    /// There are more goroutines than are looked at.
    Goroutines,
    /// It has C in it, and it was not said where C keeps its data.
    Cgo,
    /// This goroutine ran all the time and was never preempted: what it has in registers has never been in memory. Go
    /// preempts whoever has run for 10 ms (`forcePreemptNS` of `runtime/proc.go`), unless it must not
    /// (`GODEBUG=asyncpreemptoff=1`) or the process gets no time.
    NeverPreempted(u64),
    /// The process cannot go on at all, for this reason. What its threads have in registers is never in memory then, and
    /// that nobody runs means nothing.
    Halted(&'static str),
    /// What the runtime says of itself changed again and again while it was read, or could not be read.
    Restless,
    /// Something of the runtime was not found.
    Unsupported(&'static str),
}

impl fmt::Display for Abstained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Abstained::Memory => {
                f.write_str("the heap takes more memory to look at than prove.max_memory_kib")
            }
            Abstained::Time => f.write_str("the heap takes longer to look at than prove.max_seconds"),
            Abstained::Goroutines => f.write_str("there are more goroutines than prove.max_goroutines"),
            Abstained::Cgo => f.write_str("cgo: where C keeps its data is not known"),
            Abstained::NeverPreempted(goid) => write!(
                f,
                "goroutine {goid} ran all the time and was never preempted: what it has in registers is not known"
            ),
            Abstained::Restless => f.write_str("the runtime's own data did not hold still"),
            Abstained::Halted(what) | Abstained::Unsupported(what) => f.write_str(what),
        }
    }
}

/// Why a pass ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing can be said.
    Abstained(Abstained),
    /// The process has ended.
    Gone,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match error {
            Error::Gone => Stop::Gone,
            Error::Unsupported(what) => Stop::Abstained(Abstained::Unsupported(what)),
            // Read while it was being changed.
            _ => Stop::Abstained(Abstained::Restless),
        }
    }
}

/// Bytes that a vector holds on to.
fn held<T>(vector: &alloc::vec::Vec<T>) -> usize {
    vector.capacity() * size_of::<T>()
}
