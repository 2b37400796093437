//! The threads of a process, as `/proc` tells of them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;

use glg_engine::locks::scan::{CFunction, Threads, Tid, Waiter};
use glg_engine::locks::standing::Standing;
use glg_engine::memory::{Addr, Error, Memory};
use glg_engine::runtime::Runtime;
use glg_proto::wire::head;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::native::{Beneath, End, Frame, Native, Start};
use crate::run_clock::{self, RunClocks};

/// Longest line of `syscall`: a number and eight words.
const SYSCALL_LINE: usize = 256;

/// Lists without a number that has to be asked for by another name: one may have a gap.
const LISTINGS: usize = 3;

/// The threads of one process.
pub struct ProcThreads {
    pid: u32,
    /// `/proc/PID/task`, once it was needed: what is opened from there is a thread of this process, and is found
    /// sooner than by its whole path.
    tasks: Option<OwnedFd>,
    /// Whether the process has the same numbers for its threads as we have.
    same_namespace: bool,
    /// Numbers in the other namespace, by ours, in order; those that are gone go with the next listing.
    inner: Vec<Tid>,
    clocks: RunClocks,
}

impl ProcThreads {
    /// The threads of process `pid`.
    #[must_use]
    pub fn new(pid: u32) -> ProcThreads {
        let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/pid")).ok();
        let theirs = namespace(&pid.to_string());
        let same_namespace = theirs.is_none() || theirs == namespace("self");
        ProcThreads { pid, tasks: None, same_namespace, inner: Vec::new(), clocks: RunClocks::default() }
    }

    /// The number that the process itself has for one of its threads.
    fn inner(&self, outer: u32) -> Option<u32> {
        if self.same_namespace {
            return Some(outer);
        }
        if let Some(known) = self.inner.iter().find(|tid| tid.outer == outer) {
            return Some(known.inner);
        }
        let status = fs::read_to_string(format!("/proc/{}/task/{outer}/status", self.pid)).ok()?;
        // From our namespace inwards.
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_ascii_whitespace().next_back()?.parse().ok()
    }

    fn open(&mut self, tid: Tid, file: &str) -> Result<File, Error> {
        let (pid, outer) = (self.pid, tid.outer);
        let tasks = match &mut self.tasks {
            Some(tasks) => tasks,
            none => {
                let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let opened = open(format!("/proc/{pid}/task").as_str(), directory, Mode::empty());
                none.insert(opened.map_err(refused)?)
            }
        };
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match openat(&*tasks, format!("{outer}/{file}").as_str(), flags, Mode::empty()) {
            Ok(opened) => Ok(opened.into()),
            // The thread is there and the file is not: this kernel has none.
            Err(Errno::ENOENT) if fs::metadata(format!("/proc/{pid}/task/{outer}")).is_ok() => {
                Err(Error::Unsupported(
                    "kernel that does not tell where threads stand (/proc/PID/task/TID/syscall)",
                ))
            }
            Err(errno) => Err(refused(errno)),
        }
    }
}

/// The C in which a thread waits.
#[derive(Default)]
pub(crate) struct CStack {
    /// The innermost function first; empty when it cannot be read.
    pub(crate) frames: Vec<Frame>,
    /// Why functions further out are missing, if they are.
    pub(crate) missing: Option<&'static str>,
}

/// The C in which a thread waits.
pub(crate) fn c_stack(
    native: &mut Native,
    memory: &mut dyn Memory,
    runtime: &Runtime,
    waiter: &Waiter,
) -> CStack {
    let is_go = |pc: Addr| runtime.is_go_code(pc);
    let below = waiter.goroutine.filter(|_| waiter.g0_sp.is_some());
    let g_sp = below.map(|goroutine| goroutine.sched_sp);
    let beneath = Beneath { is_go: &is_go, g0_sp: below.and(waiter.g0_sp), g_sp };
    let mut frames = Vec::new();
    // What waits can be told without the stack in which it does.
    let missing = match native.stack(memory, Start::from(&waiter.call), &beneath, &mut frames) {
        Ok(End::Go { .. } | End::Beginning) => None,
        Ok(End::Cut) => Some("there are too many"),
        Ok(End::Lost(why)) => Some(why),
        Err(_) => Some("the stack could not be read"),
    };
    CStack { frames, missing }
}

/// The function that asked for the lock which the C library waits for; empty when that cannot be told.
pub(crate) fn asking(frames: &[Frame]) -> CFunction {
    let frame = frames.iter().find(|frame| !is_library(frame)).or(frames.last());
    frame.map(name).unwrap_or_default()
}

/// A function in the few letters of an alert.
fn name(frame: &Frame) -> CFunction {
    match &frame.name {
        Some(name) => head(name),
        None => head(&format!("{}+{:#x}", frame.module, frame.offset)),
    }
}

/// Whether a function belongs to the C library's own locks. With musl it stands in the program itself.
fn is_library(frame: &Frame) -> bool {
    let library = ["libc.", "libc-", "libpthread", "ld-musl"];
    let inner = [
        "pthread_",
        "__pthread",
        "___pthread",
        "__lll",
        "__futex",
        "__timedwait",
        "__wait",
        "__syscall",
        "sccp",
    ];
    let named = |name: &str| inner.iter().any(|prefix| name.starts_with(prefix));
    library.iter().any(|prefix| frame.module.starts_with(prefix)) || frame.name.as_deref().is_some_and(named)
}

