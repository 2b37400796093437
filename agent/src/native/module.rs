//! A file that a process has code from: where its functions begin and end, and how each of them is unwound.
//! All of it is read piece by piece, whatever the file claims its sizes to be.

use glg_engine::elf::{Elf, Section};
use glg_engine::layout::Arch;
use glg_engine::memory::{Error, Image, Va};

use super::cfi::{self, Rules};

/// Bytes of `.eh_frame` that are searched where there is no index.
const SEARCH_MAX: u64 = 8 << 20;
/// Functions that an index may have; a browser has a million.
const INDEX_MAX: u64 = 4 << 20;
/// Bytes of an entry: of a function with thousands of places where its frame changes.
const ENTRY_MAX: u32 = 16 << 10;
/// Bytes read at once where all entries are looked at.
const CHUNK: usize = 4096;

/// An open file.
pub(super) struct Module<I> {
    image: I,
    elf: Elf,
}

/// A function, by its link-time addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// First byte.
    pub(super) start: Va,
    /// First byte behind it.
    pub(super) end: Va,
}

/// Where an entry of `.eh_frame` is.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    va: Va,
}

impl Bounds {
    /// Whether an address is within.
    pub(super) fn contains(&self, va: Va) -> bool {
        self.start <= va && va < self.end
    }
}

impl<I: Image> Module<I> {
    /// Reads the headers; `None` for what is not for this processor.
    pub(super) fn open(mut image: I, arch: Arch) -> Option<Module<I>> {
        let elf = Elf::parse(&mut image).ok()?;
        (elf.arch == arch).then_some(Module { image, elf })
    }

    /// What the headers say.
    pub(super) fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The file itself.
    pub(super) fn image(&mut self) -> &mut I {
        &mut self.image
    }

    /// The link-time address of code at this offset of the file.
    pub(super) fn code_at(&self, offset: u64) -> Option<Va> {
        self.elf.loads.iter().filter(|load| load.executable).find_map(|load| {
            let within = offset.checked_sub(load.file.offset).filter(|within| *within < load.file.len)?;
            load.va.0.checked_add(within).map(Va)
        })
    }

    /// Reads code; what lies behind its end is zero.
    pub(super) fn code(&mut self, va: Va, out: &mut [u8]) -> Option<()> {
        out.fill(0);
        let load = self.elf.loads.iter().filter(|load| load.executable).find_map(|load| {
            let within = va.0.checked_sub(load.va.0).filter(|within| *within < load.file.len)?;
            Some((load.file.offset.checked_add(within)?, load.file.len - within))
        });
        let (offset, left) = load?;
        let len = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        self.image.read_at(offset, out.get_mut(..len)?).ok()
    }

