//! The function table, in the pieces in which it is read.
//!
//! The table of the smallest real program has half a megabyte; what looking up a few addresses reads of it,
//! a few kilobytes. So an input is a sparse file: where the table, the code and the inline trees begin, [`PCS`]
//! addresses to look up, then pieces, each with its offset and length. The seeds in `seeds/` were captured from
//! `go-programs/minimal`, built with `go build -trimpath` by the releases in their names:
//! `cargo run -p glg-fuzz -- --capture minimal fuzz/seeds/pclntab-1.27-arm64`.

use std::collections::BTreeMap;

use glg_engine::elf::Elf;
use glg_engine::memory::{Error, Image, Va};
use glg_engine::pclntab::{InlineTrees, NAME_MAX, OBJECTS_MAX, Pclntab, WORDS_MAX, printed_name};

use crate::foreign::File;

/// Addresses looked up in one input.
const PCS: usize = 5;
/// Bytes before the pieces.
const HEAD: usize = 8 * (3 + PCS);

/// A file of which only some pieces are there.
struct Sparse<'d> {
    pieces: Vec<(u64, &'d [u8])>,
}

impl<'d> Sparse<'d> {
    fn parse(mut data: &'d [u8]) -> Sparse<'d> {
        let mut pieces = Vec::new();
        while let Some((offset, rest)) = data.split_first_chunk()
            && let Some((len, rest)) = rest.split_first_chunk()
        {
            let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
            let (piece, rest) = rest.split_at(len);
            pieces.push((u64::from(u32::from_le_bytes(*offset)), piece));
            data = rest;
        }
        Sparse { pieces }
    }
}

impl Image for Sparse<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let found = self.pieces.iter().find_map(|(at, piece)| {
            let start = usize::try_from(offset.checked_sub(*at)?).ok()?;
            piece.get(start..start.checked_add(out.len())?)
        });
        out.copy_from_slice(found.ok_or(Error::Unreadable { at: offset })?);
        Ok(())
    }
}

/// Any table gives names or errors, and no endless search.
///
/// # Panics
/// When a name is longer than promised, or the parts of an answer contradict each other.
pub fn check(data: &[u8]) {
    let Some((head, pieces)) = data.split_at_checked(HEAD) else { return };
    let mut words = head.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let (Some(base), Some(text), Some(trees)) = (words.next(), words.next(), words.next()) else { return };
    let mut image = Sparse::parse(pieces);
    let Ok(table) = Pclntab::parse(&mut image, base, Va(text)) else { return };
    for pc in words.map(Va) {
        let name = table.function(&mut image, pc);
        if let Ok(entry) = table.entry(&mut image, pc) {
            assert!(entry <= pc, "{pc:?} before its function {entry:?}");
        }
        if let Ok(position) = table.position(&mut image, pc) {
            assert_eq!(name.as_ref(), Ok(&position.function), "two names for {pc:?}");
            assert!(position.function.len() <= NAME_MAX && position.file.len() <= NAME_MAX);
            assert!(!position.function.chars().chain(position.file.chars()).any(char::is_control));
        }
        if let Ok(code) = table.code(&mut image, pc) {
            assert!(code.entry <= pc, "{pc:?} before its function {:?}", code.entry);
        }
        frames(&table, &mut image, InlineTrees(trees), pc);
        let _ = table.arguments(&mut image, InlineTrees(trees), pc);
        if let Ok(Some(maps)) = table.maps(&mut image, InlineTrees(trees), pc, u32::from(pc.0 % 2 == 0) * 64)
        {
            assert!(maps.objects.len() <= OBJECTS_MAX);
        }
        if let Ok(live) = table.live(&mut image, InlineTrees(trees), pc) {
            for words in [&live.arguments, &live.locals] {
                assert!(words.len <= WORDS_MAX && words.live().count() <= words.len);
            }
        }
    }
}

/// The functions at work at `pc`: only the last is not compiled into another.
fn frames(table: &Pclntab, image: &mut dyn Image, trees: InlineTrees, pc: Va) {
    let mut inlined = Vec::new();
    let found = table.frames(image, trees, pc, |frame| {
        assert!(!frame.function.chars().chain(frame.file.chars()).any(char::is_control));
        let _ = printed_name(&frame.function, 24);
        let _ = printed_name(&frame.function, 27);
        inlined.push(frame.inlined);
    });
    let last = found.is_ok().then(|| inlined.pop());
    assert!(last != Some(Some(true)) && last != Some(None), "no function holds {pc:?}");
    assert!(inlined.len() <= 128 && inlined.iter().all(|inlined| *inlined));
}

/// Captured from real programs: Go 1.19 and 1.27, both architectures.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../seeds/pclntab-1.19-amd64").to_vec(),
        include_bytes!("../seeds/pclntab-1.27-amd64").to_vec(),
        include_bytes!("../seeds/pclntab-1.27-arm64").to_vec(),
    ]
}

/// A file that remembers what is read of it.
struct Recorder<'d> {
    file: File<'d>,
    read: BTreeMap<u64, usize>,
}

impl Image for Recorder<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(offset, out)?;
        let longest = self.read.entry(offset).or_default();
        *longest = out.len().max(*longest);
        Ok(())
    }
}

