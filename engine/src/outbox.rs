//! What waits to be sent: each message is on flash before it is published, and leaves only when the broker
//! has acknowledged it.
//!
//! Messages of each [`Class`] are kept in segments of their own: what is more important is sent first, the
//! newest of it first, and when room runs out the oldest segment of the least important class is given up as
//! a whole. What is given up is said twice: as a number in the next message ([`Losses`]), and by name in a
//! message of its own ([`glg_proto::wire::Evicted`]), which is on flash before the messages are gone.
//!
//! Where flash cannot be used, or its budget of the day is used up, messages are kept in memory; nothing else
//! changes. Acknowledgements are written down some time later, all at once: until then a message may come
//! again after a restart, and is recognised by its [`MessageId`].

mod index;
mod keeping;
mod opening;
mod room;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use glg_proto::wire::{
    ALERT_MAX, Body, Class, ClockQuality, DEVICE_MAX, Envelope, Grade, Losses, MessageId, Timestamp,
    TooLarge, encode, encode_alert,
};

use crate::spool::ledger::{Ledger, Tombstone};
use crate::spool::store::{Store, StoreError};
use index::{Entry, Place, Segment, Slot};
use room::Target;

/// Names a message between [`Outbox::send_next`] and its acknowledgement. No two messages of a device have the
/// same, whichever agent said them.
pub type Ticket = u32;

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Messages on flash.
    pub messages: usize,
    /// Messages in memory, where flash cannot be used.
    pub in_memory: usize,
    /// Bytes on flash.
    pub max_bytes: u32,
    /// Bytes of one segment, 1 KiB to 32 KiB.
    pub segment_bytes: u32,
    /// How long a message is kept, in milliseconds.
    pub max_age_ms: u64,
    /// Bytes written to flash in a day.
    pub write_bytes_per_day: u32,
}

impl OutboxConfig {
    /// In memory alone.
    #[must_use]
    pub fn in_memory(messages: usize) -> OutboxConfig {
        OutboxConfig {
            messages: 0,
            in_memory: messages,
            max_bytes: 0,
            segment_bytes: 0,
            max_age_ms: u64::MAX,
            write_bytes_per_day: 0,
        }
    }
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Name of the device.
    pub device: heapless::String<DEVICE_MAX>,
    /// As in [`Envelope::boot`].
    pub boot: [u8; 8],
    /// As in [`Envelope::epoch`].
    pub epoch: u32,
}

/// Where a message was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// On flash: it outlives a power cut.
    OnFlash,
    /// In memory alone.
    InMemory,
    /// Nowhere: everything that waits is more important. It is counted and named like what is given up later.
    Nowhere,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFigures {
    /// Messages that wait, those about given-up messages included.
    pub waiting: u32,
    /// Those of them that are in memory alone.
    pub in_memory: u32,
    /// Bytes on flash.
    pub spool_bytes: u32,
    /// Bytes written since the budget's day began.
    pub flash_bytes: u32,
    /// Messages given up since the agent began.
    pub evicted: u32,
    /// Records found damaged since the agent began.
    pub damaged: u32,
    /// Why messages are kept in memory alone, if they are.
    pub memory_only: Option<StoreError>,
}

/// How important a message is.
#[must_use]
pub fn class_of(body: &Body) -> Class {
    match body {
        Body::Deadlock(_) => Class::Critical,
        Body::Leak(leak) if leak.grade == Grade::Proven => Class::Critical,
        Body::Health(_) => Class::Routine,
        _ => Class::Warning,
    }
}

/// The queue.
pub struct Outbox {
    config: OutboxConfig,
    origin: Origin,
    store: Store,
    /// The latest time that was heard of.
    now: Timestamp,
    /// What is kept of all this beside the messages; `done` stays empty, the index knows that.
    ledger: Ledger,
    /// Every message, in the order in which they came.
    index: Vec<Entry>,
    segments: Vec<Segment>,
    slots: Vec<Slot>,
    /// The ledger while it is written.
    page: Vec<u8>,
    /// The message under way.
    sending: [u8; ALERT_MAX],
    in_flight: Option<Ticket>,
    /// Messages about given-up messages with a lower order are not changed any more.
    sealed: u32,
    /// Acknowledgements that the ledger does not know.
    unwritten: u32,
    /// Whether there is more among them than routine.
    urgent: bool,
    flushed_ms: u64,
    tended_ms: u64,
    evicted: u32,
    damaged: u32,
    /// Since the start, for the agent's own figures.
    pub total_losses: Losses,
}

