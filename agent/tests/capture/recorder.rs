//! Memory and file that remember what was read of them.

use std::collections::{BTreeMap, BTreeSet};

use glg_engine::memory::{Error, Image, Memory, Run};

use crate::capture::Stretches;

/// Bytes that are kept together.
const BLOCK: usize = 64;
/// Bytes of the file that are kept on either side of what is read: the rest of a function's record, and where
/// its tables go on.
const AROUND: usize = 64;

/// Bytes by their address.
#[derive(Default)]
pub(crate) struct Recorded {
    blocks: BTreeMap<u64, [Option<u8>; BLOCK]>,
    holes: BTreeSet<u64>,
    /// Whether a byte was read twice and not the same.
    pub(crate) changed: bool,
}

impl Recorded {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let block = self.blocks.entry(at / BLOCK as u64).or_insert([None; BLOCK]);
            let place = &mut block[usize::try_from(at % BLOCK as u64).unwrap()];
            self.changed |= place.is_some_and(|known| known != *byte);
            *place = Some(*byte);
        }
    }

    fn failed(&mut self, error: Error) {
        if let Error::Unreadable { at } = error {
            self.holes.insert(at);
        }
    }

    pub(crate) fn stretches(&self) -> Stretches {
        let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, block) in &self.blocks {
            for (at, byte) in (number * BLOCK as u64..).zip(block) {
                let Some(byte) = *byte else { continue };
                match stretches.last_mut() {
                    Some((start, bytes)) if *start + bytes.len() as u64 == at => bytes.push(byte),
                    _ => stretches.push((at, vec![byte])),
                }
            }
        }
        Stretches { bytes: stretches.into_iter().collect(), holes: self.holes.clone() }
    }
}

/// Memory of a process that is recorded.
pub(crate) struct RecordingMemory<'p> {
    pub(crate) process: &'p mut dyn Memory,
    pub(crate) recorded: &'p mut Recorded,
}

impl Memory for RecordingMemory<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let read = self.process.read_runs(runs, out);
        read.inspect_err(|error| self.recorded.failed(*error))?;
        let mut rest = &*out;
        for run in runs {
            let (now, later) = rest.split_at(run.len);
            self.recorded.add(run.at.0, now);
            rest = later;
        }
        Ok(())
    }
}

/// A file that is recorded.
pub(crate) struct RecordingImage<'p> {
    pub(crate) file: &'p mut dyn Image,
    pub(crate) recorded: &'p mut Recorded,
}

impl Image for RecordingImage<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(offset, out).inspect_err(|error| self.recorded.failed(*error))?;
        self.recorded.add(offset, out);
        let mut around = [0; AROUND];
        for at in [offset.saturating_sub(AROUND as u64), offset + out.len() as u64] {
            // The file may end there.
            if self.file.read_at(at, &mut around).is_ok() {
                self.recorded.add(at, &around);
            }
        }
        Ok(())
    }
}
