//! What is in use whatever happens: global variables, specials, and the queues of finalisers and cleanups.

use super::machines::{C, C_BYTES};
use super::world::{Kind, Ref, World};

/// The first `moduledata`, and the bytes from one to the next.
pub const MODULE: u64 = 0x61_0000;
const MODULE_STEP: u64 = 0x400;
/// Global variables: in this order data, bss, and both without pointers, of each module.
pub const VARIABLES: u64 = 0x62_0000;
const STRETCH: u64 = 0x1_0000;
pub const MASKS: u64 = 0x70_0000;
/// The first words of the first bss: all threads, and where semaphores lead to who waits for them.
pub const BSS: u64 = VARIABLES + STRETCH;
/// `semtable`.
pub const SEMAPHORES: u64 = BSS + 8;
const RESERVED: u64 = 3;
/// Variables that `queuefinalizer` and `runCleanups` mention.
const MENTIONED: u64 = 0x60_0200;
/// Of finalisers: a count, an address of the heap, and twice the list.
pub const FINALIZERS: [u64; 4] = [MENTIONED, MENTIONED + 8, MENTIONED + 16, MENTIONED + 24];
/// `gcCleanups`.
pub const CLEANUPS: u64 = 0x60_0400;
const BLOCKS: u64 = 0x7f60_0000_0000;
const SPECIALS: u64 = 0x7f30_0000_0000;
const SPECIALS_MAX: u64 = 16;
const SPECIAL: u64 = 64;

/// Makes the global variables; the first of them is that of all threads.
pub fn variables(world: &mut World, allm: u64) {
    let l = world.layout().moduledata;
    let count = 1 + u64::from(world.random.chance(20));
    world.heap.space.map(MODULE, usize::try_from(count * MODULE_STEP).unwrap_or(0));
    for nth in 0..count {
        let module = MODULE + nth * MODULE_STEP;
        let stretches = [
            (l.data, l.edata, Some(l.gcdatamask)),
            (l.bss, l.ebss, Some(l.gcbssmask)),
            (l.noptrdata, l.enoptrdata, None),
            (l.noptrbss, l.enoptrbss, None),
        ];
        for (i, (from, to, mask)) in (0u64..).zip(stretches) {
            let at = VARIABLES + (4 * nth + i) * STRETCH;
            // Sometimes more than is read in one go.
            let most = if world.random.chance(5) { 6000 } else { 40 };
            let words = 4 + world.random.up_to(most);
            world.heap.space.map(at, usize::try_from(8 * words).unwrap_or(0));
            world.heap.space.word(module + u64::from(from), at);
            world.heap.space.word(module + u64::from(to), at + 8 * words);
            stretch(world, at, words, mask.map(|offset| (module + u64::from(offset), MASKS + at)));
        }
        let next = if nth + 1 < count { module + MODULE_STEP } else { 0 };
        world.heap.space.word(module + u64::from(l.next), next);
    }
    world.heap.space.word(BSS, allm);
}

/// One stretch: which words are pointers stands in its mask.
fn stretch(world: &mut World, at: u64, words: u64, mask: Option<(u64, u64)>) {
    let mut bits = vec![0u8; usize::try_from(words.div_ceil(8)).unwrap_or(0)];
    let reserved = if at == BSS { RESERVED } else { 0 };
    for word in 0..words {
        let pointer = mask.is_some() && (word < reserved || world.random.chance(40));
        if let Some(byte) = bits.get_mut(usize::try_from(word / 8).unwrap_or(0)) {
            *byte |= u8::from(pointer) << (word % 8);
        }
        if word >= reserved && world.random.chance(if words > 100 { 1 } else { 25 }) {
            let kind = if pointer { Kind::Root } else { Kind::Decoy };
            world.hold(kind, 0, 0, [at + 8 * word]);
        }
    }
    if let Some((field, mask)) = mask {
        world.heap.space.map(mask, bits.len());
        world.heap.space.write(mask, &bits);
        world.heap.space.word(field, mask);
    }
}

