//! A live process as the engine sees it: its memory, its executable file, and the certainty that it is still
//! the same process.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use glg_engine::memory::{Addr, Error, Image, Memory, Run};
use glg_engine::step::{Process, TargetId};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::footprint::ProcFootprint;
use crate::threads::ProcThreads;

/// The kernel takes so many stretches per call (`UIO_MAXIOV`, include/uapi/linux/uio.h).
const IOV_MAX: usize = 1024;
/// Stretches that a count may take: room for them is kept.
const IOVECS_KEPT: usize = 256;
/// Types of the auxiliary vector's entry address and of that of 16 random bytes (include/uapi/linux/auxvec.h).
const AT_ENTRY: u64 = 9;
/// Type of the page size, likewise.
const AT_PAGESZ: u64 = 6;
const AT_RANDOM: u64 = 25;

/// An open process.
pub struct Remote {
    /// Which.
    pub id: TargetId,
    /// Path of its executable as it was when it was opened.
    pub path: String,
    /// Where it began to run.
    pub entry: Addr,
    begin: Begin,
    memory: RemoteMemory,
    image: ImageFile,
    threads: ProcThreads,
    footprint: ProcFootprint,
}

struct RemoteMemory {
    pid: Pid,
    /// `/proc/PID/mem`, kept open: see [`RemoteMemory::check`].
    file: File,
    iovecs: Vec<RemoteIoVec>,
}

pub(crate) struct ImageFile(pub(crate) File);

impl Remote {
    /// Opens a process; `None` for kernel threads, ended ones and programs of 32 bits: [`absence`] says which.
    ///
    /// # Errors
    /// What the kernel said when the process exists but cannot be opened.
    pub fn open(pid: u32) -> io::Result<Option<Remote>> {
        let dir = format!("/proc/{pid}");
        let opened = || -> io::Result<Option<Remote>> {
            // First of all: whatever is read while this lives belongs to one program.
            let file = File::open(format!("{dir}/mem"))?;
            // A kernel thread has no executable.
            let Executable { path, image } = executable(pid)?;
            let start = Stat::parse(&fs::read_to_string(format!("{dir}/stat"))?).map(|stat| stat.start);
            let Some((begin, start)) = Begin::of(pid)?.zip(start) else {
                return Ok(None);
            };
            let entry = begin.entry;
            let raw = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
            let memory = RemoteMemory { pid: Pid::from_raw(raw), file, iovecs: Vec::new() };
            if memory.check(entry).is_err() {
                return Ok(None);
            }
            let (id, threads) = (TargetId { pid, start }, ProcThreads::new(pid));
            let footprint = ProcFootprint::new(pid, begin.page);
            Ok(Some(Remote { id, path, entry, begin, memory, image, threads, footprint }))
        };
        match opened() {
            Err(error) if is_gone(&error) => Ok(None),
            other => other,
        }
    }

    /// Base name of its executable.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Keeps no more of its path than its name.
    pub fn keep_name(&mut self) {
        self.path = self.name().to_owned();
    }

    /// For the engine.
    pub fn process(&mut self) -> Process<'_> {
        Process {
            memory: &mut self.memory,
            image: &mut self.image,
            threads: &mut self.threads,
            footprint: &mut self.footprint,
        }
    }

    /// Whether it still is the process and the program that was opened. Also asks for the file and how it began: a
    /// child that was looked at before it began its own program, perhaps of the same file, shares its parent's
    /// memory, which lives on.
    pub fn is_same(&mut self) -> bool {
        self.memory.check(self.entry).is_ok()
            && self.runs_its_file().unwrap_or(false)
            && Begin::of(self.id.pid).is_ok_and(|begin| begin == Some(self.begin))
    }

    fn runs_its_file(&self) -> io::Result<bool> {
        let held = self.image.0.metadata()?;
        let runs = fs::metadata(format!("/proc/{}/exe", self.id.pid))?;
        Ok((held.dev(), held.ino()) == (runs.dev(), runs.ino()))
    }

    /// A path to the executable file that is held open, whatever has happened to its name.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.image.0.as_raw_fd()))
    }
}

/// The executable file of a process. It stays the one that runs, whatever becomes of its name.
pub struct Executable {
    /// Its path, as far as it has one here.
    pub path: String,
    image: ImageFile,
}