impl Outbox {
    /// In memory alone.
    #[must_use]
    pub fn in_memory(messages: usize, origin: Origin) -> Outbox {
        let now = Timestamp { mono_ms: 0, wall_ms: 0, clock: ClockQuality::Wrong };
        let flash = alloc::boxed::Box::new(crate::flash::NoFlash);
        Outbox::open(flash, OutboxConfig::in_memory(messages), origin, now)
    }

    /// Number that the next alert will have.
    #[must_use]
    pub fn next_seq(&self) -> u32 {
        self.ledger.next_seq
    }

    /// Notes a loss.
    pub fn lost(&mut self, losses: Losses) {
        self.ledger.unsaid.add(losses);
        self.total_losses.add(losses);
    }

    /// Flash and its budget, for what else is kept there.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Takes note of the time.
    fn at(&mut self, now: Timestamp) {
        if now.mono_ms >= self.now.mono_ms {
            self.now = now;
            self.store.at(now.mono_ms);
        }
    }

    fn take_order(&mut self) -> u32 {
        let order = self.ledger.next_order;
        self.ledger.next_order = order.saturating_add(1);
        order
    }

    fn take_seq(&mut self) -> u32 {
        let seq = self.ledger.next_seq;
        self.ledger.next_seq = seq.wrapping_add(1);
        seq
    }

    fn id(&self, seq: u32) -> MessageId {
        MessageId { boot: self.origin.boot, epoch: self.origin.epoch, seq }
    }

    /// Takes a message; sequence and losses are filled in here. Says what it is called and where it was put. Of the agent's own health only the newest is
    /// kept, as long as none was sent: it goes by the number of the one it replaces.
    ///
    /// # Errors
    /// [`TooLarge`] when the message cannot be encoded in [`ALERT_MAX`] bytes; it is counted as lost.
    pub fn push(&mut self, mut envelope: Envelope) -> Result<(MessageId, Kept), TooLarge> {
        let class = class_of(&envelope.body);
        self.at(envelope.at);
        let target = self.room_for(class);
        let heartbeat = matches!(envelope.body, Body::Health(_));
        let replaced = if heartbeat { self.unsent_heartbeat() } else { None };
        if let Some((_, losses)) = replaced {
            self.ledger.unsaid.add(losses);
        }
        // Also a lost one has a number: the gap tells of it.
        envelope.seq = match replaced {
            Some((id, _)) => id.seq,
            None => self.take_seq(),
        };
        (envelope.boot, envelope.epoch) = (self.origin.boot, self.origin.epoch);
        envelope.losses = self.ledger.unsaid;
        let mut bytes = [0; ALERT_MAX];
        let message = match encode_alert(&mut envelope, &mut bytes) {
            Ok(used) => &*used,
            Err(error) => {
                self.lost(Losses { alerts: 1, ..Losses::default() });
                return Err(error);
            }
        };
        self.ledger.unsaid = Losses::default();
        let entry = Entry {
            order: self.take_order(),
            place: Place::Memory { slot: 0 },
            len: u16::try_from(message.len()).unwrap_or(0),
            class,
            heartbeat,
            done: false,
            sent: false,
            born_ms: index::signed(self.now.mono_ms),
            id: self.id(envelope.seq),
        };
        let kept = self.keep(target, entry, message);
        if kept == Kept::Nowhere {
            self.ledger.unsaid.add(envelope.losses);
            self.bury(entry.id, class);
        } else if let Some((id, _)) = replaced {
            self.retire_older(id, entry.order);
        }
        Ok((entry.id, kept))
    }

    /// The message to publish now, if none is in flight; it then is.
    pub fn send_next(&mut self) -> Option<(Ticket, &[u8])> {
        self.send_next_of(Class::Routine)
    }