/// Makes a seed out of a Go program with symbols and a section for its function table.
///
/// # Errors
/// As those of the parsers, and [`Error::Unsupported`] without the functions looked up.
pub fn capture(program: &[u8]) -> Result<Vec<u8>, Error> {
    let mut file = File(program);
    let elf = Elf::parse(&mut file)?;
    let [text, pcs @ ..]: [_; PCS + 1] = elf.symbols(
        &mut file,
        [
            b"runtime.text",
            b"main.main",
            b"runtime.newproc1",
            b"runtime.goexit0",
            b"runtime.main",
            b"runtime.mallocgc",
        ],
    )?;
    let missing = Error::Unsupported("program without these functions");
    let (base, text) = (elf.pclntab.ok_or(missing)?.file.offset, text.ok_or(missing)?);
    let trees = elf.symbols(&mut file, [b"go:func.*", b"go.func.*"])?;
    let trees = trees.into_iter().flatten().next().and_then(|va| elf.file_offset(va)).ok_or(missing)?;
    let mut seed = [base, text.0, trees].map(u64::to_le_bytes).concat();
    let mut recorder = Recorder { file, read: BTreeMap::new() };
    let table = Pclntab::parse(&mut recorder, base, text)?;
    for pc in pcs {
        let entry = pc.ok_or(missing)?;
        let pc = telling(&table, &mut File(program), InlineTrees(trees), entry);
        table.position(&mut recorder, pc)?;
        table.code(&mut recorder, pc)?;
        table.frames(&mut recorder, InlineTrees(trees), pc, |_| {})?;
        table.arguments(&mut recorder, InlineTrees(trees), pc)?;
        table.live(&mut recorder, InlineTrees(trees), pc)?;
        seed.extend(pc.0.to_le_bytes());
    }
    for (offset, len) in joined(&recorder.read) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let narrow = Error::Unsupported("program larger than 4 GiB");
        seed.extend(u32::try_from(offset).map_err(|_| narrow)?.to_le_bytes());
        seed.extend(u16::try_from(len).map_err(|_| narrow)?.to_le_bytes());
        seed.extend(program.get(start..start + len).unwrap_or_default());
    }
    Ok(seed)
}

/// Some way into the function, where several steps lead to the line; if there is such a place, where another
/// function was compiled into it.
fn telling(table: &Pclntab, file: &mut File<'_>, trees: InlineTrees, entry: Va) -> Va {
    let inside = |file: &mut File<'_>, pc: Va| table.entry(file, pc) == Ok(entry);
    let places = (0x2b..0x800).map(|offset| Va(entry.0.saturating_add(offset)));
    let all: Vec<Va> = places.take_while(|pc| inside(file, *pc)).collect();
    let inlined = all.iter().find(|pc| {
        let mut depth = 0;
        table.frames(file, trees, **pc, |_| depth += 1).is_ok() && depth > 1
    });
    inlined.or(all.first()).copied().unwrap_or(entry)
}

/// Pieces that touch, as one.
fn joined(read: &BTreeMap<u64, usize>) -> Vec<(u64, usize)> {
    let mut pieces: Vec<(u64, usize)> = Vec::new();
    for (&offset, &len) in read {
        match pieces.last_mut() {
            Some((at, before)) if offset <= *at + *before as u64 => {
                let end = usize::try_from(offset - *at).unwrap_or(usize::MAX).saturating_add(len);
                *before = end.max(*before);
            }
            _ => pieces.push((offset, len)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_real_tables() {
        for seed in seeds() {
            assert!(seed.len() < 16 << 10);
            let (head, pieces) = seed.split_at(HEAD);
            let words: Vec<u64> = head.chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
            let mut image = Sparse::parse(pieces);
            let table = Pclntab::parse(&mut image, words[0], Va(words[1])).unwrap();
            let main = table.position(&mut image, Va(words[3])).unwrap();
            assert_eq!(main.function, "main.main");
            assert!(main.file.ends_with("main.go") && main.line > 0, "{main:?}");
            let newproc1 = table.position(&mut image, Va(words[4])).unwrap();
            assert_eq!(newproc1.function, "runtime.newproc1");
            let mut outermost = String::new();
            table
                .frames(&mut image, InlineTrees(words[2]), Va(words[4]), |frame| {
                    outermost = format!("{} {}", frame.function, frame.file);
                })
                .unwrap();
            assert!(outermost.starts_with("runtime.newproc1 ") && outermost.ends_with("runtime/proc.go"));
            let mut depth = 0;
            for pc in &words[3..] {
                let trees = InlineTrees(words[2]);
                table
                    .frames(&mut image, trees, Va(*pc), |frame| depth += usize::from(frame.inlined))
                    .unwrap();
            }
            assert!(depth > 0, "a seed without an inlined function tries nothing");
            let arguments = |pc: &u64| table.arguments(&mut image, InlineTrees(words[2]), Va(*pc)).unwrap();
            let reach: Vec<u16> = words[3..].iter().map(arguments).map(|found| found.reach()).collect();
            // main.main(), newproc1(five words and two bits), goexit0(g), main(), mallocgc(size, type, bool).
            assert_eq!((reach[0], reach[2], reach[3], reach[4]), (0, 8, 0, 17), "{reach:?}");
            assert!(reach[1] >= 24, "{reach:?}");
        }
    }

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = crate::mutate::Mutator::new(&seeds, 1, 16 << 10);
        let mut named = 0;
        for _ in 0..2000 {
            let input = mutator.next_input();
            let Some((head, pieces)) = input.split_at_checked(HEAD) else { continue };
            let words: Vec<u64> = head.chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
            let mut image = Sparse::parse(pieces);
            let Ok(table) = Pclntab::parse(&mut image, words[0], Va(words[1])) else { continue };
            named += words[3..].iter().filter(|pc| table.position(&mut image, Va(**pc)).is_ok()).count();
        }
        assert!((500..9000).contains(&named), "{named} of 10000 positions are found");
    }
}
