//! A random program.

use glg_engine::memory::Addr;
use glg_engine::reach::{Places, Region};
use glg_engine::runtime::{Globals, Runtime};

use super::machines::{ALLP, machines};
use super::roots::{self, BSS, CLEANUPS, FINALIZERS, MODULE, VARIABLES};
use super::waits::Way;
use super::world::{Goroutine, Kind, Ref, State, World};

/// `allgs`, and its array.
const ALLGS: u64 = 0x60_0800;
const G_ARRAY: u64 = 0x60_0840;
/// Goroutines there may be, the dead ones included.
pub const GOROUTINES_MAX: usize = 120;
/// Bytes of a stack, and pages that are taken for stacks in one go.
const STACK: u64 = 2048;
const STACK_PAGES: u64 = 4;
/// Words of a stack that refer to something, and how far up they are.
const WORDS: u64 = 6;
const FRAME: u64 = 64;
/// Three arenas: two beside each other, and one apart.
const STARTS: [u64; 3] = [0xc0_0000_0000, 0xc0_0400_0000, 0xc0_1400_0000];

/// A program, and how the engine sees it.
pub struct Made {
    /// What it means, and its memory.
    pub world: World,
    /// Its runtime.
    pub runtime: Runtime,
    /// Where everything is.
    pub places: Places,
    /// What C may have written to, if there is C.
    pub regions: Option<Vec<Region>>,
}

impl Made {
    /// The program number `seed` of this release.
    #[must_use]
    pub fn new(runtime: &Runtime, seed: u64) -> Made {
        let mut world =
            World::new(runtime.layout, &STARTS[..1 + 2 * usize::from(!seed.is_multiple_of(3))], seed);
        let with_c = world.random.chance(15);
        world.heap.churn(&mut world.random);
        world.heap.space.map(ALLGS, 0x40 + 8 * GOROUTINES_MAX);
        let allm = machines(&mut world, with_c);
        roots::variables(&mut world, allm);
        roots::queues(&mut world);
        let objects = objects(&mut world);
        world.goroutine(true);
        for _ in 0..3 + world.random.below(14) {
            let alive = !world.random.chance(8);
            world.goroutine(alive);
        }
        roots::specials(&mut world, &objects);
        let far = world.random.chance(10).then(|| far(&mut world));
        fill(&mut world);
        let waits = 2 + world.random.below(12);
        for who in (1..world.goroutines.len()).take(waits) {
            if world.goroutines[who].state == State::Runs
                && let Some(way) = some_way(&mut world)
            {
                world.block(who, &way);
            }
        }
        if let Some((who, lock)) = far {
            world.block(who, &Way::Lock(lock));
        }
        litter(&mut world);
        let (index, arenas) = world.heap.places();
        let layout = runtime.layout;
        let finalizers = FINALIZERS.map(Addr).to_vec();
        let cleanups = layout.cleanup_queue.map(|_| Addr(CLEANUPS)).into_iter().collect();
        let places = Places::known(Addr(index), Addr(arenas), Addr(MODULE), finalizers, cleanups);
        let region = |(from, len): (u64, u64)| Region { from: Addr(from), len };
        let regions = with_c.then(|| roots::regions(&world).into_iter().map(region).collect());
        let mut runtime = runtime.clone();
        runtime.globals =
            Globals { allgs: Addr(ALLGS), allp: Addr(ALLP), allm: Some(Addr(BSS)), ..runtime.globals };
        Made { world, runtime, places, regions }
    }
}

/// Objects of all kinds, without words in them yet.
fn objects(world: &mut World) -> Vec<usize> {
    const SIZES: [u64; 16] = [8, 16, 24, 32, 48, 64, 88, 96, 104, 128, 400, 456, 640, 1400, 2000, 9000];
    let count = 12 + world.random.below(30);
    let mut all = Vec::new();
    for _ in 0..count {
        let size = match world.random.below(60) {
            // More than one span is read of in one go, and one that is longer than 64 KiB.
            0 => 70_000,
            1 | 2 => 27_000,
            _ => world.random.pick(&SIZES).unwrap_or(8),
        };
        let made = match world.random.below(10) {
            0..=2 => world.channel(),
            3 => world.object(Kind::Cond, 64, true, &[0, 8]),
            4 => world.object(Kind::Tiny, 16, false, &[]),
            5 => world.noscan(size),
            _ => world.plain(size),
        };
        all.push(made);
    }
    all
}

