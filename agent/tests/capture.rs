//! What is recorded of a process is enough to read it again without the process: for every supported Go release
//! a recording, read back, gives what the program says of itself. Needs root, and the programs of
//! `cargo xtask test`.
//!
//! `GLG_CAPTURES` names a folder to write the recordings to, which are then of programs that know no paths of the
//! machine on which they were built; `cargo xtask capture` makes the files of `engine/tests/images` of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../engine/tests/captured/capture.rs"]
#[allow(dead_code, reason = "the engine's tests use the rest")]
mod capture;
mod common;
#[path = "../../engine/tests/captured/facts.rs"]
#[allow(dead_code, reason = "the engine's tests use the rest")]
mod facts;
#[path = "../../engine/tests/captured/reading.rs"]
mod reading;
#[path = "capture/recorder.rs"]
mod recorder;
#[path = "../../engine/tests/captured/traceback.rs"]
mod traceback;
#[path = "capture/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};
use std::{env, fs};

use capture::Capture;
use common::sites::{sites_inside, text};
use common::{Program, eventually, for_every_release, program, releases};
use facts::Process;
use glg_engine::memory::Error;
use goleakguard::remote::Remote;
use nix::time::{ClockId, clock_gettime};
use reading::Reading;
use recorder::{Recorded, RecordingImage, RecordingMemory};
use traceback::{ASKED, blocks};

/// Every kind of wait, in a file without symbols, which has to tell all that it can.
#[test]
fn a_recording_tells_what_the_process_told() {
    for_every_release(|release| check("kinds-stripped", release));
}

/// Every shape of stack, in a file with symbols, of the oldest release and the newest.
#[test]
fn a_recording_holds_whole_stacks() {
    let all = releases();
    for release in [all.first(), all.last()] {
        check("stacks", release.unwrap());
    }
}

fn check(name: &str, release: &str) {
    let folder = env::var_os("GLG_CAPTURES").map(PathBuf::from);
    let variant = if folder.is_some() { "-trimmed" } else { "" };
    let capture = take(name, &program(release, &format!("{name}{variant}")), release);
    let mut process = Process::open(&capture);
    process.count_is_right();
    process.census_is_right();
    process.threads_are_right();
    process.dumps_are_right();
    // Texts and addresses take less than as much again.
    let mut buffer = vec![0; 2 * (capture.memory.len() + capture.file.len())];
    let bytes = postcard::to_slice(&capture, &mut buffer).unwrap();
    let (count, memory, file) = (capture.count, capture.memory.len(), capture.file.len());
    println!(
        "{name}, Go {release}: {count} goroutines; {memory} bytes of memory, {file} of the file, {} with what \
         it said",
        bytes.len()
    );
    if let Some(folder) = folder {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}-{release}-{}", capture.arch)), bytes).unwrap();
    }
}

/// The program at a quiet moment: it says the same before and after, and nothing changes in between.
fn take(name: &str, path: &Path, release: &str) -> Capture {
    let mut program = Program::start(path, &[]);
    let sites = sites_inside(&mut program);
    eventually("a quiet moment", || {
        let (count, said) = (program.goroutines(), program.ask("stacks"));
        let plain = text(&said["plain"]);
        let mut remote = Remote::open(program.pid()).unwrap().expect("the process has ended");
        let (mut memory, mut file) = (Recorded::default(), Recorded::default());
        // Twice: what has changed meanwhile is noticed.
        for _ in 0..2 {
            record(&mut remote, &mut memory, &mut file).ok()?;
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let after = text(&program.ask("stacks")["plain"]);
        let quiet = program.goroutines() == count && is_quiet(&plain, &after) && !memory.changed;
        quiet.then(|| Capture {
            name: name.to_owned(),
            release: release.to_owned(),
            arch: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
            entry: remote.entry.0,
            now_ns: u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap(),
            count,
            sites: sites.clone(),
            plain,
            grouped: text(&said["grouped"]),
            memory: memory.stretches(),
            file: file.stretches(),
        })
    })
}

/// Whether the program said the same twice, to the letter, of all goroutines but the one that answered.
fn is_quiet(before: &str, after: &str) -> bool {
    let [mut before, mut after] = [before, after].map(blocks);
    before.remove(&ASKED);
    after.remove(&ASKED);
    before == after
}

/// Does everything with the process that the engine can do.
fn record(remote: &mut Remote, memory: &mut Recorded, file: &mut Recorded) -> Result<(), Error> {
    let entry = remote.entry.0;
    let process = remote.process();
    let mut memory = RecordingMemory { process: process.memory, recorded: memory };
    let mut image = RecordingImage { file: process.image, recorded: file };
    let mut reading = Reading { memory: &mut memory, image: &mut image };
    let runtime = reading.open(entry)?;
    reading.count(&runtime)?;
    reading.census(&runtime)?;
    reading.locked(&runtime)?;
    let mut symbols = reading.symbols(&runtime)?;
    for grouped in [false, true] {
        reading.dump(&runtime, &mut symbols, 0, grouped)?;
    }
    whole::read(&runtime, reading.memory, reading.image)
}
