//! The runtime's own records of a heap: arenas, spans, and the slots of objects in them.

use glg_engine::layout::{Arch, Layout};

use super::random::Random;
use super::space::Space;

/// Sizes of objects, and the pages of their spans (`runtime/sizeclasses.go`).
const CLASSES: [(u64, u64); 40] = [
    (8, 1),
    (16, 1),
    (24, 1),
    (32, 1),
    (48, 1),
    (64, 1),
    (80, 1),
    (96, 1),
    (112, 1),
    (128, 1),
    (144, 1),
    (176, 1),
    (208, 1),
    (256, 1),
    (320, 1),
    (384, 1),
    (416, 1),
    (448, 1),
    (480, 1),
    (512, 1),
    (576, 1),
    (640, 1),
    (768, 1),
    (896, 1),
    (1024, 1),
    (1152, 1),
    (1408, 2),
    (1792, 2),
    (2048, 1),
    (2304, 2),
    (2688, 1),
    (3200, 2),
    (4096, 1),
    (6528, 4),
    (8192, 1),
    (9472, 7),
    (12_288, 3),
    (14_336, 7),
    (16_384, 2),
    (27_264, 10),
];
/// Bytes of a page.
pub const PAGE: u64 = 8192;
/// Bytes of an arena of which something is mapped.
const ARENA_PAGES: u64 = 192;
const ARENA_BITS: u32 = 26;
/// Where things are that are not on the heap.
const INDEX: u64 = 0x7f40_0000_0000;
const ARENAS: u64 = 0x7f50_0000_0000;
const ABOUT: u64 = 0x7f10_0000_0000;
const ABOUT_STEP: u64 = 0x40_0000;
const RECORDS: u64 = 0x7f20_0000_0000;
const RECORDS_MAX: usize = 512;
/// `mSpanDead`, `mSpanInUse`, `mSpanManual`.
const DEAD: u8 = 0;
const IN_USE: u8 = 1;
const MANUAL: u8 = 2;

/// A stretch of the heap with slots of one size.
#[derive(Clone, Debug)]
pub struct Span {
    /// The runtime's record of it.
    pub record: u64,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// Of one slot.
    pub size: u64,
    /// Whether there may be pointers in it.
    pub scan: bool,
    /// Which slots are taken.
    pub used: Vec<bool>,
    /// Whether it is a stack's.
    pub manual: bool,
    /// Whether it is in use.
    pub alive: bool,
    /// When it came into use.
    pub since: u64,
}

struct Arena {
    start: u64,
    about: u64,
    pages: u64,
}

/// The heap.
pub struct Heap {
    /// All memory.
    pub space: Space,
    /// The release.
    pub layout: &'static Layout,
    /// All spans there ever were.
    pub spans: Vec<Span>,
    arenas: Vec<Arena>,
    records: u64,
    free_records: Vec<u64>,
    free_pages: Vec<(u64, u64)>,
}

impl Heap {
    /// With arenas at these addresses.
    #[must_use]
    pub fn new(layout: &'static Layout, starts: &[u64]) -> Heap {
        let mut space = Space::default();
        let base = match layout.arch {
            Arch::Amd64 => 0xffff_8000_0000_0000u64,
            Arch::Arm64 => 0,
        };
        space.map(RECORDS, RECORDS_MAX * usize::from(layout.mspan.size));
        space.map(ARENAS, 16 + 8 * starts.len());
        space.word(ARENAS, ARENAS + 16);
        space.word(ARENAS + 8, starts.len() as u64);
        let mut arenas = Vec::new();
        for (i, start) in (0u64..).zip(starts) {
            let number = start.wrapping_sub(base) >> ARENA_BITS;
            let about = ABOUT + i * ABOUT_STEP;
            space.map(INDEX + 8 * number, 8);
            space.word(INDEX + 8 * number, about);
            space.word(ARENAS + 16 + 8 * i, number);
            space.map(about + u64::from(layout.heap_arena.spans), 8192 * 8);
            space.map(*start, usize::try_from(ARENA_PAGES * PAGE).unwrap_or(0));
            arenas.push(Arena { start: *start, about, pages: 0 });
        }
        let (spans, free_records, free_pages) = (Vec::new(), Vec::new(), Vec::new());
        Heap { space, layout, spans, arenas, records: 0, free_records, free_pages }
    }

