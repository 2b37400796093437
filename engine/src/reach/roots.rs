//! Where marking begins: global variables, processors, finalisers, cleanups, weak pointers, stacks, and C.

use alloc::vec;
use alloc::vec::Vec;

use super::mark::Marker;
use super::pass::TIME_IS_UP;
use super::places::Places;
use super::{Abstained, Region, Stop};
use crate::heap::{ARENA_BITS, ARENAS, LOWEST, PAGE_BITS};
use crate::memory::{Addr, Error, Memory, le};
use crate::runtime::Runtime;

/// Bytes read in one go; a multiple of the words that a byte of a mask is about.
const PIECE: usize = 32 << 10;
/// Bytes that are unmapped as a whole: a page of any kernel, or a part of one.
const PAGE: u64 = 4 << 10;
/// Blocks of finalisers and cleanups that are followed: a million that wait to be run.
const BLOCKS_MAX: usize = 1 << 15;
/// Specials of one span: no span has more objects than an eighth of its bytes, and few specials each.
const SPECIALS_MAX: usize = 1 << 16;
/// Processors and threads there may be.
const PS_MAX: u64 = 1 << 12;
const MS_MAX: usize = 1 << 15;
/// Holes in C's memory that one hole may lie within.
const NESTED: usize = 4;
/// Bytes of a special with what follows it, at most.
const RECORD_MAX: usize = 128;

/// The processors and threads of a program, which lead to goroutines without keeping them.
#[derive(Default)]
pub(super) struct Machines {
    ps: Vec<u64>,
    /// Threads, and those among them whose stacks Go has made itself: without C all but the first.
    threads: usize,
    own: usize,
    /// Of stacks that C has made, what is below that which Go's scheduler uses, while that is not in C.
    unused: Vec<Region>,
}

impl Machines {
    /// Finds them, and passes over what belongs to the runtime itself.
    pub(super) fn find(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        marker: &mut Marker,
    ) -> Result<(), Stop> {
        self.ps.clear();
        self.unused.clear();
        (self.threads, self.own) = (0, 0);
        let layout = runtime.layout;
        let (array, len) = (memory.word(runtime.globals.allp)?, memory.word(runtime.globals.allp.plus(8)?)?);
        if len > PS_MAX {
            return Err(Error::Malformed { what: "allp", at: array }.into());
        }
        for i in 0..len {
            let p = memory.word(Addr(array).plus(8 * i)?)?;
            marker.pass_over(p);
            self.ps.push(p);
        }
        let allm =
            runtime.globals.allm.ok_or(Error::Unsupported("Go program whose threads cannot be found"))?;
        let mut m = memory.word(allm)?;
        for _ in 0..MS_MAX {
            if m == 0 {
                return Ok(());
            }
            let mut record = vec![0; layout.m.size.into()];
            memory.read(Addr(m), &mut record)?;
            let word = |offset: u16| le::u64(&record, offset.into());
            let (g0, signal) = (word(layout.m.g0)?, word(layout.m.gsignal)?);
            marker.pass_over(g0);
            marker.pass_over(signal);
            let low = memory.word(Addr(g0).plus(layout.g.stack_lo.into())?)?;
            self.threads += 1;
            self.own += usize::from(marker.spans.is_arena(low));
            if le::u8(&record, layout.m.incgo.into())? == 0 {
                let sp = memory.word(Addr(g0).plus(layout.g.sched_sp.into())?)?;
                let len = sp.saturating_sub(low);
                self.unused.push(Region { from: Addr(low), len });
            }
            m = word(layout.m.alllink)?;
        }
        Err(Error::Malformed { what: "list of threads", at: allm.0 }.into())
    }

    /// The memory in which C may keep what it knows; none where there is no C: only with C threads have stacks that
    /// Go has not made (`allocm` of `runtime/proc.go`).
    pub(super) fn c_memory<'r>(&self, regions: Option<&'r [Region]>) -> Result<&'r [Region], Stop> {
        match (self.own, self.threads) {
            (1.., _) => Ok(&[]),
            // The first thread alone does not say: the runtime has not begun yet.
            (0, 0 | 1) => Err(Stop::Abstained(Abstained::Restless)),
            (0, _) => regions.ok_or(Stop::Abstained(Abstained::Cgo)),
        }
    }

    /// What processors hold: timers, and goroutines that are about to run.
    fn scan(&self, runtime: &Runtime, memory: &mut dyn Memory, marker: &mut Marker) -> Result<(), Stop> {
        let l = &runtime.layout.p;
        let mut record = vec![0; l.size.into()];
        for p in &self.ps {
            memory.read(Addr(*p), &mut record)?;
            for hole in l.holes {
                let range = usize::from(hole.at)..usize::from(hole.at) + usize::from(hole.len);
                record.get_mut(range).into_iter().for_each(|part| part.fill(0));
            }
            marker.words(&record);
        }
        Ok(())
    }
}

