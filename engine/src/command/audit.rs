//! What came and what became of it, on flash: a ring of a few segments, whose records are linked
//! ([`glg_proto::audit`]).

use alloc::vec;
use alloc::vec::Vec;

use glg_proto::audit::{Event, HEAD_BYTES, Head, LINK_BYTES, Link, Linked, RECORD_MAX, Record};
use glg_proto::command::CommandId;
use glg_proto::wire::Timestamp;

use super::Crypto;
use super::rate::{Rate, Spent};
use crate::flash::{File, Flash, FlashError, Kind};

/// Bytes of one segment at most.
pub const SEGMENT_MAX: usize = 8 << 10;
/// Segments kept.
const SEGMENTS: u32 = 4;
/// Refusals that are written down; others are counted in the record that follows them. Whoever may publish to the topic
/// could fill the ring, and wear out the flash.
const REFUSALS: Rate = Rate { burst: 16, every_ms: 3_600_000 };

/// The ring.
pub struct Audit {
    /// Of the next record.
    index: u64,
    /// Of the last record.
    link: Link,
    /// Segment that is written to.
    segment: u32,
    /// Bytes of it; 0 for one that is not there yet.
    used: usize,
    skipped: u32,
    refusals: Spent,
}

/// What a segment has, as far as its links are good.
struct Read {
    index: u64,
    link: Link,
    /// Bytes, up to the first that is not good.
    good: usize,
    whole: bool,
}

impl Audit {
    /// Goes on where the last agent stopped. What is damaged is left behind: a record says so.
    ///
    /// # Errors
    /// [`FlashError`] when there is no storage.
    pub fn open(flash: &mut dyn Flash, crypto: &dyn Crypto) -> Result<Audit, FlashError> {
        let mut segments: Vec<u32> = Vec::new();
        flash.list(&mut |file, _| {
            if file.kind == Kind::Audit && segments.len() < 64 {
                segments.push(file.number);
            }
        })?;
        segments.sort_unstable();
        let mut audit = Audit {
            index: 0,
            link: [0; LINK_BYTES],
            segment: 0,
            used: 0,
            skipped: 0,
            refusals: Spent::default(),
        };
        let mut buf = vec![0; SEGMENT_MAX];
        // Of the last one that can be read at all.
        for number in segments.iter().rev() {
            audit.segment = audit.segment.max(number.wrapping_add(1));
            // One that cannot be read is as one that is damaged.
            let Ok(len) = flash.read(file(*number), 0, &mut buf) else { continue };
            let Some(read) = buf.get(..len).and_then(|bytes| read(bytes, crypto)) else { continue };
            (audit.index, audit.link) = (read.index, read.link);
            if read.whole && Some(number) == segments.last() {
                (audit.segment, audit.used) = (*number, read.good);
            }
            break;
        }
        Ok(audit)
    }

    /// Writes down what happened; is durable when it returns.
    ///
    /// # Errors
    /// [`FlashError`]: it is not written down.
    pub fn add(
        &mut self,
        flash: &mut dyn Flash,
        crypto: &dyn Crypto,
        (now, boot): (Timestamp, [u8; 8]),
        command: CommandId,
        event: Event,
    ) -> Result<(), FlashError> {
        if matches!(event, Event::Refused(_)) && !self.refusals.may(now.mono_ms, REFUSALS) {
            self.skipped = self.skipped.saturating_add(1);
            return Ok(());
        }
        let record = Record { index: self.index, boot, at: now, command, event, skipped: self.skipped };
        let mut buf = [0; RECORD_MAX];
        let bytes = postcard::to_slice(&record, &mut buf).map_err(|_| FlashError::Io)?;
        let link = crypto.sha256(&[&self.link, bytes]);
        let mut frame = Vec::with_capacity(HEAD_BYTES + 2 + RECORD_MAX + LINK_BYTES);
        if self.used + 2 + bytes.len() + LINK_BYTES > SEGMENT_MAX {
            (self.segment, self.used) = (self.segment.wrapping_add(1), 0);
        }
        if self.used == 0 {
            flash.remove(file(self.segment.wrapping_sub(SEGMENTS)))?;
            frame.extend_from_slice(&Head { index: self.index, link: self.link }.bytes());
        }
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(&link);
        let written = flash.append(file(self.segment), &frame).and_then(|()| flash.sync(file(self.segment)));
        if let Err(error) = written {
            // What is there of it is in the way of what follows: that goes to a new segment. A new one is begun again,
            // else each failure would cost an old one.
            if self.used > 0 || flash.remove(file(self.segment)).is_err() {
                (self.segment, self.used) = (self.segment.wrapping_add(1), 0);
            }
            return Err(error);
        }
        self.used += frame.len();
        (self.index, self.link, self.skipped) = (self.index.wrapping_add(1), link, 0);
        Ok(())
    }

    /// All segments as they are, the oldest first, each with its own head.
    ///
    /// # Errors
    /// [`FlashError`].
    pub fn export(&self, flash: &mut dyn Flash) -> Result<Vec<u8>, FlashError> {
        let mut out = Vec::new();
        let mut buf = vec![0; SEGMENT_MAX];
        for back in (0..SEGMENTS).rev() {
            match flash.read(file(self.segment.wrapping_sub(back)), 0, &mut buf) {
                // Without what cannot be read: the links tell that it is missing.
                Err(_) => {}
                Ok(len) => {
                    let length = u32::try_from(len).unwrap_or(u32::MAX);
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(buf.get(..len).unwrap_or_default());
                }
            }
        }
        Ok(out)
    }
}

fn file(number: u32) -> File {
    File { kind: Kind::Audit, number }
}

/// Follows the links; `None` without a head.
fn read(bytes: &[u8], crypto: &dyn Crypto) -> Option<Read> {
    // No device ever writes so many: such a number is damaged.
    let (head, mut rest) = Head::parse(bytes).filter(|(head, _)| head.index <= u64::MAX / 2)?;
    let mut read = Read { index: head.index, link: head.link, good: HEAD_BYTES, whole: false };
    while let Some((linked, after)) = Linked::parse(rest) {
        let link = crypto.sha256(&[&read.link, linked.bytes]);
        let good = link == *linked.link && linked.record().is_some_and(|record| record.index == read.index);
        if !good {
            return Some(read);
        }
        (read.index, read.link) = (read.index.wrapping_add(1), link);
        read.good += rest.len() - after.len();
        rest = after;
    }
    read.whole = rest.is_empty();
    Some(read)
}
