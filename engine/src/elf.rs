//! The executable file: segments, the few sections that matter, and the few symbols that matter, read in
//! bounded pieces whatever the file claims its sizes to be.

use heapless::Vec;
use object::elf;

use crate::layout::Arch;
use crate::memory::{Addr, Bias, Error, Image, Va, le};

/// Loadable segments that a program may have.
const LOADS_MAX: usize = 16;
/// Program headers looked at.
const PHDRS_MAX: u16 = 64;
/// Section headers looked at. Go programs have 20 to 40; with C and DWARF about 60.
const SECTIONS_MAX: u16 = 256;
/// Symbols a program may have: the largest Go programs known have half a million.
const SYMBOLS_MAX: u64 = 2_000_000;
/// Bytes their names may take, likewise: a file full of holes claims gigabytes at no cost.
pub(crate) const NAMES_MAX: u64 = 128 << 20;

/// A stretch of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A section: where it is in the file and where it is linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// In the file.
    pub file: Extent,
    /// Link-time address, 0 when not loaded.
    pub va: Va,
}

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Link-time address.
    pub va: Va,
    /// In the file.
    pub file: Extent,
    /// Length in memory, in bytes; what is beyond the file's part is zero at the start.
    pub memory_len: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it may be executed.
    pub executable: bool,
}

/// What an ELF file says of itself, as far as it concerns Go.
#[derive(Clone, Debug)]
pub struct Elf {
    /// Its processor.
    pub arch: Arch,
    /// Whether it is position-independent (`ET_DYN`).
    pub pie: bool,
    /// Where it begins to run, which the kernel also tells of the live process (`AT_ENTRY`).
    pub entry: Va,
    /// Loadable segments in file order.
    pub loads: Vec<Load, LOADS_MAX>,
    /// Whether there are section headers.
    pub sections: bool,
    /// `.go.buildinfo`.
    pub buildinfo: Option<Section>,
    /// `.gopclntab`, `.data.rel.ro.gopclntab`.
    pub pclntab: Option<Section>,
    /// `.symtab` and its string table.
    pub symbols: Option<(Extent, Extent)>,
    /// `.dynsym` and its string table.
    pub dynamic_symbols: Option<(Extent, Extent)>,
    /// `.eh_frame`: how to unwind C.
    pub eh_frame: Option<Section>,
    /// `.eh_frame_hdr`, its index; static programs may have none.
    pub eh_frame_index: Option<Section>,
    /// What the dynamic linker reads (`PT_DYNAMIC`); programs that it does not load have none.
    pub dynamic: Option<Extent>,
}