impl Executable {
    /// For the engine.
    pub fn image(&mut self) -> &mut dyn Image {
        &mut self.image
    }
}

/// The executable of a process, without its memory.
///
/// # Errors
/// What the kernel said; [`is_gone`] tells ended processes and kernel threads, which have none.
pub fn executable(pid: u32) -> io::Result<Executable> {
    let exe = format!("/proc/{pid}/exe");
    let path = fs::read_link(&exe)?.to_string_lossy().into_owned();
    // A replaced file is still the program that the rules name (fs/d_path.c, `d_path`).
    let path = path.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(path);
    Ok(Executable { path, image: ImageFile(File::open(exe)?) })
}

/// Why there is no program to look at under this number, as the rest of a sentence that begins with the process.
#[must_use]
pub fn absence(pid: u32) -> &'static str {
    let Some(stat) = stat(pid) else { return "does not exist" };
    if matches!(stat.state, 'Z' | 'X') {
        return "has ended, and its parent has not yet asked how (a zombie)";
    }
    let mut ident = [0u8; 5];
    let read = executable(pid).map(|mut exe| exe.image().read_at(0, &mut ident));
    match read {
        Err(error) if is_gone(&error) => "is a kernel thread",
        Ok(Ok(())) if ident == *b"\x7fELF\x01" => "is a 32-bit program: only 64-bit programs are read",
        _ => "ended while it was looked at",
    }
}

/// The process that has a thread of this number: itself for its first.
#[must_use]
pub fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// What the kernel says of a process in one line: `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `Z` is a zombie.
    pub state: char,
    /// How many it has.
    pub threads: u32,
    /// Clock ticks after boot.
    pub start: u64,
}

/// What the kernel says of this process; `None` when there is none.
#[must_use]
pub fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Stat {
    /// Fields 3, 20 and 22; the second one, the name, may hold anything but ends at the last `)`.
    fn parse(line: &str) -> Option<Stat> {
        let (_, rest) = line.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        Some(Stat { state, threads, start: fields.nth(1)?.parse().ok()? })
    }
}

/// A process and the program it runs, without opening either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The process.
    pub id: TargetId,
    /// Device and inode of its executable; zeroes where that may not be asked.
    file: (u64, u64),
}

/// Who has this number now; `None` when nobody has.
#[must_use]
pub fn identify(pid: u32) -> Option<Identity> {
    let start = stat(pid)?.start;
    let exe = fs::metadata(format!("/proc/{pid}/exe"));
    let file = exe.map(|meta| (meta.dev(), meta.ino())).unwrap_or_default();
    Some(Identity { id: TargetId { pid, start }, file })
}

/// Whether an error says that the process is no longer there, or never had what was asked for.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// How a program began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    /// Its first instruction.
    entry: Addr,
    /// Where its random bytes lie: somewhere else on the stack of each program that is begun.
    random: u64,
    /// Bytes of a page.
    page: u64,
}

impl Begin {
    /// `None` for a program of 32 bits, and for what has no program.
    fn of(pid: u32) -> io::Result<Option<Begin>> {
        Ok(Begin::parse(&fs::read(format!("/proc/{pid}/auxv"))?))
    }

    fn parse(auxv: &[u8]) -> Option<Begin> {
        let value = |wanted: u64| {
            auxv.chunks_exact(16).find_map(|pair| {
                let (key, value) = pair.split_at(8);
                let value = value.try_into().ok().map(u64::from_ne_bytes);
                (u64::from_ne_bytes(key.try_into().ok()?) == wanted).then_some(value)?
            })
        };
        Some(Begin { entry: Addr(value(AT_ENTRY)?), random: value(AT_RANDOM)?, page: value(AT_PAGESZ)? })
    }
}

