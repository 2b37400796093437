//! Which words of a frame the function may still use: the maps that Go's own collector scans stacks by
//! (`runtime/stkframe.go`, `getStackMap`; `runtime/symtab.go`, `stackmapdata`).

use heapless::Vec;

use super::{Func, InlineTrees, Pclntab};
use crate::memory::{Error, Image, Va, le};

/// `FUNCDATA_ArgsPointerMaps`, `FUNCDATA_LocalsPointerMaps` and `FUNCDATA_StackObjects` (`internal/abi/symtab.go`).
const ARGUMENTS: u32 = 0;
const LOCALS: u32 = 1;
const OBJECTS: u32 = 2;
/// `PCDATA_StackMapIndex`.
const STACK_MAP_INDEX: u32 = 1;
/// `ArgsSizeUnknown`: of what reflection calls, the runtime asks reflection.
const ARGUMENTS_UNKNOWN: i32 = i32::MIN;
/// Objects of one frame; the largest known have some hundreds.
pub const OBJECTS_MAX: usize = 4096;
/// Bytes of a `stackObjectRecord` (`runtime/stack.go`): offset, size, and two words more.
const OBJECT: usize = 16;
/// Words of a frame whose map is read: frames are rarely a tenth of it.
pub const WORDS_MAX: usize = 2048;

/// A bit for each word that holds a live pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// How many words there are.
    pub len: usize,
    bits: Vec<u8, { WORDS_MAX / 8 }>,
}

impl Words {
    /// Indices of the words with a live pointer.
    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        let is_live = |word: &usize| self.bits.get(word / 8).is_some_and(|bits| bits >> (word % 8) & 1 != 0);
        (0..self.len).filter(is_live)
    }
}

/// The live words of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Of its arguments, from where these lie upwards.
    pub arguments: Words,
    /// Of its own, the last just below what was saved for its caller.
    pub locals: Words,
}

/// What a frame has by address, and what the collector must be told to know of it: `stackObjectRecord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackObject {
    /// Where it begins: bytes from the end of the frame's own words where negative, else from its arguments.
    pub offset: i32,
    /// Bytes.
    pub size: u32,
}

/// What the collector may know of a frame, as far as it is in the program's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// Its live words.
    pub live: Live,
    /// What it has by address, live or not.
    pub objects: alloc::vec::Vec<StackObject>,
}

impl Pclntab {
    /// What the collector knows of a frame of `own` bytes (what its caller has left there not included) of the
    /// function that `pc` is in; for a return address pass it less one. `None` where the file does not say all:
    /// then any word of the frame may be in use.
    ///
    /// # Errors
    /// As [`Pclntab::live`].
    pub fn maps(
        &self,
        image: &mut dyn Image,
        trees: InlineTrees,
        pc: Va,
        own: u32,
    ) -> Result<Option<Maps>, Error> {
        let func = self.find(image, pc)?;
        let (_, _, functions) = self.tail(image, &func)?;
        let mut argument_bytes = [0u8; 4];
        image.read_at(func.at.saturating_add(8), &mut argument_bytes)?;
        let argument_bytes = i32::from_le_bytes(argument_bytes);
        let mut mapped = |which| match self.data(image, trees, &func, functions, which)? {
            Some(at) => has_maps(image, at),
            None => Ok(false),
        };
        // arm64 aligns its stack: so little is no word of the frame's own (`getStackMap`, `minsize`).
        let least = if self.quantum == 4 { 16 } else { 0 };
        // Without maps the runtime itself would give up.
        let untyped = own > least && !mapped(LOCALS)? || argument_bytes >= 8 && !mapped(ARGUMENTS)?;
        if argument_bytes == ARGUMENTS_UNKNOWN || untyped {
            return Ok(None);
        }
        let objects = match self.data(image, trees, &func, functions, OBJECTS)? {
            Some(at) => objects(image, at)?,
            None => alloc::vec::Vec::new(),
        };
        Ok(Some(Maps { live: self.live_of(image, trees, &func, functions, pc)?, objects }))
    }

    /// The live words of the function that `pc` is in; for a return address pass it less one. Assembly has none.
    ///
    /// # Errors
    /// As [`Pclntab::position`]; [`Error::Unsupported`] for a frame larger than [`WORDS_MAX`].
    pub fn live(&self, image: &mut dyn Image, trees: InlineTrees, pc: Va) -> Result<Live, Error> {
        let func = self.find(image, pc)?;
        let (_, _, functions) = self.tail(image, &func)?;
        self.live_of(image, trees, &func, functions, pc)
    }

