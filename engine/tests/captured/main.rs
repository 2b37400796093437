//! The engine against real Go programs, of every supported release and both architectures, on any machine: what
//! was read of their memory and files is kept in `engine/tests/images`, and with it what they said of themselves.
//! `cargo xtask capture` takes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod capture;
mod damage;
mod facts;
mod reading;
mod traceback;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

use capture::Capture;
use facts::Process;
use glg_engine::layout::{Arch, layout_for};
use glg_engine::memory::{Addr, Error, Memory};
use glg_engine::symbols::Symbols;
use lzma_rust2::LzmaReader;

/// Bytes that the largest capture may have; the rest of a damaged file is not read.
const CAPTURE_MAX: u64 = 16 << 20;
/// KiB that unpacking may take: the files are packed with a dictionary of 4 MiB.
const UNPACK_KIB: u32 = 8 << 10;

/// All captures, in the order of their names.
fn captures() -> &'static [Capture] {
    static CAPTURES: OnceLock<Vec<Capture>> = OnceLock::new();
    CAPTURES.get_or_init(|| {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "images"].iter().collect();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(unpack).collect()
    })
}

fn unpack(path: &PathBuf) -> Capture {
    let name = path.display();
    let packed = fs::read(path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let reader = LzmaReader::new_mem_limit(packed.as_slice(), UNPACK_KIB, None);
    let mut bytes = Vec::new();
    let unpacked = reader.and_then(|reader| reader.take(CAPTURE_MAX).read_to_end(&mut bytes));
    unpacked.unwrap_or_else(|e| panic!("{name}: {e}"));
    postcard::from_bytes(&bytes).unwrap_or_else(|e| panic!("{name}: {e}: run `cargo xtask capture`"))
}

#[test]
fn every_layout_is_captured() {
    let captured = |minor, arch| {
        let mut runtimes = captures().iter().map(|capture| Process::open(capture).runtime);
        runtimes.any(|runtime| (runtime.go.minor, runtime.layout.arch) == (minor, arch))
    };
    for minor in 0..200 {
        for arch in [Arch::Amd64, Arch::Arm64] {
            let known = layout_for(minor, arch).is_some();
            assert!(!known || captured(minor, arch), "Go 1.{minor} on {arch:?}: run `cargo xtask capture`");
        }
    }
}

/// A capture says of itself when it is too old for the engine.
#[test]
fn what_is_missing_is_named() {
    let mut process = Process::open(&captures()[0]);
    let unreadable = process.memory.read(Addr(8), &mut [0; 8]);
    assert_eq!(unreadable, Err(Error::Unreadable { at: 8 }));
    let hint = process.memory.hint();
    assert!(hint.contains("8 bytes at 0x8 are not in the capture"), "{hint}");
    assert!(hint.contains("run `cargo xtask capture`"), "{hint}");
}

#[test]
fn runtimes_are_found_and_confirmed() {
    for capture in captures() {
        let process = Process::open(capture);
        assert_eq!(process.runtime.go.to_string(), capture.release);
        assert!(process.runtime.lifecycle.is_some(), "{}", facts::name(capture));
    }
}

#[test]
fn counts_are_those_of_the_programs() {
    captures().iter().for_each(|capture| Process::open(capture).count_is_right());
}

#[test]
fn censuses_are_those_of_the_programs() {
    captures().iter().for_each(|capture| Process::open(capture).census_is_right());
}

#[test]
fn threads_hold_the_goroutines_that_are_locked_to_them() {
    captures().iter().for_each(|capture| Process::open(capture).threads_are_right());
}

#[test]
fn dumps_are_those_of_the_programs() {
    captures().iter().for_each(|capture| Process::open(capture).dumps_are_right());
}

/// One place can have more text than all may have: then it has only its address.
#[test]
fn no_more_text_is_remembered_than_may_be() {
    const TOO_LONG: &str = "code with too much text\n\tpc=0x";
    for capture in captures() {
        let mut process = Process::open(capture);
        let (mut reading, runtime) = process.parts();
        let [whole, small] = [1 << 20, 150].map(|text_bytes| {
            let mut symbols = Symbols::new(runtime, reading.image, 64, text_bytes).unwrap();
            reading.dump(runtime, &mut symbols, capture.now_ns, false).unwrap()
        });
        let name = facts::name(capture);
        assert!(!whole.contains(TOO_LONG), "{name}");
        assert!(small.contains(TOO_LONG), "{name}:\n{small}");
        let said = |dump: &str, what| dump.lines().filter(|line| line.contains(what)).count();
        assert_eq!(said(&small, "goroutine "), said(&whole, "goroutine "), "{name}:\n{small}");
        assert!(said(&small, ".go:") > 0, "{name}: what is short is remembered:\n{small}");
    }
}