    /// How many looks into the file it takes to find an entry, about.
    pub(super) fn table_cost(&self) -> u32 {
        match (self.elf.eh_frame_index, self.elf.eh_frame) {
            (None, Some(all)) => {
                u32::try_from(all.file.len.min(SEARCH_MAX) / CHUNK as u64).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
        .max(20)
    }

    /// How the function at this address is unwound; `None` where the file does not say.
    pub(super) fn rules(&mut self, va: Va) -> Option<Rules> {
        let place = self.place(va)?;
        let (fde, cie) = self.entry(place)?;
        Rules::parse(cie, &fde, place.va, va, self.elf.arch)
    }

    /// The bounds of the function at this address.
    pub(super) fn bounds(&mut self, va: Va) -> Option<Bounds> {
        let place = self.place(va)?;
        let (fde, cie) = self.entry(place)?;
        cfi::bounds(&fde, place.va, cfi::encoding(&cie)?).filter(|bounds| bounds.contains(va))
    }

    /// The entry that is for this address, or, with an index, may be.
    fn place(&mut self, va: Va) -> Option<Place> {
        match self.elf.eh_frame_index.and_then(|index| self.indexed(index, va)) {
            Some(found) => found,
            None => self.searched(self.elf.eh_frame?, va),
        }
    }

    /// Looks an address up in the index, `.eh_frame_hdr` (LSB 5.0, 10.6.2). The outer `None`: it is of a form
    /// that no linker makes.
    fn indexed(&mut self, index: Section, va: Va) -> Option<Option<Place>> {
        let mut head = [0; 12];
        self.image.read_at(index.file.offset, &mut head).ok()?;
        let [1, pointer, 0x03, 0x3b, .., a, b, c, d] = head else { return None };
        // A pointer to .eh_frame of 4 bytes, a count of 4 bytes; pairs of 4 bytes relative to the index.
        (pointer & 0x0f == 0x0b || pointer & 0x0f == 0x03).then_some(())?;
        let count = u64::from(u32::from_le_bytes([a, b, c, d]));
        if count > INDEX_MAX || count.saturating_mul(8) > index.file.len {
            return None;
        }
        let mut pair = |which: u64| {
            let mut bytes = [0; 8];
            let at = index.file.offset.checked_add(12)?.checked_add(which * 8)?;
            self.image.read_at(at, &mut bytes).ok()?;
            let [a, b, c, d, e, f, g, h] = bytes;
            let absolute = |low| Va(index.va.0.wrapping_add_signed(i64::from(i32::from_le_bytes(low))));
            Some((absolute([a, b, c, d]), absolute([e, f, g, h])))
        };
        // The last whose function does not begin behind the address.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if pair(middle)?.0 <= va { low = middle + 1 } else { high = middle }
        }
        let Some(which) = low.checked_sub(1) else { return Some(None) };
        let (_, entry) = pair(which)?;
        Some(self.elf.file_offset(entry).map(|offset| Place { offset, va: entry }))
    }

    /// Looks through all entries: static programs may have no index.
    fn searched(&mut self, section: Section, va: Va) -> Option<Place> {
        let end = section.file.len.min(SEARCH_MAX);
        let mut chunk = Chunk { at: u64::MAX, bytes: [0; CHUNK] };
        let (mut at, mut known) = (0u64, None);
        while at.checked_add(24)? <= end {
            let place =
                Place { offset: section.file.offset.checked_add(at)?, va: Va(section.va.0.checked_add(at)?) };
            let head = chunk.head(&mut self.image, place.offset)?;
            let (len, pointer) = (word(&head, 0)?, word(&head, 4)?);
            if len == 0 || len == u32::MAX {
                return None;
            }
            if pointer != 0 {
                let cie = (place.offset + 4).checked_sub(u64::from(pointer))?;
                // Almost all entries have the same.
                if known.is_none_or(|(of, _)| of != cie) {
                    known = Some((cie, self.read_entry(cie).and_then(|cie| cfi::encoding(&cie))?));
                }
                let encoding = known?.1;
                if cfi::bounds(&head, place.va, encoding).is_some_and(|bounds| bounds.contains(va)) {
                    return Some(place);
                }
            }
            at = at.checked_add(4 + u64::from(len))?;
        }
        None
    }

    /// An entry and the one with what it has in common with others.
    fn entry(&mut self, place: Place) -> Option<(Vec<u8>, Vec<u8>)> {
        let fde = self.read_entry(place.offset)?;
        let pointer = u64::from(word(&fde, 4).filter(|pointer| *pointer != 0)?);
        let cie = self.read_entry((place.offset + 4).checked_sub(pointer)?)?;
        Some((fde, cie))
    }

    fn read_entry(&mut self, offset: u64) -> Option<Vec<u8>> {
        let mut len = [0; 4];
        self.image.read_at(offset, &mut len).ok()?;
        let len = u32::from_le_bytes(len);
        if !(8..=ENTRY_MAX).contains(&len) {
            return None;
        }
        let mut bytes = vec![0; 4 + usize::try_from(len).ok()?];
        self.image.read_at(offset, &mut bytes).ok()?;
        Some(bytes)
    }
}

/// A piece of the file.
struct Chunk {
    at: u64,
    bytes: [u8; CHUNK],
}

impl Chunk {
    /// The first bytes of an entry.
    fn head(&mut self, image: &mut impl Image, offset: u64) -> Option<[u8; 24]> {
        let within =
            |at: u64| usize::try_from(offset.checked_sub(at)?).ok().filter(|from| *from <= CHUNK - 24);
        if within(self.at).is_none() {
            self.at = offset;
            match image.read_at(offset, &mut self.bytes) {
                // Near the end of the file.
                Err(Error::Unreadable { .. }) => {
                    image.read_at(offset, self.bytes.first_chunk_mut::<24>()?).ok()?;
                }
                other => other.ok()?,
            }
        }
        let from = within(self.at)?;
        self.bytes.get(from..from + 24)?.try_into().ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
