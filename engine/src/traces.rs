//! All goroutines with their stacks, in the order of `allgs`, read from outside while the program runs.
//!
//! Each is read as it stands: its `g`, then the piece of its stack that matters, then its `g` again. Only when
//! it has not run in between are they believed. This is done for a batch at a time; what ran, and what has
//! a deep stack, is read once more on its own.
//!
//! How that is known of a goroutine in a system call: `record`.

mod record;

use alloc::vec::Vec;

use crate::gather::{GAP, Gather, each_alone};
use crate::goroutines::Allgs;
use crate::layout::Status;
use crate::memory::{Addr, Error, Image, Memory, Run};
use crate::runtime::Runtime;
use crate::stack::{Copied, End, Physical, Unwound, unwind};
use crate::symbols::{Meaning, Symbols};

pub use record::Traced;
pub(crate) use record::{Tick, read_again, read_one, read_still, scheduled};
use record::{decode, raw_status, record_bytes};

/// Goroutines read in one go, and places of `allgs`.
const BATCH: usize = 128;
const PLACES: usize = 1024;
/// Bytes fetched of `g`s in one go, with what lies between them.
const GS: usize = 2 * BATCH * G_MAX;
/// Bytes of a stack fetched at first, where as many are in use: enough for nearly all that are blocked.
const HEAD: usize = 8 << 10;
/// Bytes fetched of stacks in one go, with what lies between them.
const HEADS: usize = 320 << 10;
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

/// A goroutine's stack.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Its frames, the innermost first; empty while it runs.
    pub frames: &'a [Physical],
    /// Whether these are all; `None` while it runs.
    pub end: Option<End>,
    /// The memory they lie in.
    pub memory: Copied<'a>,
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
    batch: Vec<Option<Traced>>,
    gs: Gather,
    heads: Gather,
    deep: Vec<u8>,
    frames: Vec<Physical>,
}

impl Tracer {
    /// Bytes that one takes.
    #[must_use]
    pub fn bytes(limits: &TraceLimits) -> usize {
        let batch = PLACES * 8 + BATCH * (size_of::<Run>() + size_of::<Option<Traced>>());
        let read = Gather::bytes(BATCH, GS) + Gather::bytes(BATCH, HEADS);
        batch + read + limits.stack_bytes + limits.frames * size_of::<Physical>()
    }

