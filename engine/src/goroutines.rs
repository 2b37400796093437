//! Counting goroutines and walking over them, from outside, while the program runs.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use glg_proto::wire::Wait;

use crate::layout::{G, Layout, Sched, Status};
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::runtime::Runtime;

/// Ps a program may have (`GOMAXPROCS`): more processors than any vehicle's, and bounded memory.
const PS_MAX: usize = 128;
/// Pointers of `allgs` looked at in one go.
const BATCH: usize = 1024;
/// Least bytes of `g` structs fetched in one go: a batch of pointers has to fit.
const BUFFER_MIN: usize = BATCH * 8;
/// `g`s this close together are fetched as one stretch: skipping less costs more than reading it.
const GAP: u64 = 4096;
/// Times that `allgs` may move during one walk: it grows by a quarter and more each time.
const MOVES_MAX: u32 = 64;
/// Bytes of a slice header: pointer, length, capacity.
const SLICE: usize = 24;

/// Counts goroutines with one read of a few dozen words, however many there are.
#[derive(Debug, Default)]
pub struct Counter {
    /// Where the Ps are: `allp`'s array changes only with `GOMAXPROCS`.
    ps: Vec<Addr>,
    allp: [u64; 2],
    runs: Vec<Run>,
    bytes: Vec<u8>,
}

impl Counter {
    /// Bytes a counter takes for a program with as many Ps as there may be.
    pub(crate) const BYTES: usize = PS_MAX * (size_of::<Addr>() + size_of::<Run>() + 8) + 512;

    /// What `runtime.NumGoroutine` would say: `gcount` in `runtime/proc.go`, allglen less the free lists
    /// less the system goroutines, at least 1.
    ///
    /// # Errors
    /// [`Error::NotReady`] while the runtime starts; [`Error::Gone`], [`Error::Unreadable`], or
    /// [`Error::Malformed`] when the words contradict each other.
    pub fn count(&mut self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<u32, Error> {
        // The array of Ps may be replaced between two reads: then look again, once.
        for _ in 0..2 {
            if let Some(count) = self.try_count(runtime, memory)? {
                return Ok(count);
            }
            // What was found in part must not be taken for all of them by the next count.
            self.find_ps(memory).inspect_err(|_| self.allp = [0; 2])?;
        }
        Err(Error::Malformed { what: "allp", at: runtime.globals.allp.0 })
    }

    fn try_count(&mut self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<Option<u32>, Error> {
        let layout = runtime.layout;
        let sched = sched_span(&layout.sched);
        self.runs.clear();
        self.runs.push(Run { at: runtime.globals.allp, len: 16 });
        self.runs.push(Run { at: runtime.globals.allgs.plus(8)?, len: 8 });
        self.runs.push(Run { at: runtime.globals.sched.plus(sched.start as u64)?, len: sched.len() });
        for p in &self.ps {
            self.runs.push(Run { at: p.plus(u64::from(layout.p.g_free))?, len: 4 });
        }
        let total = self.runs.iter().map(|run| run.len).sum();
        self.bytes.resize(total, 0);
        memory.read_runs(&self.runs, &mut self.bytes)?;

        let bytes = self.bytes.as_slice();
        let allp = [le::u64(bytes, 0)?, le::u64(bytes, 8)?];
        let allgs = le::u64(bytes, 16)?;
        if allp == [0, 0] || allgs == 0 {
            return Err(Error::NotReady);
        }
        if allp != self.allp {
            self.allp = allp;
            return Ok(None);
        }
        let word = |offset: u16| le::u32(bytes, 24 + usize::from(offset).saturating_sub(sched.start));
        let mut free = i64::from(word(layout.sched.ngsys)?.cast_signed());
        for offset in layout.sched.g_free {
            free += i64::from(word(*offset)?.cast_signed());
        }
        for i in 0..self.ps.len() {
            free += i64::from(le::u32(bytes, 24 + sched.len() + 4 * i)?.cast_signed());
        }
        let implausible = Error::Malformed { what: "goroutine count", at: runtime.globals.allgs.0 };
        let count = i64::try_from(allgs).map_err(|_| implausible)?.checked_sub(free).ok_or(implausible)?;
        // All variables can change independently, so the difference may be off for an instant: the runtime
        // itself says "at least 1". Beyond the number of gs there is no such excuse.
        if count > i64::from(u32::MAX) || free < 0 {
            return Err(implausible);
        }
        Ok(Some(u32::try_from(count.max(1)).map_err(|_| implausible)?))
    }

    fn find_ps(&mut self, memory: &mut dyn Memory) -> Result<(), Error> {
        let [at, len] = self.allp;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= PS_MAX)
            .ok_or(Error::Unsupported("GOMAXPROCS above 128"))?;
        self.bytes.resize(len * 8, 0);
        memory.read(Addr(at), &mut self.bytes)?;
        self.ps.clear();
        for i in 0..len {
            match le::u64(&self.bytes, i * 8)? {
                0 => return Err(Error::NotReady),
                p => self.ps.push(Addr(p)),
            }
        }
        Ok(())
    }
}

/// One live goroutine, as its `g` said at the moment it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goroutine {
    /// Address of the `g`.
    pub g: Addr,
    /// Goroutine id.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// What it waits for; for one that does not wait, what it does.
    pub wait: Wait,
    /// Return address of the `go` statement; 0 for a thread of C that called into Go.
    pub gopc: Addr,
    /// Entry of the function it runs; 0 as before.
    pub startpc: Addr,
    /// Bumped when it stops running; wraps.
    pub ran: u8,
}