impl Elf {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`Error::NotGo`] for what is no ELF file, [`Error::Unsupported`] for 32-bit, big-endian or other
    /// processors, [`Error::Malformed`] where the headers contradict themselves.
    pub fn parse(image: &mut dyn Image) -> Result<Elf, Error> {
        let mut header = [0u8; EHDR];
        image.read_at(0, &mut header).map_err(|_| Error::NotGo)?;
        if !header.starts_with(&elf::ELFMAG) {
            return Err(Error::NotGo);
        }
        // e_ident[EI_CLASS], e_ident[EI_DATA].
        let (class, data) = (le::u8(&header, 4)?, le::u8(&header, 5)?);
        if class == elf::ELFCLASS32 {
            return Err(Error::Unsupported("32-bit program: only 64-bit programs are read"));
        }
        if class != elf::ELFCLASS64 || data != elf::ELFDATA2LSB {
            return Err(Error::Unsupported("big-endian program"));
        }
        // e_machine, e_type, e_entry.
        let arch = match half(&header, 18)? {
            elf::EM_X86_64 => Arch::Amd64,
            elf::EM_AARCH64 => Arch::Arm64,
            _ => return Err(Error::Unsupported("processor other than amd64 and arm64")),
        };
        let pie = match half(&header, 16)? {
            elf::ET_EXEC => false,
            elf::ET_DYN => true,
            _ => return Err(Error::NotGo),
        };
        let entry = Va(le::u64(&header, 24)?);
        let mut elf = Elf {
            arch,
            pie,
            entry,
            loads: Vec::new(),
            sections: false,
            buildinfo: None,
            pclntab: None,
            symbols: None,
            dynamic_symbols: None,
            eh_frame: None,
            eh_frame_index: None,
            dynamic: None,
        };
        elf.read_segments(image, &header)?;
        elf.read_sections(image, &header)?;
        Ok(elf)
    }

    fn read_segments(&mut self, image: &mut dyn Image, header: &[u8; EHDR]) -> Result<(), Error> {
        // e_phoff, e_phnum, e_phentsize.
        let (table, count) = (le::u64(header, 32)?, half(header, 56)?);
        if count > PHDRS_MAX || usize::from(half(header, 54)?) != PHDR {
            return Err(Error::Malformed { what: "program headers", at: table });
        }
        for i in 0..u64::from(count) {
            let at = table_entry(table, i, PHDR)?;
            let mut ph = [0u8; PHDR];
            image.read_at(at, &mut ph)?;
            // p_type, p_flags; p_offset, p_filesz; p_vaddr, p_memsz.
            let (kind, flags) = (le::u32(&ph, 0)?, le::u32(&ph, 4)?);
            let file = Extent { offset: le::u64(&ph, 8)?, len: le::u64(&ph, 32)? };
            let (va, memory_len) = (Va(le::u64(&ph, 16)?), le::u64(&ph, 40)?);
            match kind {
                elf::PT_DYNAMIC => self.dynamic = Some(file),
                elf::PT_GNU_EH_FRAME => self.eh_frame_index = Some(Section { file, va }),
                elf::PT_LOAD => {
                    if va.0.checked_add(memory_len).is_none() {
                        return Err(Error::Malformed { what: "segment", at });
                    }
                    let (writable, executable) = (flags & elf::PF_W != 0, flags & elf::PF_X != 0);
                    let load = Load { va, file, memory_len, writable, executable };
                    self.loads.push(load).map_err(|_| Error::Unsupported("more than 16 segments"))?;
                }
                _ => {}
            }
        }
        if self.loads.is_empty() {
            return Err(Error::Malformed { what: "no loadable segment", at: 0 });
        }
        Ok(())
    }

    /// Sections are optional: a program can be stripped of their table, and one that contradicts itself is as
    /// good as none.
    fn read_sections(&mut self, image: &mut dyn Image, header: &[u8; EHDR]) -> Result<(), Error> {
        // e_shoff, e_shnum, e_shentsize, e_shstrndx.
        let (table, count) = (le::u64(header, 40)?, half(header, 60)?);
        self.sections = table != 0 && count != 0;
        if !self.sections {
            return Ok(());
        }
        if count > SECTIONS_MAX || usize::from(half(header, 58)?) != SHDR {
            return Err(Error::Malformed { what: "section headers", at: table });
        }
        let names = SectionHeader::read(image, table, half(header, 62)?.into())?.file.offset;
        for i in 0..u64::from(count) {
            let _ = self.read_section(image, table, i, names);
        }
        Ok(())
    }

    fn read_section(&mut self, image: &mut dyn Image, table: u64, i: u64, names: u64) -> Result<(), Error> {
        let SectionHeader { name, kind, file, va, link } = SectionHeader::read(image, table, i)?;
        if matches!(kind, elf::SHT_SYMTAB | elf::SHT_DYNSYM) {
            let strings = SectionHeader::read(image, table, link.into())?.file;
            let which = if kind == elf::SHT_SYMTAB { &mut self.symbols } else { &mut self.dynamic_symbols };
            *which = Some((file, strings));
        }
        if kind != elf::SHT_PROGBITS {
            return Ok(());
        }
        let mut buf = [0u8; 32];
        let found = Some(Section { file, va });
        match read_name(image, names.saturating_add(name.into()), &mut buf) {
            Ok(b".go.buildinfo") => self.buildinfo = found,
            Ok(b".eh_frame") => self.eh_frame = found,
            Ok(b".gopclntab" | b".data.rel.ro.gopclntab") => self.pclntab = found,
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// How far the program was moved, from where the live process began to run.
    ///
    /// # Errors
    /// [`Error::Malformed`] when that is not a whole number of pages, or a fixed program was moved.
    pub fn bias(&self, entry: Addr) -> Result<Bias, Error> {
        let bias = entry.0.wrapping_sub(self.entry.0);
        if !bias.is_multiple_of(4096) || (!self.pie && bias != 0) {
            return Err(Error::Malformed { what: "entry address", at: entry.0 });
        }
        Ok(Bias(bias))
    }

    /// The file offset of a link-time address.
    #[must_use]
    pub fn file_offset(&self, va: Va) -> Option<u64> {
        self.loads.iter().find_map(|load| {
            let within = va.0.checked_sub(load.va.0)?;
            (within < load.file.len).then(|| load.file.offset.checked_add(within))?
        })
    }

    /// The link-time address of what stands at this offset of the file; `None` for what is not loaded.
    #[must_use]
    pub fn va(&self, offset: u64) -> Option<Va> {
        self.loads.iter().find_map(|load| {
            let within = offset.checked_sub(load.file.offset)?;
            (within < load.file.len).then(|| load.va.0.checked_add(within).map(Va))?
        })
    }

    /// Whether a variable of so many bytes can be there: inside of one writable segment.
    #[must_use]
    pub fn is_variable(&self, at: Va, bytes: u64) -> bool {
        self.loads.iter().filter(|load| load.writable).any(|load| {
            let within = at.0.checked_sub(load.va.0).and_then(|within| within.checked_add(bytes));
            within.is_some_and(|end| end <= load.memory_len)
        })
    }

    /// Looks up several symbols in one pass; the answer has one entry per name, `None` where it is absent.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a symbol table or with an enormous one; [`Error::Unreadable`] or
    /// [`Error::Malformed`] where the tables do not hold what the headers promise.
    pub fn symbols<const N: usize>(
        &self,
        image: &mut dyn Image,
        names: [&[u8]; N],
    ) -> Result<[Option<Va>; N], Error> {
        let (symbols, strings) = self.symbols.ok_or(Error::Unsupported("program without a symbol table"))?;
        if symbols.len / SYM as u64 > SYMBOLS_MAX || strings.len > NAMES_MAX {
            return Err(Error::Unsupported("symbol table larger than any known program's"));
        }
        let wanted = name_offsets(image, strings, names)?;
        let mut found = [None; N];
        let count = symbols.len / SYM as u64;
        let mut bytes = [0u8; SYM * 170];
        let mut next = 0u64;
        while next < count {
            let batch = (count - next).min(170);
            let len = usize::try_from(batch).unwrap_or(0) * SYM;
            let at = table_entry(symbols.offset, next, SYM)?;
            let part = bytes.get_mut(..len).ok_or(Error::Malformed { what: "symbols", at })?;
            image.read_at(at, part)?;
            for entry in part.chunks_exact(SYM) {
                // st_name, st_shndx, st_value.
                let name = le::u32(entry, 0)?;
                let hit = wanted.iter().find(|(offset, _)| *offset == name);
                if let Some(slot) = hit.and_then(|(_, which)| found.get_mut(*which))
                    && half(entry, 6)? != elf::SHN_UNDEF
                {
                    *slot = Some(Va(le::u64(entry, 8)?));
                }
            }
            next += batch;
        }
        Ok(found)
    }
}

/// Bytes of an `Elf64_Ehdr`, `Elf64_Phdr`, `Elf64_Shdr` and `Elf64_Sym` (elf.h).
const EHDR: usize = 64;
const PHDR: usize = 56;
const SHDR: usize = 64;
const SYM: usize = 24;
/// Places in the string table where a wanted name may stand (GNU ld shares suffixes between names).
pub(crate) const NAME_HITS_MAX: usize = 32;

fn half(bytes: &[u8], at: usize) -> Result<u16, Error> {
    Ok(u16::from_le_bytes([le::u8(bytes, at)?, le::u8(bytes, at + 1)?]))
}

fn table_entry(table: u64, index: u64, size: usize) -> Result<u64, Error> {
    index
        .checked_mul(size as u64)
        .and_then(|offset| table.checked_add(offset))
        .ok_or(Error::Malformed { what: "ELF table", at: table })
}

/// An `Elf64_Shdr`.
struct SectionHeader {
    /// Place of its name in the table of names.
    name: u32,
    kind: u32,
    file: Extent,
    va: Va,
    /// Another section that belongs to it.
    link: u32,
}

impl SectionHeader {
    fn read(image: &mut dyn Image, table: u64, index: u64) -> Result<SectionHeader, Error> {
        let mut sh = [0u8; SHDR];
        image.read_at(table_entry(table, index, SHDR)?, &mut sh)?;
        Ok(SectionHeader {
            name: le::u32(&sh, 0)?,
            kind: le::u32(&sh, 4)?,
            va: Va(le::u64(&sh, 16)?),
            file: Extent { offset: le::u64(&sh, 24)?, len: le::u64(&sh, 32)? },
            link: le::u32(&sh, 40)?,
        })
    }
}

/// A NUL-terminated name of up to 32 bytes; a longer one is none that we look for.
fn read_name<'b>(image: &mut dyn Image, at: u64, buf: &'b mut [u8; 32]) -> Result<&'b [u8], Error> {
    // The table may end before 32 bytes are read: then read byte by byte.
    if image.read_at(at, buf).is_err() {
        for (i, byte) in buf.iter_mut().enumerate() {
            let mut one = [0u8; 1];
            image.read_at(at.saturating_add(i as u64), &mut one)?;
            let [b] = one;
            *byte = b;
            if b == 0 {
                break;
            }
        }
    }
    let end = buf.iter().position(|b| *b == 0).ok_or(Error::Malformed { what: "section name", at })?;
    buf.get(..end).ok_or(Error::Malformed { what: "section name", at })
}

