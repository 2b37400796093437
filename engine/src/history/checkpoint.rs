//! The history on flash: for each target what its coarser rings hold, so that a leak that takes days to show is
//! seen although the agent was replaced meanwhile. Only within one boot: times are those of its clock.
//!
//! A checkpoint is a new file of frames; the one before is removed once the new one is whole.
//!
//! ```text
//! 0  mark      2 bytes, C7 02; the second is the version of this format
//! 2  checksum  CRC-32 of everything behind it
//! 6  length    of what follows, 2 bytes
//! 8  what it is, 1 byte, and its fields as varints:
//!    0 begin   boot id, 8 bytes
//!    1 target  pid, start, level of its last alert, second of that; both 0 for none
//!    2 steps   of a ring (1 middle, 2 coarse; 128 more for the step that is still open), then samples
//!    3 end
//! ```
//! A sample begins with a byte that says what is as expected, and is left out: 1 the second is one step after
//! the last sample's, 2 the smallest count is the same, 4 the largest count is the smallest, 8 nobody waited, 16 the
//! memory is the same.

use alloc::vec::Vec;

use super::{History, Ring, Sample, Waits};
use crate::crc;
use crate::flash::{File, Flash as _, Kind};
use crate::spool::budget::Share;
use crate::spool::codec::{Reader, put_varint};
use crate::spool::store::{Store, StoreError};
use crate::step::TargetId;

const MARK: [u8; 2] = [0xc7, 2];
/// Bytes before the length: the checksum is of everything behind them.
const SUMMED: usize = 6;
const HEAD: usize = 8;
/// Bytes of a frame at most.
const FRAME_MAX: usize = 1024;
/// Bytes of a sample at most: its first byte, four counts and two short ones.
const SAMPLE_MAX: usize = 1 + 4 * 5 + 2 * 3;
const BEGIN: u8 = 0;
const TARGET: u8 = 1;
const STEPS: u8 = 2;
const END: u8 = 3;
const OPEN: u8 = 128;

/// The alert that was raised last: when, and at how many goroutines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Second, in the engine's clock.
    pub at_s: u32,
    /// Goroutines.
    pub level: u32,
}

/// Writes a checkpoint, frame by frame.
pub struct Writer<'s> {
    store: &'s mut Store,
    file: File,
    len: u32,
    frame: Vec<u8>,
    share: Share,
    result: Result<(), StoreError>,
}

impl<'s> Writer<'s> {
    /// Begins a file.
    pub fn new(store: &'s mut Store, number: u32, boot: [u8; 8], share: Share) -> Writer<'s> {
        let file = File { kind: Kind::History, number };
        let frame = Vec::with_capacity(FRAME_MAX);
        let mut writer = Writer { store, file, len: 0, frame, share, result: Ok(()) };
        writer.begin(BEGIN);
        writer.frame.extend_from_slice(&boot);
        writer.end();
        writer
    }

    fn begin(&mut self, what: u8) {
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEAD]);
        self.frame.push(what);
    }

    fn end(&mut self) {
        let len = u16::try_from(self.frame.len() - HEAD).unwrap_or(0).to_le_bytes();
        self.frame.iter_mut().skip(SUMMED).zip(len).for_each(|(to, byte)| *to = byte);
        let sum = crc::of(self.frame.get(SUMMED..).unwrap_or_default()).to_le_bytes();
        self.frame.iter_mut().zip(MARK.into_iter().chain(sum)).for_each(|(to, byte)| *to = byte);
        if self.result.is_err() {
            return;
        }
        let len = self.len.saturating_add(u32::try_from(self.frame.len()).unwrap_or(0));
        let cost = Store::append_cost(0, usize::try_from(len).unwrap_or(usize::MAX));
        self.result = Err(StoreError::Budget);
        if self.store.allows(cost, self.share) {
            self.len = len;
            self.result = self.store.append(self.file, &self.frame).map_err(StoreError::Flash);
        }
    }

    /// Adds a target.
    pub fn target(&mut self, id: TargetId, told: Option<Told>, history: &History) {
        let Told { at_s, level } = told.unwrap_or(Told { at_s: 0, level: 0 });
        self.begin(TARGET);
        for field in [u64::from(id.pid), id.start, u64::from(level), u64::from(at_s)] {
            put_varint(&mut self.frame, field);
        }
        self.end();
        for (which, ring) in [(1, &history.middle), (2, &history.coarse)] {
            self.ring(which, ring.step_s, ring.iter());
            self.ring(which | OPEN, ring.step_s, ring.open.into_iter());
        }
    }

    fn ring(&mut self, which: u8, step_s: u32, samples: impl Iterator<Item = Sample>) {
        let mut last = None;
        for sample in samples {
            if last.is_some() && self.frame.len() + SAMPLE_MAX > FRAME_MAX {
                self.end();
                last = None;
            }
            if last.is_none() {
                self.begin(STEPS);
                self.frame.push(which);
            }
            put_sample(&mut self.frame, step_s, last.unwrap_or(NOTHING), sample);
            last = Some(sample);
        }
        if last.is_some() {
            self.end();
        }
    }

    /// Ends the file; its length once it is durable. One that failed is taken away again.
    ///
    /// # Errors
    /// When flash or its budget did not take it.
    pub fn finish(mut self) -> Result<u32, StoreError> {
        self.begin(END);
        self.end();
        let result = self.result.and_then(|()| self.store.finish(self.file, self.len, self.share));
        if result.is_err() && self.len > 0 {
            let _ = self.store.remove(self.file);
        }
        result.map(|()| self.len)
    }
}

