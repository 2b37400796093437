//! Where Go's runtime keeps what we read, as data: one [`Layout`] per Go minor version and architecture.
//!
//! The rows in `table.rs` are generated from real programs; an unknown version has none and is never guessed.
//! All offsets and sizes are in bytes, offsets from the start of the struct. Widths of members are part of the
//! contract (the generator checks them): 8 bytes unless a field says otherwise; a slice is 24 bytes (pointer,
//! length, capacity). Names are Go's (`runtime/runtime2.go`, `runtime/chan.go`, `runtime/symtab.go`).

mod table;

use core::fmt;
use glg_proto::wire::Wait;

/// Processor architecture of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64, little-endian.
    Arm64,
}

/// The runtime layout of one Go minor version on one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The release it was read from, such as `1.24.11`; patch releases share their minor's layout.
    pub go: &'static str,
    /// `24` for Go 1.24.
    pub minor: u16,
    /// Architecture.
    pub arch: Arch,
    /// `runtime.g`: a goroutine.
    pub g: G,
    /// `runtime.m`: a thread.
    pub m: M,
    /// `runtime.p`: a processor.
    pub p: P,
    /// `runtime.schedt`: the scheduler, in the global `runtime.sched`.
    pub sched: Sched,
    /// `runtime.sudog`: a goroutine in a wait list.
    pub sudog: Sudog,
    /// `runtime._defer`: a deferred call.
    pub deferred: Deferred,
    /// `runtime.hchan`: a channel.
    pub hchan: Hchan,
    /// `runtime.mspan`: a stretch of the heap with objects of one size.
    pub mspan: Mspan,
    /// `runtime.mheap`: the heap, in the global `runtime.mheap_`.
    pub mheap: Mheap,
    /// `runtime.heapArena`: what the runtime knows of 64 MB of addresses.
    pub heap_arena: HeapArena,
    /// `runtime.special`: what a span knows of one of its objects; more follows behind it.
    pub special: Special,
    /// `runtime.specialfinalizer`.
    pub special_finalizer: SpecialRecord,
    /// `runtime.specialCleanup`; since Go 1.24.
    pub special_cleanup: Option<SpecialRecord>,
    /// `runtime.finblock`: finalisers that wait to be run.
    pub fin_block: Block,
    /// `runtime.cleanupQueue`, in the global `runtime.gcCleanups`; since Go 1.25.
    pub cleanup_queue: Option<CleanupQueue>,
    /// `runtime.cleanupBlock`: cleanups that wait to be run; since Go 1.25.
    pub cleanup_block: Option<Block>,
    /// `runtime.moduledata`: what the linker says of the program.
    pub moduledata: Moduledata,
    /// What the numbers in `special.kind` mean.
    pub special_kinds: SpecialKinds,
    /// What the numbers in `g.waitreason` mean.
    pub wait_reasons: &'static [Wait],
    /// What Go prints for them; empty for "no reason".
    pub wait_texts: &'static [&'static str],
    /// `FuncIDWrapper`: how the function table marks compiler-made wrappers (`internal/abi/symtab.go`).
    pub wrapper_id: u8,
}

/// Offsets in `runtime.g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct G {
    /// Size of the struct.
    pub size: u16,
    /// Lowest address of the stack.
    pub stack_lo: u16,
    /// End of the stack.
    pub stack_hi: u16,
    /// Its innermost deferred call.
    pub defers: u16,
    /// The m that runs it.
    pub m: u16,
    /// Saved stack pointer of a goroutine that does not run.
    pub sched_sp: u16,
    /// Saved program counter.
    pub sched_pc: u16,
    /// Saved frame pointer.
    pub sched_bp: u16,
    /// Stack pointer at the entry of the system call it is in, else 0.
    pub syscallsp: u16,
    /// Program counter there.
    pub syscallpc: u16,
    /// Status, 4 bytes: see [`Status`].
    pub atomicstatus: u16,
    /// Goroutine number; 0 before it was first used.
    pub goid: u16,
    /// Runtime clock at a garbage collection after it blocked; 0 until then.
    pub waitsince: u16,
    /// Why it waits, 1 byte: a number for [`Layout::wait`].
    pub waitreason: u16,
    /// Bumped each time the goroutine stops running, 1 byte, wraps.
    pub tracking_seq: u16,
    /// The m it is locked to.
    pub lockedm: u16,
    /// Goroutine that created it; since Go 1.21.
    pub parent_goid: Option<u16>,
    /// Return address of the `go` statement that created it.
    pub gopc: u16,
    /// Entry of its function.
    pub startpc: u16,
    /// First sudog it waits on.
    pub waiting: u16,
}