/// What a walk met besides goroutines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkStats {
    /// `g`s looked at.
    pub seen: u64,
    /// Ended ones among them, waiting to be used again.
    pub dead: u64,
    /// Records that contradicted themselves: read while they were being written.
    pub torn: u64,
    /// `g`s that could not be read.
    pub unreadable: u64,
    /// First place of `allgs` that was looked at.
    pub from: u64,
    /// `g`s not looked at, because there are more than the configured limit.
    pub skipped: u64,
}

/// A part of `allgs`, read piece by piece while the program may move the array.
pub(crate) struct Allgs {
    from: u64,
    limit: u64,
    next: u64,
    moves: u32,
    /// Places outside of the part; known at its end.
    pub(crate) skipped: u64,
}

impl Allgs {
    /// `limit` places at most, from `from` on.
    pub(crate) fn new(from: u64, limit: u64) -> Allgs {
        Allgs { from, limit, next: from, moves: 0, skipped: 0 }
    }

    /// The next pointers, as many as `bytes` has room for; `false` at the end.
    pub(crate) fn read(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        bytes: &mut [u8],
        pointers: &mut Vec<u64>,
    ) -> Result<bool, Error> {
        loop {
            let (array, len) = allgs(runtime, memory)?;
            let end = len.min(self.from.saturating_add(self.limit));
            if self.next >= end {
                self.skipped = len.saturating_sub(end).saturating_add(self.from.min(len));
                return Ok(false);
            }
            let places = (end - self.next).min(bytes.len() as u64 / 8);
            let used = usize::try_from(places * 8).unwrap_or(0);
            let into = bytes.get_mut(..used).ok_or(Error::Malformed { what: "batch", at: self.next })?;
            let read = memory.read(array.plus(self.next.saturating_mul(8))?, into);
            // An array that the program has left meanwhile may be unmapped, or hold something else.
            if allgs(runtime, memory)?.0 == array {
                read?;
                self.next += places;
                pointers.clear();
                pointers.extend(into.chunks_exact(8).map(|g| le::u64(g, 0).unwrap_or(0)));
                return Ok(true);
            }
            self.moves += 1;
            if self.moves > MOVES_MAX {
                return Err(Error::Unreadable { at: array.0 });
            }
        }
    }
}

/// Walks over all goroutines in bounded memory; made once, used for every walk.
pub struct Walker {
    pointers: Vec<u64>,
    runs: Vec<Run>,
    buffer: Box<[u8]>,
}

impl Walker {
    /// Bytes a walker takes.
    #[must_use]
    pub const fn bytes(chunk_bytes: usize) -> usize {
        let buffer = if chunk_bytes < BUFFER_MIN { BUFFER_MIN } else { chunk_bytes };
        buffer + BATCH * (8 + size_of::<Run>())
    }

    /// A walker that fetches `chunk_bytes` in one go.
    #[must_use]
    pub fn new(chunk_bytes: usize) -> Walker {
        Walker {
            pointers: Vec::with_capacity(BATCH),
            runs: Vec::with_capacity(BATCH),
            buffer: vec![0; chunk_bytes.max(BUFFER_MIN)].into_boxed_slice(),
        }
    }

    /// Calls `visit` for each live goroutine, system goroutines included, in no particular order.
    ///
    /// `allgs` only ever grows and keeps its order, so walking by index misses nothing that was there at the
    /// start, even when the array is moved meanwhile.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Gone`] or [`Error::Unreadable`] when `allgs` itself cannot be read.
    pub fn walk(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        limit: u64,
        visit: impl FnMut(&Goroutine),
    ) -> Result<WalkStats, Error> {
        self.walk_from(runtime, memory, Some(0), limit, visit)
    }

