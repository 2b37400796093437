//! Marks what can be reached: a queue of spans rather than of objects, because what a read costs is the pages it
//! touches, and because such a queue cannot overflow (`runtime/mgcmark_greenteagc.go` has the idea). Objects are
//! looked at word by word, whatever their type says: what looks like a pointer is one. So is what stood there before,
//! behind the bytes of an object's type: since Go 1.24 those are not cleared (`mallocgcSmallScanNoHeader` of
//! `runtime/malloc.go`).

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use super::crowd::Crowd;
use super::span::Span;
use super::spans::Spans;
use super::waits::{Watches, is_sudogs};
use super::{Abstained, Stop, held};
use crate::layout::Layout;
use crate::memory::{Addr, Memory, Run, le};

/// Spans whose objects are read in one go, and the bytes that they take at most.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 512 << 10;
/// Spans of so many bytes are read as a whole.
const WHOLE: u64 = 16 << 10;
/// Bytes of a larger object read in one go.
const PIECE: usize = 64 << 10;

/// What was reached, and what is still to be looked at.
pub(super) struct Marker {
    pub(super) spans: Spans,
    pub(super) watches: Watches,
    queue: VecDeque<u32>,
    /// Goroutines of which something was reached that they wait for.
    pub(super) wake: Vec<u32>,
    /// Who still waits, by place among all goroutines.
    waits: Vec<bool>,
    batch: Vec<(u32, Run)>,
    runs: Vec<Run>,
    bytes: Vec<u8>,
    /// Bytes of the heap that were looked at.
    pub(super) scanned: u64,
}