/// Somebody who will wait for a lock at the end of a span of more than 64 KiB, to which there is a weak pointer. Only
/// that class of objects has so much room for several.
fn far(world: &mut World) -> (usize, Ref) {
    let all = [(); 3].map(|()| world.plain(27_000));
    let last = all.into_iter().max_by_key(|object| world.holders[*object].at).unwrap_or(0);
    roots::weak(world, Ref { to: last, offset: 20_000 });
    (world.goroutine(true), Ref { to: last, offset: 64 })
}

/// What words refer to: those that count to few things, so that much is not in use; the others to many.
fn fill(world: &mut World) {
    let dense = 20 + world.random.below(50);
    for holder in 0..world.holders.len() {
        let percent = match world.holders[holder].kind {
            Kind::Root => dense / 4,
            Kind::Goroutine(_) => dense / 2,
            Kind::Decoy => 70,
            _ => dense,
        };
        for nth in 0..world.holders[holder].slots.len() {
            let slot = world.holders[holder].slots[nth];
            if slot.to.is_none() && slot.at != 0 && world.random.chance(percent) {
                let to = world.some_ref();
                world.set(holder, nth, to);
            }
        }
    }
}

/// Words that nobody looks at: in free slots, and where a `g` says how its stack is used.
fn litter(world: &mut World) {
    for _ in 0..20 {
        let word = world.some_ref().map_or(0, |to| world.address(to));
        world.heap.litter(word, &mut world.random);
    }
    let l = world.layout().g;
    for who in 0..world.goroutines.len() {
        for offset in [l.sched_bp, l.sched_pc, l.syscallpc] {
            let word = world.some_ref().map_or(0, |to| world.address(to));
            let at = world.goroutines[who].g + u64::from(offset);
            world.heap.space.word(at, word);
        }
    }
}

/// Something to wait for.
pub fn some_way(world: &mut World) -> Option<Way> {
    let of = |world: &World, kind: Kind| -> Vec<usize> {
        let holders = world.holders.iter().enumerate();
        holders.filter(|(_, holder)| holder.kind == kind).map(|(i, _)| i).collect()
    };
    let random = world.random.below(20);
    match random {
        0 => Some(Way::Nobody),
        1 => Some(Way::Anywhere(VARIABLES + 16)),
        2 => world.goroutines.first().map(|main| Way::Anywhere(main.hi - 16)),
        3..=5 => {
            let all = of(world, Kind::Cond);
            world.random.pick(&all).map(Way::Cond)
        }
        6..=8 => {
            let all = of(world, Kind::Tiny);
            let offset = 4 * world.random.up_to(4);
            world.random.pick(&all).map(|to| Way::Lock(Ref { to, offset }))
        }
        9 | 10 => {
            let all = of(world, Kind::Object);
            let to = world.random.pick(&all)?;
            let offset = 4 * world.random.up_to(world.holders[to].len / 4);
            Some(Way::Lock(Ref { to, offset }))
        }
        _ => {
            let all = of(world, Kind::Channel);
            let cases = if world.random.chance(60) { 1 } else { 2 + world.random.below(4) };
            let chosen: Vec<usize> = (0..cases).filter_map(|_| world.random.pick(&all)).collect();
            (!chosen.is_empty()).then_some(Way::Channels(chosen))
        }
    }
}

impl World {
    /// A stack of a goroutine.
    pub fn stack(&mut self) -> u64 {
        if self.stacks.is_empty() {
            let at = self.heap.stacks(STACK_PAGES, &mut self.random);
            let all = STACK_PAGES * super::heap::PAGE / STACK;
            self.stacks.extend((0..all).map(|nth| at + nth * STACK));
        }
        let nth = self.random.below(self.stacks.len());
        self.stacks.swap_remove(nth)
    }

