//! What a program says of how it was built: the Go release, which decides what layout is believed, and the
//! module it comes from.
//!
//! Format since Go 1.18: `cmd/link/internal/ld/data.go` (`buildinfo`), `debug/buildinfo/buildinfo.go`:
//! a 32-byte header whose byte 15 has bit 1 set, then two strings, each behind its length as a varint: the
//! release, and lines of words (`runtime/debug/mod.go`, `BuildInfo.String`) between two marks of 16 bytes.

mod release;

use heapless::String;

use crate::elf::{Elf, Extent};
use crate::memory::{Error, Image, Va, le};
use crate::pclntab::fill;
pub use release::GoVersion;

const MAGIC: &[u8] = b"\xff Go buildinf:";
const HEADER: usize = 32;
const FLAG_INLINE_STRINGS: u8 = 2;
/// Bytes of each data segment looked through when no section says where it is: as far as Go itself looks, so
/// that programs in other languages cost little.
const SEARCH_MAX: u64 = 1 << 20;
/// The same of all of them without section headers: in moved programs the function table, tens of megabytes, may
/// be before it.
const SEARCH_BARE_MAX: u64 = 256 << 20;
const ALIGN: usize = 16;
/// Bytes looked at: what is wanted stands in the first lines.
const READ: usize = 2048;
/// Bytes of the mark before the lines.
const MARK: usize = 16;
/// Program headers looked at in a file that is not read otherwise.
const PHDRS_MAX: u64 = 64;
/// Longest release that is remembered; longer ones are cut.
pub const RELEASE_MAX: usize = 48;
/// Longest path or version, likewise.
pub const PATH_MAX: usize = 192;

/// What a program says of itself. What it does not say, or says in no proper text, is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Go's release as written, without `go` before it: `1.24.11`, `1.26rc1`, `devel …`.
    pub go: String<RELEASE_MAX>,
    /// The release as a number, where it is one.
    pub release: Result<GoVersion, Error>,
    /// Import path of the main package.
    pub package: String<PATH_MAX>,
    /// Path of the module it is in; none for programs built without modules.
    pub module: String<PATH_MAX>,
    /// Version of that module; `(devel)` when it was built in its own source tree.
    pub version: String<PATH_MAX>,
}

impl BuildInfo {
    /// Reads what the program says.
    ///
    /// # Errors
    /// [`Error::NotGo`] when it says nothing; [`Error::Unsupported`] for programs of Go 1.17 and older;
    /// [`Error::Malformed`].
    pub fn read(elf: &Elf, image: &mut dyn Image) -> Result<BuildInfo, Error> {
        let start = match elf.buildinfo {
            Some(section) => section.file.offset,
            None => search_all(elf, image)?.ok_or(Error::NotGo)?,
        };
        read_at(image, start)
    }

    /// Reads what a program says whose headers [`Elf::parse`] refuses, above all one of 32 bits: only segments
    /// are looked at.
    ///
    /// # Errors
    /// As [`BuildInfo::read`].
    pub fn read_refused(image: &mut dyn Image) -> Result<BuildInfo, Error> {
        let mut header = [0u8; 64];
        // A file of 32 bits may be shorter than a header of 64.
        fill(image, 0, &mut header)?;
        let wide = match header {
            [0x7f, b'E', b'L', b'F', 1, 1, ..] => false,
            [0x7f, b'E', b'L', b'F', 2, 1, ..] => true,
            _ => return Err(Error::NotGo),
        };
        // Elf32_Ehdr, Elf64_Ehdr: e_phoff, e_phentsize, e_phnum.
        let half = |at| Ok::<u64, Error>(u64::from(le::u32(&header, at)? & 0xffff));
        let (table, size, count) = match wide {
            true => (le::u64(&header, 32)?, half(54)?, half(56)?),
            false => (le::u32(&header, 28)?.into(), half(42)?, half(44)?),
        };
        for i in 0..count.min(PHDRS_MAX) {
            let Some((va, file)) = segment(image, table.saturating_add(i * size), wide)? else { continue };
            if let Some(start) = search(image, va, file, SEARCH_MAX)? {
                return read_at(image, start);
            }
        }
        Err(Error::NotGo)
    }
}

/// The release alone.
///
/// # Errors
/// As [`BuildInfo::read`], and [`Error::Unsupported`] for what is no plain release: no table describes its runtime.
pub fn go_version(elf: &Elf, image: &mut dyn Image) -> Result<GoVersion, Error> {
    BuildInfo::read(elf, image)?.release
}

fn read_at(image: &mut dyn Image, start: u64) -> Result<BuildInfo, Error> {
    let mut bytes = [0u8; READ];
    let len = fill(image, start, &mut bytes)?;
    parse(bytes.get(..len).unwrap_or_default(), start)
}

