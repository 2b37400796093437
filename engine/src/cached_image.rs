//! A file of which the blocks read last are kept: names, lines and frames are looked up in Go's tables by
//! thousands of reads of a few bytes, which fall into a few blocks.

use alloc::vec;
use alloc::vec::Vec;

use crate::memory::{Error, Image};

const BLOCK: usize = 4096;
/// CachedImage kept: a search in a table of functions meets its first halves again each time.
const KEPT: usize = 32;

/// An image, read by blocks.
pub struct CachedImage<'i> {
    image: &'i mut dyn Image,
    /// Which block is kept in each place.
    kept: [Option<u64>; KEPT],
    bytes: Vec<u8>,
}

impl<'i> CachedImage<'i> {
    /// Bytes that one takes.
    pub const BYTES: usize = KEPT * BLOCK;

    /// Nothing is kept of `image` yet.
    pub fn new(image: &'i mut dyn Image) -> CachedImage<'i> {
        CachedImage { image, kept: [None; KEPT], bytes: vec![0; CachedImage::BYTES] }
    }

    /// The block of this number; `None` when the file has it not, or not all of it.
    fn block(&mut self, number: u64) -> Option<&[u8]> {
        let place = usize::try_from(number % KEPT as u64).ok()?;
        let (kept, bytes) =
            (self.kept.get_mut(place)?, self.bytes.get_mut(place * BLOCK..)?.get_mut(..BLOCK)?);
        if *kept != Some(number) {
            // What fails may have overwritten a part.
            *kept = None;
            self.image.read_at(number * BLOCK as u64, bytes).ok()?;
            *kept = Some(number);
        }
        Some(bytes)
    }
}

impl Image for CachedImage<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let number = offset / BLOCK as u64;
        let within = usize::try_from(offset % BLOCK as u64).unwrap_or(BLOCK);
        // Larger pieces are read once, and the last block of a file is seldom whole.
        if let Some(end) = within.checked_add(out.len()).filter(|end| *end <= BLOCK)
            && let Some(bytes) = self.block(number).and_then(|block| block.get(within..end))
        {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        self.image.read_at(offset, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, and how often it was read.
    struct Counted<'b>(&'b [u8], usize);

    impl Image for Counted<'_> {
        fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.1 += 1;
            self.0.read_at(offset, out)
        }
    }

    #[test]
    fn blocks_give_what_the_file_has() {
        let len = 2 * CachedImage::BYTES + 100;
        let file: Vec<u8> = (0..len).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect();
        let (mut plain, mut counted) = (file.as_slice(), Counted(&file, 0));
        let mut blocks = CachedImage::new(&mut counted);
        let last = file.len() as u64;
        // Far places that are kept in the same one, across the border of two blocks, at the end and beyond.
        for at in [0, 5, CachedImage::BYTES as u64, 4, 4090, 4096, last - 8, last - 3, last, u64::MAX - 2] {
            for len in [0, 1, 8, 5000] {
                let (mut expected, mut got) = (vec![0; len], vec![0; len]);
                let results = (plain.read_at(at, &mut expected), blocks.read_at(at, &mut got));
                assert_eq!(results.0, results.1, "{len} at {at}");
                assert!(results.0.is_err() || expected == got, "{len} at {at}");
            }
        }
    }

    #[test]
    fn a_block_is_read_once() {
        let file = vec![7; 3 * BLOCK];
        let mut counted = Counted(&file, 0);
        let mut blocks = CachedImage::new(&mut counted);
        for at in 0..2 * BLOCK as u64 {
            blocks.read_at(at, &mut [0]).unwrap();
        }
        assert_eq!(counted.1, 2);
    }
}