/// Offsets in `runtime.m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct M {
    /// Size of the struct.
    pub size: u16,
    /// Goroutine with the scheduling stack.
    pub g0: u16,
    /// Goroutine with the stack for signals.
    pub gsignal: u16,
    /// Thread id.
    pub procid: u16,
    /// Goroutine it runs.
    pub curg: u16,
    /// The p it holds.
    pub p: u16,
    /// Whether it is in a cgo call, 1 byte.
    pub incgo: u16,
    /// Number of the system call it is in or was in last, 4 bytes, as its p counts them.
    pub syscalltick: u16,
    /// The p that it had when it went into that system call.
    pub oldp: u16,
    /// Next m in `runtime.allm`.
    pub alllink: u16,
    /// Goroutine locked to it.
    pub lockedg: u16,
}

/// Offsets in `runtime.p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P {
    /// Size of the struct.
    pub size: u16,
    /// Its index in `runtime.allp`, `i32`.
    pub id: u16,
    /// Status, 4 bytes.
    pub status: u16,
    /// The m that holds it.
    pub m: u16,
    /// Number of dead goroutines it keeps for reuse, `i32`.
    pub g_free: u16,
    /// What in it refers to objects without keeping them: the collector's buffers, caches of pages and spans,
    /// registers of who was preempted.
    pub holes: &'static [Area],
    /// A page of pointers that the collector has met, outside of the heap; since Go 1.25.
    pub ptr_buf: Option<u16>,
}

/// A member with its length, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub at: u16,
    /// How long it is.
    pub len: u16,
}

/// Offsets in `runtime.schedt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sched {
    /// Size of the struct.
    pub size: u16,
    /// Idle threads, `i32`.
    pub nmidle: u16,
    /// Most threads allowed, `i32`; 10000 unless the program changed it.
    pub maxmcount: u16,
    /// System goroutines, `i32` (`u32` up to Go 1.19).
    pub ngsys: u16,
    /// Numbers of dead goroutines kept for reuse, each `i32`; their sum counts.
    pub g_free: &'static [u16],
}

/// Offsets in `runtime.sudog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sudog {
    /// Size of the struct.
    pub size: u16,
    /// The goroutine that waits.
    pub g: u16,
    /// Next in the channel's wait queue.
    pub next: u16,
    /// Address of the element sent or received; for a semaphore its address.
    pub elem: u16,
    /// The other half of `elem` (`maybeTraceablePtr.vp`); since Go 1.26.
    pub elem_vp: Option<u16>,
    /// Next in the goroutine's list `g.waiting`.
    pub waitlink: u16,
    /// The channel; 0 for a semaphore. Since Go 1.26 the half that holds even while the collector must not
    /// follow it (`maybeTraceablePtr.vu`).
    pub c: u16,
    /// The other half of `c`; since Go 1.26.
    pub c_vp: Option<u16>,
}

/// Offsets in `runtime._defer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// Size of the struct.
    pub size: u16,
    /// The next one, on the heap or on the stack.
    pub link: u16,
}

/// Offsets in `runtime.hchan`. Nothing reads them: whoever reaches a channel may end a wait for it, whatever it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hchan {
    /// Size of the struct.
    pub size: u16,
    /// Elements in the buffer.
    pub qcount: u16,
    /// Capacity of the buffer, in elements.
    pub dataqsiz: u16,
    /// The buffer.
    pub buf: u16,
    /// Size of an element, 2 bytes.
    pub elemsize: u16,
    /// Whether it is closed, 4 bytes.
    pub closed: u16,
    /// Receivers that wait: first and last sudog, 16 bytes.
    pub recvq: u16,
    /// Senders that wait: first and last sudog, 16 bytes.
    pub sendq: u16,
}

/// Offsets in `runtime.mspan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mspan {
    /// Size of the struct.
    pub size: u16,
    /// Where it begins.
    pub start_addr: u16,
    /// Pages of 8 KiB.
    pub npages: u16,
    /// What it is used for, 1 byte: 1 for objects, 2 for stacks.
    pub state: u16,
    /// Size class and whether its objects have no pointers (the lowest bit), 1 byte.
    pub spanclass: u16,
    /// Size of its objects.
    pub elemsize: u16,
    /// First special of its objects.
    pub specials: u16,
}

/// Offsets in `runtime.mheap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mheap {
    /// Size of the struct.
    pub size: u32,
    /// Index of arenas, one pointer: the first level has one entry on 64-bit Linux.
    pub arenas: u32,
    /// Numbers of all arenas, a slice of words.
    pub all_arenas: u32,
}

/// Offsets in `runtime.special`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// Size of the struct.
    pub size: u16,
    /// Next special of the span.
    pub next: u16,
    /// Which object, by its offset in the span; 2 bytes up to Go 1.23, 8 since, of which the low 2 count.
    pub offset: u16,
    /// What follows, 1 byte: see [`SpecialKinds`].
    pub kind: u16,
}

/// A special with what follows it, all of which may refer to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialRecord {
    /// Size of both.
    pub size: u16,
}

