//! Go's heap from outside: which object an address is in (`runtime/mheap.go`, `spanOf`; `runtime/mbitmap.go`,
//! `findObject`).
//!
//! The heap's index is not found by its name, which stripped programs do not have, but by what it must say of an
//! object that is known: of all words of the program's data exactly one leads to a `g` that way.

use alloc::vec;

use crate::goroutines::Allgs;
use crate::layout::Arch;
use crate::memory::{Addr, Error, Image, Memory, le};
use crate::moduledata::Module;
use crate::runtime::Runtime;

/// Bytes of addresses that one arena stands for, as a power of two (`heapArenaBytes` on 64-bit Linux).
pub(crate) const ARENA_BITS: u32 = 26;
/// Bytes of a page, as a power of two.
pub(crate) const PAGE_BITS: u32 = 13;
pub(crate) const PAGES_PER_ARENA: u64 = 1 << (ARENA_BITS - PAGE_BITS);
/// Arenas in the index (`arenaL2Bits`): 48 bits of addresses.
pub(crate) const ARENAS: u64 = 1 << (48 - ARENA_BITS);
/// `mSpanInUse`: objects.
pub(crate) const IN_USE: u8 = 1;
/// `mSpanManual`: stacks, and the collector's own buffers.
pub(crate) const MANUAL: u8 = 2;
/// Bytes of data that are searched; what is larger is a program's own tables.
const SEARCHED_MAX: u64 = 16 << 20;
const CHUNK: usize = 16 << 10;
/// No pointer is below.
pub(crate) const LOWEST: u64 = 1 << 16;
/// Largest span that is believed: 64 GiB.
pub(crate) const PAGES_MAX: u64 = 1 << 23;

/// The heap of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// Index of arenas: what `mheap_.arenas[0]` holds.
    pub(crate) index: Addr,
    /// Where that word is.
    pub(crate) word: Addr,
}

/// An object, or what could be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it begins.
    pub at: Addr,
    /// Its size class's size, in bytes.
    pub len: u64,
}

impl Heap {
    /// Finds the index.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when no word of the program's data leads to a known goroutine; [`Error::Gone`].
    pub fn find(runtime: &Runtime, memory: &mut dyn Memory, image: &mut dyn Image) -> Result<Heap, Error> {
        let (mut bytes, mut gs) = ([0u8; 8], vec![]);
        Allgs::new(0, 1).read(runtime, memory, &mut bytes, &mut gs)?;
        let known = Addr(gs.first().copied().unwrap_or(0));
        let module = Module::find(&runtime.elf, image, &runtime.layout.moduledata, &runtime.pclntab)?;
        let l = &runtime.layout.moduledata;
        // Most likely first: `mheap_` has no pointers that the collector would follow.
        for (from, to) in [(l.noptrbss, l.enoptrbss), (l.bss, l.ebss), (l.noptrdata, l.enoptrdata)] {
            let mut address = |offset| module.address(&runtime.elf, image, offset);
            let (from, to) = (address(from)?.biased(runtime.bias), address(to)?.biased(runtime.bias));
            let len = to.0.saturating_sub(from.0).min(SEARCHED_MAX);
            if let Some(heap) = search(runtime, memory, from, len, known)? {
                return Ok(heap);
            }
        }
        Err(Error::Unsupported("Go program whose heap cannot be found"))
    }

    /// The object that `at` points into; `None` for what is none of the heap.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn object(
        &self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        at: Addr,
    ) -> Result<Option<Object>, Error> {
        match self.span_object(runtime, memory, at) {
            Err(Error::Gone) => Err(Error::Gone),
            // An index that is being written to, or an address that is none.
            other => Ok(other.unwrap_or(None)),
        }
    }

    fn span_object(
        &self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        at: Addr,
    ) -> Result<Option<Object>, Error> {
        let arena = at.0.wrapping_sub(arena_base(runtime.layout.arch)) >> ARENA_BITS;
        if arena >= ARENAS {
            return Ok(None);
        }
        let arena = memory.word(self.index.plus(arena * 8)?)?;
        if arena < LOWEST {
            return Ok(None);
        }
        let page = at.0 >> PAGE_BITS & (PAGES_PER_ARENA - 1);
        let spans = Addr(arena).plus(runtime.layout.heap_arena.spans.into())?;
        let span = memory.word(spans.plus(page * 8)?)?;
        if span < LOWEST {
            return Ok(None);
        }
        let (l, mut record) = (&runtime.layout.mspan, [0u8; 256]);
        let record = record.get_mut(..l.size.into()).ok_or(Error::Unsupported("size of runtime.mspan"))?;
        memory.read(Addr(span), record)?;
        let (start, pages) = (le::u64(record, l.start_addr.into())?, le::u64(record, l.npages.into())?);
        let size = le::u64(record, l.elemsize.into())?;
        let state = le::u8(record, l.state.into())?;
        let within = at.0.checked_sub(start).filter(|_| (1..=PAGES_MAX).contains(&pages));
        let within = within.filter(|within| *within < pages << PAGE_BITS);
        let (Some(within), IN_USE, 8..) = (within, state, size) else { return Ok(None) };
        let at = Addr(start + within / size * size);
        Ok(Some(Object { at, len: size }))
    }
}

/// Address of what would be the first arena (`arenaBaseOffset` in `runtime/malloc.go`).
pub(crate) fn arena_base(arch: Arch) -> u64 {
    match arch {
        Arch::Amd64 => 0xffff_8000_0000_0000,
        Arch::Arm64 => 0,
    }
}

/// The word in `len` bytes from `from` on that leads to the goroutine.
fn search(
    runtime: &Runtime,
    memory: &mut dyn Memory,
    from: Addr,
    len: u64,
    known: Addr,
) -> Result<Option<Heap>, Error> {
    let mut chunk = vec![0u8; CHUNK];
    let mut done = 0;
    while done < len {
        let size = usize::try_from((len - done).min(CHUNK as u64)).unwrap_or(CHUNK);
        let part = chunk.get_mut(..size).unwrap_or_default();
        memory.read(from.plus(done)?, part)?;
        for (i, index) in part.chunks_exact(8).flat_map(|word| le::u64(word, 0)).enumerate() {
            if index < LOWEST || !index.is_multiple_of(8) {
                continue;
            }
            let heap = Heap { index: Addr(index), word: from.plus(done)?.plus(8 * i as u64)? };
            let fits = |object: Object| object.at == known && object.len >= u64::from(runtime.layout.g.size);
            if heap.object(runtime, memory, known)?.is_some_and(fits) {
                return Ok(Some(heap));
            }
        }
        done += size as u64;
    }
    Ok(None)
}
