//! Making room: what is given up, and how that is said.

use glg_proto::wire::{Class, Evicted, Losses, MessageId};

use super::index::{SEGMENTS_MAX, Segment, signed};
use super::{Outbox, keeping};
use crate::spool::budget::Share;
use crate::spool::ledger::{self, Tombstone};
use crate::spool::record::RECORD_MAX;
use crate::spool::store::Store;

/// Where a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Flash,
    Memory(usize),
    Nowhere,
}

impl Outbox {
    /// Where a message of this class is to go, once there is room for it.
    pub(super) fn room_for(&mut self, class: Class) -> Target {
        match self.room_on_flash(class) {
            true => Target::Flash,
            false => self.room_in_memory(class),
        }
    }

    /// Whether one more message of any length finds room on flash.
    pub(super) fn fits(&self, class: Class) -> bool {
        let room = u32::try_from(RECORD_MAX).unwrap_or(u32::MAX);
        self.on_flash() < self.config.messages
            && self.spool_bytes().saturating_add(room) <= self.config.max_bytes
            && (self.segments.len() < SEGMENTS_MAX || self.open_segment(class).is_some())
    }

    /// Makes room on flash; whether there is some, and it may be written to.
    fn room_on_flash(&mut self, class: Class) -> bool {
        let share = keeping::share_of(class);
        let append = Store::append_cost(0, RECORD_MAX);
        if self.config.messages == 0 || !self.store.allows(append, share) {
            return false;
        }
        while !self.fits(class) {
            let cost = append + Store::replace_cost(ledger::bytes_max(self.index.len()));
            // What was given up has to be written down, or it is not given up.
            let can_write = self.store.allows(cost, share) && self.store.last().is_ok();
            let before = self.segments.len();
            if !can_write || !self.has_removable() && !self.give_up_segment(class) {
                return false;
            }
            if !self.flush(share) || self.segments.len() >= before {
                return false;
            }
        }
        true
    }

    /// Gives up the oldest segment of the least important class, but nothing more important than `class`.
    fn give_up_segment(&mut self, class: Class) -> bool {
        let in_flight = self.in_flight.and_then(|order| self.position(order));
        let in_flight = in_flight.and_then(|position| self.index.get(position)).copied();
        let victims = self.segments.iter().filter(|segment| {
            segment.class <= class && !segment.unread && !in_flight.is_some_and(|entry| entry.is_in(segment))
        });
        let Some(victim) = victims.min_by_key(|segment| (segment.class, segment.number)).copied() else {
            return false;
        };
        self.give_up_messages(&victim);
        self.close(&victim);
        true
    }

    /// Gives up every message of a segment that still waits.
    pub(super) fn give_up_messages(&mut self, segment: &Segment) {
        let waits = |entry: &super::Entry| entry.is_in(segment) && !entry.done;
        while let Some(position) = self.index.iter().position(waits) {
            self.give_up(position);
        }
    }

    /// Finds a slot, if need be that of the oldest of the least important messages.
    pub(super) fn room_in_memory(&mut self, class: Class) -> Target {
        if let Some(free) = self.slots.iter().position(|slot| !slot.used) {
            return Target::Memory(free);
        }
        let in_flight = self.in_flight;
        let victims =
            self.index.iter().enumerate().filter(|(_, entry)| {
                entry.in_memory() && entry.class <= class && Some(entry.order) != in_flight
            });
        let Some((position, _)) = victims.min_by_key(|(_, entry)| (entry.class, entry.order)) else {
            return Target::Nowhere;
        };
        self.give_up(position);
        let free = self.slots.iter().position(|slot| !slot.used);
        free.map_or(Target::Nowhere, Target::Memory)
    }

    /// Gives up one message: it is counted, named, and what it would have told is told by another.
    pub(super) fn give_up(&mut self, position: usize) {
        let Some(entry) = self.index.get(position).copied() else { return };
        let said = self.losses_in(&entry);
        self.ledger.unsaid.add(said);
        self.bury(entry.id, entry.class);
        self.retire(position);
    }

    /// Takes note that a message is given up.
    pub(super) fn bury(&mut self, id: MessageId, class: Class) {
        self.evicted = self.evicted.saturating_add(1);
        self.note_unwritten(Class::Warning);
        self.lost(Losses { alerts: 1, ..Losses::default() });
        let sealed = self.sealed;
        let fits = |tombstone: &&mut Tombstone| {
            let Evicted { class: its_class, first, .. } = tombstone.evicted;
            tombstone.order >= sealed && (its_class, first.boot, first.epoch) == (class, id.boot, id.epoch)
        };
        if let Some(Tombstone { evicted, .. }) = self.ledger.tombstones.iter_mut().find(fits) {
            evicted.count = evicted.count.saturating_add(1);
            evicted.first.seq = evicted.first.seq.min(id.seq);
            evicted.last_seq = evicted.last_seq.max(id.seq);
            return;
        }
        if self.ledger.tombstones.is_full() {
            let oldest = |tombstone: &&Tombstone| Some(tombstone.order) != self.in_flight;
            let oldest = self.ledger.tombstones.iter().filter(oldest).min_by_key(|t| t.order);
            let Some(order) = oldest.map(|tombstone| tombstone.order) else { return };
            self.ledger.tombstones.retain(|tombstone| tombstone.order != order);
            // Those it names are counted already.
            self.lost(Losses { alerts: 1, ..Losses::default() });
        }
        let (order, seq) = (self.take_order(), self.take_seq());
        let evicted = Evicted { class, count: 1, first: id, last_seq: id.seq };
        let _ = self.ledger.tombstones.push(Tombstone { order, id: self.id(seq), at: self.now, evicted });
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self) {
        let oldest_ms = signed(self.now.mono_ms).saturating_sub(signed(self.config.max_age_ms));
        let in_flight = self.in_flight;
        let expired =
            |entry: &super::Entry| !entry.done && entry.born_ms < oldest_ms && Some(entry.order) != in_flight;
        while let Some(position) = self.index.iter().position(expired) {
            self.give_up(position);
        }
    }

    /// Writes down what is done with, and takes away what is no longer needed: the last words of an agent.
    pub fn close_down(&mut self) -> bool {
        let nothing_new = self.unwritten == 0 && self.ledger.unsaid.is_none() && !self.has_removable();
        nothing_new || self.flush(Share::All)
    }
}