    /// The same, of messages that are at least so important.
    pub fn send_next_of(&mut self, least: Class) -> Option<(Ticket, &[u8])> {
        if self.in_flight.is_some() {
            return None;
        }
        loop {
            let waiting = self.index.iter().filter(|entry| !entry.done && entry.class >= least);
            let entry = waiting.max_by_key(|entry| (entry.class, entry.order));
            let tombstones = self.ledger.tombstones.iter().filter(|_| least <= Class::Warning);
            let tombstone = tombstones.max_by_key(|tombstone| tombstone.order).copied();
            let rank = entry.map(|entry| (entry.class, entry.order));
            let len = match (entry.copied(), tombstone) {
                (_, Some(tombstone)) if rank < Some((Class::Warning, tombstone.order)) => {
                    self.take_tombstone(tombstone)
                }
                (Some(entry), _) => self.take_entry(entry),
                (None, _) => return None,
            };
            if let Some((order, len)) = len {
                self.in_flight = Some(order);
                return self.sending.get(..len).map(|message| (order, message));
            }
        }
    }

    /// How important the message in flight is.
    #[must_use]
    pub fn class_in_flight(&self) -> Option<Class> {
        let ticket = self.in_flight?;
        let entry = self.position(ticket).and_then(|position| self.index.get(position));
        Some(entry.map_or(Class::Warning, |entry| entry.class))
    }

    fn take_entry(&mut self, entry: Entry) -> Option<(Ticket, usize)> {
        let mut message = [0; ALERT_MAX];
        let found = self.load(&entry, &mut message);
        self.sending = message;
        let position = self.position(entry.order)?;
        if found.is_none() {
            // It was whole once.
            self.damaged = self.damaged.saturating_add(1);
            self.lost(Losses { alerts: 1, ..Losses::default() });
            self.retire(position);
            return None;
        }
        if let Some(entry) = self.index.get_mut(position) {
            entry.sent = true;
        }
        Some((entry.order, usize::from(entry.len)))
    }

    fn take_tombstone(&mut self, tombstone: Tombstone) -> Option<(Ticket, usize)> {
        let Tombstone { order, id, at, evicted } = tombstone;
        let envelope = Envelope {
            device: self.origin.device.clone(),
            boot: id.boot,
            epoch: id.epoch,
            seq: id.seq,
            at,
            losses: Losses::default(),
            body: Body::Evicted(evicted),
        };
        self.sealed = self.sealed.max(order.saturating_add(1));
        match encode(&envelope, &mut self.sending) {
            Ok(message) => Some((order, message.len())),
            // It always fits; were it not so, nothing else would ever be sent.
            Err(TooLarge) => {
                self.ledger.tombstones.retain(|t| t.order != order);
                None
            }
        }
    }

    /// The broker has acknowledged the message. `false` if that is not what was in flight.
    pub fn acknowledged(&mut self, ticket: Ticket) -> bool {
        if self.in_flight != Some(ticket) {
            return false;
        }
        self.in_flight = None;
        let tombstones = self.ledger.tombstones.len();
        self.ledger.tombstones.retain(|tombstone| tombstone.order != ticket);
        if self.ledger.tombstones.len() < tombstones {
            self.note_unwritten(Class::Warning);
        } else if let Some(position) = self.position(ticket) {
            self.retire(position);
        }
        true
    }

    /// The broker does not take the message: it is lost, and counted.
    pub fn refused(&mut self, ticket: Ticket) {
        let entry = self.position(ticket).and_then(|position| self.index.get(position)).copied();
        let said = entry.map(|entry| self.losses_in(&entry)).unwrap_or_default();
        if self.acknowledged(ticket) {
            self.ledger.unsaid.add(said);
            self.lost(Losses { alerts: 1, ..Losses::default() });
        }
    }

    /// Takes the losses that no message has said yet, to say them in one that is not in this queue.
    pub fn take_unsaid(&mut self) -> Losses {
        core::mem::take(&mut self.ledger.unsaid)
    }

    /// The message that was to say these did not arrive.
    pub fn unsay(&mut self, losses: Losses) {
        self.ledger.unsaid.add(losses);
    }

    /// The link is gone: what was in flight is to be sent again.
    pub fn link_lost(&mut self) {
        self.in_flight = None;
    }

    /// Messages waiting, the one in flight included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.iter().filter(|entry| !entry.done).count() + self.ledger.tombstones.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> OutboxFigures {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let in_memory = self.slots.iter().filter(|slot| slot.used).count();
        OutboxFigures {
            waiting: narrow(self.len()),
            in_memory: narrow(in_memory),
            spool_bytes: self.spool_bytes(),
            flash_bytes: self.store.budget().spent(),
            evicted: self.evicted,
            damaged: self.damaged,
            memory_only: self.memory_only(),
        }
    }
}
