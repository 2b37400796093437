//! What goroutines refer to: their stacks, from the lowest word in use on, and what their `g`s hold. Of those that stand
//! still only the words that Go itself would look at, of all others every word.

use alloc::vec;
use alloc::vec::Vec;

use super::Stop;
use super::crowd::{Crowd, G_MAX, InUse, Role, Seen, blank, decode};
use super::frames::{Frames, Program, Standing};
use super::mark::Marker;
use super::pass::Subject;
use super::still::{Call, Still};
use crate::gather::Gather;
use crate::layout::STATUS_SCAN;
use crate::memory::{Addr, Error, Run, le};
use crate::runtime::Runtime;
use crate::stack::{Copied, Start};
use crate::traces::{read_again, read_still, scheduled};

/// `g`s read in one go.
const BATCH: usize = 64;
/// Bytes of stacks read in one go.
const STACKS: usize = 256 << 10;
/// Bytes of one stack read in one go.
const PIECE: u64 = 64 << 10;

/// Waits that leave no trace in `trackingSeq`: of who switches to a coroutine and back (`coroswitch_m` of
/// `runtime/coro.go`), and of whom the collector has stopped to look at (`casGToPreemptScan` and `casGFromPreempted` of
/// `runtime/proc.go`).
const TRACELESS: [&str; 2] = ["coroutine", "preempted"];

/// What is known of all goroutines.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) crowd: &'a Crowd,
    pub(super) still: &'a Still,
}

/// Reads goroutines.
pub(super) struct Stacks {
    gs: Gather,
    wanted: Vec<Run>,
    runs: Vec<Run>,
    /// Of each run, if it is the whole stack of somebody who stands still.
    standing: Vec<Option<Standing>>,
    bytes: Vec<u8>,
    used: usize,
    frames: Frames,
    /// Stacks since [`Stacks::clear`], and those among them of which it was known what is in use.
    pub(super) looked_at: u64,
    pub(super) mapped: u64,
}

impl Stacks {
    pub(super) fn new() -> Stacks {
        Stacks {
            gs: Gather::new(BATCH, 2 * BATCH * G_MAX),
            wanted: Vec::with_capacity(BATCH),
            runs: Vec::new(),
            standing: Vec::new(),
            bytes: vec![0; STACKS],
            used: 0,
            frames: Frames::default(),
            looked_at: 0,
            mapped: 0,
        }
    }

    /// Before a pass.
    pub(super) fn clear(&mut self) {
        (self.looked_at, self.mapped) = (0, 0);
    }

    /// Bytes that one takes.
    pub(super) const BYTES: usize = STACKS + Gather::bytes(BATCH, 2 * BATCH * G_MAX) + Frames::BYTES;

    /// Looks at all that these goroutines refer to.
    pub(super) fn scan(
        &mut self,
        subject: &mut Subject<'_>,
        known: Known<'_>,
        gs: impl Iterator<Item = Addr>,
        marker: &mut Marker,
    ) -> Result<(), Stop> {
        let len = usize::from(subject.runtime.layout.g.size);
        let mut gs = gs.peekable();
        while gs.peek().is_some() {
            self.wanted.clear();
            self.wanted.extend(gs.by_ref().take(BATCH).map(|at| Run { at, len }));
            self.gs.read(subject.memory, &self.wanted)?;
            for nth in 0..self.wanted.len() {
                self.one(subject, known, nth, marker)?;
            }
        }
        self.flush(subject, marker)
    }

    fn one(
        &mut self,
        subject: &mut Subject<'_>,
        known: Known<'_>,
        nth: usize,
        marker: &mut Marker,
    ) -> Result<(), Stop> {
        let mut copy = [0u8; G_MAX];
        let record = self.gs.get(nth);
        let copy = copy.get_mut(..record.len()).ok_or(Error::Unsupported("size of runtime.g"))?;
        copy.copy_from_slice(record);
        let g = self.wanted.get(nth).map_or(Addr(0), |run| run.at);
        let (seen, stack) = decode(subject.runtime, g, copy)?;
        if seen.role == Role::Dead {
            return Ok(());
        }
        self.looked_at += 1;
        let whole = stack.to.saturating_sub(stack.from) <= PIECE && subject.places.frames.is_some();
        let start = if whole { known.start(subject.runtime, &seen, copy)? } else { None };
        blank(subject.runtime.layout, copy);
        marker.words(copy);
        let call = known.still.call(g).filter(|_| whole);
        let called_at = call.and_then(|call| call.stands.0.start());
        let standing = match start.or(called_at) {
            Some(start) => standing(subject.runtime, start, stack, copy)?,
            None => None,
        };
        if let (Some(call), Some(standing)) = (call, standing)
            && self.in_call(subject, call, standing, stack, marker)?
        {
            self.mapped += 1;
            return Ok(());
        }
        let mut at = stack.from & !7;
        while at < stack.to {
            let len = (stack.to - at).min(PIECE);
            let bytes = usize::try_from(len).unwrap_or(0);
            if self.used + bytes > STACKS {
                self.flush(subject, marker)?;
            }
            self.runs.push(Run { at: Addr(at), len: bytes });
            self.standing.push(standing.filter(|_| call.is_none()));
            self.used += bytes;
            at += len;
        }
        Ok(())
    }

