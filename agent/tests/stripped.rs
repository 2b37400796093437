//! Programs without symbols, moved ones, and such with C in them: the same is read of all of them, and the
//! same with symbols as without, for every supported Go release. Needs root, and the programs of
//! `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::sites::{lent, sites_inside, sites_outside};
use common::{Program, Seen, eventually, for_every_release, program};
use glg_engine::census::Census;
use glg_engine::elf::Elf;
use glg_engine::goroutines::Walker;
use glg_engine::memory::{Addr, Error, Image, Va};
use glg_engine::runtime::Runtime;

const CHUNK: usize = 64 * 1024;
const MANY: u64 = 200_000;
/// As `kinds` is built, with symbols and without.
const VARIANTS: [(&str, bool); 8] = [
    ("kinds", true),
    ("kinds-stripped", false),
    ("kinds-pie", true),
    ("kinds-pie-stripped", false),
    ("kinds-cgo", true),
    ("kinds-cgo-stripped", false),
    ("kinds-cgo-pie", true),
    ("kinds-cgo-pie-stripped", false),
];

/// A program as if it had no section headers: no symbols, no named table, no build information by name.
struct Bare(Vec<u8>);

impl Image for Bare {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.as_slice().read_at(offset, out)
    }
}

impl Bare {
    /// `e_shoff`, `e_shnum` and `e_shstrndx` of the ELF header, set to zero.
    fn of(mut bytes: Vec<u8>) -> Bare {
        bytes[40..48].fill(0);
        bytes[60..64].fill(0);
        Bare(bytes)
    }
}

/// A program for one architecture; those with C are there for this machine's and for arm64.
fn built(release: &str, arch: &str, name: &str) -> Option<PathBuf> {
    let host = program(release, "kinds");
    let folder = host.parent().unwrap().parent().unwrap().join(arch);
    let has_c = arch == "arm64" || host.parent() == Some(&folder);
    (has_c || !name.contains("-cgo")).then(|| folder.join(name))
}

/// The programs of a release for one architecture, either those with symbols or those without.
fn all_built(release: &str, arch: &str, with_symbols: bool) -> Vec<PathBuf> {
    let all = VARIANTS.iter().filter(|(_, symbols)| *symbols == with_symbols);
    all.filter_map(|(name, _)| built(release, arch, name)).collect()
}

/// What is found in the file alone: instructions against symbols, both architectures.
#[test]
fn instructions_say_the_same_as_symbols() {
    for_every_release(|release| {
        for arch in ["amd64", "arm64"] {
            for path in all_built(release, arch, true) {
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let mut whole = Bare(bytes.clone());
                let entry = Addr(Elf::parse(&mut whole).unwrap().entry.0);
                let named = Runtime::open(&mut whole, entry).unwrap();
                let mut bare = Bare::of(bytes);
                let decoded =
                    Runtime::open(&mut bare, entry).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert_eq!(decoded.globals, named.globals, "{}", path.display());
                assert!(named.lifecycle.is_some());
                assert_eq!(decoded.lifecycle, named.lifecycle, "{}", path.display());
                // The same text start: the same names.
                let create = Addr(named.lifecycle.unwrap().create.0 + 1);
                let place = named.creation(&mut whole, create).unwrap();
                assert_eq!(place.function, "runtime.newproc1");
                assert_eq!(decoded.creation(&mut bare, create).unwrap(), place, "{}", path.display());
            }
        }
    });
}

/// Some linkers leave the words of a moved program zero and write them into the relocations alone.
#[test]
fn words_that_stand_only_in_relocations_are_found() {
    for_every_release(|release| {
        for path in ["amd64", "arm64"].into_iter().filter_map(|arch| built(release, arch, "kinds-cgo-pie")) {
            let what = path.display();
            let mut file = Bare::of(fs::read(&path).unwrap_or_else(|e| panic!("{what}: {e}")));
            let elf = Elf::parse(&mut file).unwrap();
            let entry = Addr(elf.entry.0);
            let before = Runtime::open(&mut file, entry).unwrap_or_else(|e| panic!("{what}: {e}"));
            let places = relocated(&elf, &mut file);
            assert!(places.len() > 1000, "{what}: {} words", places.len());
            for at in places {
                let at = usize::try_from(elf.file_offset(at).unwrap()).unwrap();
                file.0[at..at + 8].fill(0);
            }
            let after = Runtime::open(&mut file, entry).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!((after.globals, after.lifecycle), (before.globals, before.lifecycle), "{what}");
        }
    });
}

