//! What an earlier agent has left on flash. Nothing that is found there keeps the agent from starting, and
//! nothing is written yet.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use glg_proto::wire::{ALERT_MAX, Body, ClockQuality, Envelope, Losses, MessageId, Timestamp, decode};

use super::index::{Entry, Place, SEGMENT_MAX, SEGMENTS_MAX, Segment, Slot, signed};
use super::{Origin, Outbox, OutboxConfig};
use crate::flash::{Flash, FlashError, NoFlash};
use crate::spool::budget::Stamp;
use crate::spool::ledger::{self, Ledger};
use crate::spool::record::{Record, Scan};
use crate::spool::store::Store;
use crate::spool::{class_of, record};

/// Messages that a ledger can speak of, whatever the config of the agent was that wrote it.
const LEDGER_MESSAGES: usize = 8192;

/// What is learnt from all segments together.
#[derive(Default)]
struct Found {
    /// Of messages that are done with, rising.
    done: Vec<u32>,
    /// How the budget stood, and at which message.
    stamp: Option<(u32, Stamp)>,
    /// Segments for whose messages there is no place.
    too_many: Vec<Segment>,
}

impl Outbox {
    /// Opens what is on flash; where that cannot be used, messages are kept in memory.
    #[must_use]
    pub fn open(flash: Box<dyn Flash>, config: OutboxConfig, origin: Origin, now: Timestamp) -> Outbox {
        let slots = config.in_memory.clamp(1, usize::from(u16::MAX));
        let mut outbox = Outbox {
            store: Store::new(flash, config.write_bytes_per_day, now.mono_ms),
            now,
            ledger: Ledger { boot: origin.boot, epoch: origin.epoch, ..Ledger::default() },
            index: Vec::with_capacity(config.messages + slots),
            segments: Vec::with_capacity(SEGMENTS_MAX),
            slots: vec![Slot { used: false, bytes: [0; ALERT_MAX] }; slots],
            page: Vec::with_capacity(ledger::bytes_max(config.messages)),
            sending: [0; ALERT_MAX],
            in_flight: None,
            sealed: 0,
            unwritten: 0,
            urgent: false,
            flushed_ms: now.mono_ms,
            tended_ms: now.mono_ms,
            evicted: 0,
            damaged: 0,
            total_losses: Losses::default(),
            config,
            origin,
        };
        if config.messages > 0 {
            outbox.recover();
        }
        outbox
    }

    fn recover(&mut self) {
        if self.find_segments().is_err() {
            // Numbers might be given twice.
            self.store = Store::new(Box::new(NoFlash), 0, self.now.mono_ms);
            self.config.messages = 0;
            return;
        }
        let mut found = self.read_ledger();
        let numbers = self.segments.iter().map(|segment| segment.number.saturating_add(1));
        self.ledger.next_order = numbers.fold(self.ledger.next_order, u32::max);
        // The most important and newest first: that is what there has to be room for.
        self.segments.sort_unstable_by_key(|segment| (segment.class, segment.number));
        let mut bytes = vec![0; usize::try_from(SEGMENT_MAX).unwrap_or(0)];
        for position in (0..self.segments.len()).rev() {
            self.read_segment(position, &mut bytes, &mut found);
        }
        self.index.sort_unstable_by_key(|entry| entry.order);
        self.index.dedup_by_key(|entry| entry.order);
        for position in (0..self.index.len()).rev() {
            let Some(entry) = self.index.get(position).copied() else { continue };
            if entry.heartbeat && !entry.done {
                self.retire_older(entry.id, entry.order);
            }
        }
        if let Some((_, stamp)) = found.stamp {
            self.store.resume(stamp);
        }
        self.sealed = self.ledger.next_order;
        for segment in core::mem::take(&mut found.too_many) {
            self.bury_segment(&segment, &mut bytes, &found.done);
        }
    }

    /// Gives up what is in a segment, read once more now that all numbers are known.
    fn bury_segment(&mut self, segment: &Segment, buffer: &mut [u8], done: &[u32]) {
        let Ok(read) = self.store.read(segment.file(), 0, buffer) else { return };
        for (_, record) in Scan::new(buffer.get(..read).unwrap_or_default()) {
            if let Ok(envelope) = decode(record.message)
                && done.binary_search(&record.order).is_err()
            {
                self.ledger.unsaid.add(envelope.losses);
                self.bury(id_of(&envelope), segment.class);
            }
        }
        self.note_unwritten(segment.class);
    }

