//! Finding Go's function table where no section names it, and functions in it by name.

use heapless::Vec;

use crate::elf::{Elf, Extent, Load, NAMES_MAX, name_offsets};
use crate::memory::{Error, Image, Va, le};
use crate::pclntab::Pclntab;

/// Bytes read in one piece.
const PIECE: usize = 4096;
/// Tables of which the header looks right; all but one are chance.
const CANDIDATES_MAX: usize = 8;
/// The linker aligns the table to 8 bytes at least.
const ALIGN: usize = 8;
/// Headers looked at. The mark they begin with is rare: a program has one, and a few more where it reads tables
/// itself; a hostile file has nothing else.
const TRIES_MAX: usize = 256;
/// Bytes searched at most: large Go programs have 100 MB in segments, and a file of holes claims any size.
const SEARCH_MAX: u64 = 256 << 20;
/// Bytes a function may have. The longest of those looked up, `runtime.procresize` of Go 1.27, has 3,456.
pub(crate) const FUNCTION_MAX: u32 = 16 << 10;

/// A function, found by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// First instruction.
    pub entry: Va,
    /// Bytes up to the next function, padding included.
    pub len: u32,
}

/// File offsets of everything that looks like the header of a function table: where the section says, else
/// what a search of the segments finds, those without code first.
///
/// # Errors
/// [`Error::Unsupported`] when there is none; [`Error::Unreadable`] where the file is shorter than it says.
pub fn candidates(elf: &Elf, image: &mut dyn Image) -> Result<Vec<u64, CANDIDATES_MAX>, Error> {
    let mut found = Vec::new();
    if let Some(section) = elf.pclntab {
        let _ = found.push(section.file.offset);
        return Ok(found);
    }
    let (code, data): (Vec<Load, 16>, Vec<Load, 16>) =
        (segments(elf, |load| load.executable), segments(elf, |load| !load.executable));
    let (mut left, mut tries) = (SEARCH_MAX, TRIES_MAX);
    for load in data.iter().chain(&code) {
        let len = load.file.len.min(left);
        search(image, Extent { len, ..load.file }, &mut tries, &mut found)?;
        if !found.is_empty() {
            return Ok(found);
        }
        if len < load.file.len {
            return Err(Error::Unsupported("program without a Go function table in its first 256 MiB"));
        }
        left -= len;
    }
    Err(Error::Unsupported("program without a Go function table"))
}

fn segments(elf: &Elf, which: impl Fn(&Load) -> bool) -> Vec<Load, 16> {
    elf.loads.iter().copied().filter(which).collect()
}

fn search(
    image: &mut dyn Image,
    part: Extent,
    tries: &mut usize,
    found: &mut Vec<u64, CANDIDATES_MAX>,
) -> Result<(), Error> {
    const TOO_MANY: Error = Error::Unsupported("program full of what could be Go function tables");
    let mut bytes = [0u8; PIECE];
    let mut at = 0u64;
    while at < part.len {
        let len = usize::try_from((part.len - at).min(PIECE as u64)).unwrap_or(0);
        let offset = part.offset.saturating_add(at);
        let piece = bytes.get_mut(..len).ok_or(Error::Unreadable { at: offset })?;
        image.read_at(offset, piece)?;
        for (i, head) in piece.chunks_exact(ALIGN).enumerate() {
            // 0xfffffff0 or 0xfffffff1, two zero bytes, quantum, size of a pointer.
            let [0xf0 | 0xf1, 0xff, 0xff, 0xff, 0, 0, 1 | 4, 8] = head else { continue };
            *tries = tries.checked_sub(1).ok_or(TOO_MANY)?;
            let base = offset.saturating_add((i * ALIGN) as u64);
            if Pclntab::parse(image, base, Va(0)).is_ok_and(|table| is_ordered(&table)) {
                found.push(base).map_err(|_| Error::Unsupported("ambiguous Go function table"))?;
            }
        }
        at += len as u64;
    }
    Ok(())
}

/// The linker writes the parts in this order (`cmd/link/internal/ld/pcln.go`, `generatePCHeader`).
fn is_ordered(table: &Pclntab) -> bool {
    let parts = [table.base, table.names, table.cus, table.functab];
    parts.is_sorted() && parts.first() != parts.get(1) && table.cus - table.names < NAMES_MAX
}