/// What it means that the kernel refuses to tell.
fn refused(error: impl TryInto<Errno>) -> Error {
    match error.try_into() {
        Ok(Errno::EPERM | Errno::EACCES) => {
            Error::Unsupported("no permission to see its threads: run as root or with CAP_SYS_PTRACE")
        }
        _ => Error::Gone,
    }
}

/// Reads what there is of a short file, as text. The kernel hands over such a file whole; a line that has ended is not
/// asked for again.
fn short(mut file: File, buffer: &mut [u8]) -> Result<&str, Error> {
    let mut used = 0;
    while let Some(rest) = buffer.get_mut(used..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(refused)? {
            0 => break,
            read => used += read,
        }
        if buffer.get(..used).is_some_and(|text| text.ends_with(b"\n")) {
            break;
        }
    }
    let text = buffer.get(..used).unwrap_or_default();
    core::str::from_utf8(text).map_err(|_| Error::Malformed { what: "file of a thread", at: 0 })
}

impl Threads for ProcThreads {
    fn list(&mut self, max: usize, out: &mut Vec<Tid>) -> Result<bool, Error> {
        out.clear();
        let entries = fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(refused)?;
        let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut more = false;
        for outer in tids {
            if out.len() >= max {
                more = true;
                break;
            }
            if let Some(inner) = self.inner(outer) {
                out.push(Tid { inner, outer });
            }
        }
        if !self.same_namespace {
            self.inner.clone_from(out);
        }
        Ok(more)
    }

    fn lives(&mut self, inner: u32) -> Result<bool, Error> {
        if self.same_namespace {
            return Ok(fs::metadata(format!("/proc/{}/task/{inner}", self.pid)).is_ok());
        }
        let mut listed = Vec::new();
        for _ in 0..LISTINGS {
            self.list(usize::MAX, &mut listed)?;
            if listed.iter().any(|tid| tid.inner == inner) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn standing(&mut self, tid: Tid) -> Result<Standing, Error> {
        let mut line = [0; SYSCALL_LINE];
        Standing::parse(short(self.open(tid, "syscall")?, &mut line)?)
    }

    fn switches(&mut self, tid: Tid) -> Result<u64, Error> {
        let mut line = [0; SYSCALL_LINE];
        let line = short(self.open(tid, "schedstat")?, &mut line)?;
        // Time on the processor, time on a run queue, times switched in (Documentation/scheduler/sched-stats.rst).
        let switches = line.split_ascii_whitespace().nth(2).and_then(|word| word.parse().ok());
        switches.ok_or(Error::Malformed { what: "schedstat of a thread", at: u64::from(tid.outer) })
    }

    fn blocked_ms(&mut self, tid: Tid) -> Option<u64> {
        let switches = self.switches(tid).ok()?;
        let processor = run_clock::processor(self.open(tid, "stat").ok()?)?;
        let ran = run_clock::ran_us(self.open(tid, "sched").ok()?)?;
        let now = self.clocks.now_us(processor)?;
        // One that has run meanwhile may have done so elsewhere.
        let same = self.switches(tid).ok()? == switches;
        same.then(|| now.saturating_sub(ran) / 1000)
    }

    fn asked_by(&mut self, memory: &mut dyn Memory, runtime: &Runtime, waiter: &Waiter) -> CFunction {
        // Made anew each time: it is rarely asked, and what it remembers is not small.
        let mut native = Native::new(self.pid, runtime.layout.arch);
        asking(&c_stack(&mut native, memory, runtime, waiter).frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_blocked_thread_is_seen_in_its_futex() {
        let lock = Mutex::new(());
        let held = lock.lock().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(lock.lock()));
            let mut threads = ProcThreads::new(std::process::id());
            let arch = match cfg!(target_arch = "aarch64") {
                true => glg_engine::layout::Arch::Arm64,
                false => glg_engine::layout::Arch::Amd64,
            };
            let word = Addr(std::ptr::from_ref(&lock) as u64);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            loop {
                assert!(std::time::Instant::now() < deadline, "it never waited");
                let mut list = Vec::new();
                assert!(!threads.list(1000, &mut list).unwrap());
                let waits = |tid: &&Tid| match threads.standing(**tid) {
                    Ok(Standing::Call(call)) => call.futex(arch).is_some_and(|wait| wait.word == word),
                    _ => false,
                };
                if let Some(tid) = list.to_vec().iter().find(waits) {
                    let first = threads.switches(*tid).unwrap();
                    assert_eq!(threads.switches(*tid).unwrap(), first);
                    let begun = threads.blocked_ms(*tid).unwrap();
                    while threads.blocked_ms(*tid).unwrap() < begun + 50 {
                        assert!(std::time::Instant::now() < deadline, "it did not grow old");
                    }
                    break;
                }
            }
            drop(held);
        });
    }

    #[test]
    fn who_is_not_there_is_gone() {
        let nobody = Tid { inner: 1 << 30, outer: 1 << 30 };
        assert_eq!(ProcThreads::new(std::process::id()).standing(nobody), Err(Error::Gone));
        assert_eq!(ProcThreads::new(1 << 30).list(10, &mut Vec::new()), Err(Error::Gone));
    }
}