    /// As [`Walker::walk`], but from a place in `allgs` on. `None`: from the first, or with more than `limit`
    /// goroutines so that half of the limit is left for new ones, because a leak's are at the end.
    ///
    /// # Errors
    /// As [`Walker::walk`].
    pub fn walk_from(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        from: Option<u64>,
        limit: u64,
        mut visit: impl FnMut(&Goroutine),
    ) -> Result<WalkStats, Error> {
        let (_, at_first) = allgs(runtime, memory)?;
        let youngest = if at_first > limit { at_first - limit / 2 } else { 0 };
        let from = from.unwrap_or(youngest);
        let mut stats = WalkStats { from, ..WalkStats::default() };
        let mut places = Allgs::new(from, limit);
        loop {
            let into = self.buffer.get_mut(..BATCH * 8).unwrap_or_default();
            if !places.read(runtime, memory, into, &mut self.pointers)? {
                stats.skipped = places.skipped;
                return Ok(stats);
            }
            self.pointers.sort_unstable();
            // Nonsense at the end of the address space loses no other g.
            let last = u64::MAX - u64::from(runtime.layout.g.size);
            let sane = self.pointers.partition_point(|g| *g <= last);
            stats.seen += (self.pointers.len() - sane) as u64;
            stats.unreadable += (self.pointers.len() - sane) as u64;
            self.pointers.truncate(sane);
            self.visit_batch(runtime.layout, memory, &mut stats, &mut visit)?;
        }
    }

    /// Fetches the `g`s of one sorted batch in as few stretches as fit into the buffer.
    fn visit_batch(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        stats: &mut WalkStats,
        visit: &mut impl FnMut(&Goroutine),
    ) -> Result<(), Error> {
        let fields = g_span(&layout.g);
        let mut rest = self.pointers.as_slice();
        while !rest.is_empty() {
            let (count, used) = join(rest, &fields, self.buffer.len(), &mut self.runs)?;
            let (pointers, behind) = rest.split_at_checked(count).unwrap_or_default();
            let buffer = self.buffer.get_mut(..used).unwrap_or_default();
            stats.seen += pointers.len() as u64;
            match memory.read_runs(&self.runs, buffer) {
                Ok(()) => {
                    let mut places = Places { runs: &self.runs, before: 0 };
                    for g in pointers {
                        let at = places.find(g.saturating_add(fields.start as u64));
                        let record = at.and_then(|at| buffer.get(at..at + fields.len())).unwrap_or_default();
                        decode(layout, Addr(*g), record, fields.start, stats, visit);
                    }
                }
                Err(Error::Gone) => return Err(Error::Gone),
                Err(_) => one_by_one(layout, memory, pointers, stats, visit)?,
            }
            rest = behind;
        }
        Ok(())
    }
}

/// Joins the `fields` of sorted `g`s to stretches of `room` bytes in all: how many `g`s, and how many bytes.
fn join(
    pointers: &[u64],
    fields: &Range<usize>,
    room: usize,
    runs: &mut Vec<Run>,
) -> Result<(usize, usize), Error> {
    runs.clear();
    let mut used = 0;
    for (count, g) in pointers.iter().enumerate() {
        let at = Addr(*g).plus(fields.start as u64)?;
        let last = runs.last_mut().filter(|run| at.0 - run.at.0 <= run.len as u64 + GAP);
        // A stretch that is joined ends with this g.
        let more = last.as_ref().map_or(fields.len(), |run| {
            let len = usize::try_from(at.0 - run.at.0).unwrap_or(room) + fields.len();
            len.saturating_sub(run.len)
        });
        if used + more > room {
            return Ok((count, used));
        }
        used += more;
        match last {
            Some(run) => run.len += more,
            None => runs.push(Run { at, len: more }),
        }
    }
    Ok((pointers.len(), used))
}

/// A stretch failed: an address in it is nonsense or was unmapped. Reads each `g` alone, to lose only that.
fn one_by_one(
    layout: &Layout,
    memory: &mut dyn Memory,
    pointers: &[u64],
    stats: &mut WalkStats,
    visit: &mut impl FnMut(&Goroutine),
) -> Result<(), Error> {
    let fields = g_span(&layout.g);
    let mut record = [0u8; 512];
    for g in pointers {
        let record = record.get_mut(..fields.len()).unwrap_or_default();
        match Addr(*g).plus(fields.start as u64).and_then(|at| memory.read(at, record)) {
            Ok(()) => decode(layout, Addr(*g), record, fields.start, stats, visit),
            Err(Error::Gone) => return Err(Error::Gone),
            Err(_) => stats.unreadable += 1,
        }
    }
    Ok(())
}