/// A writable segment of the program header at `at`, of 64 or 32 bits.
fn segment(image: &mut dyn Image, at: u64, wide: bool) -> Result<Option<(Va, Extent)>, Error> {
    const PT_LOAD: u32 = 1;
    const PF_W: u32 = 2;
    let mut header = [0u8; 56];
    let bytes = header.get_mut(..if wide { 56 } else { 32 }).unwrap_or_default();
    image.read_at(at, bytes)?;
    let word = |at| le::u32(&header, at);
    let (flags, va, offset, len) = match wide {
        true => (word(4)?, le::u64(&header, 16)?, le::u64(&header, 8)?, le::u64(&header, 32)?),
        false => (word(24)?, word(8)?.into(), word(4)?.into(), word(16)?.into()),
    };
    let wanted = word(0)? == PT_LOAD && flags & PF_W != 0;
    Ok(wanted.then_some((Va(va), Extent { offset, len })))
}

/// Reads build information out of its bytes, found at `at`.
///
/// # Errors
/// As [`BuildInfo::read`].
pub fn parse(bytes: &[u8], at: u64) -> Result<BuildInfo, Error> {
    if !bytes.starts_with(MAGIC) {
        return Err(Error::NotGo);
    }
    if bytes.get(15).is_none_or(|flags| flags & FLAG_INLINE_STRINGS == 0) {
        return Err(Error::Unsupported("program of Go 1.17 or older"));
    }
    let malformed = Error::Malformed { what: "build information", at };
    // A release of 128 bytes and more would need a second length byte: none has been that long.
    let len = usize::from(*bytes.get(HEADER).filter(|len| **len < 0x80).ok_or(malformed)?);
    let rest = bytes.get(HEADER + 1..).ok_or(malformed)?;
    let (text, rest) = rest.split_at_checked(len).unwrap_or((rest, &[]));
    let text = core::str::from_utf8(text).map_err(|_| malformed)?;
    let release = release::parse(text).ok_or(malformed)?;
    let mut info = BuildInfo {
        go: proper(text.strip_prefix("go").unwrap_or(text)),
        release,
        package: String::new(),
        module: String::new(),
        version: String::new(),
    };
    info.read_lines(lines(rest).unwrap_or_default());
    Ok(info)
}

/// The bytes between the marks of the second string, or as many as there are.
fn lines(bytes: &[u8]) -> Option<&[u8]> {
    let (mut len, mut used) = (0usize, 0usize);
    for byte in bytes.iter().take(4) {
        len |= usize::from(byte & 0x7f) << (7 * used);
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let end = used.checked_add(len)?.checked_sub(MARK)?;
    bytes.get(used + MARK..end.min(bytes.len()))
}

impl BuildInfo {
    /// `path`, `mod` and their values, separated by tabs; only whole lines.
    fn read_lines(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else { return };
            let mut words =
                line.split(|byte| *byte == b'\t').map(|w| core::str::from_utf8(w).unwrap_or_default());
            let mut word = || words.next().unwrap_or_default();
            match word() {
                "path" if self.package.is_empty() => self.package = proper(word()),
                "mod" if self.module.is_empty() => {
                    (self.module, self.version) = (proper(word()), proper(word()));
                }
                // What it is made of, and how.
                "dep" | "build" => return,
                _ => {}
            }
        }
    }
}

/// A text as it may be shown on a terminal: none with control characters, and a long one is cut.
fn proper<const N: usize>(text: &str) -> String<N> {
    const CUT: &str = "…";
    let mut proper = String::new();
    if text.chars().any(char::is_control) {
        return proper;
    }
    let whole = text.len() <= N;
    for c in text.chars() {
        if !whole && proper.len() + c.len_utf8() + CUT.len() > N {
            break;
        }
        let _ = proper.push(c);
    }
    if !whole {
        let _ = proper.push_str(CUT);
    }
    proper
}

/// Looks through the data of a program in which no section says where it is.
fn search_all(elf: &Elf, image: &mut dyn Image) -> Result<Option<u64>, Error> {
    let mut left = SEARCH_BARE_MAX;
    for load in elf.loads.iter().filter(|load| load.writable) {
        let most = if elf.sections { SEARCH_MAX } else { left };
        if let Some(start) = search(image, load.va, load.file, most)? {
            return Ok(Some(start));
        }
        left = left.saturating_sub(load.file.len);
    }
    Ok(None)
}

