//! The Go version a program was built with, from its build information.
//!
//! Format since Go 1.18: `cmd/link/internal/ld/data.go` (`buildinfo`), `debug/buildinfo/buildinfo.go`:
//! a 32-byte header whose byte 15 has bit 1 set, then two strings, each behind its length as a varint.

use core::fmt;

use crate::elf::{Elf, Extent};
use crate::memory::{Error, Image};

const MAGIC: &[u8] = b"\xff Go buildinf:";
const HEADER: usize = 32;
const FLAG_INLINE_STRINGS: u8 = 2;
/// Bytes of each data segment looked through when no section says where it is: as far as Go itself looks, so
/// that programs in other languages cost little.
const SEARCH_MAX: u64 = 1 << 20;
/// The same without section headers: in moved programs the function table, tens of megabytes, may be before it.
const SEARCH_BARE_MAX: u64 = 256 << 20;
const ALIGN: usize = 16;

/// A Go release: `go1.24.11` is `{ minor: 24, patch: 11 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoVersion {
    /// The 24 of 1.24.11.
    pub minor: u16,
    /// The 11 of 1.24.11; 0 for release candidates.
    pub patch: u8,
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// Reads the version.
///
/// # Errors
/// [`Error::NotGo`] when there is no build information; [`Error::Unsupported`] for programs of Go 1.17 and
/// older and of development trees, whose runtime no table describes; [`Error::Malformed`].
pub fn go_version(elf: &Elf, image: &mut dyn Image) -> Result<GoVersion, Error> {
    let start = match elf.buildinfo {
        Some(section) => section.file.offset,
        None => search(elf, image)?,
    };
    let mut bytes = [0u8; HEADER + 64];
    if image.read_at(start, &mut bytes).is_err() {
        image.read_at(start, bytes.get_mut(..HEADER + 16).unwrap_or_default())?;
    }
    parse(&bytes, start)
}

/// Reads a version out of the bytes of a build information blob found at `at`.
///
/// # Errors
/// As [`go_version`].
pub fn parse(bytes: &[u8], at: u64) -> Result<GoVersion, Error> {
    if !bytes.starts_with(MAGIC) {
        return Err(Error::NotGo);
    }
    if bytes.get(15).is_none_or(|flags| flags & FLAG_INLINE_STRINGS == 0) {
        return Err(Error::Unsupported("program of Go 1.17 or older"));
    }
    let malformed = Error::Malformed { what: "build information", at };
    // A version of 128 bytes and more would need a second length byte: none has been that long.
    let len = usize::from(*bytes.get(HEADER).filter(|len| **len < 0x80).ok_or(malformed)?);
    let text = bytes.get(HEADER + 1..).ok_or(malformed)?;
    let text = text.get(..len.min(text.len())).ok_or(malformed)?;
    version(core::str::from_utf8(text).map_err(|_| malformed)?).ok_or(malformed)?
}

/// `go1.24.11`, `go1.25`, `go1.26rc1`, `go1.24.11 X:boringcrypto`; `None` for what is no version at all.
fn version(text: &str) -> Option<Result<GoVersion, Error>> {
    // "devel go1.24-0123abc", since Go 1.25 "go1.25-devel_0123abc" (cmd/dist/build.go, findgoversion).
    if text.starts_with("devel") || text.contains("-devel") {
        return Some(Err(Error::Unsupported("program of a development version of Go")));
    }
    let rest = text.strip_prefix("go1.")?;
    let (minor, rest) = leading_number(rest)?;
    let patch = rest.strip_prefix('.').and_then(leading_number).map_or(0, |(patch, _)| patch);
    Some(Ok(GoVersion { minor: u16::try_from(minor).ok()?, patch: u8::try_from(patch).ok()? }))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// Without section headers: in the writable segments, at addresses that are multiples of 16, as Go's own reader
/// does.
fn search(elf: &Elf, image: &mut dyn Image) -> Result<u64, Error> {
    let most = if elf.sections { SEARCH_MAX } else { SEARCH_BARE_MAX };
    let mut bytes = [0u8; 4096];
    for load in elf.loads.iter().filter(|load| load.writable) {
        let Extent { offset, len } = load.file;
        let mut at = load.va.0.wrapping_neg() % ALIGN as u64;
        while at < len.min(most) {
            let size = usize::try_from((len - at).min(bytes.len() as u64)).unwrap_or(0);
            let piece = bytes.get_mut(..size).ok_or(Error::NotGo)?;
            image.read_at(offset.saturating_add(at), piece)?;
            if let Some(i) = piece.chunks(ALIGN).position(|chunk| chunk.starts_with(MAGIC)) {
                return Ok(offset.saturating_add(at).saturating_add((i * ALIGN) as u64));
            }
            at += size as u64;
        }
    }
    Err(Error::NotGo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(version: &str) -> alloc::vec::Vec<u8> {
        let mut bytes = alloc::vec![0u8; HEADER];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[14] = 8;
        bytes[15] = FLAG_INLINE_STRINGS;
        bytes.push(u8::try_from(version.len()).unwrap());
        bytes.extend_from_slice(version.as_bytes());
        bytes
    }

    #[test]
    fn versions_as_go_writes_them() {
        for (text, minor, patch) in [
            ("go1.24.11", 24, 11),
            ("go1.25", 25, 0),
            ("go1.26rc1", 26, 0),
            ("go1.19.8 X:boringcrypto", 19, 8),
        ] {
            assert_eq!(parse(&blob(text), 0), Ok(GoVersion { minor, patch }), "{text}");
        }
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for devel in ["devel go1.24-abcdef", "go1.27-devel_abcdef", "go1.27-devel_abcdef X:nodwarf5"] {
            assert!(matches!(parse(&blob(devel), 0), Err(Error::Unsupported(_))), "{devel}");
        }
        for bad in ["", "go", "go1.", "go1.99999999999", "go1.24.999"] {
            assert!(matches!(parse(&blob(bad), 0), Err(Error::Malformed { .. })), "{bad}");
        }
        let old = {
            let mut b = blob("go1.17");
            b[15] = 0;
            b
        };
        assert!(matches!(parse(&old, 0), Err(Error::Unsupported(_))));
        assert_eq!(parse(b"\x7fELF", 0), Err(Error::NotGo));
    }
}
