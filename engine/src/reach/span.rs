//! One span of the heap, as the runtime describes it (`runtime/mheap.go`, `mspan`).

use crate::heap::{IN_USE, LOWEST, MANUAL, PAGE_BITS, PAGES_MAX};
use crate::layout::Mspan;
use crate::memory::{Error, le};

/// Object size of the blocks in which tiny objects share a place (`maxTinySize` of `runtime/malloc.go`).
const TINY: u64 = 16;

/// A stretch of the heap with objects of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// First byte.
    pub(super) start: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// Size of its objects.
    pub(super) size: u64,
    /// How many there are.
    pub(super) objects: u32,
    /// Where its bits begin, in words.
    pub(super) bits: u32,
    /// The runtime's record of it.
    pub(super) record: u64,
    /// Its first special.
    pub(super) specials: u64,
    /// Whether its objects have no pointers.
    pub(super) noscan: bool,
    /// Whether somebody waits for one of its objects.
    pub(super) watched: bool,
    /// Whether it stands in the queue.
    pub(super) queued: bool,
}

impl Span {
    /// Which of its objects an address is in.
    pub(super) fn index(&self, at: u64) -> Option<u32> {
        let within = at.checked_sub(self.start)?;
        // Divisions of 32 bits take a fraction of the time.
        let index = match (u32::try_from(within), u32::try_from(self.size)) {
            (Ok(within), Ok(size)) if size > 0 => within / size,
            _ => 0,
        };
        (index < self.objects).then_some(index)
    }

    /// Where an object of it begins.
    pub(super) fn object(&self, index: u32) -> u64 {
        self.start + u64::from(index) * self.size
    }

    /// Whether tiny objects may share one of its places.
    pub(super) fn is_tiny(&self) -> bool {
        self.noscan && self.size == TINY
    }
}

/// What the runtime says of a span.
pub(super) enum Record {
    Objects(Span),
    Ignored { start: u64, bytes: u64 },
    Nothing,
}

/// Reads the runtime's record of a span, which stands at `at`.
pub(super) fn decode(l: &Mspan, record: &[u8], at: u64) -> Result<Record, Error> {
    let word = |offset: u16| le::u64(record, offset.into());
    let (start, pages, size) = (word(l.start_addr)?, word(l.npages)?, word(l.elemsize)?);
    let (state, class) = (le::u8(record, l.state.into())?, le::u8(record, l.spanclass.into())?);
    let specials = word(l.specials)?;
    let page = 1 << PAGE_BITS;
    if !(1..=PAGES_MAX).contains(&pages) || !start.is_multiple_of(page) || start < LOWEST {
        return Ok(Record::Nothing);
    }
    let bytes = pages << PAGE_BITS;
    if start.checked_add(bytes).is_none() {
        return Ok(Record::Nothing);
    }
    Ok(match state {
        IN_USE if size >= 8 && size <= bytes => {
            let noscan = class & 1 == 1;
            let objects = u32::try_from(bytes / size).unwrap_or(u32::MAX);
            Record::Objects(Span {
                start,
                bytes,
                size,
                objects,
                record: at,
                specials,
                noscan,
                ..Span::default()
            })
        }
        MANUAL => Record::Ignored { start, bytes },
        _ => Record::Nothing,
    })
}