/// Numbers of the specials that hold something (`runtime/mheap.go`, `_KindSpecial…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialKinds {
    /// A finaliser.
    pub finalizer: u8,
    /// What weak pointers refer to; since Go 1.23.
    pub weak_handle: Option<u8>,
    /// A cleanup; since Go 1.24.
    pub cleanup: Option<u8>,
}

/// A block of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its size.
    pub size: u16,
    /// The block that was made before it.
    pub alllink: u16,
}

/// Offsets in `runtime.cleanupQueue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupQueue {
    /// Size of the struct.
    pub size: u16,
    /// The block that was made last.
    pub all: u16,
}

/// Offsets in `runtime.heapArena`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapArena {
    /// Size of the struct.
    pub size: u32,
    /// For each of its 8,192 pages the mspan that it belongs to.
    pub spans: u32,
}

/// Offsets in `runtime.moduledata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moduledata {
    /// Size of the struct.
    pub size: u16,
    /// Header of the function table.
    pub pc_header: u16,
    /// Names of functions, slice of bytes.
    pub funcnametab: u16,
    /// Start of the text section: what function offsets are relative to.
    pub text: u16,
    /// Data without pointers.
    pub noptrdata: u16,
    /// Its end.
    pub enoptrdata: u16,
    /// Data with pointers.
    pub data: u16,
    /// Its end.
    pub edata: u16,
    /// Zeroed data with pointers.
    pub bss: u16,
    /// Its end.
    pub ebss: u16,
    /// Zeroed data without pointers.
    pub noptrbss: u16,
    /// Its end.
    pub enoptrbss: u16,
    /// `go:func.*`: what function data, such as inline trees, is relative to.
    pub gofunc: u16,
    /// One bit for each word of the data: whether it is a pointer.
    pub gcdatamask: u16,
    /// The same of the zeroed data.
    pub gcbssmask: u16,
    /// Next module.
    pub next: u16,
}

/// Status of a goroutine (`runtime/runtime2.go`, constants `_G…`): the same numbers in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Just allocated.
    Idle,
    /// On a run queue.
    Runnable,
    /// Running.
    Running,
    /// In a system call or in C.
    Syscall,
    /// Blocked.
    Waiting,
    /// Unused by Go, known to debuggers.
    Moribund,
    /// Exited or never used: its struct waits for reuse.
    Dead,
    /// Its stack is being moved.
    CopyStack,
    /// Stopped for a preemption.
    Preempted,
    /// Found leaked by the runtime's own leak profile; since Go 1.26.
    Leaked,
    /// Belongs to an extra thread for callbacks from C, which has none now; since Go 1.26.
    DeadExtra,
}

/// Bit of `g.atomicstatus` that is set while the collector scans the goroutine's stack.
pub const STATUS_SCAN: u32 = 0x1000;

impl Status {
    /// Reads `g.atomicstatus`, with or without [`STATUS_SCAN`]; `None` for a number that no version has.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Status> {
        Some(match raw & !STATUS_SCAN {
            0 => Status::Idle,
            1 => Status::Runnable,
            2 => Status::Running,
            3 => Status::Syscall,
            4 => Status::Waiting,
            5 => Status::Moribund,
            6 => Status::Dead,
            8 => Status::CopyStack,
            9 => Status::Preempted,
            10 => Status::Leaked,
            11 => Status::DeadExtra,
            _ => return None,
        })
    }

    /// Whether there is no goroutine behind it.
    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Status::Idle | Status::Dead | Status::DeadExtra)
    }
}

impl Layout {
    /// What a `g.waitreason` means; [`Wait::Other`] for a number that this version does not have.
    #[must_use]
    pub fn wait(&self, number: u8) -> Wait {
        self.wait_reasons.get(usize::from(number)).copied().unwrap_or(Wait::Other)
    }
}

/// The layout for Go 1.`minor`; `None` for a version that is not supported.
#[must_use]
pub fn layout_for(minor: u16, arch: Arch) -> Option<&'static Layout> {
    table::TABLE.iter().find(|row| row.minor == minor && row.arch == arch)
}

/// The supported versions, for messages: prints `1.19, 1.21–1.27`.
#[must_use]
pub fn supported() -> Supported {
    Supported
}

/// See [`supported`].
#[derive(Clone, Copy, Debug)]
pub struct Supported;

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |minor: u16| table::TABLE.iter().any(|row| row.minor == minor);
        let mut separator = "";
        for first in table::TABLE.iter().map(|row| row.minor).min().into_iter().flat_map(|m| m..) {
            if table::TABLE.iter().all(|row| row.minor < first) {
                break;
            }
            if !has(first) || (first > 0 && has(first - 1)) {
                continue;
            }
            let last = (first..).take_while(|m| has(*m)).last().unwrap_or(first);
            write!(f, "{separator}1.{first}")?;
            if last > first {
                write!(f, "–1.{last}")?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