/// Looks through a segment's first `most` bytes at addresses that are multiples of 16, as Go's own reader does.
fn search(image: &mut dyn Image, va: Va, file: Extent, most: u64) -> Result<Option<u64>, Error> {
    let mut bytes = [0u8; 4096];
    let mut at = va.0.wrapping_neg() % ALIGN as u64;
    while at < file.len.min(most) {
        let size = usize::try_from((file.len - at).min(bytes.len() as u64)).unwrap_or(0);
        let piece = bytes.get_mut(..size).ok_or(Error::NotGo)?;
        image.read_at(file.offset.saturating_add(at), piece)?;
        if let Some(i) = piece.chunks(ALIGN).position(|chunk| chunk.starts_with(MAGIC)) {
            return Ok(Some(file.offset.saturating_add(at).saturating_add((i * ALIGN) as u64)));
        }
        at += size as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    fn blob(version: &str, lines: &str) -> alloc::vec::Vec<u8> {
        let mut bytes = alloc::vec![0u8; HEADER];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[14] = 8;
        bytes[15] = FLAG_INLINE_STRINGS;
        bytes.push(u8::try_from(version.len()).unwrap());
        bytes.extend_from_slice(version.as_bytes());
        if lines.is_empty() {
            bytes.push(0);
            return bytes;
        }
        let len = lines.len() + 2 * MARK;
        bytes.extend([0x80 | u8::try_from(len & 0x7f).unwrap(), u8::try_from(len >> 7).unwrap()]);
        bytes.extend([[7u8; MARK].as_slice(), lines.as_bytes(), &[9; MARK]].concat());
        bytes
    }

    fn release(version: &str) -> Result<GoVersion, Error> {
        parse(&blob(version, ""), 0)?.release
    }

    #[test]
    fn versions_as_go_writes_them() {
        for (text, minor, patch) in
            [("go1.24.11", 24, 11), ("go1.25", 25, 0), ("go1.19.8 X:boringcrypto", 19, 8)]
        {
            assert_eq!(release(text), Ok(GoVersion { minor, patch }), "{text}");
            assert_eq!(parse(&blob(text, ""), 0).unwrap().go, text[2..]);
        }
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for other in ["devel go1.24-abcdef", "go1.26rc1", "go1.26.6-X:staticlockranking"] {
            assert!(matches!(release(other), Err(Error::Unsupported(_))), "{other}");
            assert_eq!(parse(&blob(other, ""), 0).unwrap().go, other.strip_prefix("go").unwrap_or(other));
        }
        for bad in ["", "go", "go1.", "go1.99999999999", "go1.24.999"] {
            assert!(matches!(parse(&blob(bad, ""), 0), Err(Error::Malformed { .. })), "{bad}");
        }
        let old = {
            let mut b = blob("go1.17", "");
            b[15] = 0;
            b
        };
        assert!(matches!(parse(&old, 0), Err(Error::Unsupported(_))));
        assert_eq!(parse(b"\x7fELF", 0), Err(Error::NotGo));
    }

    #[test]
    fn modules_as_go_writes_them() {
        let said = |lines: &str| {
            let info = parse(&blob("go1.24.11", lines), 0).unwrap();
            [info.package, info.module, info.version].map(|text| text.as_str().to_owned())
        };
        let whole = "path\tvan.example/ota/cmd/otad\nmod\tvan.example/ota\tv1.2.3\th1:x=\n\
                     dep\tvan.example/log\tv0.1.0\t\nbuild\t-compiler=gc\n";
        assert_eq!(said(whole), ["van.example/ota/cmd/otad", "van.example/ota", "v1.2.3"]);
        assert_eq!(said("path\tx\nmod\tx\t(devel)\t\n"), ["x", "x", "(devel)"]);
        assert_eq!(said("path\tcommand-line-arguments\nbuild\t-a=b\n"), ["command-line-arguments", "", ""]);
        // Not proper text, not a whole line, not what it should be, too late.
        assert_eq!(said("path\tx\u{1b}[2J\nmod\tx"), ["", "", ""]);
        assert_eq!(said("mod\npath\n\t\n"), ["", "", ""]);
        assert_eq!(said("dep\tx\tv1\t\nmod\tx\tv1\n"), ["", "", ""]);
        let long = said(&alloc::format!("path\t{}\nmod\t{}\t1\n", "ä".repeat(96), "ö".repeat(97)));
        assert_eq!((long[0].len(), long[1].as_str()), (192, &*("ö".repeat(94) + "…")));
    }

    #[test]
    fn every_cut_is_total() {
        let whole = blob("go1.24.11", "path\ta/b\nmod\ta\tv1.0.0\t\n");
        for end in 0..whole.len() {
            match parse(&whole[..end], 0) {
                Ok(info) => assert!("a/b".starts_with(info.package.as_str()), "{end}"),
                Err(error) => assert!(end < HEADER + 10, "{end}: {error}"),
            }
        }
    }

    /// Elf32_Ehdr and one Elf32_Phdr, with the build information in the segment.
    #[test]
    fn of_a_32_bit_program_too() {
        let mut file = alloc::vec![0u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x01\x01\x01");
        put(28, &52u32.to_le_bytes());
        put(42, &32u16.to_le_bytes());
        put(44, &1u16.to_le_bytes());
        let header = [1u32, 0x108, 0x80_0008, 0, 0x800, 0x800, 6, 4096].map(u32::to_le_bytes);
        put(52, &header.concat());
        put(0x200, &blob("go1.24.11", "path\tx\n"));
        let info = BuildInfo::read_refused(&mut file.as_slice()).unwrap();
        assert_eq!((info.go.as_str(), info.package.as_str()), ("1.24.11", "x"));
        assert_eq!(
            Elf::parse(&mut file.as_slice()).unwrap_err(),
            Error::Unsupported("32-bit program: only 64-bit programs are read")
        );
        file[0x200] = 0;
        assert_eq!(BuildInfo::read_refused(&mut file.as_slice()), Err(Error::NotGo));
        assert_eq!(BuildInfo::read_refused(&mut [0u8; 3].as_slice()), Err(Error::NotGo));
    }
}
