//! Foreign bytes: addresses as types, the two traits through which they are read, and what can go wrong.

use core::fmt;

/// An address in a live process: an allegation, never a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u64);

/// A link-time address, as the ELF file states it: a live [`Addr`] less the load [`Bias`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Va(pub u64);

/// How far a position-independent program was moved when it was loaded; 0 for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bias(pub u64);

impl Addr {
    /// This address plus `bytes`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it leaves the address space.
    pub fn plus(self, bytes: u64) -> Result<Addr, Error> {
        self.0.checked_add(bytes).map(Addr).ok_or(Error::Malformed { what: "address", at: self.0 })
    }

    /// The link-time address this stands for.
    #[must_use]
    pub fn unbiased(self, bias: Bias) -> Va {
        Va(self.0.wrapping_sub(bias.0))
    }
}

impl Va {
    /// Where this is in the live process.
    #[must_use]
    pub fn biased(self, bias: Bias) -> Addr {
        Addr(self.0.wrapping_add(bias.0))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One stretch of foreign memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First byte.
    pub at: Addr,
    /// Length in bytes.
    pub len: usize,
}

/// Memory of a live process.
pub trait Memory {
    /// Reads all `runs`, in order, into `out`, whose length is their sum.
    ///
    /// # Errors
    /// [`Error::Unreadable`] with the first run that could not be read whole; [`Error::Gone`] when the
    /// process has ended. `out` is then partly written and must not be believed.
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error>;

    /// Reads one stretch.
    ///
    /// # Errors
    /// As [`Memory::read_runs`].
    fn read(&mut self, at: Addr, out: &mut [u8]) -> Result<(), Error> {
        self.read_runs(&[Run { at, len: out.len() }], out)
    }

    /// Reads one word of eight bytes.
    ///
    /// # Errors
    /// As [`Memory::read_runs`].
    fn word(&mut self, at: Addr) -> Result<u64, Error> {
        let mut bytes = [0u8; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// An executable file.
pub trait Image {
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when the file ends before `out` is full, or cannot be read.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error>;
}

/// A file that is in memory as a whole.
impl Image for &[u8] {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let unreadable = Error::Unreadable { at: offset };
        let start = usize::try_from(offset).map_err(|_| unreadable)?;
        let end = start.checked_add(out.len()).ok_or(unreadable)?;
        out.copy_from_slice(self.get(start..end).ok_or(unreadable)?);
        Ok(())
    }
}

/// What is wrong with foreign bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not a Go program.
    NotGo,
    /// Recognised, but nothing this version knows how to read: it says what.
    Unsupported(&'static str),
    /// A Go release without a runtime layout.
    UnsupportedGo {
        /// Minor version: 18 is Go 1.18.
        minor: u16,
    },
    /// Contradicts itself: not to be trusted.
    Malformed {
        /// Which structure.
        what: &'static str,
        /// Address or file offset.
        at: u64,
    },
    /// Could not be read.
    Unreadable {
        /// Address or file offset.
        at: u64,
    },
    /// The runtime has not initialised itself yet: try again.
    NotReady,
    /// The process has ended or runs another program now.
    Gone,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotGo => f.write_str("not a Go program"),
            Error::Unsupported(what) => write!(f, "unsupported: {what}"),
            Error::UnsupportedGo { minor } => {
                write!(f, "unsupported: Go 1.{minor} (supported: {})", crate::layout::supported())
            }
            Error::Malformed { what, at } => write!(f, "malformed: {what} at {at:#x}"),
            Error::Unreadable { at } => write!(f, "unreadable at {at:#x}"),
            Error::NotReady => f.write_str("Go runtime not initialised yet"),
            Error::Gone => f.write_str("process has ended"),
        }
    }
}

impl core::error::Error for Error {}

/// Little-endian integers from byte slices; an offset outside is an error, never a panic.
pub(crate) mod le {
    use super::Error;

    fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Error> {
        at.checked_add(N)
            .and_then(|end| bytes.get(at..end))
            .and_then(|slice| slice.try_into().ok())
            .ok_or(Error::Malformed { what: "record", at: at as u64 })
    }

    pub(crate) fn u8(bytes: &[u8], at: usize) -> Result<u8, Error> {
        array::<1>(bytes, at).map(|[b]| b)
    }

    pub(crate) fn u32(bytes: &[u8], at: usize) -> Result<u32, Error> {
        array(bytes, at).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(bytes: &[u8], at: usize) -> Result<u64, Error> {
        array(bytes, at).map(u64::from_le_bytes)
    }
}
