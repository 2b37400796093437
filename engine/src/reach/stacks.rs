//! What goroutines refer to: their stacks, from the lowest word in use on, and what their `g`s hold.

use alloc::vec;
use alloc::vec::Vec;

use super::Stop;
use super::crowd::{G_MAX, Role, blank, decode};
use super::mark::Marker;
use crate::gather::Gather;
use crate::memory::{Addr, Error, Memory, Run};
use crate::runtime::Runtime;

/// `g`s read in one go.
const BATCH: usize = 64;
/// Bytes of stacks read in one go.
const STACKS: usize = 256 << 10;
/// Bytes of one stack read in one go.
const PIECE: u64 = 64 << 10;

/// Reads goroutines.
pub(super) struct Stacks {
    gs: Gather,
    wanted: Vec<Run>,
    runs: Vec<Run>,
    bytes: Vec<u8>,
    used: usize,
}

impl Stacks {
    pub(super) fn new() -> Stacks {
        Stacks {
            gs: Gather::new(BATCH, 2 * BATCH * G_MAX),
            wanted: Vec::with_capacity(BATCH),
            runs: Vec::new(),
            bytes: vec![0; STACKS],
            used: 0,
        }
    }

    /// Bytes that one takes.
    pub(super) const BYTES: usize = STACKS + Gather::bytes(BATCH, 2 * BATCH * G_MAX);

    /// Looks at all that these goroutines refer to.
    pub(super) fn scan(
        &mut self,
        runtime: &Runtime,
        gs: impl Iterator<Item = Addr>,
        memory: &mut dyn Memory,
        marker: &mut Marker,
    ) -> Result<(), Stop> {
        let len = usize::from(runtime.layout.g.size);
        let mut gs = gs.peekable();
        while gs.peek().is_some() {
            self.wanted.clear();
            self.wanted.extend(gs.by_ref().take(BATCH).map(|at| Run { at, len }));
            self.gs.read(memory, &self.wanted)?;
            for nth in 0..self.wanted.len() {
                self.one(runtime, nth, memory, marker)?;
            }
        }
        self.flush(memory, marker)
    }

    fn one(
        &mut self,
        runtime: &Runtime,
        nth: usize,
        memory: &mut dyn Memory,
        marker: &mut Marker,
    ) -> Result<(), Stop> {
        let mut copy = [0u8; G_MAX];
        let record = self.gs.get(nth);
        let copy = copy.get_mut(..record.len()).ok_or(Error::Unsupported("size of runtime.g"))?;
        copy.copy_from_slice(record);
        let g = self.wanted.get(nth).map_or(Addr(0), |run| run.at);
        let (seen, stack) = decode(runtime, g, copy)?;
        if seen.role == Role::Dead {
            return Ok(());
        }
        blank(runtime.layout, copy);
        marker.words(copy);
        let mut at = stack.from & !7;
        while at < stack.to {
            let len = (stack.to - at).min(PIECE);
            let bytes = usize::try_from(len).unwrap_or(0);
            if self.used + bytes > STACKS {
                self.flush(memory, marker)?;
            }
            self.runs.push(Run { at: Addr(at), len: bytes });
            self.used += bytes;
            at += len;
        }
        Ok(())
    }

    fn flush(&mut self, memory: &mut dyn Memory, marker: &mut Marker) -> Result<(), Stop> {
        let bytes = self.bytes.get_mut(..self.used).unwrap_or_default();
        let read = memory.read_runs(&self.runs, bytes);
        self.runs.clear();
        self.used = 0;
        read?;
        marker.words(bytes);
        Ok(())
    }
}