/// Where in the buffer addresses are; they have to be asked for in rising order, as the stretches are.
struct Places<'r> {
    /// The stretch of the last answer and those behind it.
    runs: &'r [Run],
    /// Bytes of the buffer before the first of them.
    before: usize,
}

impl Places<'_> {
    fn find(&mut self, at: u64) -> Option<usize> {
        while let [run, rest @ ..] = self.runs {
            let within = usize::try_from(at.checked_sub(run.at.0)?).unwrap_or(usize::MAX);
            if within < run.len {
                return Some(self.before + within);
            }
            (self.before, self.runs) = (self.before + run.len, rest);
        }
        None
    }
}

fn allgs(runtime: &Runtime, memory: &mut dyn Memory) -> Result<(Addr, u64), Error> {
    // Three words that the program writes one after the other: a contradiction is looked at once more.
    for _ in 0..2 {
        let mut slice = [0u8; SLICE];
        memory.read(runtime.globals.allgs, &mut slice)?;
        let (array, len, capacity) = (le::u64(&slice, 0)?, le::u64(&slice, 8)?, le::u64(&slice, 16)?);
        if array == 0 || len == 0 {
            return Err(Error::NotReady);
        }
        if len <= capacity {
            return Ok((Addr(array), len));
        }
    }
    Err(Error::Malformed { what: "allgs", at: runtime.globals.allgs.0 })
}

/// Parses the fields of one `g`; `base` is the offset in `g` at which `record` begins.
fn decode(
    layout: &Layout,
    g: Addr,
    record: &[u8],
    base: usize,
    stats: &mut WalkStats,
    visit: &mut impl FnMut(&Goroutine),
) {
    let at = |offset: u16| usize::from(offset).saturating_sub(base);
    let mut fields = || -> Result<Option<Goroutine>, Error> {
        let l = &layout.g;
        let Some(status) = Status::from_raw(le::u32(record, at(l.atomicstatus))?) else {
            stats.torn += 1;
            return Ok(None);
        };
        let (goid, gopc) = (le::u64(record, at(l.goid))?, le::u64(record, at(l.gopc))?);
        if status.is_dead() {
            stats.dead += 1;
            return Ok(None);
        }
        let startpc = Addr(le::u64(record, at(l.startpc))?);
        if goid == 0 || !has_origin(gopc, startpc.0) {
            stats.torn += 1;
            return Ok(None);
        }
        let wait = wait(layout, status, le::u8(record, at(l.waitreason))?);
        let ran = le::u8(record, at(l.tracking_seq))?;
        Ok(Some(Goroutine { g, goid, status, wait, gopc: Addr(gopc), startpc, ran }))
    };
    match fields() {
        Ok(Some(goroutine)) => visit(&goroutine),
        Ok(None) => {}
        Err(_) => stats.torn += 1,
    }
}

/// Whether it is plausible where a goroutine was created and what it runs: that of a thread of C, which has
/// called into Go, has neither (`runtime/proc.go`, `oneNewExtraM`); any other has both.
pub(crate) fn has_origin(gopc: u64, startpc: u64) -> bool {
    (gopc == 0) == (startpc == 0)
}

/// What a goroutine waits for; for one that does not wait, what it does.
pub(crate) fn wait(layout: &Layout, status: Status, reason: u8) -> Wait {
    match status {
        Status::Waiting | Status::Leaked => layout.wait(reason),
        Status::Runnable => Wait::Runnable,
        Status::Running => Wait::Running,
        Status::Syscall => Wait::Syscall,
        _ => Wait::Preempted,
    }
}

/// The stretch of `schedt` that holds all words of the count.
fn sched_span(sched: &Sched) -> Range<usize> {
    let offsets = sched.g_free.iter().copied().chain([sched.ngsys]);
    let (first, last) = offsets.fold((u16::MAX, 0), |(low, high), o| (low.min(o), high.max(o)));
    usize::from(first)..usize::from(last) + 4
}

/// The stretch of `g` that holds all fields a census looks at.
fn g_span(g: &G) -> Range<usize> {
    let offsets = [g.atomicstatus, g.goid, g.waitreason, g.tracking_seq, g.gopc, g.startpc];
    let (first, last) = offsets.iter().fold((u16::MAX, 0), |(low, high), o| (low.min(*o), high.max(*o)));
    usize::from(first)..usize::from(last) + 8
}
