//! Writing: messages into segments, and into the ledger what has become of them.

use glg_proto::wire::{ALERT_MAX, Class, Timestamp};

use super::index::{Entry, Place, SEGMENT_MAX, SEGMENT_MIN, Segment};
use super::{Kept, Outbox, Target};
use crate::flash::{Flash as _, FlashError};
use crate::spool::budget::{PAGE, Share};
use crate::spool::ledger;
use crate::spool::record::{RECORD_MAX, Record};
use crate::spool::store::{Store, StoreError};

/// Acknowledgements are written down this long after the last time, in milliseconds: a message may come again
/// after a power cut if it was acknowledged since.
const FLUSH_MS: u64 = 600_000;
/// Or when there are so many.
const UNWRITTEN_MAX: u32 = 64;
/// How often it is looked what has become too old, and whether flash can be written again, in milliseconds.
const TEND_MS: u64 = 60_000;

/// How much of the flash budget messages of a class may use up.
pub(super) fn share_of(class: Class) -> Share {
    match class {
        Class::Routine => Share::Routine,
        Class::Warning => Share::Most,
        Class::Critical => Share::All,
    }
}

/// A message could not be written; this segment, if there is one, may hold it all the same.
#[derive(Clone, Copy, Debug)]
struct Half(Option<u32>);

impl Half {
    /// What that segment may hold is done with, or it would come again after a restart.
    fn done(self, entry: &Entry) -> Option<Entry> {
        let place = Place::Flash { segment: self.0?, at: u32::MAX };
        Some(Entry { place, done: true, ..*entry })
    }
}

impl Outbox {
    /// Puts a message where there is room for it; if flash does not take it, into memory.
    pub(super) fn keep(&mut self, mut target: Target, mut entry: Entry, message: &[u8]) -> Kept {
        if target == Target::Flash {
            match self.write(entry.order, entry.class, message) {
                Ok(place) => {
                    self.index.push(Entry { place, ..entry });
                    return Kept::OnFlash;
                }
                Err(half) => {
                    self.index.extend(half.done(&entry));
                    entry.order = self.take_order();
                    target = self.room_in_memory(entry.class);
                }
            }
        }
        let Target::Memory(number) = target else { return Kept::Nowhere };
        let (Some(slot), Ok(place)) = (self.slots.get_mut(number), u16::try_from(number)) else {
            return Kept::Nowhere;
        };
        slot.used = true;
        slot.bytes.iter_mut().zip(message).for_each(|(to, byte)| *to = *byte);
        self.index.push(Entry { place: Place::Memory { slot: place }, ..entry });
        Kept::InMemory
    }

    /// The segment that messages of a class are added to.
    pub(super) fn open_segment(&self, class: Class) -> Option<usize> {
        let room = u32::try_from(RECORD_MAX).unwrap_or(u32::MAX);
        let limit = self.config.segment_bytes.clamp(SEGMENT_MIN, SEGMENT_MAX);
        self.segments.iter().position(|segment| {
            segment.class == class && !segment.closed && segment.size.saturating_add(room) <= limit
        })
    }

    /// Nothing is added to a segment any more.
    pub(super) fn close(&mut self, segment: &Segment) {
        let same = |other: &&mut Segment| (other.class, other.number) == (segment.class, segment.number);
        if let Some(segment) = self.segments.iter_mut().find(same) {
            segment.closed = true;
        }
    }

    /// Writes a message down durably; where it is then.
    fn write(&mut self, order: u32, class: Class, message: &[u8]) -> Result<Place, Half> {
        let position = match self.open_segment(class) {
            Some(position) => position,
            None => {
                let same = self.segments.iter_mut().filter(|segment| segment.class == class);
                same.for_each(|segment| segment.closed = true);
                // These rise for ever, so no number comes twice.
                let number = self.take_order();
                self.segments.push(Segment { class, number, size: 0, closed: false, unread: false });
                self.segments.len() - 1
            }
        };
        let nowhere = Half(None);
        let segment = self.segments.get_mut(position).ok_or(nowhere)?;
        let at = segment.size;
        let mut buffer = [0; RECORD_MAX];
        let cost = Store::append_cost(at, message.len());
        let record = Record { order, stamp: self.store.stamp_after(cost), message };
        let bytes = record.encode(&mut buffer).ok_or(nowhere)?;
        let written = self.store.add(segment.file(), at, bytes, share_of(class));
        segment.size = at.saturating_add(u32::try_from(bytes.len()).unwrap_or(0));
        match written {
            Ok(()) => Ok(Place::Flash { segment: segment.number, at }),
            // Nothing was done.
            Err(StoreError::Budget | StoreError::Flash(FlashError::Unavailable)) => {
                segment.size = at;
                if at == 0 {
                    self.segments.remove(position);
                }
                Err(nowhere)
            }
            // What is at its end now nobody knows.
            Err(StoreError::Flash(_)) => {
                segment.closed = true;
                Err(Half(Some(segment.number)))
            }
        }
    }