    fn find_segments(&mut self) -> Result<(), FlashError> {
        let segments = &mut self.segments;
        self.store.list(&mut |file, size| {
            // Those beyond are looked at when the agent starts again and others are gone.
            if let Some(class) = class_of(file.kind)
                && segments.len() < SEGMENTS_MAX
                && file.number <= record::ORDER_MAX
            {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                segments.push(Segment { class, number: file.number, size, closed: true, unread: false });
            }
        })
    }

    fn read_ledger(&mut self) -> Found {
        let mut bytes = vec![0; ledger::bytes_max(LEDGER_MESSAGES)];
        let read = match self.store.read(ledger::FILE, 0, &mut bytes) {
            Ok(read) => bytes.get(..read).and_then(Ledger::decode),
            Err(FlashError::Missing) => return Found::default(),
            Err(_) => None,
        };
        let Some(mut old) = read else {
            self.damaged = self.damaged.saturating_add(1);
            return Found::default();
        };
        let done = core::mem::take(&mut old.done);
        let stamp = old.next_order.checked_sub(1).map(|order| (order, old.stamp));
        // An agent that starts twice within a second goes by the same name.
        let same = (old.boot, old.epoch) == (self.origin.boot, self.origin.epoch);
        let next_seq = if same { old.next_seq } else { 0 };
        self.ledger = Ledger { boot: self.origin.boot, epoch: self.origin.epoch, next_seq, ..old };
        Found { done, stamp, ..Found::default() }
    }

    fn read_segment(&mut self, position: usize, buffer: &mut [u8], found: &mut Found) {
        let Some(segment) = self.segments.get(position).copied() else { return };
        let Ok(read) = self.store.read(segment.file(), 0, buffer) else {
            self.damaged = self.damaged.saturating_add(1);
            if let Some(segment) = self.segments.get_mut(position) {
                segment.unread = true;
            }
            return;
        };
        let mut scan = Scan::new(buffer.get(..read).unwrap_or_default());
        let mut end = 0;
        let mut room = true;
        for (at, record) in scan.by_ref() {
            end = at + record.size();
            room &= self.read_record(&segment, at, record, found);
        }
        let cut = u32::from(u64::from(segment.size) > read as u64);
        self.damaged = self.damaged.saturating_add(scan.damaged() + cut);
        if !room {
            self.index.retain(|entry| !entry.is_in(&segment));
            found.too_many.push(segment);
        }
        // The newest one goes on where it ends, if that is known.
        let newest = self.segments.get(position + 1).is_none_or(|next| next.class != segment.class);
        if let Some(segment) = self.segments.get_mut(position) {
            segment.closed = !newest || !room || scan.damaged() + cut > 0 || end != read;
        }
    }

    /// Takes a message that was found into the index; `false` if there is no place for it.
    fn read_record(&mut self, segment: &Segment, at: usize, record: Record<'_>, found: &mut Found) -> bool {
        let order = record.order;
        self.ledger.next_order = self.ledger.next_order.max(order.saturating_add(1));
        if found.stamp.is_none_or(|(latest, _)| latest < order) {
            found.stamp = Some((order, record.stamp));
        }
        let (Ok(envelope), Ok(at)) = (decode(record.message), u32::try_from(at)) else {
            self.damaged = self.damaged.saturating_add(1);
            return true;
        };
        let id = id_of(&envelope);
        if (id.boot, id.epoch) == (self.origin.boot, self.origin.epoch) {
            self.ledger.next_seq = self.ledger.next_seq.max(id.seq.wrapping_add(1));
        }
        if self.index.len() >= self.config.messages {
            return false;
        }
        self.index.push(Entry {
            order,
            place: Place::Flash { segment: segment.number, at },
            len: u16::try_from(record.size() - record::HEAD).unwrap_or(0),
            class: segment.class,
            heartbeat: matches!(envelope.body, Body::Health(_)),
            done: found.done.binary_search(&order).is_ok(),
            sent: false,
            born_ms: signed(self.now.mono_ms).saturating_sub(self.age_ms(&envelope)),
            id,
        });
        true
    }

    /// How old a message is, as far as that can be known: of one that was said before the device was started,
    /// what both wall clocks say, if they can be believed, and not less than the device runs.
    fn age_ms(&self, envelope: &Envelope) -> i64 {
        let now = self.now;
        if envelope.boot == self.origin.boot {
            return signed(now.mono_ms.saturating_sub(envelope.at.mono_ms));
        }
        let believed = envelope.at.clock != ClockQuality::Wrong && now.clock != ClockQuality::Wrong;
        let by_wall = if believed { now.wall_ms.saturating_sub(envelope.at.wall_ms) } else { 0 };
        signed(by_wall.max(now.mono_ms))
    }
}

fn id_of(envelope: &Envelope) -> MessageId {
    MessageId { boot: envelope.boot, epoch: envelope.epoch, seq: envelope.seq }
}