    /// What `mheap_.arenas[0]` holds, and where the list of arenas is.
    #[must_use]
    pub fn places(&self) -> (u64, u64) {
        (INDEX, ARENAS)
    }

    /// All of the heap, and what the runtime knows of it: stretches of memory.
    #[must_use]
    pub fn stretches(&self) -> Vec<(u64, u64)> {
        let about = u64::from(self.layout.heap_arena.size);
        let of = |arena: &Arena| [(arena.start, 1 << ARENA_BITS), (arena.about, about)];
        let records = RECORDS_MAX as u64 * u64::from(self.layout.mspan.size);
        self.arenas.iter().flat_map(of).chain([(RECORDS, records)]).collect()
    }

    /// A slot for so many bytes, zeroed: where it is.
    pub fn slot(&mut self, bytes: u64, scan: bool, now: u64, random: &mut Random) -> u64 {
        let class = CLASSES.iter().find(|(size, _)| *size >= bytes);
        let (size, pages) = class.copied().unwrap_or((bytes.next_multiple_of(PAGE), bytes.div_ceil(PAGE)));
        let fits = |span: &Span| {
            span.alive && !span.manual && (span.size, span.scan) == (size, scan) && span.used.contains(&false)
        };
        let found = self.spans.iter().position(fits);
        let number = match found.filter(|_| !random.chance(5)) {
            Some(number) => number,
            None => self.span(size, scan, pages, now, random),
        };
        let Some(span) = self.spans.get_mut(number) else { return 0 };
        let first = random.below(span.used.len());
        let open = (0..span.used.len()).map(|i| (first + i) % span.used.len()).find(|i| !span.used[*i]);
        let index = open.unwrap_or(0);
        span.used[index] = true;
        let at = span.start + index as u64 * size;
        self.space.clear(at, size);
        at
    }

    /// Pages of stacks.
    pub fn stacks(&mut self, pages: u64, random: &mut Random) -> u64 {
        let number = self.pages(pages, random);
        let span = Span {
            record: self.record(),
            start: number,
            bytes: pages * PAGE,
            size: 0,
            scan: false,
            used: Vec::new(),
            manual: true,
            alive: true,
            since: 0,
        };
        self.tell(&span, MANUAL);
        self.spans.push(span);
        number
    }

    /// A new span of objects.
    fn span(&mut self, size: u64, scan: bool, pages: u64, now: u64, random: &mut Random) -> usize {
        let bytes = pages * PAGE;
        let start = self.pages(pages, random);
        let slots = usize::try_from(bytes / size).unwrap_or(0);
        let (record, used) = (self.record(), vec![false; slots]);
        let span = Span { record, start, bytes, size, scan, used, manual: false, alive: true, since: now };
        self.tell(&span, IN_USE);
        self.spans.push(span);
        self.spans.len() - 1
    }

    fn pages(&mut self, pages: u64, random: &mut Random) -> u64 {
        let again = self.free_pages.iter().position(|(_, count)| *count == pages);
        if let Some(place) = again.filter(|_| random.chance(50)) {
            let (at, _) = self.free_pages.swap_remove(place);
            self.space.clear(at, pages * PAGE);
            return at;
        }
        let first = random.below(self.arenas.len());
        let count = self.arenas.len();
        let room = |arena: &Arena| arena.pages + pages <= ARENA_PAGES;
        let open = (0..count).map(|i| (first + i) % count).find(|i| room(&self.arenas[*i]));
        assert!(open.is_some(), "no room for {pages} pages");
        let arena = &mut self.arenas[open.unwrap_or(0)];
        // Sometimes there is a gap.
        if random.chance(10) && arena.pages + pages < ARENA_PAGES {
            arena.pages += 1;
        }
        let at = arena.start + arena.pages * PAGE;
        arena.pages += pages;
        at
    }

