//! One message in a segment: a head with a checksum, then the encoded envelope.
//!
//! ```text
//!  0  mark       2 bytes, B5 01; the second is the version of this format
//!  2  checksum   CRC-32 of everything behind it
//!  6  length     of the message, 2 bytes
//!  8  order      4 bytes: counts all messages of the device, in the order in which they came
//! 12  spent      4 bytes: what was written to flash since the budget's day began
//! 16  day        4 bytes: how old that day was, in seconds
//! 20  message
//! ```
//! Numbers have their lowest byte first. A segment is nothing but records, one behind the other; where one is
//! damaged, it goes on at the next mark whose record is whole.

use glg_proto::wire::ALERT_MAX;

use super::budget::Stamp;
use super::codec::Reader;
use crate::crc;

const MARK: [u8; 2] = [0xb5, 1];
/// Where the part begins that the checksum is of.
const SUMMED: usize = 6;
/// Bytes before a message.
pub const HEAD: usize = 20;
/// Bytes of a record at most.
pub const RECORD_MAX: usize = HEAD + ALERT_MAX;

/// No message gets a higher number: at one a second, that takes a century.
pub const ORDER_MAX: u32 = u32::MAX - (1 << 20);

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which message of the device it is; no two have the same.
    pub order: u32,
    /// How the budget stood.
    pub stamp: Stamp,
    /// The encoded envelope, 1 to [`ALERT_MAX`] bytes.
    pub message: &'a [u8],
}

impl Record<'_> {
    /// Bytes it takes with its head.
    #[must_use]
    pub fn size(&self) -> usize {
        HEAD + self.message.len()
    }

    /// Writes it down; nothing if the message is too long.
    pub fn encode<'b>(&self, out: &'b mut [u8; RECORD_MAX]) -> Option<&'b [u8]> {
        let size = self.size();
        let len = u16::try_from(self.message.len()).ok()?;
        out.get_mut(HEAD..size)?.copy_from_slice(self.message);
        let words = [self.order, self.stamp.spent, self.stamp.day_s].map(u32::to_le_bytes);
        let fields = len.to_le_bytes().into_iter().chain(words.into_iter().flatten());
        out.iter_mut().skip(SUMMED).zip(fields).for_each(|(to, byte)| *to = byte);
        let sum = crc::of(out.get(SUMMED..size)?).to_le_bytes();
        out.iter_mut().zip(MARK.into_iter().chain(sum)).for_each(|(to, byte)| *to = byte);
        out.get(..size)
    }
}

/// The record with which these bytes begin, if it is whole.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let mut head = Reader(bytes);
    if head.array() != Some(MARK) {
        return None;
    }
    let sum = head.word()?;
    let len = usize::from(head.array().map(u16::from_le_bytes)?);
    let (order, spent, day_s) = (head.word()?, head.word()?, head.word()?);
    let message = head.bytes(len).filter(|message| (1..=ALERT_MAX).contains(&message.len()))?;
    let whole = crc::of(bytes.get(SUMMED..HEAD + len)?) == sum;
    (whole && order <= ORDER_MAX).then_some(Record { order, stamp: Stamp { spent, day_s }, message })
}

/// The whole records of a segment, and where they are.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    damaged: u32,
}

impl<'a> Scan<'a> {
    /// From the first byte on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Scan<'a> {
        Scan { bytes, at: 0, damaged: 0 }
    }

    /// Stretches so far that are no records.
    #[must_use]
    pub fn damaged(&self) -> u32 {
        self.damaged
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = (usize, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.at;
        while self.at < self.bytes.len() {
            if let Some(record) = self.bytes.get(self.at..).and_then(decode) {
                self.damaged += u32::from(self.at > begin);
                let at = self.at;
                self.at += record.size();
                return Some((at, record));
            }
            self.at += 1;
        }
        self.damaged += u32::from(self.at > begin);
        None
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn segment(messages: &[&[u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        for (order, message) in (7..).zip(messages) {
            let record = Record { order, stamp: Stamp { spent: 5, day_s: 6 }, message };
            all.extend_from_slice(record.encode(&mut [0; RECORD_MAX]).unwrap());
        }
        all
    }

    fn orders(bytes: &[u8]) -> (Vec<u32>, u32) {
        let mut scan = Scan::new(bytes);
        let orders = scan.by_ref().map(|(_, record)| record.order).collect();
        (orders, scan.damaged())
    }

    #[test]
    fn records_come_back() {
        let long = [9; ALERT_MAX];
        let bytes = segment(&[b"one", &long, b"three"]);
        let found: Vec<_> = Scan::new(&bytes).collect();
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 23, 23 + RECORD_MAX]);
        assert_eq!(found[1].1, Record { order: 8, stamp: Stamp { spent: 5, day_s: 6 }, message: &long });
        let none = Record { order: 1, stamp: Stamp::default(), message: &[0; ALERT_MAX + 1] };
        assert!(none.encode(&mut [0; RECORD_MAX]).is_none());
    }

    /// Whatever single bit is turned, only the record it belongs to is missing.
    #[test]
    fn damage_costs_one_record() {
        let bytes = segment(&[b"one", b"two", b"six"]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let lost = 7 + bit as u32 / 8 / 23;
            let left: Vec<u32> = (7..10).filter(|order| *order != lost).collect();
            assert_eq!(orders(&damaged), (left, 1), "bit {bit}");
        }
        for end in 0..bytes.len() {
            let (left, damaged) = orders(&bytes[..end]);
            assert_eq!(left.len(), end / 23, "cut at {end}");
            assert_eq!(damaged, u32::from(end % 23 != 0));
        }
    }
}