impl RemoteMemory {
    /// What was read belongs to this process, unless it has ended or changed its program meanwhile. An open
    /// `/proc/PID/mem` stays with the memory that it was opened on and reads as empty once no thread uses that
    /// any more (fs/proc/base.c, `mem_rw`): neither an `exec`, even of the same file, nor another process with
    /// the same number is mistaken for it. `at` had better be an address that was just read: any other costs
    /// the process a page fault.
    fn check(&self, at: Addr) -> Result<(), Error> {
        match self.file.read_at(&mut [0], at.0) {
            Ok(0) => Err(Error::Gone),
            // An unmapped address is an error, but one of a living process.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn read_all(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let mut rest = out;
        for part in runs.chunks(IOV_MAX) {
            let len = part.iter().map(|run| run.len).sum();
            let (now, later) = rest.split_at_mut_checked(len).ok_or(Error::Unreadable { at: 0 })?;
            self.read_some(part, now)?;
            rest = later;
        }
        Ok(())
    }

    fn read_some(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let mut expected = 0;
        self.iovecs.clear();
        for run in runs {
            let base = usize::try_from(run.at.0).map_err(|_| Error::Unreadable { at: run.at.0 })?;
            self.iovecs.push(RemoteIoVec { base, len: run.len });
            expected += run.len;
        }
        let result = process_vm_readv(self.pid, &mut [IoSliceMut::new(out)], &self.iovecs);
        if self.iovecs.capacity() > IOVECS_KEPT {
            self.iovecs = Vec::new(); // a census needs many, and is rare
        }
        match result {
            Ok(read) if read == expected => Ok(()),
            Ok(read) => Err(Error::Unreadable { at: first_unread(runs, read) }),
            Err(Errno::ESRCH) => Err(Error::Gone),
            Err(Errno::EPERM) => Err(Error::Unsupported(
                "no permission to read its memory: run as root or with CAP_SYS_PTRACE",
            )),
            Err(_) => Err(Error::Unreadable { at: first_unread(runs, 0) }),
        }
    }
}

/// Address of the first run that `read` bytes did not reach the end of.
fn first_unread(runs: &[Run], mut read: usize) -> u64 {
    for run in runs {
        match read.checked_sub(run.len) {
            Some(rest) => read = rest,
            None => return run.at.0,
        }
    }
    0
}

impl Memory for RemoteMemory {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let read = self.read_all(runs, out);
        match runs.first() {
            Some(run) => self.check(run.at).and(read),
            None => read,
        }
    }
}

impl Image for ImageFile {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.read_exact_at(out, offset).map_err(|_| Error::Unreadable { at: offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_process_is_described_whatever_it_calls_itself() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a b", "x) S 9 9", ""] {
            let stat = Stat::parse(&format!("12 ({name}) {rest}"));
            assert_eq!(stat, Some(Stat { state: 'S', threads: 17, start: 4711 }), "{name}");
        }
        for odd in ["12 (sh", "12 (sh) S", "12 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 x 18 4711"] {
            assert_eq!(Stat::parse(odd), None);
        }
    }

    #[test]
    fn each_begin_of_the_same_program_is_another() {
        let auxv = |random: u64| {
            [AT_PAGESZ, 4096, AT_ENTRY, 0x40_1000, AT_RANDOM, random, 0, 0].map(u64::to_ne_bytes).concat()
        };
        let begin = Begin::parse(&auxv(0x7ffd_0000_0009));
        assert_eq!(begin, Some(Begin { entry: Addr(0x40_1000), random: 0x7ffd_0000_0009, page: 4096 }));
        assert_ne!(begin, Begin::parse(&auxv(0x7ffe_0000_0009)));
        assert_eq!(Begin::parse(&auxv(1)[..32]), None);
        assert_eq!(Begin::parse(&[]), None);
    }

    #[test]
    fn a_process_reads_itself() {
        let mut me = Remote::open(std::process::id()).unwrap().unwrap();
        let secret = 0x5eed_1234_5678_9abc_u64.to_ne_bytes();
        let mut out = [0; 8];
        me.memory.read(Addr(secret.as_ptr() as u64), &mut out).unwrap();
        assert_eq!(out, secret);
        assert!(matches!(me.memory.read(Addr(8), &mut out), Err(Error::Unreadable { at: 8 })));
    }

    #[test]
    fn a_process_that_has_ended_is_gone() {
        let pipe = std::process::Stdio::piped;
        let mut child = std::process::Command::new("/bin/cat").stdin(pipe()).stdout(pipe()).spawn().unwrap();
        // Only what has answered runs its own program, and no longer that which started it.
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let mut remote = Remote::open(child.id()).unwrap().unwrap();
        assert!(remote.is_same());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!remote.is_same());
        assert_eq!(remote.memory.read(remote.entry, &mut [0; 8]), Err(Error::Gone));
        assert!(Remote::open(child.id()).unwrap().is_none());
    }
}