    /// Writes the ledger, and removes what it then accounts for. `false` if it could not be written.
    pub fn flush(&mut self, share: Share) -> bool {
        // The file's pages are not known yet: one, as a rule.
        self.ledger.stamp = self.store.stamp_after(3 * PAGE);
        let done = self.index.iter().filter(|entry| entry.done && !entry.in_memory());
        self.ledger.encode(done.map(|entry| entry.order), &mut self.page);
        if self.store.put(ledger::FILE, &self.page, share).is_err() {
            return false;
        }
        (self.unwritten, self.urgent, self.flushed_ms) = (0, false, self.now.mono_ms);
        self.remove_done();
        true
    }

    fn removable(&self, segment: &Segment) -> bool {
        segment.closed
            && !segment.unread
            && !self.index.iter().any(|entry| entry.is_in(segment) && !entry.done)
    }

    /// Whether there is a segment that nothing waits in.
    pub(super) fn has_removable(&self) -> bool {
        self.segments.iter().any(|segment| self.removable(segment))
    }

    fn remove_done(&mut self) {
        let mut position = 0;
        while let Some(segment) = self.segments.get(position).copied() {
            if self.removable(&segment) && self.store.remove(segment.file()).is_ok() {
                self.segments.remove(position);
                self.index.retain(|entry| !entry.is_in(&segment));
            } else {
                position += 1;
            }
        }
    }

    /// To be called now and then: writes down acknowledgements, gives up what is too old, and writes what is
    /// in memory once flash can be written again.
    pub fn tick(&mut self, now: Timestamp) {
        self.at(now);
        let now_ms = self.now.mono_ms;
        if now_ms.saturating_sub(self.tended_ms) < TEND_MS {
            return;
        }
        self.tended_ms = now_ms;
        self.expire();
        self.promote();
        let due = self.urgent && now_ms.saturating_sub(self.flushed_ms) >= FLUSH_MS;
        if due || self.unwritten >= UNWRITTEN_MAX || self.has_removable() {
            self.flush(Share::Routine);
        }
    }

    /// Writes down what is in memory alone, as far as there is room and budget.
    fn promote(&mut self) {
        let orders =
            self.index.iter().filter(|entry| entry.in_memory() && Some(entry.order) != self.in_flight);
        let mut next = orders.map(|entry| (entry.order, entry.class)).next();
        while let Some((order, class)) = next {
            let affordable = self.store.allows(Store::append_cost(0, RECORD_MAX), share_of(class));
            if affordable && self.fits(class) && !self.promote_one(order) {
                return;
            }
            let in_flight = self.in_flight;
            let later =
                |entry: &&Entry| entry.in_memory() && entry.order > order && Some(entry.order) != in_flight;
            next = self.index.iter().find(later).map(|entry| (entry.order, entry.class));
        }
    }

    fn promote_one(&mut self, order: u32) -> bool {
        let Some(position) = self.position(order) else { return false };
        let Some(entry) = self.index.get(position).copied() else { return false };
        let mut message = [0; ALERT_MAX];
        let loaded = self.load(&entry, &mut message).and_then(|()| message.get(..usize::from(entry.len)));
        let Some(written) = loaded.map(|bytes| self.write(order, entry.class, bytes)) else { return false };
        match written {
            Ok(place) => {
                self.set(position, Entry { place, ..entry });
                if let Place::Memory { slot } = entry.place
                    && let Some(slot) = self.slots.get_mut(usize::from(slot))
                {
                    slot.used = false;
                }
            }
            Err(half) => {
                if let Some(done) = half.done(&entry) {
                    self.set(position, done);
                    let order = self.take_order();
                    self.index.push(Entry { order, ..entry });
                }
            }
        }
        written.is_ok()
    }

    fn set(&mut self, position: usize, entry: Entry) {
        if let Some(old) = self.index.get_mut(position) {
            *old = entry;
        }
    }

    /// Bytes that all segments take.
    pub(super) fn spool_bytes(&self) -> u32 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.size))
    }

    /// Why messages are kept in memory alone, if they are.
    pub(super) fn memory_only(&self) -> Option<StoreError> {
        let affordable = self.store.allows(Store::append_cost(0, RECORD_MAX), Share::Most);
        match self.store.last() {
            Err(error @ StoreError::Flash(_)) => Some(error),
            _ if self.config.messages == 0 => Some(StoreError::Flash(FlashError::Unavailable)),
            _ => (!affordable).then_some(StoreError::Budget),
        }
    }
}
