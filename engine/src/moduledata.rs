//! What the linker says of the program, found without a symbol: `runtime/symtab.go`, `moduledata`.
//!
//! It begins with the addresses of the function table and of the names in it, one after the other: a pair of
//! words that stands nowhere else. In a program that was linked to be moved these words may be zero in the
//! file, and stand in the relocations instead (`R_X86_64_RELATIVE`, `R_AARCH64_RELATIVE`).

use heapless::Vec;

use crate::elf::{Elf, Extent};
use crate::layout::{Arch, Moduledata};
use crate::memory::{Error, Image, Va, le};
use crate::pclntab::{InlineTrees, Pclntab};

/// Bytes read in one piece; a multiple of words and of relocations.
const PIECE: usize = 24 * 168;
/// Bytes of data searched at most.
const DATA_MAX: u64 = 256 << 20;
/// Bytes of relocations looked at, at most; the largest known programs have 30 MB.
const RELA_MAX: u64 = 256 << 20;
/// `Elf64_Rela`: offset, type, addend.
const RELA: usize = 24;
/// Words that may by chance be equal to an address looked for.
const HITS_MAX: usize = 64;
const R_X86_64_RELATIVE: u64 = 8;
const R_AARCH64_RELATIVE: u64 = 1027;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
/// Entries of the dynamic section looked at.
const DYNAMIC_MAX: u64 = 128;

/// Where a program's `moduledata` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Link-time address of the struct.
    pub at: Va,
    /// Relocations, when its words stand there.
    relocations: Option<Extent>,
}

impl Module {
    /// Finds it from the function table at file offset `table.base`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is none or more than one; [`Error::Malformed`], [`Error::Unreadable`].
    pub fn find(
        elf: &Elf,
        image: &mut dyn Image,
        layout: &Moduledata,
        table: &Pclntab,
    ) -> Result<Module, Error> {
        let none = Error::Unsupported("Go program without a findable moduledata");
        let pair = [table.base, table.names].map(|offset| elf.va(offset));
        let [Some(header), Some(names)] = pair else { return Err(none) };
        let gap = u64::from(layout.funcnametab.saturating_sub(layout.pc_header));
        let mut hits = Vec::new();
        for load in elf.loads.iter().filter(|load| load.writable) {
            in_data(image, load.file, load.va, [header, names], &mut hits)?;
        }
        let mut module = Module { at: Va(0), relocations: None };
        let mut start = only(&hits, gap)?;
        if start.is_none() {
            let relocations = relocations(elf, image)?.ok_or(none)?;
            module.relocations = Some(relocations);
            hits.clear();
            each_relocation(elf.arch, image, relocations, &mut |at, addend| {
                note(at, addend, [header, names], &mut hits)
            })?;
            start = only(&hits, gap)?;
        }
        let start = start.ok_or(none)?.0.checked_sub(layout.pc_header.into()).ok_or(none)?;
        Ok(Module { at: Va(start), ..module })
    }

    /// The address in the member at `offset`, as a link-time address.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the member is not in the file; [`Error::Unreadable`].
    pub fn address(&self, elf: &Elf, image: &mut dyn Image, offset: u16) -> Result<Va, Error> {
        let malformed = Error::Malformed { what: "moduledata", at: self.at.0 };
        let at = self.at.0.checked_add(offset.into()).map(Va).ok_or(malformed)?;
        if let Some(relocations) = self.relocations {
            let mut value = None;
            each_relocation(elf.arch, image, relocations, &mut |place, addend| {
                if place == at {
                    value = Some(addend);
                }
                Ok(())
            })?;
            return value.ok_or(malformed);
        }
        let mut bytes = [0u8; 8];
        image.read_at(elf.file_offset(at).ok_or(malformed)?, &mut bytes)?;
        Ok(Va(u64::from_le_bytes(bytes)))
    }

    /// Where the inline trees and the maps of frames are.
    ///
    /// # Errors
    /// As [`Module::address`].
    pub fn inline_trees(
        &self,
        elf: &Elf,
        image: &mut dyn Image,
        layout: &Moduledata,
    ) -> Result<InlineTrees, Error> {
        let outside = Error::Malformed { what: "moduledata", at: self.at.0 };
        let at = elf.file_offset(self.address(elf, image, layout.gofunc)?);
        at.map(InlineTrees).ok_or(outside)
    }
}