    /// A walker with these bounds.
    #[must_use]
    pub fn new(limits: TraceLimits) -> Tracer {
        Tracer {
            limits,
            pointers: Vec::with_capacity(PLACES),
            runs: Vec::with_capacity(BATCH),
            batch: Vec::with_capacity(BATCH),
            gs: Gather::new(BATCH, GS),
            heads: Gather::new(BATCH, HEADS),
            deep: Vec::new(),
            frames: Vec::with_capacity(limits.frames),
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
        let mut bytes = [0u8; PLACES * 8];
        while places.read(target.runtime, target.memory, &mut bytes, &mut self.pointers)? {
            let mut from = 0;
            while from < self.pointers.len() {
                match self.batch(target, from, &mut stats, visit)? {
                    Some(seen) => from += seen,
                    None => return Ok(stats),
                }
            }
        }
        stats.skipped = places.skipped;
        Ok(stats)
    }

    /// Visits goroutines from one of the pointers on, as many as can be read in one go: their `g`s, their stacks,
    /// and their `g`s again. Returns how many these were; `None` when no more are wanted.
    fn batch(
        &mut self,
        target: &mut Target<'_>,
        from: usize,
        stats: &mut TraceStats,
        visit: &mut dyn FnMut(&mut Target<'_>, &Traced, Stack<'_>) -> bool,
    ) -> Result<Option<usize>, Error> {
        let layout = target.runtime.layout;
        self.read_gs(target, from, BATCH)?;
        self.batch.clear();
        self.batch.extend((0..self.runs.len()).map(|i| decode(layout, self.gs.get(i))));
        let seen = self.read_heads(target)?;
        self.read_gs(target, from, seen)?;
        for nth in 0..seen {
            if !self.one(target, from, nth, stats, visit)? {
                return Ok(None);
            }
        }
        Ok(Some(seen))
    }

    fn read_gs(&mut self, target: &mut Target<'_>, from: usize, most: usize) -> Result<(), Error> {
        let len = record_bytes(target.runtime.layout);
        let gs = self.pointers.iter().skip(from).take(most);
        self.runs.clear();
        self.runs.extend(gs.map(|g| Run { at: Addr(*g), len }));
        self.gs.read(target.memory, &self.runs)
    }

    /// Reads the stacks of the batch, as many as there is room for.
    fn read_heads(&mut self, target: &mut Target<'_>) -> Result<usize, Error> {
        let mut room = HEADS;
        self.runs.clear();
        for g in &self.batch {
            // Those that have no stack get none.
            let head = g.and_then(|g| g.head(HEAD)).unwrap_or(Run { at: Addr(0), len: 0 });
            match room.checked_sub(head.len + GAP) {
                Some(left) => room = left,
                None => break,
            }
            self.runs.push(head);
        }
        self.heads.read(target.memory, &self.runs)?;
        Ok(self.runs.len())
    }

    /// Visits the `nth` goroutine of the batch that begins at `from`.
    fn one(
        &mut self,
        target: &mut Target<'_>,
        from: usize,
        nth: usize,
        stats: &mut TraceStats,
        visit: &mut dyn FnMut(&mut Target<'_>, &Traced, Stack<'_>) -> bool,
    ) -> Result<bool, Error> {
        let layout = target.runtime.layout;
        let record = self.gs.get(nth);
        let Some(now) = decode(layout, record) else {
            stats.torn += u64::from(!raw_status(layout, record).is_some_and(Status::is_dead));
            return Ok(true);
        };
        if target.symbols.owner(target.image, now.startpc).is_system(now.wait) {
            return Ok(true);
        }
        let head = |gather| head_of(gather, &now, nth);
        let mut answer = Answer::Again;
        if self.batch.get(nth) == Some(&Some(now)) && !now.in_syscall() {
            answer = follow(target, &now, head(&self.heads), self.limits.frames, &mut self.frames);
        }
        let (traced, end, memory) = match answer {
            Answer::Again => {
                let g = Addr(self.pointers.get(from + nth).copied().unwrap_or(0));
                match self.alone(target, g)? {
                    Some((traced, end, at)) => (traced, end, Copied { at, bytes: &self.deep }),
                    None => return Ok(true),
                }
            }
            Answer::Running => (now, None, Copied { at: Addr(0), bytes: &[] }),
            Answer::Stack(end) => (now, Some(end), head(&self.heads)),
        };
        stats.shown += 1;
        stats.running += u64::from(end.is_none());
        stats.cut += u64::from(end.is_some_and(|end| end != End::Complete));
        let frames = if end.is_some() { self.frames.as_slice() } else { &[] };
        Ok(visit(target, &traced, Stack { frames, end, memory }))
    }

    /// Reads one goroutine, with as much of its stack as it takes, into `deep`; also says where that was.
    /// `None` when it has ended.
    fn alone(
        &mut self,
        target: &mut Target<'_>,
        g: Addr,
    ) -> Result<Option<(Traced, Option<End>, Addr)>, Error> {
        let layout = target.runtime.layout;
        let (mut tries, mut bytes) = (0, HEAD * GROW);
        loop {
            let Some(before) = read_still(target.memory, layout, g)? else { return Ok(None) };
            let now = before.0;
            let whole = bytes >= self.limits.stack_bytes;
            let Some(run) = now.head(bytes.min(self.limits.stack_bytes)) else {
                return Ok(Some((now, None, g)));
            };
            self.deep.resize(run.len, 0);
            each_alone(target.memory, &[run], &mut self.deep)?;
            match read_again(target.memory, layout, g, &before)? {
                None => return Ok(None),
                Some((_, true)) => {}
                Some((after, false)) if tries >= TRIES => return Ok(Some((after, None, g))),
                Some(_) => {
                    tries += 1;
                    continue;
                }
            }
            let stack = Copied { at: run.at, bytes: &self.deep };
            match follow(target, &now, stack, self.limits.frames, &mut self.frames) {
                Answer::Running => return Ok(Some((now, None, g))),
                Answer::Again if whole => return Ok(Some((now, Some(End::TooDeep), run.at))),
                Answer::Again => bytes = bytes.saturating_mul(GROW),
                Answer::Stack(end) => return Ok(Some((now, Some(end), run.at))),
            }
        }
    }
}

/// The `nth` stack that was read, which is that of `g`.
fn head_of<'h>(heads: &'h Gather, g: &Traced, nth: usize) -> Copied<'h> {
    Copied { at: g.start.map_or(Addr(0), |start| start.sp), bytes: heads.get(nth) }
}

/// What became of a stack.
pub(crate) enum Answer {
    /// It does not stand still.
    Running,
    /// The copy was too short.
    Again,
    /// Unwound.
    Stack(End),
}

pub(crate) fn follow(
    target: &mut Target<'_>,
    g: &Traced,
    stack: Copied<'_>,
    max: usize,
    frames: &mut Vec<Physical>,
) -> Answer {
    let Some(start) = g.start else { return Answer::Running };
    let Target { symbols, image, runtime, .. } = target;
    let mut unknown = None;
    let mut look = |pc| {
        let place = symbols.place(*image, pc, Meaning::Return);
        unknown = place.is_none().then_some(pc);
        place
    };
    let Unwound { end, reach } = unwind(runtime.layout.arch, start, stack, max, frames, &mut look);
    if let Some(pc) = unknown.filter(|_| end == End::Broken && frames.len() < max) {
        // Where it leads can at least be said.
        frames.push(Physical { pc, stopped: false, arguments: Addr(0), slot: u32::MAX });
    }
    let copied = stack.at.0.saturating_add(stack.bytes.len() as u64);
    match end {
        End::More if copied < g.stack[1] => Answer::Again,
        // Its arguments are beyond.
        End::Complete if copied < reach && copied < g.stack[1] => Answer::Again,
        // It reaches beyond its own stack.
        End::More => Answer::Stack(End::Broken),
        end => Answer::Stack(end),
    }
}
