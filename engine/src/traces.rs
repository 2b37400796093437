//! All goroutines with their stacks, in the order of `allgs`, read from outside while the program runs.
//!
//! Each is read as it stands: its `g`, then the piece of its stack that matters, then its `g` again. Only when
//! it has not run in between are they believed. This is done for a batch at a time; what ran, and what has
//! a deep stack, is read once more on its own.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::gather::{Gather, each_alone};
use crate::goroutines::Allgs;
use crate::layout::{Arch, Layout, Status};
use crate::memory::{Addr, Error, Image, Memory, Run, le};
use crate::runtime::Runtime;
use crate::stack::{Copied, End, Physical, Start, unwind};
use crate::symbols::{Meaning, Symbols};

/// Goroutines read in one go.
const BATCH: usize = 64;
/// Bytes of a stack fetched at first: enough for nearly all that are blocked.
const HEAD: usize = 512;
/// By how much more is fetched each time that this was not enough.
const GROW: usize = 8;
/// Bytes of a `g` at most.
const G_MAX: usize = 512;
/// Times that a goroutine is looked at anew because it ran meanwhile.
const TRIES: u32 = 3;

/// Bounds of a walk with stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceLimits {
    /// Goroutines looked at.
    pub goroutines: u64,
    /// Bytes of one stack.
    pub stack_bytes: usize,
    /// Frames of one stack.
    pub frames: usize,
    /// Program counters whose meaning is remembered.
    pub places: usize,
    /// Bytes of text that go with them.
    pub text_bytes: usize,
}

/// A process whose goroutines are traced.
pub struct Target<'a> {
    /// Its Go runtime.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its executable file.
    pub image: &'a mut dyn Image,
    /// What its code is.
    pub symbols: &'a mut Symbols,
}

/// A goroutine as its `g` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Goroutine id.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// Go's number for what it waits for: see [`Layout::wait_texts`].
    pub reason: u8,
    /// When it was first seen blocked by the garbage collector, on the runtime's clock; 0 before.
    pub since: u64,
    /// Whether it is locked to a thread.
    pub locked: bool,
    /// Which goroutine created it; 0 before Go 1.21.
    pub parent: u64,
    /// Return address of the `go` statement.
    pub gopc: Addr,
    /// Entry of the function it runs.
    pub startpc: Addr,
    /// Where it stands; `None` while it runs.
    start: Option<Start>,
    stack: [u64; 2],
    ran: u8,
}

/// A goroutine's stack.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Its frames, the innermost first; empty while it runs.
    pub frames: &'a [Physical],
    /// Whether these are all; `None` while it runs.
    pub end: Option<End>,
}

/// What a walk met besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStats {
    /// Goroutines shown.
    pub shown: u64,
    /// Among them those that ran, or ran too often to be read.
    pub running: u64,
    /// Stacks that are not shown to their end.
    pub cut: u64,
    /// `g`s that contradicted themselves or could not be read.
    pub torn: u64,
    /// `g`s beyond the limit.
    pub skipped: u64,
}

/// Walks over all goroutines in bounded memory.
pub struct Tracer {
    limits: TraceLimits,
    pointers: Vec<u64>,
    runs: Vec<Run>,
    before: Box<[u8]>,
    after: Box<[u8]>,
    heads: Box<[u8]>,
    deep: Vec<u8>,
    frames: Vec<Physical>,
    gather: Gather,
}

impl Tracer {
    /// A walker with these bounds.
    #[must_use]
    pub fn new(limits: TraceLimits) -> Tracer {
        let buffer = |bytes| vec![0u8; bytes].into_boxed_slice();
        Tracer {
            limits,
            pointers: Vec::with_capacity(BATCH),
            runs: Vec::with_capacity(BATCH),
            before: buffer(BATCH * G_MAX),
            after: buffer(BATCH * G_MAX),
            heads: buffer(BATCH * HEAD),
            deep: Vec::new(),
            frames: Vec::with_capacity(limits.frames),
            gather: Gather::new(),
        }
    }

    /// Calls `visit` for each goroutine of the user, until it answers `false`.
    ///
    /// # Errors
    /// As [`crate::goroutines::Walker::walk`].
    pub fn trace(
        &mut self,
        target: &mut Target<'_>,
        visit: &mut dyn FnMut(&mut Target<'_>, &Traced, Stack<'_>) -> bool,
    ) -> Result<TraceStats, Error> {
        let mut stats = TraceStats::default();
        let mut places = Allgs::new(0, self.limits.goroutines);
        let mut bytes = [0u8; BATCH * 8];
        while places.read(target.runtime, target.memory, &mut bytes, &mut self.pointers)? {
            if !self.batch(target, &mut stats, visit)? {
                return Ok(stats);
            }
        }
        stats.skipped = places.skipped;
        Ok(stats)
    }