impl Marker {
    pub(super) fn new(layout: &Layout, memory_bytes: usize) -> Marker {
        Marker {
            spans: Spans::new(layout, memory_bytes),
            watches: Watches::new(),
            queue: VecDeque::new(),
            wake: Vec::new(),
            waits: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            runs: Vec::with_capacity(BATCH),
            bytes: vec![0; BATCH_BYTES],
            scanned: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let lists = self.queue.capacity() * size_of::<u32>() + held(&self.wake) + held(&self.waits);
        self.spans.bytes() + self.watches.bytes() + lists + self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.queue.clear();
        self.wake.clear();
        self.scanned = 0;
    }

    /// So many goroutines there are; who of them waits is said by [`Marker::set_waits`].
    pub(super) fn begin(&mut self, goroutines: usize) {
        self.waits.clear();
        self.waits.resize(goroutines, false);
    }

    pub(super) fn set_waits(&mut self, who: usize, waits: bool) {
        if let Some(slot) = self.waits.get_mut(who) {
            *slot = waits;
        }
    }

    pub(super) fn waits(&self, who: usize) -> bool {
        self.waits.get(who).copied().unwrap_or(false)
    }

    /// Counts the object at `at` as reached and looked at: what it holds is looked at elsewhere, or not at all.
    pub(super) fn pass_over(&mut self, at: u64) {
        let Some(span) = self.spans.find(at).and_then(|span| self.spans.get(span)).copied() else { return };
        if let Some(index) = span.index(at) {
            self.spans.mark(&span, index);
            self.spans.scan(&span, index);
        }
    }

    /// Looks at all words of a stretch of memory.
    pub(super) fn words(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks::<8>().0 {
            self.visit(u64::from_le_bytes(*word));
        }
    }

    /// Looks at a word: what it points to is reached.
    pub(super) fn visit(&mut self, word: u64) {
        let Some(number) = self.spans.find(word) else { return };
        let Some(span) = self.spans.get(number).copied() else { return };
        let Some(index) = span.index(word) else { return };
        if span.watched {
            self.watches.woken_by(span.object(index), word, &mut self.wake);
        }
        if self.spans.mark(&span, index) {
            self.enqueue(number);
        }
    }

    fn enqueue(&mut self, number: u32) {
        if let Some(span) = self.spans.get_mut(number)
            && !span.queued
        {
            span.queued = true;
            self.queue.push_back(number);
        }
    }

    /// Takes a span as reached as a whole.
    pub(super) fn visit_all(&mut self, number: u32) {
        if let Some(span) = self.spans.get(number).copied() {
            self.watches.woken_in(span.start, span.bytes, &mut self.wake);
            self.spans.mark_all(&span);
            self.enqueue(number);
        }
    }

    /// Looks at everything that was reached, until there is nothing more.
    pub(super) fn drain(
        &mut self,
        layout: &Layout,
        crowd: &Crowd,
        memory: &mut dyn Memory,
        memory_bytes: usize,
    ) -> Result<(), Stop> {
        while !self.queue.is_empty() {
            if self.bytes() + crowd.bytes() > memory_bytes {
                return Err(Stop::Abstained(Abstained::Memory));
            }
            self.take();
            if let [(number, run)] = self.batch.as_slice()
                && run.len > BATCH_BYTES
            {
                let (number, run) = (*number, *run);
                self.large(number, run, memory)?;
                continue;
            }
            let used = self.runs.iter().map(|run| run.len).sum::<usize>();
            let mut bytes = core::mem::take(&mut self.bytes);
            let read = memory.read_runs(&self.runs, bytes.get_mut(..used).unwrap_or_default());
            let mut from = 0;
            for nth in 0..if read.is_ok() { self.batch.len() } else { 0 } {
                let Some((number, run)) = self.batch.get(nth).copied() else { break };
                self.span(layout, crowd, number, run, bytes.get(from..from + run.len).unwrap_or_default());
                from += run.len;
            }
            self.bytes = bytes;
            read?;
        }
        Ok(())
    }

    /// The next spans of the queue, and which parts of them have to be read.
    fn take(&mut self) {
        self.batch.clear();
        self.runs.clear();
        let mut left = BATCH_BYTES;
        while let Some(number) = self.queue.front().copied().filter(|_| self.batch.len() < BATCH) {
            let run = self.spans.get(number).and_then(|span| {
                let (mut first, mut last) = (self.spans.next(span, 0)?, self.spans.last(span)?);
                // What is reached next may well lie beside it.
                if span.bytes <= WHOLE {
                    (first, last) = (0, span.objects - 1);
                }
                let len = span.object(last) + span.size - span.object(first);
                Some(Run { at: Addr(span.object(first)), len: usize::try_from(len).unwrap_or(usize::MAX) })
            });
            let Some(run) = run else {
                self.queue.pop_front();
                self.spans.get_mut(number).into_iter().for_each(|span| span.queued = false);
                continue;
            };
            if run.len > left && !self.batch.is_empty() {
                return;
            }
            self.queue.pop_front();
            self.batch.push((number, run));
            self.runs.push(run);
            left = left.saturating_sub(run.len);
            if left == 0 {
                return;
            }
        }
    }

    /// Looks at the objects of a span that were reached and have been read.
    fn span(&mut self, layout: &Layout, crowd: &Crowd, number: u32, run: Run, bytes: &[u8]) {
        let Some(span) = self.spans.get(number).copied() else { return };
        let sudogs = is_sudogs(layout, &span);
        let (Some(mut first), Some(size)) = (span.index(run.at.0), usize::try_from(span.size).ok()) else {
            return;
        };
        let begin = first;
        while let Some(index) = self.spans.next(&span, first) {
            let from = usize::try_from(u64::from(index - begin) * span.size).unwrap_or(usize::MAX);
            let Some(object) = from.checked_add(size).and_then(|to| bytes.get(from..to)) else { break };
            self.spans.scan(&span, index);
            self.scanned += span.size;
            if !(sudogs && self.sudog(layout, crowd, object)) {
                self.words(object);
            }
            first = index;
            // What was reached meanwhile may lie before it.
            if self.spans.next(&span, first).is_none() {
                first = begin;
            }
        }
        // What was reached and has not been read stands in line again.
        let open = self.spans.next(&span, 0).is_some();
        if let Some(span) = self.spans.get_mut(number) {
            span.queued = open;
        }
        if open {
            self.queue.push_back(number);
        }
    }

    /// Looks at the sudog of a goroutine that still waits, if it is one: what it waits for, and what it sends or
    /// receives, is not in use because of that. Whether it is one.
    fn sudog(&mut self, layout: &Layout, crowd: &Crowd, object: &[u8]) -> bool {
        let l = &layout.sudog;
        let g = le::u64(object, l.g.into()).unwrap_or(0);
        if !crowd.place(g).is_some_and(|who| self.waits(who)) {
            return false;
        }
        let skipped = [Some(l.elem), l.elem_vp, Some(l.c), l.c_vp];
        for (i, word) in object.as_chunks::<8>().0.iter().enumerate() {
            let at = 8 * i;
            let skip = skipped.iter().flatten().any(|offset| usize::from(*offset) == at);
            if !skip && at < usize::from(l.size) {
                self.visit(u64::from_le_bytes(*word));
            }
        }
        true
    }

    /// Looks at objects that are too large to be read in one go.
    fn large(&mut self, number: u32, run: Run, memory: &mut dyn Memory) -> Result<(), Stop> {
        let Some(span) = self.spans.get(number).copied() else { return Ok(()) };
        let mut bytes = core::mem::take(&mut self.bytes);
        let mut index = span.index(run.at.0);
        while let Some(found) = index {
            self.spans.scan(&span, found);
            self.scanned += span.size;
            let read = self.pieces(&span, found, memory, &mut bytes);
            if read.is_err() {
                self.bytes = bytes;
                return read;
            }
            index = self.spans.next(&span, 0);
        }
        self.bytes = bytes;
        self.spans.get_mut(number).into_iter().for_each(|span| span.queued = false);
        Ok(())
    }

    fn pieces(
        &mut self,
        span: &Span,
        index: u32,
        memory: &mut dyn Memory,
        bytes: &mut [u8],
    ) -> Result<(), Stop> {
        let mut done = 0;
        while done < span.size {
            let len = usize::try_from((span.size - done).min(PIECE as u64)).unwrap_or(0);
            let piece = bytes.get_mut(..len).unwrap_or_default();
            memory.read(Addr(span.object(index).saturating_add(done)), piece)?;
            self.words(piece);
            done += len as u64;
        }
        Ok(())
    }
}
