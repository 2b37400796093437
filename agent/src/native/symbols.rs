//! Names of functions, from a file's own tables: `.symtab`, else `.dynsym`. One pass over the table for all
//! addresses, whatever its size; nothing of it is kept.

use glg_engine::elf::Extent;
use glg_engine::memory::{Image, Va};

use super::module::{Bounds, Module};

/// Bytes of an entry (ELF-64 object file format, 4.5).
const ENTRY: usize = 24;
/// Entries read at once.
const BATCH: usize = 340;
/// Entries a table may have: the largest programs have a million.
const ENTRIES_MAX: u64 = 4 << 20;
/// Longest name that is kept.
const NAME_MAX: usize = 160;
/// Bytes behind a name without a size that may belong to it.
const NEAR: u64 = 256;
/// Types (`STT_FUNC`, `STT_GNU_IFUNC`).
const FUNCTION: u8 = 2;
const INDIRECT: u8 = 10;

/// A function that a name is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// An address in it.
    pub(super) va: Va,
    /// Where it begins, if that is known: functions written by hand often have a name without a size. Where
    /// nothing is known, the nearest name will do.
    pub(super) start: Option<Va>,
    /// What it is called, and where that begins.
    pub(super) name: Option<(Box<str>, Va)>,
}

/// The best symbol so far.
#[derive(Clone, Copy)]
struct Best {
    start: u64,
    /// Of the name, in the string table.
    name: u32,
    /// Underscores before the name: of several names the plainest.
    underscores: usize,
}

/// An entry of a table that names a function.
struct Symbol {
    start: u64,
    size: u64,
    /// Of the name, in the string table.
    name: u32,
}

/// How many looks into the file it takes to go through its table.
pub(super) fn cost<I>(module: &Module<I>) -> u32
where
    I: Image,
{
    let count = table(module).map_or(0, |(symbols, _)| symbols.len / (ENTRY * BATCH) as u64);
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// The bounds of the function at this address, by the first symbol that has some.
pub(super) fn bounds<I: Image>(module: &mut Module<I>, va: Va) -> Option<Bounds> {
    let (symbols, _) = table(module)?;
    let mut found = None;
    each(module.image(), symbols, |_, symbol| {
        if found.is_none() && va.0.wrapping_sub(symbol.start) < symbol.size {
            let end = Va(symbol.start.saturating_add(symbol.size));
            found = Some(Bounds { start: Va(symbol.start), end });
        }
    });
    found
}

/// Fills in the names that the file knows.
pub(super) fn fill<I: Image>(module: &mut Module<I>, wanted: &mut [Wanted]) {
    let Some((symbols, strings)) = table(module) else { return };
    // Those for the dynamic linker are but a few: what is near to one of them is not part of it.
    let near = if module.elf().symbols.is_some() { NEAR } else { 0 };
    let mut best: Vec<Option<Best>> = vec![None; wanted.len()];
    each(module.image(), symbols, |image, symbol| {
        for (_, best) in wanted.iter().zip(&mut best).filter(|(one, _)| is_for(one, symbol, near)) {
            better(image, strings, symbol, best);
        }
    });
    for (one, best) in wanted.iter_mut().zip(best) {
        let Some(best) = best else { continue };
        let name = name(module.image(), strings, best.name);
        one.name = name.filter(|name| !name.is_empty()).map(|name| (name.into(), Va(best.start)));
    }
}

fn table<I: Image>(module: &Module<I>) -> Option<(Extent, Extent)> {
    module.elf().symbols.or(module.elf().dynamic_symbols)
}

/// Goes through the functions of a table, as far as it can be read.
fn each<I: Image>(image: &mut I, symbols: Extent, mut take: impl FnMut(&mut I, &Symbol)) -> Option<()> {
    let count = (symbols.len / ENTRY as u64).min(ENTRIES_MAX);
    let (mut bytes, mut next) = (vec![0; ENTRY * BATCH], 0);
    while next < count {
        let batch = (count - next).min(BATCH as u64);
        let part = bytes.get_mut(..ENTRY * usize::try_from(batch).ok()?)?;
        image.read_at(symbols.offset.checked_add(next * ENTRY as u64)?, part).ok()?;
        for symbol in part.as_chunks::<ENTRY>().0.iter().filter_map(parse) {
            take(image, &symbol);
        }
        next += batch;
    }
    Some(())
}

/// `Elf64_Sym`, if it is a function of this file.
fn parse(entry: &[u8; ENTRY]) -> Option<Symbol> {
    let [n0, n1, n2, n3, info, _, s0, s1, rest @ ..] = entry;
    let (start, size) = rest.split_at(8);
    let long = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let symbol =
        Symbol { start: long(start)?, size: long(size)?, name: u32::from_le_bytes([*n0, *n1, *n2, *n3]) };
    (matches!(info & 0xf, FUNCTION | INDIRECT) && [*s0, *s1] != [0, 0]).then_some(symbol)
}

fn is_for(wanted: &Wanted, symbol: &Symbol, near: u64) -> bool {
    let within = wanted.va.0.wrapping_sub(symbol.start);
    wanted.name.is_none()
        && match (symbol.size, wanted.start) {
            (0, Some(start)) => start.0 == symbol.start,
            (0, None) => within < near,
            (size, _) => within < size,
        }
}

/// Takes a symbol if it is better than what is known: it begins later, or its name is plainer.
fn better(image: &mut impl Image, strings: Extent, symbol: &Symbol, best: &mut Option<Best>) {
    let Symbol { start, name: offset, .. } = *symbol;
    if best.is_some_and(|best| best.start > start) {
        return;
    }
    let name = name(image, strings, offset).unwrap_or_default();
    let underscores = name.len() - name.trim_start_matches('_').len();
    if best.is_none_or(|best| best.start < start || best.underscores > underscores) {
        *best = Some(Best { start, name: offset, underscores });
    }
}

/// A name, cut off where it is too long, without what could move a terminal's cursor.
fn name(image: &mut impl Image, strings: Extent, offset: u32) -> Option<String> {
    let left = strings.len.checked_sub(offset.into()).filter(|left| *left > 0)?;
    let mut bytes = [0; NAME_MAX];
    let len = usize::try_from(left).map_or(NAME_MAX, |left| left.min(NAME_MAX));
    let part = bytes.get_mut(..len)?;
    image.read_at(strings.offset.checked_add(offset.into())?, part).ok()?;
    let end = part.iter().position(|byte| *byte == 0).unwrap_or(len);
    let text = String::from_utf8_lossy(part.get(..end)?);
    Some(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}