/// What the first sample of a frame is compared with.
const NOTHING: Sample =
    Sample { at_s: 0, min: 0, max: 0, waits: Waits { threads: 0, longest_s: 0 }, resident_kib: 0 };

fn put_sample(out: &mut Vec<u8>, step_s: u32, last: Sample, sample: Sample) {
    let next = sample.at_s.wrapping_sub(last.at_s) == step_s;
    let (same, flat) = (sample.min == last.min, sample.max == sample.min);
    let calm = sample.waits == Waits::default();
    let still = sample.resident_kib == last.resident_kib;
    let expected = [next, same, flat, calm, still].into_iter().zip([1, 2, 4, 8, 16]);
    out.push(expected.map(|(is, bit)| u8::from(is) * bit).sum());
    let mut put = |needed: bool, value: u32| {
        if needed {
            put_varint(out, u64::from(value));
        }
    };
    put(!next, sample.at_s.wrapping_sub(last.at_s));
    put(!same, change(last.min, sample.min));
    put(!flat, sample.max.wrapping_sub(sample.min));
    put(!calm, u32::from(sample.waits.threads));
    put(!calm, u32::from(sample.waits.longest_s));
    put(!still, change(last.resident_kib, sample.resident_kib));
}

/// A change in either direction is a small number: its lowest bit is its sign.
fn change(from: u32, to: u32) -> u32 {
    let change = to.wrapping_sub(from).cast_signed();
    (change << 1 ^ change >> 31).cast_unsigned()
}

/// The other way round.
fn changed(from: u32, change: u32) -> u32 {
    from.wrapping_add(change >> 1 ^ 0u32.wrapping_sub(change & 1))
}

fn sample(r: &mut Reader<'_>, step_s: u32, last: Sample) -> Option<Sample> {
    let expected = r.byte().filter(|byte| *byte < 32)?;
    let mut get = |bit: u8, otherwise: u32| if expected & bit != 0 { Some(otherwise) } else { r.small() };
    let at_s = last.at_s.checked_add(get(1, step_s)?)?;
    let min = changed(last.min, get(2, 0)?);
    let max = min.checked_add(get(4, 0)?)?;
    let threads = u16::try_from(get(8, 0)?).ok()?;
    let longest_s = u16::try_from(get(8, 0)?).ok()?;
    let resident_kib = changed(last.resident_kib, get(16, 0)?);
    Some(Sample { at_s, min, max, waits: Waits { threads, longest_s }, resident_kib })
}

/// A frame of a file: its bytes from what it is on, and where the next one begins.
fn frame<'b>(
    store: &mut Store,
    file: File,
    at: u32,
    buf: &'b mut [u8; FRAME_MAX],
) -> Option<(&'b [u8], u32)> {
    let read = store.read(file, u64::from(at), buf).ok()?;
    let bytes = buf.get(..read)?;
    let mut head = Reader(bytes);
    if head.array() != Some(MARK) {
        return None;
    }
    let sum = head.word()?;
    let len = usize::from(head.array().map(u16::from_le_bytes)?);
    let body = head.bytes(len)?;
    let whole = crc::of(bytes.get(SUMMED..HEAD + len)?) == sum;
    whole.then_some((body, at.checked_add(u32::try_from(HEAD + len).ok()?)?))
}

/// What an earlier agent remembered.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Number of the file, if there is a whole one of this boot.
    number: Option<u32>,
    /// Numbers below this may be taken.
    next: u32,
    /// Targets, and where they stand in it.
    targets: Vec<(TargetId, u32)>,
}

impl Checkpoint {
    /// Bytes it takes for so many targets, and a frame while one is written or read.
    #[must_use]
    pub fn bytes(targets: usize) -> usize {
        targets.saturating_mul(size_of::<(TargetId, u32)>()).saturating_add(FRAME_MAX)
    }