/// All that is reachable by itself but for what goroutines refer to.
pub(super) fn scan(
    runtime: &Runtime,
    places: &Places,
    machines: &Machines,
    regions: &[Region],
    memory: &mut dyn Memory,
    marker: &mut Marker,
) -> Result<(), Stop> {
    globals(runtime, places, memory, marker)?;
    machines.scan(runtime, memory, marker)?;
    queues(runtime, places, memory, marker)?;
    specials(runtime, memory, marker)?;
    if !regions.is_empty() {
        let holes = holes(runtime, places, machines, memory, marker)?;
        for region in regions {
            in_c(*region, &holes, memory, marker)?;
        }
    }
    Ok(())
}

fn globals(
    runtime: &Runtime,
    places: &Places,
    memory: &mut dyn Memory,
    marker: &mut Marker,
) -> Result<(), Stop> {
    let (mut bytes, mut mask) = (vec![0u8; PIECE], vec![0u8; PIECE / 64]);
    for found in places.globals(runtime, memory)? {
        let Some(bits_at) = found.mask else { continue };
        let mut done = 0;
        while done < found.len {
            let len = usize::try_from((found.len - done).min(PIECE as u64)).unwrap_or(0);
            let (piece, bits) = (bytes.get_mut(..len), mask.get_mut(..len.div_ceil(64)));
            let (piece, bits) = (piece.unwrap_or_default(), bits.unwrap_or_default());
            memory.read(found.from.plus(done)?, piece)?;
            memory.read(bits_at.plus(done / 64)?, bits)?;
            for (i, word) in piece.as_chunks::<8>().0.iter().enumerate() {
                if bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1) {
                    marker.visit(u64::from_le_bytes(*word));
                }
            }
            done += len as u64;
        }
    }
    Ok(())
}

/// Finalisers and cleanups that wait to be run. Which variable begins their list is not known exactly: whatever
/// could is taken for it, which at worst keeps more in use.
fn queues(
    runtime: &Runtime,
    places: &Places,
    memory: &mut dyn Memory,
    marker: &mut Marker,
) -> Result<(), Stop> {
    let layout = runtime.layout;
    let mut left = BLOCKS_MAX;
    for at in &places.finalizers {
        blocks(memory, marker, *at, layout.fin_block.size, layout.fin_block.alllink, &mut left)?;
    }
    if let (Some(queue), Some(block)) = (layout.cleanup_queue, layout.cleanup_block) {
        for at in &places.cleanups {
            blocks(memory, marker, at.plus(queue.all.into())?, block.size, block.alllink, &mut left)?;
        }
    }
    Ok(())
}

fn blocks(
    memory: &mut dyn Memory,
    marker: &mut Marker,
    first: Addr,
    size: u16,
    next: u16,
    left: &mut usize,
) -> Result<(), Stop> {
    let mut bytes = vec![0; size.into()];
    let mut before = 0;
    let Ok(mut at) = memory.word(first) else { return Ok(()) };
    // The runtime takes the memory of blocks from the system, never from the heap.
    while at >= LOWEST && at.is_multiple_of(8) && at != before && !marker.spans.is_arena(at) {
        *left = left.checked_sub(1).ok_or(Stop::Abstained(Abstained::Restless))?;
        match memory.read(Addr(at), &mut bytes) {
            Ok(()) => marker.words(&bytes),
            Err(Error::Gone) => return Err(Stop::Gone),
            // It was no block.
            Err(_) => return Ok(()),
        }
        before = at;
        at = le::u64(&bytes, next.into())?;
    }
    Ok(())
}

