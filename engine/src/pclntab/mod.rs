//! Function names, files and lines from Go's own table, which survives stripping: `runtime/symtab.go`,
//! `internal/abi/symtab.go`, `cmd/link/internal/ld/pcln.go`.
//!
//! Read from the file in small pieces: the table of a large program has tens of megabytes, the agent none.

mod frames;
mod stack_maps;

use core::ops::Range;

use heapless::String;

pub use frames::{Code, Frame, InlineTrees, TEXT_MAX, printed_name};
pub use stack_maps::{Live, Maps, OBJECTS_MAX, StackObject, WORDS_MAX};

use crate::memory::{Error, Image, Va, le};

/// Go 1.18 and 1.19.
const MAGIC_118: u32 = 0xffff_fff0;
/// Go 1.20 and newer.
const MAGIC_120: u32 = 0xffff_fff1;
const HEADER: usize = 8 + 8 * 8;
/// Bytes of `_func` up to and including `cuOffset`.
const FUNC: usize = 36;
/// Functions a program may have; the largest known have 300,000.
const FUNCS_MAX: u64 = 1 << 22;
/// Steps a pc-value table may take before it is taken for damaged.
const STEPS_MAX: u32 = 1 << 20;
/// Longest name that is read; longer ones are cut at their end (generic instances can be very long). Those who say
/// less of it show its last part, so it has to be whole where that matters.
pub const NAME_MAX: usize = TEXT_MAX;

/// Where a program counter is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Full name of the function as linked, e.g. `main.(*Gateway).forward`.
    pub function: String<NAME_MAX>,
    /// Its file, whole path as compiled in.
    pub file: String<NAME_MAX>,
    /// Line, 0 when unknown.
    pub line: u32,
}

/// The header of a pclntab; everything else is read on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pclntab {
    pub(crate) base: u64,
    pub(crate) text: Va,
    quantum: u8,
    pub(crate) funcs: u64,
    pub(crate) names: u64,
    pub(crate) cus: u64,
    files: u64,
    pcs: u64,
    pub(crate) functab: u64,
    /// Go 1.18 and 1.19.
    old: bool,
}

/// One function's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Func {
    /// Its place in the file.
    at: u64,
    entry: Va,
    name: u32,
    pcsp: u32,
    pcfile: u32,
    pcline: u32,
    npcdata: u32,
    cu: u32,
}

impl Pclntab {
    /// Reads the header at file offset `base`; `text` is the link-time address of `runtime.text`, which all
    /// function entries are relative to (the header's own copy is 0 since Go 1.26 and unrelocated in PIE).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another magic or pointer size, [`Error::Malformed`] for impossible counts.
    pub fn parse(image: &mut dyn Image, base: u64, text: Va) -> Result<Pclntab, Error> {
        let mut header = [0u8; HEADER];
        image.read_at(base, &mut header)?;
        let malformed = Error::Malformed { what: "pclntab header", at: base };
        let magic = le::u32(&header, 0)?;
        if !matches!(magic, MAGIC_118 | MAGIC_120) {
            return Err(Error::Unsupported("pclntab of an unknown format"));
        }
        let (quantum, pointer) = (le::u8(&header, 6)?, le::u8(&header, 7)?);
        if pointer != 8 || !matches!(quantum, 1 | 4) {
            return Err(malformed);
        }
        // nfunc, nfiles, textStart, funcnameOffset, cuOffset, filetabOffset, pctabOffset, pclnOffset.
        let word = |i: usize| le::u64(&header, 8 + 8 * i);
        let part = |i: usize| word(i).and_then(|at| base.checked_add(at).ok_or(malformed));
        let funcs = word(0)?;
        if funcs == 0 || funcs > FUNCS_MAX {
            return Err(malformed);
        }
        Ok(Pclntab {
            base,
            old: magic == MAGIC_118,
            text,
            quantum,
            funcs,
            names: part(3)?,
            cus: part(4)?,
            files: part(5)?,
            pcs: part(6)?,
            functab: part(7)?,
        })
    }

