//! What the outbox knows of each message without reading it again.

use glg_proto::wire::{ALERT_MAX, Class, Losses, MessageId, decode};

use super::Outbox;
use crate::flash::{File, Flash as _};
use crate::spool::kind_of;
use crate::spool::ledger;
use crate::spool::record::{self, HEAD, RECORD_MAX};

/// Segments at most, of all classes together.
pub(super) const SEGMENTS_MAX: usize = 96;
/// A segment has room for some messages at least, in bytes.
pub(super) const SEGMENT_MIN: u32 = 1024;
/// Nor is one larger than this, in bytes: it is read as a whole when the agent starts.
pub(super) const SEGMENT_MAX: u32 = 32 * 1024;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the segment of its class with this number, from this byte on.
    Flash { segment: u32, at: u32 },
    /// In this slot.
    Memory { slot: u16 },
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) order: u32,
    pub(super) place: Place,
    /// Bytes of the encoded envelope.
    pub(super) len: u16,
    pub(super) class: Class,
    /// Whether it tells the agent's own health.
    pub(super) heartbeat: bool,
    /// It is acknowledged or given up, and only still there because its segment is.
    pub(super) done: bool,
    /// It was handed out once.
    pub(super) sent: bool,
    /// When it was said, by this boot's clock: below zero before that.
    pub(super) born_ms: i64,
    pub(super) id: MessageId,
}

impl Entry {
    pub(super) fn is_in(&self, segment: &Segment) -> bool {
        self.class == segment.class
            && matches!(self.place, Place::Flash { segment: number, .. } if number == segment.number)
    }

    pub(super) fn in_memory(&self) -> bool {
        matches!(self.place, Place::Memory { .. })
    }
}

/// A file with messages of one class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) class: Class,
    pub(super) number: u32,
    /// Bytes.
    pub(super) size: u32,
    /// Nothing is added any more.
    pub(super) closed: bool,
    /// It could not be read, so it is not to be removed.
    pub(super) unread: bool,
}

impl Segment {
    pub(super) fn file(&self) -> File {
        File { kind: kind_of(self.class), number: self.number }
    }
}

/// Room for a message in memory.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) used: bool,
    pub(super) bytes: [u8; ALERT_MAX],
}

/// For differences of times.
pub(super) fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 2)
}

impl Outbox {
    /// Bytes that an outbox for so many messages takes.
    #[must_use]
    pub fn bytes(config: &super::OutboxConfig) -> usize {
        let (messages, slots) = (config.messages, config.in_memory.max(1));
        (messages + slots) * size_of::<Entry>()
            + slots * size_of::<Slot>()
            + SEGMENTS_MAX * size_of::<Segment>()
            + ledger::bytes_max(messages)
            + size_of::<Outbox>()
    }

    pub(super) fn position(&self, order: u32) -> Option<usize> {
        self.index.binary_search_by_key(&order, |entry| entry.order).ok()
    }

    /// Its bytes; nothing if they are damaged or cannot be read.
    pub(super) fn load(&mut self, entry: &Entry, into: &mut [u8; ALERT_MAX]) -> Option<()> {
        let len = usize::from(entry.len);
        match entry.place {
            Place::Memory { slot } => {
                *into = self.slots.get(usize::from(slot))?.bytes;
            }
            Place::Flash { segment, at } => {
                let mut buffer = [0; RECORD_MAX];
                let room = buffer.get_mut(..HEAD + len)?;
                let file = File { kind: kind_of(entry.class), number: segment };
                let read = self.store.read(file, u64::from(at), room).ok()?;
                let record = record::decode(room.get(..read)?)?;
                let same = record.order == entry.order && record.message.len() == len;
                into.get_mut(..len).filter(|_| same)?.copy_from_slice(record.message);
            }
        }
        Some(())
    }

    /// The losses that a message tells.
    pub(super) fn losses_in(&mut self, entry: &Entry) -> Losses {
        let mut message = [0; ALERT_MAX];
        let loaded = self.load(entry, &mut message).and_then(|()| message.get(..usize::from(entry.len)));
        loaded.and_then(|bytes| decode(bytes).ok()).map(|envelope| envelope.losses).unwrap_or_default()
    }

    /// A message is done with.
    pub(super) fn retire(&mut self, position: usize) {
        let Some(entry) = self.index.get_mut(position) else { return };
        let class = entry.class;
        match entry.place {
            Place::Flash { .. } => {
                entry.done = true;
                self.note_unwritten(class);
            }
            Place::Memory { slot } => {
                self.index.remove(position);
                if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
                    slot.used = false;
                }
            }
        }
    }

    /// Messages on flash, and those that are done with and still there.
    pub(super) fn on_flash(&self) -> usize {
        self.index.iter().filter(|entry| !entry.in_memory()).count()
    }

    pub(super) fn note_unwritten(&mut self, class: Class) {
        self.unwritten = self.unwritten.saturating_add(1);
        self.urgent |= class > Class::Routine;
    }

    /// The agent's own health as it was told last, if nobody has heard it yet: what it is called, and what
    /// losses it tells.
    pub(super) fn unsent_heartbeat(&mut self) -> Option<(MessageId, Losses)> {
        let (boot, epoch) = (self.origin.boot, self.origin.epoch);
        let mine = |entry: &&Entry| entry.heartbeat && (entry.id.boot, entry.id.epoch) == (boot, epoch);
        let entry = *self.index.iter().filter(mine).find(|entry| !entry.done && !entry.sent)?;
        Some((entry.id, self.losses_in(&entry)))
    }

    /// Messages of this name that are older have been replaced.
    pub(super) fn retire_older(&mut self, id: MessageId, order: u32) {
        let older = |entry: &Entry| entry.id == id && entry.order < order && !entry.done;
        while let Some(position) = self.index.iter().position(older) {
            self.retire(position);
        }
    }
}
