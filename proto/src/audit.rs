//! What a device remembers of commands: records that are linked by SHA-256, so that none can be taken out or changed
//! without that being seen by whoever knows a later link.
//!
//! Each file on the device: [`Head`], then for each record its length in two bytes (little endian), the record in
//! postcard, and its link: SHA-256 over the link before and these bytes. A document of them: for each file, the oldest
//! first, its length in four bytes (little endian), and its bytes.

use serde::{Deserialize, Serialize};

use crate::command::{CommandId, Failure, Outcome, Refusal};
use crate::wire::Timestamp;

/// First byte of a document of records.
pub const VERSION: u8 = 1;
/// Bytes of a link.
pub const LINK_BYTES: usize = 32;
/// Longest record in postcard, in bytes.
pub const RECORD_MAX: usize = 96;
/// Bytes of a head.
pub const HEAD_BYTES: usize = 1 + 8 + LINK_BYTES;

/// SHA-256 over the link before and a record.
pub type Link = [u8; LINK_BYTES];

/// What stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Index of the first record.
    pub index: u64,
    /// Link of the record before that; zeroes before the first of all.
    pub link: Link,
}

impl Head {
    /// As it is written.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let parts = [&[VERSION][..], &self.index.to_le_bytes(), &self.link];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// Reads it; what follows are records. `None` for anything else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Head, &[u8])> {
        let (index, rest) = bytes.strip_prefix(&[VERSION])?.split_first_chunk()?;
        let (link, rest) = rest.split_first_chunk()?;
        Some((Head { index: u64::from_le_bytes(*index), link: *link }, rest))
    }
}

/// Something that happened to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number: without gaps.
    pub index: u64,
    /// First eight bytes of the kernel's boot id.
    pub boot: [u8; 8],
    /// When.
    pub at: Timestamp,
    /// Which command; zeroes where that could not be read.
    pub command: CommandId,
    /// What.
    pub event: Event,
    /// Refusals before this that were not written down, because there were too many.
    pub skipped: u32,
}

/// What happened. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An agent has begun.
    Started,
    /// The command is being carried out; number of its [`crate::command::Action`].
    Begun(u8),
    /// It has come to its end.
    Ended(Ending),
    /// It was refused.
    Refused(Refusal),
    /// Records after the one before this are lost: storage was damaged.
    Damaged,
}

/// How a command ended. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// As it should.
    Done,
    /// Not as it should.
    Failed,
    /// The agent ended first.
    Interrupted,
}

impl Ending {
    /// Of what was answered.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Ending {
        match outcome {
            Outcome::Pong(_) | Outcome::Made(_) | Outcome::Sending | Outcome::Set => Ending::Done,
            Outcome::Failed(Failure::Interrupted) => Ending::Interrupted,
            Outcome::Failed(_) | Outcome::Refused(_) => Ending::Failed,
        }
    }
}

/// A record as it is written: its bytes, and the link that is said to be theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked<'a> {
    /// In postcard.
    pub bytes: &'a [u8],
    /// To be compared.
    pub link: &'a Link,
}

impl<'a> Linked<'a> {
    /// The next one, and what follows it. `None` where there is no whole one.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<(Linked<'a>, &'a [u8])> {
        let (len, rest) = bytes.split_first_chunk()?;
        let len = usize::from(u16::from_le_bytes(*len));
        if len > RECORD_MAX {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(len)?;
        let (link, rest) = rest.split_first_chunk()?;
        Some((Linked { bytes, link }, rest))
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        match postcard::take_from_bytes(self.bytes) {
            Ok((record, [])) => Some(record),
            _ => None,
        }
    }
}