    /// Where `pc` is. For a return address pass it less one: the call is what is meant.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `pc` is in no function, or the table contradicts itself.
    pub fn position(&self, image: &mut dyn Image, pc: Va) -> Result<Position, Error> {
        let func = self.find(image, pc)?;
        let function = self.name(image, func.name)?;
        let line = self.value(image, func.pcline, func.entry, pc)?;
        let file = match self.value(image, func.pcfile, func.entry, pc)? {
            index if index < 0 => String::new(),
            index => self.file(image, func.cu, index.unsigned_abs())?,
        };
        Ok(Position { function, file, line: u32::try_from(line).unwrap_or(0) })
    }

    /// Name of the function that `pc` is in.
    ///
    /// # Errors
    /// As [`Pclntab::position`].
    pub fn function(&self, image: &mut dyn Image, pc: Va) -> Result<String<NAME_MAX>, Error> {
        let func = self.find(image, pc)?;
        self.name(image, func.name)
    }

    /// Entry address of the function that `pc` is in.
    ///
    /// # Errors
    /// As [`Pclntab::position`].
    pub fn entry(&self, image: &mut dyn Image, pc: Va) -> Result<Va, Error> {
        self.find(image, pc).map(|func| func.entry)
    }

    /// Where the code of Go's linker begins and ends; C lies outside of it.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn code_range(&self, image: &mut dyn Image) -> Result<Range<Va>, Error> {
        let (end, _) = self.slot(image, self.funcs)?;
        Ok(self.text..Va(self.text.0.saturating_add(end.into())))
    }

    /// Where the function that `pc` is in begins and ends, what the linker put behind it included.
    ///
    /// # Errors
    /// As [`Pclntab::position`].
    pub fn extent(&self, image: &mut dyn Image, pc: Va) -> Result<Range<Va>, Error> {
        let index = self.index(image, pc)?;
        let at = |offset: u32| Va(self.text.0.wrapping_add(u64::from(offset)));
        Ok(at(self.slot(image, index)?.0)..at(self.slot(image, index + 1)?.0))
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { what, at: self.base }
    }

    /// `functab[i]`: (entry relative to text, offset of the `_func` from the functab).
    fn slot(&self, image: &mut dyn Image, i: u64) -> Result<(u32, u32), Error> {
        let mut bytes = [0u8; 8];
        image.read_at(self.functab.saturating_add(i * 8), &mut bytes)?;
        Ok((le::u32(&bytes, 0)?, le::u32(&bytes, 4)?))
    }

    /// Place of the function of `pc` in the functab.
    fn index(&self, image: &mut dyn Image, pc: Va) -> Result<u64, Error> {
        let outside = self.malformed("pc outside of Go's code");
        let target = pc.0.checked_sub(self.text.0).ok_or(outside)?;
        let target = u32::try_from(target).map_err(|_| outside)?;
        // functab has `funcs` sorted entries and one more, which ends the last function.
        let (mut low, mut high) = (0, self.funcs);
        if target < self.slot(image, 0)?.0 || target >= self.slot(image, self.funcs)?.0 {
            return Err(outside);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.slot(image, middle)?.0 <= target { low = middle } else { high = middle }
        }
        Ok(low)
    }

    fn find(&self, image: &mut dyn Image, pc: Va) -> Result<Func, Error> {
        let index = self.index(image, pc)?;
        let (entry, offset) = self.slot(image, index)?;
        let mut bytes = [0u8; FUNC];
        let at = self.functab.saturating_add(u64::from(offset));
        image.read_at(at, &mut bytes)?;
        // entryOff u32, nameOff i32, args i32, deferreturn u32, pcsp u32, pcfile u32, pcln u32,
        // npcdata u32, cuOffset u32 (internal/abi: FuncInfo; runtime2.go: _func).
        if le::u32(&bytes, 0)? != entry {
            return Err(self.malformed("function record"));
        }
        Ok(Func {
            at,
            entry: Va(self.text.0.wrapping_add(u64::from(entry))),
            name: le::u32(&bytes, 4)?,
            pcsp: le::u32(&bytes, 16)?,
            pcfile: le::u32(&bytes, 20)?,
            pcline: le::u32(&bytes, 24)?,
            npcdata: le::u32(&bytes, 28)?,
            cu: le::u32(&bytes, 32)?,
        })
    }

    /// Value of a pc-value table at `pc` (`runtime/symtab.go`, `pcvalue` and `step`): pairs of varints,
    /// a zigzag change of the value and a change of the pc in quanta; -1 before the first.
    fn value(&self, image: &mut dyn Image, table: u32, entry: Va, pc: Va) -> Result<i32, Error> {
        if table == 0 {
            return Ok(-1);
        }
        let damaged = self.malformed("pc-value table");
        let mut bytes =
            Varints { at: self.pcs.saturating_add(u64::from(table)), have: 0, used: 0, buf: [0; 64] };
        let (mut at, mut value) = (entry.0, -1i32);
        for step in 0..STEPS_MAX {
            let zigzag = bytes.next(image)?;
            if zigzag == 0 && step > 0 {
                return Err(damaged); // the table ended before it reached pc
            }
            let change = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
            value = value.wrapping_add(change);
            let quanta = bytes.next(image)?;
            at = at.checked_add(u64::from(quanta) * u64::from(self.quantum)).ok_or(damaged)?;
            if pc.0 < at {
                return Ok(value);
            }
        }
        Err(damaged)
    }

    fn name<const N: usize>(&self, image: &mut dyn Image, offset: u32) -> Result<String<N>, Error> {
        read_string(image, self.names.saturating_add(u64::from(offset)))
    }

    fn file<const N: usize>(&self, image: &mut dyn Image, cu: u32, index: u32) -> Result<String<N>, Error> {
        let slot = u64::from(cu).saturating_add(u64::from(index)) * 4;
        let mut bytes = [0u8; 4];
        image.read_at(self.cus.saturating_add(slot), &mut bytes)?;
        match le::u32(&bytes, 0)? {
            u32::MAX => Ok(String::new()), // a file that the linker has dropped
            offset => read_string(image, self.files.saturating_add(u64::from(offset))),
        }
    }
}

