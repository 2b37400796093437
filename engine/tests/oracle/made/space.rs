//! Memory in stretches; what is between them is not mapped.

use glg_engine::memory::{Error, Memory, Run};

/// Stretches by their first address.
#[derive(Clone, Debug, Default)]
pub struct Space {
    regions: Vec<(u64, Vec<u8>)>,
}

impl Space {
    /// Maps zeros.
    pub fn map(&mut self, at: u64, len: usize) {
        let place = self.regions.partition_point(|(start, _)| *start < at);
        self.regions.insert(place, (at, vec![0; len]));
    }

    /// `len` bytes at `at`, if all of them are mapped as one.
    fn find(&self, at: u64, len: usize) -> Option<&[u8]> {
        let place = self.regions.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, bytes) = self.regions.get(place)?;
        let from = usize::try_from(at - start).ok()?;
        bytes.get(from..from.checked_add(len)?)
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// Where nothing is mapped.
    pub fn write(&mut self, at: u64, new: &[u8]) {
        let place = self.regions.partition_point(|(start, _)| *start <= at);
        let region = place.checked_sub(1).and_then(|place| self.regions.get_mut(place));
        let into = region.and_then(|(start, bytes)| {
            let from = usize::try_from(at - *start).ok()?;
            bytes.get_mut(from..from + new.len())
        });
        assert!(into.is_some(), "nothing is mapped at {at:#x}");
        into.into_iter().for_each(|into| into.copy_from_slice(new));
    }

    /// Writes a word.
    pub fn word(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Writes zeros.
    pub fn clear(&mut self, at: u64, len: u64) {
        self.write(at, &vec![0; usize::try_from(len).unwrap_or(0)]);
    }

    /// Reads a word; 0 where nothing is mapped.
    #[must_use]
    pub fn get(&self, at: u64) -> u64 {
        let bytes = self.find(at, 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }

    /// Reads stretches.
    ///
    /// # Errors
    /// As [`Memory::read_runs`].
    pub fn copy(&self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let mut rest = out;
        for run in runs {
            let unreadable = Error::Unreadable { at: run.at.0 };
            let bytes = self.find(run.at.0, run.len).ok_or(unreadable)?;
            let (part, behind) = rest.split_at_mut_checked(run.len).ok_or(unreadable)?;
            part.copy_from_slice(bytes);
            rest = behind;
        }
        Ok(())
    }

    /// Where something is mapped: first addresses and bytes.
    pub fn regions(&self) -> impl Iterator<Item = (u64, usize)> {
        self.regions.iter().map(|(start, bytes)| (*start, bytes.len()))
    }
}

impl Memory for Space {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.copy(runs, out)
    }
}