    /// A goroutine that runs, or the `g` of one that has ended. Its number.
    pub fn goroutine(&mut self, alive: bool) -> usize {
        let (l, who) = (self.layout().g, self.goroutines.len());
        let g = self.heap.slot(l.size.into(), true, self.now, &mut self.random);
        let lo = self.stack();
        let (hi, sp) = (lo + STACK, lo + 512 + 8 * self.random.up_to(64));
        let words = (0..WORDS).map(|nth| sp + FRAME + 8 * nth * (1 + nth));
        let kind = if alive { Kind::Goroutine(who) } else { Kind::Decoy };
        let holder = self.hold(kind, 0, 0, [g + 40].into_iter().chain(words));
        let below = self.hold(Kind::Decoy, 0, 0, [lo + 8, sp - 8]);
        let goid = who as u64 + 1;
        let at = |offset: u16| g + u64::from(offset);
        let words = [(l.stack_lo, lo), (l.stack_hi, hi), (l.sched_sp, sp), (l.goid, goid)];
        for (offset, word) in words.into_iter().chain([(l.gopc, 0x40_1825), (l.startpc, 0x40_1900)]) {
            self.heap.space.word(at(offset), word);
        }
        self.heap.space.write(at(l.atomicstatus), &6u32.to_le_bytes());
        let (sudogs, state, since) = (Vec::new(), State::Dead, self.now);
        self.goroutines.push(Goroutine {
            g,
            goid,
            holder,
            state,
            lo,
            hi,
            sp,
            below,
            sudogs,
            seq: 0,
            ran: since,
            blocked: 0,
            since,
        });
        let count = self.goroutines.len() as u64;
        self.heap.space.word(G_ARRAY + 8 * who as u64, g);
        for (i, word) in [G_ARRAY, count, GOROUTINES_MAX as u64].into_iter().enumerate() {
            self.heap.space.word(ALLGS + 8 * i as u64, word);
        }
        if alive {
            self.run(who);
        }
        who
    }

    /// An object with words in it.
    pub fn plain(&mut self, len: u64) -> usize {
        let words = 1 + self.random.up_to(4);
        let slots: Vec<u64> = (0..words).map(|_| self.random.up_to(len / 8) * 8).collect();
        let mut slots = slots;
        slots.sort_unstable();
        slots.dedup();
        self.object(Kind::Object, len, true, &slots)
    }

    /// An object whose words are no pointers, whatever they look like.
    pub fn noscan(&mut self, len: u64) -> usize {
        let kind = if len > 8 && len <= 16 { Kind::Tiny } else { Kind::Object };
        let object = self.object(kind, len, false, &[]);
        let at = self.holders[object].at;
        self.hold(Kind::Decoy, 0, 0, [at, at + len - 8]);
        object
    }

    /// A channel, of pointers with a buffer or of other things.
    pub fn channel(&mut self) -> usize {
        let l = self.layout().hchan;
        if self.random.chance(50) {
            let elements = 16 * self.random.up_to(8);
            return self.object(Kind::Channel, u64::from(l.size) + elements, false, &[]);
        }
        let buffer = self.object(Kind::Object, 64, true, &[0, 16, 56]);
        let channel = self.object(Kind::Channel, l.size.into(), true, &[u64::from(l.buf)]);
        self.set(channel, 0, Some(Ref { to: buffer, offset: 0 }));
        channel
    }

    /// Any byte of an object that a program may have a pointer to.
    pub fn some_byte(&mut self, to: usize) -> Ref {
        let holder = &self.holders[to];
        let last = holder.len.saturating_sub(1);
        let inner = self.random.up_to(holder.len);
        let offset = match (holder.kind, self.random.below(10)) {
            (Kind::Channel, _) | (_, 0..=4) => 0,
            (_, 5) => last,
            _ => inner,
        };
        Ref { to, offset }
    }

    /// A pointer to anything.
    pub fn some_ref(&mut self) -> Option<Ref> {
        let kinds = [Kind::Object, Kind::Channel, Kind::Tiny, Kind::Cond];
        let all = self.holders.iter().enumerate().filter(|(_, holder)| kinds.contains(&holder.kind));
        let all: Vec<usize> = all.map(|(i, _)| i).collect();
        let to = self.random.pick(&all)?;
        Some(self.some_byte(to))
    }
}
