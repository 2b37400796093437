//! What has become of the messages on flash: which of them are done with, and which were given up.
//!
//! One small file that is only ever replaced as a whole. It is written before anything is removed, so that
//! what is gone is always accounted for; without it, or with an old one, messages come twice, but never not
//! at all.

use alloc::vec::Vec;

use glg_proto::wire::{Class, ClockQuality, Evicted, Losses, MessageId, Timestamp};

use super::budget::Stamp;
use super::codec::{Reader, SMALL_MAX, put_varint};
use super::record::ORDER_MAX;
use crate::crc;
use crate::flash::{File, Kind};

/// Where it is kept.
pub const FILE: File = File { kind: Kind::Ledger, number: 0 };
/// Messages about given-up messages at most.
pub const TOMBSTONES_MAX: usize = 32;
/// First bytes; the last of them is the version of this format.
const MAGIC: [u8; 4] = *b"GLL\x01";
const FIXED_MAX: usize = 128;
const TOMBSTONE_MAX: usize = 80;

/// A message about messages that were given up, until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Its place among all messages.
    pub order: u32,
    /// What it is called itself.
    pub id: MessageId,
    /// When it was said.
    pub at: Timestamp,
    /// What it says.
    pub evicted: Evicted,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The next message of the device gets this number; every message in here has a lower one.
    pub next_order: u32,
    /// The agent that wrote this.
    pub boot: [u8; 8],
    /// The agent that wrote this.
    pub epoch: u32,
    /// And the next number of its messages.
    pub next_seq: u32,
    /// How the budget stood.
    pub stamp: Stamp,
    /// Losses that no message has told.
    pub unsaid: Losses,
    /// Of messages that were given up.
    pub tombstones: heapless::Vec<Tombstone, TOMBSTONES_MAX>,
    /// Orders of messages that are still on flash and done with, rising.
    pub done: Vec<u32>,
}

/// Bytes of a ledger at most, with so many messages on flash.
#[must_use]
pub fn bytes_max(messages: usize) -> usize {
    FIXED_MAX + TOMBSTONES_MAX * TOMBSTONE_MAX + messages * SMALL_MAX
}

impl Ledger {
    /// Writes it down, with `done` in place of its own list.
    pub fn encode(&self, done: impl Iterator<Item = u32> + Clone, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.boot);
        let fields = [
            self.next_order,
            self.epoch,
            self.next_seq,
            self.stamp.spent,
            self.stamp.day_s,
            self.unsaid.alerts,
            self.unsaid.samples,
            self.unsaid.records,
        ];
        fields.iter().for_each(|field| put_varint(out, u64::from(*field)));
        put_varint(out, self.tombstones.len() as u64);
        self.tombstones.iter().for_each(|tombstone| put_tombstone(out, tombstone));
        put_varint(out, done.clone().count() as u64);
        let mut last = 0;
        for order in done {
            put_varint(out, u64::from(order.wrapping_sub(last)));
            last = order;
        }
        out.extend_from_slice(&crc::of(out).to_le_bytes());
    }

    /// Reads it; nothing when it is not whole.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Ledger> {
        let (body, sum) = bytes.split_last_chunk()?;
        if crc::of(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut r = Reader(body);
        if r.array() != Some(MAGIC) {
            return None;
        }
        let mut ledger = Ledger {
            boot: r.array()?,
            next_order: r.small()?,
            epoch: r.small()?,
            next_seq: r.small()?,
            stamp: Stamp { spent: r.small()?, day_s: r.small()? },
            unsaid: Losses { alerts: r.small()?, samples: r.small()?, records: r.small()? },
            ..Ledger::default()
        };
        if ledger.next_order > ORDER_MAX {
            return None;
        }
        for _ in 0..r.small()? {
            ledger.tombstones.push(tombstone(&mut r)?).ok()?;
        }
        let mut last = 0u32;
        for place in 0..r.small()? {
            let step = r.small()?;
            if step == 0 && place > 0 {
                return None;
            }
            last = last.checked_add(step).filter(|order| *order < ledger.next_order)?;
            // At least one byte each was there to read.
            ledger.done.push(last);
        }
        r.0.is_empty().then_some(ledger)
    }
}

fn put_id(out: &mut Vec<u8>, id: MessageId) {
    out.extend_from_slice(&id.boot);
    put_varint(out, u64::from(id.epoch));
    put_varint(out, u64::from(id.seq));
}

fn id(r: &mut Reader<'_>) -> Option<MessageId> {
    Some(MessageId { boot: r.array()?, epoch: r.small()?, seq: r.small()? })
}

fn put_tombstone(out: &mut Vec<u8>, tombstone: &Tombstone) {
    let Tombstone { order, id, at, evicted } = tombstone;
    put_varint(out, u64::from(*order));
    put_id(out, *id);
    put_varint(out, at.mono_ms);
    put_varint(out, at.wall_ms);
    out.push(match at.clock {
        ClockQuality::Wrong => 0,
        ClockQuality::Free => 1,
        ClockQuality::Synced => 2,
    });
    out.push(match evicted.class {
        Class::Routine => 0,
        Class::Warning => 1,
        Class::Critical => 2,
    });
    put_varint(out, u64::from(evicted.count));
    put_id(out, evicted.first);
    put_varint(out, u64::from(evicted.last_seq));
}

fn tombstone(r: &mut Reader<'_>) -> Option<Tombstone> {
    let (order, own) = (r.small()?, id(r)?);
    let (mono_ms, wall_ms) = (r.varint()?, r.varint()?);
    let clock = match r.byte()? {
        0 => ClockQuality::Wrong,
        1 => ClockQuality::Free,
        2 => ClockQuality::Synced,
        _ => return None,
    };
    let class = match r.byte()? {
        0 => Class::Routine,
        1 => Class::Warning,
        2 => Class::Critical,
        _ => return None,
    };
    let evicted = Evicted { class, count: r.small()?, first: id(r)?, last_seq: r.small()? };
    Some(Tombstone { order, id: own, at: Timestamp { mono_ms, wall_ms, clock }, evicted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ledger {
        let id = |seq| MessageId { boot: [u8::MAX; 8], epoch: u32::MAX, seq };
        let at = Timestamp { mono_ms: u64::MAX, wall_ms: u64::MAX, clock: ClockQuality::Free };
        let evicted =
            Evicted { class: Class::Critical, count: u32::MAX, first: id(u32::MAX), last_seq: u32::MAX };
        let tombstone = Tombstone { order: u32::MAX, id: id(u32::MAX), at, evicted };
        Ledger {
            next_order: ORDER_MAX,
            boot: [1; 8],
            epoch: u32::MAX,
            next_seq: u32::MAX,
            stamp: Stamp { spent: u32::MAX, day_s: 86_400 },
            unsaid: Losses { alerts: u32::MAX, samples: u32::MAX, records: u32::MAX },
            tombstones: core::iter::repeat_n(tombstone, TOMBSTONES_MAX).collect(),
            done: alloc::vec![0, 1, 200, ORDER_MAX - 1],
        }
    }

    #[test]
    fn it_comes_back_and_has_room() {
        let ledger = sample();
        let mut out = Vec::new();
        ledger.encode(ledger.done.iter().copied(), &mut out);
        assert!(out.len() <= bytes_max(ledger.done.len()), "{}", out.len());
        assert_eq!(Ledger::decode(&out), Some(ledger.clone()));
        for end in 0..out.len() {
            assert_eq!(Ledger::decode(&out[..end]), None);
        }
        for bit in 0..out.len() * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Ledger::decode(&out), None);
            out[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
