//! `goleakguard ps`: every Go process of this machine that may be looked at, with its exact number of goroutines,
//! and what is known of those that cannot be read.

mod json;
mod table;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use glg_engine::buildinfo::BuildInfo;
use glg_engine::elf::Elf;
use glg_engine::engine::Watched;
use glg_engine::goroutines::Counter;
use glg_engine::memory::{Error, Image};
use glg_engine::runtime::Runtime;
use glg_engine::step::{Process, Rung, TargetId};

use crate::clock;
use crate::remote::{self, Remote, is_gone};
use crate::state;

/// Times that a process is looked at before its contradictions are believed: it runs on meanwhile.
const TRIES: u32 = 3;

/// A Go process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Process id.
    pub pid: u32,
    /// Base name of the executable.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Go's release as it stands in the executable, without `go` before it; empty when it is not told.
    pub go: String,
    /// Import path of the main package; empty when it is not told.
    pub package: String,
    /// Path of its module, likewise.
    pub module: String,
    /// The module's version, likewise.
    pub version: String,
    /// Whether it has no symbol table.
    pub stripped: Option<bool>,
    /// What `runtime.NumGoroutine` would say.
    pub goroutines: Option<u32>,
    /// Its threads.
    pub threads: u32,
    /// Where it stands with the service that runs.
    pub rung: Option<Rung>,
    /// Its threads that wait in C, as that service has seen them, if one of them has for a while.
    pub waits: Option<Waits>,
    /// Why what is missing is missing.
    pub note: Option<String>,
}

/// Threads that wait in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How many.
    pub threads: u16,
    /// For how long the one does that has waited longest, in seconds.
    pub longest_s: u64,
}

/// Prints all Go processes; `state` is the file in which a service says what it watches. What cannot be seen in
/// the table is told on standard error.
///
/// # Errors
/// When `/proc` cannot be read or `out` not be written.
pub fn ps(state: &str, json: bool, mut out: impl Write) -> anyhow::Result<()> {
    let (mut programs, denied) = programs()?;
    if !state.is_empty() {
        match state::targets(Path::new(state)) {
            Ok(watched) => programs.iter_mut().for_each(|(id, program)| {
                if let Some(watched) = watched.iter().find(|watched| watched.id == *id) {
                    program.is_watched(watched);
                }
            }),
            Err(error) => eprintln!("goleakguard: rungs are not known: {error}"),
        }
    }
    let programs: Vec<Program> = programs.into_iter().map(|(_, program)| program).collect();
    let text = if json { json::array(&programs) } else { table::table(&programs) };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that goes away has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    if let Some(first) = denied.first() {
        eprintln!(
            "goleakguard: {} processes may not be looked at, the first of them {first}: for those of other users, \
             run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            denied.len()
        );
    }
    Ok(())
}

impl Program {
    /// Takes note of what a service knows of it.
    fn is_watched(&mut self, watched: &Watched) {
        let now_s = clock::since_boot_ms() / 1000;
        self.rung = Some(watched.rung);
        self.waits = watched.waiting.map(|waiting| Waits {
            threads: waiting.threads,
            longest_s: now_s.saturating_sub(waiting.since_s.into()),
        });
    }
}

/// A Go process, and which one of that number.
type Found = (TargetId, Program);

/// All Go processes by their number, and the processes that may not be looked at.
fn programs() -> anyhow::Result<(Vec<Found>, Vec<u32>)> {
    let entries = std::fs::read_dir("/proc").context("/proc: mount it")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    let (mut programs, mut denied) = (Vec::new(), Vec::new());
    for pid in pids {
        match look(pid) {
            Ok(Some(found)) => programs.push(found),
            Ok(None) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied.push(pid),
            Err(error) => eprintln!("goleakguard: process {pid}: {error}"),
        }
    }
    Ok((programs, denied))
}

/// A process, if it is one of Go's. Most are not: that is found out from the file alone.
fn look(pid: u32) -> io::Result<Option<Found>> {
    let mut exe = remote::executable(pid)?;
    let Some(told) = told(exe.image()) else { return Ok(None) };
    let Some(stat) = remote::stat(pid) else { return Ok(None) };
    let seen = match Remote::open(pid) {
        // It may run another program by now: what follows is of one and the same.
        Ok(Some(mut remote)) => {
            let (id, path, entry) = (remote.id, remote.path.clone(), remote.entry);
            let Process { memory, image, .. } = remote.process();
            let Some(told) = self::told(image) else { return Ok(None) };
            let mut program = told.program();
            if program.note.is_none() {
                let mut count = || -> Result<u32, Error> {
                    let mut runtime = Runtime::open(image, entry)?;
                    runtime.confirm(memory)?;
                    Counter::default().count(&runtime, memory)
                };
                match patiently(&mut count) {
                    Ok(count) => program.goroutines = Some(count),
                    Err(Error::Gone) => return Ok(None),
                    Err(error) => program.note = Some(reason(error)),
                }
            }
            (id, path, program)
        }
        Ok(None) => {
            let program = told.program();
            // What could have been read has ended meanwhile.
            if program.note.is_none() || remote::stat(pid).is_none_or(|now| now.start != stat.start) {
                return Ok(None);
            }
            (TargetId { pid, start: stat.start }, exe.path, program)
        }
        Err(error) => {
            let mut program = told.program();
            program.note = Some(match error.kind() {
                io::ErrorKind::PermissionDenied => "its memory may not be read".to_owned(),
                _ => error.to_string(),
            });
            (TargetId { pid, start: stat.start }, exe.path, program)
        }
    };
    let (id, path, program) = seen;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Some((id, Program { pid, name, path, threads: stat.threads, ..program })))
}

/// Asks again while the answers contradict themselves.
fn patiently<T>(ask: &mut dyn FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut answer = ask();
    for _ in 1..TRIES {
        match answer {
            Err(Error::Malformed { .. } | Error::Unreadable { .. }) => answer = ask(),
            _ => break,
        }
    }
    answer
}

/// What the executable of a Go program says.
struct Told {
    info: Result<BuildInfo, Error>,
    stripped: Option<bool>,
    /// Why its file cannot be read.
    refused: Option<Error>,
}

/// `None` for what is no Go program.
fn told(image: &mut dyn Image) -> Option<Told> {
    let told = match Elf::parse(image) {
        Ok(elf) => {
            Told { info: BuildInfo::read(&elf, image), stripped: Some(elf.symbols.is_none()), refused: None }
        }
        Err(error) => Told { info: BuildInfo::read_refused(image), stripped: None, refused: Some(error) },
    };
    // What cannot be read at all does not look like one.
    (!matches!(told.info, Err(Error::NotGo | Error::Unreadable { .. }))).then_some(told)
}

impl Told {
    fn program(self) -> Program {
        let mut program = Program { stripped: self.stripped, ..Program::default() };
        let mut error = self.refused;
        match self.info {
            Ok(info) => {
                program.go = info.go.as_str().to_owned();
                program.package = info.package.as_str().to_owned();
                program.module = info.module.as_str().to_owned();
                program.version = info.version.as_str().to_owned();
                error = error.or(info.release.err());
            }
            Err(other) => error = error.or(Some(other)),
        }
        program.note = error.map(reason);
        program
    }
}

/// As few words as a table has room for.
fn reason(error: Error) -> String {
    match error {
        Error::Unsupported(what) => what.to_owned(),
        Error::NotReady => "not initialised yet".to_owned(),
        other => other.to_string(),
    }
}
