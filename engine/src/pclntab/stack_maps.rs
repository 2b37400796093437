//! Which words of a frame the function may still use: the maps that Go's own collector scans stacks by
//! (`runtime/stkframe.go`, `getStackMap`; `runtime/symtab.go`, `stackmapdata`).

use heapless::Vec;

use super::{InlineTrees, Pclntab};
use crate::memory::{Error, Image, Va, le};

/// `FUNCDATA_ArgsPointerMaps` and `FUNCDATA_LocalsPointerMaps` (`internal/abi/symtab.go`).
const ARGUMENTS: u32 = 0;
const LOCALS: u32 = 1;
/// `PCDATA_StackMapIndex`.
const STACK_MAP_INDEX: u32 = 1;
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

impl Pclntab {
    /// The live words of the function that `pc` is in; for a return address pass it less one. Assembly has none.
    ///
    /// # Errors
    /// As [`Pclntab::position`]; [`Error::Unsupported`] for a frame larger than [`WORDS_MAX`].
    pub fn live(&self, image: &mut dyn Image, trees: InlineTrees, pc: Va) -> Result<Live, Error> {
        let func = self.find(image, pc)?;
        let (_, _, functions) = self.tail(image, &func)?;
        // Without an index for this place that of the entry holds (`stkframe.go`).
        let index = u32::try_from(self.pcdata(image, &func, STACK_MAP_INDEX, pc)?).unwrap_or(0);
        let mut map = |which| match self.data(image, trees, &func, functions, which)? {
            Some(at) => words(image, at, index),
            None => Ok(Words::default()),
        };
        Ok(Live { arguments: map(ARGUMENTS)?, locals: map(LOCALS)? })
    }
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
}
