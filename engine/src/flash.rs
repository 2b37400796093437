//! Durable storage as the engine sees it: small files that are named by a kind and a number.
//!
//! What an implementation promises, and what everything that is kept on flash is built on:
//! - [`Flash::append`] alone promises nothing: after a power cut any part of what was appended since the last
//!   [`Flash::sync`] may be missing or rubbish, and the file too if it was new.
//! - What a `sync` that succeeded covers stays as it is.
//! - [`Flash::replace`] and [`Flash::remove`] happen wholly or not at all, and stay when they succeeded.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// What a file is for. The kinds are ranges of their own: each user numbers its files as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Segments of messages of [`glg_proto::wire::Class::Routine`].
    Routine,
    /// Segments of messages of [`glg_proto::wire::Class::Warning`].
    Warning,
    /// Segments of messages of [`glg_proto::wire::Class::Critical`].
    Critical,
    /// What is to be known about the segments: one file.
    Ledger,
    /// Checkpoints of the history.
    History,
    /// The counter of commands: one file.
    Counter,
    /// Segments of the audit ring.
    Audit,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Routine,
        Kind::Warning,
        Kind::Critical,
        Kind::Ledger,
        Kind::History,
        Kind::Counter,
        Kind::Audit,
    ];
}

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct File {
    /// What it is for.
    pub kind: Kind,
    /// Which of them.
    pub number: u32,
}

/// Why storage did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashError {
    /// There is no such file.
    Missing,
    /// No room is left.
    NoSpace,
    /// There is no storage, or it may not be written.
    Unavailable,
    /// The device failed.
    Io,
}

impl core::fmt::Display for FlashError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            FlashError::Missing => "no such file",
            FlashError::NoSpace => "no space is left",
            FlashError::Unavailable => "it cannot be used",
            FlashError::Io => "the device failed",
        })
    }
}

impl core::error::Error for FlashError {}

/// Durable storage.
#[expect(clippy::missing_errors_doc, reason = "each fails as its FlashError says")]
pub trait Flash {
    /// Tells each file there is, and its length in bytes; in no particular order.
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError>;

    /// Reads from byte `at` on; fewer bytes than there is room for only at the end of the file.
    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError>;

    /// Adds bytes to the end of a file, which is created when there is none. Not durable before a
    /// [`Flash::sync`].
    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError>;

    /// Makes everything durable that was appended to a file, and its name.
    fn sync(&mut self, file: File) -> Result<(), FlashError>;

    /// Gives a file this content, at once and durably; afterwards it has either the old or the new one.
    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError>;

    /// Takes a file away, durably. One that does not exist is no error.
    fn remove(&mut self, file: File) -> Result<(), FlashError>;
}

/// No storage at all: what is kept is kept in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFlash;

impl Flash for NoFlash {
    fn list(&mut self, _: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        Err(FlashError::Unavailable)
    }

    fn read(&mut self, _: File, _: u64, _: &mut [u8]) -> Result<usize, FlashError> {
        Err(FlashError::Unavailable)
    }

    fn append(&mut self, _: File, _: &[u8]) -> Result<(), FlashError> {
        Err(FlashError::Unavailable)
    }

    fn sync(&mut self, _: File) -> Result<(), FlashError> {
        Err(FlashError::Unavailable)
    }

    fn replace(&mut self, _: File, _: &[u8]) -> Result<(), FlashError> {
        Err(FlashError::Unavailable)
    }

    fn remove(&mut self, _: File) -> Result<(), FlashError> {
        Err(FlashError::Unavailable)
    }
}

/// Files in memory that keep every promise, for tests: a clone is the same storage, for the agent that comes next.
#[derive(Clone, Debug, Default)]
pub struct InMemory(pub Rc<RefCell<BTreeMap<File, Vec<u8>>>>);

impl Flash for InMemory {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        self.0.borrow().iter().for_each(|(file, bytes)| each(*file, bytes.len() as u64));
        Ok(())
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        let files = self.0.borrow();
        let bytes = files.get(&file).ok_or(FlashError::Missing)?;
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        into.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
        Ok(rest.len().min(into.len()))
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.0.borrow_mut().entry(file).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, file: File) -> Result<(), FlashError> {
        self.0.borrow().get(&file).map(|_| ()).ok_or(FlashError::Missing)
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.0.borrow_mut().insert(file, bytes.to_vec());
        Ok(())
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        self.0.borrow_mut().remove(&file);
        Ok(())
    }
}
