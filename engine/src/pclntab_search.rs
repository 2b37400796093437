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
/// Bytes searched at most; the largest Go programs known have 600 MB.
const SEARCH_MAX: u64 = 2 << 30;
/// Bytes a function may have.
const FUNCTION_MAX: u32 = 1 << 20;

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
    let mut left = SEARCH_MAX;
    let (code, data): (Vec<Load, 16>, Vec<Load, 16>) =
        (segments(elf, |load| load.executable), segments(elf, |load| !load.executable));
    for load in data.iter().chain(&code) {
        let len = load.file.len.min(left);
        left -= len;
        search(image, Extent { len, ..load.file }, &mut found)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::Unsupported("program without a Go function table"))
}

fn segments(elf: &Elf, which: impl Fn(&Load) -> bool) -> Vec<Load, 16> {
    elf.loads.iter().copied().filter(which).collect()
}

fn search(image: &mut dyn Image, part: Extent, found: &mut Vec<u64, CANDIDATES_MAX>) -> Result<(), Error> {
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