/// Looks up functions by name, in one pass over the names and one over the functions; `None` for those that
/// the program does not have. Of several with one name (a function and what wraps it for another calling
/// convention) the longest is meant.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Unreadable`] where the table does not hold what its header promises.
pub fn functions<const N: usize>(
    image: &mut dyn Image,
    table: &Pclntab,
    names: [&[u8]; N],
) -> Result<[Option<Function>; N], Error> {
    let len = table.cus.checked_sub(table.names).filter(|len| *len <= NAMES_MAX);
    let len = len.ok_or(Error::Malformed { what: "function names", at: table.base })?;
    let wanted = name_offsets(image, Extent { offset: table.names, len }, names)?;
    let mut found: [Option<Function>; N] = [None; N];
    let (mut slots, mut records) = (Window::new(), Window::new());
    let slot = |window: &mut Window, image: &mut dyn Image, i: u64| {
        let bytes = window.get(image, table.functab.saturating_add(i * 8), 4)?;
        le::u32(bytes, 0)
    };
    for i in 0..table.funcs {
        let entry = slot(&mut slots, image, i)?;
        let bytes = slots.get(image, table.functab.saturating_add(i * 8 + 4), 4)?;
        let record = table.functab.saturating_add(le::u32(bytes, 0)?.into());
        let bytes = records.get(image, record, 8)?;
        let (same, name) = (le::u32(bytes, 0)? == entry, le::u32(bytes, 4)?);
        let Some((_, which)) = wanted.iter().find(|(offset, _)| *offset == name) else { continue };
        let end = slot(&mut slots, image, i + 1)?;
        let len = end.checked_sub(entry).filter(|len| same && *len <= FUNCTION_MAX);
        let len = len.ok_or(Error::Malformed { what: "function record", at: record })?;
        let entry = table.text.0.checked_add(entry.into()).map(Va);
        let entry = entry.ok_or(Error::Malformed { what: "function record", at: record })?;
        if let Some(slot) = found.get_mut(*which)
            && slot.is_none_or(|known| known.len < len)
        {
            *slot = Some(Function { entry, len });
        }
    }
    Ok(found)
}

/// A piece of the file that moves along with what is read.
struct Window {
    at: u64,
    len: usize,
    bytes: [u8; PIECE],
}

impl Window {
    fn new() -> Window {
        Window { at: 0, len: 0, bytes: [0; PIECE] }
    }

    fn get(&mut self, image: &mut dyn Image, at: u64, len: usize) -> Result<&[u8], Error> {
        let unreadable = Error::Unreadable { at };
        let within = |window: &Window| {
            let from = usize::try_from(at.checked_sub(window.at)?).ok()?;
            from.checked_add(len).filter(|end| *end <= window.len).map(|end| from..end)
        };
        if within(self).is_none() {
            // The file may end behind what is asked for.
            let whole = image.read_at(at, &mut self.bytes).is_ok();
            self.len = if whole { PIECE } else { len.min(PIECE) };
            self.at = at;
            if !whole {
                let part = self.bytes.get_mut(..self.len).ok_or(unreadable)?;
                image.read_at(at, part).inspect_err(|_| self.len = 0)?;
            }
        }
        let range = within(self).ok_or(unreadable)?;
        self.bytes.get(range).ok_or(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Arch;

    /// A file of any size in which the same eight bytes stand everywhere, and what is read of it.
    struct Endless {
        word: [u8; 8],
        reads: usize,
    }

    impl Image for Endless {
        fn read_at(&mut self, _offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.reads += 1;
            out.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.word[..part.len()]));
            Ok(())
        }
    }

    fn search_all(word: [u8; 8], len: u64) -> (Error, usize) {
        let file = Extent { offset: 0, len };
        let load = Load { va: Va(0), file, memory_len: len, writable: false, executable: false };
        let elf = Elf {
            arch: Arch::Amd64,
            pie: false,
            entry: Va(0),
            loads: Vec::from_iter([load; 16]),
            sections: false,
            buildinfo: None,
            pclntab: None,
            symbols: None,
            dynamic_symbols: None,
            eh_frame: None,
            eh_frame_index: None,
            dynamic: None,
        };
        let mut image = Endless { word, reads: 0 };
        (candidates(&elf, &mut image).unwrap_err(), image.reads)
    }

    #[test]
    fn a_search_ends_whatever_the_file_holds() {
        const MARK: [u8; 8] = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
        let (error, reads) = search_all(MARK, 1 << 20);
        assert_eq!(error, Error::Unsupported("program full of what could be Go function tables"));
        assert!(reads <= TRIES_MAX + 1, "{reads} reads");
        let (error, reads) = search_all([0; 8], 200 << 20);
        assert_eq!(error, Error::Unsupported("program without a Go function table in its first 256 MiB"));
        assert_eq!(reads as u64, SEARCH_MAX / PIECE as u64);
        assert_eq!(search_all([0; 8], 1 << 20).0, Error::Unsupported("program without a Go function table"));
    }
}