    fn batch(
        &mut self,
        target: &mut Target<'_>,
        stats: &mut TraceStats,
        visit: &mut dyn FnMut(&mut Target<'_>, &Traced, Stack<'_>) -> bool,
    ) -> Result<bool, Error> {
        let layout = target.runtime.layout;
        let size = record_bytes(layout);
        self.fetch(target, size)?;
        let mut from = 0;
        for i in 0..self.pointers.len() {
            let g = Addr(self.pointers.get(i).copied().unwrap_or(0));
            let run = self.runs.get(i).copied().unwrap_or(Run { at: Addr(0), len: 0 });
            let record = |bytes: &[u8]| bytes.get(i * size..(i + 1) * size).and_then(|r| decode(layout, r));
            let head = self.heads.get(from..from + run.len).unwrap_or_default();
            from += run.len;
            let Some(now) = record(&self.after) else {
                let status = self.after.get(i * size..(i + 1) * size).and_then(|r| raw_status(layout, r));
                stats.torn += u64::from(!status.is_some_and(Status::is_dead));
                continue;
            };
            if target.symbols.is_system(target.image, now.startpc) {
                continue;
            }
            let mut answer = Answer::Again;
            if record(&self.before) == Some(now) {
                let stack = Copied { at: run.at, bytes: head };
                answer = follow(target, &now, stack, self.limits.frames, &mut self.frames);
            }
            let traced = match answer {
                Answer::Again => self.alone(target, g)?,
                Answer::Running => Some((now, None)),
                Answer::Stack(end) => Some((now, Some(end))),
            };
            let Some((traced, end)) = traced else { continue };
            stats.shown += 1;
            stats.running += u64::from(end.is_none());
            stats.cut += u64::from(end.is_some_and(|end| end != End::Complete));
            let frames = if end.is_some() { self.frames.as_slice() } else { &[] };
            if !visit(target, &traced, Stack { frames, end }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the `g`s of the batch, the heads of their stacks, and the `g`s again. Leaves the heads' places in
    /// `runs`.
    fn fetch(&mut self, target: &mut Target<'_>, size: usize) -> Result<(), Error> {
        let layout = target.runtime.layout;
        self.runs.clear();
        self.runs.extend(self.pointers.iter().map(|g| Run { at: Addr(*g), len: size }));
        let len = size * self.runs.len();
        self.gather.read(target.memory, &self.runs, self.before.get_mut(..len).unwrap_or_default())?;
        // The heads of their stacks; those that have none get none.
        let stacks = self.before.chunks_exact(size).take(self.pointers.len());
        let heads = stacks.zip(&self.pointers).map(|(record, g)| {
            decode(layout, record).and_then(|g| g.head(HEAD)).unwrap_or(Run { at: Addr(*g), len: 0 })
        });
        self.runs.clear();
        self.runs.extend(heads);
        let heads: usize = self.runs.iter().map(|run| run.len).sum();
        self.gather.read(target.memory, &self.runs, self.heads.get_mut(..heads).unwrap_or_default())?;
        let again: [Run; BATCH] =
            core::array::from_fn(|i| Run { at: Addr(self.pointers.get(i).copied().unwrap_or(0)), len: size });
        let again = again.get(..self.pointers.len()).unwrap_or_default();
        self.gather.read(target.memory, again, self.after.get_mut(..len).unwrap_or_default())
    }

    /// Reads one goroutine, with as much of its stack as it takes; `None` when it has ended.
    fn alone(&mut self, target: &mut Target<'_>, g: Addr) -> Result<Option<(Traced, Option<End>)>, Error> {
        let layout = target.runtime.layout;
        let (mut tries, mut bytes) = (0, HEAD * GROW);
        loop {
            let Some(now) = read_one(target.memory, layout, g)? else { return Ok(None) };
            let whole = bytes >= self.limits.stack_bytes;
            let Some(run) = now.head(bytes.min(self.limits.stack_bytes)) else {
                return Ok(Some((now, None)));
            };
            self.deep.resize(run.len, 0);
            each_alone(target.memory, &[run], &mut self.deep)?;
            match read_one(target.memory, layout, g)? {
                None => return Ok(None),
                Some(after) if after == now => {}
                Some(after) if tries >= TRIES => return Ok(Some((after, None))),
                Some(_) => {
                    tries += 1;
                    continue;
                }
            }
            let stack = Copied { at: run.at, bytes: &self.deep };
            match follow(target, &now, stack, self.limits.frames, &mut self.frames) {
                Answer::Running => return Ok(Some((now, None))),
                Answer::Again if whole => return Ok(Some((now, Some(End::TooDeep)))),
                Answer::Again => bytes = bytes.saturating_mul(GROW),
                Answer::Stack(end) => return Ok(Some((now, Some(end)))),
            }
        }
    }
}

/// What became of a stack.
enum Answer {
    /// It does not stand still.
    Running,
    /// The copy was too short.
    Again,
    /// Unwound.
    Stack(End),
}

fn follow(
    target: &mut Target<'_>,
    g: &Traced,
    stack: Copied<'_>,
    max: usize,
    frames: &mut Vec<Physical>,
) -> Answer {
    let Some(start) = g.start else { return Answer::Running };
    let Target { symbols, image, runtime, .. } = target;
    let mut look = |pc| symbols.place(*image, pc, Meaning::Return);
    let end = unwind(runtime.layout.arch, start, stack, max, frames, &mut look);
    let copied = stack.at.0.saturating_add(stack.bytes.len() as u64);
    match end {
        End::More if copied < g.stack[1] => Answer::Again,
        // It reaches beyond its own stack.
        End::More => Answer::Stack(End::Broken),
        end => Answer::Stack(end),
    }
}

fn read_one(memory: &mut dyn Memory, layout: &Layout, g: Addr) -> Result<Option<Traced>, Error> {
    let mut bytes = [0u8; G_MAX];
    let record = bytes.get_mut(..record_bytes(layout)).unwrap_or_default();
    each_alone(memory, &[Run { at: g, len: record.len() }], record)?;
    Ok(decode(layout, record))
}

/// Bytes of a `g` up to the last member that is looked at.
fn record_bytes(layout: &Layout) -> usize {
    let g = &layout.g;
    let last = [g.sched_bp, g.syscallpc, g.lockedm, g.gopc, g.startpc, g.parent_goid.unwrap_or(0)];
    (usize::from(last.into_iter().max().unwrap_or(0)) + 8).min(G_MAX)
}

fn raw_status(layout: &Layout, record: &[u8]) -> Option<Status> {
    le::u32(record, layout.g.atomicstatus.into()).ok().and_then(Status::from_raw)
}

/// `None` for what is no live goroutine, or contradicts itself.
fn decode(layout: &Layout, record: &[u8]) -> Option<Traced> {
    let l = &layout.g;
    let word = |offset: u16| le::u64(record, offset.into()).ok();
    let status = raw_status(layout, record).filter(|status| !status.is_dead())?;
    let (goid, gopc) = (word(l.goid)?, word(l.gopc)?);
    if goid == 0 || gopc == 0 {
        return None;
    }
    let stack = [word(l.stack_lo)?, word(l.stack_hi)?];
    let (pc, sp) = (word(l.syscallpc)?, word(l.syscallsp)?);
    // `unwinder.initAt`, `tracebackothers`.
    let start = match status {
        _ if sp != 0 => Some(Start { pc: Addr(pc), sp: Addr(sp), lr: 0, syscall: true }),
        Status::Running | Status::CopyStack | Status::Syscall => None,
        _ => {
            let (pc, sp) = (Addr(word(l.sched_pc)?), Addr(word(l.sched_sp)?));
            // gobuf.lr stands before gobuf.bp; amd64 has none.
            let lr = if layout.arch == Arch::Arm64 { word(l.sched_bp.checked_sub(8)?)? } else { 0 };
            Some(Start { pc, sp, lr, syscall: false })
        }
    };
    let start = start.filter(|start| (stack[0]..stack[1]).contains(&start.sp.0));
    Some(Traced {
        goid,
        status,
        reason: le::u8(record, l.waitreason.into()).ok()?,
        since: word(l.waitsince)?,
        locked: word(l.lockedm)? != 0,
        parent: l.parent_goid.and_then(word).unwrap_or(0),
        gopc: Addr(gopc),
        startpc: Addr(word(l.startpc)?),
        start,
        stack,
        ran: le::u8(record, l.tracking_seq.into()).ok()?,
    })
}

impl Traced {
    /// The lowest `bytes` of its stack that are in use.
    fn head(&self, bytes: usize) -> Option<Run> {
        let at = self.start?.sp;
        let left = usize::try_from(self.stack[1].checked_sub(at.0)?).unwrap_or(usize::MAX);
        Some(Run { at, len: bytes.min(left) })
    }
}