/// Finalisers and cleanups that wait to be run.
pub fn queues(world: &mut World) {
    let layout = world.layout();
    world.heap.space.map(MENTIONED, 0x100);
    world.heap.space.map(CLEANUPS, 0x200);
    let first = blocks(world, BLOCKS, layout.fin_block.size, layout.fin_block.alllink);
    let some = world.heap.spans.first().map_or(0, |span| span.start);
    for (at, value) in FINALIZERS.into_iter().zip([5, some, first, first]) {
        world.heap.space.word(at, value);
    }
    if let (Some(queue), Some(block)) = (layout.cleanup_queue, layout.cleanup_block) {
        let first = blocks(world, BLOCKS + 0x10_0000, block.size, block.alllink);
        world.heap.space.word(CLEANUPS + u64::from(queue.all), first);
    }
}

fn blocks(world: &mut World, at: u64, size: u16, link: u16) -> u64 {
    let mut first = 0;
    for nth in 0..world.random.up_to(3) {
        let block = at + nth * 0x2000;
        world.heap.space.map(block, size.into());
        world.heap.space.word(block + u64::from(link), first);
        world.hold(Kind::Root, 0, 0, [block + 40, block + u64::from(size) - 8]);
        first = block;
    }
    first
}

/// What spans know of some of their objects.
pub fn specials(world: &mut World, objects: &[usize]) {
    world.heap.space.map(SPECIALS, usize::try_from(SPECIALS_MAX * SPECIAL).unwrap_or(0));
    for nth in 0..world.random.up_to(6) {
        if let Some(object) = world.random.pick(objects) {
            special(world, SPECIALS + nth * SPECIAL, object);
        }
    }
}

fn special(world: &mut World, record: u64, object: usize) {
    let kinds = world.layout().special_kinds;
    // Of profiles, or for tests.
    let known = [Some(kinds.finalizer), kinds.weak_handle, kinds.cleanup];
    let other = (1..).find(|kind| !known.contains(&Some(*kind))).unwrap_or(0);
    let kind = match world.random.below(4) {
        0 => kinds.finalizer,
        1 => kinds.cleanup.unwrap_or(kinds.finalizer),
        2 => kinds.weak_handle.unwrap_or(kinds.finalizer),
        _ => other,
    };
    // Only a weak pointer is to any byte.
    let first = Ref { to: object, offset: 0 };
    let to = if Some(kind) == kinds.weak_handle { world.some_byte(object) } else { first };
    if !tell(world, record, to, kind) {
        return;
    }
    let holds = record + u64::from(world.layout().special.size);
    let holder = world.hold(if kind == other { Kind::Decoy } else { Kind::Root }, 0, 0, [holds]);
    if kind != other && Some(kind) != kinds.cleanup {
        world.add(holder, 0, Some(to));
    }
}

/// A weak pointer to this byte, in the releases that have them.
pub fn weak(world: &mut World, to: Ref) {
    let Some(kind) = world.layout().special_kinds.weak_handle else { return };
    if tell(world, SPECIALS + (SPECIALS_MAX - 1) * SPECIAL, to, kind) {
        let holder = world.hold(Kind::Root, 0, 0, []);
        world.add(holder, 0, Some(to));
    }
}

/// Writes a special; whether that is possible.
fn tell(world: &mut World, record: u64, to: Ref, kind: u8) -> bool {
    let (l, at) = (world.layout().special, world.address(to));
    let Some((span, head)) = world.heap.span_of(at).map(|span| (span.start, span.record)) else {
        return false;
    };
    let (head, offset) = (head + u64::from(world.layout().mspan.specials), at - span);
    let wide = l.kind - l.offset >= 8;
    if !wide && offset > 0xffff {
        return false;
    }
    let space = &mut world.heap.space;
    space.word(record + u64::from(l.next), space.get(head));
    let bytes = if wide { 8 } else { 2 };
    space.write(record + u64::from(l.offset), &offset.to_le_bytes()[..bytes]);
    space.write(record + u64::from(l.kind), &[kind]);
    space.word(head, record);
    true
}

/// All memory that may be written, in which C keeps what it knows.
#[must_use]
pub fn regions(world: &World) -> Vec<(u64, u64)> {
    let variables = (VARIABLES, MASKS - VARIABLES);
    world.heap.stretches().into_iter().chain([(C, C_BYTES), variables]).collect()
}
