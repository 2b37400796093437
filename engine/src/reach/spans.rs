//! The heap as a table of spans: which object an address is in, and which objects were reached.
//!
//! The table is read at the beginning of a pass. Spans that come into use later are found when it is read again,
//! and are then looked at as a whole: nothing is known of what was put into them meanwhile.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::places::Places;
use super::span::{Record, Span, decode};
use super::{Abstained, Stop, held};
use crate::gather::Gather;
use crate::heap::{ARENA_BITS, ARENAS, LOWEST, PAGE_BITS, PAGES_PER_ARENA, arena_base};
use crate::layout::Layout;
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::runtime::Runtime;

/// Records of spans read in one go, and the bytes of one.
const BATCH: usize = 256;
const RECORD_MAX: usize = 256;
/// Pages of an arena.
const PAGES: usize = 1 << (ARENA_BITS - PAGE_BITS);
/// Stands for a page of stacks, or of the collector's own.
const IGNORED: u32 = u32::MAX;
/// More arenas than any machine has memory for: 1 TiB.
const ARENAS_MAX: u64 = 1 << 14;

/// 64 MiB of addresses.
struct Arena {
    number: u64,
    /// What the runtime knows of them.
    about: u64,
    /// For each page one more than the number of its span; 0 for none.
    pages: Box<[u32; PAGES]>,
}

/// The table.
pub(super) struct Spans {
    base: u64,
    memory_bytes: usize,
    arenas: Vec<Arena>,
    pub(super) spans: Vec<Span>,
    marked: Vec<u64>,
    scanned: Vec<u64>,
    /// Lowest address of an arena, and bytes up to the end of the highest.
    low: u64,
    width: u64,
    gather: Gather,
    index: Vec<u8>,
    runs: Vec<Run>,
}

impl Spans {
    /// An empty one.
    pub(super) fn new(layout: &Layout, memory_bytes: usize) -> Spans {
        Spans {
            base: arena_base(layout.arch),
            memory_bytes,
            arenas: Vec::new(),
            spans: Vec::new(),
            marked: Vec::new(),
            scanned: Vec::new(),
            low: 0,
            width: 0,
            gather: Gather::new(BATCH, 2 * BATCH * RECORD_MAX),
            index: vec![0; PAGES * 8],
            runs: Vec::with_capacity(BATCH),
        }
    }

    /// Bytes that it holds on to.
    pub(super) fn bytes(&self) -> usize {
        let bits = held(&self.marked) + held(&self.scanned);
        let pages = self.arenas.len() * PAGES * size_of::<u32>();
        bits + pages + held(&self.spans) + self.index.len() + Gather::bytes(BATCH, 2 * BATCH * RECORD_MAX)
    }

    fn check(&self) -> Result<(), Stop> {
        if self.bytes() > self.memory_bytes { Err(Stop::Abstained(Abstained::Memory)) } else { Ok(()) }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.arenas.clear();
        self.spans.clear();
        self.marked.clear();
        self.scanned.clear();
        (self.low, self.width) = (0, 0);
    }

    /// The span that an address is in; `None` for what is none of the heap.
    pub(super) fn find(&self, at: u64) -> Option<u32> {
        if at.wrapping_sub(self.low) >= self.width {
            return None;
        }
        let number = at.wrapping_sub(self.base) >> ARENA_BITS;
        // One after the other as a rule.
        let first = self.arenas.first()?.number;
        let guess = usize::try_from(number - first).unwrap_or(usize::MAX);
        let arena = match self.arenas.get(guess) {
            Some(arena) if arena.number == number => arena,
            _ => {
                let place = self.arenas.binary_search_by_key(&number, |arena| arena.number).ok()?;
                self.arenas.get(place)?
            }
        };
        let page = usize::try_from(at >> PAGE_BITS & (PAGES_PER_ARENA - 1)).ok()?;
        match arena.pages.get(page)? {
            0 | &IGNORED => None,
            number => Some(number - 1),
        }
    }