/// What finalisers, cleanups and weak pointers keep. What a weak pointer refers to can be used through it.
fn specials(runtime: &Runtime, memory: &mut dyn Memory, marker: &mut Marker) -> Result<(), Stop> {
    let layout = runtime.layout;
    let (l, kinds) = (&layout.special, &layout.special_kinds);
    // What comes next says how wide it is: since Go 1.24 a word, before only two bytes.
    let in_offset = if l.kind.saturating_sub(l.offset) < 8 { 0xffff } else { u64::MAX };
    let mut record = [0u8; RECORD_MAX];
    for number in 0..u32::try_from(marker.spans.spans.len()).unwrap_or(u32::MAX) {
        let Some(span) = marker.spans.get(number).copied().filter(|span| span.specials != 0) else {
            continue;
        };
        let (mut at, mut left) = (span.specials, SPECIALS_MAX);
        while at != 0 {
            left = left.checked_sub(1).ok_or(Stop::Abstained(Abstained::Restless))?;
            let head =
                record.get_mut(..l.size.into()).ok_or(Error::Unsupported("size of runtime.special"))?;
            memory.read(Addr(at), head)?;
            let (next, kind) = (le::u64(head, l.next.into())?, le::u8(head, l.kind.into())?);
            let offset = le::u64(head, l.offset.into())? & in_offset;
            let object = span.start.saturating_add(offset);
            let size = if kind == kinds.finalizer {
                // Only what it refers to is kept, but its finaliser may do with it what it likes.
                marker.visit(object);
                Some(layout.special_finalizer.size)
            } else if Some(kind) == kinds.cleanup {
                layout.special_cleanup.map(|special| special.size)
            } else if Some(kind) == kinds.weak_handle {
                marker.visit(object);
                Some(l.size + 8)
            } else {
                None
            };
            if let Some(rest) = size.and_then(|size| record.get_mut(l.size.into()..size.into())) {
                memory.read(Addr(at).plus(l.size.into())?, rest)?;
                marker.words(rest);
            }
            at = next;
        }
    }
    Ok(())
}

/// What does not belong to C: Go's heap and global variables, which are looked at otherwise, what the runtime knows
/// of the heap, and what is unused of stacks. In ascending order.
fn holes(
    runtime: &Runtime,
    places: &Places,
    machines: &Machines,
    memory: &mut dyn Memory,
    marker: &Marker,
) -> Result<Vec<Region>, Stop> {
    let layout = runtime.layout;
    let mut found = machines.unused.clone();
    let mut add = |from: u64, len: u64| found.push(Region { from: Addr(from), len });
    add(places.heap.index.0, ARENAS * 8);
    for (arena, about) in marker.spans.arenas() {
        add(arena, 1 << ARENA_BITS);
        add(about, layout.heap_arena.size.into());
    }
    // The collector's page of pointers that it has met.
    for p in &machines.ps {
        if let Some(at) = layout.p.ptr_buf {
            add(memory.word(Addr(*p).plus(at.into())?)?, 1 << PAGE_BITS);
        }
    }
    for span in &marker.spans.spans {
        add(span.record, layout.mspan.size.into());
    }
    for stretch in places.globals(runtime, memory)? {
        add(stretch.from.0, stretch.len);
    }
    found.sort_unstable_by_key(|hole| hole.from);
    Ok(found)
}

/// Whatever C has could be a pointer; what has been unmapped is none any more.
fn in_c(region: Region, holes: &[Region], memory: &mut dyn Memory, marker: &mut Marker) -> Result<(), Stop> {
    let mut bytes = vec![0u8; PIECE];
    let end = region.from.0.saturating_add(region.len);
    let (mut at, mut by_page) = (region.from.0, 0);
    while at < end {
        let next = holes.partition_point(|hole| hole.from.0 <= at);
        // One may lie within another.
        let before = holes.get(next.saturating_sub(NESTED)..next).unwrap_or_default();
        if let Some(hole) =
            before.iter().map(|hole| hole.from.0.saturating_add(hole.len)).find(|end| *end > at)
        {
            at = hole;
            continue;
        }
        let most = if at < by_page { PAGE - at % PAGE } else { PIECE as u64 };
        let len = usize::try_from((end - at).min(most)).unwrap_or(0);
        let piece = bytes.get_mut(..len).unwrap_or_default();
        match memory.read(Addr(at), piece) {
            Ok(()) => {
                for hole in holes.iter().skip(next).take_while(|hole| hole.from.0 < at + len as u64) {
                    let from = usize::try_from(hole.from.0 - at).unwrap_or(len);
                    let to = from.saturating_add(usize::try_from(hole.len).unwrap_or(len)).min(len);
                    piece.get_mut(from..to).into_iter().for_each(|part| part.fill(0));
                }
                marker.words(piece);
            }
            Err(error @ (Error::Gone | TIME_IS_UP)) => return Err(error.into()),
            // A part of it may still be there.
            Err(_) if at >= by_page => {
                by_page = at + len as u64;
                continue;
            }
            Err(_) => {}
        }
        at += len as u64;
    }
    Ok(())
}