    /// A record is used again when its span has gone; pages that were the old one's still name it.
    fn record(&mut self) -> u64 {
        self.free_records.pop().unwrap_or_else(|| {
            self.records += 1;
            RECORDS + (self.records - 1) * u64::from(self.layout.mspan.size)
        })
    }

    /// Whether another span can be made: there is an end of pages.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.arenas.iter().any(|arena| arena.pages + 12 <= ARENA_PAGES) && self.records < 500
    }

    /// Writes the record, and which pages belong to it.
    fn tell(&mut self, span: &Span, state: u8) {
        let l = &self.layout.mspan;
        let at = |offset: u16| span.record + u64::from(offset);
        self.space.clear(span.record, l.size.into());
        self.space.word(at(l.start_addr), span.start);
        self.space.word(at(l.npages), span.bytes / PAGE);
        self.space.word(at(l.elemsize), span.size);
        let class = CLASSES.iter().position(|(size, _)| *size == span.size).map_or(0, |i| i + 1);
        let class = u8::try_from(2 * class).unwrap_or(0) | u8::from(!span.scan);
        self.space.write(at(l.spanclass), &[class]);
        self.space.write(at(l.state), &[state]);
        if state != DEAD {
            for page in 0..span.bytes / PAGE {
                self.name(span.start + page * PAGE, span.record);
            }
        }
    }

    /// Writes which span a page belongs to.
    fn name(&mut self, at: u64, record: u64) {
        let arena = self.arenas.iter().find(|arena| at >> ARENA_BITS == arena.start >> ARENA_BITS);
        let Some(arena) = arena else { return };
        let page = (at - arena.start) / PAGE;
        let slot = arena.about + u64::from(self.layout.heap_arena.spans) + 8 * page;
        self.space.word(slot, record);
    }

    /// Takes a span out of use. Its pages go on naming the record, as in the runtime.
    pub fn release(&mut self, number: usize) {
        let Some(span) = self.spans.get_mut(number) else { return };
        span.alive = false;
        let span = span.clone();
        self.tell(&span, DEAD);
        self.free_records.push(span.record);
        self.free_pages.push((span.start, span.bytes / PAGE));
    }

    /// Spans that came and went: pages name records that are others' by now.
    pub fn churn(&mut self, random: &mut Random) {
        let first = self.spans.len();
        for _ in 0..random.below(6) {
            let (size, pages) = random.pick(&CLASSES).unwrap_or((8, 1));
            let scan = random.chance(50);
            self.span(size, scan, pages, 0, random);
        }
        (first..self.spans.len()).for_each(|number| self.release(number));
    }

    /// The span that an address is in.
    #[must_use]
    pub fn span_of(&self, at: u64) -> Option<&Span> {
        let within = |span: &&Span| span.alive && at >= span.start && at < span.start + span.bytes;
        self.spans.iter().find(within)
    }

    /// Gives a slot back.
    pub fn free(&mut self, at: u64) {
        let within = |span: &&mut Span| span.alive && at >= span.start && at < span.start + span.bytes;
        let Some(span) = self.spans.iter_mut().find(within) else { return };
        let index = usize::try_from((at - span.start) / span.size.max(1)).unwrap_or(0);
        span.used.get_mut(index).into_iter().for_each(|used| *used = false);
    }

    /// What a free slot still holds: a word that nobody looks at.
    pub fn litter(&mut self, word: u64, random: &mut Random) {
        let number = random.below(self.spans.len());
        let Some(span) = self.spans.get(number).filter(|span| span.alive && span.scan) else { return };
        let Some(index) = span.used.iter().position(|used| !used) else { return };
        let at = span.start + index as u64 * span.size + random.up_to(span.size / 8) * 8;
        self.space.word(at, word);
    }
}