/// Where relative relocations are applied; `DT_RELA` is 7, `DT_RELASZ` is 8, the type on amd64 is 8, on arm64
/// 1027.
fn relocated(elf: &Elf, file: &mut Bare) -> Vec<Va> {
    let mut words = |offset: u64, count: u64| -> Vec<u64> {
        let mut bytes = vec![0; usize::try_from(count * 8).unwrap()];
        file.read_at(offset, &mut bytes).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
    };
    let dynamic = elf.dynamic.unwrap();
    let entries = words(dynamic.offset, dynamic.len / 8);
    let value = |tag| entries.chunks_exact(2).find(|entry| entry[0] == tag).unwrap()[1];
    let table = words(elf.file_offset(Va(value(7))).unwrap(), value(8) / 8);
    table.chunks_exact(3).filter(|r| matches!(r[1], 8 | 1027)).map(|r| Va(r[0])).collect()
}

/// Stripped programs for the other architecture open, too; there are no symbols left to compare them with.
#[test]
fn stripped_files_of_both_architectures_open() {
    for_every_release(|release| {
        for arch in ["amd64", "arm64"] {
            for path in all_built(release, arch, false) {
                let mut file = Bare(fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
                let elf = Elf::parse(&mut file).unwrap();
                assert_eq!(elf.symbols, None, "{} is not stripped", path.display());
                let opened = Runtime::open(&mut file, Addr(elf.entry.0));
                let runtime = opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert!(runtime.lifecycle.is_some(), "{}", path.display());
            }
        }
    });
}

#[test]
fn counts_and_censuses_are_right_however_a_program_is_built() {
    for_every_release(|release| {
        for (name, _) in VARIANTS {
            let mut target = Program::start(&program(release, name), &[]);
            let mut seen = Seen::open(target.pid());
            let (inside, outside) = eventually("a quiet moment", || {
                let before = target.goroutines();
                let outside = seen.count().unwrap();
                (target.goroutines() == before).then_some((before, outside))
            });
            assert_eq!(outside, inside, "Go {release}, {name}");
            let (mut walker, mut census) = (Walker::new(CHUNK), Census::new(64));
            let inside = sites_inside(&mut target);
            let process = seen.remote.process();
            census.take(&mut walker, &seen.runtime, process.memory, process.image, MANY).unwrap();
            assert_eq!(sites_outside(&mut seen, &census), inside, "Go {release}, {name}");
            assert_eq!(census.total(), target.goroutines() + lent(release), "Go {release}, {name}");
        }
    });
}

/// In the live process, too: what was decoded is confirmed to be what the symbols say.
#[test]
fn the_live_process_agrees_with_both() {
    for_every_release(|release| {
        for (name, _) in VARIANTS.iter().filter(|(_, symbols)| *symbols) {
            let path = program(release, name);
            let target = Program::start(&path, &[]);
            let mut seen = Seen::open(target.pid());
            let entry = seen.remote.entry;
            let mut decoded = Runtime::open(&mut Bare::of(fs::read(&path).unwrap()), entry).unwrap();
            decoded.confirm(seen.remote.process().memory).unwrap();
            assert_eq!(decoded.globals, seen.runtime.globals, "Go {release}, {name}");
            assert!(decoded.globals.allm.is_some(), "Go {release}, {name}");
            assert_eq!((decoded.bias, decoded.lifecycle), (seen.runtime.bias, seen.runtime.lifecycle));
        }
    });
}