    /// Looks for the newest whole checkpoint of this boot, and in it for so many targets at most.
    #[must_use]
    pub fn find(store: &mut Store, boot: [u8; 8], max_targets: usize) -> Checkpoint {
        let mut newest: heapless::Vec<u32, 4> = heapless::Vec::new();
        let mut next = 0u32;
        let listed = store.list(&mut |file, _| {
            if file.kind == Kind::History {
                next = next.max(file.number.saturating_add(1));
                if newest.is_full() {
                    let oldest = newest.iter().copied().min();
                    newest.retain(|number| Some(*number) != oldest);
                }
                let _ = newest.push(file.number);
            }
        });
        let mut found = Checkpoint { next, targets: Vec::with_capacity(max_targets), number: None };
        if listed.is_err() {
            return found;
        }
        newest.sort_unstable();
        while let Some(number) = newest.pop() {
            if found.read(store, number, boot).is_some() {
                found.number = Some(number);
                return found;
            }
        }
        found.targets.clear();
        found
    }

    fn read(&mut self, store: &mut Store, number: u32, boot: [u8; 8]) -> Option<()> {
        self.targets.clear();
        let file = File { kind: Kind::History, number };
        let mut buf = [0; FRAME_MAX];
        let (begin, mut at) = frame(store, file, 0, &mut buf)?;
        if begin.split_first() != Some((&BEGIN, &boot[..])) {
            return None;
        }
        loop {
            let (body, next) = frame(store, file, at, &mut buf)?;
            match body.split_first()? {
                (&TARGET, fields) if self.targets.len() < self.targets.capacity() => {
                    self.targets.push((target(fields)?.0, at));
                }
                (&END, _) => return Some(()),
                _ => {}
            }
            at = next;
        }
    }

    /// Targets that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Fills the rings of a target that is found again; what it was said last. What is damaged, or lies in the
    /// future, is left out.
    pub fn recall(&self, store: &mut Store, id: TargetId, now_s: u32, history: &mut History) -> Option<Told> {
        let (_, at) = *self.targets.iter().find(|(other, _)| *other == id)?;
        let file = File { kind: Kind::History, number: self.number? };
        let mut buf = [0; FRAME_MAX];
        let (body, mut at) = frame(store, file, at, &mut buf)?;
        let told = target(body.get(1..)?)?.1;
        while let Some((body, next)) = frame(store, file, at, &mut buf) {
            let Some((&STEPS, [which, samples @ ..])) = body.split_first() else { break };
            let ring = match which & !OPEN {
                1 => Some(&mut history.middle),
                2 => Some(&mut history.coarse),
                _ => None,
            };
            if let Some(ring) = ring {
                restore(ring, samples, which & OPEN != 0, now_s);
            }
            at = next;
        }
        told.filter(|told| told.at_s <= now_s)
    }

    /// Writes another checkpoint of `targets` and removes the one before; its length.
    ///
    /// # Errors
    /// When flash or its budget did not take it: the one before is still there.
    pub fn replace<'h>(
        &mut self,
        store: &mut Store,
        boot: [u8; 8],
        targets: impl Iterator<Item = (TargetId, Option<Told>, &'h History)>,
        share: Share,
    ) -> Result<u32, StoreError> {
        let number = self.next;
        self.next = number.saturating_add(1);
        let mut writer = Writer::new(store, number, boot, share);
        targets.for_each(|(id, told, history)| writer.target(id, told, history));
        let len = writer.finish()?;
        let mut others: heapless::Vec<File, 8> = heapless::Vec::new();
        let _ = store.list(&mut |file, _| {
            if file.kind == Kind::History && file.number != number {
                let _ = others.push(file);
            }
        });
        for file in others {
            store.remove(file)?;
        }
        // Who was not found again until now never will be.
        self.number = Some(number);
        self.targets.clear();
        Ok(len)
    }
}

fn target(fields: &[u8]) -> Option<(TargetId, Option<Told>)> {
    let mut r = Reader(fields);
    let id = TargetId { pid: r.small()?, start: r.varint()? };
    let (level, at_s) = (r.small()?, r.small()?);
    Some((id, (level > 0).then_some(Told { at_s, level })))
}

fn restore(ring: &mut Ring, samples: &[u8], open: bool, now_s: u32) {
    let (mut r, mut last) = (Reader(samples), NOTHING);
    while let Some(sample) = sample(&mut r, ring.step_s, last).filter(|sample| sample.at_s <= now_s) {
        if !ring.restore(sample, open) {
            return;
        }
        last = sample;
    }
}