/// Unsigned LEB128 numbers from the file, fetched in pieces of 64 bytes.
struct Varints {
    at: u64,
    have: usize,
    used: usize,
    buf: [u8; 64],
}

impl Varints {
    fn next(&mut self, image: &mut dyn Image) -> Result<u32, Error> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            let byte = self.byte(image)?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Malformed { what: "varint", at: self.at })
    }

    fn byte(&mut self, image: &mut dyn Image) -> Result<u8, Error> {
        if self.used == self.have {
            self.at = self.at.saturating_add(self.have as u64);
            self.have = fill(image, self.at, &mut self.buf)?;
            self.used = 0;
        }
        let byte = self.buf.get(self.used).copied().ok_or(Error::Unreadable { at: self.at })?;
        self.used += 1;
        Ok(byte)
    }
}

/// Reads as much of `buf` as the file has, at least one byte.
pub(crate) fn fill(image: &mut dyn Image, at: u64, buf: &mut [u8]) -> Result<usize, Error> {
    let mut len = buf.len();
    loop {
        let part = buf.get_mut(..len).ok_or(Error::Unreadable { at })?;
        match image.read_at(at, part) {
            Ok(()) => return Ok(len),
            Err(error) if len == 1 => return Err(error),
            Err(_) => len /= 2,
        }
    }
}

fn read_string<const N: usize>(image: &mut dyn Image, at: u64) -> Result<String<N>, Error> {
    let mut bytes = [0u8; N];
    let len = fill(image, at, &mut bytes)?;
    let bytes = bytes.get(..len).unwrap_or_default();
    let (end, cut) = match bytes.iter().position(|b| *b == 0) {
        Some(end) => (end, false),
        None => (len, true),
    };
    let bytes = bytes.get(..end).unwrap_or_default();
    let text = match core::str::from_utf8(bytes) {
        Ok(text) => text,
        // Cut in the middle of a character, which is no damage.
        Err(error) if cut && error.error_len().is_none() => {
            core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return Err(Error::Malformed { what: "name", at }),
    };
    // Names end up in logs and on terminals; Go's have no control characters.
    if text.chars().any(char::is_control) {
        return Err(Error::Malformed { what: "name", at });
    }
    String::try_from(text).map_err(|_| Error::Malformed { what: "name", at })
}