/// A word found: where, and which of the two it is.
type Hits = Vec<(Va, bool), HITS_MAX>;

fn note(at: Va, word: Va, [header, names]: [Va; 2], hits: &mut Hits) -> Result<(), Error> {
    if word == header || word == names {
        hits.push((at, word == names)).map_err(|_| Error::Unsupported("ambiguous moduledata"))?;
    }
    Ok(())
}

/// The one place where the header's address is followed by that of the names.
fn only(hits: &Hits, gap: u64) -> Result<Option<Va>, Error> {
    let follows = |at: Va| at.0.checked_add(gap).is_some_and(|next| hits.contains(&(Va(next), true)));
    let mut pairs = hits.iter().filter(|(at, names)| !names && follows(*at)).map(|(at, _)| *at);
    let first = pairs.next();
    if pairs.next().is_some() {
        return Err(Error::Unsupported("ambiguous moduledata"));
    }
    Ok(first)
}

fn in_data(image: &mut dyn Image, file: Extent, va: Va, pair: [Va; 2], hits: &mut Hits) -> Result<(), Error> {
    // Segments begin where the file's page does; words are aligned by their address.
    let skip = va.0.wrapping_neg() % 8;
    let end = file.len.min(DATA_MAX);
    let mut at = skip;
    let mut bytes = [0u8; PIECE];
    while at < end {
        let len = usize::try_from((end - at).min(PIECE as u64)).unwrap_or(0);
        let offset = file.offset.saturating_add(at);
        let piece = bytes.get_mut(..len).ok_or(Error::Unreadable { at: offset })?;
        image.read_at(offset, piece)?;
        for (i, word) in piece.as_chunks::<8>().0.iter().enumerate() {
            let place = va.0.wrapping_add(at).wrapping_add(8 * i as u64);
            note(Va(place), Va(u64::from_le_bytes(*word)), pair, hits)?;
        }
        at += len as u64;
    }
    Ok(())
}

/// Where in the file the relocations with addends are.
fn relocations(elf: &Elf, image: &mut dyn Image) -> Result<Option<Extent>, Error> {
    let Some(dynamic) = elf.dynamic else { return Ok(None) };
    let (mut table, mut len) = (None, None);
    for i in 0..(dynamic.len / 16).min(DYNAMIC_MAX) {
        let mut entry = [0u8; 16];
        image.read_at(dynamic.offset.saturating_add(i * 16), &mut entry)?;
        let value = le::u64(&entry, 8)?;
        match le::u64(&entry, 0)? {
            0 => break,
            DT_RELA => table = Some(Va(value)),
            DT_RELASZ => len = Some(value),
            _ => {}
        }
    }
    let (Some(table), Some(len)) = (table, len) else { return Ok(None) };
    if len > RELA_MAX {
        return Err(Error::Unsupported("more relocations than any known program's"));
    }
    let offset = elf.file_offset(table).ok_or(Error::Malformed { what: "relocations", at: table.0 })?;
    Ok(Some(Extent { offset, len }))
}

fn each_relocation(
    arch: Arch,
    image: &mut dyn Image,
    table: Extent,
    visit: &mut dyn FnMut(Va, Va) -> Result<(), Error>,
) -> Result<(), Error> {
    let relative = match arch {
        Arch::Amd64 => R_X86_64_RELATIVE,
        Arch::Arm64 => R_AARCH64_RELATIVE,
    };
    let mut bytes = [0u8; PIECE];
    let mut at = 0u64;
    while at < table.len {
        let len = usize::try_from((table.len - at).min(PIECE as u64)).unwrap_or(0);
        let offset = table.offset.saturating_add(at);
        let piece = bytes.get_mut(..len).ok_or(Error::Unreadable { at: offset })?;
        image.read_at(offset, piece)?;
        for entry in piece.chunks_exact(RELA) {
            if le::u64(entry, 8)? == relative {
                visit(Va(le::u64(entry, 0)?), Va(le::u64(entry, 16)?))?;
            }
        }
        at += len as u64;
    }
    Ok(())
}