/// Streams the string table once and notes where each wanted name ends a string.
pub(crate) fn name_offsets<const N: usize>(
    image: &mut dyn Image,
    strings: Extent,
    names: [&[u8]; N],
) -> Result<Vec<(u32, usize), NAME_HITS_MAX>, Error> {
    const OVERLAP: usize = 64;
    let mut found = Vec::new();
    let mut bytes = [0u8; 4096];
    let total = strings.len;
    // `kept` bytes from the end of the last piece stand before the new ones: names across the border.
    let (mut at, mut kept) = (0u64, 0usize);
    while at < total {
        let fresh = usize::try_from((total - at).min((bytes.len() - OVERLAP) as u64)).unwrap_or(0);
        let end = kept + fresh;
        let offset = strings.offset.saturating_add(at);
        image.read_at(offset, bytes.get_mut(kept..end).ok_or(Error::Malformed { what: "names", at })?)?;
        let piece = bytes.get(..end).unwrap_or_default();
        let piece_at = at - kept as u64;
        for nul in (kept..end).filter(|i| piece.get(*i) == Some(&0)) {
            let before = piece.get(..nul).unwrap_or_default();
            for (which, name) in names.iter().enumerate().filter(|(_, name)| before.ends_with(name)) {
                let start = piece_at + (nul - name.len()) as u64;
                let start = u32::try_from(start).map_err(|_| Error::Malformed { what: "names", at })?;
                found.push((start, which)).map_err(|_| Error::Unsupported("ambiguous symbol names"))?;
            }
        }
        let keep = end.min(OVERLAP);
        bytes.copy_within(end - keep..end, 0);
        kept = keep;
        at += fresh as u64;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec as Bytes;

    impl Image for Bytes<u8> {
        fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.as_slice().read_at(offset, out)
        }
    }

    #[test]
    fn names_are_found_across_pieces_and_as_suffixes() {
        let mut table = alloc::vec![b'x'; 9000];
        for (at, name) in [(1, "runtime.sched"), (4025, "runtime.allgs"), (8100, "my.runtime.sched")] {
            table[at - 1] = 0;
            table[at..at + name.len()].copy_from_slice(name.as_bytes());
            table[at + name.len()] = 0;
        }
        let extent = Extent { offset: 0, len: 9000 };
        let found = name_offsets(&mut table, extent, [b"runtime.allgs", b"runtime.sched"]).unwrap();
        assert_eq!(found.as_slice(), [(1, 1), (4025, 0), (8103, 1)]);
    }

    #[test]
    fn rubbish_is_not_go() {
        assert_eq!(Elf::parse(&mut Bytes::new()).unwrap_err(), Error::NotGo);
        assert_eq!(Elf::parse(&mut alloc::vec![0u8; 4096]).unwrap_err(), Error::NotGo);
    }
}
