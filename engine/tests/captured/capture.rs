//! A Go process at one quiet moment: the bytes that were read of its memory and of its file, and what it said of
//! itself then. `agent/tests/capture.rs` writes captures, `cargo xtask capture` compresses them.

use std::collections::{BTreeMap, BTreeSet};

use glg_engine::memory::{Addr, Error, Image, Memory, Run};
use serde::{Deserialize, Serialize};

/// Creating function, file and line of the `go` statement, state. The main goroutine is under the function "".
pub(crate) type Site = (String, String, u64, String);

/// What one file of `engine/tests/images` holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Capture {
    /// Which test program, and how it was linked, such as `kinds-stripped`.
    pub(crate) name: String,
    /// Go release, such as `1.24.11`.
    pub(crate) release: String,
    /// `amd64` or `arm64`.
    pub(crate) arch: String,
    /// Where the process began to run.
    pub(crate) entry: u64,
    /// The system's monotonic clock.
    pub(crate) now_ns: u64,
    /// What `runtime.NumGoroutine` said.
    pub(crate) count: u32,
    /// Goroutines by site.
    pub(crate) sites: BTreeMap<Site, u64>,
    /// `pprof/goroutine?debug=2`.
    pub(crate) plain: String,
    /// `pprof/goroutine?debug=1`.
    pub(crate) grouped: String,
    /// Of its memory, by address.
    pub(crate) memory: Stretches,
    /// Of its file, by offset.
    pub(crate) file: Stretches,
}

/// What was read.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stretches {
    /// Bytes by the address of the first; those that follow each other are one stretch.
    pub(crate) bytes: BTreeMap<u64, Vec<u8>>,
    /// Addresses that could not be read.
    pub(crate) holes: BTreeSet<u64>,
}

impl Stretches {
    /// The bytes at `at`, if all of them are here.
    pub(crate) fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        let (start, bytes) = self.bytes.range(..=at).next_back()?;
        let from = usize::try_from(at - start).ok()?;
        bytes.get(from..from.checked_add(len)?)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.values().map(Vec::len).sum()
    }

    /// Address of the `index`th byte.
    pub(crate) fn nth(&self, mut index: usize) -> Option<u64> {
        self.bytes.iter().find_map(|(start, bytes)| {
            let here = (index < bytes.len()).then(|| start + index as u64);
            index = index.wrapping_sub(bytes.len());
            here
        })
    }
}

/// Reads from a capture instead of a process, with damage if so wished.
pub(crate) struct Replay<'c> {
    read: &'c Stretches,
    /// Bytes that are different.
    pub(crate) flipped: BTreeMap<u64, u8>,
    /// Stretches that are not there: first byte and end.
    pub(crate) dropped: Vec<(u64, u64)>,
    /// The first read that the capture could not answer.
    missed: Option<Run>,
}

impl<'c> Replay<'c> {
    pub(crate) fn new(read: &'c Stretches) -> Replay<'c> {
        Replay { read, flipped: BTreeMap::new(), dropped: Vec::new(), missed: None }
    }

    /// For messages of failed tests.
    pub(crate) fn hint(&self) -> String {
        self.missed.map_or(String::new(), |run| {
            format!(
                "; {} bytes at {} are not in the capture: the engine reads other addresses than when it was \
                 taken, run `cargo xtask capture`",
                run.len, run.at
            )
        })
    }

    fn answer(&mut self, run: Run, out: &mut [u8]) -> Result<(), Error> {
        let (at, end) = (run.at.0, run.at.0.saturating_add(run.len as u64));
        let lost = self.dropped.iter().any(|(from, to)| at < *to && *from < end);
        let Some(bytes) = self.read.get(at, run.len).filter(|_| !lost) else {
            if !self.read.holes.contains(&at) {
                self.missed.get_or_insert(run);
            }
            return Err(Error::Unreadable { at });
        };
        out.copy_from_slice(bytes);
        for (place, byte) in self.flipped.range(at..end) {
            out[usize::try_from(place - at).unwrap()] = *byte;
        }
        Ok(())
    }
}

impl Memory for Replay<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        assert_eq!(runs.iter().map(|run| run.len).sum::<usize>(), out.len());
        let mut rest = out;
        for run in runs {
            let (now, later) = rest.split_at_mut(run.len);
            self.answer(*run, now)?;
            rest = later;
        }
        Ok(())
    }
}

impl Image for Replay<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.answer(Run { at: Addr(offset), len: out.len() }, out)
    }
}