    /// Whether an address lies in an arena.
    pub(super) fn is_arena(&self, at: u64) -> bool {
        let number = at.wrapping_sub(self.base) >> ARENA_BITS;
        self.arenas.binary_search_by_key(&number, |arena| arena.number).is_ok()
    }

    /// Addresses of all arenas, and of what the runtime knows of each.
    pub(super) fn arenas(&self) -> impl Iterator<Item = (u64, u64)> {
        self.arenas.iter().map(|arena| ((arena.number << ARENA_BITS).wrapping_add(self.base), arena.about))
    }

    pub(super) fn get(&self, span: u32) -> Option<&Span> {
        self.spans.get(usize::try_from(span).ok()?)
    }

    pub(super) fn get_mut(&mut self, span: u32) -> Option<&mut Span> {
        self.spans.get_mut(usize::try_from(span).ok()?)
    }

    /// Marks an object; whether it was not marked before. Those without pointers are never marked.
    pub(super) fn mark(&mut self, span: &Span, index: u32) -> bool {
        let Some((word, bit)) = place(span, index) else { return false };
        let Some(word) = self.marked.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Marks an object as one that was looked at.
    pub(super) fn scan(&mut self, span: &Span, index: u32) {
        let Some((word, bit)) = place(span, index) else { return };
        if let Some(word) = self.scanned.get_mut(word) {
            *word |= bit;
        }
    }

    /// The first object from `from` on that is marked and was not looked at.
    pub(super) fn next(&self, span: &Span, from: u32) -> Option<u32> {
        let mut at = from;
        while at < span.objects {
            let (word, _) = place(span, at)?;
            let open = self.marked.get(word)? & !self.scanned.get(word)?;
            let open = open & u64::MAX << (at % 64);
            if open != 0 {
                let index = (at / 64) * 64 + open.trailing_zeros();
                return (index < span.objects).then_some(index);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The last such object.
    pub(super) fn last(&self, span: &Span) -> Option<u32> {
        let mut at = span.objects.checked_sub(1)?;
        loop {
            let (word, _) = place(span, at)?;
            let open = self.marked.get(word)? & !self.scanned.get(word)?;
            if open != 0 {
                return Some((at / 64) * 64 + 63 - open.leading_zeros());
            }
            at = (at / 64 * 64).checked_sub(1)?;
        }
    }

    /// Marks all objects of a span; of those without pointers there may be any number.
    pub(super) fn mark_all(&mut self, span: &Span) {
        if span.noscan {
            return;
        }
        for index in 0..span.objects {
            self.mark(span, index);
        }
    }

    /// Brings the table up to date; `fresh` gets the spans that were not in it, or are others now.
    pub(super) fn refresh(
        &mut self,
        runtime: &Runtime,
        places: &Places,
        memory: &mut dyn Memory,
        fresh: &mut Vec<u32>,
    ) -> Result<(), Stop> {
        fresh.clear();
        self.known(runtime, memory)?;
        self.find_arenas(places, memory)?;
        let mut records = Vec::with_capacity(PAGES);
        for nth in 0..self.arenas.len() {
            self.changed_pages(runtime, places, memory, nth, &mut records)?;
            for batch in records.chunks(BATCH) {
                self.read_records(runtime, memory, batch, fresh)?;
            }
            self.check()?;
        }
        Ok(())
    }

    /// Takes spans out of the table that are no longer what they were.
    fn known(&mut self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<(), Stop> {
        let l = &runtime.layout.mspan;
        let mut from = 0;
        while from < self.spans.len() {
            self.runs.clear();
            let batch = self.spans.iter().skip(from).take(BATCH);
            self.runs.extend(batch.map(|span| Run { at: Addr(span.record), len: l.size.into() }));
            self.gather.read(memory, &self.runs)?;
            for i in 0..self.runs.len() {
                let Some(span) = self.spans.get_mut(from + i) else { continue };
                let now = decode(l, self.gather.get(i), span.record)?;
                let same = matches!(now, Record::Objects(now) if (now.start, now.bytes, now.size, now.noscan)
                    == (span.start, span.bytes, span.size, span.noscan));
                match now {
                    Record::Objects(now) if same => span.specials = now.specials,
                    // Another may be there by now: its pages are looked at anew.
                    _ => span.record = 0,
                }
            }
            from += BATCH;
        }
        Ok(())
    }

    fn find_arenas(&mut self, places: &Places, memory: &mut dyn Memory) -> Result<(), Stop> {
        let mut header = [0u8; 16];
        memory.read(places.arenas, &mut header)?;
        let (array, len) = (le::u64(&header, 0)?, le::u64(&header, 8)?);
        if len == 0 || len > ARENAS_MAX {
            return Err(Error::Malformed { what: "list of arenas", at: places.arenas.0 }.into());
        }
        for i in 0..len {
            let number = memory.word(Addr(array).plus(8 * i)?)?;
            if number >= ARENAS {
                return Err(Error::Malformed { what: "number of an arena", at: array }.into());
            }
            if let Err(place) = self.arenas.binary_search_by_key(&number, |arena| arena.number) {
                self.arenas.insert(place, Arena { number, about: 0, pages: Box::new([0; PAGES]) });
                self.check()?;
            }
        }
        let start = |arena: &Arena| (arena.number << ARENA_BITS).wrapping_add(self.base);
        if let (Some(first), Some(last)) = (self.arenas.first(), self.arenas.last()) {
            let arenas = last.number - first.number + 1;
            (self.low, self.width) = (start(first), arenas << ARENA_BITS);
        }
        Ok(())
    }

    /// The records that pages of an arena belong to, as far as they are not those that are known.
    fn changed_pages(
        &mut self,
        runtime: &Runtime,
        places: &Places,
        memory: &mut dyn Memory,
        nth: usize,
        records: &mut Vec<u64>,
    ) -> Result<(), Stop> {
        records.clear();
        let Some(arena) = self.arenas.get_mut(nth) else { return Ok(()) };
        let at = memory.word(places.heap.index.plus(arena.number * 8)?)?;
        arena.about = at;
        memory.read(Addr(at).plus(runtime.layout.heap_arena.spans.into())?, &mut self.index)?;
        let mut before = 0;
        for (word, known) in self.index.chunks_exact(8).zip(arena.pages.iter()) {
            let record = le::u64(word, 0)?;
            if record < LOWEST || record == before {
                continue;
            }
            let span = match *known {
                0 | IGNORED => None,
                number => self.spans.get(usize::try_from(number - 1).unwrap_or(usize::MAX)),
            };
            if span.is_none_or(|span| span.record != record) {
                records.push(record);
                before = record;
            }
        }
        records.sort_unstable();
        records.dedup();
        Ok(())
    }

    fn read_records(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        batch: &[u64],
        fresh: &mut Vec<u32>,
    ) -> Result<(), Stop> {
        let l = &runtime.layout.mspan;
        self.runs.clear();
        self.runs.extend(batch.iter().map(|record| Run { at: Addr(*record), len: l.size.into() }));
        self.gather.read(memory, &self.runs)?;
        for (i, record) in batch.iter().enumerate() {
            match decode(l, self.gather.get(i), *record)? {
                Record::Objects(span) if self.has(&span) => {}
                Record::Objects(span) => self.add(span, fresh)?,
                Record::Ignored { start, bytes } => self.set_pages(start, bytes, IGNORED),
                Record::Nothing => {}
            }
        }
        Ok(())
    }

    /// Whether the table has a span as it is: pages that were another one's before go on naming its record.
    fn has(&self, span: &Span) -> bool {
        let is = |span: &Span| (span.record, span.start, span.bytes, span.size, span.noscan);
        self.find(span.start).and_then(|known| self.get(known)).is_some_and(|known| is(known) == is(span))
    }

    fn add(&mut self, span: Span, fresh: &mut Vec<u32>) -> Result<(), Stop> {
        let number = u32::try_from(self.spans.len()).unwrap_or(IGNORED - 1);
        let bits = if span.noscan { 0 } else { span.objects.div_ceil(64) };
        // Two words each; a record that is not to be trusted may claim any number.
        if self.bytes().saturating_add(16 * bits as usize) > self.memory_bytes {
            return Err(Stop::Abstained(Abstained::Memory));
        }
        let first = u32::try_from(self.marked.len()).unwrap_or(u32::MAX);
        room(&mut self.marked, bits as usize);
        room(&mut self.scanned, bits as usize);
        room(&mut self.spans, 1);
        self.marked.resize(self.marked.len() + bits as usize, 0);
        self.scanned.resize(self.marked.len(), 0);
        self.spans.push(Span { bits: first, ..span });
        self.set_pages(span.start, span.bytes, number + 1);
        fresh.push(number);
        Ok(())
    }

    fn set_pages(&mut self, start: u64, bytes: u64, number: u32) {
        let pages = bytes >> PAGE_BITS;
        for at in (0..pages).map(|i| start.wrapping_add(i << PAGE_BITS)) {
            let arena = at.wrapping_sub(self.base) >> ARENA_BITS;
            let Ok(place) = self.arenas.binary_search_by_key(&arena, |arena| arena.number) else { return };
            let page = usize::try_from(at >> PAGE_BITS & (PAGES_PER_ARENA - 1)).unwrap_or(usize::MAX);
            if let Some(slot) = self.arenas.get_mut(place).and_then(|arena| arena.pages.get_mut(page)) {
                *slot = number;
            }
        }
    }
}

/// Makes room for `more`, and for an eighth of what is there: twice as much would be a large part of what a pass may
/// take.
fn room<T>(vector: &mut Vec<T>, more: usize) {
    if vector.capacity() - vector.len() < more {
        vector.reserve_exact(more.max(vector.len() / 8));
    }
}

/// Word and bit of an object.
fn place(span: &Span, index: u32) -> Option<(usize, u64)> {
    let word = usize::try_from(span.bits.checked_add(index / 64)?).ok()?;
    (!span.noscan).then_some((word, 1 << (index % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::layout_for;

    fn table() -> (Spans, Span) {
        let layout = layout_for(27, crate::layout::Arch::Amd64).unwrap();
        let mut spans = Spans::new(layout, usize::MAX);
        let base = arena_base(crate::layout::Arch::Amd64);
        let start = 0xc0_0000_0000u64;
        let number = start.wrapping_sub(base) >> ARENA_BITS;
        spans.arenas.push(Arena { number, about: 0, pages: Box::new([0; PAGES]) });
        (spans.low, spans.width) = (start, 1 << ARENA_BITS);
        let (bytes, size) = (8192, 48);
        let span = Span { start: start + 8192, bytes, size, objects: 170, record: 7, ..Span::default() };
        let mut fresh = Vec::new();
        spans.add(span, &mut fresh).unwrap();
        assert_eq!(fresh, [0]);
        let span = *spans.get(0).unwrap();
        (spans, span)
    }

    #[test]
    fn an_address_is_in_the_object_that_it_points_into() {
        let (spans, span) = table();
        assert_eq!(spans.find(span.start - 1), None);
        assert_eq!(spans.find(span.start + 8192), None);
        assert_eq!(spans.find(span.start + 8191), Some(0));
        assert_eq!((span.index(span.start), span.index(span.start + 47)), (Some(0), Some(0)));
        assert_eq!(span.index(span.start + 48 * 169), Some(169));
        // What is left over at the end is none.
        assert_eq!(span.index(span.start + 48 * 170), None);
    }

    #[test]
    fn what_is_marked_is_looked_at_once() {
        let (mut spans, span) = table();
        for index in [0, 63, 64, 130, 169] {
            assert!(spans.mark(&span, index));
            assert!(!spans.mark(&span, index));
        }
        assert_eq!(
            (spans.next(&span, 0), spans.next(&span, 1), spans.next(&span, 131)),
            (Some(0), Some(63), Some(169))
        );
        assert_eq!(spans.last(&span), Some(169));
        spans.scan(&span, 169);
        assert_eq!((spans.last(&span), spans.next(&span, 131)), (Some(130), None));
        spans.mark_all(&span);
        assert_eq!((spans.last(&span), spans.next(&span, 65)), (Some(168), Some(65)));
    }
}