    fn live_of(
        &self,
        image: &mut dyn Image,
        trees: InlineTrees,
        func: &Func,
        functions: u8,
        pc: Va,
    ) -> Result<Live, Error> {
        // Without an index for this place that of the entry holds (`stkframe.go`).
        let index = u32::try_from(self.pcdata(image, func, STACK_MAP_INDEX, pc)?).unwrap_or(0);
        let mut map = |which| match self.data(image, trees, func, functions, which)? {
            Some(at) => words(image, at, index),
            None => Ok(Words::default()),
        };
        Ok(Live { arguments: map(ARGUMENTS)?, locals: map(LOCALS)? })
    }
}

/// Whether there are maps at `at` (`stackmap.n`).
fn has_maps(image: &mut dyn Image, at: u64) -> Result<bool, Error> {
    let mut count = [0u8; 4];
    image.read_at(at, &mut count)?;
    Ok(i32::from_le_bytes(count) > 0)
}

/// The list at `at`: how many there are, then a record of each.
fn objects(image: &mut dyn Image, at: u64) -> Result<alloc::vec::Vec<StackObject>, Error> {
    let malformed = Error::Malformed { what: "stack objects", at };
    let mut count = [0u8; 8];
    image.read_at(at, &mut count)?;
    let count = u64::from_le_bytes(count);
    if count > OBJECTS_MAX as u64 {
        return Err(malformed);
    }
    let mut all = alloc::vec::Vec::new();
    for nth in 0..count {
        let mut record = [0u8; OBJECT];
        image.read_at(at.saturating_add(8 + nth * OBJECT as u64), &mut record)?;
        let (offset, size) = (le::u32(&record, 0)?.cast_signed(), le::u32(&record, 4)?.cast_signed());
        all.push(StackObject { offset, size: u32::try_from(size).map_err(|_| malformed)? });
    }
    Ok(all)
}

/// The `index`th of the maps at `at`: how many there are, bits of each, then their bytes.
fn words(image: &mut dyn Image, at: u64, index: u32) -> Result<Words, Error> {
    let malformed = Error::Malformed { what: "stack map", at };
    let mut header = [0u8; 8];
    image.read_at(at, &mut header)?;
    let (maps, bits) = (le::u32(&header, 0)?, le::u32(&header, 4)?);
    if bits == 0 || maps == 0 {
        return Ok(Words::default());
    }
    let len = usize::try_from(bits).map_err(|_| malformed)?;
    if index >= maps {
        return Err(malformed);
    }
    if len > WORDS_MAX {
        return Err(Error::Unsupported("stack frame of more than 16 KiB"));
    }
    let bytes = len.div_ceil(8);
    let mut words = Words { len, bits: Vec::new() };
    words.bits.resize_default(bytes).map_err(|_| malformed)?;
    let from = at.saturating_add(8).saturating_add(u64::from(index) * bytes as u64);
    image.read_at(from, &mut words.bits)?;
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_bounded() {
        let file =
            |maps: u32, bits: u32, bytes: &[u8]| [&maps.to_le_bytes(), &bits.to_le_bytes(), bytes].concat();
        let second = words(&mut file(2, 10, &[0xff, 3, 0b101, 0b10]).as_slice(), 0, 1).unwrap();
        assert_eq!(second.live().collect::<alloc::vec::Vec<_>>(), [0, 2, 9]);
        assert_eq!(words(&mut file(2, 0, &[]).as_slice(), 0, 5), Ok(Words::default()));
        assert!(words(&mut file(2, 10, &[0; 4]).as_slice(), 0, 2).is_err());
        assert!(words(&mut file(2, 10, &[0; 3]).as_slice(), 0, 1).is_err());
        assert!(words(&mut file(u32::MAX, u32::MAX, &[0; 64]).as_slice(), 0, 0).is_err());
    }
    #[test]
    fn objects_are_read_and_bounded() {
        let record = |offset: i32, size: i32| [offset, size, 8, 0].map(i32::to_le_bytes).concat();
        let file = |count: u64, records: &[Vec<u8, 16>]| {
            let mut file = count.to_le_bytes().to_vec();
            records.iter().for_each(|record| file.extend_from_slice(record));
            file
        };
        let record = |offset, size| Vec::from_slice(&record(offset, size)).unwrap();
        let two = file(2, &[record(-48, 24), record(16, 8)]);
        let expected = [(-48, 24), (16, 8)].map(|(offset, size)| StackObject { offset, size });
        assert_eq!(objects(&mut two.as_slice(), 0).unwrap(), expected);
        assert!(objects(&mut file(2, &[record(-48, 24)]).as_slice(), 0).is_err());
        assert!(objects(&mut file(1, &[record(-48, -1)]).as_slice(), 0).is_err());
        assert!(objects(&mut file(u64::MAX, &[record(0, 8)]).as_slice(), 0).is_err());
        for (count, has) in [(1, true), (0, false), (-1, false)] {
            assert_eq!(has_maps(&mut i32::to_le_bytes(count).as_slice(), 0), Ok(has));
        }
    }
}
