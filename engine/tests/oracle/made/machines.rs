//! Threads and processors: what the runtime keeps on the heap for itself.

use super::random::Random;
use super::world::{Kind, World};

/// Headers of slices and lists.
pub const ALLP: u64 = 0x60_0000;
const P_ARRAY: u64 = 0x60_0040;
/// Memory of C, of which the second stretch is missing: it has been unmapped.
pub const C: u64 = 0x7e00_0000_0000;
const C_MAPPED: u64 = 0x2000;
const C_AGAIN: u64 = 0x4000;
/// Bytes of all of it.
pub const C_BYTES: u64 = 0x2_0000;
/// Stacks in it.
const C_STACKS: u64 = C + 0x8000;
const STACK: u64 = 0x800;

/// Makes threads and processors; the address of the first thread. With C the threads' stacks are C's.
pub fn machines(world: &mut World, with_c: bool) -> u64 {
    processors(world);
    if with_c {
        let len = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        world.heap.space.map(C, len(C_MAPPED));
        world.heap.space.map(C + C_AGAIN, len(C_BYTES - C_AGAIN));
        let words = [C + 8, C + C_MAPPED - 8, C + C_AGAIN, C + C_BYTES - 8];
        world.hold(Kind::Root, 0, 0, words);
    }
    let mut first = 0;
    for nth in 0..2 + world.random.up_to(2) {
        first = thread(world, nth, first, with_c);
    }
    first
}

fn processors(world: &mut World) {
    let l = world.layout().p;
    let count = 1 + world.random.up_to(2);
    world.heap.space.map(ALLP, 0x80);
    for (i, word) in [P_ARRAY, count, count].into_iter().enumerate() {
        world.heap.space.word(ALLP + 8 * i as u64, word);
    }
    for i in 0..count {
        let p = world.heap.slot(l.size.into(), true, 0, &mut world.random);
        world.heap.space.word(P_ARRAY + 8 * i, p);
        world.heap.space.write(p + u64::from(l.id), &u32::try_from(i).unwrap_or(0).to_le_bytes());
        let kept = [0u64, 80, 250].map(|word| p + 128 + 8 * word);
        world.hold(Kind::Root, 0, 0, kept);
        // What the collector has in hand is not in use because of that.
        let word = |hole: &glg_engine::layout::Area, random: &mut Random| {
            p + u64::from(hole.at) + 8 * random.up_to(u64::from(hole.len) / 8)
        };
        let holes: Vec<u64> = l
            .holes
            .iter()
            .map(|hole| word(hole, &mut world.random))
            .filter(|at| l.ptr_buf.is_none_or(|buffer| *at != p + u64::from(buffer)))
            .collect();
        world.hold(Kind::Decoy, 0, 0, holes);
    }
}

/// A thread: its `m`, and the goroutines of its own, whose words are nobody's.
fn thread(world: &mut World, nth: u64, next: u64, with_c: bool) -> u64 {
    let layout = world.layout();
    let m = world.heap.slot(layout.m.size.into(), true, 0, &mut world.random);
    let g0 = world.heap.slot(layout.g.size.into(), true, 0, &mut world.random);
    let signal = world.heap.slot(layout.g.size.into(), true, 0, &mut world.random);
    let at = |offset: u16| m + u64::from(offset);
    let space = &mut world.heap.space;
    space.word(at(layout.m.g0), g0);
    space.word(at(layout.m.gsignal), signal);
    space.word(at(layout.m.alllink), next);
    world.hold(Kind::Root, 0, 0, [m + 600, m + 704]);
    let low = if with_c { C_STACKS + nth * STACK } else { world.stack() };
    let sp = low + 0x400;
    let field = |offset: u16| g0 + u64::from(offset);
    let in_c = world.random.chance(30);
    let space = &mut world.heap.space;
    space.word(field(layout.g.stack_lo), low);
    space.word(field(layout.g.stack_hi), low + STACK);
    space.word(field(layout.g.sched_sp), sp);
    space.write(at(layout.m.incgo), &[u8::from(in_c)]);
    // `chanparkcommit` leaves channels on the scheduler's stack, and the finished do in their `g`s.
    world.hold(Kind::Decoy, 0, 0, [g0 + 40, signal + 40]);
    let below = if with_c && in_c { Kind::Root } else { Kind::Decoy };
    world.hold(below, 0, 0, [low + 8, sp - 8]);
    let above = if with_c { Kind::Root } else { Kind::Decoy };
    world.hold(above, 0, 0, [sp, low + STACK - 8]);
    m
}