    fn flush(&mut self, subject: &mut Subject<'_>, marker: &mut Marker) -> Result<(), Stop> {
        let bytes = self.bytes.get_mut(..self.used).unwrap_or_default();
        let read = subject.memory.read_runs(&self.runs, bytes);
        self.used = 0;
        let (mut runs, mut rest) = (self.runs.drain(..), &*bytes);
        let mut standing = self.standing.drain(..);
        read?;
        for run in runs.by_ref() {
            let (stack, later) = rest.split_at_checked(run.len).unwrap_or_default();
            rest = later;
            let copied = Copied { at: run.at, bytes: stack };
            let known = match standing.next().flatten() {
                Some(standing) => in_use(&mut self.frames, subject, standing, copied, marker)?,
                None => false,
            };
            if known {
                self.mapped += 1;
            } else {
                marker.words(stack);
            }
        }
        Ok(())
    }

    /// Looks at the stack of a goroutine in a call that it was in before; `false` when it has left that.
    fn in_call(
        &mut self,
        subject: &mut Subject<'_>,
        call: &Call,
        standing: Standing,
        stack: InUse,
        marker: &mut Marker,
    ) -> Result<bool, Stop> {
        let (layout, start) = (subject.runtime.layout, standing.start);
        let len = usize::try_from(stack.to.saturating_sub(start.sp.0)).unwrap_or(usize::MAX);
        if len as u64 > PIECE || read_still(subject.memory, layout, call.g)? != Some(call.stands) {
            return Ok(false);
        }
        self.flush(subject, marker)?;
        let mut bytes = core::mem::take(&mut self.bytes);
        let copy = bytes.get_mut(..len).unwrap_or_default();
        let read = subject.memory.read(start.sp, copy);
        let copied = Copied { at: start.sp, bytes: copy };
        let done = read.and_then(|()| {
            let still = read_again(subject.memory, layout, call.g, &call.stands)?;
            Ok(still.is_some_and(|(_, still)| still)
                && in_use(&mut self.frames, subject, standing, copied, marker)?)
        });
        self.bytes = bytes;
        Ok(done?)
    }
}

/// Looks at the words of a whole stack that are in use; `false` where not all of them are known.
fn in_use(
    frames: &mut Frames,
    subject: &mut Subject<'_>,
    standing: Standing,
    stack: Copied<'_>,
    marker: &mut Marker,
) -> Result<bool, Error> {
    let Some(trees) = subject.places.frames else { return Ok(false) };
    let (memory, image) = (&mut *subject.memory, &mut *subject.image);
    let program = &mut Program { runtime: subject.runtime, memory, image, trees };
    frames.in_use(program, standing, stack, &mut |words| marker.words(words))
}

impl Known<'_> {
    /// Where a goroutine stands if it has been parked since the look before, by its record.
    fn start(self, runtime: &Runtime, seen: &Seen, record: &[u8]) -> Result<Option<Start>, Error> {
        let l = &runtime.layout.g;
        let who = self.crowd.place(seen.g.0).filter(|who| self.still.is_parked(*who));
        let same =
            who.and_then(|who| self.crowd.all.get(who)).is_some_and(|before| seen.is_parked_as(before));
        // The collector looks at it, and may be moving its stack.
        let moves = le::u32(record, l.atomicstatus.into())? & STATUS_SCAN != 0;
        if !same || moves || le::u64(record, l.syscallsp.into())? != 0 {
            return Ok(None);
        }
        let reason = usize::from(le::u8(record, l.waitreason.into())?);
        let traceless = runtime.layout.wait_texts.get(reason).is_none_or(|text| TRACELESS.contains(text));
        Ok(if traceless { None } else { scheduled(runtime.layout, record) })
    }
}

/// What a `g` says of the stack of its goroutine; `None` where it leads there in too many ways.
fn standing(runtime: &Runtime, start: Start, stack: InUse, record: &[u8]) -> Result<Option<Standing>, Error> {
    let deferred = Addr(le::u64(record, runtime.layout.g.defers.into())?);
    let mut leads_to = [Addr(0); 4];
    let mut free = leads_to.iter_mut();
    for word in record.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)) {
        if (stack.from..stack.to).contains(&word) {
            match free.next() {
                Some(place) => *place = Addr(word),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(Standing { start, deferred, leads_to }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Arch, layout_for};

    #[test]
    fn waits_that_leave_no_trace_are_known_where_there_are_any() {
        for arch in [Arch::Amd64, Arch::Arm64] {
            for minor in 19..=27 {
                let Some(layout) = layout_for(minor, arch) else { continue };
                let has = TRACELESS.map(|text| layout.wait_texts.contains(&text));
                assert_eq!(has, [minor >= 22, true], "Go {}", layout.go);
            }
        }
    }
}
